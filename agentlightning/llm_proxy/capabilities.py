"""Which of the fields that ask for exact tokens a backend is sent: as it is configured, and as its answers teach."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any, Final

from agentlightning.errors import ConfigurationError
from agentlightning.llm_proxy.dialects.chat import wanted_fields

logger = logging.getLogger(__name__)

TOKEN_FIELDS: Final = frozenset({"return_token_ids", "logprobs"})
_REFUSALS: Final = (400, 403, 422)

Json = dict[str, Any]


class Capabilities:
    """What a backend may be asked for beyond what the agent asks for.

    Args:
        unwanted: Fields that it is never sent.
    """

    def __init__(self, unwanted: Collection[str] = ()) -> None:
        self.unwanted: Final = frozenset(unwanted)
        self._refused: dict[tuple[str, bool], frozenset[str]] = {}

    def fields(self, path: str, payload: Json) -> Json:
        """Return what is added to a request, so that its answer names its tokens."""
        added = wanted_fields(path, payload)
        left_out = self.unwanted | self._refused.get(_form(path, payload), frozenset())
        return {key: value for key, value in added.items() if key not in left_out} if left_out else added

    def learn(self, path: str, payload: Json, refused: Collection[str], backend: str) -> None:
        """Send some fields no more, for the backend took a request of this kind only without them."""
        form = _form(path, payload)
        self._refused[form] = self._refused.get(form, frozenset()).union(refused)
        logger.warning(
            "%s%s refuses %s%s",
            backend,
            path,
            sorted(refused),
            ": its calls cannot be trained on" if "return_token_ids" in refused else "",
        )


def named_in(status: int, body: bytes, fields: Collection[str]) -> frozenset[str]:
    """Return which of these fields an answer refuses; none if it is no refusal."""
    return frozenset(key for key in fields if key.encode() in body) if status in _REFUSALS else frozenset()


def read_capabilities(name: str, model_info: Mapping[str, Any], *, names_tokens: bool) -> Capabilities:
    """Return what the `model_info` of an entry of the model list says.

    Args:
        name: The model's name.
        model_info: `return_token_ids` and `logprobs` in it say whether the backend is sent these fields.
        names_tokens: Whether it is, where nothing is said.

    Raises:
        ConfigurationError: A flag is neither true nor false.
    """
    flags = {key: model_info.get(key, names_tokens) for key in sorted(TOKEN_FIELDS)}
    for key, flag in flags.items():
        if not isinstance(flag, bool):
            raise ConfigurationError(f"model {name!r}: model_info.{key} is {flag!r}: say true or false")
    return Capabilities([key for key, flag in flags.items() if not flag])


def _form(path: str, payload: Json) -> tuple[str, bool]:
    """Return the kind of a request: some backends refuse fields only where they stream."""
    return path, bool(payload.get("stream"))
