"""Secrets in resources: what is shown in their place, and the refusal of what was shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, cast

from agentlightning.errors import InvalidValue
from agentlightning.types import LLM, NamedResources

REDACTED: Final = "<redacted>"
"""Stands where a key was."""

_SECRET: Final = "api_key"


def redacted(resources: NamedResources) -> NamedResources:
    """Return resources whose API keys, also those among sampling parameters, are replaced by `REDACTED`."""
    return {
        name: resource.model_copy(
            update={
                _SECRET: None if resource.api_key is None else REDACTED,
                "sampling_parameters": _redacted(resource.sampling_parameters),
            }
        )
        if isinstance(resource, LLM)
        else resource
        for name, resource in resources.items()
    }


def check_not_redacted(resources: NamedResources) -> None:
    """Refuse resources that were read redacted: writing them would lose the keys.

    Raises:
        InvalidValue: With the name of the resource.
    """
    for name, resource in resources.items():
        if isinstance(resource, LLM) and REDACTED in (resource.api_key, *_secrets(resource.sampling_parameters)):
            raise InvalidValue(f"resources.{name}: its api_key was redacted when it was read; put the real one in")


def _redacted(value: Any) -> Any:
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return {key: REDACTED if key == _SECRET and item is not None else _redacted(item) for key, item in items}
    return [_redacted(item) for item in cast("list[Any]", value)] if isinstance(value, list) else value


def _secrets(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, item in cast("dict[str, Any]", value).items():
            if key == _SECRET:
                yield item
            else:
                yield from _secrets(item)
    elif isinstance(value, list):
        for item in cast("list[Any]", value):
            yield from _secrets(item)
