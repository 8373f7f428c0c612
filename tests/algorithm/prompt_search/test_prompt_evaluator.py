from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import agentlightning as agl
from agentlightning.algorithm import AlgorithmContext
from agentlightning.algorithm.prompt_search import Journal, PromptEvaluator, Scored
from agentlightning.algorithm.rounds import settle_leftovers

LLM = agl.LLM(endpoint="http://127.0.0.1:1/v1", model="m")


def prompts(text: str) -> Mapping[str, agl.PromptTemplate]:
    return {"prompt": agl.PromptTemplate(template=text, engine="f-string")}


class Bench:
    """A store in which an agent works: a task's reward is its number times the prompt's length, and 9 fails."""

    def __init__(self, folder: Path | None) -> None:
        self.store = agl.InMemoryLightningStore()
        self.folder = folder
        self.ran: list[int] = []
        self.models: set[str] = set()
        self.broken = True
        self.stopping = agl.ThreadingEvent()
        self.reached = asyncio.Event()
        self.held = asyncio.Event()
        self.held.set()

    @asynccontextmanager
    async def evaluator(self, *, resuming: bool = False, timeout: float = 30.0) -> AsyncIterator[PromptEvaluator]:
        context = AlgorithmContext(
            self.store, run_dir=self.folder, run_id="run", resuming=resuming, event=self.stopping
        )
        journal = Journal(self.folder / "journal.jsonl" if self.folder else None)
        evaluator = PromptEvaluator(context, journal, {"llm": LLM, **prompts("Seed")}, timeout=timeout, at_once=4)
        runner = agl.LitAgentRunner[Any](agl.OtelTracer(), poll_interval=0.05)
        with runner.run_context(agent=self.agent(), store=self.store):
            stop = agl.ThreadingEvent()
            running = asyncio.create_task(runner.iter(event=stop))
            try:
                yield evaluator
            finally:
                stop.set()
                self.held.set()
                await running
                journal.close()
                await context.close()

    def agent(self) -> agl.LitAgent[Any]:
        @agl.rollout
        async def multiply(task: int, prompt: agl.PromptTemplate, llm: agl.LLM) -> float:
            self.ran.append(task)
            self.models.add(llm.model)
            if task == 5:
                self.reached.set()
                await self.held.wait()
            if task == 9 and self.broken:
                raise RuntimeError("nine is too much")
            return float(task * len(prompt.template))

        return multiply


