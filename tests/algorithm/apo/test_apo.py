from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import prompt_landscape as landscape
import pytest
from prompt_landscape import RULES, SEED, TRAIN, VAL, Optimiser, make_agent, train

import agentlightning as agl
from agentlightning.algorithm import apo
from agentlightning.algorithm.apo.beam import task_batches
from agentlightning.errors import ConfigurationError, ExecutionError, InvalidPrompt
from agentlightning.trainer.registry import Registry


class Refusal(Exception):
    """What an SDK raises for a response that is no answer."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status_code = status
        self.response = SimpleNamespace(headers={})


def is_optimum(prompt: agl.PromptTemplate) -> bool:
    return all(rule in prompt.template for rule in RULES) and prompt.template.startswith(SEED.template)


def test_the_known_optimum_is_found_and_no_task_is_run_twice_with_a_prompt(tmp_path: Path) -> None:
    ran: list[tuple[str, str]] = []
    algorithm, result = train(Optimiser(), ran, run_dir=tmp_path)
    assert is_optimum(algorithm.get_best_prompt())
    assert result.resources == {"prompt_template": algorithm.get_best_prompt()}
    assert (result.score, result.metrics["best"]) == (1.0, 1.0)
    assert len(ran) == len(set(ran)) == result.rollouts["succeeded"]
    history = json.loads((tmp_path / "history.json").read_text())
    assert history["cost"]["rollouts"] == len(ran)
    seed, *others = history["candidates"]
    assert seed["validation"] == {"mean": 0.0, "standard_error": 0.0, "tasks": 24, "failed": 0}
    assert [each["version"] for each in others] == [f"v{1 + place}" for place in range(len(others))]
    assert [one["comparison"]["verdict"] for one in history["rounds"]] == ["better"] * 4
    page = (tmp_path / "history.md").read_text()
    assert all(each["prompt"] in page for each in history["candidates"])
    assert "1.000 ± 0.000, from 0.000 ± 0.000 of v0" in page


def test_a_program_of_v03_runs_as_it_is() -> None:
    """All defaults, both datasets, one runner, and a client that is called with the default models."""
    client = Optimiser()
    algorithm = agl.APO(client)
    trainer = agl.Trainer(
        algorithm=algorithm, initial_resources={"prompt_template": SEED}, adapter=agl.TraceToMessages()
    )
    trainer.fit(make_agent([]), train_dataset=TRAIN, val_dataset=VAL)
    best = algorithm.get_best_prompt()
    assert isinstance(best, agl.PromptTemplate)
    assert sum(rule in best.template for rule in RULES) == 3  # one in each of three rounds
    assert {json.loads(said)[0] for said in client.asked} == {"gpt-5-mini", "gpt-4.1-mini"}
    assert Registry("algorithm")["apo"] == "agentlightning.algorithm.apo.APO"
    asyncio.run(trainer.store.close())


def test_other_resources_stay_beside_every_prompt() -> None:
    models: set[str] = set()

    @agl.rollout
    async def agent(task: str, prompt: agl.PromptTemplate, llm: agl.LLM) -> float:
        models.add(llm.model)
        return float(landscape.solved(prompt.template, task))

    llm = agl.LLM(endpoint="http://127.0.0.1:1/v1", model="small")
    second = agl.PromptTemplate(template="Another.", engine="f-string")
    resources: agl.NamedResources = {"main": llm, "prompt": SEED, "second": second}
    _, result = train(Optimiser(), [], resources=resources, agent=agent, beam_rounds=1)
    assert models == {"small"}
    assert result.resources is not None
    assert {name: result.resources[name] for name in ("main", "second")} == {"main": llm, "second": second}
    assert result.resources["prompt"] != SEED


def test_a_prompt_that_lost_its_placeholder_goes_back_once_with_the_complaint(tmp_path: Path) -> None:
    def spoil(number: int, said: str) -> str | None:
        return "```\nSolve it.\n```" if "<critique>" in said else None  # a repair is asked without one

    optimiser = Optimiser(spoil=spoil)
    algorithm, _ = train(optimiser, [], run_dir=tmp_path)
    assert is_optimum(algorithm.get_best_prompt())
    repairs = [json.loads(said)[1] for said in optimiser.asked if "cannot be used" in said]
    assert len(repairs) == 16
    assert [message["role"] for message in repairs[0]] == ["user", "assistant", "user"]
    assert repairs[0][1]["content"] == "Solve it.", "the fence around it is no part of the prompt"
    assert "it lost {task}" in repairs[0][2]["content"]
    assert "doubled: {{ and }}" in repairs[0][2]["content"]


def test_a_prompt_that_is_still_wrong_is_dropped_with_the_reason(tmp_path: Path) -> None:
    def spoil(number: int, said: str) -> str | None:
        return None if "<run number" in said else "Solve {problem}."

    algorithm, result = train(Optimiser(spoil=spoil), [], run_dir=tmp_path, beam_rounds=1)
    assert algorithm.get_best_prompt() == SEED
    assert result.score == 0.0
    (record,) = json.loads((tmp_path / "history.json").read_text())["rounds"]
    assert [each["reason"] for each in record["dropped"]] == [
        "it lost {task}; nobody fills {problem}, which it invented"
    ] * 4
    assert "it lost {task}" in (tmp_path / "history.md").read_text()
    assert record["dropped"][0]["prompt"] == "Solve {problem}."


def test_critics_read_what_was_said_in_the_runs() -> None:
    """The agent calls its model through OpenAI's SDK; one that ends in a failure is read with its error."""

    def reply(request: httpx.Request) -> httpx.Response:
        said = json.loads(request.content)["messages"][-1]["content"]
        message = {"role": "assistant", "content": f"I was told: {said}"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return httpx.Response(
            200, json={"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        )

    @agl.rollout
    async def agent(task: str, prompt: agl.PromptTemplate) -> float:
        http = httpx.AsyncClient(transport=httpx.MockTransport(reply))
        async with openai.AsyncOpenAI(api_key="none", base_url="http://model/v1", http_client=http) as client:
            asked: Any = [{"role": "user", "content": prompt.format(task=task)}]
            await client.chat.completions.create(model="m", messages=asked)
        if task == TRAIN[0]:
            raise RuntimeError("no such tool")
        return 0.0

    optimiser = Optimiser()
    texts = [Path(apo.__file__).parent / "prompts" / "critique" / "transcripts.txt"]
    train(optimiser, [], agent=agent, resources={"prompt": SEED}, beam_rounds=1, gradient_prompt_files=texts)
    read = "".join(json.loads(said)[1][0]["content"] for said in optimiser.asked)
    assert f"user: Solve {TRAIN[1]}.\nassistant: I was told: Solve {TRAIN[1]}." in read
    assert f'status="failed" reward="0.0">\nTask: {TRAIN[0]}\nError: RuntimeError: no such tool\n' in read


@pytest.mark.parametrize("engine", ["jinja", "f-string"])
def test_the_engine_of_the_prompt_stays(engine: Any) -> None:
    text = "Solve {{ task }}." if engine == "jinja" else "Solve {task}."
    seed = agl.PromptTemplate(template=text, engine=engine)
    algorithm, _ = train(Optimiser(), [], resources={"prompt_template": seed}, beam_rounds=1)
    best = algorithm.get_best_prompt()
    assert best.engine == engine
    assert best.template.startswith(text)
    assert best != seed


def test_a_model_that_fails_and_limits_the_rate_costs_retries_and_not_the_run() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    failures = random.Random(3)

    def spoil(number: int, said: str) -> Exception | None:
        return Refusal(failures.choice([429, 500, 503])) if failures.random() < 0.5 else None

    optimiser = Optimiser(spoil=spoil)
    algorithm, result = train(optimiser, [], sleep=sleep)
    assert is_optimum(algorithm.get_best_prompt())
    assert set(optimiser.answered.values()) <= {1, 2, 3, 4, 5, 6, 7, 8}
    assert len(slept) == len(optimiser.asked) - sum(optimiser.answered.values()) == result.metrics["retries"] > 10
    assert min(slept) > 0.3


def test_a_proposal_whose_model_refuses_is_dropped_and_the_others_go_on(tmp_path: Path) -> None:
    optimiser = Optimiser(spoil=lambda number, said: Refusal(400) if number == 2 else None)
    algorithm, _ = train(optimiser, [], run_dir=tmp_path)
    assert is_optimum(algorithm.get_best_prompt())
    first = json.loads((tmp_path / "history.json").read_text())["rounds"][0]
    assert [each["reason"] for each in first["dropped"] if "did not answer" in each["reason"]] == [
        "gpt-5-mini did not answer, asked 1 times: Refusal: status 400"
    ]
    again = Optimiser()
    train(again, [], resume=tmp_path)
    assert again.asked == [], "what was given up is not asked again in a run that has gone on without it"


def test_a_run_in_which_no_model_answers_ends_with_the_error_and_goes_on_later(tmp_path: Path) -> None:
    with pytest.raises(ExecutionError, match=r"no model answered.*status 401.*resume"):
        train(Optimiser(spoil=lambda number, said: Refusal(401)), [], run_dir=tmp_path)
    ran: list[tuple[str, str]] = []
    algorithm, _ = train(Optimiser(), ran, resume=tmp_path)
    assert is_optimum(algorithm.get_best_prompt())
    assert SEED.template not in {prompt for prompt, _ in ran}, "what the first prompt did was known"


def statuses(folder: Path) -> set[str]:
    async def read() -> set[str]:
        store = agl.SqliteLightningStore(folder / "store.db", read_only=True)
        try:
            return {rollout.status for rollout in await store.query_rollouts()}
        finally:
            await store.close()

    return asyncio.run(read())


def test_rollouts_that_are_late_are_cancelled_and_count_nothing(tmp_path: Path) -> None:
    @agl.rollout
    async def agent(task: str, prompt: agl.PromptTemplate) -> float:
        if task == VAL[1] and prompt != SEED:
            await asyncio.sleep(600)
        return float(landscape.solved(prompt.template, task))

    train(
        Optimiser(),
        [],
        agent=agent,
        resources={"prompt": SEED},
        run_dir=tmp_path,
        rollout_batch_timeout=2.0,
        beam_rounds=1,
        val_batch_size=24,
    )
    assert "cancelled" in statuses(tmp_path)
    _, first, *_ = json.loads((tmp_path / "history.json").read_text())["candidates"]
    late = next(each for each in first["results"]["val"] if each["task"] == 1)
    assert (late["reward"], late["error"]) == (None, "it was cancelled before it ended")
    assert first["validation"]["tasks"] == 24
    assert first["validation"]["failed"] >= 1


@pytest.mark.parametrize("first", [True, False], ids=["compared", "without initial validation"])
def test_a_prompt_that_breaks_the_agent_is_no_better_than_one_that_is_penalised(first: bool) -> None:
    @agl.rollout
    async def agent(task: str, prompt: agl.PromptTemplate) -> float:
        if prompt != SEED:
            raise RuntimeError("the prompt broke it")
        return -0.2

    algorithm, result = train(
        Optimiser(), [], agent=agent, resources={"prompt": SEED}, beam_rounds=1, run_initial_validation=first
    )
    assert algorithm.get_best_prompt() == SEED
    assert result.score == pytest.approx(-0.2)


def test_a_failure_counts_as_the_lowest_reward_also_where_that_is_seen_later() -> None:
    """The first prompt fails where the others are penalised, and does a little worse elsewhere."""

    @agl.rollout
    async def agent(task: str, prompt: agl.PromptTemplate) -> float:
        if prompt == SEED and task == VAL[0]:
            raise RuntimeError("the prompt broke it")
        return -0.5 if prompt == SEED else -0.9 if task == VAL[0] else -0.49

    settings: dict[str, Any] = {"beam_rounds": 1, "val_batch_size": 24, "promotion": "mean"}
    algorithm, result = train(Optimiser(), [], agent=agent, resources={"prompt": SEED}, **settings)
    assert algorithm.get_best_prompt() != SEED
    assert result.resources == {"prompt": algorithm.get_best_prompt()}
    assert result.score == pytest.approx((-0.9 - 23 * 0.49) / 24)


@pytest.mark.parametrize("stopped", [1, 8], ids=["some queued", "all running"])
def test_ctrl_c_leaves_nothing_running_and_what_it_stopped_is_run_again(tmp_path: Path, stopped: int) -> None:
    """One prompt is tried on eight tasks, by eight runners."""
    begun: list[str] = []

    @agl.rollout
    async def agent(task: str, prompt: agl.PromptTemplate) -> float:
        if prompt != SEED and len(begun) < 8:
            begun.append(task)
            if len(begun) == stopped:
                os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(600)
        return float(landscape.solved(prompt.template, task))

    settings: dict[str, Any] = {"agent": agent, "resources": {"prompt": SEED}, "beam_width": 1, "branch_factor": 1}
    with pytest.raises(KeyboardInterrupt):
        train(Optimiser(), [], run_dir=tmp_path, n_runners=8 if stopped == 8 else 2, **settings)
    assert "succeeded" in statuses(tmp_path)
    assert not statuses(tmp_path) & {"queuing", "preparing", "running", "requeuing"}
    begun += ["enough"] * 8
    optimiser = Optimiser()
    algorithm, result = train(optimiser, [], resume=tmp_path, **settings)
    assert is_optimum(algorithm.get_best_prompt())
    assert result.score == 1.0, "what was stopped is not taken for a failure"
    assert len(optimiser.asked) == 6, "the two calls of the first round are not made again"


@pytest.mark.parametrize(
    ("options", "promoted"),
    [({}, False), ({"promotion": "mean"}, True), ({"val": VAL[:4], "val_batch_size": 4}, True)],
    ids=["no evidence", "mean", "too few tasks for evidence"],
)
def test_what_may_be_luck_is_promoted_only_where_that_is_asked_for_or_cannot_be_told(
    tmp_path: Path, options: dict[str, Any], promoted: bool
) -> None:
    """One more task of 24, or of four, is solved by any other prompt."""

    @agl.rollout
    async def agent(task: str, prompt: agl.PromptTemplate) -> float:
        return float(task in TRAIN[4:] or (task == VAL[0] and prompt != SEED))

    settings: dict[str, Any] = {"val_batch_size": 24, "beam_rounds": 1, **options}
    algorithm, result = train(Optimiser(), [], agent=agent, resources={"prompt": SEED}, run_dir=tmp_path, **settings)
    (record,) = json.loads((tmp_path / "history.json").read_text())["rounds"]
    assert record["comparison"]["verdict"] == "no evidence of a difference"
    assert record["comparison"]["promoted"] is promoted
    assert (algorithm.get_best_prompt() != SEED) is promoted
    assert (result.score == 0.0) is not promoted
    assert record["ranking"][0]["version"] == "v1", "the beam goes on with it all the same"


def test_without_an_initial_validation_the_first_leader_is_the_best() -> None:
    ran: list[tuple[str, str]] = []
    algorithm, result = train(Optimiser(), ran, run_initial_validation=False, beam_rounds=1)
    assert algorithm.get_best_prompt() != SEED
    assert result.score == 0.25
    assert sum(prompt == SEED.template for prompt, _ in ran) == 8 + 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": None}, "train_dataset"),
        ({"val": []}, "val_dataset"),
        ({"adapter": None}, "TracerTraceToTriplet makes none"),
        ({"resources": None}, "APO needs a prompt"),
        ({"resources": {"llm": agl.LLM(endpoint="http://x", model="m")}}, "APO needs a prompt"),
    ],
    ids=["train", "val", "adapter", "no resources", "no prompt"],
)
def test_what_is_missing_is_said(change: dict[str, Any], message: str) -> None:
    given = {"train": TRAIN, "val": VAL, "adapter": agl.TraceToMessages(), "resources": {"prompt": SEED}} | change
    trainer = agl.Trainer(
        algorithm=agl.APO(Optimiser()), adapter=given["adapter"], initial_resources=given["resources"]
    )
    with pytest.raises(ConfigurationError, match=message):
        trainer.fit(make_agent([]), given["train"], val_dataset=given["val"])
    asyncio.run(trainer.store.close())


@pytest.mark.parametrize("broken", ["fails", "unrewarded"])
def test_a_first_prompt_that_says_nothing_ends_the_run(broken: str) -> None:
    @agl.rollout
    async def agent(task: str, prompt: agl.PromptTemplate) -> None:
        if broken == "fails":
            raise RuntimeError("no such tool")

    optimiser = Optimiser()
    message = "24 rollouts of the first prompt failed; the first one with RuntimeError: no such tool"
    with pytest.raises(ExecutionError, match=message if broken == "fails" else "was rewarded"):
        train(optimiser, [], agent=agent)
    assert optimiser.asked == []


def test_there_is_no_best_prompt_before_the_run() -> None:
    with pytest.raises(ValueError, match="run the algorithm first"):
        agl.APO(Optimiser()).get_best_prompt()


@pytest.mark.parametrize("client", [None, "gpt-5-mini", SimpleNamespace(chat=None)], ids=["none", "name", "no chat"])
def test_what_is_no_client_is_refused_before_anything_is_run(client: Any) -> None:
    with pytest.raises(ConfigurationError, match="AsyncOpenAI"):
        agl.APO(client)


def test_a_first_prompt_that_is_malformed_is_refused_before_anything_is_run() -> None:
    ran: list[tuple[str, str]] = []
    broken = agl.PromptTemplate(template="Solve {task.", engine="f-string")
    with pytest.raises(InvalidPrompt, match="braces that shall stay"):
        train(Optimiser(), ran, resources={"prompt_template": broken})
    assert ran == []


@pytest.mark.parametrize(
    "settings",
    [
        {"beam_width": 0},
        {"beam_rounds": 0},
        {"rollout_batch_timeout": 0},
        {"promotion": "luck"},
        {"max_concurrency": 0},
        {"max_concurrency": 2.5},
        {"beam_width": "4"},
        {"branch_factor": True},
        {"diversity_temperature": -1},
        {"rollout_batch_timeout": float("nan")},
        {"seed": None},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        agl.APO(Optimiser(), **settings)


@pytest.mark.parametrize(("count", "size"), [(5, 2), (4, 4), (3, 8), (1, 1), (7, 3)])
def test_every_task_comes_once_before_any_comes_again_and_once_a_batch(count: int, size: int) -> None:
    batches = task_batches(count, size, random.Random(1))
    drawn = [next(batches) for _ in range(60)]
    assert all(len(batch) == len(set(batch)) == min(size, count) for batch in drawn)
    flat = [number for batch in drawn for number in batch]
    counts = [flat[: count * passes] for passes in (5, 10)]
    for passes, seen in zip((5, 10), counts, strict=True):
        assert all(abs(seen.count(number) - passes) <= 1 for number in range(count))
