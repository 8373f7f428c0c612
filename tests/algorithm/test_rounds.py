from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import agentlightning as agl
from agentlightning.algorithm import AlgorithmContext, Outcome
from agentlightning.algorithm.rounds import RUN_KEY, settle_leftovers
from agentlightning.errors import ConfigurationError, StoreUnreachable

Serve = Callable[[agl.AttemptedRollout], Awaitable[None]]


@asynccontextmanager
async def serving(store: agl.LightningStore, serve: Serve) -> AsyncIterator[None]:
    """Be the runner: hand each claimed rollout to `serve`, one task each."""

    async def claim() -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                rollout = await store.dequeue_rollout("worker", wait=5)
                if rollout is not None:
                    group.create_task(_call(serve, rollout))

    async def _call(serve: Serve, rollout: agl.AttemptedRollout) -> None:
        await serve(rollout)

    task = asyncio.create_task(claim())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def end(store: agl.LightningStore, rollout: agl.AttemptedRollout, status: Any = "succeeded") -> None:
    await store.update_attempt(rollout.rollout_id, rollout.attempt.attempt_id, status=status)


@pytest.fixture
def store() -> agl.LightningStore:
    return agl.InMemoryLightningStore()


@pytest.fixture
def context(store: agl.LightningStore) -> AlgorithmContext:
    return AlgorithmContext(store)


async def collect(rounds: AsyncIterator[Outcome] | Any) -> list[Outcome]:
    async with asyncio.timeout(30):
        return [outcome async for outcome in rounds]


async def test_outcomes_come_as_they_end_and_say_where_they_belong(
    store: agl.LightningStore, context: AlgorithmContext
) -> None:
    gates = {task: asyncio.Event() for task in "abc"}

    async def serve(rollout: agl.AttemptedRollout) -> None:
        await gates[rollout.input].wait()
        await end(store, rollout)

    seen: list[tuple[int, int]] = []
    async with serving(store, serve), asyncio.timeout(30):
        gates["b"].set()
        async for outcome in context.rollouts("abc", samples=2):
            seen.append((outcome.task, outcome.sample))
            if len(seen) == 2:
                gates["c"].set()
            if len(seen) == 4:
                gates["a"].set()
    assert [task for task, _ in seen] == [1, 1, 2, 2, 0, 0]
    assert sorted(seen) == [(task, sample) for task in range(3) for sample in range(2)]


async def test_gathered_outcomes_are_in_the_order_of_the_tasks(
    store: agl.LightningStore, context: AlgorithmContext
) -> None:
    async def serve(rollout: agl.AttemptedRollout) -> None:
        await end(store, rollout)

    async with serving(store, serve), asyncio.timeout(30):
        groups = await context.rollouts([3, 1, 2], samples=2, mode="val").gather()
    assert [[outcome.rollout.input for outcome in group] for group in groups] == [[3, 3], [1, 1], [2, 2]]
    assert {outcome.rollout.mode for group in groups for outcome in group} == {"val"}


@pytest.mark.parametrize(("failures", "rewards"), [("keep", [None]), ("zero", [0.0]), ("drop", [])])
async def test_failures_are_treated_as_the_policy_says(
    store: agl.LightningStore, context: AlgorithmContext, failures: Any, rewards: list[float | None]
) -> None:
    async def serve(rollout: agl.AttemptedRollout) -> None:
        await end(store, rollout, "failed" if rollout.input == "bad" else "succeeded")

    async with serving(store, serve):
        sampled = context.rollouts(["good", "bad"], failures=failures)
        outcomes = await collect(sampled)
    assert [outcome.reward for outcome in outcomes if outcome.task == 1] == rewards
    assert all("failed" in (outcome.error or "") for outcome in outcomes if outcome.task == 1)
    assert (sampled.counts.succeeded, sampled.counts.failed) == (1, 1)


async def test_retries_give_a_rollout_more_attempts(store: agl.LightningStore, context: AlgorithmContext) -> None:
    async def serve(rollout: agl.AttemptedRollout) -> None:
        await end(store, rollout, "succeeded" if rollout.attempt.sequence_id == 3 else "failed")

    async with serving(store, serve):
        (outcome,) = await collect(context.rollouts(["task"], retries=2))
        (failed,) = await collect(context.rollouts(["task"], retries=1))
    assert (outcome.rollout.status, outcome.error) == ("succeeded", None)
    assert failed.rollout.status == "failed"
    assert len(await store.query_attempts(failed.rollout.rollout_id)) == 2


