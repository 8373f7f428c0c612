"""Stores of several programs on one namespace: one queue, one set of deadlines, and they hear of each other."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from agentlightning.errors import LeaseLost, TooBusy
from agentlightning.store.postgres import PostgresLightningStore, address, settled
from agentlightning.store.postgres.dialect import translate
from agentlightning.store.sql.span_rows import INSERT, encode_span
from agentlightning.store.testing.suite import soon, span_of
from agentlightning.types import EnqueueRolloutRequest, RolloutConfig, Span
from tests.store.conftest import OpenPostgres

PATIENCE = 10.0


@pytest.fixture
async def two(open_postgres: OpenPostgres) -> tuple[PostgresLightningStore, PostgresLightningStore]:
    return open_postgres(), open_postgres()


async def test_each_rollout_is_claimed_once(two: tuple[PostgresLightningStore, PostgresLightningStore]) -> None:
    made = await asyncio.gather(*(store.enqueue_rollout(i) for i in range(20) for store in two))

    async def claim_all(store: PostgresLightningStore, worker_id: str) -> list[str]:
        claimed: list[str] = []
        while claim := await store.dequeue_rollout(worker_id):
            claimed.append(claim.rollout_id)
        return claimed

    runners = (claim_all(store, f"w{i}") for i in range(5) for store in two)
    claimed = [rollout_id for of_one in await asyncio.gather(*runners) for rollout_id in of_one]
    assert sorted(claimed) == sorted(rollout.rollout_id for rollout in made)


async def test_an_empty_answer_means_an_empty_queue(
    two: tuple[PostgresLightningStore, PostgresLightningStore],
) -> None:
    """Whoever else holds the rollout's row just then, for something that leaves it in the queue."""
    store, other = two
    rollout = await store.enqueue_rollout(1)
    for i in range(30):
        touching = [asyncio.create_task(other.update_rollout(rollout.rollout_id, metadata={"i": j})) for j in range(4)]
        await asyncio.sleep(0.001 * (i % 4))
        claim = await store.dequeue_rollout()
        assert claim is not None
        await asyncio.gather(*touching)
        await store.update_rollout(rollout.rollout_id, status="requeuing")


async def test_waiters_hear_what_others_commit(two: tuple[PostgresLightningStore, PostgresLightningStore]) -> None:
    here, there = two
    claiming = [asyncio.create_task(here.dequeue_rollout(f"w{i}", wait=PATIENCE)) for i in range(3)]
    await asyncio.wait(claiming, timeout=0.1)
    await there.enqueue_many_rollouts([EnqueueRolloutRequest(input=i) for i in range(3)])
    claims = [claim for claim in await asyncio.gather(*claiming) if claim]
    assert len({claim.rollout_id for claim in claims}) == 3
    waiting = asyncio.create_task(soon(here.wait_for_rollouts(rollout_ids=[c.rollout_id for c in claims])))
    feed = asyncio.create_task(here.read_finished_rollouts(wait=PATIENCE))
    await asyncio.wait({waiting, feed}, timeout=0.1)
    for claim in claims:
        await there.update_rollout(claim.rollout_id, status="succeeded")
    assert len(await waiting) == 3
    assert {rollout.status for rollout in (await feed).items} == {"succeeded"}


async def test_a_transaction_with_more_news_than_a_notification_holds_wakes_everybody(
    two: tuple[PostgresLightningStore, PostgresLightningStore],
) -> None:
    here, there = two
    config = RolloutConfig(max_attempts=1)
    await there.enqueue_many_rollouts([EnqueueRolloutRequest(input=i, config=config) for i in range(600)])
    claims = await there.dequeue_many_rollouts(limit=600, worker_id="w")
    ids = [claim.rollout_id for claim in claims]
    waiting = asyncio.create_task(soon(here.wait_for_rollouts(rollout_ids=ids)))
    await asyncio.wait({waiting}, timeout=0.1)
    await there.release_worker("w")
    assert len(await waiting) == 600


