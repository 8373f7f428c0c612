"""A request to a store's server, repeated while its failure may pass."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic_core import from_json

from agentlightning import errors
from agentlightning.errors import StoreError, StoreUnreachable
from agentlightning.http1 import Answer, HttpClient, server_of
from agentlightning.store.brief import HEADER, MINIMAL
from agentlightning.store.connections import LoopConnection
from agentlightning.store.route_table import HEALTH_PATH, WITHDRAW_PATH

logger = logging.getLogger(__name__)

_MAY_PASS: Final = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses after which the same request may succeed."""
_PROBE: Final = 2.0
"""Seconds in which a server that is well says so."""
_LONGEST_RETRY_AFTER: Final = 30.0
"""Seconds; a server that asks for more patience is asked earlier."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent.

    Attributes:
        target: Path and query.
        key: The idempotency key of what must not be done twice.
        brief: Whether the answer need not repeat what is sent.
        withdrawn: Whether to withdraw it if its caller is cancelled; it has a key then.
    """

    verb: str
    target: str
    body: bytes
    key: str | None = None
    brief: bool = False
    withdrawn: bool = False

    @property
    def headers(self) -> dict[str, str]:
        """What this request adds to its session's headers."""
        keyed = {} if self.key is None else {"idempotency-key": self.key}
        return {**keyed, HEADER: MINIMAL} if self.brief else keyed


class MayPass(Exception):
    """A request failed for a reason that may pass; `failure` is what its caller hears if it does not."""

    def __init__(self, failure: StoreError, retry_after: float = 0.0) -> None:
        super().__init__(str(failure))
        self.failure = failure
        self.retry_after = retry_after


class Exchange:
    """Sends requests, and sends them again.

    Args:
        root: The server's address.
        headers: What is said with each request, in lower case.
        retry_delays: Seconds before each retry.
        health_retry_delays: Seconds between questions for the server's health before a retry; empty to ask none.
        request_timeout: Seconds one request may take.
    """

    def __init__(
        self,
        root: str,
        headers: Mapping[str, str],
        retry_delays: Sequence[float],
        health_retry_delays: Sequence[float],
        request_timeout: float,
    ) -> None:
        self._root = root
        self._server = server_of(root)
        self._headers = headers
        self._timeout = request_timeout
        self._retry_delays = retry_delays
        self._health_retry_delays = health_retry_delays

    async def send(self, connection: LoopConnection, request: Request) -> bytes:
        """Return the body of the answer. What is cancelled meanwhile is withdrawn: its answer may be on the way.

        Raises:
            StoreError: The store refused, or the last failure of all tries.
        """
        try:
            return await self._send_until_answered(connection, request)
        except asyncio.CancelledError:
            if request.withdrawn and request.key is not None:
                connection.in_background(self._withdraw(connection.http, request.key))
            raise

    async def _send_until_answered(self, connection: LoopConnection, request: Request) -> bytes:
        try:
            return await self._send_once(connection.http, request)
        except MayPass as error:
            last = error
        for delay in self._retry_delays:
            pause = max(delay, last.retry_after)
            logger.warning(
                "%s %s failed (%s); again in %.1f s", request.verb, request.target.partition("?")[0], last, pause
            )
            if not await connection.pause(pause):
                break
            if not await self._healthy(connection):
                continue
            try:
                return await self._send_once(connection.http, request)
            except MayPass as error:
                last = error
        raise last.failure

    async def _send_once(self, http: HttpClient, request: Request) -> bytes:
        try:
            answer, body = await self._answer(http, request, self._timeout)
        except OSError as error:
            failure = StoreUnreachable(
                f"no answer from the store at {self._root}: {str(error) or type(error).__name__}"
            )
            failure.__cause__ = error
            raise MayPass(failure) from error
        if answer.status < 300:
            return body
        failure = _error_of(answer.status, body)
        if answer.status in _MAY_PASS:
            raise MayPass(failure, _retry_after(answer.headers.get(b"retry-after", b"")))
        raise failure

    async def _answer(self, http: HttpClient, request: Request, seconds: float) -> tuple[Answer, bytes]:
        """Return an answer with its body; that nothing is done twice is what requests have keys for."""
        server, headers = self._server, {**self._headers, **request.headers}
        target = server.path + request.target
        answer = await http.request(
            server, request.verb, target, headers, request.body, repeatable=True, seconds=seconds
        )
        try:
            return answer, await answer.read()
        finally:
            answer.close()

    async def _withdraw(self, http: HttpClient, key: str) -> None:
        """Tell the store to undo a request. If that fails, its worker's next heartbeat does not list the claim."""
        try:
            await self._send_once(http, Request("POST", WITHDRAW_PATH, b"", key))
        except (MayPass, StoreError) as error:
            logger.warning("A cancelled request could not be withdrawn: %s", error)

    async def _healthy(self, connection: LoopConnection) -> bool:
        """Whether the server says that it is well; True without asking if it is not to be asked."""
        if not self._health_retry_delays:
            return True
        for delay in (0.0, *self._health_retry_delays):
            if delay and not await connection.pause(delay):
                return False
            try:
                answer, _ = await self._answer(connection.http, Request("GET", HEALTH_PATH, b""), _PROBE)
                if answer.status == 200:
                    return True
            except OSError as error:
                logger.debug("The store at %s is not well: %s", self._root, error)
        return False


def _retry_after(value: bytes) -> float:
    try:
        return min(float(value or 0.0), _LONGEST_RETRY_AFTER)
    except ValueError:  # a date, which no store sends
        return 0.0


def _error_of(status: int, content: bytes) -> StoreError:
    """Return the error that the store raised, as the very class; what is none of ours becomes a `StoreError`."""
    try:
        told: Any = from_json(content)
        name, detail = told["error"], told["detail"]
    except (ValueError, KeyError, TypeError):
        return StoreError(f"the store's address answered {status}: {content[:200].decode(errors='replace')}")
    kind: Any = getattr(errors, str(name), None)
    known = isinstance(kind, type) and issubclass(kind, StoreError)
    return kind(detail) if known else StoreError(f"{name}: {detail}")