async def test_what_has_not_ended_in_time_is_cancelled(store: agl.LightningStore, context: AlgorithmContext) -> None:
    async def serve(rollout: agl.AttemptedRollout) -> None:
        if rollout.input == "quick":
            await end(store, rollout)

    async with serving(store, serve):
        sampled = context.rollouts(["slow", "quick"], timeout=0.2)
        outcomes = await collect(sampled)
    slow = next(outcome for outcome in outcomes if outcome.task == 0)
    assert (slow.rollout.status, slow.error) == ("cancelled", "it was cancelled before it ended")
    assert sampled.counts.stragglers == 1


async def test_a_quorum_is_enough(store: agl.LightningStore, context: AlgorithmContext) -> None:
    async def serve(rollout: agl.AttemptedRollout) -> None:
        if rollout.input != "straggler":
            await end(store, rollout)

    async with serving(store, serve):
        sampled = context.rollouts(["a", "b", "c", "straggler"], quorum=0.75)
        outcomes = await collect(sampled)
    assert [outcome.rollout.status for outcome in outcomes] == ["succeeded"] * 3 + ["cancelled"]
    assert sampled.counts.stragglers == 1


async def test_whoever_leaves_early_cancels_the_rest(store: agl.LightningStore, context: AlgorithmContext) -> None:
    slow = asyncio.Event()

    async def serve(rollout: agl.AttemptedRollout) -> None:
        if rollout.input == "quick":
            await end(store, rollout)
        elif rollout.input == "slower":
            slow.set()

    async def leave() -> None:
        outcomes = aiter(context.rollouts(["quick", "slow"]))
        await anext(outcomes)
        await outcomes.aclose()  # type: ignore[attr-defined]  # it is a generator

    async with serving(store, serve), asyncio.timeout(30):
        await leave()
        cancelled = asyncio.create_task(context.rollouts(["slower"]).gather())
        await slow.wait()
        cancelled.cancel()
        await asyncio.wait({cancelled})
    assert sorted(each.status for each in await store.query_rollouts()) == ["cancelled", "cancelled", "succeeded"]


def of_run(store: agl.LightningStore, folder: Path, *, resuming: bool = False, run: str = "one") -> AlgorithmContext:
    return AlgorithmContext(store, run_dir=folder, run_id=run, resuming=resuming)


async def test_resumed_round_that_had_not_ended_runs_what_had_not_succeeded(
    store: agl.LightningStore, tmp_path: Path
) -> None:
    served: list[Any] = []

    async def serve(rollout: agl.AttemptedRollout) -> None:
        served.append(rollout.input)
        if rollout.input != "d" or served.count("d") > 1:
            await end(store, rollout, "failed" if rollout.input == "b" and served.count("b") < 2 else "succeeded")

    async with serving(store, serve), asyncio.timeout(30):
        killed = aiter(of_run(store, tmp_path).rollouts("abcd", key="step-1"))
        for _ in range(3):
            await anext(killed)
        await settle_leftovers(store, "one", alone=True)
        resumed = of_run(store, tmp_path, resuming=True).rollouts("abcd", key="step-1")
        outcomes = await collect(resumed)
        assert sorted(served) == ["a", "b", "b", "c", "d", "d"]
        await collect(of_run(store, tmp_path, resuming=True).rollouts("abcd", key="step-2"))
    assert {outcome.rollout.status for outcome in outcomes} == {"succeeded"}
    assert (resumed.counts.reused, len(served)) == (2, 10)


async def test_resumed_round_that_had_ended_gives_the_same_failures_and_stragglers(
    store: agl.LightningStore, tmp_path: Path
) -> None:
    async def serve(rollout: agl.AttemptedRollout) -> None:
        if rollout.input != "straggler":
            await end(store, rollout, "failed" if rollout.input == "bad" else "succeeded")

    async with serving(store, serve):
        tasks = ["good", "bad", "straggler"]
        first = await collect(of_run(store, tmp_path).rollouts(tasks, key="step-1", timeout=0.3))
    again = await collect(of_run(store, tmp_path, resuming=True).rollouts(tasks, key="step-1"))

    def told(outcomes: list[Outcome]) -> set[tuple[int, str, str | None]]:
        return {(outcome.task, outcome.rollout.rollout_id, outcome.error) for outcome in outcomes}

    assert told(again) == told(first)


