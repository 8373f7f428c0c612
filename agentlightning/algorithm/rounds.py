"""Many rollouts at once: enqueued together, and handed on as each of them ends."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from agentlightning.emitter import find_final_reward
from agentlightning.errors import ConfigurationError, StoreUnreachable
from agentlightning.store import LightningStore
from agentlightning.types import EnqueueRolloutRequest, Rollout, RolloutConfig, RolloutMode, RolloutStatus, Span
from agentlightning.types.lifecycle import FINISHED

logger = logging.getLogger(__name__)

FailurePolicy: TypeAlias = Literal["keep", "zero", "drop"]
"""What becomes of a rollout that failed: it is handed on with its error, with reward 0 as well, or not at all."""

RUN_KEY: Final = "agentlightning.run"
ROUND_KEY: Final = "agentlightning.round"
PLACE_KEY: Final = "agentlightning.round.place"
"""Keys of a rollout's metadata: the run and the round that it belongs to, and which of the tasks and samples it is."""

Place: TypeAlias = tuple[int, int]
"""Index of the task, and of the sample among the task's."""
Leftovers: TypeAlias = Mapping[str, Mapping[Place, Rollout]]
"""Rollouts that earlier processes of a run have done, by round and place."""

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
        key: Names the round within a run. What an earlier process of a resumed run had done under this name is taken
            as it is, and not run again: all of a round that had ended, of others what had succeeded.
        run_id: The run that it belongs to, if that may be resumed.
        read_leftovers: Says what there is to take; None for nothing.
        on_end: Called with the key and the rollouts once all of them have ended.
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
    run_id: str | None = None
    read_leftovers: Callable[[], Awaitable[Leftovers]] | None = None
    on_end: Callable[[str, Mapping[Place, str]], None] | None = None
    config: RolloutConfig | None = None
    retries: int = 0
    timeout: float | None = None
    quorum: float = 1.0
    failures: FailurePolicy = "keep"
    counts: RoundCounts = field(default_factory=RoundCounts)
    _pending: dict[str, Place] = field(default_factory=dict[str, Place], init=False)

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

    async def cancel(self) -> None:
        """Cancel what has not ended."""
        pending, self._pending = self._pending, {}
        await self._cancel(pending)

    async def _outcomes(self) -> AsyncGenerator[Outcome]:
        places = [(task, sample) for task in range(len(self.tasks)) for sample in range(self.samples)]
        done = {place: rollout for place, rollout in (await self._leftovers()).items() if place in places}
        ended = {place: rollout.rollout_id for place, rollout in done.items()}
        self.counts.reused += len(done)
        for place, rollout in done.items():
            if (outcome := await self._outcome(place, rollout)) is not None:
                yield outcome
        cursor = (await self.store.read_finished_rollouts(cursor=-1)).cursor
        try:
            await self._enqueue([place for place in places if place not in done])
            async for rollout in self._ended(cursor, len(places)):
                place = self._pending.pop(rollout.rollout_id)
                ended[place] = rollout.rollout_id
                outcome = await self._outcome(place, rollout)
                if not self._pending and self.key is not None and self.on_end is not None:
                    self.on_end(self.key, ended)
                if outcome is not None:
                    yield outcome
        except StoreUnreachable:
            self._pending = {}  # nobody can be told, and whoever waits shall not wait twice
            raise
        finally:
            await self.cancel()

    async def _leftovers(self) -> Mapping[Place, Rollout]:
        if self.key is None or self.read_leftovers is None:
            return {}
        return (await self.read_leftovers()).get(self.key, {})

    async def _enqueue(self, places: Sequence[Place]) -> None:
        for start in range(0, len(places), _AT_ONCE):
            # Whoever is cancelled meanwhile hears of the rollouts all the same, to cancel them.
            enqueuing = asyncio.ensure_future(self._enqueue_some(places[start : start + _AT_ONCE]))
            try:
                await asyncio.shield(enqueuing)
            except asyncio.CancelledError:
                await asyncio.wait({enqueuing})
                raise

    async def _enqueue_some(self, places: Sequence[Place]) -> None:
        rollouts = await self.store.enqueue_many_rollouts([self._request(place) for place in places])
        self._pending.update(zip((rollout.rollout_id for rollout in rollouts), places, strict=True))

    def _request(self, place: Place) -> EnqueueRolloutRequest:
        return EnqueueRolloutRequest(
            input=self.tasks[place[0]],
            mode=self.mode,
            resources_id=self.resources_id,
            config=self._retrying_config(),
            metadata=self._metadata(place),
        )

    def _metadata(self, place: Place) -> dict[str, Any]:
        found = {RUN_KEY: self.run_id, ROUND_KEY: self.key, PLACE_KEY: list(place)}
        return {key: value for key, value in found.items() if value is not None}

    def _retrying_config(self) -> RolloutConfig | None:
        if not self.retries:
            return self.config
        retrying = {"max_attempts": 1 + self.retries, "retry_condition": ["failed", "timeout", "unresponsive"]}
        return (self.config or RolloutConfig()).model_copy(update=retrying)

    async def _ended(self, cursor: int, total: int) -> AsyncIterator[Rollout]:
        """Yield those that are pending as they end; the caller takes them out."""
        pending = self._pending
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
        ids = list(pending)
        for start in range(0, len(ids), _AT_ONCE):
            await self.store.cancel_rollouts(ids[start : start + _AT_ONCE])

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


async def read_leftovers(store: LightningStore, run_id: str, ended: Mapping[str, Mapping[Place, str]]) -> Leftovers:
    """Return what the rounds of a run had done, for its next process.

    Args:
        store: Where the rollouts are.
        run_id: The run.
        ended: The rollouts of the rounds that had ended: failures count there, for the algorithm has learned from them.
    """
    found: dict[str, dict[Place, Rollout]] = {key: {} for key in ended}
    async for rollout in _all_rollouts(store, FINISHED):
        metadata = rollout.metadata or {}
        key = metadata.get(ROUND_KEY)
        if metadata.get(RUN_KEY) != run_id or key is None:
            continue
        task, sample = metadata[PLACE_KEY]
        counts = ended[key].get((task, sample)) == rollout.rollout_id if key in ended else rollout.status == "succeeded"
        if counts:
            found.setdefault(key, {})[task, sample] = rollout
    return found


async def settle_leftovers(store: LightningStore, run_id: str, *, alone: bool) -> None:
    """Put in order what the dead process of a run left in its store.

    Rollouts of the run's rounds are cancelled, for a round enqueues them anew, with resources that are served.

    Args:
        store: The store.
        run_id: The run.
        alone: Whether nobody else uses the store, so that whatever seems to run there does not; it is queued again.
    """
    unfinished = [rollout async for rollout in _all_rollouts(store, ("queuing", "requeuing", "preparing", "running"))]
    ours = [rollout.rollout_id for rollout in unfinished if (rollout.metadata or {}).get(RUN_KEY) == run_id]
    for start in range(0, len(ours), _AT_ONCE):
        await store.cancel_rollouts(ours[start : start + _AT_ONCE])
    if alone:
        for rollout in unfinished:
            if rollout.rollout_id not in ours and rollout.status in ("preparing", "running"):
                await store.update_rollout(rollout.rollout_id, status="requeuing")


async def _all_rollouts(store: LightningStore, statuses: Sequence[RolloutStatus]) -> AsyncIterator[Rollout]:
    offset = 0
    while page := await store.query_rollouts(
        status_in=list(statuses), sort_by="start_time", limit=_AT_ONCE, offset=offset
    ):
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
