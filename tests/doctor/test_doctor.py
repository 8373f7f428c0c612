from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import patients
import pytest

import agentlightning as agl
from agentlightning.adapter.rewards import RewardMatchPolicy
from agentlightning.cli.app import run
from agentlightning.cli.doctor import RewardMatch
from agentlightning.doctor.diagnosis import diagnose
from agentlightning.doctor.exits import exits_raise
from agentlightning.doctor.report import Report
from agentlightning.doctor.scripted_model import ScriptedModel
from agentlightning.doctor.text import describe
from agentlightning.errors import ConfigurationError, InvalidAgent
from agentlightning.litagent.loading import load_agent

PATIENTS = Path(patients.__file__)


ROLLOUT = agl.Rollout(rollout_id="ro", input=None, start_time=0.0)


@pytest.fixture(autouse=True)
def unchanged_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", sys.path.copy())


@pytest.fixture(autouse=True)
def without_litellm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its loading is told of, and other tests of this process may have loaded it."""
    monkeypatch.delitem(sys.modules, "litellm", raising=False)


@pytest.fixture(autouse=True)
def unchanged_logging(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command sets up the logging of its process, which is also that of other tests."""
    monkeypatch.setattr("agentlightning.logging.setup_logging", lambda level: None)


def codes(report: Report) -> list[str]:
    return [finding.code for finding in report.findings]


def says(report: Report, *words: str) -> bool:
    text = describe(report)
    return all(word in text for word in words)


def test_a_good_agent() -> None:
    report = diagnose(patients.good)
    assert (report.code, report.ok, report.verdict) == ("all-good", True, "ready for training")
    first, second = report.calls
    assert first.captured_by == second.captured_by == ["gateway", "openai"]
    assert all(call.has_tokens and call.has_logprobs and call.trained and not call.streamed for call in report.calls)
    assert [list(call.rows) for call in report.calls] == [[1], [1]]
    (row,) = report.rows
    assert row.sampled == first.response_tokens + second.response_tokens
    assert row.tokens == second.prompt_tokens + second.response_tokens
    (reward,) = report.rewards
    assert (reward.value, reward.call) == (1.0, 2)
    assert says(report, "gateway, openai", "verdict: ready for training (all-good)", "1 to call 2")


def test_sync_agents_and_classes_are_agents_too() -> None:
    assert diagnose(patients.good_and_sync).code == "all-good"
    assert diagnose(patients.Classy()).code == "all-good"


def test_not_instrumented_and_past_the_gateway() -> None:
    with ScriptedModel(name="other") as other:
        report = diagnose(patients.elsewhere, {"url": other.url})
        assert len(other.requests) == 1
    assert codes(report) == ["no-calls"]
    assert not report.ok
    address = other.url.removeprefix("http://").removesuffix("/v1")
    assert says(report, "No model call was seen", f"talked to {address}.", "base_url=llm.endpoint")


def test_gateway_and_model_are_nobody_else_by_whatever_name_they_were_found() -> None:
    with ScriptedModel(name="other") as other:
        url = other.url.replace("127.0.0.1", "localhost")
        report = diagnose(patients.half_elsewhere, {"url": url})
    assert codes(report) == ["gateway-bypassed"]
    assert says(report, f"The agent talked to {url.removeprefix('http://').removesuffix('/v1')}.")


def test_a_model_may_be_used_twice() -> None:
    model = ScriptedModel()
    assert [diagnose(patients.good, model=model).code for _ in range(2)] == ["all-good"] * 2
    assert diagnose(patients.unmodelled, model=model).code == "no-calls"


def test_instrumented_but_past_the_gateway() -> None:
    with ScriptedModel(name="other") as other:
        report = diagnose(patients.elsewhere_by_sdk, {"url": other.url})
    assert codes(report) == ["gateway-bypassed"]
    assert says(report, "Call 1 went to a model elsewhere", "seen by openai")


