from __future__ import annotations

import asyncio
import copy
import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import agentlightning as agl
from agentlightning.demo.policy import load_policy
from agentlightning.errors import ExecutionError, PolicyMismatch
from agentlightning.inference import Engine

STEP_FIELDS = {
    "kind", "step", "steps", "reward", "rollouts", "failed", "turns", "rows", "broken_prefixes", "tokens",
    "tokens_per_second", "rollouts_per_second", "sampling_seconds", "learning_seconds", "loss", "grad_norm",
    "learning_rate", "mean_ratio", "clip_fraction", "approx_kl", "trained_tokens", "seconds",
}  # fmt: skip
EVALUATION_FIELDS = {
    "kind", "reward", "rollouts", "version", "temperature", "failed", "turns", "tokens", "seconds"
}  # fmt: skip
GAIN_FIELDS = {"gain", "gain_low", "gain_high", "verdict"}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def make_agent(fails: Callable[[int], bool] = lambda _: False) -> agl.LitAgent[Any]:
    """An agent that asks once; every second rollout is rewarded, and those fail after their call that `fails` names."""
    numbers = itertools.count()

    @agl.rollout
    async def agent(task: int, llm: agl.LLM) -> float:
        number = next(numbers)
        async with openai.AsyncOpenAI(base_url=llm.endpoint, api_key="none", max_retries=0) as client:
            messages: list[Any] = [{"role": "user", "content": f"What is the value of {task}?"}]
            options: dict[str, Any] = {"max_tokens": 4, **llm.sampling_parameters}
            await client.chat.completions.create(model=llm.model, messages=messages, **options)
        if fails(number):
            raise RuntimeError("the tool is broken")
        return float(number % 2)

    return agent


def train(
    agent: agl.LitAgent[Any],
    model: PreTrainedModel | None = None,
    val_dataset: list[int] | None = None,
    llm_proxy: agl.LLMProxy | None = None,
    run_dir: Path | None = None,
    **options: Any,
) -> list[Mapping[str, Any]]:
    """Train for two steps of 2 x 2 rollouts, one at a time and so in order; returns what was reported."""
    records: list[Mapping[str, Any]] = []
    policy, tokenizer = load_policy()
    settings = {"steps": 2, "batch_size": 2, "group_size": 2, "device": "cpu", "learning_rate": 1e-3} | options
    algorithm = agl.GRPO(model or policy, tokenizer=tokenizer, **settings)
    trainer = agl.Trainer(algorithm=algorithm, llm_proxy=llm_proxy, run_dir=run_dir, on_metrics=records.append)
    trainer.fit(agent, [1, 2], val_dataset=val_dataset)
    asyncio.run(trainer.store.close())
    return records


@pytest.mark.parametrize(("failures", "rows"), [("zero", 4), ("drop", 2)])
def test_training_goes_on_where_some_rollouts_fail(failures: str, rows: int) -> None:
    records = train(make_agent(lambda number: number % 4 == 1), failures=failures)
    assert [record["failed"] for record in records] == [1, 1]
    assert [record["rows"] for record in records] == [rows, rows]
    assert all(record["trained_tokens"] > 0 for record in records)


def test_step_whose_groups_are_all_dropped_leaves_the_policy_as_it_was() -> None:
    model, _ = load_policy()
    before = copy.deepcopy(model.state_dict())
    records = train(make_agent(lambda number: number % 2 == 1), model, failures="drop")
    assert [(record["failed"], "loss" in record) for record in records] == [(2, False), (2, False)]
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("failures", ["zero", "drop"])
def test_step_whose_rollouts_all_fail_ends_the_run_and_says_why(failures: str) -> None:
    with pytest.raises(ExecutionError, match=r"all 4 rollouts of a step failed.*RuntimeError: the tool is broken"):
        train(make_agent(lambda _: True), failures=failures)


def test_engine_that_serves_other_weights_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Engine.update_weights

    async def wrong(engine: Engine, state_dict: Mapping[str, torch.Tensor], version: int) -> None:
        name = next(name for name in state_dict if "q_proj" in name)
        await right(engine, {**state_dict, name: state_dict[name] + 1e-2}, version)

    monkeypatch.setattr(Engine, "update_weights", wrong)
    with pytest.raises(PolicyMismatch, match="version 1 engine and learner differ"):
        train(make_agent())


def test_checkpoint_loads_with_transformers_and_is_the_trained_policy(tmp_path: Path) -> None:
    trained, _ = load_policy()
    untrained = copy.deepcopy(trained)
    train(make_agent(), trained, run_dir=tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "checkpoint")
    token_ids_1L = torch.tensor([tokenizer.encode("What is the value of red-fox? The value is 42.")])
    with torch.no_grad():
        logprobs = [model(token_ids_1L).logits.log_softmax(-1) for model in (trained, loaded, untrained)]
    assert torch.equal(logprobs[0], logprobs[1])
    assert not torch.allclose(logprobs[0], logprobs[2], atol=1e-4)


def test_metrics_file_holds_what_was_reported_with_the_documented_fields(tmp_path: Path) -> None:
    reported = train(make_agent(), val_dataset=[3, 4, 5], run_dir=tmp_path)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert records == reported
    assert [record["kind"] for record in records] == ["evaluation", "step", "step", "evaluation"]
    assert [record["version"] for record in records if record["kind"] == "evaluation"] == [0, 2]
    for record in records:
        compared = GAIN_FIELDS if record["kind"] == "evaluation" and record["version"] else set[str]()
        assert record.keys() == (STEP_FIELDS if record["kind"] == "step" else EVALUATION_FIELDS) | compared


def test_of_several_agents_those_are_trained_that_the_expression_finds() -> None:
    asked = make_agent()

    @agl.rollout
    async def pair(task: int, llm: agl.LLM) -> float:
        for name in ("planner", "writer"):
            with agl.operation(name=name, type="agent"):
                reward = await asked(task, llm)
        with agl.operation(name="agentlightning.reward"):
            await asked(task, llm)
        return reward

    assert [[record[field] for field in ("turns", "rows")] for record in train(pair)] == [[2, 8], [2, 8]]
    assert [[record[field] for field in ("turns", "rows")] for record in train(pair, agent_match="^writer$")] == [
        [1, 4],
        [1, 4],
    ]


def test_late_rollout_is_cancelled_and_counts_as_failed() -> None:
    numbers = itertools.count()
    ask = make_agent()

    @agl.rollout
    async def sometimes_hangs(task: int, llm: agl.LLM) -> float:
        if next(numbers) == 3:
            await asyncio.Event().wait()
        return await ask(task, llm)

    (step,) = train(sometimes_hangs, rollout_timeout=3.0, steps=1)
    assert step["failed"] == 1


def test_gateway_of_the_user_keeps_its_models() -> None:
    judge = {"model_name": "judge", "litellm_params": {"model": "judge", "api_base": "http://127.0.0.1:9/v1"}}
    proxy = agl.LLMProxy(model_list=[judge])
    served: list[list[str]] = []
    ask = make_agent()

    @agl.rollout
    async def look(task: int, llm: agl.LLM) -> float:
        served.append(sorted(model["model_name"] for model in proxy.model_list))
        return await ask(task, llm)

    train(look, llm_proxy=proxy, steps=1)
    assert served[0] == ["judge", "policy"]
    assert proxy.model_list == [judge]
