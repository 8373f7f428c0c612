"""Clients that work on a store which is killed again and again, and the account of what they were told."""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise

from agentlightning.errors import LeaseLost
from agentlightning.store import LightningStore, LightningStoreClient
from agentlightning.types import (
    Attempt,
    AttemptedRollout,
    EnqueueRolloutRequest,
    PromptTemplate,
    RolloutConfig,
    Span,
)
from agentlightning.types.lifecycle import FINISHED, LIVE

CLIENTS = 8
PATIENCE = 120.0
SHARED = "rs-shared"
RESOURCES = {"prompt": PromptTemplate(template="{x}", engine="f-string")}
SILENCE = 0.4
CONFIG = RolloutConfig(unresponsive_seconds=SILENCE, max_attempts=20, retry_condition=["failed", "unresponsive"])


@asynccontextmanager
async def clients_of(urls: Sequence[str]) -> AsyncIterator[list[LightningStoreClient]]:
    """Clients of these servers in turn, which ride out a server's absence."""
    async with AsyncExitStack() as stack:
        made = [
            LightningStoreClient(urls[n % len(urls)], retry_delays=(0.02,) * 1000, health_retry_delays=())
            for n in range(CLIENTS)
        ]
        yield [await stack.enter_async_context(client) for client in made]


@dataclass
class Ledger:
    """What the clients were told, and what they were told that must not be.

    Attributes:
        tasks: Task of each acknowledged rollout.
        asked: Tasks of every rollout that was asked for.
        claims: Rollout id and attempt id of each claim.
        numbers: Reserved span numbers, by rollout.
        spans: Acknowledged spans, by rollout and attempt.
        ended: Attempts whose end was acknowledged, with their status.
        versions: Acknowledged versions of the shared resources.
        added: Acknowledged new resources.
        lost: How many attempts were lost to a newer one, and noticed.
        wrong: What must not be.
    """

    tasks: dict[str, str] = field(default_factory=dict[str, str])
    asked: set[str] = field(default_factory=set[str])
    claims: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    numbers: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict[str, list[int]](list))
    spans: defaultdict[tuple[str, str], set[str]] = field(
        default_factory=lambda: defaultdict[tuple[str, str], set[str]](set)
    )
    ended: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])
    versions: list[int] = field(default_factory=list[int])
    added: set[str] = field(default_factory=set[str])
    lost: int = 0
    wrong: list[str] = field(default_factory=list[str])

    @property
    def acknowledged(self) -> int:
        """How many writes, but for reserved numbers."""
        spans = sum(map(len, self.spans.values()))
        return len(self.tasks) + len(self.claims) + spans + len(self.ended) + len(self.versions) + len(self.added)


class Client:
    """One client, which enqueues, claims, writes spans and finishes until it is told to stop.

    Args:
        name: Its name, also as a worker.
        store: How it reaches the store; retries are the store's affair.
        ledger: Where it writes what it is told.
        seed: Of its whims.
    """

    def __init__(self, name: str, store: LightningStore, ledger: Ledger, seed: int) -> None:
        self._name = name
        self._store = store
        self._ledger = ledger
        self._random = random.Random(seed)
        self._tasks = 0

    async def work(self, enqueue_until: asyncio.Event, stop: asyncio.Event) -> None:
        """Enqueue until the first event, and work on whatever is there until the second."""
        while not stop.is_set():
            if not enqueue_until.is_set():
                await self._enqueue()
                await self._tune()
            limit = self._random.choice((1, 1, 2))
            for claim in await self._store.dequeue_many_rollouts(limit=limit, worker_id=self._name, wait=0.2):
                await self._attempt(claim)

    async def _enqueue(self) -> None:
        tasks = [f"{self._name}-{self._tasks + n}" for n in range(self._random.choice((1, 1, 3)))]
        self._tasks += len(tasks)
        self._ledger.asked.update(tasks)
        rollouts = await self._store.enqueue_many_rollouts(
            [EnqueueRolloutRequest(input=task, config=CONFIG) for task in tasks]
        )
        self._expect([rollout.input for rollout in rollouts] == tasks, f"{tasks} were answered as {rollouts}")
        self._ledger.tasks.update({rollout.rollout_id: str(rollout.input) for rollout in rollouts})

    async def _tune(self) -> None:
        match self._random.randrange(10):
            case 0:
                self._ledger.versions.append((await self._store.update_resources(SHARED, RESOURCES)).version)
            case 1:
                self._ledger.added.add((await self._store.add_resources(RESOURCES)).resources_id)
            case _:
                pass

    async def _attempt(self, claim: AttemptedRollout) -> None:
        key = (claim.rollout_id, claim.attempt.attempt_id)
        self._expect(key not in self._ledger.claims, f"{key} was claimed twice")
        self._ledger.claims.add(key)
        count = self._random.randrange(4)
        numbers = await self._store.get_many_span_sequence_ids([key] * count) if count else []
        self._ledger.numbers[claim.rollout_id].extend(numbers)
        for number in numbers:
            span = Span.from_attributes(
                attributes={"n": number}, rollout_id=key[0], attempt_id=key[1], sequence_id=number
            )
            await self._store.add_many_spans([span])
            self._ledger.spans[key].add(span.span_id)
        await self._end(key)

    async def _end(self, key: tuple[str, str]) -> None:
        fate = self._random.random()
        if fate < 0.08:  # the agent hangs, and nobody hears of it again
            return
        if fate < 0.1:  # it hangs so long that its attempt is lost
            await asyncio.sleep(2 * SILENCE)
        status = "failed" if 0.1 <= fate < 0.2 else "succeeded"
        try:
            attempt = await self._store.update_attempt(*key, status=status)
        except LeaseLost:
            self._ledger.lost += 1
            return
        self._expect(attempt.attempt_id == key[1], f"the end of {key} was answered with {attempt}")
        self._ledger.ended[key] = status

    def _expect(self, truth: bool, otherwise: str) -> None:
        if not truth:
            self._ledger.wrong.append(otherwise)


