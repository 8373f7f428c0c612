from __future__ import annotations

from typing import Any

import pytest

import agentlightning as agl
from agentlightning.algorithm.prompt_search import complaint, placeholders, written
from agentlightning.errors import InvalidPrompt


def prompt(text: str, engine: Any = "f-string") -> agl.PromptTemplate:
    return agl.PromptTemplate(template=text, engine=engine)


@pytest.mark.parametrize(
    ("text", "engine", "names"),
    [
        ("{task} and {task}", "f-string", {"task"}),
        ("{task.question!r:>{width}}", "f-string", {"task.question!r:>{width}"}),
        ('{{"json": {task}}}', "f-string", {"task"}),
        ("no names", "f-string", set()),
        ("{% for each in tasks %}{{ each.text }}{% endfor %}", "jinja", {"tasks"}),
        ('{"json": {{ task }}}', "jinja", {"task"}),
        ("{{ task.question | upper }} {{ 3 }}", "jinja", {"task.question"}),
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


@pytest.mark.parametrize(
    ("text", "engine", "fills"),
    [
        ("Do {task}.", "f-string", True),
        ("{{ task }}", "jinja", True),
        ("{{ task | upper }}", "jinja", True),
        ("Do {task:d}.", "f-string", False),
        ("Do {task:nice}.", "f-string", False),
        ("Do {task!z}.", "f-string", False),
        ("Do {task.name}.", "f-string", False),
        ("Do {task:{task}}.", "f-string", False),
        ("{{ task.x.y }}", "jinja", False),
        ("{{ task | nice }}", "jinja", False),
        ("{{ task }}{% include 'other' %}", "jinja", False),
    ],
)
def test_a_prompt_has_no_complaint_just_if_it_can_be_filled(text: str, engine: str, fills: bool) -> None:
    each = prompt(text, engine)
    assert (complaint(each, frozenset({"task"})) is None) is fills
    if fills:
        assert "TEXT" in each.format(task="TEXT")
    else:
        with pytest.raises(InvalidPrompt):
            each.format(task="TEXT")


def test_names_are_written_as_they_stand_in_a_prompt() -> None:
    assert written(frozenset({"b", "a"}), prompt("", "jinja")) == "{{ a }}, {{ b }}"
