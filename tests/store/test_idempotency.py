"""An operation with a key happens at most once, whoever asks how often, and over a restart."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import aiohttp
import pytest

from agentlightning.errors import InvalidValue, LeaseLost, NotFound, StoreError
from agentlightning.store import InMemoryLightningStore, LightningStore, SqliteLightningStore
from agentlightning.store.base import OPERATIONS, ROUTES
from agentlightning.store.sql.store import SqlLightningStore
from agentlightning.types import AttemptedRollout, EnqueueRolloutRequest, PromptTemplate, RolloutConfig, Span
from tests.store.serving import served

PATIENCE = 10.0
RESOURCES = {"prompt": PromptTemplate(template="{x}", engine="f-string")}
TWICE = RolloutConfig(max_attempts=2, retry_condition=["failed"])
Opener: TypeAlias = Callable[[], SqlLightningStore]


@pytest.fixture(params=["memory", "file", "postgres"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    """Opens one place again and again; a store in memory is always a new place."""
    if request.param == "memory":
        return InMemoryLightningStore
    if request.param == "file":
        return lambda: SqliteLightningStore(tmp_path / "store.db")
    from agentlightning.store.postgres import PostgresLightningStore

    dsn, namespace = (request.getfixturevalue(name) for name in ("postgres_dsn", "postgres_namespace"))
    return lambda: PostgresLightningStore(dsn, namespace=namespace)


@pytest.fixture
async def store(open_store: Opener) -> AsyncIterator[SqlLightningStore]:
    store = open_store()
    yield store
    await store.close()


@pytest.fixture
def apart(store: SqlLightningStore) -> SqlLightningStore:
    """The store, with its operations in another thread: what runs in its caller's is heard of at once."""
    if hasattr(store, "_writes"):
        store._writes._here = None
    return store


async def prepare(store: LightningStore) -> AttemptedRollout:
    """Leave a queue of three, a running attempt, which is returned, and resources."""
    for task in range(4):
        await store.enqueue_rollout(task, config=TWICE)
    await store.update_resources("rs-1", RESOURCES)
    claim = await store.dequeue_rollout("w")
    assert claim is not None
    return claim


def enqueue(*tasks: int) -> list[EnqueueRolloutRequest]:
    return [EnqueueRolloutRequest(input=task) for task in tasks]


CALLS: dict[str, Callable[[AttemptedRollout], dict[str, Any]]] = {
    "start_rollout": lambda claim: {"input": 5, "worker_id": "v"},
    "enqueue_many_rollouts": lambda claim: {"rollouts": enqueue(6, 7)},
    "dequeue_many_rollouts": lambda claim: {"limit": 2, "worker_id": "v"},
    "start_attempt": lambda claim: {"rollout_id": claim.rollout_id, "worker_id": "v"},
    "get_many_span_sequence_ids": lambda claim: {
        "rollout_attempt_ids": [(claim.rollout_id, claim.attempt.attempt_id)] * 3
    },
    "update_rollout": lambda claim: {"rollout_id": claim.rollout_id, "metadata": {"a": 1}, "status": "requeuing"},
    "update_attempt": lambda claim: {
        "rollout_id": claim.rollout_id,
        "attempt_id": claim.attempt.attempt_id,
        "status": "failed",
    },
    "add_resources": lambda claim: {"resources": RESOURCES},
    "update_resources": lambda claim: {"resources_id": "rs-1", "resources": RESOURCES, "expected_version": 1},
}


async def picture(store: LightningStore) -> dict[str, Any]:
    """Return all that a repetition might change, but for reserved span numbers."""
    rollouts = list(await store.query_rollouts())
    resources = [list(await store.query_resources(version=version)) for version in (None, 1, 2, 3)]
    latest = await store.get_latest_resources()
    attempts = [list(await store.query_attempts(rollout.rollout_id)) for rollout in rollouts]
    return {
        "rollouts": rollouts,
        "attempts": attempts,
        "resources": resources,
        "latest": latest and latest.resources_id,
        "workers": list(await store.query_workers()),
    }


def test_the_calls_are_all_that_may_not_be_repeated() -> None:
    unsafe = {name for name, operation in OPERATIONS.items() if operation.mutates and not operation.repeatable}
    assert unsafe == CALLS.keys()


