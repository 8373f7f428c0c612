from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gepa_program import RULES, SEED, TASKS, better_text, make_agent, make_reflection, resources, search

import agentlightning as agl
from agentlightning.errors import ConfigurationError, ExecutionError, InvalidPrompt, MissingExtra, ModelError


class Client:
    """An OpenAI-shaped client that answers, after it has raised what it was told to."""

    def __init__(self, *failures: Exception | None) -> None:
        self.failures = list(failures)
        self.calls: list[dict[str, Any]] = []
        self.chat = SimpleNamespace(completions=self)

    async def create(self, **options: Any) -> Any:
        self.calls.append(options)
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure
        message = SimpleNamespace(content=f"```\n{better_text(options['messages'][0]['content'])}\n```")
        usage = SimpleNamespace(prompt_tokens=5, completion_tokens=2)
        return SimpleNamespace(choices=[SimpleNamespace(message=message, finish_reason="stop")], usage=usage)


class Refused(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status_code = status


async def no_sleep(seconds: float) -> None:
    await asyncio.sleep(0)


def fit(
    algorithm: Any,
    agent: Any = None,
    *,
    train: list[Any] = TASKS,
    val: list[Any] | None = TASKS[:6],
    initial: dict[str, Any] | None = None,
    **options: Any,
) -> agl.TrainingResult:
    initial = resources() if initial is None else initial
    trainer = agl.Trainer(algorithm=algorithm, initial_resources=initial, **options)
    try:
        return trainer.fit(agent or make_agent(), train, val_dataset=val)
    finally:
        asyncio.run(trainer.store.close())


# -- what it finds -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"proposals": 3, "n_runners": 4}], ids=["one-at-a-time", "three-at-a-time"])
def test_it_finds_the_instructions_of_the_best_prompt(options: dict[str, Any]) -> None:
    algorithm = search(None, max_metric_calls=200, **options)
    best = algorithm.get_best_prompt()
    assert best.template.startswith(SEED)
    assert all(rule in best.template for rule in RULES)
    assert algorithm.history.best is not None
    assert algorithm.history.best.score == 1.0
    gain = algorithm.history.gain()
    assert gain is not None
    assert gain.verdict == "better"


def test_the_whole_set_of_resources_is_the_result_and_the_folder_has_the_history(tmp_path: Path) -> None:
    algorithm = agl.GEPA(make_reflection(), max_metric_calls=90)
    result = fit(algorithm, run_dir=tmp_path)
    assert result.score == 1.0
    assert result.resources == resources() | {"prompt": algorithm.get_best_prompt()}
    history = json.loads((tmp_path / "history.json").read_text())
    assert history["best"] == 3
    assert [each["parent"] for each in history["candidates"]] == [None, 0, 1, 2]
    assert [each["score"] for each in history["candidates"]] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert history["candidates"][1]["standard_error"] == pytest.approx(0.2108, abs=1e-4)
    assert history["cost"]["rollouts"] == sum(result.rollouts.values())
    page = (tmp_path / "history.md").read_text()
    assert "Candidate 3 is the best and scores 1.000" in page
    assert "    Also use metric units." in page
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["best"] for line in lines] == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_proposals_that_are_the_same_are_one_candidate() -> None:
    def reflect(question: str) -> str:
        return f"```\n{SEED} Also {', '.join(RULES)}.\n```"

    algorithm = search(None, reflection_lm=reflect, proposals=3, max_metric_calls=60)
    same = "the same as candidate 1"
    assert [each.reason for each in algorithm.history.candidates] == [None, None, same, same]
    assert [each.score for each in algorithm.history.candidates] == [0, 1, None, None]


def test_the_same_seed_takes_the_same_way() -> None:
    one, other, another = (search(None, seed=seed).history.candidates[1].texts["prompt"] for seed in (3, 3, 4))
    assert one == other != another


def test_the_metrics_say_what_it_cost() -> None:
    client = Client()
    result = fit(agl.GEPA(client, max_metric_calls=90, reflection_model="thinker"))
    assert result.metrics["model_calls"] == len(client.calls) == 3
    assert result.metrics["prompt_tokens"] == 15
    assert result.metrics["completion_tokens"] == 6
    assert {call["model"] for call in client.calls} == {"thinker"}


