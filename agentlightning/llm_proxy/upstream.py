"""The way to the backends: one pooled HTTP client, bytes in, bytes out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import aiohttp
from yarl import URL

from agentlightning._internal.json_text import write_json
from agentlightning.errors import BackendTimeout, BackendUnreachable, ModelError
from agentlightning.llm_proxy.backends import Backend
from agentlightning.llm_proxy.capabilities import named_in
from agentlightning.llm_proxy.litellm_backend import LiteLLM
from agentlightning.llm_proxy.patience import Patience
from agentlightning.llm_proxy.reply import EventStream, Reply

logger = logging.getLogger(__name__)

_KEEPALIVE_SECONDS: Final = 4.0  # below the 5 s after which uvicorn closes: a request must not meet a closing socket
_CONNECT_SECONDS: Final = 10.0
_PROBE_SECONDS: Final = 5.0
_FAILURES: Final = (TimeoutError, aiohttp.ClientError)
# Headers that concern one connection only, or the body's encoding, which aiohttp has undone.
_OWN_HEADERS: Final = frozenset(
    {
        "connection",
        "content-encoding",
        "content-length",
        "date",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "server",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


class _HttpStream(EventStream):
    """A stream of which only the head was read; `timeout` is how many seconds of silence it allows."""

    def __init__(self, answer: aiohttp.ClientResponse, backend: str, timeout: float) -> None:
        super().__init__(answer.status, _kept_headers(answer), backend)
        self._answer = answer
        self._timeout = timeout
        # aiohttp's own deadline does not hold when what comes between two chunks is no HTTP.
        self._patience = Patience(timeout, lambda: answer.content.set_exception(TimeoutError()))

    async def _next(self) -> bytes:
        self._patience.begin()
        try:
            return await self._answer.content.readany()
        except _FAILURES as error:
            raise _named(error, str(self._answer.url), self._timeout) from error
        finally:
            self._patience.end()

    def close(self) -> None:
        self._patience.close()
        self._answer.close()


class Upstream:
    """Sends requests to backends; made inside the event loop that uses it.

    Args:
        timeout: See the attribute.

    Attributes:
        timeout: The longest silence of a backend, in seconds.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout: Final = timeout
        self._litellm = LiteLLM(timeout)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_SECONDS),
            # Whoever asks has a deadline, or patience for a stream; one of aiohttp's would cost a timer for each read.
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity"},
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._litellm.close()
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
        added = backend.capabilities.fields(path, payload)
        refused: set[str] = set()
        while True:
            reply = await self.send(backend, "POST", path, write_json(wanted | added), headers)
            body = reply.body if isinstance(reply, Reply) else b""
            if not added or not (named := named_in(reply.status, body, added)):
                break
            refused |= named
            added = {key: value for key, value in added.items() if key not in named}
        if refused and reply.status < 400:
            backend.capabilities.learn(path, payload, refused, backend.name)
        return reply

    async def send(
        self, backend: Backend, method: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> Reply | EventStream:
        """Send a request as it is, to a path that is encoded; the caller closes the stream if the answer is one.

        Raises:
            BackendUnreachable: Nobody answers.
            BackendTimeout: No answer in time.
        """
        if backend.litellm is not None:
            return await self._litellm.send(backend, method, path, body)
        if backend.api_key is not None:
            headers = {**headers, "Authorization": f"Bearer {backend.api_key}"}
        url = _encoded(backend.api_base) + path
        try:
            answer = await self._session.request(
                method, URL(url, encoded=True), data=body, headers=headers, allow_redirects=False
            )
            if answer.content_type == "text/event-stream":
                return _HttpStream(answer, backend.api_base, self.timeout)
            async with answer:
                return Reply(answer.status, await answer.read(), _kept_headers(answer), backend.api_base)
        except _FAILURES as error:
            raise _named(error, url, self.timeout) from error

    async def is_alive(self, backend: Backend) -> bool:
        """Whether a backend answers a small question at all; those of LiteLLM, of whom none is known, do."""
        if backend.litellm is not None:
            return True
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                answer = await self.send(backend, "GET", "/models", b"", {})
        except (ModelError, TimeoutError):
            return False
        if isinstance(answer, EventStream):
            answer.close()
        return answer.status < 500


@lru_cache
def _encoded(url: str) -> str:
    return str(URL(url))


def _named(error: Exception, url: str, timeout: float) -> ModelError:
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return BackendUnreachable(f"nobody answers at {url} within {_CONNECT_SECONDS:g} s")
    if isinstance(error, TimeoutError):  # aiohttp's timeouts are client errors as well, so this comes first
        return BackendTimeout(f"{url} gave no answer within {timeout:g} s")
    if isinstance(error, aiohttp.ClientPayloadError):
        return BackendUnreachable(f"{url} broke off in the middle of its answer: {error}")
    return BackendUnreachable(f"nobody answers at {url}: {error}; is the model server running?")


def _kept_headers(answer: aiohttp.ClientResponse) -> dict[str, str]:
    own = _OWN_HEADERS
    if "connection" in answer.headers:
        own = own.union(name.strip().lower() for name in answer.headers["connection"].split(","))
    return {key: _as_sent(value) for key, value in answer.headers.items() if key.lower() not in own}


def _as_sent(value: str) -> str:
    """Return a header, which aiohttp takes for UTF-8, as the bytes that it has on its way to the client."""
    return value if value.isascii() else value.encode(errors="surrogateescape").decode("latin-1")