@dataclass
class Load:
    """Clients at work.

    Args:
        stores: How each client reaches the store.
        seed: Of the clients' whims.
    """

    stores: Sequence[LightningStore]
    seed: int
    ledger: Ledger = field(default_factory=Ledger)

    async def run(self, disturb: Coroutine[None, None, None]) -> None:
        """Let the clients work while they are disturbed, and afterwards until every rollout has ended."""
        enqueued, stop = asyncio.Event(), asyncio.Event()
        clients = [
            Client(f"client-{n}", store, self.ledger, self.seed * 1000 + n) for n, store in enumerate(self.stores)
        ]
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(client.work(enqueued, stop))
            await disturb
            enqueued.set()
            await self._until_all_ended()
            stop.set()

    async def _until_all_ended(self) -> None:
        store = self.stores[0]
        async with asyncio.timeout(PATIENCE):
            while open_ := (await store.query_rollouts(status_in=["queuing", "requeuing", "preparing", "running"])):
                await store.wait_for_rollouts(rollout_ids=[rollout.rollout_id for rollout in open_], timeout=PATIENCE)


def report(title: str, found: Counter[str], ledger: Ledger) -> str:
    """Return what a run came to, in a line."""
    counts = ", ".join(f"{count} {name}" for name, count in sorted(found.items()))
    return f"{title}: {ledger.acknowledged} acknowledged writes, all there, once; {counts}; {ledger.lost} leases lost"


async def check(store: LightningStore, ledger: Ledger) -> Counter[str]:
    """Require that the store holds what the clients were told, all of it once; returns what there is."""
    assert ledger.wrong == []
    rollouts = {rollout.rollout_id: rollout for rollout in await store.query_rollouts()}
    assert {rollout_id: rollout.input for rollout_id, rollout in rollouts.items()} == ledger.tasks  # none lost or twice
    assert set(ledger.tasks.values()) == ledger.asked
    assert {rollout.status for rollout in rollouts.values()} <= set(FINISHED)
    counts: Counter[str] = Counter(rollout.status for rollout in rollouts.values())
    for rollout_id, rollout in rollouts.items():
        attempts = list(await store.query_attempts(rollout_id))
        check_attempts(attempts, rollout.status)
        check_ends(attempts, ledger)
        counts["attempts"] += len(attempts)
        counts["unresponsive"] += sum(attempt.status == "unresponsive" for attempt in attempts)
        numbers = ledger.numbers[rollout_id]
        assert len(numbers) == len(set(numbers)), f"{rollout_id}: a span number was given twice: {numbers}"
        spans = [(span.attempt_id, span.span_id) for span in await store.query_spans(rollout_id)]
        told = [(a.attempt_id, span) for a in attempts for span in ledger.spans[rollout_id, a.attempt_id]]
        assert sorted(spans) == sorted(told)
        counts["spans"] += len(spans)
    await check_resources(store, ledger)
    return counts


def check_attempts(attempts: list[Attempt], status: str) -> None:
    """Require that the attempts followed one another, and that the rollout's end is that of the last."""
    assert [attempt.sequence_id for attempt in attempts] == list(range(1, len(attempts) + 1))
    assert not [attempt for attempt in attempts if attempt.status in LIVE]
    for former, later in pairwise(attempts):
        assert former.end_time is not None
        assert former.end_time <= later.start_time, f"two were valid at a time: {former} {later}"
        assert former.status != "succeeded"
    assert attempts[-1].status == "succeeded" if status == "succeeded" else attempts[-1].status != "succeeded"


def check_ends(attempts: list[Attempt], ledger: Ledger) -> None:
    """Require that ends that were acknowledged are there, and that no attempt is there that nobody was given."""
    for attempt in attempts:
        key = (attempt.rollout_id, attempt.attempt_id)
        assert key in ledger.claims, f"nobody was told of {attempt}"
        assert ledger.ended.get(key, attempt.status) == attempt.status


async def check_resources(store: LightningStore, ledger: Ledger) -> None:
    """Require that each version and each set of resources that was acknowledged is there, and no other."""
    sets = {update.resources_id: update.version for update in await store.query_resources()}
    assert sets.keys() - {SHARED} == ledger.added
    assert sorted(ledger.versions) == list(range(1, sets.get(SHARED, 0) + 1))
    for version in ledger.versions:
        assert await store.get_resources_by_id(SHARED, version) is not None