async def test_a_deadline_is_kept_when_the_store_that_set_it_is_gone(open_postgres: OpenPostgres) -> None:
    staying, leaving = open_postgres(), open_postgres()
    await leaving.enqueue_rollout(1, config=RolloutConfig(timeout_seconds=0.3))
    claim = await leaving.dequeue_rollout()
    assert claim is not None
    await leaving.close()
    (ended,) = await soon(staying.wait_for_rollouts(rollout_ids=[claim.rollout_id]))
    assert ended.status == "failed"
    assert [attempt.status for attempt in await staying.query_attempts(claim.rollout_id)] == ["timeout"]


async def test_every_store_enforces_the_deadlines_and_each_passes_once(open_postgres: OpenPostgres) -> None:
    stores = [open_postgres() for _ in range(3)]
    config = RolloutConfig(timeout_seconds=0.2, max_attempts=2, retry_condition=["timeout"])
    made = await stores[0].enqueue_many_rollouts([EnqueueRolloutRequest(input=i, config=config) for i in range(30)])
    for tries in (1, 2):
        for store in stores:
            await store.dequeue_many_rollouts(limit=10, worker_id=f"w{tries}")
        async with asyncio.timeout(PATIENCE):
            expected = "requeuing" if tries == 1 else "failed"
            while {rollout.status for rollout in await stores[0].query_rollouts()} != {expected}:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    for rollout in made:
        attempts = await stores[1].query_attempts(rollout.rollout_id)
        assert [attempt.status for attempt in attempts] == ["timeout", "timeout"]


async def test_time_without_any_store_does_not_count(open_postgres: OpenPostgres) -> None:
    store = open_postgres()
    await store.enqueue_rollout(1, config=RolloutConfig(unresponsive_seconds=0.5, timeout_seconds=60))
    claim = await store.dequeue_rollout()
    assert claim is not None
    await store.close()
    await asyncio.sleep(0.7)  # the time that must not count
    again = open_postgres()
    span = Span.from_attributes(attributes={}, rollout_id=claim.rollout_id, attempt_id=claim.attempt.attempt_id)
    await again.add_span(span)
    assert [attempt.status for attempt in await again.query_attempts(claim.rollout_id)] == ["running"]
    (ended,) = await soon(again.wait_for_rollouts(rollout_ids=[claim.rollout_id]))
    assert ended.status == "failed"


async def test_a_store_that_joins_another_leaves_the_deadlines_alone(open_postgres: OpenPostgres) -> None:
    store = open_postgres()
    await store.enqueue_rollout(1, config=RolloutConfig(timeout_seconds=60))
    await store.dequeue_rollout()

    async def deadline() -> float:
        return (await store.read(lambda tx: tx.fetch("SELECT timeout_at FROM attempts")))[0][0]

    before = await deadline()
    await open_postgres().close()
    assert await deadline() == before
    await store.close()
    store = open_postgres()
    assert await deadline() > before


async def test_one_of_those_who_end_an_attempt_at_once_wins(
    two: tuple[PostgresLightningStore, PostgresLightningStore],
) -> None:
    """What was read before the rollout's lock was granted does not count."""
    for _ in range(20):
        claim = await two[0].start_rollout(1)
        key = (claim.rollout_id, claim.attempt.attempt_id)
        outcomes = await asyncio.gather(
            *(store.update_attempt(*key, status=status) for store in two for status in ("succeeded", "failed")),  # type: ignore[arg-type]
            return_exceptions=True,
        )
        refused = [outcome for outcome in outcomes if isinstance(outcome, LeaseLost)]
        assert len(refused) == 2
        kept = {outcome.status for outcome in outcomes if not isinstance(outcome, BaseException)}
        (attempt,) = await two[1].query_attempts(claim.rollout_id)
        assert kept == {attempt.status}


async def test_restarts_and_claims_at_once_number_their_attempts(
    two: tuple[PostgresLightningStore, PostgresLightningStore],
) -> None:
    rollout = await two[0].enqueue_rollout(1)
    starts = [store.start_attempt(rollout.rollout_id) for _ in range(5) for store in two]
    await asyncio.gather(*starts)
    attempts = await two[0].query_attempts(rollout.rollout_id)
    assert [attempt.sequence_id for attempt in attempts] == list(range(1, 11))