async def test_scores_come_in_the_order_of_the_tasks_with_whole_resources(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    async with bench.evaluator() as evaluator:
        found = await evaluator.evaluate("first", prompts("ab"), [(7, 3), (1, 9), (2, 4)], "val")
        spans = await evaluator.spans(found[0])
    assert [(each.task, each.reward, each.value(-1.0)) for each in found] == [
        (7, 6.0, 6.0),
        (1, None, -1.0),
        (2, 8.0, 8.0),
    ]
    assert found[1].error == "RuntimeError: nine is too much"
    assert bench.models == {"m"}
    assert {span.rollout_id for span in spans} == {found[0].rollout_id}
    assert {rollout.mode for rollout in await bench.store.query_rollouts()} == {"val"}
    await bench.store.close()


async def test_a_resumed_run_reads_what_ended_and_runs_what_is_asked_anew(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    async with bench.evaluator() as evaluator:
        before = await evaluator.evaluate("first", prompts("ab"), [(0, 3), (1, 4)], "val")
    async with bench.evaluator(resuming=True) as evaluator:
        assert await evaluator.evaluate("first", prompts("ab"), [(0, 3), (1, 4)], "val") == before
        assert (evaluator.rollouts, evaluator.reused) == (0, 2)
        other = await evaluator.evaluate("first", prompts("abc"), [(0, 3), (1, 4)], "val")
        assert [each.reward for each in other] == [9.0, 12.0]
    assert sorted(bench.ran) == [3, 3, 4, 4]
    await bench.store.close()


@pytest.mark.parametrize("journal", [True, False], ids=["written down", "in the store"])
async def test_a_resumed_run_runs_what_failed_again_and_nothing_else(tmp_path: Path, journal: bool) -> None:
    bench, tasks = Bench(tmp_path), [(0, 3), (1, 9)]
    async with bench.evaluator() as evaluator:
        before = await evaluator.evaluate("first", prompts("ab"), tasks, "val")
    if not journal:
        (tmp_path / "journal.jsonl").unlink()  # as if it had been killed before it wrote
    bench.broken = False
    for reused in (1, 2):
        async with bench.evaluator(resuming=True) as evaluator:
            after = await evaluator.evaluate("first", prompts("ab"), tasks, "val")
            assert (evaluator.rollouts, evaluator.reused) == (2 - reused, reused)
    assert [each.reward for each in (*before, *after)] == [6.0, None, 6.0, 18.0]
    assert after[0] == before[0]
    assert sorted(bench.ran) == [3, 9, 9]
    await bench.store.close()


async def test_of_an_evaluation_that_did_not_end_what_succeeded_is_not_run_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    tasks = [(0, 3), (1, 4), (2, 5)]
    bench.held.clear()
    async with bench.evaluator() as evaluator:
        evaluating = asyncio.create_task(evaluator.evaluate("first", prompts("ab"), tasks, "val"))
        async with asyncio.timeout(30):
            await bench.reached.wait()
        evaluating.cancel()
        with suppress(asyncio.CancelledError):
            await evaluating
        left = await bench.store.query_rollouts(status_in=["queuing", "preparing", "running", "requeuing"])
        assert left.total == 0, "leftovers are cancelled"
    await settle_leftovers(bench.store, "run", alone=True)
    async with bench.evaluator(resuming=True) as evaluator:
        found = await evaluator.evaluate("first", prompts("ab"), tasks, "val")
    assert [each.reward for each in found] == [6.0, 8.0, 10.0]
    assert sorted(bench.ran) == [3, 4, 5, 5]
    await bench.store.close()


async def test_late_rollouts_are_cancelled_and_count_as_failed() -> None:
    bench = Bench(None)
    bench.held.clear()
    async with bench.evaluator(timeout=0.5) as evaluator:
        (found,) = await evaluator.evaluate("first", prompts("ab"), [(0, 5)], "val")
    assert found == Scored(0, found.rollout_id, None, "it was cancelled before it ended")
    assert found.value(-1.0) == -1.0
    await bench.store.close()


async def test_what_fails_while_the_run_is_stopped_says_nothing_of_the_prompt(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    async with bench.evaluator() as evaluator:
        bench.stopping.set()
        with pytest.raises(asyncio.CancelledError):
            await evaluator.evaluate("first", prompts("ab"), [(0, 9)], "val")
    assert not (tmp_path / "journal.jsonl").exists()
    bench.stopping.clear()
    async with bench.evaluator(resuming=True) as evaluator:
        (found,) = await evaluator.evaluate("first", prompts("ab"), [(0, 9)], "val")
    assert found.error == "RuntimeError: nine is too much"
    assert bench.ran == [9, 9], "it is run again"
    await bench.store.close()


async def test_who_waits_behind_others_has_their_time_too() -> None:
    """One runner: what is queued second begins when the first has used up its time."""
    bench = Bench(None)
    bench.held.clear()
    async with bench.evaluator(timeout=3.0) as evaluator:
        held = asyncio.create_task(evaluator.evaluate("first", prompts("ab"), [(0, 5)], "val"))
        async with asyncio.timeout(30):
            await bench.reached.wait()
        behind = asyncio.create_task(evaluator.evaluate("second", prompts("ab"), [(0, 3)], "val"))
        (late,) = await held
        bench.held.set()  # the agent had not heard yet that it was cancelled
        (found,) = await behind
    assert (late.reward, found.reward) == (None, 6.0)
    await bench.store.close()


async def test_what_cannot_be_a_task_is_named() -> None:
    bench = Bench(None)
    async with bench.evaluator() as evaluator:
        with pytest.raises(agl.errors.InvalidValue, match=r"tasks\[3\]"):
            await evaluator.evaluate("first", prompts("ab"), [(3, b"bytes")], "val")
    await bench.store.close()
