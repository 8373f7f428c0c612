"""A store that lives behind an address."""

from __future__ import annotations

import asyncio
import weakref
from typing import Any
from urllib.parse import quote

import aiohttp
from pydantic_core import from_json
from yarl import URL

from agentlightning import errors
from agentlightning._internal.ids import generate_id
from agentlightning.errors import StoreError, StoreUnreachable
from agentlightning.store.forwarding import ForwardingStore
from agentlightning.store.operations import Operation
from agentlightning.store.wire import wire_of


class LightningStoreClient(ForwardingStore):
    """The store behind an address.

    Args:
        server_address: Where it is, such as `http://127.0.0.1:4747`.
    """

    def __init__(self, server_address: str) -> None:
        self.server_address_root = server_address.rstrip("/")
        self.server_address = f"{self.server_address_root}/v1/agl"
        self._sessions: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, aiohttp.ClientSession] = (
            weakref.WeakKeyDictionary()
        )

    async def call(self, operation: Operation, arguments: dict[str, Any]) -> Any:
        """Send a request and return what its answer says."""
        wire = wire_of(operation)
        body, query = wire.encode_arguments(arguments)
        path = operation.path
        for name in operation.path_parameters:
            path = path.replace(f"{{{name}}}", quote(str(arguments[name]), safe=""))
        url = URL(self.server_address + path, encoded=True).with_query(query)
        headers = {"content-type": "application/json"}
        if operation.mutates:
            headers["idempotency-key"] = generate_id(32)
        try:
            async with self._session().request(
                operation.verb, url, data=body if operation.verb == "POST" else None, headers=headers
            ) as response:
                content = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise StoreUnreachable(f"no answer from the store at {self.server_address_root}: {error}") from error
        if response.status >= 400:
            raise _error_of(response.status, content)
        return wire.decode_answer(content)

    def _session(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        session = self._sessions.get(loop)
        if session is None or session.closed:
            session = self._sessions[loop] = aiohttp.ClientSession(auto_decompress=False)
        return session

    async def close(self) -> None:
        """Close the connections of this event loop."""
        session = self._sessions.pop(asyncio.get_running_loop(), None)
        if session is not None:
            await session.close()


def _error_of(status: int, content: bytes) -> StoreError:
    try:
        told = from_json(content)
        kind = getattr(errors, told["error"])
        return kind(told["detail"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return StoreError(f"the store answered {status}: {content[:200]!r}")
