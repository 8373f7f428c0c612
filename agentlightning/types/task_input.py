"""Task inputs as JSON values, so that every store gives back the same thing."""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, cast

from pydantic import BaseModel

from agentlightning.errors import InvalidValue


def normalize_task_input(value: Any, path: str = "input") -> Any:
    """Turn a task into a JSON value.

    Pydantic models and dataclasses become dicts, sequences lists, numpy scalars numbers, dates ISO strings.

    Args:
        value: The task.
        path: Where the value stands, for the error message.

    Raises:
        InvalidValue: For NaN, infinities, bytes, non-string keys and objects without a JSON form.
    """
    if value is None or isinstance(value, (str, bool)):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, (int, float)):
        return _number(value, path)
    if isinstance(value, Mapping):
        mapping = cast("Mapping[Any, Any]", value)
        return {_key(key, path): normalize_task_input(item, f"{path}.{key}") for key, item in mapping.items()}
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray, memoryview)):
        sequence = cast("Sequence[Any]", value)
        return [normalize_task_input(item, f"{path}[{i}]") for i, item in enumerate(sequence)]
    return _convert_object(value, path)


def _number(value: float, path: str) -> float:
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidValue(f"{path} is {value}: JSON has no such number; leave the field out or use None")
    if isinstance(value, Enum):
        return value.value
    return value if type(value) in (int, float) else (int(value) if isinstance(value, int) else float(value))


def _key(key: Any, path: str) -> str:
    if not isinstance(key, str):
        raise InvalidValue(f"{path} has the key {key!r}: keys must be strings")
    return key


def _convert_object(value: Any, path: str) -> Any:
    if isinstance(value, BaseModel):
        return normalize_task_input(value.model_dump(mode="json"), path)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return normalize_task_input(fields, path)
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, Enum):
        return normalize_task_input(value.value, path)
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "shape", None) == ():  # a numpy (or torch) scalar
        return normalize_task_input(item(), path)
    raise InvalidValue(f"{path} is a {type(value).__name__}: make it a dict, list, string, number, boolean or None")
