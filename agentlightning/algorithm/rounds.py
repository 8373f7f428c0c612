"""Many rollouts at once: enqueued together, and handed on as each of them ends."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from agentlightning.emitter import find_final_reward
from agentlightning.errors import ConfigurationError
from agentlightning.store import LightningStore, is_finished
from agentlightning.types import EnqueueRolloutRequest, Rollout, RolloutConfig, RolloutMode, Span

logger = logging.getLogger(__name__)

FailurePolicy: TypeAlias = Literal["keep", "zero", "drop"]
"""What becomes of a rollout that failed: it is handed on with its error, with reward 0 as well, or not at all."""

ROUND_KEY: Final = "agentlightning.round"
PLACE_KEY: Final = "agentlightning.round.place"
"""Keys of a rollout's metadata: the round that it belongs to, and which of its tasks and samples it is."""

Place: TypeAlias = tuple[int, int]
"""Index of the task, and of the sample among the task's."""
Leftovers: TypeAlias = Mapping[str, Mapping[Place, Rollout]]
"""Rollouts of earlier processes that succeeded, by round and place."""

_AT_ONCE: Final = 1000
"""How many rollouts are enqueued or read with one request: a store's server takes so many only."""
_POLL_SECONDS: Final = 20.0
"""The longest that a server lets somebody wait; the store wakes who waits in it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one rollout of a round ended.

    Attributes:
        task: Index of its task in the round.
        sample: Which of the task's rollouts it is.
        rollout: The rollout.
        spans: Of its latest attempt.
        reward: Its final reward; None if it failed or rewarded nothing.
        error: Why it failed; None if it succeeded.
    """

    task: int
    sample: int
    rollout: Rollout
    spans: Sequence[Span]
    reward: float | None
    error: str | None


@dataclass(slots=True)
class RoundCounts:
    """What happened in a round so far.

    Attributes:
        succeeded: Rollouts that succeeded.
        failed: Rollouts that failed, stragglers among them.
        stragglers: Those that were cancelled because time was up, or enough others had ended.
        reused: Those that an earlier process had run already.
    """

    succeeded: int = 0
    failed: int = 0
    stragglers: int = 0
    reused: int = 0