async def test_rounds_of_another_run_in_the_same_store_are_not_taken(store: agl.LightningStore, tmp_path: Path) -> None:
    served: list[Any] = []

    async def serve(rollout: agl.AttemptedRollout) -> None:
        served.append(rollout.input)
        await end(store, rollout)

    for run in ("one", "two"):
        (tmp_path / run).mkdir()
    async with serving(store, serve):
        await collect(of_run(store, tmp_path / "one").rollouts(["theirs"], key="step-1"))
        await collect(of_run(store, tmp_path / "two", resuming=True, run="two").rollouts(["ours"], key="step-1"))
    assert served == ["theirs", "ours"]


@pytest.mark.parametrize(("alone", "mine"), [(True, "requeuing"), (False, "preparing")])
async def test_what_a_dead_run_left_is_cancelled_if_it_is_of_its_rounds_and_queued_if_nobody_runs_it(
    store: agl.LightningStore, alone: bool, mine: str
) -> None:
    claimed = [await store.enqueue_rollout("round", metadata={RUN_KEY: "one"}), await store.enqueue_rollout("mine")]
    for _ in claimed:
        assert await store.dequeue_rollout("dead") is not None
    queued = await store.enqueue_rollout("queued", metadata={RUN_KEY: "one"})
    theirs = await store.enqueue_rollout("queued", metadata={RUN_KEY: "two"})
    await settle_leftovers(store, "one", alone=alone)
    found = {rollout.rollout_id: rollout.status for rollout in await store.query_rollouts()}
    ids = [rollout.rollout_id for rollout in (*claimed, queued, theirs)]
    assert [found[each] for each in ids] == ["cancelled", mine, "cancelled", "queuing"]


async def test_rounds_left_by_break_are_cancelled_when_the_algorithm_ends(
    store: agl.LightningStore, context: AlgorithmContext
) -> None:
    async def serve(rollout: agl.AttemptedRollout) -> None:
        if rollout.input == "quick":
            await end(store, rollout)

    async with serving(store, serve), asyncio.timeout(30):
        kept = context.rollouts(["quick", "slow", "slow"])
        async for _ in kept:
            break
        await context.close()
    assert sorted(each.status for each in await store.query_rollouts()) == ["cancelled", "cancelled", "succeeded"]


async def test_whoever_is_cancelled_while_it_enqueues_leaves_nothing_behind(store: agl.LightningStore) -> None:
    class Slow(agl.LightningStoreThreaded):
        async def enqueue_many_rollouts(self, rollouts: Any) -> Any:
            found = await super().enqueue_many_rollouts(rollouts)
            enqueued.set()
            await asyncio.sleep(0.05)  # the answer is under way
            return found

    enqueued = asyncio.Event()
    sampling = asyncio.create_task(AlgorithmContext(Slow(store)).rollouts(["a", "b"]).gather())
    async with asyncio.timeout(30):
        await enqueued.wait()
        sampling.cancel()
        await asyncio.wait({sampling})
    assert [each.status for each in await store.query_rollouts()] == ["cancelled", "cancelled"]


async def test_a_store_that_is_gone_is_not_asked_to_cancel(store: agl.LightningStore) -> None:
    class Gone(agl.LightningStoreThreaded):
        async def read_finished_rollouts(self, *, cursor: int = 0, limit: int = 100, wait: float = 0.0) -> Any:
            if cursor < 0:
                return await super().read_finished_rollouts(cursor=cursor, limit=limit, wait=wait)
            raise StoreUnreachable("nobody answers")

        async def cancel_rollouts(self, rollout_ids: Any) -> Any:
            raise AssertionError("it was asked")

    with pytest.raises(StoreUnreachable, match="nobody answers"):
        await AlgorithmContext(Gone(store)).rollouts(["a"]).gather()


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"retries": -1}, {"quorum": 0.0}, {"quorum": 1.5}], ids=str)
def test_numbers_out_of_range_are_refused(context: AlgorithmContext, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="must be"):
        context.rollouts(["task"], **wrong)
