"""The supervisor of runners in Ray actors, which Ray starts again when they die."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from agentlightning._internal.aio import to_its_end, wait_for_flag
from agentlightning._internal.threads import run_in_thread
from agentlightning.errors import ExecutionError
from agentlightning.execution.events import ThreadingEvent
from agentlightning.execution.ray_cluster import load_ray, room
from agentlightning.execution.ray_member import RayMember, drop
from agentlightning.execution.supervisor import end_tasks, release_workers
from agentlightning.store import LightningStore

logger = logging.getLogger(__name__)

_ASK_AFTER_SECONDS: Final = 30.0
"""That runners may be missing before the cluster is asked: Ray ends a driver 60 s after the head node is lost."""
_ANSWER_SECONDS: Final = 5.0


@dataclass(frozen=True)
class RaySupervision:
    """How runners are watched.

    Attributes:
        n_runners: How many there are.
        min_runners: How many of them there must be.
        start_seconds: How long fewer may be there: at first, and whenever some are lost.
        asks: What each asks the cluster for, in words.
    """

    n_runners: int
    min_runners: int
    start_seconds: float
    asks: str


class RaySupervisor:
    """Runs runners in actors, and ends the run when too few are there.

    Args:
        start: Makes the actor of a runner, without waiting for it to be there.
        names_of: Returns under which names a runner claims work.
        store: Where the claims of a dead runner are released.
        supervision: How they are watched.

    Attributes:
        there: The numbers of those that have come up, and not died since.
    """

    def __init__(
        self,
        start: Callable[[int], RayMember],
        names_of: Callable[[int], set[str]],
        store: LightningStore,
        supervision: RaySupervision,
    ) -> None:
        self._start = start
        self._names_of = names_of
        self._store = store
        self._supervision = supervision
        self.there: set[int] = set()
        self._lost = 0
        self._enough, self._short = asyncio.Event(), asyncio.Event()
        self._short.set()

    async def run(self, event: ThreadingEvent) -> None:
        """Run all runners until they end, which they do once the event is set.

        Raises:
            ExecutionError: Too few are there.
            Exception: What a runner raised; the others are cancelled.
        """
        count = self._supervision.n_runners
        tasks = [asyncio.create_task(self._keep(number, event), name=f"runner-{number}") for number in range(count)]
        ends = asyncio.ensure_future(asyncio.wait(tuple(tasks), return_when=asyncio.FIRST_EXCEPTION))
        tasks.append(asyncio.create_task(self._watch(event), name="runners-there"))
        try:
            await asyncio.wait({ends, tasks[-1]}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ends.cancel()
            failed = [task for task in tasks if task.done() and task.exception() is not None]
            await end_tasks(tasks)
        for task in failed:
            task.result()
        if not event.is_set():
            logger.warning(
                "All %d runners have ended while the algorithm runs: what is queued now waits for others. "
                "Raise max_rollouts if there are none.",
                count,
            )

    async def _keep(self, number: int, event: ThreadingEvent) -> None:
        """Follow a runner through its lives."""
        ray = load_ray()
        member = self._start(number)
        try:
            while await self._up(member, number, event):
                try:
                    await self._run_once(member, number, event)
                    return
                except ray.exceptions.ActorDiedError:
                    raise
                except ray.exceptions.RayActorError as error:
                    logger.warning("Runner %d died; Ray starts it again. %s", number, _first_line(error))
        except ray.exceptions.RayError as error:
            if not event.is_set():
                self._give_up(number, error)
        finally:
            await to_its_end(member.kill())

    async def _up(self, member: RayMember, number: int, event: ThreadingEvent) -> bool:
        """Wait for the runner to be there; returns whether it is to run."""
        tasks = asyncio.create_task(member.up()), asyncio.create_task(wait_for_flag(event))
        try:
            done, _ = await asyncio.wait(
                tasks, timeout=self._supervision.start_seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                logger.warning("Runner %d waits for a place: it asks for %s.", number, self._supervision.asks)
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if event.is_set():
                return False
            tasks[0].result()
        finally:
            for task in tasks:
                drop(task)
        self._count(number, True)
        return True

    async def _run_once(self, member: RayMember, number: int, event: ThreadingEvent) -> None:
        """Run a runner that is there.

        Raises:
            ray.exceptions.RayActorError: It died.
            Exception: What it raised.
        """
        try:
            failure = await member.run(event)
        finally:
            if not member.ended_well:
                self._count(number, False)
                await to_its_end(release_workers(self._store, self._names_of(number)))
        if failure is not None:
            raise failure.error(f"runner {number}", ExecutionError)

    async def _watch(self, event: ThreadingEvent) -> None:
        """See to it that enough runners are there.

        Raises:
            ExecutionError: They were not, for too long, or the cluster does not say whether they will be.
        """
        seconds = self._supervision.start_seconds
        ask_after = min(seconds, _ASK_AFTER_SECONDS)
        while True:
            if not await self._enough_within(ask_after):
                answer = await _answer_of_cluster()
                if answer is not None and await self._enough_within(seconds - ask_after):
                    continue
                if not event.is_set():
                    raise ExecutionError(
                        f"{len(self.there)} of {self._counts()} after {seconds if answer else ask_after:g} s: "
                        f"each asks for {self._supervision.asks}, and {answer or 'the cluster does not answer'}"
                    )
            await self._short.wait()

    async def _enough_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._enough.wait()
        except TimeoutError:
            return False
        return True

    def _give_up(self, number: int, error: Exception) -> None:
        self._lost += 1
        left = self._supervision.n_runners - self._lost
        if left < self._supervision.min_runners:
            raise ExecutionError(f"{left} of {self._counts()}: runner {number} ended for good. {error}") from error
        logger.error("Runner %d ended for good; %d are left. %s", number, left, _first_line(error))

    def _count(self, number: int, there: bool) -> None:
        if there:
            self.there.add(number)
        else:
            self.there.discard(number)
        enough = len(self.there) >= self._supervision.min_runners
        for flag, up in ((self._enough, enough), (self._short, not enough)):
            flag.set() if up else flag.clear()

    def _counts(self) -> str:
        least = self._supervision.min_runners
        return f"{self._supervision.n_runners} runners are there, and there must be {least}"


async def _answer_of_cluster() -> str | None:
    """Ask what the cluster has to give, in a thread of its own: Ray waits for a lost head node for good."""
    ray = load_ray()
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            return await run_in_thread(room, "agl-ray-room")
    except (TimeoutError, ray.exceptions.RayError):
        return None


def _first_line(error: Exception) -> str:
    """Return what an error of Ray says at first, which goes on for a page."""
    return str(error).strip().partition("\n")[0]