def test_through_the_gateway_but_nobody_knows_whose() -> None:
    report = diagnose(patients.anonymous)
    assert codes(report) == ["unrecorded-calls"]
    assert says(report, "1 call reached the model", "llm.get_base_url(")


def test_a_model_that_names_no_tokens() -> None:
    report = diagnose(patients.good, model=ScriptedModel(token_ids=False))
    assert codes(report) == ["no-token-ids"]
    assert [call.has_tokens for call in report.calls] == [False, False]
    assert report.rows == []
    assert says(report, "Calls 1, 2 came back without the tokens", "return_token_ids")


def test_a_stream_that_names_no_tokens() -> None:
    report = diagnose(patients.streaming, model=ScriptedModel(stream_token_ids=False))
    assert codes(report) == ["streaming-without-ids"]
    assert [(call.streamed, call.has_tokens) for call in report.calls] == [(True, False)]
    assert says(report, "Call 1 streamed, and the stream did not name its tokens")


@pytest.mark.parametrize("agent", [patients.impatient, patients.busy], ids=["alone", "beside-others"])
def test_a_stream_that_is_broken_off(agent: Any) -> None:
    report = diagnose(agent)
    # Whether the gateway saw the end of the stream depends on who was faster.
    assert set(codes(report)) <= {"failed-calls"}
    assert [list(call.rows) for call in report.calls if call.has_tokens][-1] == [len(report.rows)]


def test_a_stream_that_names_its_tokens_is_as_good_as_any() -> None:
    report = diagnose(patients.streaming)
    assert report.code == "all-good"
    assert [(call.streamed, call.has_tokens, list(call.rows)) for call in report.calls] == [(True, True, [1])]


def test_equal_calls_have_a_row_each() -> None:
    report = diagnose(patients.repeating)
    assert report.code == "all-good"
    assert [list(call.rows) for call in report.calls] == [[1], [2]]


def test_no_reward() -> None:
    report = diagnose(patients.unrewarded)
    assert codes(report) == ["no-reward"]
    assert says(report, "The agent gave no reward", "emit_reward(value)")


def test_a_reward_before_any_call() -> None:
    report = diagnose(patients.hasty)
    assert codes(report) == ["reward-before-call"]
    assert [(reward.value, reward.call) for reward in report.rewards] == [(1.0, None)]
    assert says(report, "1 to no call", "before the first model call")


