"""Operations on their way from the loops of their callers to the store's own loop and back."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, TypeAlias, TypeVar

from agentlightning.errors import StoreClosed
from agentlightning.store.events import call_in_loop
from agentlightning.store.postgres.transaction import Operation
from agentlightning.store.processes import require_process
from agentlightning.store.sql.transaction import Transaction

logger = logging.getLogger(__name__)

T = TypeVar("T")
Mode: TypeAlias = Literal["write", "read"]
Undo: TypeAlias = Callable[[Transaction, T], Coroutine[Any, Any, None]]

_CLOSE_SECONDS: Final = 15.0
"""Longer than an operation tries to find a lost database again."""


@dataclass(slots=True, eq=False)
class Call:
    """An operation that somebody asked for; without a caller when it is the undoing of another."""

    mode: Mode
    operation: Operation[Any]
    caller: asyncio.Future[None] | None = None
    undo: Undo[Any] | None = None
    result: Any = None
    error: Exception | None = None
    answered: bool = False

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.caller is not None and self.caller.cancelled()

    @property
    def stuck(self) -> bool:
        """Whether its answer lies in a loop that stands still."""
        return self.answered and self.caller is not None and not self.caller.get_loop().is_running()


class Calls:
    """Keeps each operation from being asked for until its caller has heard of it, or until it is undone.

    Args:
        start: Begins to work on a call, from any thread; `answer` follows. False when the worker is gone.
        idle: Called from any thread once no more calls come and all are heard of.
    """

    def __init__(self, start: Callable[[Call], bool], idle: Callable[[], object]) -> None:
        self._start = start
        self._idle = idle
        # Guards the next two; never held across an await. Reentrant: a forgotten store is stopped by whatever thread
        # the garbage collector runs in.
        self._state = threading.Condition()
        self._pending: dict[Call, Call] = {}
        self._closed = False
        self._process = os.getpid()

    async def run(self, mode: Mode, operation: Operation[T], undo: Undo[T] | None = None) -> T:
        """Run an operation; returns once it is committed.

        Args:
            mode: What it does.
            operation: Skipped if the caller is cancelled before its turn.
            undo: Runs with the result if the caller is cancelled too late for skipping, so that nobody hears of it.

        Raises:
            StoreClosed: The store is closed.
            StoreError: This is a child of the process that has the store's thread.
        """
        require_process(self._process)
        call = Call(mode, operation, asyncio.get_running_loop().create_future(), undo)
        assert call.caller is not None
        with self._state:
            if self._closed:
                raise StoreClosed("the store is closed")
            self._accept(call)
        try:
            await call.caller
        except asyncio.CancelledError:
            if not call.cancelled:  # cancelled between the answer and this step
                self._take_back(call)
            raise
        self._hear(call)
        return call.result

    def answer(self, call: Call) -> None:
        """A call is done: it has a result or an error, or was skipped."""
        if call.caller is None:
            if call.error is not None:
                logger.error("Could not undo what a cancelled caller never heard of: %s", call.error)
            self._take_back(call)
        elif not call_in_loop(call.caller.get_loop(), self._deliver, call):
            self._take_back(call)
        with self._state:
            call.answered = True
            self._notice_end()

    def stop(self) -> None:
        """Refuse further calls."""
        if self._process != os.getpid():  # they are another process's, and so is whoever holds the lock
            return
        with self._state:
            self._closed = True
            self._notice_end()

    def wait(self) -> bool:
        """Wait in this thread until all calls are heard of; False if that takes too long.

        What was answered into a loop that stands still is undone; if that loop goes on, the caller hears `StoreClosed`.
        """
        if self._process != os.getpid():
            return True
        with self._state:
            self._state.wait_for(lambda: all(call.stuck for call in self._pending), _CLOSE_SECONDS)
            for call in [call for call in self._pending if call.answered]:
                self._take_back(call)
            return self._state.wait_for(lambda: not self._pending, _CLOSE_SECONDS)

    def _deliver(self, call: Call) -> None:
        """Runs in the caller's loop."""
        assert call.caller is not None
        if call.cancelled:
            self._take_back(call)
        else:
            call.caller.set_result(None)

    def _accept(self, call: Call) -> None:
        if not self._start(call):
            raise StoreClosed("the store is closed")
        self._pending[call] = call

    def _hear(self, call: Call) -> None:
        """The caller hears of its operation now, so that it counts; raises what the operation raised."""
        with self._state:
            if self._pending.pop(call, None) is None:
                raise StoreClosed("the store was closed while its answer waited for this event loop to go on")
            self._notice_end()
        if call.error is not None:
            raise call.error

    def _take_back(self, call: Call) -> None:
        """Nobody hears of this call; undo it if it was not undone before."""
        with self._state:
            if self._pending.pop(call, None) and call.undo is not None and call.result is not None:
                self._accept(Call("write", partial(_call_undo, call.undo, call.result)))
            self._notice_end()

    def _notice_end(self) -> None:
        if self._closed:
            self._state.notify_all()
            if not self._pending:
                self._idle()


async def _call_undo(undo: Undo[Any], result: Any, tx: Transaction) -> None:
    await undo(tx, result)
