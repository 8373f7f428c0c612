"""Secrets in resources: what is shown in their place, and the refusal of what was shown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final, cast

from agentlightning.errors import InvalidValue
from agentlightning.types import LLM, NamedResources

REDACTED: Final = "<redacted>"
"""Stands where a secret was."""

_SECRETS: Final = re.compile(r"token|.*(apikey|authorization|secret|password)")
"""Names of secrets, in small letters without `-` and `_`."""
_USERINFO: Final = re.compile(r"(?<=://)[^/?#]*(?=@)")


def redacted(resources: NamedResources) -> NamedResources:
    """Return resources with `REDACTED` for their secrets.

    These are API keys, what has the name of a secret among sampling parameters, such as a header, and who is named in
    the URL of an endpoint.
    """
    return {
        name: resource.model_copy(
            update={
                "endpoint": _USERINFO.sub(REDACTED, resource.endpoint),
                "api_key": None if resource.api_key is None else REDACTED,
                "sampling_parameters": _redacted(resource.sampling_parameters),
            }
        )
        if isinstance(resource, LLM)
        else resource
        for name, resource in resources.items()
    }


def check_not_redacted(resources: NamedResources) -> None:
    """Refuse resources that were read redacted: writing them would lose the secrets.

    Raises:
        InvalidValue: With the name of the resource.
    """
    for name, resource in resources.items():
        if isinstance(resource, LLM):
            secrets = (*_USERINFO.findall(resource.endpoint), resource.api_key, *_secrets(resource.sampling_parameters))
            if REDACTED in secrets:
                raise InvalidValue(f"resources.{name}: a secret in it was redacted when it was read; put it in again")


def _is_secret(name: str) -> bool:
    return _SECRETS.fullmatch(re.sub("[-_]", "", name).lower()) is not None


def _redacted(value: Any) -> Any:
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return {key: REDACTED if item is not None and _is_secret(key) else _redacted(item) for key, item in items}
    return [_redacted(item) for item in cast("list[Any]", value)] if isinstance(value, list) else value


def _secrets(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, item in cast("dict[str, Any]", value).items():
            if _is_secret(key):
                yield item
            else:
                yield from _secrets(item)
    elif isinstance(value, list):
        for item in cast("list[Any]", value):
            yield from _secrets(item)
