"""Span names, attribute keys and the small models behind them.

These strings are the wire format between agents, tracers, stores and adapters; programs written for
agent-lightning v0.3 rely on them, so they never change.
"""

from __future__ import annotations

from enum import Enum

from pydantic import BaseModel

AGL_ANNOTATION = "agentlightning.annotation"
AGL_MESSAGE = "agentlightning.message"
AGL_OBJECT = "agentlightning.object"
AGL_EXCEPTION = "agentlightning.exception"
AGL_OPERATION = "agentlightning.operation"
AGL_REWARD = "agentlightning.reward"
AGL_VIRTUAL = "agentlightning.virtual"
AGL_LLM_CALL = "agentlightning.llm_call"
"""One model call as the gateway saw it; not part of v0.3."""


class LightningResourceAttributes(Enum):
    """Keys that say which attempt a span belongs to; on the OTel resource or on the span itself."""

    ROLLOUT_ID = "agentlightning.rollout_id"
    ATTEMPT_ID = "agentlightning.attempt_id"
    SPAN_SEQUENCE_ID = "agentlightning.span_sequence_id"
    TRACER_NAME = "agentlightning.tracer.name"


class LightningSpanAttributes(Enum):
    """Keys on spans; `REWARD`, `LINK`, `TAG`, `OPERATION_INPUT` and `OPERATION_OUTPUT` are prefixes of keys."""

    REWARD = "agentlightning.reward"
    LINK = "agentlightning.link"
    TAG = "agentlightning.tag"
    MESSAGE_BODY = "agentlightning.message.body"
    OBJECT_TYPE = "agentlightning.object.type"
    OBJECT_LITERAL = "agentlightning.object.literal"
    OBJECT_JSON = "agentlightning.object.json"
    OPERATION_NAME = "agentlightning.operation.name"
    OPERATION_INPUT = "agentlightning.operation.input"
    OPERATION_OUTPUT = "agentlightning.operation.output"


class RewardAttributes(Enum):
    """Keys of one reward dimension below `agentlightning.reward.<i>`; dimension 0 is the primary one."""

    REWARD_NAME = "name"
    REWARD_VALUE = "value"


class RewardPydanticModel(BaseModel):
    """One dimension of a reward."""

    name: str
    value: float


class LinkAttributes(Enum):
    """Keys of one link below `agentlightning.link.<i>`."""

    KEY_MATCH = "key_match"
    VALUE_MATCH = "value_match"


class LinkPydanticModel(BaseModel):
    """A link to every span whose attribute `key_match` equals `value_match` (`trace_id` and `span_id` are reserved)."""

    key_match: str
    value_match: str