@pytest.mark.parametrize("name", CALLS)
async def test_a_repetition_gets_the_first_answer_and_changes_nothing(
    store: SqlLightningStore, open_store: Opener, name: str
) -> None:
    arguments = CALLS[name](await prepare(store))
    first = await getattr(store.keyed("key", b"body"), name)(**arguments)
    before = await picture(store)
    again = await getattr(store.keyed("key", b"body"), name)(**arguments)
    assert again == first
    assert type(again) is type(first)
    assert await picture(store) == before
    if not isinstance(store, InMemoryLightningStore):
        await store.close()
        reopened = open_store()
        assert await getattr(reopened.keyed("key", b"body"), name)(**arguments) == first
        assert await picture(reopened) == before
        await reopened.close()


@pytest.mark.parametrize("name", CALLS)
async def test_another_key_is_another_request(store: SqlLightningStore, name: str) -> None:
    claim = await prepare(store)
    call = lambda key: getattr(store.keyed(key, b"body"), name)(**CALLS[name](claim))  # noqa: E731
    first = await call("key")
    if name == "update_resources":  # its version is another one now
        with pytest.raises(StoreError, match="version"):
            await call("other")
    elif name in ("update_rollout", "update_attempt"):  # twice is the same as once
        assert await call("other") == first
    else:
        assert await call("other") != first


@pytest.mark.parametrize("name", CALLS)
async def test_a_key_belongs_to_one_request(store: SqlLightningStore, name: str) -> None:
    arguments = CALLS[name](await prepare(store))
    first = await getattr(store.keyed("key", b"body"), name)(**arguments)
    before = await picture(store)
    with pytest.raises(InvalidValue, match="another request") as refusal:
        await getattr(store.keyed("key", b"other body"), name)(**arguments)
    assert refusal.value.status == 422
    assert await picture(store) == before
    assert await getattr(store.keyed("key", b"body"), name)(**arguments) == first


@pytest.mark.parametrize("name", CALLS)
async def test_requests_of_one_key_at_the_same_time_get_one_answer(store: SqlLightningStore, name: str) -> None:
    arguments = CALLS[name](await prepare(store))
    total = (await store.query_rollouts()).total
    call = lambda: getattr(store.keyed("key", b"body"), name)(**arguments)  # noqa: E731
    first, *others = await asyncio.wait_for(asyncio.gather(*(call() for _ in range(8))), PATIENCE)
    assert all(other == first for other in others)
    made = {"start_rollout": 1, "enqueue_many_rollouts": 2}.get(name, 0)
    assert (await store.query_rollouts()).total == total + made


async def test_a_repeated_reservation_reserves_nothing(store: SqlLightningStore) -> None:
    claim = await prepare(store)
    keys = (claim.rollout_id, claim.attempt.attempt_id)
    for _ in range(3):
        assert await store.keyed("key", b"body").get_next_span_sequence_id(*keys) == 1
    assert await store.get_next_span_sequence_id(*keys) == 2


async def test_a_repeated_end_is_answered_though_the_attempt_has_ended(store: SqlLightningStore) -> None:
    claim = await prepare(store)
    end = {"rollout_id": claim.rollout_id, "attempt_id": claim.attempt.attempt_id, "status": "succeeded"}
    assert (await store.keyed("key", b"body").update_attempt(**end)).status == "succeeded"
    await store.update_rollout(claim.rollout_id, status="cancelled")
    assert (await store.keyed("key", b"body").update_attempt(**end)).status == "succeeded"


async def test_what_was_refused_may_be_asked_again(store: SqlLightningStore) -> None:
    claim = await prepare(store)
    ids = {"rollout_id": claim.rollout_id, "attempt_id": claim.attempt.attempt_id}
    await store.update_attempt(**ids, status="failed")
    for _ in range(2):
        with pytest.raises(LeaseLost):
            await store.keyed("key", b"body").update_attempt(**ids, status="succeeded")
    assert await store.keyed("key", b"other").start_attempt(claim.rollout_id)  # the key is free