@dataclass(slots=True, kw_only=True)
class Round:
    """Runs every task some times; iterate over it for each `Outcome` as it comes.

    Whoever leaves the loop early, or is cancelled, cancels what has not ended.

    Attributes:
        store: Where the rollouts go.
        tasks: What to run.
        mode: The mode of the rollouts.
        resources_id: The resources to run with; None for the newest.
        samples: Rollouts of each task.
        key: Names the round within a run. What an earlier process of a resumed run had finished under this name is
            taken as it is, and not run again.
        read_leftovers: Says what there is to take; None for nothing.
        config: Of the rollouts.
        retries: How often a rollout that failed, timed out or fell silent is tried again.
        timeout: Seconds for all of them together; what has not ended then is cancelled and counts as failed.
        quorum: The share of the rollouts that is enough: once it has ended, the rest is cancelled.
        failures: What becomes of failures.
        counts: What happened so far.

    Raises:
        ConfigurationError: A number is out of range.
    """

    store: LightningStore
    tasks: Sequence[Any]
    mode: RolloutMode = "train"
    resources_id: str | None = None
    samples: int = 1
    key: str | None = None
    read_leftovers: Callable[[], Awaitable[Leftovers]] | None = None
    config: RolloutConfig | None = None
    retries: int = 0
    timeout: float | None = None
    quorum: float = 1.0
    failures: FailurePolicy = "keep"
    counts: RoundCounts = field(default_factory=RoundCounts)

    def __post_init__(self) -> None:
        if self.samples < 1 or self.retries < 0 or not 0 < self.quorum <= 1:
            raise ConfigurationError(
                f"samples={self.samples} must be at least 1, retries={self.retries} at least 0, "
                f"and quorum={self.quorum} above 0 and at most 1"
            )

    async def gather(self) -> list[list[Outcome]]:
        """Run to the end; returns the outcomes of each task, in the order of the samples."""
        found = [outcome async for outcome in self]
        found.sort(key=lambda outcome: (outcome.task, outcome.sample))
        return [[outcome for outcome in found if outcome.task == task] for task in range(len(self.tasks))]

    def __aiter__(self) -> AsyncIterator[Outcome]:
        return self._outcomes()

    async def _outcomes(self) -> AsyncGenerator[Outcome]:
        places = [(task, sample) for task in range(len(self.tasks)) for sample in range(self.samples)]
        reused = await self._leftovers()
        for place in places:
            if place in reused:
                self.counts.reused += 1
                if (outcome := await self._outcome(place, reused[place])) is not None:
                    yield outcome
        cursor = (await self.store.read_finished_rollouts(cursor=-1)).cursor
        pending: dict[str, Place] = {}
        try:
            await self._enqueue([place for place in places if place not in reused], pending)
            async for rollout in self._ended(cursor, pending, len(places)):
                if (outcome := await self._outcome(pending.pop(rollout.rollout_id), rollout)) is not None:
                    yield outcome
        finally:
            await self._cancel(pending)

    async def _leftovers(self) -> Mapping[Place, Rollout]:
        if self.key is None or self.read_leftovers is None:
            return {}
        return (await self.read_leftovers()).get(self.key, {})

    async def _enqueue(self, places: Sequence[Place], pending: dict[str, Place]) -> None:
        for start in range(0, len(places), _AT_ONCE):
            some = places[start : start + _AT_ONCE]
            rollouts = await self.store.enqueue_many_rollouts([self._request(place) for place in some])
            pending.update(zip((rollout.rollout_id for rollout in rollouts), some, strict=True))

    def _request(self, place: Place) -> EnqueueRolloutRequest:
        return EnqueueRolloutRequest(
            input=self.tasks[place[0]],
            mode=self.mode,
            resources_id=self.resources_id,
            config=self._retrying_config(),
            metadata=None if self.key is None else {ROUND_KEY: self.key, PLACE_KEY: list(place)},
        )

    def _retrying_config(self) -> RolloutConfig | None:
        if not self.retries:
            return self.config
        retrying = {"max_attempts": 1 + self.retries, "retry_condition": ["failed", "timeout", "unresponsive"]}
        return (self.config or RolloutConfig()).model_copy(update=retrying)

    async def _ended(self, cursor: int, pending: Mapping[str, Place], total: int) -> AsyncIterator[Rollout]:
        """Yield those that are pending as they end; the caller takes them out."""
        deadline = None if self.timeout is None else time.monotonic() + self.timeout
        allowed = total - total * self.quorum
        cancelled = False
        while pending:
            left = _POLL_SECONDS if deadline is None else deadline - time.monotonic()
            if not cancelled and (left <= 0 or 0 < len(pending) <= allowed):
                await self._cancel_stragglers(pending, total)
                cancelled, deadline = True, None
                continue
            wait = max(0.0, min(left, _POLL_SECONDS))
            read = await self.store.read_finished_rollouts(cursor=cursor, limit=_AT_ONCE, wait=wait)
            cursor = read.cursor
            for rollout in read.items:
                if rollout.rollout_id in pending:
                    yield rollout

    async def _cancel_stragglers(self, pending: Mapping[str, Place], total: int) -> None:
        self.counts.stragglers += len(pending)
        logger.warning(
            "%d of %d rollouts were cancelled: %s",
            len(pending),
            total,
            "enough others had ended"
            if len(pending) <= total - total * self.quorum
            else f"they had not ended after {self.timeout:g} s; give the agent a timeout of its own",
        )
        await self._cancel(pending)

    async def _cancel(self, pending: Mapping[str, Place]) -> None:
        if not pending:
            return
        rollouts = await self.store.query_rollouts(rollout_id_in=list(pending))
        unfinished = [rollout.rollout_id for rollout in rollouts if not is_finished(rollout)]
        await asyncio.gather(*(self.store.update_rollout(each, status="cancelled") for each in unfinished))

    async def _outcome(self, place: Place, rollout: Rollout) -> Outcome | None:
        spans = (await self.store.query_spans(rollout.rollout_id, "latest")).items
        if rollout.status == "succeeded":
            self.counts.succeeded += 1
            return Outcome(*place, rollout, spans, find_final_reward(spans), None)
        self.counts.failed += 1
        if self.failures == "drop":
            return None
        reward = 0.0 if self.failures == "zero" else None
        return Outcome(*place, rollout, spans, reward, await _error_of(self.store, rollout))


async def read_leftovers(store: LightningStore) -> Leftovers:
    """Return the rollouts of rounds that succeeded, for a run that goes on."""
    found: dict[str, dict[Place, Rollout]] = {}
    async for rollout in _all_rollouts(store):
        metadata = rollout.metadata or {}
        if rollout.status == "succeeded" and ROUND_KEY in metadata:
            task, sample = metadata[PLACE_KEY]
            found.setdefault(metadata[ROUND_KEY], {})[task, sample] = rollout
    return found


async def settle_leftovers(store: LightningStore) -> None:
    """Put in order what a dead run left in a store of its own: nothing in it runs any more.

    Rollouts of rounds are cancelled, for the round enqueues them anew, with resources that are served. Others that were
    running go back to the queue.
    """
    unfinished = [rollout async for rollout in _all_rollouts(store) if not is_finished(rollout)]
    for rollout in unfinished:
        if ROUND_KEY in (rollout.metadata or {}):
            await store.update_rollout(rollout.rollout_id, status="cancelled")
        elif rollout.status in ("preparing", "running"):
            await store.update_rollout(rollout.rollout_id, status="requeuing")


async def _all_rollouts(store: LightningStore) -> AsyncIterator[Rollout]:
    offset = 0
    while page := await store.query_rollouts(sort_by="start_time", limit=_AT_ONCE, offset=offset):
        for rollout in page:
            yield rollout
        offset += len(page)


async def _error_of(store: LightningStore, rollout: Rollout) -> str:
    if rollout.status == "cancelled":
        return "it was cancelled before it ended"
    attempt = await store.get_latest_attempt(rollout.rollout_id)
    metadata = (attempt.metadata if attempt else None) or {}
    error: dict[str, str] = metadata.get("error", {})
    return f"{error.get('type', rollout.status)}: {error.get('message', 'no reason was recorded')}"
