"""The engine against transformers' own `generate`, on the demo's model and one thread.

Run with `python benchmarks/inference.py`. Both sample the same number of tokens at temperature 1 from 16 prompts in
the same process, in turns, and the best round of each counts. The engine also serves 64 requests of a length the
demo has, and a request that joins a running batch counts the decode steps that others take before its first token.
Conversations of four turns, and groups of eight equal prompts as GRPO asks them, run with and without the reuse of keys
and values, in turns; everything else runs without it. Streams take the same tokens part by part.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from typing import Any

import torch
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from agentlightning.inference import Engine, SamplingParams

ROUNDS = 5
VOCABULARY = 512
KEPT_BYTES = 256 * 2**20


def demo_model() -> PreTrainedModel:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    return Qwen3ForCausalLM(config).eval()


def prompts(count: int, length: int) -> list[list[int]]:
    draw = random.Random(0)
    return [[draw.randrange(VOCABULARY) for _ in range(length)] for _ in range(count)]


def time_generate(model: PreTrainedModel, batch: list[list[int]], new_tokens: int) -> float:
    started = time.perf_counter()
    token_ids = torch.tensor(batch)
    output = model.generate(
        token_ids,
        attention_mask=torch.ones_like(token_ids),
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=True,
        top_k=0,
        pad_token_id=0,
    )
    assert output.shape == (len(batch), len(batch[0]) + new_tokens)
    return time.perf_counter() - started


async def time_engine(engine: Engine, batch: list[list[int]], new_tokens: int) -> float:
    started = time.perf_counter()
    params = SamplingParams(max_tokens=new_tokens)
    completions = await asyncio.gather(*(engine.generate(prompt, params) for prompt in batch))
    assert all(len(completion.token_ids) == new_tokens for completion in completions)
    return time.perf_counter() - started


async def throughput(engine: Engine, model: PreTrainedModel) -> dict[str, Any]:
    batch, new_tokens = prompts(16, 32), 128
    peer, own = [], []
    for _ in range(ROUNDS):
        peer.append(time_generate(model, batch, new_tokens))
        own.append(await time_engine(engine, batch, new_tokens))
    sampled = len(batch) * new_tokens
    return {
        "generate_tokens_per_second": round(sampled / min(peer)),
        "engine_tokens_per_second": round(sampled / min(own)),
        "ratio": round(min(peer) / min(own), 3),
        "ratio_of_medians": round(statistics.median(peer) / statistics.median(own), 3),
    }


async def demo_load(engine: Engine) -> dict[str, Any]:
    batch, new_tokens = prompts(64, 300), 20
    seconds = min([await time_engine(engine, batch, new_tokens) for _ in range(ROUNDS)])
    prefill = min([await time_engine(engine, batch, 1) for _ in range(ROUNDS)])
    return {
        "seconds_for_64_requests_of_300_and_20_tokens": round(seconds, 3),
        "of_which_prefill": round(prefill, 3),
        "decode_step_ms_at_64_rows": round((seconds - prefill) / (new_tokens - 1) * 1000, 2),
    }


async def time_streams(engine: Engine, batch: list[list[int]], new_tokens: int) -> float:
    async def read(prompt: list[int]) -> int:
        return sum([len(part.token_ids) async for part in engine.stream(prompt, params)])

    started = time.perf_counter()
    params = SamplingParams(max_tokens=new_tokens)
    assert await asyncio.gather(*map(read, batch)) == [new_tokens] * len(batch)
    return time.perf_counter() - started


async def streaming(engine: Engine) -> dict[str, Any]:
    batch, new_tokens = prompts(16, 32), 128
    whole, streamed = [], []
    for _ in range(ROUNDS):
        whole.append(await time_engine(engine, batch, new_tokens))
        streamed.append(await time_streams(engine, batch, new_tokens))
    return {"streaming_over_whole_answers": round(min(streamed) / min(whole), 3)}


async def converse(engine: Engine, prompt: list[int], turns: int) -> None:
    """Each turn adds the answer and a tool's result of 30 tokens to a prompt of 300."""
    for _ in range(turns):
        completion = await engine.generate(prompt, SamplingParams(max_tokens=20))
        prompt = [*prompt, *completion.token_ids, *prompt[:30]]


async def time_conversations(model: PreTrainedModel, kept_bytes: int) -> tuple[float, float]:
    """Seconds for 32 conversations of four turns, and for eight groups of eight equal prompts."""
    with Engine(model, kept_bytes=kept_bytes) as engine:
        started = time.perf_counter()
        await asyncio.gather(*(converse(engine, prompt, 4) for prompt in prompts(32, 300)))
        talked = time.perf_counter() - started
    with Engine(model, kept_bytes=kept_bytes) as engine:
        groups = [prompt if kept_bytes else [*prompt[:-1], each] for prompt in prompts(8, 300) for each in range(8)]
        return talked, await time_engine(engine, groups, 20)


async def reuse(model: PreTrainedModel) -> dict[str, Any]:
    rounds = [(await time_conversations(model, 0), await time_conversations(model, KEPT_BYTES)) for _ in range(ROUNDS)]
    computed, reused = zip(*rounds, strict=True)
    (talks, groups), (talks_reused, groups_reused) = (map(min, zip(*each, strict=True)) for each in (computed, reused))
    return {
        "seconds_for_32_conversations_of_4_turns": round(talks, 3),
        "with_reuse": round(talks_reused, 3),
        "conversations_faster": round(talks / talks_reused, 2),
        "seconds_for_8_groups_of_8_different_prompts": round(groups, 3),
        "of_8_equal_prompts": round(groups_reused, 3),
    }


async def steps_before_first_token(model: PreTrainedModel) -> int:
    """Most decode steps of others between a request's arrival and its prefill, which samples its first token."""
    waited: list[int] = []
    lengths: list[int] = []
    hook = model.register_forward_pre_hook(
        lambda _, args, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    with Engine(model, kept_bytes=0) as engine:
        running = [asyncio.create_task(engine.generate(prompt, SamplingParams())) for prompt in prompts(15, 32)]
        while engine.stats().decode_steps < 5:  # noqa: ASYNC110  # counters of another thread
            await asyncio.sleep(0.001)
        for _ in range(20):
            arrived = len(lengths)
            await engine.generate(prompts(1, 40)[0], SamplingParams(max_tokens=1))
            waited.append(lengths[arrived:].index(40))
        for task in running:
            task.cancel()
    hook.remove()
    return max(waited)


async def measure() -> dict[str, Any]:
    model = demo_model()
    with Engine(model, kept_bytes=0) as engine:
        results = {**await throughput(engine, model), **await demo_load(engine), **await streaming(engine)}
    results |= await reuse(model)
    return {**results, "steps_before_first_token_of_a_joining_request": await steps_before_first_token(model)}


def main() -> None:
    torch.set_num_threads(1)
    results = asyncio.run(measure())
    print(json.dumps(results))
    print(
        f"engine {results['engine_tokens_per_second']} tokens/s, {results['ratio']} x generate at batch 16 (goal 0.8)"
        f"; conversations of four turns are {results['conversations_faster']} x as fast with reuse; a joining request "
        f"waits {results['steps_before_first_token_of_a_joining_request']} decode steps"
    )


if __name__ == "__main__":
    main()