@pytest.mark.parametrize("budget", range(18, 60, 7))
def test_the_budget_is_never_exceeded(budget: int) -> None:
    algorithm = search(None, max_metric_calls=budget)
    iteration = 2 * 3 + 6
    assert min(budget - iteration, 42) <= algorithm.history.cost["rollouts"] <= budget


def test_tasks_that_fill_up_a_batch_are_run_once(tmp_path: Path) -> None:
    """The library repeats tasks where the minibatch does not divide their number."""
    algorithm = agl.GEPA(make_reflection(), max_metric_calls=60, perfect_score=None)
    result = fit(algorithm, train=TASKS[:4], val=TASKS[:3], run_dir=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    batches = [[each["task"] for each in line["answer"]["scored"]] for line in lines if line["kind"] == "evaluation"]
    assert all(len(set(batch)) == len(batch) for batch in batches)
    assert {len(batch) for batch in batches} == {2, 3}
    assert sum(result.rollouts.values()) == sum(map(len, batches)) <= 60


# -- several prompts ---------------------------------------------------------------------------------------------------


def two_prompts() -> dict[str, Any]:
    return {
        "system": agl.PromptTemplate(template="You help.", engine="jinja"),
        "user": agl.PromptTemplate(template="{{ question }}", engine="jinja"),
    }


def add_rules(question: str) -> str:
    rules = ". ".join(re.findall(r"lacks this rule: (.*)\.", question))
    return f"```\n{question.split('```')[1].strip()} {rules}.\n```"


class TwoParts(agl.LitAgent[Any]):
    def rollout(self, task: Any, resources: Any, rollout: Any) -> float:
        texts = {name: resources[name].format(question="?") for name in ("system", "user")}
        lacking = [rule for rule, text in zip(RULES, texts.values(), strict=False) if rule not in text]
        for rule in lacking:
            agl.emit_message(f"The answer lacks this rule: {rule}.")
        return 1.0 - len(lacking) / 2


@pytest.mark.parametrize("module_selector", ["round_robin", "all"])
def test_all_prompts_evolve_by_default(module_selector: Any) -> None:
    algorithm = agl.GEPA(add_rules, max_metric_calls=90, module_selector=module_selector)
    result = fit(algorithm, TwoParts(), initial=two_prompts())
    assert result.score == 1.0
    best = algorithm.get_best_prompts()
    assert RULES[0] in best["system"].template
    assert RULES[1] in best["user"].template
    assert best["user"].template.startswith("{{ question }}")
    with pytest.raises(ConfigurationError, match="use get_best_prompts"):
        algorithm.get_best_prompt()


def test_only_the_named_prompts_evolve() -> None:
    algorithm = agl.GEPA(add_rules, max_metric_calls=60, prompts=["system"])
    result = fit(algorithm, TwoParts(), initial=two_prompts())
    assert result.score == 0.5
    assert result.resources is not None
    assert result.resources["user"] == two_prompts()["user"]
    assert RULES[0] in algorithm.get_best_prompt().template


# -- texts that cannot be used -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "wrong"),
    [
        ("Answer at once.", "it lost {question}"),
        ("Answer {question} for {name}.", "nobody fills {name}"),
        ("Answer {question", "it cannot be filled"),
        (SEED, "it is what it shall replace"),
    ],
    ids=["lost", "invented", "malformed", "unchanged"],
)
@pytest.mark.parametrize("repaired", [True, False])
def test_a_text_that_cannot_be_used_goes_back_once(tmp_path: Path, bad: str, wrong: str, repaired: bool) -> None:
    asked: list[str] = []

    def reflect(question: str) -> str:
        asked.append(question)
        again = "This cannot be used" in question
        return f"```\n{better_text(question) if again and repaired else bad}\n```"

    ran: list[str] = []
    fit(algorithm := agl.GEPA(reflect, max_metric_calls=18), make_agent(ran.append), run_dir=tmp_path)
    assert len(asked) == 2
    assert wrong in asked[1]
    first = algorithm.history.candidates[1]
    assert (first.reason is None) is repaired
    if not repaired:
        assert wrong in (first.reason or "")
        assert wrong in (tmp_path / "history.md").read_text()
    templates = {json.loads(line)[1] for line in ran if line != "begins"}
    assert templates == {SEED, first.texts["prompt"] if repaired else SEED}


