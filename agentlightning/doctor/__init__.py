"""The capture doctor: runs an agent once against a scripted model and says what training would see of it."""

from agentlightning.doctor.diagnosis import diagnose
from agentlightning.doctor.report import Report
from agentlightning.doctor.script import Reply, ToolCall
from agentlightning.doctor.scripted_model import ScriptedModel
from agentlightning.doctor.text import describe

__all__ = ["Reply", "Report", "ScriptedModel", "ToolCall", "describe", "diagnose"]
