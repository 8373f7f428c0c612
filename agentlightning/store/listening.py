"""Work for a client that may leave before its answer."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from starlette.types import Receive

from agentlightning.errors import StoreError
from agentlightning.serving import CLIENT_LEFT


class ClientLeft(StoreError):
    """The client left before its answer; nobody receives this."""

    status = CLIENT_LEFT


class Listening:
    """Cancels the block's task when the client leaves, so that the store takes back what nobody would hear of.

    The block raises `ClientLeft` then, or what `interrupt` was called with.

    Args:
        receive: Of the request, whose body was read.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._reason: StoreError | None = None
        self._listener: asyncio.Task[None] | None = None

    def interrupt(self, reason: StoreError) -> None:
        """End the block now."""
        if self._reason is None:
            self._reason = reason
            self._task.cancel()

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._begin = task.get_loop().call_soon(self._begin_listening)  # a block that waits for nothing costs no task
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._begin.cancel()
        if self._listener is not None:
            self._listener.cancel()
        if self._reason is not None and self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise self._reason from None

    def _begin_listening(self) -> None:
        self._listener = asyncio.ensure_future(self._listen())

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.interrupt(ClientLeft("the client left"))
