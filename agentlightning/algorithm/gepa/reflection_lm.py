"""What reflects: a client that has OpenAI's shape, or any function."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias, cast

from agentlightning._internal.threads import run_in_thread
from agentlightning.errors import ConfigurationError

ReflectionFunction: TypeAlias = Callable[[str], str | Awaitable[str]]
"""Gets the question and returns the answer, directly or by `await`."""
ReflectionLM: TypeAlias = ReflectionFunction | Any
"""A function, or an asynchronous client with `chat.completions.create`."""


def as_client(reflection_lm: ReflectionLM) -> Any:
    """Return a client.

    Raises:
        ConfigurationError: It is neither a client nor a function.
    """
    if hasattr(reflection_lm, "chat"):
        return reflection_lm
    if callable(reflection_lm):
        return _FunctionClient(cast("ReflectionFunction", reflection_lm))
    raise ConfigurationError(
        "reflection_lm is a function, or an asynchronous client such as openai.AsyncOpenAI(), "
        f"not {reflection_lm!r:.100}"
    )


class _FunctionClient:
    """A function in the place of a client: `chat.completions.create` calls it."""

    def __init__(self, function: ReflectionFunction) -> None:
        self._function = function
        self.chat = self.completions = self

    async def create(self, *, model: str, messages: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Call the function with the conversation as one text; one that blocks is called in a thread."""
        question = "\n\n".join(message["content"] for message in messages)
        if inspect.iscoroutinefunction(self._function):
            answer = await self._function(question)
        else:
            answer = await run_in_thread(lambda: self._function(question), "reflection")
            if inspect.isawaitable(answer):
                answer = await answer
        if not isinstance(answer, str):
            raise TypeError(f"a reflection function returns a text, not a {type(answer).__name__}")
        return {"choices": [{"message": {"content": answer}}]}
