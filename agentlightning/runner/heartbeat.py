"""Heartbeats: a runner says that it lives, and what its machine is doing."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from agentlightning.runner.snapshot import system_snapshot

if TYPE_CHECKING:
    from agentlightning.store import LightningStore

logger = logging.getLogger(__name__)

MIN_PAUSE: Final = 0.01
MIN_TIMEOUT: Final = 1.0
"""Seconds that one beat may take at least; with longer intervals it may take the interval."""
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


@asynccontextmanager
async def beating(store: LightningStore, worker_id: str, settings: HeartbeatSettings) -> AsyncGenerator[None]:
    """Beat inside the block, the first time at once.

    No beat starts after the block; one in a thread that hangs for longer than `JOIN_TIMEOUT` may still land after it.
    """
    if settings.interval <= 0:
        yield
    elif settings.launch_mode == "thread" and store.capabilities.get("thread_safe"):
        async with _beating_in_thread(store, worker_id, settings):
            yield
    else:
        async with _beating_on_loop(store, worker_id, settings):
            yield


@asynccontextmanager
async def _beating_on_loop(store: LightningStore, worker_id: str, settings: HeartbeatSettings) -> AsyncGenerator[None]:
    async def beat_forever() -> None:
        while True:
            await beat(store, worker_id, settings)
            await asyncio.sleep(settings.pause())

    task = asyncio.create_task(beat_forever())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


@asynccontextmanager
async def _beating_in_thread(
    store: LightningStore, worker_id: str, settings: HeartbeatSettings
) -> AsyncGenerator[None]:
    stop = threading.Event()

    def beat_until_stopped() -> None:
        while not stop.is_set():
            asyncio.run(beat(store, worker_id, settings))
            stop.wait(settings.pause())

    thread = threading.Thread(target=beat_until_stopped, name=f"{worker_id}-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        await asyncio.to_thread(thread.join, JOIN_TIMEOUT)


async def beat(store: LightningStore, worker_id: str, settings: HeartbeatSettings) -> None:
    """Send one heartbeat; one that fails or takes longer than an interval costs a warning."""
    try:
        async with asyncio.timeout(max(settings.interval, MIN_TIMEOUT)):
            # Reading the machine's state may block on a sick disk or driver.
            snapshot = await asyncio.to_thread(system_snapshot, settings.include_gpu)
            await store.update_worker(worker_id, snapshot)
    except Exception as error:  # noqa: BLE001  # whatever fails, the next beat may succeed and work must go on
        logger.warning("The heartbeat of %s failed: %s: %s", worker_id, type(error).__name__, error)
