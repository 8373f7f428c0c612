from __future__ import annotations

from typing import Any

import pytest

import agentlightning as agl
from agentlightning.algorithm.prompt_search import complaint, placeholders, written


def prompt(text: str, engine: Any = "f-string") -> agl.PromptTemplate:
    return agl.PromptTemplate(template=text, engine=engine)


@pytest.mark.parametrize(
    ("text", "engine", "names"),
    [
        ("{task} and {task}", "f-string", {"task"}),
        ("{task.question!r:>{width}}", "f-string", {"task.question", "width"}),
        ('{{"json": {task}}}', "f-string", {"task"}),
        ("no names", "f-string", set()),
        ("{% for each in tasks %}{{ each.text }}{% endfor %}", "jinja", {"tasks"}),
        ('{"json": {{ task }}}', "jinja", {"task"}),
        ("<poml>{{ task }}</poml>", "poml", set()),
    ],
)
def test_names_that_a_prompt_is_filled_with(text: str, engine: str, names: set[str]) -> None:
    assert placeholders(prompt(text, engine)) == names


@pytest.mark.parametrize(
    ("text", "engine", "said"),
    [
        ("Do {task}.", "f-string", None),
        ("{task}{task}", "f-string", None),
        ("{{ task }}", "jinja", None),
        ("Do it.", "f-string", "it lost {task}"),
        ("Do {task} in {style}.", "f-string", "nobody fills {style}, which it invented"),
        ("Do {style}.", "f-string", "it lost {task}; nobody fills {style}, which it invented"),
        ('{"json": {task}}', "f-string", "which it invented; write braces that shall stay as {{ and }}"),
        ("Do {task", "f-string", "expected '}' before end of string"),
        ("{task} {}", "f-string", "nobody fills {}, which it invented"),
        ("{{ task", "jinja", "TemplateSyntaxError"),
        ("Do {task}.", "jinja", "it lost {{ task }}"),
        (" \n", "f-string", "it is empty"),
    ],
)
def test_what_is_wrong_with_a_prompt_is_said(text: str, engine: str, said: str | None) -> None:
    found = complaint(prompt(text, engine), frozenset({"task"}))
    assert found == said if said is None or found is None else said in found


def test_every_prompt_without_a_complaint_can_be_filled() -> None:
    for each in (prompt("Do {task}."), prompt("{{ task }}", "jinja")):
        assert complaint(each, frozenset({"task"})) is None
        assert "42" in each.format(task=42)
    assert written(frozenset({"b", "a"}), prompt("", "jinja")) == "{{ a }}, {{ b }}"