def test_the_question_says_which_placeholders_to_keep() -> None:
    client = Client()
    fit(agl.GEPA(client, max_metric_calls=18))
    question = client.calls[0]["messages"][0]["content"]
    assert question.endswith("Keep every placeholder, written as it is, and add none: {question}")
    assert "Reward: 0" in question
    assert "The answer lacks this rule: " in question


def test_the_question_can_be_another() -> None:
    client = Client()
    template = "Improve ```<curr_param>``` by <side_info>"
    fit(agl.GEPA(client, max_metric_calls=18, reflection_prompt_template=template))
    assert client.calls[0]["messages"][0]["content"].startswith(f"Improve ```{SEED}``` by # Example 1")


# -- what goes wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [Refused(429), Refused(503), ConnectionError("down"), TimeoutError()])
def test_a_model_that_is_limited_or_down_costs_retries_and_not_the_run(failure: Exception) -> None:
    client = Client(failure, failure, None, failure)
    algorithm = agl.GEPA(client, max_metric_calls=90)
    algorithm._sleep = no_sleep  # pyright: ignore[reportPrivateUsage]
    result = fit(algorithm)
    assert result.score == 1.0
    assert result.metrics["retries"] == 3
    assert len(client.calls) == 3 + 3


def test_a_reflection_that_is_given_up_costs_an_iteration() -> None:
    algorithm = agl.GEPA(Client(None, Refused(400)), max_metric_calls=90)
    assert fit(algorithm).score == 1.0
    assert [each.reason for each in algorithm.history.candidates if each.reason] == [
        "gpt-5-mini did not answer, asked 1 times: Refused: status 400"
    ]


@pytest.mark.parametrize("answers", [0, 1])
def test_a_model_that_never_answers_ends_the_run_with_the_best_so_far(tmp_path: Path, answers: int) -> None:
    algorithm = agl.GEPA(Client(*[None] * answers, *[Refused(401)] * 9), max_metric_calls=90)
    with pytest.raises(ModelError, match="did not answer"):
        fit(algorithm, run_dir=tmp_path)
    assert len(algorithm._client.calls) == (4 if answers else 1)  # pyright: ignore[reportPrivateUsage]
    assert json.loads((tmp_path / "best.json").read_text())["score"] == pytest.approx(answers / 3)


def test_a_bug_in_the_reflection_function_is_raised_as_it_is() -> None:
    def reflect(question: str) -> str:
        raise KeyError("my bug")

    with pytest.raises(KeyError, match="my bug"):
        fit(agl.GEPA(reflect, max_metric_calls=90))


def test_a_reflection_function_that_returns_no_text_is_named() -> None:
    with pytest.raises(TypeError, match="returns a text, not a int"):
        fit(agl.GEPA(lambda question: 3, max_metric_calls=90))


def test_rollouts_that_fail_count_nothing_and_are_told() -> None:
    @agl.rollout
    async def agent(task: dict[str, str], prompt: agl.PromptTemplate) -> float:
        if task["rule"] == RULES[0] and RULES[0] not in prompt.template:
            raise ValueError(f"The answer lacks this rule: {RULES[0]}.")
        return 1.0

    client = Client()
    algorithm = agl.GEPA(client, max_metric_calls=90)
    assert fit(algorithm, agent).score == 1.0
    assert algorithm.history.candidates[0].score == pytest.approx(2 / 3)
    question = client.calls[0]["messages"][0]["content"]
    assert "Reward: none was given" in question
    assert f"The rollout failed with ValueError: The answer lacks this rule: {RULES[0]}." in question


def test_a_prompt_that_breaks_the_agent_is_no_better_than_one_that_is_penalised() -> None:
    @agl.rollout
    async def agent(task: Any, prompt: agl.PromptTemplate) -> float:
        if prompt.template != SEED:
            raise RuntimeError("the prompt broke it")
        return -0.2

    algorithm = agl.GEPA(make_reflection(), max_metric_calls=40, perfect_score=None)
    assert fit(algorithm, agent).score == pytest.approx(-0.2)
    assert algorithm.get_best_prompt().template == SEED
    assert {each.rewards is None for each in algorithm.history.candidates[1:]} == {True}


