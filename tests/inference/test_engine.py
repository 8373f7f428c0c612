from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest
import torch
from transformers import (
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from agentlightning.errors import InvalidRequest, ModelError, PromptTooLong, UnsupportedModel
from agentlightning.inference import Completion, CompletionPart, Engine, SamplingParams

DEADLINE = 30.0
MakeModel = Callable[[int], PreTrainedModel]


def prompts(count: int, seed: int = 0, longest: int = 60) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(3, 300) for _ in range(draw.randint(1, longest))] for _ in range(count)]


def plain_logits(model: PreTrainedModel, token_ids: list[int]) -> torch.Tensor:
    """Logits of each next token by one forward pass without cache or padding. Shape (L, V)."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([token_ids]), use_cache=False).logits[0].float()


def answer_logprobs(model: PreTrainedModel, prompt: list[int], answer: list[int], temperature: float) -> torch.Tensor:
    logits_TV = plain_logits(model, prompt + answer)[len(prompt) - 1 : -1] / temperature
    return logits_TV.log_softmax(-1).gather(-1, torch.tensor(answer)[:, None])[:, 0]


def assert_logprobs(model: PreTrainedModel, prompt: list[int], completion: Completion, temperature: float) -> None:
    expected = answer_logprobs(model, prompt, completion.token_ids, temperature or 1.0)
    torch.testing.assert_close(torch.tensor(completion.logprobs), expected, atol=1e-4, rtol=0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110  # counters of another thread, which signals nobody
            await asyncio.sleep(0.001)


class Steps:
    """Records the columns of each forward pass, new and all, and can start a coroutine in the middle of one."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.lengths: list[int] = []
        self.widths: list[int] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self._loop = asyncio.get_running_loop()
        self._actions: dict[int, Callable[[], Awaitable[Any]]] = {}
        model.register_forward_pre_hook(self._record, with_kwargs=True)

    def during(self, step: int, start: Callable[[], Awaitable[Any]]) -> None:
        """Let the coroutine of `start` run up to its first wait during forward pass `step`."""
        self._actions[step] = start

    def _record(self, _: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if start := self._actions.get(len(self.lengths)):
            started = threading.Event()
            asyncio.run_coroutine_threadsafe(self._start(start, started), self._loop)
            assert started.wait(DEADLINE)
        self.lengths.append(kwargs["input_ids"].shape[1])
        self.widths.append(kwargs["attention_mask"].shape[1])

    async def _start(self, start: Callable[[], Awaitable[Any]], started: threading.Event) -> None:
        self.tasks.append(asyncio.ensure_future(start()))
        await asyncio.sleep(0)  # one turn of the loop: the task is now at its first wait
        started.set()


async def test_batched_answers_equal_those_of_generate(any_model: PreTrainedModel) -> None:
    expected = [
        any_model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=12 + index,
            do_sample=False,
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        for index, prompt in enumerate(prompts(10))
    ]
    steps = Steps(any_model)
    with Engine(any_model, max_batch_size=6) as engine:

        def ask(index: int) -> Awaitable[Completion]:
            return engine.generate(prompts(10)[index], SamplingParams(temperature=0, max_tokens=12 + index))

        for index in range(5, 10):
            steps.during(index, lambda index=index: ask(index))
        first = await asyncio.gather(*(ask(index) for index in range(5)))
        await until(lambda: len(steps.tasks) == 5)
        joined = await asyncio.gather(*steps.tasks)
    assert [completion.token_ids for completion in (*first, *joined)] == expected


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0, 1.6])
async def test_logprobs_are_those_of_a_plain_forward_pass(any_model: PreTrainedModel, temperature: float) -> None:
    with Engine(any_model, max_batch_size=4) as engine:
        params = SamplingParams(temperature=temperature, max_tokens=20)
        completions = await asyncio.gather(*(engine.generate(prompt, params) for prompt in prompts(9)))
    for prompt, completion in zip(prompts(9), completions, strict=True):
        assert len(completion.token_ids) == 20
        assert_logprobs(any_model, prompt, completion, temperature)


