"""Bad input costs the rollout it comes with one clear error, and the others nothing."""

from __future__ import annotations

import math
import socket
from collections.abc import Sequence
from typing import Any

import openai
import pytest
import torch
from outcomes import Outcome, fit, run_all

import agentlightning as agl
from agentlightning.algorithm.policy_server import PolicyServer
from agentlightning.demo.policy import load_policy
from agentlightning.errors import InvalidAgent


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def requests(inputs: Sequence[Any], resources_id: str | None = None) -> list[agl.EnqueueRolloutRequest]:
    return [agl.EnqueueRolloutRequest(input=each, mode="train", resources_id=resources_id) for each in inputs]


def assert_only_bad_ones_failed(outcomes: Sequence[Outcome], bad: Sequence[bool], kind: str, *says: str) -> None:
    assert [outcome.status for outcome in outcomes] == ["failed" if each else "succeeded" for each in bad]
    for outcome, is_bad in zip(outcomes, bad, strict=True):
        assert outcome.error.get("type") == (kind if is_bad else None)
        if is_bad:
            missing = [text for text in says if text not in outcome.error["message"]]
            assert not missing, f"{outcome.error['message']!r} does not say {missing}"
        else:
            assert outcome.reward is not None


LLM = agl.LLM(endpoint="http://127.0.0.1:9/v1", model="m")


@agl.rollout
async def by_parameter(task: int, planner: agl.LLM) -> float:
    return 1.0


@agl.rollout
async def by_key(task: int, resources: agl.NamedResources) -> float:
    return float(resources["planner"].model == "m")  # type: ignore[union-attr]


class ByKeyInClass(agl.LitAgent[int]):
    def rollout(self, task: int, resources: agl.NamedResources, rollout: agl.Rollout) -> float:
        return float(resources["planner"].model == "m")  # type: ignore[union-attr]


@pytest.mark.parametrize("agent", [by_parameter, by_key, ByKeyInClass()], ids=["parameter", "key", "class"])
def test_unknown_resource_name(agent: agl.LitAgent[Any]) -> None:
    outcomes: list[Outcome] = []

    @agl.algo
    async def mix(store: agl.LightningStore) -> None:
        known = (await store.add_resources({"planner": LLM, "writer": LLM})).resources_id
        unknown = (await store.add_resources({"solver": LLM, "writer": LLM})).resources_id
        mixed = [id for _ in range(3) for id in (known, unknown)]
        outcomes.extend(await run_all(store, [request for id in mixed for request in requests([0], id)]))

    agl.Trainer(algorithm=mix, n_runners=2).fit(agent)
    assert_only_bad_ones_failed(
        outcomes, [False, True] * 3, "MissingResource", "planner", "['solver', 'writer']", "name"
    )


def test_unknown_resources_id() -> None:
    @agl.rollout
    async def agent(task: int) -> float:
        return 1.0

    mixed = requests([0]) + requests([1], "rs-nowhere") + requests([2])
    outcomes = fit(agent, mixed)
    assert_only_bad_ones_failed(
        outcomes, [False, True, False], "MissingResource", "'rs-nowhere'", "id that add_resources returned"
    )


def test_signature_that_cannot_be_called() -> None:
    class Agent(agl.LitAgent[int]):
        async def training_rollout_async(self, task: int) -> float:  # type: ignore[override]
            return 1.0

        async def validation_rollout_async(self, task: int, resources: object, rollout: object) -> float:
            return 1.0

    modes: list[agl.RolloutMode] = ["val", "train", "test", "train"]
    outcomes = fit(Agent(), [agl.EnqueueRolloutRequest(input=0, mode=mode) for mode in modes])
    assert_only_bad_ones_failed(
        outcomes,
        [False, True, False, True],
        "InvalidAgent",
        "Agent.training_rollout_async(task",
        "(self, task, resources, rollout)",
    )