async def test_a_claim_that_found_nothing_leaves_no_key(store: SqlLightningStore) -> None:
    assert await store.keyed("key", b"body").dequeue_rollout("w") is None
    rollout = await store.enqueue_rollout(1)
    claims = [await store.keyed("key", b"body").dequeue_rollout("w") for _ in range(2)]
    assert [claim and claim.rollout_id for claim in claims] == [rollout.rollout_id] * 2
    assert (await store.query_attempts(rollout.rollout_id)).total == 1


async def test_a_claim_that_waits_is_one_claim(store: SqlLightningStore) -> None:
    waiting = [asyncio.create_task(store.keyed("key", b"body").dequeue_rollout("w", wait=PATIENCE)) for _ in range(3)]
    await store.query_rollouts()
    enqueued = [await store.enqueue_rollout(task) for task in range(3)]
    claims = await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE)
    assert {claim.rollout_id for claim in claims if claim} == {enqueued[0].rollout_id}
    assert len({claim.attempt.attempt_id for claim in claims if claim}) == 1


async def test_waits_of_one_key_that_meet_get_one_claim(store: SqlLightningStore) -> None:
    waits = [asyncio.create_task(store.keyed("key", b"").dequeue_rollout("w", wait=0.3)) for _ in range(2)]
    await asyncio.wait(waits, timeout=0.02)
    made = await store.enqueue_rollout(1)
    claims = [await wait for wait in waits]
    assert claims[0] is not None
    assert claims[0].rollout_id == made.rollout_id
    assert claims[0] == claims[1]


async def test_only_claims_that_still_exist_are_claimed_again(store: SqlLightningStore) -> None:
    await prepare(store)
    first = await store.keyed("key", b"body").dequeue_many_rollouts(limit=2)
    started = await store.keyed("other", b"body").start_rollout(1)
    for claim in (first[0], started):
        await store.write(
            lambda tx, id=claim.attempt.attempt_id: tx.execute("DELETE FROM attempts WHERE attempt_id = ?", (id,))
        )
    again = await store.keyed("key", b"body").dequeue_many_rollouts(limit=2)
    assert [claim.attempt.attempt_id for claim in again] == [first[1].attempt.attempt_id]
    with pytest.raises(NotFound, match=started.attempt.attempt_id):
        await store.keyed("other", b"body").start_rollout(1)


@pytest.mark.parametrize("key", ["", "k" * 201, "\ud800", 7])
def test_a_key_that_cannot_be_kept_is_refused(key: Any) -> None:
    with pytest.raises(InvalidValue, match="key"):
        InMemoryLightningStore().keyed(key, b"body")


# -- who was cancelled --------------------------------------------------------------------------------------------


async def standing_still(calling: "asyncio.Task[Any]", meanwhile: Callable[[], Awaitable[object]]) -> None:
    """Let `calling` be committed, then `meanwhile`, while this loop hears of neither."""

    async def run() -> None:
        await meanwhile()

    await asyncio.sleep(0)
    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    calling.cancel()
    await asyncio.wait({calling}, timeout=PATIENCE)
    assert calling.cancelled()


async def used(store: SqlLightningStore, uses: int) -> None:
    """Wait until so many requests with a key are committed."""
    async with asyncio.timeout(PATIENCE):
        while not await store.read(lambda tx: tx.fetch("SELECT 1 FROM request_keys WHERE uses >= ?", (uses,))):  # noqa: ASYNC110
            await asyncio.sleep(0)


async def keys_of(store: SqlLightningStore) -> int:
    row = await store.read(lambda tx: tx.fetch_one("SELECT COUNT(*) FROM request_keys"))
    assert row is not None
    return row[0]


async def test_a_claim_that_is_undone_takes_its_key_along(apart: SqlLightningStore) -> None:
    rollout = await apart.enqueue_rollout(1)
    calling = asyncio.create_task(apart.keyed("key", b"body").dequeue_rollout("w"))

    await standing_still(calling, lambda: used(apart, 1))
    again = await apart.keyed("key", b"body").dequeue_rollout("w")
    assert again is not None
    assert (await apart.query_attempts(rollout.rollout_id)).total == 1


