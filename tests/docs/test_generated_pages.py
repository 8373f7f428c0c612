"""The generated pages are what their generators write now."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
GENERATORS = sorted(DOCS.glob("generate_*.py"))


@pytest.mark.parametrize("generator", GENERATORS, ids=lambda path: path.stem)
def test_page_is_up_to_date(generator: Path) -> None:
    page = DOCS / f"{generator.stem.removeprefix('generate_')}.md"
    command = f"python docs/{generator.name} > docs/{page.name}"
    assert page.read_text("utf-8") == runpy.run_path(str(generator))["page"](), f"run `{command}` and review the diff"


def test_there_are_generated_pages() -> None:
    assert {path.stem for path in GENERATORS} >= {"generate_lifecycle", "generate_reference"}