async def test_the_same_spans_written_at_once_are_there_once(
    two: tuple[PostgresLightningStore, PostgresLightningStore],
) -> None:
    claims = [await two[0].start_rollout(i) for i in range(4)]
    spans = [
        Span.from_attributes(
            attributes={},
            rollout_id=claim.rollout_id,
            attempt_id=claim.attempt.attempt_id,
            sequence_id=i,
            span_id=f"{i:016x}",
        )
        for claim in claims
        for i in range(5)
    ]
    batches = [spans if i % 2 else spans[::-1] for i in range(8)]
    new = await asyncio.gather(*(two[i % 2].add_many_spans(batch) for i, batch in enumerate(batches)))
    assert sum(len(of_one) for of_one in new) == len(spans)
    for claim in claims:
        assert [span.sequence_id for span in await two[1].query_spans(claim.rollout_id)] == list(range(5))


async def test_a_feed_of_spans_misses_none_that_are_written_meanwhile(
    two: tuple[PostgresLightningStore, PostgresLightningStore],
) -> None:
    writer, reader = two
    claims = [await writer.start_rollout(i) for i in range(8)]

    async def write(number: int) -> None:
        claim = claims[number]
        for i in range(10):
            await writer.add_many_spans(
                [
                    Span.from_attributes(
                        attributes={},
                        rollout_id=claim.rollout_id,
                        attempt_id=claim.attempt.attempt_id,
                        sequence_id=10 * i + j,
                        span_id=f"{10 * i + j:016x}",
                    )
                    for j in range(1 + number)
                ]
            )

    writing = asyncio.gather(*(write(number) for number in range(8)))
    seen: list[tuple[str, str]] = []
    cursor = 0
    while True:
        done = writing.done()
        read = await reader.read_spans(cursor=cursor, limit=7)
        seen += [(span.rollout_id, span.span_id) for span in read.items]
        cursor = read.cursor
        if done and not read.items:
            break
    assert len(seen) == len(set(seen)) == sum(10 * (1 + number) for number in range(8))


@asynccontextmanager
async def transaction(dsn: str, namespace: str) -> AsyncGenerator[asyncpg.Connection]:
    """Somebody's transaction, which lasts as long as the block."""
    connection = await asyncpg.connect(dsn, server_settings={"search_path": f'"{namespace}"'})
    async with connection.transaction():
        yield connection
    await connection.close()


async def test_a_feed_of_spans_waits_for_those_who_write_and_holds_up_nobody(
    two: tuple[PostgresLightningStore, PostgresLightningStore], postgres_dsn: str, postgres_namespace: str
) -> None:
    writer, reader = two
    slow, quick = span_of(await writer.start_rollout(1)), span_of(await writer.start_rollout(2))
    later = quick.model_copy(update={"span_id": "later"})
    async with transaction(postgres_dsn, postgres_namespace) as writing:
        await writing.execute(translate(INSERT).sql, *encode_span(slow).columns, 0)
        assert (await soon(reader.read_spans())).items == []  # nothing was acknowledged
        await writer.add_span(quick)
        feed = asyncio.create_task(reader.read_spans())
        await asyncio.wait({feed}, timeout=0.2)
        assert not feed.done()  # what it gave would have a gap
        await soon(writer.add_span(later))
    read = await soon(feed)
    assert read.items[:2] == [slow, quick]
    rest = await reader.read_spans(cursor=read.cursor)
    assert [*read.items, *rest.items] == [slow, quick, later]


async def test_who_waits_too_long_for_others_may_come_again(
    open_postgres: OpenPostgres, postgres_dsn: str, postgres_namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(address._SETTINGS, "lock_timeout", "100ms")
    monkeypatch.setattr(settled, "_WAIT_SECONDS", 0.1)
    store = open_postgres()
    slow, quick = span_of(await store.start_rollout(1)), span_of(await store.start_rollout(2))
    async with transaction(postgres_dsn, postgres_namespace) as writing:
        await writing.execute("UPDATE counters SET value = value + 1 WHERE name = 'queue'")
        await writing.execute(translate(INSERT).sql, *encode_span(slow).columns, 0)
        await store.add_span(quick)
        with pytest.raises(TooBusy, match="nothing was written"):
            await soon(store.enqueue_rollout(3))
        with pytest.raises(TooBusy, match="read them afterwards"):
            await soon(store.read_spans())
    await store.enqueue_rollout(3)
    assert (await store.read_spans()).items == [slow, quick]