async def test_a_claim_is_not_taken_from_who_was_told_of_it_since(apart: SqlLightningStore) -> None:
    rollout = await apart.enqueue_rollout(1)
    calling = asyncio.create_task(apart.keyed("key", b"body").dequeue_rollout("w"))
    told: list[AttemptedRollout | None] = []

    async def ask_again() -> None:
        await used(apart, 1)
        told.append(await apart.keyed("key", b"body").dequeue_rollout("w"))

    await standing_still(calling, ask_again)
    assert told[0] is not None
    await apart.update_attempt(rollout.rollout_id, told[0].attempt.attempt_id, status="succeeded")
    assert (await apart.query_attempts(rollout.rollout_id)).total == 1


async def test_a_claim_of_which_no_request_heard_returns_to_the_queue(apart: SqlLightningStore) -> None:
    rollout = await apart.enqueue_rollout(1)
    await apart.keyed("key", b"body").dequeue_rollout("w")  # its answer is lost on the way
    calling = asyncio.create_task(apart.keyed("key", b"body").dequeue_rollout("w"))
    await standing_still(calling, lambda: used(apart, 2))
    async with asyncio.timeout(PATIENCE):
        while (await apart.query_attempts(rollout.rollout_id)).total:  # noqa: ASYNC110  # nothing waits for an undoing
            await asyncio.sleep(0)
    assert await apart.keyed("key", b"body").dequeue_rollout("w") is None
    claim = await apart.dequeue_rollout("w")
    assert claim is not None
    assert (claim.rollout_id, claim.attempt.sequence_id) == (rollout.rollout_id, 1)


async def test_a_repetition_that_was_given_up_takes_nothing_from_the_next(apart: SqlLightningStore) -> None:
    rollout = await apart.enqueue_rollout(1)
    await apart.keyed("key", b"body").dequeue_rollout("w")  # its answer is lost on the way
    calling = asyncio.create_task(apart.keyed("key", b"body").dequeue_rollout("w"))
    told: list[AttemptedRollout | None] = []

    async def ask_again() -> None:
        await used(apart, 2)
        told.append(await apart.keyed("key", b"body").dequeue_rollout("w"))

    await standing_still(calling, ask_again)
    assert told[0] is not None
    assert await apart.dequeue_rollout("w") is None
    await apart.update_attempt(rollout.rollout_id, told[0].attempt.attempt_id, status="succeeded")


@pytest.mark.parametrize("name", ["start_rollout", "start_attempt"])
async def test_what_did_not_come_from_the_queue_stays_for_the_next_request(apart: SqlLightningStore, name: str) -> None:
    arguments = CALLS[name](await prepare(apart))
    first = await getattr(apart.keyed("key", b"body"), name)(**arguments)
    calling = asyncio.create_task(getattr(apart.keyed("key", b"body"), name)(**arguments))
    await standing_still(calling, lambda: used(apart, 2))
    assert await getattr(apart.keyed("key", b"body"), name)(**arguments) == first


@pytest.mark.parametrize("turns", range(8))
async def test_no_moment_of_cancelling_leaves_a_key_without_its_claim(store: SqlLightningStore, turns: int) -> None:
    for task in range(10):
        await store.enqueue_rollout(task)
    view = [store.keyed(f"key-{n}", b"body") for n in range(10)]
    calling = [asyncio.create_task(view[n].dequeue_rollout("w")) for n in range(10)]
    for _ in range(turns):
        await asyncio.sleep(0)
    for task in calling:
        task.cancel()
    await asyncio.wait(calling, timeout=PATIENCE)
    heard = {task.result().attempt.attempt_id for task in calling if not task.cancelled() and task.result()}  # type: ignore[union-attr]
    claims = [await view[n].dequeue_rollout("w") for n in range(10)]
    attempts = [claim.attempt.attempt_id for claim in claims if claim]
    assert len(set(attempts)) == 10
    assert heard <= set(attempts)


# -- withdrawing --------------------------------------------------------------------------------------------------


async def test_a_withdrawn_claim_returns_to_the_queue_once(store: SqlLightningStore) -> None:
    rollouts = [await store.enqueue_rollout(n) for n in range(2)]
    await store.keyed("key", b"body").dequeue_many_rollouts(limit=2, worker_id="w")
    for _ in range(2):
        await store.withdraw("key")
    claims = await store.dequeue_many_rollouts(limit=3)
    assert [(claim.rollout_id, claim.attempt.sequence_id) for claim in claims] == [
        (rollout.rollout_id, 1) for rollout in rollouts
    ]
    await store.withdraw("key")  # these claims are another request's
    assert {r.status for r in await store.query_rollouts()} == {"preparing"}


