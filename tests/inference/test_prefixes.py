"""What an engine keeps of finished answers changes how long the next ones take, and nothing else."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from transformers import PreTrainedModel

from agentlightning.inference import Completion, Engine, SamplingParams
from agentlightning.inference.prefixes import Layers, PrefixStore

DEADLINE = 30.0
MakeModel = Callable[[int], PreTrainedModel]
sequences = st.lists(st.integers(0, 2), max_size=8)


def layers(columns: int) -> Layers:
    """Of 16 bytes a column."""
    return [(torch.zeros(1, columns, 2), torch.zeros(1, columns, 2))]


@given(st.lists(sequences), sequences)
def test_the_longest_known_beginning_is_found(kept: list[list[int]], prompt: list[int]) -> None:
    store = PrefixStore(10**6)
    for token_ids in kept:
        store.add(token_ids, layers(len(token_ids)))
    lengths = [length for each in kept for length in range(1, len(prompt)) if each[:length] == prompt[:length] != []]
    found = store.find(prompt)
    assert (found.length if found else 0) == max(lengths, default=0)
    if found:
        assert found.layers[0][0].shape[1] >= found.length


def test_what_was_not_used_for_longest_goes_first() -> None:
    store = PrefixStore(16 * 10)
    for start in (1, 2, 3):
        store.add([start] * 3, layers(3))
    assert store.find([1, 1, 1, 5])
    store.add([4] * 4, layers(4))
    assert [start for start in (1, 2, 3, 4) if store.find([start] * 5)] == [1, 3, 4]
    assert store.size == 16 * 10
    store.add([5] * 11, layers(11))
    assert store.size == 16 * 10
    store.clear()
    assert store.size == 0
    assert store.find([1] * 4) is None


def test_an_answers_own_beginning_is_not_kept_twice() -> None:
    store = PrefixStore(10**6)
    store.add([1, 2], layers(2))
    store.add([1, 2, 3], layers(3))
    assert store.size == 16 * 3


async def converse(engine: Engine, turns: int, seed: int, temperature: float = 1.0) -> list[Completion]:
    """A conversation: each prompt goes on from the tokens of the answer before."""
    draw = random.Random(seed)
    prompt = [3, 4, 5, 6, 7, 8] + [draw.randrange(3, 300) for _ in range(draw.randint(0, 40))]
    answers: list[Completion] = []
    for turn in range(turns):
        how = SamplingParams(seed=seed + turn, temperature=temperature, max_tokens=draw.randint(1, 20))
        answers.append(await engine.generate(prompt, how))
        prompt = [*prompt, *answers[-1].token_ids, *(draw.randrange(3, 300) for _ in range(draw.randint(1, 30)))]
    return answers


async def talk(engine: Engine, talks: int = 8, turns: int = 4) -> list[Completion]:
    answers = await asyncio.gather(*(converse(engine, turns, 50 * talk) for talk in range(talks)))
    return [answer for each in answers for answer in each]


async def test_tokens_and_logprobs_are_those_without_reuse(any_model: PreTrainedModel) -> None:
    with Engine(any_model, max_batch_size=5) as engine:
        reused = await talk(engine)
        saved = engine.stats().reused_tokens
    with Engine(any_model, max_batch_size=5, kept_bytes=0) as engine:
        computed = await talk(engine)
        assert engine.stats().reused_tokens < saved / 4
    assert [each.token_ids for each in reused] == [each.token_ids for each in computed]
    for one, other in zip(reused, computed, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


async def test_a_next_turn_computes_only_what_is_new(model: PreTrainedModel) -> None:
    lengths: list[int] = []
    model.register_forward_pre_hook(
        lambda _, args, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    with Engine(model) as engine:
        prompt = [5] * 50
        answer = await engine.generate(prompt, SamplingParams(max_tokens=6))
        await engine.generate([*prompt, *answer.token_ids, 7, 8], SamplingParams(max_tokens=1))
        assert engine.stats().reused_tokens == 55
    assert lengths == [50, *[1] * 5, 3]


async def test_equal_prompts_that_come_together_are_computed_once(model: PreTrainedModel) -> None:
    rows: list[int] = []
    all_there = threading.Event()

    def record(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        assert all_there.wait(DEADLINE)
        rows.append(kwargs["input_ids"].shape[0])

    model.register_forward_pre_hook(record, with_kwargs=True)
    with Engine(model, kept_bytes=0) as engine:

        def ask(seed: int) -> Awaitable[Completion]:
            return engine.generate([5, 6, 7], SamplingParams(seed=seed, max_tokens=4))

        tasks = [asyncio.ensure_future(engine.generate([9], SamplingParams(max_tokens=1)))]
        async with asyncio.timeout(DEADLINE):
            while engine.stats().requests == 0:  # noqa: ASYNC110  # a counter of another thread, which signals nobody
                await asyncio.sleep(0.001)
        # The first is being read, so the others will be admitted together.
        tasks += [asyncio.ensure_future(ask(seed)) for seed in range(8)]
        await asyncio.sleep(0)  # one turn of the loop: all of them have been put
        all_there.set()
        _, *together = await asyncio.gather(*tasks)
        assert rows[:3] == [1, 1, 8]
        assert engine.stats().reused_tokens == 7 * 3
        alone = [await ask(seed) for seed in range(8)]
    assert [each.token_ids for each in together] == [each.token_ids for each in alone]


async def test_new_weights_forget_what_old_ones_computed(model: PreTrainedModel, make_model: MakeModel) -> None:
    other = make_model(1)
    with Engine(make_model(1)) as fresh:
        expected = await converse(fresh, 3, seed=7)
    with Engine(model) as engine:
        running = engine.stream([3, 4, 5, 6, 7, 8, 9], SamplingParams(max_tokens=200, seed=1))
        await anext(running)
        await converse(engine, 3, seed=7)
        await engine.update_weights(other.state_dict(), version=0)
        # One that ran across the update: what was computed before it is not to be used, either.
        assert [part async for part in running][-1].finish_reason == "length"
        before = engine.stats().reused_tokens
        (first,) = await converse(engine, 1, seed=7)
        assert engine.stats().reused_tokens == before
        assert first.token_ids == expected[0].token_ids
        answers = await converse(engine, 3, seed=7)
    assert [each.token_ids for each in answers] == [each.token_ids for each in expected]
    for one, same in zip(answers, expected, strict=True):
        assert one.logprobs == pytest.approx(same.logprobs, abs=1e-4)


async def test_what_is_kept_is_bounded(model: PreTrainedModel) -> None:
    columns = 2 * 2 * 2 * 16 * 4  # bytes: keys and values of two layers, two heads of 16 numbers
    with Engine(model, kept_bytes=100 * columns) as engine:
        await engine.generate([5] * 60, SamplingParams(max_tokens=1))
        await engine.generate([6] * 60, SamplingParams(max_tokens=1))
        await engine.generate([5] * 61, SamplingParams(max_tokens=1))
        assert engine.stats().reused_tokens == 0
        await engine.generate([5] * 62, SamplingParams(max_tokens=1))
        assert engine.stats().reused_tokens == 61
