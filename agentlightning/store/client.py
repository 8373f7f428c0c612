"""A store that lives behind an address."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Self
from urllib.parse import urlencode

from agentlightning.errors import ConfigurationError, StoreError
from agentlightning.http1 import HttpClient, server_of
from agentlightning.store.base import LightningStoreCapabilities
from agentlightning.store.brief import decode_brief
from agentlightning.store.connections import Connections, LoopConnection
from agentlightning.store.exchange import Exchange, Request
from agentlightning.store.forwarding import ForwardingStore
from agentlightning.store.operations import Operation
from agentlightning.store.otlp.paths import TRACES_PATH
from agentlightning.store.polls import LONGEST_POLL, check_wait, is_final
from agentlightning.store.route_table import PREFIX
from agentlightning.store.tokens import token_given
from agentlightning.store.wire import Wire, wire_of


class LightningStoreClient(ForwardingStore):
    """The store behind an address; it may be shared by threads and event loops, and sent to other processes.

    What fails for a reason that may pass is tried again, under one idempotency key, so that the store does it once.
    Before each retry the server is asked for its health; one that does not answer is sent nothing.

    Args:
        server_address: Where it is, such as `http://127.0.0.1:4747`.
        retry_delays: Seconds before each retry; empty for none.
        health_retry_delays: Seconds between questions for the server's health; empty to ask none.
        request_timeout: Seconds one request may take.
        connection_timeout: Seconds a connection may take to be made.
        token: What the server demands of its callers; None takes `AGL_TOKEN` from the environment, if it is set.
    """

    def __init__(
        self,
        server_address: str,
        *,
        retry_delays: Sequence[float] = (1.0, 2.0, 5.0),
        health_retry_delays: Sequence[float] = (0.1, 0.2, 0.5),
        request_timeout: float = 30.0,
        connection_timeout: float = 5.0,
        token: str | None = None,
    ) -> None:
        self.server_address_root = _checked(server_address)
        self.server_address = f"{self.server_address_root}{PREFIX}"
        self._retry_delays = tuple(retry_delays)
        self._health_retry_delays = tuple(health_retry_delays)
        self._request_timeout = request_timeout
        self._connection_timeout = connection_timeout
        self._token = token_given(token)
        self._longest_poll = min(LONGEST_POLL, request_timeout / 2)
        headers = {"content-type": "application/json"}
        if self._token:
            headers["authorization"] = f"Bearer {self._token}"
        self._exchange = Exchange(
            self.server_address_root, headers, self._retry_delays, self._health_retry_delays, request_timeout
        )
        self._connections = Connections(partial(HttpClient, connection_timeout), drain_seconds=request_timeout)

    @property
    def capabilities(self) -> LightningStoreCapabilities:
        """Callable from any thread, loop and process, all of which see one copy."""
        return {"thread_safe": True, "async_safe": True, "zero_copy": True, "otlp_traces": True}

    def otlp_traces_endpoint(self) -> str:
        """Return the URL at which the server takes OTLP spans."""
        return f"{self.server_address_root}{TRACES_PATH}"

    def __getstate__(self) -> dict[str, Any]:
        return {
            "server_address": self.server_address_root,
            "retry_delays": self._retry_delays,
            "health_retry_delays": self._health_retry_delays,
            "request_timeout": self._request_timeout,
            "connection_timeout": self._connection_timeout,
            "token": self._token,
        }

    def __setstate__(self, settings: dict[str, Any]) -> None:
        LightningStoreClient.__init__(self, **settings)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Let requests under way end, end waits with `StoreClosed`, and refuse what comes later."""
        await self._connections.close()

    async def call(self, operation: Operation, arguments: dict[str, Any]) -> Any:
        """Send a request and return what its answer says.

        Raises:
            StoreError: The store's own refusal, or the last of the failures that might have passed.
        """
        wire = wire_of(operation)
        connection = await self._connections.of_this_loop()
        with connection.call():
            if wire.waits is None:
                return await connection.in_turn(self._ask(connection, wire, arguments))
            seconds = arguments.get(wire.waits, wire.parameters[wire.waits].default)
            check_wait(seconds, wire.waits)
            if seconds is not None and seconds <= 0:
                return await connection.in_turn(self._ask(connection, wire, arguments))
            return await connection.until_closing(self._wait(connection, wire, arguments, seconds))

    async def _wait(
        self, connection: LoopConnection, wire: Wire, arguments: dict[str, Any], seconds: float | None
    ) -> Any:
        """Ask until the answer is final or the time is up; each poll is a request of its own."""
        assert wire.waits is not None
        clock = asyncio.get_running_loop().time
        left = float("inf") if seconds is None else seconds
        deadline = clock() + left
        while True:
            poll = min(left, self._longest_poll)
            asked_at = clock()
            answer = await self._ask(connection, wire, {**arguments, wire.waits: poll})
            left = deadline - clock()
            if poll < self._longest_poll or left <= 0 or is_final(wire.waits, answer, clock() - asked_at, poll):
                return answer

    async def _ask(self, connection: LoopConnection, wire: Wire, arguments: dict[str, Any]) -> Any:
        request = self._request(wire, arguments)
        content = await self._exchange.send(connection, request)
        echoes = wire.operation.echoes
        try:
            brief = None if echoes is None else decode_brief(content, arguments[echoes])
            return wire.decode_answer(content) if brief is None else brief
        except ValueError as error:  # pydantic's own errors are some
            raise StoreError(f"the answer from {self.server_address_root} cannot be read: {error}") from error

    def _request(self, wire: Wire, arguments: dict[str, Any]) -> Request:
        operation = wire.operation
        target = PREFIX + wire.encode_path(arguments)
        body, query = wire.encode_arguments(arguments)
        if query:
            target += "?" + urlencode(query)
        return Request(
            operation.verb,
            target,
            body,
            key=_new_key() if operation.keyed else None,
            brief=operation.echoes is not None,
            withdrawn=operation.keyed and operation.role != "agent",  # an agent claims nothing
        )


def _new_key() -> str:
    """Return a key that no other request has; in the order of time, so that the store writes new ones side by side."""
    return f"{time.time_ns():016x}{secrets.token_hex(8)}"


def _checked(address: str) -> str:
    """Return a server's address without a slash at its end.

    Raises:
        ConfigurationError: It is none.
    """
    try:
        server_of(address)
    except ValueError:
        raise ConfigurationError(
            f"{address!r} is no address of a store: use one such as http://127.0.0.1:4747"
        ) from None
    return address.rstrip("/")
