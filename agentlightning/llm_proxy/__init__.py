"""The gateway: records the model calls of unmodified programs, with their exact tokens."""

from agentlightning.llm_proxy.backends import ModelConfig
from agentlightning.llm_proxy.flush import flush_captures
from agentlightning.llm_proxy.hold import HoldStatus
from agentlightning.llm_proxy.proxy import LLMProxy
from agentlightning.llm_proxy.remote_control import GatewayControl

__all__ = ["GatewayControl", "HoldStatus", "LLMProxy", "ModelConfig", "flush_captures"]
