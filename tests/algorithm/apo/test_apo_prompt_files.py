from __future__ import annotations

from pathlib import Path

import pytest
from prompt_landscape import Optimiser, train

import agentlightning as agl
from agentlightning.algorithm.apo.prompt_files import Purpose, read_prompt_files
from agentlightning.errors import ConfigurationError

CRITIQUE = (
    "My critic.\n<prompt>\n{{ prompt_template }}\n</prompt>\n{% for run in experiments %}{{ run.task }}{% endfor %}"
)
EDIT = "My editor.\n<prompt>\n{{ prompt_template }}\n</prompt>\n{{ critique }}"


@pytest.mark.parametrize(("purpose", "count"), [("critique", 3), ("edit", 2)])
def test_ours_are_filled_with_what_is_given(purpose: Purpose, count: int) -> None:
    files = read_prompt_files(purpose, None)
    assert len(files) == count
    run = {
        "status": "failed",
        "final_reward": 0.5,
        "task": "T-1",
        "error": "E-1",
        "transcript": "said",
        "spans": "seen",
    }
    values = {"prompt_template": "Do {task}.", "placeholders": "{task}", "braces": "", "critique": "C-1"}
    for file in files:
        content = file.ask(values | ({"experiments": [run, run]} if purpose == "critique" else {}))["content"]
        assert "<prompt>\nDo {task}.\n</prompt>" in content
        assert "{task}" in content.replace("Do {task}.", "")
        if purpose == "critique":
            assert content.count("T-1") == content.count('reward="0.5"') == 2
            assert content.count("said") + content.count("seen") >= 2
        else:
            assert "C-1" in content


def test_a_folder_of_text_files_takes_the_place_of_ours(tmp_path: Path) -> None:
    for name, text in (("b.txt", CRITIQUE), ("a.txt", CRITIQUE), ("notes.md", "not a prompt")):
        (tmp_path / name).write_text(text)
    assert [file.name for file in read_prompt_files("critique", tmp_path)] == ["a.txt", "b.txt"]
    (tmp_path / "edit.txt").write_text(EDIT)
    optimiser = Optimiser()
    train(
        optimiser,
        [],
        beam_rounds=1,
        gradient_prompt_files=[tmp_path / "a.txt"],
        apply_edit_prompt_files=[tmp_path / "edit.txt"],
    )
    assert {"My critic" in said or "My editor" in said for said in optimiser.asked} == {True}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.poml", "<poml/>", "POML, which is not read"),
        ("a.txt", "Criticise {{ prompt_template }}.", r"says nothing of \['experiments'\]"),
        ("a.txt", CRITIQUE + "{{ weather }}", r"asks for \['weather'\]"),
        ("a.txt", "{% for %}", "TemplateSyntaxError"),
        ("missing.txt", None, "cannot be read"),
    ],
    ids=["poml", "lacks", "unknown", "malformed", "missing"],
)
def test_what_cannot_be_used_is_said_before_the_run(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        agl.APO(Optimiser(), gradient_prompt_files=[tmp_path / name])


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="holds no prompt that asks"):
        agl.APO(Optimiser(), apply_edit_prompt_files=tmp_path)
