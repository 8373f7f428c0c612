"""A lane: operations that run on SQLite connections in threads of their own, in groups that commit together."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Final, Literal, TypeAlias, TypeVar

from agentlightning.errors import StoreClosed, StoreError, TooBusy
from agentlightning.store.events import call_in_loop
from agentlightning.store.processes import require_process
from agentlightning.store.sql.transaction import Changes, Transaction
from agentlightning.store.sqlite_transaction import Operation, SqliteTransaction, begin_within, roll_back, run_to_end

logger = logging.getLogger(__name__)

T = TypeVar("T")
Undo: TypeAlias = Callable[[Transaction, T], Coroutine[Any, Any, None]]
Timer: TypeAlias = Callable[[Transaction, float], Coroutine[Any, Any, float | None]]

_CLOSE_SECONDS: Final = 10.0
_RETRY_SECONDS: Final = 1.0
"""How long after a failure of the database its timer tries again."""
_BUSY_SECONDS: Final = 30.0
"""How long a lane waits for another process to end its transaction."""
_PULSE: Final = 0.5
"""How often a thread that waits for a deadline looks whether it was away, for nothing tells it so."""
_ABSENCE: Final = 0.5
"""How late it is then at the least: what is less may be a machine that is busy."""
_ALONE_SECONDS: Final = 0.003
"""How long a caller that was alone is taken to stay so: a turn of the loop costs a third of a small write."""
_UPKEEP_EVERY: Final = 64
"""Commits between two times that the lane's thread looks after its database."""
_GROUP: Final = 256
"""The most operations that commit together: it bounds how long the first of them waits for the last."""


@dataclass(slots=True, eq=False)
class _Job:
    """An operation on its way through a lane; without a caller when it is the undoing of another."""

    operation: Operation[Any]
    caller: asyncio.Future[None] | None = None
    undo: Undo[Any] | None = None
    result: Any = None
    error: Exception | None = None
    succeeded: bool = False
    answered: bool = False
    changes: Changes = field(default_factory=Changes)

    @property
    def cancelled(self) -> bool:
        return self.caller is not None and self.caller.cancelled()

    @property
    def stuck(self) -> bool:
        """Whether its answer lies in a loop that stands still."""
        return self.answered and self.caller is not None and not self.caller.get_loop().is_running()


