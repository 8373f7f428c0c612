"""The way to the backends: one pooled HTTP client, bytes in, bytes out."""

from __future__ import annotations

import asyncio
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

from agentlightning.errors import BackendTimeout, BackendUnreachable, ModelError
from agentlightning.llm_proxy.backends import Backend
from agentlightning.llm_proxy.dialects.chat import wanted_fields

logger = logging.getLogger(__name__)

_KEEPALIVE_SECONDS: Final = 4.0  # below the 5 s after which uvicorn closes: a request must not meet a closing socket
_CONNECT_SECONDS: Final = 10.0
_PROBE_SECONDS: Final = 5.0
# Headers that concern one connection only, or the body's encoding, which aiohttp has undone.
_OWN_HEADERS: Final = frozenset(
    {"connection", "content-encoding", "content-length", "date", "keep-alive", "server", "transfer-encoding"}
)


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer.

    Attributes:
        status: HTTP status.
        body: The body.
        headers: The headers that concern the client.
        backend: The base URL of the backend that gave it, or that was asked in vain; None if none was asked.
        retries: How often a backend was asked again before.
    """

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    backend: str | None = None
    retries: int = 0


class EventStream(ABC):
    """An answer that comes piece by piece.

    Args:
        status: HTTP status.
        headers: The headers that concern the client.
        backend: The backend's base URL.

    Attributes:
        status: HTTP status.
        headers: The headers that concern the client.
        backend: The backend's base URL.
        retries: How often a backend was asked again before.
        on_end: Told that the backend has sent all, or why it has not.
    """

    def __init__(self, status: int, headers: Mapping[str, str], backend: str) -> None:
        self.status = status
        self.headers = headers
        self.backend: str | None = backend
        self.retries = 0
        self.on_end: Callable[[ModelError | None], None] | None = None

    async def read(self) -> bytes:
        """Return what has come, waiting for it if need be; nothing at the end.

        Raises:
            BackendUnreachable: The stream broke off.
            BackendTimeout: The backend is silent for too long.
        """
        try:
            piece = await self._next()
        except ModelError as error:
            self._end(error)
            raise
        if not piece:
            self._end(None)
        return piece

    @abstractmethod
    async def _next(self) -> bytes: ...

    @abstractmethod
    def close(self) -> None:
        """Close the connection, whether or not the backend is done."""

    def _end(self, failure: ModelError | None) -> None:
        on_end, self.on_end = self.on_end, None
        if on_end is not None:
            on_end(failure)


class _HttpStream(EventStream):
    """A stream of which only the head was read; `timeout` is how many seconds of silence it allows."""

    def __init__(self, answer: aiohttp.ClientResponse, backend: str, timeout: float) -> None:
        super().__init__(answer.status, _kept_headers(answer), backend)
        self._answer = answer
        self._timeout = timeout

    async def _next(self) -> bytes:
        with _named_errors(str(self._answer.url), self._timeout):
            return await self._answer.content.readany()

    def close(self) -> None:
        self._answer.close()


class Upstream:
    """Sends requests to backends; made inside the event loop that uses it.

    Args:
        timeout: The longest silence of a backend, in seconds.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_SECONDS),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity"},
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def ask(
        self, backend: Backend, path: str, payload: dict[str, Any], headers: Mapping[str, str]
    ) -> Reply | EventStream:
        """Send a model call, asking for token ids and log-probabilities as well where the backend allows it.

        Raises:
            BackendUnreachable: Nobody answers.
            BackendTimeout: No answer in time.
        """
        wanted = {**payload, "model": backend.model}
        added = wanted_fields(path, payload)
        form = path, bool(payload.get("stream"))
        if not added or form in backend.nameless_forms:
            return await self.send(backend, "POST", path, _encode(wanted), headers)
        reply = await self.send(backend, "POST", path, _encode(wanted | added), headers)
        if (
            isinstance(reply, EventStream)
            or reply.status != 400
            or not any(key.encode() in reply.body for key in added)
        ):
            return reply
        plain = await self.send(backend, "POST", path, _encode(wanted), headers)
        if plain.status != 400:
            backend.nameless_forms.add(form)
            logger.warning("%s%s refuses %s: its calls cannot be trained on", backend.api_base, path, sorted(added))
        return plain

    async def send(
        self, backend: Backend, method: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> Reply | EventStream:
        """Send a request as it is; the caller closes the stream if the answer is one.

        Raises:
            BackendUnreachable: Nobody answers.
            BackendTimeout: No answer in time.
        """
        if backend.api_key is not None:
            headers = {**headers, "Authorization": f"Bearer {backend.api_key}"}
        url = backend.api_base + path
        with _named_errors(url, self._timeout):
            answer = await self._session.request(method, url, data=body, headers=headers, allow_redirects=False)
            if answer.content_type == "text/event-stream":
                return _HttpStream(answer, backend.api_base, self._timeout)
            async with answer:
                return Reply(answer.status, await answer.read(), _kept_headers(answer), backend.api_base)

    async def is_alive(self, backend: Backend) -> bool:
        """Whether a backend answers a small question at all."""
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                answer = await self.send(backend, "GET", "/models", b"", {})
        except (ModelError, TimeoutError):
            return False
        if isinstance(answer, EventStream):
            answer.close()
        return answer.status < 500


@contextmanager
def _named_errors(url: str, timeout: float) -> Generator[None]:
    try:
        yield
    except aiohttp.ConnectionTimeoutError as error:
        raise BackendUnreachable(f"nobody answers at {url} within {_CONNECT_SECONDS:g} s") from error
    except TimeoutError as error:  # aiohttp's timeouts are client errors as well, so this comes first
        raise BackendTimeout(f"{url} gave no answer within {timeout:g} s") from error
    except aiohttp.ClientPayloadError as error:
        raise BackendUnreachable(f"{url} broke off in the middle of its answer: {error}") from error
    except aiohttp.ClientError as error:
        raise BackendUnreachable(f"nobody answers at {url}: {error}; is the model server running?") from error


def _kept_headers(answer: aiohttp.ClientResponse) -> dict[str, str]:
    return {key: value for key, value in answer.headers.items() if key.lower() not in _OWN_HEADERS}


def _encode(payload: dict[str, Any]) -> bytes:
    # In ASCII: text that an agent cut in the middle of a surrogate pair has no UTF-8.
    return json.dumps(payload, separators=(",", ":")).encode()
