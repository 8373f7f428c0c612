"""Where agents may see a model server."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Coroutine
from typing import Any, Final
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

ATTEMPT: Final = "/rollout/{rollout_id}/attempt/{attempt_id}"
"""The beginning of an attempt's base URL, as a route's path."""

_ATTEMPT: Final = r"/rollout/(?P<rollout_id>[^/]+)/attempt/(?P<attempt_id>[^/]+)"
_V1_0: Final = re.compile(rf"/proxy{_ATTEMPT}/mode/(?P<mode>train|val)/openai/v1(?=/)")
# Anthropic's clients write the version themselves, behind an OpenAI base URL, too.
_BASE: Final = re.compile(rf"(?:{_ATTEMPT})?(?:/v1){{0,2}}(?=/)")

_SEPARATOR: Final = re.compile(r"[/\\]")
_DECODINGS: Final = 4
"""How often the servers behind the gateway may decode a path, one after the other."""

Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]


class BelowBases(BaseRoute):
    """All that is below the base URLs in one route, since asking forty takes longer than many an endpoint.

    Args:
        methods: The HTTP methods that it takes.
        find: Returns the endpoint for a base URL's path and the path below it, or None for what is another route's.
    """

    def __init__(self, methods: Collection[str], find: Callable[[str, str], Endpoint | None]) -> None:
        self._methods = methods
        self._find = find

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Find the endpoint; the attempt, v1.0's mode and the path below the base URL become its path parameters."""
        if scope["type"] != "http" or scope["method"] not in self._methods:
            return Match.NONE, {}
        whole: str = scope["path"]
        base = _V1_0.match(whole) or _BASE.match(whole)
        if base is None:
            return Match.NONE, {}
        below = whole[base.end() :]
        endpoint = self._find(base.group(), below)
        if endpoint is None:
            return Match.NONE, {}
        named = {name: value for name, value in base.groupdict().items() if value is not None}
        return Match.FULL, {"endpoint": endpoint, "path_params": named | {"path": below[1:]}}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; see ASGI."""
        response = await scope["endpoint"](Request(scope, receive, send))
        await response(scope, receive, send)


def tidy(path: str) -> str:
    """Return a path as many servers read it: with one slash before each part, and none behind the last."""
    return "/" + "/".join(part for part in path.split("/") if part)


def raw_below(scope: Scope) -> str | None:
    """Return the path below the base URL as the client wrote it, or None if it might lead out of a backend's."""
    raw: str = scope["raw_path"].decode("latin-1")
    base = _V1_0.match(raw) or _BASE.match(raw)
    below = raw[base.end() :] if base is not None else ""
    # Where the bases differ, a part of an id stands in an encoded slash.
    return below if unquote(below) == f"/{scope['path_params']['path']}" and _stays_below(below) else None


def _stays_below(path: str) -> bool:
    for _ in range(_DECODINGS):
        if ".." in _SEPARATOR.split(path):
            return False
        decoded = unquote(path)
        if decoded == path:
            return True
        path = decoded
    return False
