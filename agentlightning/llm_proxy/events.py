"""Events that an attempt reports over HTTP, such as its reward: the way of agents that have no tracer."""

from __future__ import annotations

import json
from typing import Any, Final, NoReturn, cast

from agentlightning.emitter import emit_reward
from agentlightning.errors import InvalidValue
from agentlightning.semconv import AGL_ANNOTATION, AGL_MESSAGE, LightningSpanAttributes
from agentlightning.types import SpanCoreFields, TraceStatus
from agentlightning.types.attributes import flatten_attributes, sanitize_attributes

EVENTS_PATH: Final = "/events"
"""What stands in an exchange that is an event."""

_TYPE: Final = "agentlightning.event.type"
_DATA: Final = "agentlightning.event.data"

Json = dict[str, Any]


def read_event(body: bytes) -> tuple[str, Json]:
    """Return an event's type and data.

    Raises:
        InvalidValue: The body has not the form `{"event_type": "…", "data": {…}}`.
    """
    try:
        event = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidValue(f"an event is a JSON object: {error}") from error
    fields = cast("Json", event) if isinstance(event, dict) else {}
    event_type, data = fields.get("event_type"), fields.get("data", {})
    if not isinstance(event_type, str) or not event_type or not isinstance(data, dict):
        raise InvalidValue('an event has the form {"event_type": "reward", "data": {"value": 1.0}}')
    return event_type, cast("Json", data)


def event_fields(event_type: str, data: Json) -> SpanCoreFields:
    """Return an event as a span: a reward, a message (`{"message": "…"}`), or an annotation with all its data.

    Raises:
        InvalidValue: A reward whose `value` is no finite number.
    """
    if event_type == "reward":
        return _reward(data)
    message = data.get("message")
    if event_type == "message" and isinstance(message, str):
        body = {LightningSpanAttributes.MESSAGE_BODY.value: message}
        return _fields(AGL_MESSAGE, body | _described(event_type, data, "message"))
    return _fields(AGL_ANNOTATION, _described(event_type, data))


def _reward(data: Json) -> SpanCoreFields:
    if "value" not in data:
        raise InvalidValue('a reward event needs its number: {"event_type": "reward", "data": {"value": 1.0}}')
    try:
        reward = emit_reward(data["value"], primary_key=data.get("primary_key"), propagate=False)
    except (TypeError, ValueError) as error:
        raise InvalidValue(f"data.value: {error}") from error
    return _fields(reward.name, {**reward.attributes, **_described("reward", data, "value", "primary_key")})


def _described(event_type: str, data: Json, *used: str) -> Json:
    """Return an event's type and its data as attributes, but for what has attributes of its own."""
    rest = {key: value for key, value in data.items() if key not in used}
    flat = flatten_attributes({_TYPE: event_type, _DATA: rest})
    return {key: value for key, value in flat.items() if value is not None}


def _fields(name: str, attributes: Json) -> SpanCoreFields:
    return SpanCoreFields(
        name=name,
        status=TraceStatus(status_code="OK"),
        attributes=sanitize_attributes(attributes),
        start_time=None,
        end_time=None,
    )


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