def test_more_rewards_than_calls(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", f"{PATIENTS}:generous", "--json"]) == 0
    printed = capsys.readouterr()
    report: dict[str, Any] = json.loads(printed.out)
    assert [finding["code"] for finding in report["findings"]] == ["unmatched-reward"]
    assert sorted(reward["call"] is None for reward in report["rewards"]) == [False, True]
    assert "a reward of 0.5" in printed.err


def test_what_a_child_of_the_agent_prints_is_no_part_of_the_report(capfd: pytest.CaptureFixture[str]) -> None:
    run(["doctor", f"{PATIENTS}:forking", "--json"])
    printed = capfd.readouterr()
    assert json.loads(printed.out)["agent"] == "forking"
    assert "from a child" in printed.err


def test_a_program_that_nobody_instruments() -> None:
    report = diagnose(patients.program)
    assert report.code == "all-good"
    assert [list(call.captured_by) for call in report.calls] == [["gateway"]]


def test_a_history_in_other_tokens() -> None:
    report = diagnose(patients.good, model=ScriptedModel(retokenise=True))
    assert codes(report) == ["retokenised-history"]
    assert (report.ok, report.verdict) == (True, "ready for training, with losses")
    (broken,) = report.breaks
    assert (broken.call, broken.row, broken.kind) == (2, 1, "retokenisation")
    assert broken.token == report.calls[0].prompt_tokens
    assert broken.before.endswith("<|im_start|>assistant\n")
    assert (broken.expected[0], broken.found[0]) == ("<t", "<")
    assert [list(call.rows) for call in report.calls] == [[1], [2]]
    assert says(report, "same text in other tokens", f"byte {broken.byte}", "'<t'")


def test_two_agents_of_which_one_is_trained() -> None:
    report = diagnose(patients.writer_and_critic, agent_match="^writer$")
    assert codes(report) == ["agents-left-out"]
    assert report.ok
    assert [(call.agent, call.trained, list(call.rows)) for call in report.calls] == [
        ("writer", True, [1]),
        ("critic", False, []),
    ]
    assert says(report, "Trained: writer. Left out: critic (Call 2)", "not trained")
    assert len(diagnose(patients.writer_and_critic).rows) == 2


def test_an_expression_that_finds_no_agent() -> None:
    report = diagnose(patients.writer_and_critic, agent_match="editor")
    assert report.code == "no-agent-matches"
    assert says(report, "'editor'", "there are: critic, writer")


def test_a_history_that_the_agent_edits() -> None:
    report = diagnose(patients.forgetful)
    assert codes(report) == ["history-edited"]
    (broken,) = report.breaks
    assert broken.before.endswith("assistant\nAnswer")
    assert "".join(broken.expected).startswith(" to")
    assert "".join(broken.found).startswith(" …")


def test_tool_calls_that_the_agent_writes_anew() -> None:
    report = diagnose(patients.rewriting)
    assert codes(report) == ["tool-calls-rewritten"]
    assert says(report, "json.dumps", "other JSON text")


def test_an_agent_that_raises() -> None:
    report = diagnose(patients.broken)
    assert codes(report) == ["agent-raised"]
    assert says(report, "KeyError", "patients.py:", "'no such key'", "--task")


@pytest.mark.parametrize(("how", "said"), [("sys", ": 0"), ("os", ": os._exit(0)")])
def test_an_agent_that_ends_its_process_does_not_end_the_diagnosis(how: str, said: str) -> None:
    real = os._exit
    report = diagnose(patients.leaving, how)
    assert codes(report) == ["agent-exited"]
    assert says(report, "ended its process in", "patients.py:", said)
    assert [call.has_tokens for call in report.calls] == [True]
    assert os._exit is real


def test_children_of_an_agent_end_as_they_want_to() -> None:
    with exits_raise():
        pid = os.fork()
        if not pid:
            os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def test_a_missing_resource() -> None:
    report = diagnose(patients.wanting)
    assert codes(report) == ["missing-resource"]
    assert says(report, "prompt_template", "--resources")


def test_resources_have_any_names_and_models() -> None:
    resources: agl.NamedResources = {
        "main": agl.LLM(endpoint="http://127.0.0.1:9/v1", model="mine", sampling_parameters={"temperature": 0.5}),
        "prompt_template": agl.PromptTemplate(template="x", engine="jinja"),
    }
    report = diagnose(patients.good, resources=resources)
    assert (report.code, report.calls[0].model) == ("all-good", "mine")


def test_a_model_that_the_gateway_does_not_serve() -> None:
    report = diagnose(patients.picky)
    assert codes(report) == ["failed-calls", "agent-raised"]
    assert says(report, "gpt-of-my-own", "llm.model")


def test_another_protocol() -> None:
    report = diagnose(patients.foreign)
    assert codes(report) == ["unrecorded-protocol", "agent-raised"]
    assert says(report, ":generateContent", "Chat Completions")


def test_what_else_is_asked_of_a_model_is_only_told() -> None:
    report = diagnose(patients.curious)
    assert codes(report) == ["unrecorded-requests"]
    assert report.ok
    assert says(report, "asked for /v1/embeddings, which")


def test_an_agent_that_never_ends() -> None:
    report = diagnose(patients.waiting, deadline=2.5)
    assert report.ended == "stopped"
    assert codes(report) == ["agent-hung"]
    assert [call.has_tokens for call in report.calls] == [True]
    assert says(report, "within 2.5 s", "--deadline")


def test_an_agent_that_blocks_its_event_loop() -> None:
    report = diagnose(patients.blocking, {"seconds": 6}, deadline=2.5)
    assert codes(report) == ["agent-hung"]
    assert len(report.calls) == 1


def test_spans_that_know_no_rollout() -> None:
    """In a process of its own: in this one other tests may have left traces that are open."""
    command = "import sys; from agentlightning.cli.app import run; sys.exit(run(sys.argv[1:]))"
    arguments = ["doctor", f"{PATIENTS}:astray", "--json"]
    done = subprocess.run([sys.executable, "-c", command, *arguments], stdout=subprocess.PIPE, check=False)
    report: dict[str, Any] = json.loads(done.stdout)
    assert [finding["code"] for finding in report["findings"]] == ["spans-dropped"]
    assert report["dropped_spans"] == {"lost work": 1}
    assert done.returncode == 0


def test_rewards_come_in_their_order_whoever_gets_them() -> None:
    report = diagnose(patients.generous, reward_match=RewardMatchPolicy.FINAL)
    assert [(reward.value, reward.call) for reward in report.rewards] == [(0.5, None), (1.0, 1)]


def test_live_asks_the_models_of_the_resources() -> None:
    with ScriptedModel(["really"], name="real") as real:
        resources: agl.NamedResources = {"llm": agl.LLM(endpoint=real.url, model="real")}
        report = diagnose(patients.good_and_sync, resources=resources, live=True)
        assert len(real.requests) == 1
    assert report.code == "all-good"


@pytest.mark.parametrize(
    ("agent", "retokenise", "found"),
    [(patients.good, True, "token "), (patients.forgetful, False, " …")],
    ids=["same-text", "other-text"],
)
def test_live_says_where_a_history_changed_as_far_as_it_knows(agent: Any, retokenise: bool, found: str) -> None:
    with ScriptedModel(name="real", retokenise=retokenise) as real:
        resources: agl.NamedResources = {"llm": agl.LLM(endpoint=real.url, model="real")}
        (broken,) = diagnose(agent, resources=resources, live=True).breaks
    assert broken.byte is None
    assert found in "".join(broken.found)


def test_models_of_one_name_at_two_addresses_are_refused() -> None:
    resources: agl.NamedResources = {
        "a": agl.LLM(endpoint="http://127.0.0.1:8/v1", model="same"),
        "b": agl.LLM(endpoint="http://127.0.0.1:9/v1", model="same"),
    }
    with pytest.raises(ConfigurationError, match="'same' at different endpoints"):
        diagnose(patients.good, resources=resources, live=True)


def test_an_expression_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no regular expression"):
        diagnose(patients.good, agent_match="(")


def test_live_needs_a_model() -> None:
    with pytest.raises(ConfigurationError, match="give resources with an LLM"):
        diagnose(patients.good, live=True)


def test_the_command_prints_the_report_and_exits_by_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", f"{PATIENTS}:good"]) == 0
    assert "verdict: ready for training (all-good)" in capsys.readouterr().out
    assert run(["doctor", f"{PATIENTS}:unrewarded"]) == 1
    assert "error: no-reward" in capsys.readouterr().out


def test_the_command_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task, resources = tmp_path / "task.json", tmp_path / "resources.json"
    task.write_text('{"url": "http://127.0.0.1:9/v1"}')
    resources.write_text('{"main": {"resource_type": "llm", "endpoint": "http://127.0.0.1:9/v1", "model": "mine"}}')
    options = ["--task", str(task), "--resources", str(resources), "--reward-match", "final", "--json"]
    assert run(["doctor", f"{PATIENTS}:good", *options]) == 0
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (printed["code"], printed["ok"]) == ("all-good", True)
    assert [call["model"] for call in printed["calls"]] == ["mine", "mine"]
    assert printed["rewards"][0]["rule"] == "final"


def test_the_command_lets_the_model_say_what_a_file_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replies = tmp_path / "replies.json"
    call = {"name": "lookup", "arguments": {"key": "a longer key than the usual one"}}
    replies.write_text(json.dumps([{"tool_calls": [call, call]}, "the end"]))
    assert run(["doctor", f"{PATIENTS}:good", "--replies", str(replies), "--json"]) == 0
    first = json.loads(capsys.readouterr().out)["calls"][0]
    assert first["response_tokens"] > diagnose(patients.good).calls[0].response_tokens


def test_the_command_knows_every_policy() -> None:
    assert list(get_args(RewardMatch)) == [policy.value for policy in RewardMatchPolicy]


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("no_colon", "package.module:name"),
        ("no_such_module_here:agent", "there is no module 'no_such_module_here'"),
        ("no/such/file.py:agent", "there is no Python file"),
        (f"{PATIENTS}:nobody", "has no 'nobody'; it has good, "),
        (f"{PATIENTS}:not_an_agent", "is no agent but a str"),
        (".patients:good", "package.module:name"),
        (f"{PATIENTS}:Demanding", "Demanding() raised TypeError"),
        (f"{PATIENTS}:Team.play", "give the runner the one of an instance"),
    ],
    ids=["no-colon", "no-module", "no-file", "no-name", "no-agent", "relative", "no-argument", "no-instance"],
)
def test_what_is_no_agent_is_refused(target: str, words: str) -> None:
    with pytest.raises((ConfigurationError, InvalidAgent)) as error:
        load_agent(target)
    assert words in str(error.value)