class Lane:
    """Runs operations on connections, one thread each, which the lane closes in the end.

    A small operation whose caller is alone runs in the caller's thread, on the lane's connection: handing it to another
    thread and back costs as much as it does. Whatever may wait (for other callers, for other processes, for a disk) is
    left to the lane's thread.

    Args:
        name: The threads' name.
        connections: Connections in autocommit mode, usable from any thread.
        mode: "write" groups what arrives together, in order, into one transaction; "read" runs each operation in a
            snapshot of its own.
        publish: Called with what a transaction changed, after its commit and before its callers hear of it.
        timer: Runs at once, and again at the time of the lease clock that it returns or that a transaction reports as a
            deadline, if that is earlier; on one connection only. What came before that time runs before it. It is
            given the seconds for which the lane was away since its last run: a process may be stopped for a while,
            and a database busy.
        upkeep: Run by the thread on its only connection, every now and then between transactions: what commits, which
            small operations make in their callers' threads, must not wait for. None: all run in the lane's threads.
        closing: Shared by the lanes of one file, whose connections then close one at a time: of two that close at once,
            each takes the other for the last one, and the write-ahead log stays behind.
        farewell: Called by each thread once it has closed its connection.
    """

    def __init__(
        self,
        name: str,
        connections: Iterable[sqlite3.Connection],
        mode: Literal["write", "read"],
        publish: Callable[[Iterable[Changes]], None],
        *,
        timer: Timer | None = None,
        upkeep: Callable[[sqlite3.Connection], None] | None = None,
        closing: threading.Lock | None = None,
        farewell: Callable[[], None] | None = None,
    ) -> None:
        self._begin = "BEGIN IMMEDIATE" if mode == "write" else "BEGIN"
        self._group = _GROUP if mode == "write" else 1
        self._publish = publish
        self._timer = timer
        self._deadline = None if timer is None else 0.0  # of the lease clock; changed by who has the turn
        self._milestone: _Job | None = None  # on its way through the queue since the deadline came
        self._last_look: float | None = None  # when the thread began to wait for a deadline or a job
        self._away = 0.0  # seconds that the timer does not know of yet
        self._closing = closing or threading.Lock()
        self._farewell = farewell
        self._process = os.getpid()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._state = threading.Condition()  # guards the next three; never held across an await
        self._pending: dict[_Job, _Job] = {}  # accepted, in order; their callers have not heard of them yet
        self._closed = False
        self._callers = 0  # who lets the loop go on before running here
        self._alone_until = 0.0
        connections = list(connections)
        self._here = connections[0] if upkeep is not None else None  # for operations in their callers' threads
        self._upkeep = upkeep
        self._turn = threading.Lock()  # who has it may use that connection
        self._commits = 0  # since the last upkeep
        self._threads = [
            threading.Thread(target=self._work, args=(connection,), name=name, daemon=True)
            for connection in connections
        ]
        for thread in self._threads:
            thread.start()

    async def run(self, operation: Operation[T], undo: Undo[T] | None = None, *, small: bool = False) -> T:
        """Run an operation; returns once it is committed.

        Args:
            operation: Skipped if the caller is cancelled before its turn.
            undo: Runs with the result if the caller is cancelled too late for skipping, so that nobody hears of it.
            small: Whether it takes so little time that the caller's thread may spend it.

        Raises:
            StoreClosed: The lane is closed.
            StoreError: The database failed, or this is a child of the process that has the lane's threads.
        """
        require_process(self._process)
        # Whoever finds others on their way goes behind them, so that operations run in the order of their calls.
        if self._here is not None and (small or self._callers) and await self._alone() and small:
            job = _Job(operation)
            if self._run_here(self._here, job):
                if job.error is not None:
                    raise job.error
                return job.result
        job = _Job(operation, asyncio.get_running_loop().create_future(), undo)
        assert job.caller is not None
        with self._state:
            if self._closed:
                raise StoreClosed("the store is closed")
            self._accept(job)
        try:
            await job.caller
        except asyncio.CancelledError:
            if not job.cancelled:  # cancelled between the answer and this step
                self._take_back([job])
            raise
        self._hear(job)
        return job.result

    async def _alone(self) -> bool:
        """Return whether nobody else is there to share a transaction with; to see that, the loop goes on once."""
        if not self._callers and not self._pending and time.monotonic() < self._alone_until:
            return True
        with self._state:
            self._callers += 1
        try:
            await asyncio.sleep(0)
        finally:
            with self._state:
                self._callers -= 1
        alone = not self._callers and not self._pending
        self._alone_until = time.monotonic() + _ALONE_SECONDS if alone else 0.0
        return alone

    def _run_here(self, connection: sqlite3.Connection, job: _Job) -> bool:
        """Run a job in this thread, unless that would have to wait; returns whether it ran."""
        if not self._turn.acquire(blocking=False):
            return False
        try:
            if self._closed or self._pending or not self._commit(connection, [job], patience=0.0):
                return False
        finally:
            self._turn.release()
        deadline = job.changes.deadline
        if self._commits >= _UPKEEP_EVERY or (deadline is not None and deadline == self._deadline):
            with self._state:
                if not self._closed:
                    self._accept(_Job(_nothing))  # the thread shall see what there is to do
        return True

    def stop(self) -> None:
        """Refuse further work; the threads end by themselves once all that was accepted is done and heard of."""
        if self._process != os.getpid():  # they are another process's, and so is whoever holds the lock
            return
        with self._state:
            self._closed = True
            self._end_if_idle()

    async def join(self) -> None:
        """Wait for a stopped lane's threads to end.

        What was answered into a loop that stands still is undone; if that loop goes on, the caller hears `StoreClosed`.

        Raises:
            StoreError: They did not end in time.
        """
        await asyncio.to_thread(self._join)

    def _join(self) -> None:
        if self._process != os.getpid():
            return
        with self._state:
            self._state.wait_for(lambda: all(job.stuck for job in self._pending), _CLOSE_SECONDS)
            self._take_back([job for job in self._pending if job.answered])
        for thread in self._threads:
            thread.join(_CLOSE_SECONDS)
            if thread.is_alive():
                raise StoreError(f"the thread {thread.name} is still busy after {_CLOSE_SECONDS} s")

    def _end_if_idle(self) -> None:
        if self._closed:
            self._state.notify_all()
            if not self._pending:
                for _ in self._threads:
                    self._jobs.put(None)

    def _work(self, connection: sqlite3.Connection) -> None:
        try:
            while (group := self._next_group()) != []:
                with self._turn if self._upkeep else nullcontext():
                    self._notice_absence()
                    all_before = group is None or self._reached_milestone(group)
                    if group:
                        self._commit(connection, group)
                    if self._deadline is not None and self._deadline <= time.monotonic():
                        if all_before:
                            self._run_timer(connection)
                        else:
                            self._set_milestone()
                    self._look_after(connection)
                if group is not None:
                    self._deliver(group)
                    group.clear()  # an idle lane keeps no results alive
        finally:
            with self._turn, self._closing:
                connection.close()
                if self._farewell is not None:
                    self._farewell()

    def _next_group(self) -> list[_Job] | None:
        """Wait for a job and take what else is there; nothing when the thread shall end, None when none came."""
        self._last_look = None if self._deadline is None else time.monotonic()
        try:
            job = self._jobs.get(timeout=self._seconds_left())
        except Empty:
            return None
        group: list[_Job] = []
        while job is not None:
            group.append(job)
            if len(group) == self._group or self._jobs.empty():
                break
            job = self._jobs.get()
        return group

    def _seconds_left(self) -> float | None:
        """Return how long the thread may wait for a job; None without a deadline."""
        if self._deadline is None:
            return None
        return min(max(self._deadline - time.monotonic(), 0.0), _PULSE)

    def _notice_absence(self) -> None:
        """If the thread did not come for much longer than it waits at the most, tell the timer at once."""
        if self._last_look is None or time.monotonic() - self._last_look < _PULSE + _ABSENCE:
            return
        self._away += time.monotonic() - self._last_look
        self._deadline = time.monotonic()

    def _set_milestone(self) -> None:
        """Mark the end of the queue: what is before it came before the deadline, a sign of life for example."""
        if self._milestone is None:
            self._milestone = _Job(_nothing)
            self._jobs.put(self._milestone)

    def _reached_milestone(self, group: list[_Job]) -> bool:
        """Take the milestone out of a group; returns whether it was there."""
        if self._milestone not in group:
            return False
        group.remove(self._milestone)
        self._milestone = None
        return True

    def _run_timer(self, connection: sqlite3.Connection) -> None:
        """Run the timer in a transaction of its own, and set it anew."""
        assert self._timer is not None
        timer, away = self._timer, self._away
        job = _Job(lambda tx: timer(tx, away))
        self._deadline = None
        self._commit(connection, [job])
        if job.succeeded:
            self._away -= away
            self._set_timer(job.result)
        else:
            logger.error("Could not end the attempts that are due, trying again: %s", job.error)
            self._set_timer(time.monotonic() + _RETRY_SECONDS)

    def _set_timer(self, deadline: float | None) -> None:
        """Set the timer to a deadline, unless it is set to an earlier one."""
        if self._timer and deadline is not None and (self._deadline is None or deadline < self._deadline):
            self._deadline = deadline

    def _commit(self, connection: sqlite3.Connection, group: list[_Job], *, patience: float = _BUSY_SECONDS) -> bool:
        """Run a group in a transaction; returns False if another process was busy with its own for all that time."""
        try:
            if connection.in_transaction:  # the last one could not be rolled back
                connection.execute("ROLLBACK")
            if not begin_within(connection, self._begin, patience):
                if not patience:
                    return False
                self._away += patience  # whoever came to renew a lease is refused
                raise TooBusy(
                    f"another process has been writing to the file for {patience} s: nothing was written, try again"
                )
            for job in group:
                if not job.cancelled:
                    self._run(connection, job, alone=len(group) == 1)
            connection.execute("COMMIT")
            for job in group:
                if job.succeeded:
                    self._set_timer(job.changes.deadline)
            self._publish(job.changes for job in group if job.succeeded)
        except Exception as error:  # noqa: BLE001  # whatever failed, every caller must hear of it, or it waits forever
            for job in group:
                job.succeeded, job.error = False, error if isinstance(error, TooBusy) else _as_store_error(error)
            roll_back(connection)
        self._commits += 1
        return True

    def _look_after(self, connection: sqlite3.Connection) -> None:
        """Run the upkeep if it is time for it."""
        if self._upkeep is None or self._commits < _UPKEEP_EVERY:
            return
        self._commits = 0
        try:
            self._upkeep(connection)
        except (sqlite3.Error, OSError) as error:
            logger.error("The upkeep of the database failed, trying again later: %s", error)

    def _run(self, connection: sqlite3.Connection, job: _Job, *, alone: bool) -> None:
        """Run a job of a group; `alone`, it has no neighbours whose work its failure must spare."""
        if not alone:
            connection.execute("SAVEPOINT job")
        transaction = SqliteTransaction(connection)
        try:
            job.result = run_to_end(job.operation(transaction))
        except Exception as error:  # it is the caller's, and goes there
            if not connection.in_transaction:  # SQLite undid the whole group, as it does when the disk is full
                raise
            if alone:
                connection.execute("ROLLBACK")
                connection.execute(self._begin)
            else:
                connection.execute("ROLLBACK TO job")
            job.error = _as_store_error(error) if isinstance(error, sqlite3.Error) else error
        else:
            job.succeeded, job.changes = True, transaction.changes
        if not alone:
            connection.execute("RELEASE job")

    def _deliver(self, group: list[_Job]) -> None:
        """Answer the callers, with one call into each of their loops."""
        by_loop: defaultdict[asyncio.AbstractEventLoop | None, list[_Job]] = defaultdict(list)
        for job in group:
            if job.caller is None and job.error is not None:
                logger.error(
                    "What nobody waits for failed, such as the undoing of a cancelled operation: %s", job.error
                )
            by_loop[job.caller.get_loop() if job.caller else None].append(job)
        for loop, jobs in by_loop.items():
            if loop is None or not call_in_loop(loop, self._answer, jobs):
                self._take_back(jobs)
        with self._state:
            for job in group:
                job.answered = True
            self._end_if_idle()

    def _answer(self, jobs: list[_Job]) -> None:
        """Runs in the callers' loop."""
        for job in jobs:
            assert job.caller is not None
            if not job.caller.cancelled():
                job.caller.set_result(None)
        if unheard := [job for job in jobs if job.cancelled]:
            self._take_back(unheard)

    def _accept(self, job: _Job) -> None:
        self._pending[job] = job
        self._jobs.put(job)

    def _hear(self, job: _Job) -> None:
        """The caller hears of its operation now, so that it counts; raises what the operation raised."""
        with self._state:
            if self._pending.pop(job, None) is None:
                raise StoreClosed("the store was closed while its answer waited for this event loop to go on")
            self._end_if_idle()
        if job.error is not None:
            raise job.error

    def _take_back(self, jobs: list[_Job]) -> None:
        """Nobody hears of these operations; undo those that were not undone before."""
        with self._state:
            for job in reversed(jobs):  # the newest first, for it may build on an older one
                if self._pending.pop(job, None) and job.undo is not None and job.succeeded:
                    self._accept(_Job(partial(_call_undo, job.undo, job.result)))
            self._end_if_idle()


async def _nothing(tx: Transaction) -> None:
    """An operation that only wakes the lane's thread."""


async def _call_undo(undo: Undo[Any], result: Any, tx: Transaction) -> None:
    await undo(tx, result)


def _as_store_error(error: Exception) -> Exception:
    advice = ""
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_READONLY:
        advice = "; to change it, open it without read_only, as somebody who may write its file"
    failure = StoreError(f"the database failed: {error}{advice}")
    failure.__cause__ = error
    return failure
