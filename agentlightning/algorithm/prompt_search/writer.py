"""The model that writes prompts: asked once for each answer, and asked again while it cannot give one."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, cast

from agentlightning.algorithm.prompt_search.journal import Answer, Journal
from agentlightning.errors import ConfigurationError, ModelError
from agentlightning.llm_proxy.retries import Backoff, is_passing

logger = logging.getLogger(__name__)

_RETRIES: Final = 8
_LONG_SECONDS: Final = 60.0
"""The longest wait, for a model that wants even more of it: limits are mostly per minute."""
_CALL_SECONDS: Final = 600.0
_BUGS: Final = (TypeError, AttributeError, LookupError, NotImplementedError)
"""Errors of a program, which is no better the second time."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model answered.

    Attributes:
        text: The answer; empty if there is none.
        whole: Whether it came to its end, and was not cut off at the longest answer.
        prompt_tokens: Tokens that the model was given, as it counts them.
        completion_tokens: Tokens that it sampled.
    """

    text: str
    whole: bool
    prompt_tokens: int
    completion_tokens: int


class Writer:
    """Asks a model, through any asynchronous client that has OpenAI's shape.

    An answer is written down before it is returned. A model that is down or limits the rate is asked again, eight
    times, with growing pauses; so is one whose answer has no choices, or an error beside them.

    Args:
        client: Has `chat.completions.create`, as `openai.AsyncOpenAI` does.
        journal: Where answers are written down.
        at_once: How many calls are made at a time; further ones wait.
        sleep: Waits for some seconds.
        backoff: How long to wait before the model is asked again.

    Attributes:
        replies: All answers, those of an earlier process among them.
        retries: How often a call was made again.
    """

    def __init__(
        self,
        client: Any,
        journal: Journal,
        *,
        at_once: int,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        backoff: Backoff | None = None,
    ) -> None:
        self._client = client
        self._journal = journal
        self._free = asyncio.Semaphore(at_once)
        self._sleep = sleep
        self._backoff = backoff or Backoff()
        self._without_temperature: set[str] = set()
        self.replies: list[Reply] = []
        self.retries = 0

    async def ask(
        self, key: str, model: str, messages: Sequence[Mapping[str, Any]], *, temperature: float | None = None
    ) -> Reply:
        """Return the model's answer to messages.

        Args:
            key: Names the question within the run.
            model: Which model to ask.
            messages: A conversation.
            temperature: Sampling temperature; None, and a model that refuses it, has its own.

        Raises:
            ModelError: The model refused the request, or did not answer after all retries.
        """
        asked = {"model": model, "messages": [dict(message) for message in messages], "temperature": temperature}

        async def work() -> Answer:
            async with self._free:
                return asdict(await self._persist(asked))

        reply = Reply(**await self._journal.once("reply", key, asked, work))
        self.replies.append(reply)
        return reply

    async def _persist(self, asked: Mapping[str, Any]) -> Reply:
        """Ask until there is an answer."""
        for retries in range(_RETRIES + 1):
            try:
                async with asyncio.timeout(_CALL_SECONDS):
                    return _read(await self._call(asked))
            except (*_BUGS, ConfigurationError):
                raise
            except Exception as error:
                pause = self._pause(error, retries)
                if retries == _RETRIES or pause is None:
                    raise ModelError(
                        f"{asked['model']} did not answer, asked {retries + 1} times: {type(error).__name__}: {error}"
                    ) from error
                logger.warning("Asking %s again in %.1f s: %s", asked["model"], pause, error)
                self.retries += 1
                await self._sleep(pause)
        raise AssertionError("the last try returns or raises")

    async def _call(self, asked: Mapping[str, Any]) -> Any:
        model, options = asked["model"], dict(asked)
        if asked["temperature"] is None or model in self._without_temperature:
            del options["temperature"]
        try:
            answer = self._client.chat.completions.create(**options)
            if not inspect.isawaitable(answer):
                raise ConfigurationError("give an asynchronous client, such as openai.AsyncOpenAI()")
            return await answer
        except Exception as error:
            if _status(error) != 400 or "temperature" not in str(error) or "temperature" not in options:
                raise
            self._without_temperature.add(model)  # reasoning models have one of their own
        return await self._call(asked)

    def _pause(self, error: Exception, retries: int) -> float | None:
        """Return the seconds to wait, or None where asking again is of no use."""
        status = _status(error)
        if status is not None and not is_passing(status):
            return None
        headers: Mapping[str, str] | None = getattr(getattr(error, "response", None), "headers", None)
        pause = self._backoff.seconds(retries, headers or {})
        return _LONG_SECONDS if pause is None else pause


def _status(error: Exception) -> int | None:
    """Return the HTTP status that an SDK's error carries; None of one that has none, such as a lost connection."""
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) else None


def _read(answer: Any) -> Reply:
    """Return what was answered; raises `ModelError` where some servers say with status 200 that they failed."""
    error, choices = _field(answer, "error"), _field(answer, "choices")
    if error or not choices:
        raise ModelError(f"it said {error!s:.500}" if error else "the answer has no choices")
    usage = _field(answer, "usage")
    return Reply(
        text=_field(_field(choices[0], "message"), "content") or "",
        whole=_field(choices[0], "finish_reason") != "length",
        prompt_tokens=_field(usage, "prompt_tokens") or 0,
        completion_tokens=_field(usage, "completion_tokens") or 0,
    )


def _field(value: Any, name: str) -> Any:
    """Return a field of an answer, which SDKs give as an object and others as a dict."""
    return cast("Mapping[str, Any]", value).get(name) if isinstance(value, Mapping) else getattr(value, name, None)