async def test_a_row_keeps_its_answer_while_longer_and_shorter_rows_come_and_go(model: PreTrainedModel) -> None:
    """Long enough that the cache is trimmed, grown and moved several times."""
    draw = random.Random(1)
    with Engine(model, max_batch_size=5) as engine:

        async def one(prompt: list[int]) -> None:
            temperature = draw.choice([0.0, 0.5, 1.0])
            params = SamplingParams(temperature=temperature, max_tokens=draw.randint(1, 120))
            assert_logprobs(model, prompt, await engine.generate(prompt, params), temperature)

        await asyncio.gather(*(one(prompt) for prompt in prompts(40, seed=2, longest=130)))


async def test_a_request_that_joins_is_prefilled_before_the_next_decode_step(model: PreTrainedModel) -> None:
    steps = Steps(model)
    with Engine(model) as engine:
        steps.during(5, lambda: engine.generate([4] * 7, SamplingParams(max_tokens=3)))
        await engine.generate([5] * 4, SamplingParams(max_tokens=30))
    assert steps.lengths[:8] == [4, 1, 1, 1, 1, 1, 7, 1]


async def test_columns_that_no_row_uses_are_not_read(model: PreTrainedModel) -> None:
    """A batch that never empties does not get ever wider."""
    steps = Steps(model)
    with Engine(model, max_batch_size=3) as engine:
        params = SamplingParams(max_tokens=15)
        await asyncio.gather(*(engine.generate(prompt, params) for prompt in prompts(30, longest=10)))
    assert len(steps.widths) > 60
    assert max(steps.widths) <= 10 + 15


async def test_a_seed_gives_the_same_answer_whatever_the_neighbours(model: PreTrainedModel) -> None:
    params = SamplingParams(seed=11, temperature=0.9, top_p=0.95, top_k=50, max_tokens=20)
    with Engine(model) as engine:
        alone = await engine.generate([5, 6, 7], params)
        neighbours = [engine.generate(prompt, SamplingParams(max_tokens=25)) for prompt in prompts(12)]
        together, *_ = await asyncio.gather(engine.generate([5, 6, 7], params), *neighbours)
        other = await engine.generate([5, 6, 7], SamplingParams(seed=12, temperature=0.9, max_tokens=20))
    assert together.token_ids == alone.token_ids
    assert together.logprobs == pytest.approx(alone.logprobs, abs=1e-5)
    assert other.token_ids != alone.token_ids


async def test_an_end_token_ends_the_answer_and_is_part_of_it(model: PreTrainedModel) -> None:
    with Engine(model) as engine:
        long = await engine.generate([5, 6, 7], SamplingParams(temperature=0, max_tokens=20))
        end = long.token_ids[4]
        short = await engine.generate([5, 6, 7], SamplingParams(temperature=0, stop_token_ids=(end,)))
    assert long.finish_reason == "length"
    assert short.finish_reason == "stop"
    assert short.token_ids == long.token_ids[: long.token_ids.index(end) + 1]
    assert len(short.logprobs) == len(short.weights_versions) == len(short.token_ids)


