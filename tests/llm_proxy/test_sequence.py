"""Numbers of calls: later than what the agent did just before, and in time for what it does with the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from agentlightning.errors import NotFound, StoreError
from agentlightning.llm_proxy.sequence import SequenceReserver
from agentlightning.store import InMemoryLightningStore

DEADLINE = 10.0
ATTEMPT, OTHER = ("ro-1", "at-1"), ("ro-2", "at-2")


class CountingStore(InMemoryLightningStore):
    """Gives out numbers and remembers for whom."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, str]] = []

    async def get_many_span_sequence_ids(self, rollout_attempt_ids: Sequence[tuple[str, str]]) -> Sequence[int]:
        self.asked += rollout_attempt_ids
        return range(len(self.asked) - len(rollout_attempt_ids), len(self.asked))


async def turns() -> None:
    """Let whatever can go on do so."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.parametrize("rounds", [1, 3])
async def test_a_call_waits_until_its_own_attempt_is_answered(monkeypatch: pytest.MonkeyPatch, rounds: int) -> None:
    monkeypatch.setattr("agentlightning.llm_proxy.sequence._GRACE_SECONDS", 1000.0)
    store = CountingStore()
    reserver = SequenceReserver(lambda: store)
    async with asyncio.timeout(DEADLINE):
        other = reserver.reserve(*OTHER)
        for number in range(rounds):
            call = reserver.reserve(*ATTEMPT)
            await turns()
            assert store.asked == [ATTEMPT] * number
            await reserver.settle(*ATTEMPT)
            assert call.result() == number
            await reserver.settle(*ATTEMPT)  # an answer that nobody's number waits for hurries no later call
        assert not other.done()
        await reserver.settle(*OTHER)
        assert other.result() == rounds
    await reserver.close()


async def test_a_call_that_nobody_hurries_gets_its_number_after_its_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentlightning.llm_proxy.sequence._GRACE_SECONDS", 0.001)
    store = CountingStore()
    reserver = SequenceReserver(lambda: store)
    async with asyncio.timeout(DEADLINE):
        assert await asyncio.gather(*(reserver.reserve(*ATTEMPT) for _ in range(3))) == [0, 1, 2]
    await reserver.close()


async def test_calls_behind_one_that_the_store_refused_do_not_overtake_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentlightning.llm_proxy.sequence._GRACE_SECONDS", 1000.0)
    asked, fail = asyncio.Event(), asyncio.Event()

    class Failing(CountingStore):
        async def get_many_span_sequence_ids(self, rollout_attempt_ids: Sequence[tuple[str, str]]) -> Sequence[int]:
            asked.set()
            await fail.wait()
            raise StoreError("the disk is full")

    store = Failing()
    reserver = SequenceReserver(lambda: store)
    async with asyncio.timeout(DEADLINE):
        first = reserver.reserve(*ATTEMPT)
        settling = asyncio.create_task(reserver.settle(*ATTEMPT))
        await asked.wait()
        second = reserver.reserve(*ATTEMPT)
        fail.set()
        assert (await first, await second) == (None, None)
        await settling
    await reserver.close()


async def test_a_store_that_does_not_answer_keeps_no_answer_back_for_long() -> None:
    silent = asyncio.Event()

    class Silent(CountingStore):
        async def get_many_span_sequence_ids(self, rollout_attempt_ids: Sequence[tuple[str, str]]) -> Sequence[int]:
            await silent.wait()
            return await super().get_many_span_sequence_ids(rollout_attempt_ids)

    store = Silent()
    reserver = SequenceReserver(lambda: store)
    async with asyncio.timeout(DEADLINE):
        call = reserver.reserve(*ATTEMPT)
        await reserver.settle(*ATTEMPT)
        assert not call.done()
        silent.set()
        assert await call == 0
    await reserver.close()


async def test_whoever_settles_while_the_number_is_asked_for_waits_for_it_and_nobody_asks_twice() -> None:
    asking, answer = asyncio.Event(), asyncio.Event()

    class SlowStore(CountingStore):
        async def get_many_span_sequence_ids(self, rollout_attempt_ids: Sequence[tuple[str, str]]) -> Sequence[int]:
            asking.set()
            await answer.wait()
            return await super().get_many_span_sequence_ids(rollout_attempt_ids)

    store = SlowStore()
    reserver = SequenceReserver(lambda: store)
    async with asyncio.timeout(DEADLINE):
        call = reserver.reserve(*ATTEMPT)
        first = asyncio.create_task(reserver.settle(*ATTEMPT))
        await asking.wait()
        second = asyncio.create_task(reserver.settle(*ATTEMPT))
        await turns()
        answer.set()
        await asyncio.gather(first, second)
        assert await call == 0
        later = reserver.reserve(*ATTEMPT)
        await reserver.settle(*ATTEMPT)
        assert await later == 1
    assert store.asked == [ATTEMPT] * 2
    await reserver.close()


async def test_a_store_that_hangs_keeps_one_answer_back_and_no_more_until_it_is_quick(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asking, answer = asyncio.Event(), asyncio.Event()

    class Hanging(CountingStore):
        async def get_many_span_sequence_ids(self, rollout_attempt_ids: Sequence[tuple[str, str]]) -> Sequence[int]:
            asking.set()
            await answer.wait()
            return await super().get_many_span_sequence_ids(rollout_attempt_ids)

    store = Hanging()
    reserver = SequenceReserver(lambda: store)
    async with asyncio.timeout(DEADLINE):
        first = reserver.reserve(*ATTEMPT)
        await reserver.settle(*ATTEMPT)  # waits in vain
        monkeypatch.setattr("agentlightning.llm_proxy.sequence._ANSWER_SECONDS", 1000.0)
        for _ in range(3):
            second = reserver.reserve(*ATTEMPT)
            await reserver.settle(*ATTEMPT)  # would wait for a thousand seconds
        answer.set()
        assert (await first, await second) == (0, 3)
        third = reserver.reserve(*ATTEMPT)
        await reserver.settle(*ATTEMPT)
        assert third.result() == 4
    await reserver.close()


async def test_a_question_that_the_store_never_answers_costs_its_own_numbers_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agentlightning.llm_proxy.sequence._STORE_SECONDS", 0.05)
    hang = True

    class Hanging(CountingStore):
        async def get_many_span_sequence_ids(self, rollout_attempt_ids: Sequence[tuple[str, str]]) -> Sequence[int]:
            if hang:
                await asyncio.Event().wait()
            return await super().get_many_span_sequence_ids(rollout_attempt_ids)

    store = Hanging()
    reserver = SequenceReserver(lambda: store)
    async with asyncio.timeout(DEADLINE):
        assert await reserver.reserve(*ATTEMPT) is None
        hang = False
        assert await reserver.reserve(*ATTEMPT) == 0
    await reserver.close()


async def test_an_unknown_attempt_costs_no_other_its_operation_twice() -> None:
    asked: list[list[tuple[str, str]]] = []

    class Asked(CountingStore):
        async def get_many_span_sequence_ids(self, rollout_attempt_ids: Sequence[tuple[str, str]]) -> Sequence[int]:
            asked.append(list(rollout_attempt_ids))
            if OTHER in rollout_attempt_ids:
                raise NotFound("no such rollout")
            return await super().get_many_span_sequence_ids(rollout_attempt_ids)

    store = Asked()
    reserver = SequenceReserver(lambda: store)
    mixed = [ATTEMPT, OTHER, ATTEMPT, OTHER]
    async with asyncio.timeout(DEADLINE):
        numbers = [await asyncio.gather(*(reserver.reserve(*attempt) for attempt in mixed)) for _ in range(2)]
    assert numbers == [[0, None, 1, None], [2, None, 3, None]]
    assert asked == [mixed, [ATTEMPT] * 2, [OTHER] * 2, [ATTEMPT] * 2]
    await reserver.close()