def test_an_agent_that_only_fails_ends_the_search() -> None:
    @agl.rollout
    async def agent(task: Any, prompt: agl.PromptTemplate) -> float:
        raise RuntimeError("a broken tool")

    with pytest.raises(ExecutionError, match=r"all 6 rollouts with the initial prompts failed.*a broken tool"):
        fit(agl.GEPA(make_reflection(), max_metric_calls=90), agent)


def test_an_agent_without_rewards_ends_the_search() -> None:
    @agl.rollout
    async def agent(task: Any, prompt: agl.PromptTemplate) -> None:
        return None

    with pytest.raises(ExecutionError, match="no rollout was rewarded"):
        fit(agl.GEPA(make_reflection(), max_metric_calls=90), agent)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reflection_minibatch_size": 0}, "reflection_minibatch_size must be a whole number of at least 1"),
        ({"proposals": 0}, "proposals must be a whole number of at least 1"),
        ({"proposals": 1.5}, "proposals must be"),
        ({"max_metric_calls": "90"}, "max_metric_calls must be"),
        ({"rollout_batch_timeout": 0}, "rollout_batch_timeout must be a number above 0"),
        ({"rollout_batch_timeout": -1}, "rollout_batch_timeout must be a number above 0"),
        ({"candidate_selection_strategy": "best"}, "candidate_selection_strategy must be one of .*pareto"),
        ({"module_selector": "some"}, "module_selector must be one of .*round_robin"),
        ({"perfect_score": "1"}, "perfect_score must be a number, not '1'"),
        ({"prompts": []}, "leaves nothing to evolve"),
        ({"seed": None}, "seed must be a whole number, not None"),
        ({"reflection_prompt_template": "<side_info>"}, "lacks <curr_param>"),
        ({"reflection_lm": 3}, "reflection_lm is a function, or an asynchronous client"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_made(options: dict[str, Any], message: str) -> None:
    reflection: Any = options.pop("reflection_lm", None) or make_reflection()
    with pytest.raises(ConfigurationError, match=message):
        agl.GEPA(reflection, **{"max_metric_calls": 90, **options})


@pytest.mark.parametrize(
    ("options", "fitted", "error", "message"),
    [
        ({"max_metric_calls": 17}, {}, ConfigurationError, "that takes 18 rollouts, 6 for the validation tasks"),
        ({"max_metric_calls": 8}, {"train": TASKS[:1], "val": None}, None, ""),
        ({}, {"train": []}, ConfigurationError, "GEPA needs tasks"),
        ({}, {"initial": {"model": resources()["model"]}}, ConfigurationError, "GEPA needs a prompt"),
        ({"prompts": ["model"]}, {}, ConfigurationError, r"no prompts \['model'\] .* only \['prompt'\]"),
        (
            {},
            {"initial": {"prompt": agl.PromptTemplate(template="{a", engine="f-string")}},
            InvalidPrompt,
            "expected '}'",
        ),
    ],
    ids=["budget", "small-budget", "no-tasks", "no-prompt", "no-such-prompt", "malformed"],
)
def test_what_cannot_work_is_refused_before_anything_runs(
    options: dict[str, Any], fitted: dict[str, Any], error: type[Exception] | None, message: str
) -> None:
    arguments: dict[str, Any] = {"max_metric_calls": 90} | options
    algorithm = agl.GEPA(make_reflection(), **arguments)
    if error is None:
        fit(algorithm, **fitted)
        return
    ran: list[str] = []
    with pytest.raises(error, match=message):
        fit(algorithm, make_agent(ran.append), **fitted)
    assert ran == []


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gepa", None)
    with pytest.raises(MissingExtra, match=r"GEPA needs `gepa`: pip install -e '\.\[gepa\]'"):
        agl.GEPA(make_reflection(), max_metric_calls=90)


def test_there_is_no_best_prompt_before_a_run() -> None:
    with pytest.raises(ConfigurationError, match="no best prompt yet"):
        agl.GEPA(make_reflection(), max_metric_calls=90).get_best_prompt()


def test_it_can_be_named() -> None:
    trainer = agl.Trainer(algorithm={"type": "gepa", "reflection_lm": make_reflection(), "max_metric_calls": 90})
    assert isinstance(trainer.algorithm, agl.GEPA)
