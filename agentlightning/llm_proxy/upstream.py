"""The way to the backends: one pooled HTTP client, bytes in, bytes out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final

from agentlightning._internal.json_text import write_json
from agentlightning.errors import BackendTimeout, BackendUnreachable, ModelError
from agentlightning.http1 import Answer, ConnectTimeout, HttpClient, server_of
from agentlightning.llm_proxy.backends import Backend
from agentlightning.llm_proxy.capabilities import named_in
from agentlightning.llm_proxy.litellm_backend import LiteLLM
from agentlightning.llm_proxy.patience import Patience
from agentlightning.llm_proxy.reply import EventStream, Reply

logger = logging.getLogger(__name__)

_CONNECT_SECONDS: Final = 10.0
_PROBE_SECONDS: Final = 5.0
_SAFE: Final = frozenset({"GET", "HEAD"})
"""What may be sent again behind the dispatcher's back, who repeats the rest, and counts it."""
_FAILURES: Final = (OSError, ValueError)  # the latter is said of what cannot be sent
# Headers that concern one connection only, or the body's encoding, which is undone.
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

    def __init__(self, answer: Answer, backend: str, url: str, timeout: float) -> None:
        super().__init__(answer.status, _kept_headers(answer), backend)
        self._answer = answer
        self._url = url
        self._timeout = timeout
        self._patience = Patience(timeout, lambda: answer.fail(TimeoutError()))

    async def _next(self) -> bytes:
        self._patience.begin()
        try:
            return await self._answer.read_some()
        except _FAILURES as error:
            raise _broken(error, self._url, self._timeout) from error
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
        self._http = HttpClient(_CONNECT_SECONDS)

    async def close(self) -> None:
        """Close all connections."""
        await self._litellm.close()
        await self._http.close()

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
            headers = {**headers, "authorization": f"Bearer {backend.api_key}"}
        url = backend.api_base + path
        try:
            server = server_of(backend.api_base)
            target, repeatable = server.path + path, method in _SAFE
            answer = await self._http.request(server, method, target, headers, body, repeatable=repeatable)
        except _FAILURES as error:
            raise _unreached(error, url) from error
        if answer.media_type == "text/event-stream":
            return _HttpStream(answer, backend.api_base, url, self.timeout)
        try:
            return Reply(answer.status, await answer.read(), _kept_headers(answer), backend.api_base)
        except _FAILURES as error:
            raise _broken(error, url, self.timeout) from error
        finally:
            answer.close()

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


def _unreached(error: Exception, url: str) -> ModelError:
    if isinstance(error, ConnectTimeout):
        return BackendUnreachable(f"nobody answers at {url}: {error}")
    return BackendUnreachable(f"nobody answers at {url}: {error}; is the model server running?")


def _broken(error: Exception, url: str, timeout: float) -> ModelError:
    if isinstance(error, TimeoutError):
        return BackendTimeout(f"{url} gave no answer within {timeout:g} s")
    return BackendUnreachable(f"{url} broke off in the middle of its answer: {error}")


def _kept_headers(answer: Answer) -> dict[str, str]:
    own = _OWN_HEADERS
    headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in answer.headers.items()}
    if connection := headers.get("connection"):
        own = own.union(name.strip().lower() for name in connection.split(","))
    return {key: value for key, value in headers.items() if key not in own}
