from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import openai
import pytest
import torch

import agentlightning as agl
from agentlightning.demo.policy import CHECKPOINT, load_policy

TIMES = ("seconds", "sampling_seconds", "learning_seconds", "tokens_per_second", "rollouts_per_second")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def make_agent(asked: list[int], fails: bool) -> agl.LitAgent[Any]:
    """An agent that, if it `fails`, does so in every third rollout, after its call."""

    @agl.rollout
    async def agent(task: int, llm: agl.LLM) -> float:
        asked.append(task)
        number = len(asked)
        async with openai.AsyncOpenAI(base_url=llm.endpoint, api_key="none", max_retries=0) as client:
            messages: list[Any] = [{"role": "user", "content": f"What is the value of {task}?"}]
            answer = await client.chat.completions.create(
                model=llm.model, messages=messages, max_tokens=4, **llm.sampling_parameters
            )
        if fails and number % 3 == 0:
            raise RuntimeError("a broken tool")
        return float(len(answer.choices[0].message.content or "") % 3)

    return agent


def train(run_dir: Path, *, resume: bool = False, fails: bool = False, **options: Any) -> list[int]:
    """Train for three steps of 2 x 3 rollouts; returns the tasks that the agent was asked."""
    asked: list[int] = []
    settings = {"steps": 3, "batch_size": 2, "group_size": 3, "checkpoint_every": 1} | options
    algorithm = agl.GRPO(settings.pop("model", CHECKPOINT), device="cpu", learning_rate=1e-3, **settings)
    trainer = agl.Trainer(algorithm=algorithm, run_dir=None if resume else run_dir)
    trainer.fit(make_agent(asked, fails), [1, 2, 3], val_dataset=[4, 5], resume=run_dir if resume else None)
    asyncio.run(trainer.store.close())
    return asked


def state_of(folder: Path) -> dict[str, Any]:
    weights = torch.load(folder / "training_state.pt", weights_only=True)
    model = agl.algorithm.grpo.load_model(str(folder), "cpu")
    return {"weights": dict(model.state_dict()), **weights}


def assert_equal(ours: Any, theirs: Any) -> None:
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs)
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            assert_equal(value, theirs[key])
    elif isinstance(ours, list | tuple):
        for one, other in zip(ours, theirs, strict=True):
            assert_equal(one, other)
    else:
        assert ours == theirs


def records(run_dir: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


@pytest.mark.parametrize(
    ("lost", "fails"), [(1, False), (2, False), (2, True)], ids=["last-step", "all-checkpoints", "failures"]
)
def test_steps_that_are_made_again_give_the_same_bits_without_running_a_rollout(
    tmp_path: Path, lost: int, fails: bool
) -> None:
    assert len(train(tmp_path, fails=fails)) == 3 * 6 + 2 * 2
    before, written = state_of(tmp_path / "checkpoint"), records(tmp_path)
    for folder in sorted((tmp_path / "checkpoints").iterdir())[-lost:]:
        shutil.rmtree(folder)
    assert train(tmp_path, resume=True) == []
    assert_equal(state_of(tmp_path / "checkpoint"), before)
    assert records(tmp_path) == written


def test_a_model_that_was_loaded_already_goes_on_in_place(tmp_path: Path) -> None:
    train(tmp_path)
    before = state_of(tmp_path / "checkpoint")["weights"]
    model, tokenizer = load_policy()
    assert train(tmp_path, resume=True, model=model, tokenizer=tokenizer) == []
    assert_equal(dict(model.state_dict()), before)


def test_more_steps_can_be_asked_of_a_run_that_has_ended(tmp_path: Path) -> None:
    train(tmp_path)
    assert len(train(tmp_path, resume=True, steps=4)) == 6 + 2
    assert [record["step"] for record in records(tmp_path) if record["kind"] == "step"] == [1, 2, 3, 4]


def test_random_numbers_go_on_where_they_were(tmp_path: Path) -> None:
    train(tmp_path)
    kept = torch.load(tmp_path / "checkpoints" / "step-00000003" / "training_state.pt", weights_only=True)["rng"]["cpu"]
    torch.manual_seed(77)
    train(tmp_path, resume=True)
    again = torch.load(tmp_path / "checkpoint" / "training_state.pt", weights_only=True)["rng"]["cpu"]
    assert torch.equal(again, kept)
