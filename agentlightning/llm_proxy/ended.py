"""Arguments of v0.3's `LLMProxy`, which were about the LiteLLM server that it started."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from agentlightning.errors import ConfigurationError

_ALWAYS: Final = frozenset(
    {"return_token_ids", "logprobs", "opentelemetry", "rollout_attempt", "stream_conversion", "message_inspection"}
)
"""Callbacks and middlewares of v0.3 whose work the gateway does anyway."""
_INSTEAD: Final = {
    "litellm_config": "the gateway is no LiteLLM server: say it in model_list, per model",
    "launcher_args": "pass host, port and launch_mode",
    "middlewares": "put a server of your own before the gateway",
    "callbacks": "calls are recorded as spans: read them from the store",
    "num_workers": "one process is enough; for more, start several with `agl proxy`",
}


def check_ended(
    litellm_config: Any, num_workers: int, launcher_args: Any, middlewares: Sequence[Any] | None, callbacks: Any
) -> None:
    """Refuse what cannot be done here; the names of what is done anyway are taken.

    Raises:
        ConfigurationError: It says what to do instead.
    """
    given = {
        "litellm_config": litellm_config,
        "launcher_args": launcher_args,
        "middlewares": _unknown_in(middlewares),
        "callbacks": _unknown_in(callbacks),
        "num_workers": num_workers > 1,
    }
    for name, value in given.items():
        if value:
            raise ConfigurationError(f"LLMProxy({name}=…) of v0.3 does not exist here; {_INSTEAD[name]}")


def _unknown_in(names: Sequence[Any] | None) -> list[Any]:
    return [name for name in names or () if name not in _ALWAYS]