async def test_a_request_that_was_withdrawn_before_it_came_does_nothing(store: SqlLightningStore) -> None:
    await prepare(store)
    before = await picture(store)
    await store.withdraw("key")
    with pytest.raises(InvalidValue):
        await store.keyed("key", b"body").dequeue_rollout("w")
    assert await picture(store) == before


async def test_what_somebody_works_on_is_not_withdrawn(store: SqlLightningStore) -> None:
    await store.enqueue_rollout(1)
    claim = await store.keyed("key", b"body").dequeue_rollout("w")
    assert claim is not None
    rollout_id, attempt_id = _key(claim)
    await store.add_span(
        Span.from_attributes(attributes={}, rollout_id=rollout_id, attempt_id=attempt_id, sequence_id=1)
    )
    before = await picture(store)
    await store.withdraw("key")
    assert await picture(store) == before


async def test_a_withdrawn_start_fails(store: SqlLightningStore) -> None:
    claim = await store.keyed("key", b"body").start_rollout(1)
    await store.withdraw("key")
    assert [a.status for a in await store.query_attempts(claim.rollout_id)] == ["failed"]


@pytest.mark.parametrize("name", [name for name in CALLS if "dequeue" not in name and "start" not in name])
async def test_only_claims_are_withdrawn(store: SqlLightningStore, name: str) -> None:
    arguments = CALLS[name](await prepare(store))
    await getattr(store.keyed("key", b"body"), name)(**arguments)
    before = await picture(store)
    await store.withdraw("key")
    assert await picture(store) == before


# -- forgetting ---------------------------------------------------------------------------------------------------


async def age(store: SqlLightningStore, seconds: float) -> None:
    await store.write(lambda tx: tx.execute("UPDATE request_keys SET create_time = create_time - ?", (seconds,)))


@pytest.mark.parametrize(("seconds", "kept"), [(590, True), (610, False)])
async def test_keys_are_forgotten_after_ten_minutes_and_a_while(
    store: SqlLightningStore, seconds: float, kept: bool
) -> None:
    claim = await prepare(store)
    reserve = lambda key: store.keyed(key, b"b").get_next_span_sequence_id(claim.rollout_id, claim.attempt.attempt_id)  # noqa: E731
    first = [await reserve(f"old-{n}") for n in range(3)]
    await age(store, seconds)
    for n in range(128):
        await reserve(f"new-{n}")
    assert await keys_of(store) == 128 + 3 * kept
    assert ([await reserve(f"old-{n}") for n in range(3)] == first) == kept


async def test_a_store_that_has_fallen_behind_forgets_faster_than_it_learns(store: SqlLightningStore) -> None:
    claim = await prepare(store)
    pair = (claim.rollout_id, claim.attempt.attempt_id)
    for n in range(300):
        await store.keyed(f"old-{n}", b"body").get_next_span_sequence_id(*pair)
    await age(store, 610)
    for n in range(300):
        await store.keyed(f"new-{n}", b"body").get_next_span_sequence_id(*pair)
    assert await keys_of(store) == 300


async def test_withdrawals_are_forgotten_too(store: SqlLightningStore) -> None:
    for n in range(3):
        await store.withdraw(f"old-{n}")
    await age(store, 610)
    await store.withdraw("new")
    assert await keys_of(store) == 1


# -- over HTTP ----------------------------------------------------------------------------------------------------

