"""Rewards: how good an attempt was, in one or several dimensions."""

from __future__ import annotations

import functools
import inspect
import json
import logging
import math
import numbers
import warnings
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, TypeVar, cast

from agentlightning.emitter.annotation import emit_annotation
from agentlightning.errors import InvalidResult
from agentlightning.semconv import (
    AGL_ANNOTATION,
    LightningSpanAttributes,
    RewardAttributes,
    RewardPydanticModel,
)
from agentlightning.types import SpanCoreFields, SpanLike
from agentlightning.types.attributes import extract_rewards_from_attributes, flatten_attributes

logger = logging.getLogger(__name__)

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])
SpanT = TypeVar("SpanT", bound=SpanLike)

PRIMARY = "primary"
"""The name of the only dimension of a reward that is one number."""


def emit_reward(
    reward: float | Mapping[str, Any],
    *,
    primary_key: str | None = None,
    attributes: dict[str, Any] | None = None,
    propagate: bool = True,
) -> SpanCoreFields:
    """Emit a reward.

    Args:
        reward: A number, or numbers by dimension.
        primary_key: The dimension that training uses; required with several dimensions given by name.
        attributes: More attributes, such as links and tags; nested values get dotted keys.
        propagate: Record it in the active trace, if there is one; otherwise it is only returned.

    Returns:
        The span's fields.

    Raises:
        InvalidResult: A value is not a finite number, or `primary_key` is missing (a TypeError and a ValueError).
    """
    dimensions = reward_dimensions(reward, primary_key)
    prefix = LightningSpanAttributes.REWARD.value
    encoded = [
        {RewardAttributes.REWARD_NAME.value: name, RewardAttributes.REWARD_VALUE.value: value}
        for name, value in dimensions.items()
    ]
    return emit_annotation({**flatten_attributes({prefix: encoded}), **(attributes or {})}, propagate)


def reward_dimensions(reward: Any, primary_key: str | None = None) -> dict[str, float]:
    """Return a reward as floats by dimension, the primary one first.

    Raises:
        InvalidResult: A value is not a finite number, or `primary_key` is not one of the dimensions.
    """
    if not isinstance(reward, Mapping):
        return {PRIMARY: to_reward(reward)}
    by_name = cast("Mapping[str, Any]", reward)
    if primary_key is None or primary_key not in by_name:
        raise InvalidResult(
            f"a reward with the dimensions {list(by_name)} needs one of them as primary_key, not {primary_key!r}"
        )
    for name in by_name:
        if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # user input
            raise InvalidResult(f"the dimensions of a reward have texts as names, not {name!r:.100}")
    names = [primary_key, *(name for name in by_name if name != primary_key)]
    return {name: to_reward(by_name[name]) for name in names}


def to_reward(value: Any) -> float:
    """Return a number of any kind, numpy and torch scalars included, as a reward.

    Raises:
        InvalidResult: It is not a number, or it is NaN or infinite.
    """
    if getattr(value, "shape", None) == () and callable(getattr(value, "item", None)):
        value = value.item()
    if not isinstance(value, (numbers.Real, Decimal)):
        raise InvalidResult(f"a reward is a number, not a {type(value).__name__}: {value!r:.100}")
    try:
        number = float(value)
    except OverflowError:  # an integer beyond all floats
        number = math.inf
    if not math.isfinite(number):
        raise InvalidResult(
            f"a reward of {number} would spoil every average: return a finite number, "
            "or None for no reward, or raise to fail the attempt"
        )
    return number


def get_rewards_from_span(span: SpanLike) -> list[RewardPydanticModel]:
    """Return the dimensions of the span's reward, the primary one first; `[]` if it has none or a malformed one."""
    return extract_rewards_from_attributes(span.attributes or {})


def get_reward_value(span: SpanLike) -> float | None:
    """Return the span's primary reward; None if it has none.

    The encodings of traces written by AgentOps and by early versions are read as well.
    """
    rewards = get_rewards_from_span(span)
    if rewards:
        return rewards[0].value
    attributes = span.attributes or {}
    for key in ("agentops.task.output", "agentops.entity.output"):
        value = _agentops_reward(attributes.get(key))
        if value is not None:
            return value
    return _readable(attributes.get("reward")) if span.name == AGL_ANNOTATION else None


def _agentops_reward(output: Any) -> float | None:
    """Read `{"type": "reward", "value": …}`, as AgentOps keeps the result of a function."""
    if isinstance(output, str):
        try:
            output = json.loads(output)
        except (ValueError, RecursionError):  # any text may stand here; it is just no reward
            return None
    if not isinstance(output, dict):
        return None
    fields = cast("dict[str, Any]", output)
    return _readable(fields.get("value")) if fields.get("type") == "reward" else None


def _readable(value: Any) -> float | None:
    """Return what a trace holds as a reward; None, and a log line, for what `emit_reward` would refuse."""
    if value is None:
        return None
    try:
        return to_reward(value)
    except InvalidResult as error:
        logger.warning("Ignored a malformed reward: %s", error)
        return None


def is_reward_span(span: SpanLike) -> bool:
    """Whether the span carries a reward."""
    return get_reward_value(span) is not None


def find_reward_spans(spans: Sequence[SpanT]) -> list[SpanT]:
    """Return the spans that carry a reward, in their order."""
    return [span for span in spans if is_reward_span(span)]


def find_final_reward(spans: Sequence[SpanLike]) -> float | None:
    """Return the primary reward of the last span that carries one."""
    return next((value for span in reversed(spans) if (value := get_reward_value(span)) is not None), None)


def reward(fn: FunctionT) -> FunctionT:
    """Decorate a function so that the number it returns, directly or by `await`, is also emitted as a reward.

    Deprecated: call `emit_reward`.
    """
    warnings.warn("@reward is deprecated: call emit_reward(...) with the value", DeprecationWarning, stacklevel=2)
    if inspect.iscoroutinefunction(fn):

        @functools.wraps(fn)
        async def emit_awaited(*args: Any, **kwargs: Any) -> Any:
            result = await fn(*args, **kwargs)
            emit_reward(result)
            return result

        return cast("FunctionT", emit_awaited)

    @functools.wraps(fn)
    def emit_returned(*args: Any, **kwargs: Any) -> Any:
        result = fn(*args, **kwargs)
        emit_reward(result)
        return result

    return cast("FunctionT", emit_returned)
