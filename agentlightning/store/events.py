"""Waiting without polling: commits call those who wait for rollouts to finish or for work to come.

A waiter arms its watch, then looks into the store, then sleeps: whatever is committed after the look calls it, and
whatever was committed before is seen by the look. No wait costs a thread, and waiters of several loops may meet here.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager

from agentlightning.store.sql.transaction import Changes


class Watch:
    """Something one coroutine sleeps on and other threads call."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._called = asyncio.Event()

    def call(self) -> bool:
        """Wake the sleeper, from any thread; False if its loop is closed, so that it sleeps for ever."""
        return call_in_loop(self._loop, self._called.set)

    @property
    def stands_still(self) -> bool:
        """Whether its loop does not run now: it hears a call when that goes on, if it does."""
        return not self._loop.is_running()

    def reset(self) -> None:
        """Forget former calls."""
        self._called.clear()

    async def called(self, deadline: float | None) -> bool:
        """Sleep until called (True) or until the loop's time is `deadline` (False)."""
        try:
            async with asyncio.timeout_at(deadline):
                await self._called.wait()
        except TimeoutError:
            return False
        return True


class RolloutWatch(Watch):
    """Waits until each of its rollouts has finished; a restarted one counts as unfinished again."""

    def __init__(self, rollout_ids: Iterable[str]) -> None:
        super().__init__()
        self.rollout_ids = frozenset(rollout_ids)
        self.unfinished: set[str] = set()


class QueueWatch(Watch):
    """Waits for a place in the queue to be filled; `summoned` once it was called for one."""

    def __init__(self) -> None:
        super().__init__()
        self.summoned = False


class Signals:
    """Brings the changes that were committed to the watches that wait for them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # held for a few dictionary steps, never across an await
        self._by_rollout: dict[str, set[RolloutWatch]] = {}
        self._for_work: dict[QueueWatch, None] = {}  # in the order of arrival
        self._for_ends: set[Watch] = set()

    def publish(self, changes: Iterable[Changes]) -> None:
        """Tell the watches what was committed, in order."""
        called: list[Watch] = []
        with self._lock:
            for change in changes:
                for rollout_id, finished in change.rollouts:
                    called += self._note(rollout_id, finished)
                if any(finished for _, finished in change.rollouts):
                    called += self._for_ends
                called += self._summon(change.enqueued)
        gone = [watch for watch in called if not watch.call()]
        if gone:
            self._forget(gone)

    @contextmanager
    def watch_rollouts(self, rollout_ids: Iterable[str]) -> Generator[RolloutWatch]:
        """Register a watch on rollouts while the block runs."""
        watch = RolloutWatch(rollout_ids)
        with self._lock:
            for rollout_id in watch.rollout_ids:
                self._by_rollout.setdefault(rollout_id, set()).add(watch)
        try:
            yield watch
        finally:
            with self._lock:
                self._drop(watch)

    def expect(self, watch: RolloutWatch) -> None:
        """Arm a watch: until something else is known, none of its rollouts has finished."""
        with self._lock:
            watch.reset()
            watch.unfinished = set(watch.rollout_ids)

    def settle(self, watch: RolloutWatch, rollout_ids: Iterable[str]) -> None:
        """These rollouts need no waiting."""
        with self._lock:
            watch.unfinished.difference_update(rollout_ids)
            done = not watch.unfinished
        if done:
            watch.call()

    @contextmanager
    def watch_ends(self) -> Generator[Watch]:
        """Register a watch that is called whenever any rollout finishes, while the block runs."""
        watch = Watch()
        with self._lock:
            self._for_ends.add(watch)
        try:
            yield watch
        finally:
            with self._lock:
                self._for_ends.discard(watch)

    @contextmanager
    def watch_queue(self) -> Generator[QueueWatch]:
        """Register a watch on the queue while the block runs."""
        watch = QueueWatch()
        try:
            yield watch
        finally:
            with self._lock:
                self._for_work.pop(watch, None)
            if watch.summoned:  # it leaves without having looked for the work it was summoned for
                self.publish([Changes(enqueued=1)])

    def line_up(self, watch: QueueWatch) -> None:
        """Arm a watch: the next free work calls it, after those who came earlier."""
        with self._lock:
            watch.reset()
            watch.summoned = False
            self._for_work[watch] = None

    def call_all(self) -> None:
        """Wake everybody to look again: the store is closing."""
        with self._lock:
            for_rollouts = (watch for group in self._by_rollout.values() for watch in group)
            watches: set[Watch] = {*self._for_work, *self._for_ends, *for_rollouts}
        for watch in watches:
            watch.call()

    @property
    def waiting(self) -> int:
        """How many rollouts, workers and ends are waited for; 0 when nobody waits."""
        return len(self._by_rollout) + len(self._for_work) + len(self._for_ends)

    def _note(self, rollout_id: str, finished: bool) -> list[Watch]:
        """Return the watches for which this was the last rollout."""
        done: list[Watch] = []
        for watch in self._by_rollout.get(rollout_id, ()):
            if not finished:
                watch.unfinished.add(rollout_id)
            elif rollout_id in watch.unfinished:
                watch.unfinished.remove(rollout_id)
                if not watch.unfinished:
                    done.append(watch)
        return done

    def _summon(self, count: int) -> list[Watch]:
        """Return whom to call for so many places; who may never come takes none."""
        summoned: list[QueueWatch] = []
        for watch in self._for_work:
            if count <= 0:
                break
            summoned.append(watch)
            count -= not watch.stands_still
        for watch in summoned:
            del self._for_work[watch]
            watch.summoned = True
        return list(summoned)

    def _forget(self, watches: list[Watch]) -> None:
        """Nobody sleeps on these any more, for their loops are closed."""
        with self._lock:
            for watch in watches:
                self._for_ends.discard(watch)
                if isinstance(watch, RolloutWatch):
                    self._drop(watch)

    def _drop(self, watch: RolloutWatch) -> None:
        for rollout_id in watch.rollout_ids:
            watches = self._by_rollout.get(rollout_id, set())
            watches.discard(watch)
            if not watches:
                self._by_rollout.pop(rollout_id, None)


def call_in_loop(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *args: object) -> bool:
    """Run a callback in a loop of another thread; False when that loop is closed, so nobody waits there."""
    try:
        loop.call_soon_threadsafe(callback, *args)
    except RuntimeError:  # the loop is closed
        return False
    return True
