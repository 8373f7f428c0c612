"""The way to the backends: one pooled HTTP client, bytes in, bytes out."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

from agentlightning.errors import BackendTimeout, BackendUnreachable
from agentlightning.llm_proxy.routing import Backend

logger = logging.getLogger(__name__)

_TOKEN_FIELDS: Final[dict[str, dict[str, Any]]] = {
    "/chat/completions": {"return_token_ids": True, "logprobs": True},
    "/completions": {"return_token_ids": True, "logprobs": 1},
}
_KEEPALIVE_SECONDS: Final = 4.0  # below the 5 s after which uvicorn closes: a request must not meet a closing socket
# Headers that concern one connection only, or the body's encoding, which aiohttp has undone.
_OWN_HEADERS: Final = frozenset(
    {"connection", "content-encoding", "content-length", "date", "keep-alive", "server", "transfer-encoding"}
)

RECORDED_PATHS: Final = tuple(_TOKEN_FIELDS)
"""The paths, below a base URL, whose calls become spans."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: HTTP status, body, and the headers that concern the client."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


class Upstream:
    """Sends requests to backends; made inside the event loop that uses it.

    Args:
        timeout: Seconds within which a backend must have answered.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_SECONDS),
            timeout=aiohttp.ClientTimeout(total=timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity"},
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def ask(self, backend: Backend, path: str, payload: dict[str, Any], headers: Mapping[str, str]) -> Reply:
        """Send a model call, asking for token ids and log-probabilities as well where the backend allows it.

        Raises:
            BackendUnreachable: Nobody answers.
            BackendTimeout: No answer in time.
        """
        wanted = {**payload, "model": backend.model}
        # Here 0 counts as not asked for, too: completions with `logprobs: 0` get 1, which says no less.
        added = {key: value for key, value in _TOKEN_FIELDS[path].items() if not payload.get(key)}
        if not added or path in backend.nameless_paths:
            return await self.send(backend, "POST", path, _encode(wanted), headers)
        reply = await self.send(backend, "POST", path, _encode(wanted | added), headers)
        if reply.status != 400 or not any(key.encode() in reply.body for key in added):
            return reply
        plain = await self.send(backend, "POST", path, _encode(wanted), headers)
        if plain.status != 400:
            backend.nameless_paths.add(path)
            logger.warning("%s%s refuses %s: its calls cannot be trained on", backend.api_base, path, sorted(added))
        return plain

    async def send(self, backend: Backend, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        """Send a request as it is.

        Raises:
            BackendUnreachable: Nobody answers.
            BackendTimeout: No answer in time.
        """
        if backend.api_key is not None:
            headers = {**headers, "Authorization": f"Bearer {backend.api_key}"}
        url = backend.api_base + path
        try:
            async with self._session.request(method, url, data=body, headers=headers, allow_redirects=False) as answer:
                kept = {key: value for key, value in answer.headers.items() if key.lower() not in _OWN_HEADERS}
                return Reply(answer.status, await answer.read(), kept)
        except TimeoutError as error:  # aiohttp's timeouts are client errors as well, so this comes first
            raise BackendTimeout(f"{url} gave no answer within {self._timeout:g} s") from error
        except aiohttp.ClientError as error:
            raise BackendUnreachable(f"nobody answers at {url}: {error}; is the model server running?") from error


def _encode(payload: dict[str, Any]) -> bytes:
    # In ASCII: text that an agent cut in the middle of a surrogate pair has no UTF-8.
    return json.dumps(payload, separators=(",", ":")).encode()
