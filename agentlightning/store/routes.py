"""The store over HTTP: every route of its interface, as an ASGI application.

Plain ASGI, which spares each small call a web framework's objects.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from pydantic_core import to_json
from starlette.types import Receive, Scope, Send

from agentlightning._internal.text import encodable
from agentlightning.errors import AgentLightningError, InvalidValue, NotFound, StoreClosed, StoreError
from agentlightning.store.access import Access, check_attempt, check_role
from agentlightning.store.base import IN_PLAIN_VALUES, LightningStore
from agentlightning.store.brief import HEADER, MINIMAL, encode_brief
from agentlightning.store.limits import Bodies, Gate, Limits, check_items
from agentlightning.store.listening import ClientLeft, Listening
from agentlightning.store.openapi import openapi_of
from agentlightning.store.operations import LONGEST_KEY, routes_of
from agentlightning.store.otlp.answer import Answer, error_answer
from agentlightning.store.otlp.handler import handle_other_signal, handle_traces
from agentlightning.store.otlp.paths import OTHER_SIGNALS, TRACES_PATH
from agentlightning.store.route_table import HEALTH_PATH, PREFIX, WITHDRAW_PATH, Endpoint, NoRoute, RouteTable
from agentlightning.store.tokens import Caller

logger = logging.getLogger(__name__)

_HEADERS: Final[dict[int, dict[str, str]]] = {
    401: {"www-authenticate": "Bearer"},
    408: {"connection": "close"},  # the rest of the body is not read
    413: {"connection": "close"},
    429: {"retry-after": "1"},
    503: {"retry-after": "1"},
}
_INTERNAL: Final = StoreError("the server failed; its log says why")


@dataclass(slots=True)
class Call:
    """A request, as far as it was read."""

    verb: str
    path: str
    query: bytes
    headers: dict[bytes, bytes]
    receive: Receive

    @property
    def texts(self) -> dict[str, str]:
        """The headers as texts."""
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in self.headers.items()}


class StoreApp:
    """Serves a store.

    Args:
        store: The store; its class says which operations there are.
        access: Who may do what.
        limits: How much it takes.
    """

    def __init__(self, store: LightningStore, access: Access | None = None, limits: Limits | None = None) -> None:
        self._store = store
        self._plain = store.in_plain_values()
        self._routes = RouteTable(routes_of(type(store)))
        self._access = access or Access(None)
        self._limits = limits or Limits()
        self._requests = Gate(self._limits.requests, "requests")
        self._polls = Gate(self._limits.polls, "waiting requests")
        self._bodies = Bodies(self._limits)
        self._listening: set[Listening] = set()
        self._paths: dict[str, Callable[[Call], Awaitable[Answer]]] = {
            HEALTH_PATH: self._health,
            WITHDRAW_PATH: self._withdraw,
            "/openapi.json": self._describe,
            TRACES_PATH: self._take_traces,
            **dict.fromkeys(OTHER_SIGNALS, self._refuse_signal),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        call = Call(
            scope["method"],
            scope["raw_path"].decode("latin-1"),
            scope["query_string"],
            dict(scope["headers"]),
            receive,
        )
        try:
            reply = await self._paths.get(call.path, self._operate)(call)
        except ClientLeft:
            return
        except AgentLightningError as error:
            reply = _refusal(error)
        except Exception:
            logger.exception("%s %s failed", call.verb, call.path)
            reply = _refusal(_INTERNAL)
        headers = [(name.encode(), value.encode()) for name, value in reply.headers.items()]
        headers.append((b"content-length", str(len(reply.body)).encode()))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    def prepare_stop(self) -> None:
        """Answer whoever waits for something to happen that the server stops, and hurry bodies that still arrive."""
        self._bodies.hurry()
        for listening in list(self._listening):
            listening.interrupt(StoreClosed("the server stops"))

    async def _operate(self, call: Call) -> Answer:
        """Carry out an operation of the store."""
        caller = self._access.caller_of(call.headers)
        if not call.path.startswith(PREFIX):
            raise NoRoute(())
        endpoint, path_values = self._routes.find(call.verb, call.path[len(PREFIX) :])
        operation = endpoint.operation
        check_role(caller, operation.role, operation.name)
        async with self._bodies.body(call.receive, call.headers) as body:
            arguments = endpoint.wire.decode_arguments(path_values, call.query.decode("latin-1"), body)
            check_items(arguments, self._limits.items)
            check_attempt(caller, operation, arguments)
            store = self._plain if operation.name in IN_PLAIN_VALUES else self._store
            if operation.keyed and (key := _key_of(call)) is not None:
                store = store.keyed(key, _fingerprint(call, body))
            answer = await self._ask(endpoint, getattr(store, operation.name), arguments, call.receive)
        status = operation.none_status if answer is None else operation.status
        if status == NotFound.status:
            raise NotFound(f"nothing has the id {' '.join(path_values.values())!a}")
        if (
            answer is not None
            and operation.echoes is not None
            and call.headers.get(HEADER.encode()) == MINIMAL.encode()
        ):
            return _json(status, encode_brief(answer, arguments[operation.echoes]))
        return _json(status, endpoint.wire.encode_answer(answer))

    async def _ask(
        self,
        endpoint: Endpoint,
        method: Callable[..., Awaitable[Any]],
        arguments: dict[str, Any],
        receive: Receive,
    ) -> Any:
        """Await the store's answer for as long as there is somebody to hear it."""
        if endpoint.bound_wait(arguments):
            with self._polls, Listening(receive) as listening:
                self._listening.add(listening)
                try:
                    return await method(**arguments)
                finally:
                    self._listening.discard(listening)
        if endpoint.claims:  # others do no harm unheard
            with self._requests, Listening(receive):
                return await method(**arguments)
        with self._requests:
            return await method(**arguments)

    async def _health(self, call: Call) -> Answer:
        _only(call, "GET")
        return _json(200, b'{"status":"ok"}')

    async def _withdraw(self, call: Call) -> Answer:
        """Undo what a client that went away may not have heard of; it names the key of its request."""
        _only(call, "POST")
        check_role(self._access.caller_of(call.headers), "runner", "withdraw")  # an agent claims nothing
        if (key := _key_of(call)) is not None:
            with self._requests:
                await self._store.withdraw(key)
        return _json(200, b"{}")

    async def _describe(self, call: Call) -> Answer:
        _only(call, "GET")
        return _json(200, self._description)

    @cached_property
    def _description(self) -> bytes:
        return to_json(openapi_of(type(self._store)))

    async def _take_traces(self, call: Call) -> Answer:
        _only(call, "POST")
        headers = call.texts
        try:
            caller = self._access.caller_of(call.headers)
            async with self._bodies.body(call.receive, call.headers) as body:
                with self._requests:
                    return await handle_traces(
                        self._store, headers, body, max_bytes=self._limits.body_bytes, allow=_allowed_to(caller)
                    )
        except ClientLeft:
            raise
        except AgentLightningError as error:
            return _otlp_refusal(headers, error)
        except Exception:
            logger.exception("%s %s failed", call.verb, call.path)
            return _otlp_refusal(headers, _INTERNAL)

    async def _refuse_signal(self, call: Call) -> Answer:
        _only(call, "POST")
        return handle_other_signal(call.texts)


