"""Whatever users can call is mentioned on a page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import agentlightning as agl
from agentlightning._internal.lazy import names_for_type_checkers
from agentlightning.cli.app import app
from agentlightning.types.lifecycle import ATTEMPT_EVENTS, ATTEMPT_STATUSES, ROLLOUT_EVENTS, ROLLOUT_STATUSES

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def prose() -> str:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return "\n".join(page.read_text("utf-8") for page in pages)


def unmentioned(names: list[str], prose: str) -> list[str]:
    return [name for name in names if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", prose)]


def named(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield name, command
    for below, inner in getattr(command, "commands", {}).items():
        yield from named(f"{name} {below}", inner)


def test_every_public_name_is_on_a_page(prose: str) -> None:
    assert unmentioned(sorted(names_for_type_checkers(Path(agl.__file__))), prose) == []


def test_every_command_and_option_is_on_a_page(prose: str) -> None:
    commands = dict(named("agl", typer.main.get_command(app)))
    shown = [param for command in commands.values() for param in command.params if not getattr(param, "hidden", False)]
    options = [option for param in shown for option in param.opts]
    assert unmentioned([*commands, *options], prose) == []


def test_every_status_and_event_is_on_the_lifecycle_page() -> None:
    page = (ROOT / "docs" / "lifecycle.md").read_text("utf-8")
    names = {*ROLLOUT_STATUSES, *ROLLOUT_EVENTS, *ATTEMPT_STATUSES, *ATTEMPT_EVENTS}
    assert unmentioned(sorted(names), page) == []


def test_every_page_is_in_the_index() -> None:
    for index in (ROOT / "docs" / "README.md", ROOT / "docs" / "decisions" / "README.md"):
        text = index.read_text("utf-8")
        pages = sorted(page.name for page in index.parent.glob("*.md") if page != index)
        assert [page for page in pages if f"({page})" not in text] == []
