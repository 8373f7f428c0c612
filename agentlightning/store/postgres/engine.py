"""The thread in which everything lives that talks to the database."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from typing import Any, Final, TypeVar

from agentlightning._internal.ids import generate_id
from agentlightning.errors import StoreError
from agentlightning.store.events import Signals, call_in_loop
from agentlightning.store.postgres.address import Address
from agentlightning.store.postgres.calls import Call, Calls
from agentlightning.store.postgres.connections import Connections, hang_up
from agentlightning.store.postgres.notices import announcement, notice_of
from agentlightning.store.postgres.presence import Presence
from agentlightning.store.postgres.retries import again_where_it_helps
from agentlightning.store.postgres.tables import prepare
from agentlightning.store.postgres.timer import Timer
from agentlightning.store.postgres.transaction import Operation, read, write
from agentlightning.store.sql.leases import restart_leases
from agentlightning.store.sql.transaction import Changes

T = TypeVar("T")

_OPEN_SECONDS: Final = 40.0
_CLOSE_SECONDS: Final = 5.0


class Engine:
    """Works on calls in an event loop of its own, listens to other stores, and watches the deadlines.

    Callers may come from any thread and loop. The thread ends once the engine was stopped and all callers have heard
    of what they asked for.

    Args:
        address: Where the tables are.
        signals: Told of what is committed, here and by others.
        connections: The most connections to use, beside the one that listens.

    Raises:
        ConfigurationError: The place cannot be used.
        StoreUnreachable: Nobody answers there.
    """

    def __init__(self, address: Address, signals: Signals, connections: int) -> None:
        self._address = address
        self._signals = signals
        self._origin = generate_id(16)
        self._loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections = Connections(address.connect, connections)
        self._presence = Presence(address, self._hear, lambda: self._write(restart_leases), self._catch_up)
        self._timer = Timer(self._write, self._presence.here)
        self.calls = Calls(self._start, self._end)
        opened: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._run, args=(opened,), name="agl-store-postgres", daemon=True)
        self._thread.start()
        try:
            opened.result(_OPEN_SECONDS)
        except concurrent.futures.TimeoutError as error:
            self.calls.stop()
            raise StoreError(f"{address.place} was not ready in {_OPEN_SECONDS} s") from error
        except BaseException:
            self._thread.join(_CLOSE_SECONDS)
            raise

    def stop(self) -> None:
        """Refuse further calls; the thread ends by itself once all that was accepted is done and heard of."""
        self.calls.stop()

    async def join(self) -> None:
        """Wait for a stopped engine's thread to end.

        Raises:
            StoreError: It did not end in time.
        """
        await asyncio.to_thread(self._join)

    def _join(self) -> None:
        ended = self.calls.wait()
        self._thread.join(2 * _CLOSE_SECONDS)
        if not ended or self._thread.is_alive():
            raise StoreError(f"the thread {self._thread.name} is still busy with operations that do not end")

    def _start(self, call: Call) -> bool:
        return call_in_loop(self._loop, self._begin, call)

    def _end(self) -> None:
        call_in_loop(self._loop, self._ended.set)

    # -- what follows runs in the thread -------------------------------------------------------------------------------

    def _run(self, opened: concurrent.futures.Future[None]) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            try:
                runner.run(self._serve(opened))
            except BaseException as error:
                self.calls.stop()
                if opened.done():
                    raise
                opened.set_exception(error)

    async def _serve(self, opened: concurrent.futures.Future[None]) -> None:
        await self._prepare()
        await self._presence.open()
        background = [asyncio.create_task(self._presence.keep()), asyncio.create_task(self._timer.run())]
        opened.set_result(None)
        try:
            await self._ended.wait()
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            await self._presence.close()
            await self._connections.close(_CLOSE_SECONDS)

    async def _prepare(self) -> None:
        connection = await self._address.connect()
        try:
            await prepare(connection, self._address)
        finally:
            await hang_up(connection, _CLOSE_SECONDS)

    def _begin(self, call: Call) -> None:
        task = self._loop.create_task(self._work(call))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, call: Call) -> None:
        try:
            if not call.cancelled:
                call.result = await self._do(call)
        except Exception as error:  # noqa: BLE001  # it is the caller's, and goes there
            call.error = error
        finally:
            self.calls.answer(call)

    async def _do(self, call: Call) -> Any:
        if call.mode == "write":
            return await self._write(call.operation)
        return await self._read(call.operation)

    async def _write(self, operation: Operation[T]) -> T:
        async def attempt() -> tuple[T, Changes]:
            async with self._connections.lend() as connection:
                return await write(connection, operation, self._announcement)

        result, changes = await again_where_it_helps(attempt, self._presence.doubt)
        self._publish(changes)
        return result

    async def _read(self, operation: Operation[T]) -> T:
        async def attempt() -> T:
            async with self._connections.lend() as connection:
                return await read(connection, operation)

        return await again_where_it_helps(attempt, self._presence.doubt)

    def _announcement(self, changes: Changes) -> str:
        return announcement(self._address.channel, self._origin, changes)

    def _publish(self, changes: Changes) -> None:
        self._signals.publish([changes])
        if changes.deadline is not None:
            self._timer.announce(changes.deadline)

    def _hear(self, payload: str) -> None:
        try:
            notice = notice_of(payload)
        except (ValueError, TypeError):  # from a program of another version, say
            return self._catch_up()
        if notice.origin == self._origin:
            return
        self._publish(notice.changes)
        if not notice.complete:
            self._signals.call_all()

    def _catch_up(self) -> None:
        self._signals.call_all()
        self._timer.look_again()
