"""The supervisor: runners in processes of their own, which are started again when they die."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from agentlightning._internal.aio import to_its_end, wait_for_flag
from agentlightning.errors import ExecutionError
from agentlightning.execution.events import ThreadingEvent
from agentlightning.execution.member import Member
from agentlightning.execution.parts import RunnerPart
from agentlightning.processes.words import words_for
from agentlightning.store import LightningStore

logger = logging.getLogger(__name__)

_RELEASE_SECONDS: Final = 5.0
_WELL_SECONDS: Final = 60.0
"""A runner that has lived so long was well: its earlier deaths are forgotten."""
_FIRST_PAUSE: Final = 0.2
"""Seconds before a runner is started again; doubled for each further time in a row."""
_LONGEST_PAUSE: Final = 10.0


@dataclass(frozen=True)
class Supervision:
    """How runners are watched.

    Attributes:
        max_restarts: How often in a row a runner that died is started again.
        min_runners: How many there must be that have not died for good.
        allowed_exit_codes: Exits that are no deaths; the negative number of a signal for one that ended the process.
        cancel_seconds: How long a runner may clean up that was cancelled.
    """

    max_restarts: int
    min_runners: int
    allowed_exit_codes: frozenset[int]
    cancel_seconds: float


class Supervisor:
    """Keeps runners alive.

    Args:
        part_of: Makes the runner of a number.
        numbers: Their numbers.
        store: Where the claims of a dead runner are released.
        supervision: How they are watched.
    """

    def __init__(
        self,
        part_of: Callable[[int], RunnerPart],
        numbers: Sequence[int],
        store: LightningStore,
        supervision: Supervision,
    ) -> None:
        self._part_of = part_of
        self._numbers = numbers
        self._store = store
        self._supervision = supervision
        self._lost = 0

    async def run(self, event: ThreadingEvent) -> None:
        """Run all runners until they end, which they do once the event is set.

        Raises:
            ExecutionError: Too few are left.
            Exception: What a runner raised; the others are cancelled.
        """
        runners = [asyncio.create_task(self._keep(number, event), name=f"runner-{number}") for number in self._numbers]
        try:
            if runners:
                await asyncio.wait(runners, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            failed = [runner for runner in runners if runner.done() and runner.exception() is not None]
            await end_tasks(runners)
        for runner in failed:
            runner.result()
        if self._numbers and not event.is_set():
            logger.warning(
                "All %d runners have ended while the algorithm runs: what is queued now waits for others. "
                "Raise max_rollouts if there are none.",
                len(self._numbers),
            )

    async def _keep(self, number: int, event: ThreadingEvent) -> None:
        """Run a runner, and run it again whenever it dies."""
        deaths = 0
        while not event.is_set():
            started = time.monotonic()
            code = await self._run_once(number, event)
            if code is None or event.is_set():
                return
            deaths = 1 if time.monotonic() - started > _WELL_SECONDS else deaths + 1
            if deaths > self._supervision.max_restarts:
                self._give_up(number, code)
                return
            pause = min(_FIRST_PAUSE * 2 ** (deaths - 1), _LONGEST_PAUSE)
            logger.warning("Runner %d %s; it is started again in %.1f s.", number, words_for(code), pause)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await wait_for_flag(event)

    async def _run_once(self, number: int, event: ThreadingEvent) -> int | None:
        """Return the exit code of a runner that died; None for one that ended."""
        member = Member(self._part_of(number), f"runner {number}", self._supervision.cancel_seconds)
        try:
            code = await member.run(event)
        finally:
            if not member.ended_well:
                await to_its_end(release_workers(self._store, member.workers))
        if member.done.is_set():
            return None
        if code and code in self._supervision.allowed_exit_codes:  # 0 before it was done is somebody's os._exit
            logger.warning("Runner %d %s, and is not started again.", number, words_for(code))
            return None
        return code

    def _give_up(self, number: int, code: int) -> None:
        self._lost += 1
        left = len(self._numbers) - self._lost
        if left < self._supervision.min_runners:
            raise ExecutionError(
                f"{left} of {len(self._numbers)} runners are left, and there must be {self._supervision.min_runners}: "
                f"runner {number} {words_for(code)}, {self._supervision.max_restarts + 1} times in a row. "
                "Look for what kills it: memory, a crash in native code, os._exit()"
            )
        logger.error(
            "Runner %d %s once too often, and is not started again; %d are left.", number, words_for(code), left
        )


async def release_workers(store: LightningStore, workers: Iterable[str]) -> None:
    """End the leases of a process that is gone, so that nobody waits for it."""
    for worker in workers:
        try:
            async with asyncio.timeout(_RELEASE_SECONDS):
                released = await store.release_worker(worker)
        except Exception as error:  # noqa: BLE001  # the leases end by their own deadlines
            logger.warning("What %s held cannot be released: %s: %s", worker, type(error).__name__, error)
            continue
        for attempt in released:
            logger.warning("Rollout %s was in the hands of %s.", attempt.rollout_id, worker)


async def end_tasks(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel tasks, once more whenever this is cancelled itself, until all have ended."""
    for task in tasks:
        task.cancel()
    while pending := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError:
            for task in pending:
                task.cancel()
