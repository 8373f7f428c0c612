"""Providers with APIs of their own, through LiteLLM's SDK."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

from agentlightning.errors import BackendTimeout, BackendUnreachable, ModelError
from agentlightning.llm_proxy.backends import Backend
from agentlightning.llm_proxy.reply import EventStream, Reply

_FUNCTIONS: Final = {
    "/chat/completions": "acompletion",
    "/completions": "atext_completion",
    "/embeddings": "aembedding",
}
_REQUEST: Final = frozenset(
    """
    audio best_of chat_template_kwargs dimensions echo encoding_format frequency_penalty function_call functions input
    logit_bias logprobs max_completion_tokens max_tokens messages metadata min_p modalities n parallel_tool_calls
    prediction presence_penalty prompt reasoning_effort repetition_penalty response_format return_token_ids seed
    service_tier stop stream stream_options suffix temperature thinking tool_choice tools top_k top_logprobs top_p user
    verbosity
    """.split()
)
"""What an agent may say. The SDK takes addresses, keys and files by the same way, which are not for agents to name."""
_CLOSE_SECONDS: Final = 2.0
_KEPT_HEADERS: Final = ("retry-after", "retry-after-ms", "x-request-id")

Json = dict[str, Any]


class LiteLLM:
    """Makes calls through the SDK, which is loaded by the first of them.

    Args:
        timeout: Seconds that a call may take.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._sdk: Any = None
        self._closing: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Wait until streams that were left are closed."""
        if self._closing:
            await asyncio.wait(self._closing, timeout=_CLOSE_SECONDS)

    async def send(self, backend: Backend, method: str, path: str, body: bytes) -> Reply | EventStream:
        """Make a call.

        Raises:
            BackendUnreachable: The provider does not answer.
            BackendTimeout: No answer in time.
        """
        if method != "POST" or path not in _FUNCTIONS:
            return _refusal(404, f"{method} {path} does not go through LiteLLM, which {backend.model} is asked by")
        payload: Json = json.loads(body)
        foreign = sorted(payload.keys() - _REQUEST - {"model"})
        if foreign:
            return _refusal(400, f"{foreign} cannot be sent through LiteLLM, which {backend.model} is asked by")
        if self._sdk is None:
            self._sdk = await asyncio.to_thread(_load)  # seconds, for which nobody else shall wait
        limits = {"timeout": self._timeout, "num_retries": 0, "max_retries": 0}
        arguments = limits | (backend.litellm or {}) | payload | {"model": backend.model}
        ask: Callable[..., Awaitable[Any]] = getattr(self._sdk, _FUNCTIONS[path])
        try:
            answer = await ask(**arguments)
        except Exception as error:  # noqa: BLE001  # the SDK raises what its many providers' code raises
            return _read_error(error, backend)
        if payload.get("stream"):
            return _ChunkStream(answer, backend, self._close_later)
        return _json(200, answer.model_dump(mode="json"), backend.name)

    def _close_later(self, work: Callable[[], Awaitable[object]]) -> None:
        async def close() -> None:
            await work()

        task = asyncio.create_task(close(), name="agl-gateway-litellm-close")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


class _ChunkStream(EventStream):
    """The SDK's chunks as the events of a stream of OpenAI's."""

    def __init__(
        self, chunks: Any, backend: Backend, close_later: Callable[[Callable[[], Awaitable[object]]], None]
    ) -> None:
        super().__init__(200, {"content-type": "text/event-stream"}, backend.name)
        self._chunks = chunks
        self._rest: AsyncIterator[Any] = aiter(chunks)
        self._backend = backend
        self._close_later = close_later
        self._done = False

    async def _next(self) -> bytes:
        if self._done:
            return b""
        try:
            chunk = await anext(self._rest)
        except StopAsyncIteration:
            self._done = True
            return b"data: [DONE]\n\n"
        except Exception as error:
            raise _failure(error, self._backend) from error
        return b"data: " + json.dumps(_shape(chunk.model_dump(mode="json", exclude_none=True))).encode() + b"\n\n"

    def close(self) -> None:
        if not self._done and hasattr(self._chunks, "aclose"):
            self._close_later(self._chunks.aclose)


def _load() -> Any:
    # It would fetch a list of prices from the network while it is imported.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    sdk: Any = importlib.import_module("litellm")
    sdk.suppress_debug_info = True  # it prints advice for people at each error
    return sdk


def _shape(chunk: Json) -> Json:
    for choice in chunk.get("choices") or ():
        choice.setdefault("finish_reason", None)
    return chunk


def _read_error(error: Exception, backend: Backend) -> Reply:
    """Return the provider's refusal.

    Raises:
        BackendUnreachable: It is none.
        BackendTimeout: It is none, and the time was over.
    """
    failure = _failure(error, backend)
    status = getattr(error, "status_code", None)
    if isinstance(failure, BackendTimeout) or not isinstance(status, int) or _is_connection(error):
        raise failure from error
    found: Mapping[str, str] = getattr(getattr(error, "response", None), "headers", None) or {}
    headers = {key: str(found[key]) for key in _KEPT_HEADERS if key in found}
    reply = _refusal(status, str(getattr(error, "message", error)), backend.name)
    return Reply(reply.status, reply.body, {**reply.headers, **headers}, backend.name)


def _failure(error: Exception, backend: Backend) -> ModelError:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "APITimeoutError" in kinds:
        return BackendTimeout(f"{backend.name} gave no answer in time: {error}")
    return BackendUnreachable(f"{backend.name} does not answer: {type(error).__name__}: {error}")


def _is_connection(error: Exception) -> bool:
    return "APIConnectionError" in {kind.__name__ for kind in type(error).__mro__}


def _refusal(status: int, message: str, backend: str | None = None) -> Reply:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return _json(status, {"error": {"message": message, "type": kind, "param": None, "code": None}}, backend)


def _json(status: int, content: Json, backend: str | None) -> Reply:
    return Reply(status, json.dumps(content).encode(), {"content-type": "application/json"}, backend)
