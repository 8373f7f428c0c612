"""The main job, whole: what `agl demo` promises, for three seeds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.soak
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_demo_learns_on_held_out_names(seed: int, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; from agentlightning.cli import main; sys.exit(main())"]
    subprocess.run([*command, "demo", "--seed", str(seed), "--output", str(tmp_path)], check=True, timeout=900)

    summary = json.loads((tmp_path / "summary.json").read_text())
    before, after = summary["before"]["success"], summary["after"]["success"]
    assert 0.15 <= before <= 0.35
    assert after >= max(0.75, before + 0.45)
    assert summary["verdict"] == "better"
    assert summary["difference"]["low"] > 0
    left = {path.name for path in tmp_path.iterdir()}
    assert left >= {"store.db", "checkpoint", "metrics.jsonl", "summary.json", "reward.png"}
