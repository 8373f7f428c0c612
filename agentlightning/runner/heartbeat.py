"""Heartbeats: a runner says that it lives, what it holds and what its machine is doing."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from agentlightning.runner.leases import Leases
from agentlightning.runner.namesakes import Namesakes
from agentlightning.runner.snapshot import Machine

if TYPE_CHECKING:
    from agentlightning.store import LightningStore

logger = logging.getLogger(__name__)

MIN_PAUSE: Final = 0.01
MIN_TIMEOUT: Final = 1.0
"""Seconds that one beat may take at least; with longer intervals it may take the interval."""
BEATS_IN_SILENCE: Final = 3
"""How many beats fit into the `unresponsive_seconds` of an attempt at least."""
JOIN_TIMEOUT: Final = 2.0
"""Seconds to wait for a heartbeat thread to end; it is a daemon, so a hung store cannot hold the program."""


@dataclass(frozen=True)
class HeartbeatSettings:
    """How a runner beats.

    Attributes:
        interval: Seconds between two beats; 0 or less for none.
        jitter: The most by which a pause is longer or shorter, in seconds.
        launch_mode: `asyncio` beats on the runner's event loop; `thread` beats in a thread, also while the loop is
            blocked, on stores that are thread-safe.
        include_gpu: Whether the snapshot tells about GPUs.
    """

    interval: float = 10.0
    jitter: float = 0.5
    launch_mode: Literal["asyncio", "thread"] = "asyncio"
    include_gpu: bool = False

    def pause(self) -> float:
        """Return the seconds until the next beat."""
        return max(MIN_PAUSE, self.interval + random.uniform(-self.jitter, self.jitter))


class Pause:
    """The time from one beat to the next, which is early enough for the shortest silence that an attempt may have."""

    def __init__(self, settings: HeartbeatSettings, leases: Leases) -> None:
        self._since = time.monotonic()
        self._seconds = settings.pause()
        self._leases = leases

    def left(self) -> float:
        """Return the seconds until the next beat."""
        silence = self._leases.shortest_silence()
        limit = self._seconds if silence is None else max(MIN_PAUSE, silence / BEATS_IN_SILENCE)
        return self._since + min(self._seconds, limit) - time.monotonic()


class Heartbeat:
    """Tells the store that a runner lives and what it holds; learns what it has lost.

    Args:
        store: The store.
        worker_id: Who lives.
        leases: What it holds.
        settings: How it beats.
    """

    def __init__(self, store: LightningStore, worker_id: str, leases: Leases, settings: HeartbeatSettings) -> None:
        self._store = store
        self._worker_id = worker_id
        self._leases = leases
        self._settings = settings
        self._machine = Machine(settings.include_gpu)
        self._renews = True
        self._namesakes = Namesakes(worker_id, settings.interval)

    @asynccontextmanager
    async def beating(self) -> AsyncGenerator[None]:
        """Beat inside the block, the first time at once.

        No beat starts after the block; one in a thread that hangs for longer than `JOIN_TIMEOUT` may land after it.
        """
        if self._settings.interval <= 0:
            yield
        elif self._settings.launch_mode == "thread" and self._store.capabilities.get("thread_safe"):
            async with self._beating_in_thread():
                yield
        else:
            async with self._beating_on_loop():
                yield

    @asynccontextmanager
    async def _beating_on_loop(self) -> AsyncGenerator[None]:
        loop, held = asyncio.get_running_loop(), asyncio.Event()

        async def beat_forever() -> None:
            while True:
                await self.beat()
                pause = Pause(self._settings, self._leases)
                while (left := pause.left()) > 0:
                    held.clear()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(left):
                            await held.wait()

        task = asyncio.create_task(beat_forever())
        self._leases.on_hold = lambda: loop.call_soon_threadsafe(held.set)
        try:
            yield
        finally:
            self._leases.on_hold = None
            task.cancel()
            await asyncio.wait({task})

    @asynccontextmanager
    async def _beating_in_thread(self) -> AsyncGenerator[None]:
        stop, wake = threading.Event(), threading.Event()

        def beat_until_stopped() -> None:
            while not stop.is_set():
                asyncio.run(self.beat())
                pause = Pause(self._settings, self._leases)
                while not stop.is_set() and (left := pause.left()) > 0:
                    wake.wait(left)
                    wake.clear()

        thread = threading.Thread(target=beat_until_stopped, name=f"{self._worker_id}-heartbeat", daemon=True)
        thread.start()
        self._leases.on_hold = wake.set
        try:
            yield
        finally:
            self._leases.on_hold = None
            stop.set()
            wake.set()
            await asyncio.to_thread(thread.join, JOIN_TIMEOUT)

    async def beat(self) -> None:
        """Send one heartbeat; one that fails or takes longer than an interval costs a warning."""
        try:
            async with asyncio.timeout(max(self._settings.interval, MIN_TIMEOUT)):
                await self._tell(await self._machine.snapshot())
        except Exception as error:  # noqa: BLE001  # whatever fails, the next beat may succeed and work must go on
            logger.warning("The heartbeat of %s failed: %s: %s", self._worker_id, type(error).__name__, error)

    async def _tell(self, snapshot: dict[str, Any]) -> None:
        if self._renews:
            try:
                return await self._renew(snapshot)
            except NotImplementedError:
                self._renews = False
                logger.warning(
                    "%s has no renew_leases: %s runs on when a rollout is cancelled or its time is over, and a claim "
                    "whose answer is lost stays lost",
                    type(self._store).__name__,
                    self._worker_id,
                )
        await self._store.update_worker(self._worker_id, snapshot)

    async def _renew(self, snapshot: dict[str, Any]) -> None:
        held, as_of = self._leases.list()
        renewal = await self._store.renew_leases(
            self._worker_id,
            held,
            as_of=as_of if self._namesakes.are_gone() else None,
            heartbeat_stats=self._namesakes.sign(snapshot),
        )
        self._namesakes.heard(renewal.former_stats)
        self._leases.renewed(renewal)
