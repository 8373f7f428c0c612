from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentlightning.errors import MissingResource
from agentlightning.litagent.calling import resolve_proxies
from agentlightning.litagent.command.environment import environment
from agentlightning.types import LLM, Attempt, AttemptedRollout, NamedResources, PromptTemplate, ProxyLLM, RolloutMode

PROXY = ProxyLLM(endpoint="http://gateway:1/v1", model="m", api_key="k", sampling_parameters={"temperature": 1.0})
TASK = {"question": "wo? 🙂", "tags": [1, None]}


def attempted(mode: RolloutMode | None = "train") -> AttemptedRollout:
    attempt = Attempt(rollout_id="ro-1", attempt_id="at-1", sequence_id=1, start_time=0.0)
    return AttemptedRollout(rollout_id="ro-1", input=TASK, mode=mode, start_time=0.0, attempt=attempt)


def variables(files: Path, resources: NamedResources, mode: RolloutMode | None = "train") -> dict[str, str]:
    rollout = attempted(mode)
    return environment(files, TASK, resolve_proxies(resources, rollout), rollout)


def test_the_model_is_where_its_clients_look_for_it(tmp_path: Path) -> None:
    found = variables(tmp_path, {"main": PROXY})
    attempt = "rollout/ro-1/attempt/at-1"
    expected = {
        "OPENAI_BASE_URL": f"http://gateway:1/{attempt}/v1",
        "OPENAI_API_KEY": "k",
        "OPENAI_MODEL": "m",
        "ANTHROPIC_BASE_URL": f"http://gateway:1/{attempt}",
        "ANTHROPIC_API_KEY": "k",
        "ANTHROPIC_MODEL": "m",
        "AGL_OPENAI_BASE_URL": f"http://gateway:1/proxy/{attempt}/mode/train/openai/v1",
        "AGL_EVENT_URL": "http://gateway:1/api/rollouts/ro-1/attempt/at-1/events",
        "AGL_KEY": "k",
        "AGL_MODEL": "m",
        "AGL_SAMPLING_PARAMETERS": '{"temperature": 1.0}',
        "AGL_ROLLOUT_ID": "ro-1",
        "AGL_ATTEMPT_ID": "at-1",
        "AGL_MODE": "train",
    }
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(("mode", "said"), [("train", "train"), ("val", "val"), ("test", "val"), (None, "val")])
def test_v1_programs_know_two_modes(tmp_path: Path, mode: Any, said: str) -> None:
    found = variables(tmp_path, {"main": PROXY}, mode)
    assert f"/mode/{said}/" in found["AGL_OPENAI_BASE_URL"]
    assert found["AGL_MODE"] == (mode or "val")


def test_a_model_without_the_gateway_takes_no_events(tmp_path: Path) -> None:
    found = variables(tmp_path, {"main": LLM(endpoint="http://h/v1/", model="m")})
    assert (found["OPENAI_BASE_URL"], found["AGL_OPENAI_BASE_URL"]) == ("http://h/v1", "http://h/v1")
    assert found["OPENAI_API_KEY"] == "unused"
    assert "AGL_EVENT_URL" not in found


def test_task_and_prompt_are_in_files(tmp_path: Path) -> None:
    found = variables(tmp_path, {"prompt": PromptTemplate(template="Sei {x}!\n", engine="f-string")})
    assert json.loads(Path(found["AGL_TASK_FILE"]).read_text("utf-8")) == TASK
    assert Path(found["AGL_PROMPT_FILE"]).read_text("utf-8") == "Sei {x}!\n"
    assert not Path(found["AGL_RESULT_FILE"]).exists()


def test_the_secret_of_the_store_stays_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGL_TOKEN", "secret")
    monkeypatch.setenv("OTHER", "ä")
    found = variables(tmp_path, {})
    assert "AGL_TOKEN" not in found
    assert found["OTHER"] == "ä"


def test_several_models_need_one_called_llm(tmp_path: Path) -> None:
    other = LLM(endpoint="http://other/v1", model="other")
    assert variables(tmp_path, {"judge": other, "llm": PROXY})["OPENAI_MODEL"] == "m"
    with pytest.raises(MissingResource, match=r"\['judge', 'policy'\].*name one of them 'llm'"):
        variables(tmp_path, {"judge": other, "policy": PROXY})
