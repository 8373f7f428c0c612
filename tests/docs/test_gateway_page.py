"""The page on the gateway shows the matrix that is tested."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_matrix_is_the_tested_one() -> None:
    table = runpy.run_path(str(ROOT / "tests/llm_proxy/protocol_matrix.py"))["table"]()
    page = (ROOT / "docs/gateway.md").read_text("utf-8")
    shown = page.split("protocol_matrix.py -->\n")[1].split("<!-- end of matrix -->")[0]
    assert shown == table, f"put this into docs/gateway.md and review the diff:\n{table}"