@pytest.mark.parametrize("as_file", [True, False], ids=["file", "module"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import json\njson.loads('{')", "importing {name} raised JSONDecodeError in {path}:2: "),
        ("x = 1\nx = = 2", "importing {name} raised SyntaxError in {path}:2: "),
        ("import sys\nsys.exit(0)", "importing {name} raised SystemExit in {path}:2: 0"),
        ("import no_such_module_here", "importing {name} raised ModuleNotFoundError in {path}:1: "),
        ("from . import tools", "it belongs to a package, so name it package.module:name"),
    ],
    ids=["error", "syntax", "exit", "module", "relative"],
)
def test_a_module_that_cannot_be_imported_is_told_of_in_one_line(
    text: str, words: str, as_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    path = tmp_path / "broken_agent_module.py"
    path.write_text(text)
    monkeypatch.chdir(tmp_path)
    name = str(path) if as_file else path.stem
    assert run(["doctor", f"{name}:agent"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert words.format(name=name, path=path) in line
    assert path.stem not in sys.modules


@pytest.mark.parametrize("as_file", [True, False], ids=["file", "module"])
def test_agents_import_their_neighbours_also_when_they_run(
    as_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "neighbour_of_agent.py").write_text("REWARD = 0.5")
    text = """
import os
import agentlightning as agl
os.chdir("/")
@agl.rollout
def agent(task, llm=None):
    from neighbour_of_agent import REWARD
    return REWARD
"""
    (tmp_path / "importing_agent.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    agent = load_agent("importing_agent.py:agent" if as_file else "importing_agent:agent")
    del sys.modules["importing_agent"]
    assert agent.rollout("task", {}, ROLLOUT) == 0.5
    del sys.modules["neighbour_of_agent"]


def test_a_file_that_hides_another_module_is_refused(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("")
    with pytest.raises(ConfigurationError, match="has the name of another module"):
        load_agent(f"{tmp_path}/json.py:agent")
    assert json.loads("1") == 1


def test_an_agent_of_a_module_is_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PATIENTS.parent)
    assert load_agent("patients:good") is patients.good


@pytest.mark.parametrize("option", ["--task", "--resources", "--replies"])
def test_files_that_cannot_be_read_are_named(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file.json"
    path.write_text("[]" if option == "--replies" else "{not json")
    assert run(["doctor", f"{PATIENTS}:good", option, str(path)]) == 1
    assert str(path) in capsys.readouterr().err