def test_signature_of_a_function_is_refused_before_anything_runs() -> None:
    with pytest.raises(InvalidAgent, match=r"nobody fills parameter `model`: .*agent\(task.*, model.*Name it llm"):

        @agl.rollout
        async def agent(task: int, model: str) -> float:
            return 1.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_reward_that_is_no_finite_number(bad: float) -> None:
    @agl.rollout
    async def agent(task: int) -> float:
        return bad if task % 2 else 0.5

    outcomes = fit(agent, requests(range(6)))
    assert_only_bad_ones_failed(outcomes, [False, True] * 3, "InvalidResult", str(bad), "return a finite number")
    assert [outcome.reward for outcome in outcomes] == [0.5, None] * 3


def address_of_nobody() -> str:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{bound.getsockname()[1]}/v1"


async def ask(llm: agl.LLM, text: str, max_tokens: int = 4) -> float:
    async with openai.AsyncOpenAI(base_url=llm.endpoint, api_key="none", max_retries=0) as client:
        messages: list[Any] = [{"role": "user", "content": text}]
        await client.chat.completions.create(model=llm.model, messages=messages, max_tokens=max_tokens)
    return 1.0


@agl.rollout
async def asking_on_odd(task: int, llm: agl.LLM) -> float:
    return await ask(llm, "hello") if task % 2 else 0.5


def test_base_url_that_nobody_answers() -> None:
    outcomes: list[Outcome] = []
    endpoint = address_of_nobody()

    @agl.algo
    async def serve_nothing(store: agl.LightningStore) -> None:
        await store.add_resources({"llm": agl.LLM(endpoint=endpoint, model="m")})
        outcomes.extend(await run_all(store, requests(range(6))))

    agl.Trainer(algorithm=serve_nothing, n_runners=2).fit(asking_on_odd)
    assert_only_bad_ones_failed(
        outcomes, [False, True] * 3, "APIConnectionError", endpoint, "is the model server running"
    )


def test_backend_that_nobody_answers_behind_the_gateway() -> None:
    outcomes: list[Outcome] = []
    endpoint = address_of_nobody()

    @agl.algo
    async def serve_nothing(store: agl.LightningStore) -> None:
        backend = {"model": "m", "api_base": endpoint}
        gateway = agl.LLMProxy(model_list=[{"model_name": "m", "litellm_params": backend}], store=store)
        await gateway.start()
        try:
            await store.add_resources({"llm": gateway.as_resource()})
            outcomes.extend(await run_all(store, requests(range(6))))
        finally:
            await gateway.stop()

    agl.Trainer(algorithm=serve_nothing, n_runners=2).fit(asking_on_odd)
    assert_only_bad_ones_failed(
        outcomes, [False, True] * 3, "InternalServerError", endpoint, "is the model server running"
    )
    assert [[call.status.status_code for call in outcome.calls] for outcome in outcomes] == [[], ["ERROR"]] * 3


def test_prompt_longer_than_the_context() -> None:
    outcomes: list[Outcome] = []
    errors: list[openai.BadRequestError] = []

    @agl.rollout
    async def agent(task: int, llm: agl.LLM) -> float:
        try:
            return await ask(llm, "7 " * 800 if task % 2 else "hello")
        except openai.BadRequestError as error:
            errors.append(error)
            raise

    @agl.algo
    async def serve(store: agl.LightningStore) -> None:
        async with PolicyServer(*load_policy(), store) as server:
            await server.publish({"temperature": 1.0})
            outcomes.extend(await run_all(store, requests(range(6))))

    agl.Trainer(algorithm=serve, n_runners=2).fit(agent)
    says = ["1608 tokens", "1024 tokens", "shorten the messages"]
    assert_only_bad_ones_failed(outcomes, [False, True] * 3, "BadRequestError", *says)
    assert [(error.status_code, error.code) for error in errors] == [(400, "context_length_exceeded")] * 3
    for outcome, status in zip(outcomes, ["OK", "ERROR"] * 3, strict=True):
        (call,) = outcome.calls
        assert call.status.status_code == status
        assert status == "OK" or all(text in (call.status.description or "") for text in says)
