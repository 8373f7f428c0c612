"""The store over HTTP: every route of its interface, as an ASGI application.

Plain ASGI rather than a web framework's objects, which cost more than the store's own work.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final
from urllib.parse import unquote

from pydantic_core import to_json
from starlette.types import Receive, Scope, Send

from agentlightning.errors import NotFound, StoreError
from agentlightning.serving import CLIENT_LEFT
from agentlightning.store.base import LightningStore
from agentlightning.store.operations import Operation, routes_of
from agentlightning.store.wire import wire_of

logger = logging.getLogger(__name__)

PREFIX: Final = "/v1/agl"
LONGEST_POLL: Final = 20.0
"""Seconds after which a waiting request is answered with what there is; the client asks again."""
_WAITS: Final = ("wait", "timeout")


class StoreApp:
    """Serves a store.

    Args:
        store: The store; its class says which operations there are.
    """

    def __init__(self, store: LightningStore) -> None:
        self._store = store
        self._routes = RouteTable(routes_of(type(store)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            status, body = await self._answer(scope, receive)
        except StoreError as error:
            status, body = error.status, error_body(error)
        except Exception:
            logger.exception("%s %s failed", scope["method"], scope["path"])
            status, body = 500, error_body(StoreError("the server failed; its log says why"))
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[int, bytes]:
        path = scope["raw_path"].decode()
        if path == f"{PREFIX}/health":
            return 200, b'{"status":"ok"}'
        operation, path_values = self._routes.find(scope["method"], path.removeprefix(PREFIX))
        wire = wire_of(operation)
        body = await read_body(receive)
        arguments = wire.decode_arguments(path_values, scope["query_string"].decode(), body)
        call = getattr(self._store, operation.name)(**_limited(operation, arguments))
        answer = await _while_connected(receive, call) if _may_wait(operation) else await call
        status = operation.none_status if answer is None else operation.status
        if status == NotFound.status:
            raise NotFound(f"{' '.join(path_values.values())} not found")
        return status, wire.encode_answer(answer)


class RouteTable:
    """Finds the operation of a path.

    Args:
        routes: The operations and their aliases.
    """

    def __init__(self, routes: list[Operation]) -> None:
        self._fixed = {(route.verb, route.path): route for route in routes if not route.path_parameters}
        self._open = [(route, route.path.split("/")) for route in routes if route.path_parameters]

    def find(self, verb: str, path: str) -> tuple[Operation, dict[str, str]]:
        """Return the operation and the values of its path parameters.

        Raises:
            NotFound: There is no such route.
        """
        fixed = self._fixed.get((verb, path))
        if fixed is not None:
            return fixed, {}
        parts = path.split("/")
        found = [
            (route, pattern)
            for route, pattern in self._open
            if route.verb == verb and len(pattern) == len(parts) and _matches(pattern, parts)
        ]
        if not found:
            raise NotFound("Not Found")
        route, pattern = min(found, key=lambda match: len(match[0].path_parameters))
        return route, {name[1:-1]: unquote(part) for name, part in zip(pattern, parts, strict=True) if name[:1] == "{"}


def _matches(pattern: list[str], parts: list[str]) -> bool:
    return all(name == part or (name[:1] == "{" and part) for name, part in zip(pattern, parts, strict=True))


def error_body(error: StoreError) -> bytes:
    """Return what tells a client which error to raise."""
    return to_json({"detail": str(error), "error": type(error).__name__})


async def read_body(receive: Receive) -> bytes:
    """Read a request's body."""
    message = await receive()
    body: bytes = message.get("body", b"")
    while message.get("more_body"):
        message = await receive()
        body += message.get("body", b"")
    return body


def _may_wait(operation: Operation) -> bool:
    return any(name in operation.signature.parameters for name in _WAITS)


def _limited(operation: Operation, arguments: dict[str, Any]) -> dict[str, Any]:
    """Bound how long a request may wait."""
    for name in _WAITS:
        if name in operation.signature.parameters:
            default = operation.signature.parameters[name].default
            asked = arguments.get(name, default)
            arguments[name] = LONGEST_POLL if asked is None else min(asked, LONGEST_POLL)
    return arguments


async def _while_connected(receive: Receive, work: Coroutine[Any, Any, Any]) -> Any:
    """Await `work`; if the client leaves first, cancel it, so that the store takes back what nobody hears of."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
            raise ClientLeft("the client left")
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


class ClientLeft(StoreError):
    """The client left before its answer; nobody receives this."""

    status = CLIENT_LEFT


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
