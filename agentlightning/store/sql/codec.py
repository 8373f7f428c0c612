"""JSON in columns, and models out of rows.

Rows come from the store itself, so models are constructed without validating them again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from pydantic_core import from_json, to_json

from agentlightning.errors import InvalidValue
from agentlightning.store.construct import construct
from agentlightning.store.sql.transaction import Row
from agentlightning.types import Attempt, AttemptedRollout, Rollout, RolloutConfig, Worker, normalize_task_input

_DEEPEST: Final = 200
"""Levels of nesting that JSON's reader follows."""
_LONGEST_NUMBER: Final = 4000
"""Digits of a number that JSON's reader surely takes."""


def encode(value: Any, path: str) -> bytes:
    """Return a value as JSON; `path` names it in the error.

    Raises:
        InvalidValue: The value has no JSON form, or one that could not be read back.
    """
    try:
        body = to_json(value)
        if len(body) > _LONGEST_NUMBER or body.count(b"[") + body.count(b"{") > _DEEPEST:
            from_json(body)
    except ValueError as error:  # pydantic's own errors are some
        raise InvalidValue(f"{path} has no JSON form: {error}") from error
    return body


def encode_input(value: Any, path: str) -> bytes:
    """Return what `normalize_task_input` makes of a value as JSON.

    Raises:
        InvalidValue: The value has no JSON form.
    """
    try:
        return encode(normalize_task_input(value, path), path)
    except RecursionError as error:
        raise InvalidValue(f"{path} holds itself or is nested too deeply: flatten it") from error
    except InvalidValue:
        raise
    except ValueError as error:  # a pydantic model in it without a JSON form says so in its own words
        raise InvalidValue(f"{path} has no JSON form: {error}") from error


def encode_mapping(value: dict[str, Any] | None, path: str) -> bytes | None:
    """Return free-form metadata as JSON, None as None.

    Raises:
        InvalidValue: It is no mapping, or holds what JSON cannot.
    """
    if value is None:
        return None
    if not isinstance(value, dict):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
        raise InvalidValue(f"{path} is a {type(value).__name__}: make it a dict")
    return encode_input(value, path)


def decode(body: bytes | None) -> Any:
    """Return the value of a JSON column, None for NULL."""
    return None if body is None else from_json(body)


ROLLOUT_FIELDS: Final = tuple(Rollout.model_fields)
ATTEMPT_FIELDS: Final = tuple(Attempt.model_fields)
WORKER_FIELDS: Final = tuple(Worker.model_fields)


def columns(fields: Sequence[str], table: str) -> str:
    """Return the columns of a model, for a SELECT."""
    return ", ".join(f"{table}.{name}" for name in fields)


def rollout_of(row: Row) -> Rollout:
    """Build a rollout from the columns of `ROLLOUT_FIELDS`."""
    return construct(Rollout, _built(_rollout_values(row)))


def rollout_with_attempt_of(row: Row) -> Rollout | AttemptedRollout:
    """Build a rollout from the columns of `ROLLOUT_FIELDS` and `ATTEMPT_FIELDS`, the latter NULL without an attempt."""
    attempt_row = row[len(ROLLOUT_FIELDS) :]
    if attempt_row[0] is None:
        return rollout_of(row)
    return construct(AttemptedRollout, _built(_rollout_values(row)) | {"attempt": attempt_of(attempt_row)})


def rollout_values_of(row: Row) -> dict[str, Any]:
    """Return what JSON makes of the rollout that `rollout_with_attempt_of` builds."""
    values = _rollout_values(row)
    attempt_row = row[len(ROLLOUT_FIELDS) :]
    if attempt_row[0] is not None:
        values["attempt"] = _attempt_values(attempt_row)
    return values


def attempt_of(row: Row) -> Attempt:
    """Build an attempt from the columns of `ATTEMPT_FIELDS`."""
    return construct(Attempt, _attempt_values(row))


def worker_of(row: Row) -> Worker:
    """Build a worker from the columns of `WORKER_FIELDS`."""
    values = dict(zip(WORKER_FIELDS, row, strict=True))
    values["heartbeat_stats"] = decode(values["heartbeat_stats"])
    return construct(Worker, values)


def config_of(body: bytes) -> RolloutConfig:
    """Build a rollout's configuration from its column."""
    return construct(RolloutConfig, from_json(body))


def _built(values: dict[str, Any]) -> dict[str, Any]:
    values["config"] = construct(RolloutConfig, values["config"])
    return values


def _rollout_values(row: Row) -> dict[str, Any]:
    values = dict(zip(ROLLOUT_FIELDS, row, strict=False))
    values["input"] = from_json(values["input"])
    values["config"] = from_json(values["config"])
    values["metadata"] = decode(values["metadata"])
    return values


def _attempt_values(row: Row) -> dict[str, Any]:
    values = dict(zip(ATTEMPT_FIELDS, row, strict=True))
    values["metadata"] = decode(values["metadata"])
    return values
