"""Every Python block of README and docs runs, in the order of the page and in one namespace per page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")


def relative(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "docs"}
    for block in BLOCK.finditer(page.read_text("utf-8")):
        line = page.read_text("utf-8")[: block.start()].count("\n") + 1
        exec(compile("\n" * line + block.group(1), str(page), "exec"), namespace)


def test_each_kind_of_training_takes_at_most_25_lines() -> None:
    blocks = [block.group(1).splitlines() for block in BLOCK.finditer((ROOT / "README.md").read_text("utf-8"))]
    weights, prompt = blocks[0] + blocks[1], blocks[2]
    assert "agl.GRPO" in "".join(weights)
    assert "agl.APO" in "".join(prompt)
    assert max(len(weights), len(prompt)) <= 25


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=relative)
def test_links_lead_somewhere(page: Path) -> None:
    targets = [page.parent / target for target in LINK.findall(page.read_text("utf-8"))]
    assert [str(target) for target in targets if not target.exists()] == []