def _json(status: int, body: bytes, headers: dict[str, str] | None = None) -> Answer:
    return Answer(status, body, {"content-type": "application/json", **(headers or {})})


def _only(call: Call, verb: str) -> None:
    if call.verb != verb:
        raise NoRoute((verb,))


def _allowed_to(caller: Caller) -> Callable[[str, str], bool]:
    if caller.role != "agent":
        return lambda _rollout_id, _attempt_id: True
    return lambda rollout_id, attempt_id: (rollout_id, attempt_id) == (caller.rollout_id, caller.attempt_id)


def _key_of(call: Call) -> str | None:
    key = call.headers.get(b"idempotency-key")
    if key is None:
        return None
    text = key.decode("latin-1")
    if not 1 <= len(text) <= LONGEST_KEY or not text.isascii() or not text.isprintable() or " " in text:
        raise InvalidValue(f"Idempotency-Key must have 1 to {LONGEST_KEY} visible ASCII characters")
    return text


def _fingerprint(call: Call, body: bytes) -> bytes:
    head = f"{call.verb} {call.path}?".encode() + call.query + b"\n"
    return hashlib.sha256(head + body).digest()[:16]


def _otlp_refusal(headers: dict[str, str], error: AgentLightningError) -> Answer:
    answer = error_answer(headers, error.status, str(error))
    answer.headers.update(_HEADERS.get(error.status, {}))
    return answer


def _refusal(error: AgentLightningError) -> Answer:
    headers = _HEADERS.get(error.status)
    if isinstance(error, NoRoute) and error.allowed:
        headers = {"allow": ", ".join(error.allowed)}
    kind = type(error).__name__ if type(error).__module__ == AgentLightningError.__module__ else "StoreError"
    return _json(error.status, to_json({"detail": encodable(str(error)), "error": kind}), headers)