REQUESTS: dict[str, Callable[[AttemptedRollout], tuple[str, Any]]] = {
    "start_rollout": lambda claim: ("rollouts", {"input": 5}),
    "enqueue_many_rollouts": lambda claim: ("queues/rollouts/enqueue", {"rollouts": [{"input": 6}]}),
    "dequeue_many_rollouts": lambda claim: ("queues/rollouts/dequeue", {"limit": 2}),
    "start_attempt": lambda claim: (f"rollouts/{claim.rollout_id}/attempts", {}),
    "get_many_span_sequence_ids": lambda claim: ("spans/next/bulk", {"rollout_attempt_ids": [_key(claim)]}),
    "get_next_span_sequence_id": lambda claim: (
        "spans/next",
        dict(zip(("rollout_id", "attempt_id"), _key(claim), strict=True)),
    ),
    "update_rollout": lambda claim: (f"rollouts/{claim.rollout_id}", {"metadata": {"a": 1}}),
    "update_attempt": lambda claim: ("rollouts/{}/attempts/{}".format(*_key(claim)), {"status": "failed"}),
    "add_resources": lambda claim: ("resources", {"p": {"resource_type": "prompt_template", **PROMPT}}),
    "update_resources": lambda claim: ("resources/rs-1", {"p": {"resource_type": "prompt_template", **PROMPT}}),
}
PROMPT = {"template": "{x}", "engine": "f-string"}


def _key(claim: AttemptedRollout) -> tuple[str, str]:
    return claim.rollout_id, claim.attempt.attempt_id


async def post(url: str, path: str, body: Any, key: str | None) -> tuple[int, Any]:
    headers = {} if key is None else {"Idempotency-Key": key}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/v1/agl/{path}", json=body, headers=headers) as response,
    ):
        return response.status, await response.json()


def test_the_requests_are_all_that_may_not_be_repeated() -> None:
    assert {route.name for route in ROUTES if route.mutates and not route.repeatable} == REQUESTS.keys()


@pytest.mark.parametrize("name", REQUESTS)
async def test_a_request_sent_again_is_answered_alike_also_by_the_next_server(
    store: SqlLightningStore, open_store: Opener, name: str
) -> None:
    path, body = REQUESTS[name](await prepare(store))
    async with served(store) as url:
        first = await post(url, path, body, "key")
        before = await picture(store)
        assert first[0] < 300
        assert await post(url, path, body, "key") == first
        refused, answer = await post(url, path, {**body, "more": body.get("p")}, "key")
        assert (refused, answer["error"]) == (422, "InvalidValue")
        assert "another request" in answer["detail"]
        assert await picture(store) == before
    if not isinstance(store, InMemoryLightningStore):
        await store.close()
        reopened = open_store()
        async with served(reopened) as url:
            assert await post(url, path, body, "key") == first
        assert await picture(reopened) == before
        await reopened.close()


async def test_a_key_used_at_two_addresses_is_refused(store: SqlLightningStore) -> None:
    claim = await prepare(store)
    async with served(store) as url:
        assert (await post(url, f"rollouts/{claim.rollout_id}/attempts", {}, "key"))[0] == 201
        assert (await post(url, f"rollouts/{claim.rollout_id}", {}, "key"))[0] == 422


async def test_a_request_without_a_key_happens_each_time(store: SqlLightningStore) -> None:
    async with served(store) as url:
        for _ in range(2):
            assert (await post(url, "rollouts", {"input": 1}, None))[0] == 201
    assert (await store.query_rollouts()).total == 2
    assert await keys_of(store) == 0


async def test_what_may_be_repeated_stores_no_key(store: SqlLightningStore) -> None:
    rollout_id, attempt_id = _key(await prepare(store))
    span = Span.from_attributes(attributes={}, rollout_id=rollout_id, attempt_id=attempt_id, sequence_id=1)
    async with served(store) as url:
        for path, body in (
            ("spans", span.model_dump(mode="json")),
            ("spans/bulk", {"spans": [span.model_dump(mode="json")]}),
            ("workers/w", {}),
            ("workers/w/leases", {"held": [[rollout_id, attempt_id]]}),
            ("workers/w/release", {}),
        ):
            for _ in range(2):
                assert (await post(url, path, body, "key"))[0] < 300, path
    assert await keys_of(store) == 0
    assert (await store.query_spans(rollout_id)).total == 1


@pytest.mark.parametrize("key", ["", "k" * 201, "two words\t", "kl\u00e9"])
async def test_a_key_that_cannot_be_kept_is_refused_over_http(store: SqlLightningStore, key: str) -> None:
    async with served(store) as url:
        assert (await post(url, "rollouts", {"input": 1}, key))[0] == 422
    assert (await store.query_rollouts()).total == 0