async def test_a_stop_string_ends_the_answer_at_the_token_that_completes_it(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    with Engine(model, tokenizer) as engine:
        long = await engine.generate([5, 6, 7], SamplingParams(temperature=0, max_tokens=30))
        texts = [tokenizer.decode(long.token_ids[:length]) for length in range(31)]
        stop = texts[12][-3:]
        assert len(stop) == 3
        short = await engine.generate([5, 6, 7], SamplingParams(temperature=0, stop=("never", stop), max_tokens=30))
    first = next(length for length, text in enumerate(texts) if stop in text)
    assert short.finish_reason == "stop"
    assert short.token_ids == long.token_ids[:first]


async def collect(stream: AsyncGenerator[CompletionPart]) -> list[CompletionPart]:
    return [part async for part in stream]


async def test_parts_put_together_are_the_completion(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    with Engine(model, tokenizer) as engine:
        for number, prompt in enumerate(prompts(6)):
            params = SamplingParams(seed=number, max_tokens=30, stop=("e",))
            whole = await engine.generate(prompt, params)
            parts = await collect(engine.stream(prompt, params))
            assert [token_id for part in parts for token_id in part.token_ids] == whole.token_ids
            logprobs = [logprob for part in parts for logprob in part.logprobs]
            assert logprobs == pytest.approx(whole.logprobs, abs=1e-5)
            assert [version for part in parts for version in part.weights_versions] == whole.weights_versions
            assert [part.finish_reason for part in parts] == [*[None] * (len(parts) - 1), whole.finish_reason]


async def test_tokens_come_while_the_answer_is_sampled(model: PreTrainedModel) -> None:
    steps = Steps(model)
    came = threading.Event()

    def wait(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if len(steps.lengths) > 3:
            assert came.wait(DEADLINE)

    model.register_forward_pre_hook(wait, with_kwargs=True)
    parts: list[CompletionPart] = []
    with Engine(model) as engine:
        async for part in engine.stream([5, 6], SamplingParams(max_tokens=20)):
            parts.append(part)
            came.set()
    assert len(parts) > 1
    assert sum(len(part.token_ids) for part in parts) == 20


async def test_closing_a_stream_removes_its_row(model: PreTrainedModel) -> None:
    with Engine(model) as engine:
        stream = engine.stream([5], SamplingParams())
        await anext(stream)
        await stream.aclose()
        await until(lambda: engine.stats().running == 0)
        assert engine.stats().generated_tokens < engine.context_length - 1


async def test_a_stream_raises_what_ends_it(model: PreTrainedModel) -> None:
    engine = Engine(model)
    engine.start()
    stream = engine.stream([5], SamplingParams())
    await anext(stream)
    engine.stop()
    with pytest.raises(ModelError, match="stopped"):
        await collect(stream)
    with pytest.raises(PromptTooLong):
        await collect(engine.stream([5] * 2000, SamplingParams()))


async def test_the_answer_is_clipped_to_the_context(model: PreTrainedModel) -> None:
    with Engine(model) as engine:
        length = engine.context_length
        completion = await engine.generate([5] * (length - 3), SamplingParams(max_tokens=100))
        last = await engine.generate([5] * (length - 1), SamplingParams())
        with pytest.raises(PromptTooLong, match=f"{length} tokens, .* {length} tokens .* {length - 1}"):
            await engine.generate([5] * length, SamplingParams())
    assert (len(completion.token_ids), completion.finish_reason) == (3, "length")
    assert len(last.token_ids) == 1


async def test_cancelling_the_caller_removes_the_row(model: PreTrainedModel) -> None:
    with Engine(model) as engine:
        task = asyncio.create_task(engine.generate([5], SamplingParams()))
        await until(lambda: engine.stats().decode_steps > 3)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await until(lambda: engine.stats().running == 0)
        assert task.cancelled()
        assert engine.stats().generated_tokens < engine.context_length - 1
        assert len((await engine.generate([5], SamplingParams(max_tokens=2))).token_ids) == 2


async def test_callers_that_cancel_at_any_moment_leave_the_other_rows_right(model: PreTrainedModel) -> None:
    asked = prompts(24, longest=8)
    with Engine(model) as engine:
        tasks = [asyncio.create_task(engine.generate(prompt, SamplingParams(max_tokens=40))) for prompt in asked]
        for number, task in enumerate(tasks[:20]):
            await until(lambda number=number: engine.stats().decode_steps > number)
            task.cancel()
        stayed = await asyncio.gather(*tasks[20:])
    for prompt, completion in zip(asked[20:], stayed, strict=True):
        assert len(completion.token_ids) == 40
        assert_logprobs(model, prompt, completion, 1.0)


async def test_new_weights_take_effect_between_steps(model: PreTrainedModel, make_model: MakeModel) -> None:
    other = make_model(1)
    steps = Steps(model)
    with Engine(model) as engine:
        steps.during(6, lambda: engine.update_weights(other.state_dict(), version=3))
        across = await engine.generate([5, 6], SamplingParams(max_tokens=20))
        await asyncio.gather(*steps.tasks)
        after = await engine.generate([5, 6], SamplingParams(max_tokens=20))
        scores = await engine.score([[5, 6, *after.token_ids]])
        assert engine.weights_version == 3
    assert across.weights_versions == [0] * 7 + [3] * 13
    assert across.weights_version == 0
    assert after.weights_versions == [3] * 20
    assert_logprobs(other, [5, 6], after, 1.0)
    assert scores[0][2:] == pytest.approx(after.logprobs, abs=1e-4)


async def test_tied_weights_may_be_given_once_and_stay_tied(model: PreTrainedModel, make_model: MakeModel) -> None:
    other = make_model(1)
    weights = {name: tensor for name, tensor in other.state_dict().items() if name != "lm_head.weight"}
    with Engine(model) as engine:
        await engine.update_weights(weights, version=1)
        completion = await engine.generate([5, 6], SamplingParams(max_tokens=8))
    assert_logprobs(other, [5, 6], completion, 1.0)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("unknown.weight", torch.zeros(1), "unknown.weight is unknown"),
        ("model.norm.weight", torch.zeros(3), r"model.norm.weight has shape \(3,\) and not \(64,\)"),
        ("model.norm.weight", None, "missing: model.norm.weight"),
        ("lm_head.weight", torch.zeros(320, 64), "tied"),
    ],
)
async def test_weights_that_do_not_fit_change_nothing(
    model: PreTrainedModel, make_model: MakeModel, name: str, tensor: torch.Tensor | None, message: str
) -> None:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    weights = dict(make_model(1).state_dict())
    if tensor is None:
        del weights[name]
    else:
        weights[name] = tensor
    with Engine(model) as engine:
        with pytest.raises(ModelError, match=message):
            await engine.update_weights(weights, version=1)
        assert engine.weights_version == 0
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


async def test_scores_are_those_of_a_plain_forward_pass(any_model: PreTrainedModel) -> None:
    sequences = [*prompts(12, longest=150), [7]]
    with Engine(any_model) as engine:
        scores = await engine.score(sequences)
    for sequence, score in zip(sequences, scores, strict=True):
        assert score[0] == 0.0
        assert len(score) == len(sequence)
        if len(sequence) > 1:
            expected = answer_logprobs(any_model, sequence[:1], sequence[1:], 1.0)
            torch.testing.assert_close(torch.tensor(score[1:]), expected, atol=1e-4, rtol=0)


async def test_bfloat16_answers_are_scored_alike(model: PreTrainedModel) -> None:
    with Engine(model.to(torch.bfloat16)) as engine:
        completion = await engine.generate([5, 6, 7], SamplingParams(max_tokens=20))
        scores = await engine.score([[5, 6, 7, *completion.token_ids]])
    assert scores[0][3:] == pytest.approx(completion.logprobs, abs=0.3)


@pytest.mark.parametrize("token_ids", [[], [-1], [320]])
async def test_prompts_that_the_model_cannot_read_are_refused(model: PreTrainedModel, token_ids: list[int]) -> None:
    with Engine(model) as engine:
        with pytest.raises(InvalidRequest):
            await engine.generate(token_ids, SamplingParams())
        with pytest.raises(InvalidRequest):
            await engine.score([token_ids])


async def test_stop_strings_need_a_tokenizer(model: PreTrainedModel) -> None:
    with Engine(model) as engine, pytest.raises(InvalidRequest, match="tokenizer"):
        await engine.generate([5], SamplingParams(stop=("x",)))


async def test_a_fault_of_the_model_ends_its_requests_and_not_the_engine(model: PreTrainedModel) -> None:
    def fail(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        raise RuntimeError("out of memory")

    with Engine(model) as engine:
        hook = model.register_forward_pre_hook(fail, with_kwargs=True)
        results = await asyncio.gather(
            *(engine.generate([5], SamplingParams()) for _ in range(3)), return_exceptions=True
        )
        hook.remove()
        assert [str(result) for result in results] == ["the model failed: RuntimeError: out of memory"] * 3
        assert all(isinstance(result, ModelError) for result in results)
        assert len((await engine.generate([5], SamplingParams(max_tokens=2))).token_ids) == 2


async def test_weights_that_are_not_finite_fail_requests_until_sound_ones_come(
    model: PreTrainedModel, make_model: MakeModel
) -> None:
    sound = make_model(0).state_dict()
    name = "model.layers.0.input_layernorm.weight"
    broken = {**sound, name: torch.full_like(sound[name], torch.nan)}
    asked = [[5] * 60, [7, 8], [6] * 30]
    params = SamplingParams(max_tokens=20, seed=1)
    steps = Steps(model)
    with Engine(model) as engine:
        steps.during(6, lambda: engine.update_weights(broken, version=1))
        for _ in range(2):  # the weights break midway, then they are broken from the start
            failed = await asyncio.gather(*(engine.generate(each, params) for each in asked), return_exceptions=True)
            assert all(isinstance(error, ModelError) and "not finite" in str(error) for error in failed)
        await asyncio.gather(*steps.tasks)
        await engine.update_weights(sound, version=2)
        asked[0] *= 2  # the others now have unused columns where they had none
        answers = await asyncio.gather(*(engine.generate(each, params) for each in asked))
    for prompt, completion in zip(asked, answers, strict=True):
        assert_logprobs(make_model(0), prompt, completion, 1.0)


@pytest.mark.parametrize("params", [{}, {"temperature": 0}, {"top_k": 3, "top_p": 0.5}])
async def test_a_row_without_finite_logits_fails_alone(
    model: PreTrainedModel, make_model: MakeModel, params: dict[str, Any]
) -> None:
    def spoil(_: object, args: tuple[torch.Tensor], output_BLH: torch.Tensor) -> torch.Tensor:
        return output_BLH.masked_fill((args[0] == 7)[..., None], torch.nan)

    model.get_input_embeddings().register_forward_hook(spoil)
    with Engine(model) as engine:
        asked = [[7], [5], [3, 7, 4, 4, 4, 4], [5, 6]]
        how = SamplingParams(max_tokens=6, seed=1, **params)
        results = await asyncio.gather(*(engine.generate(each, how) for each in asked), return_exceptions=True)
    plain = Engine(make_model(0))
    with plain:
        expected = [await plain.generate(prompt, how) for prompt in asked[1::2]]
    assert [type(result) for result in results[::2]] == [ModelError] * 2
    assert [result.token_ids for result in results[1::2]] == [each.token_ids for each in expected]


async def test_stopping_fails_what_is_pending(model: PreTrainedModel) -> None:
    engine = Engine(model, max_batch_size=2)
    with pytest.raises(ModelError, match="start"):
        await engine.generate([5], SamplingParams())
    engine.start()
    tasks = [asyncio.create_task(engine.generate([5], SamplingParams())) for _ in range(4)]
    await until(lambda: engine.stats().running == 2)
    engine.stop()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(result) for result in results] == ["the engine was stopped before the answer was complete"] * 4
    with pytest.raises(ModelError, match="start"):
        await engine.generate([5], SamplingParams())


def test_callers_may_be_on_any_event_loop(model: PreTrainedModel) -> None:
    lengths: list[int] = []

    def ask() -> None:
        completion = asyncio.run(engine.generate([5, 6], SamplingParams(max_tokens=10)))
        lengths.append(len(completion.token_ids))

    with Engine(model) as engine:
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + DEADLINE
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
    assert lengths == [10] * 4


async def test_counters_count(model: PreTrainedModel) -> None:
    with Engine(model) as engine:
        await asyncio.gather(*(engine.generate([5], SamplingParams(max_tokens=4)) for _ in range(3)))
        await until(lambda: engine.stats().running == 0)
        stats = engine.stats()
    assert (stats.requests, stats.generated_tokens, stats.waiting) == (3, 12, 0)
    assert stats.decode_steps >= 3


def test_models_that_cannot_be_decoded_here_are_refused() -> None:
    encoder_decoder = T5ForConditionalGeneration(
        T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    )
    sliding = MistralForCausalLM(
        MistralConfig(
            vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2, sliding_window=4,
        )
    )  # fmt: skip
    with pytest.raises(UnsupportedModel, match="encoder-decoder"):
        Engine(encoder_decoder)
    with pytest.raises(UnsupportedModel, match="SlidingWindow"):
        Engine(sliding)
