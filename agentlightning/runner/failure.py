"""Why an attempt failed, in words that say what to do."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import cast

from agentlightning._internal.text import shortened, text_of
from agentlightning.types import LLM, NamedResources


def describe_failure(error: BaseException, resources: NamedResources) -> dict[str, str]:
    """Return an error's type and message, as the attempt's metadata keep them under `error`.

    Clients of model servers tend to say "Connection error." and no more, so the addresses that the agent was given
    are added where a connection was refused or a host not found.
    """
    unsaid = "it has no message" if isinstance(error, Exception) else "the step was interrupted"
    message = shortened(text_of(error)) or unsaid
    endpoints = sorted({resource.endpoint for resource in resources.values() if isinstance(resource, LLM)})
    if endpoints and any(isinstance(each, (ConnectionRefusedError, socket.gaierror)) for each in _causes(error)):
        message = (
            f"{message} Nobody answers there. The rollout's model is at {' and '.join(endpoints)}: "
            "is the model server running, and is the address right?"
        )
    return {"type": type(error).__name__, "message": message}


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all that led to it, each once: `raise error from error` is a circle."""
    seen: set[int] = set()
    ahead: list[BaseException | None] = [error]
    while ahead:
        each = ahead.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        ahead.append(each.__cause__ or each.__context__)  # also where `from None` hides it: HTTP clients do that
        if isinstance(each, BaseExceptionGroup):
            ahead.extend(cast("BaseExceptionGroup[BaseException]", each).exceptions)
