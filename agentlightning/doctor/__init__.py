"""The capture doctor: runs an agent once against a scripted model and says what training would see of it."""

from agentlightning.doctor.script import Reply, ToolCall
from agentlightning.doctor.scripted_model import ScriptedModel

__all__ = ["Reply", "ScriptedModel", "ToolCall"]
