"""Ctrl+C at any moment of the demo: exit 130, and everything finished is kept."""

from __future__ import annotations

import asyncio
import os
import pty
import threading
import time
from pathlib import Path

import pytest
from demo_process import DemoProcess, assert_store_is_whole

import agentlightning as agl


def steps(demo: DemoProcess) -> int:
    return sum(record["kind"] == "step" for record in demo.records)


def succeeded(output: Path) -> int:
    async def count() -> int:
        store = agl.SqliteLightningStore(output / "store.db")
        try:
            return len(await store.query_rollouts(status_in=["succeeded"]))
        finally:
            await store.close()

    return asyncio.run(count())


def test_while_libraries_are_imported(tmp_path: Path) -> None:
    with DemoProcess(tmp_path, python=("-X", "importtime")) as demo:
        demo.wait_until(lambda: "torch." in demo.log, "import of torch")
        demo.interrupt()
        demo.exit_seconds()
        demo.assert_nothing_runs_or_lies_about()
        assert not demo.output.exists()


def test_while_the_policy_is_loaded(tmp_path: Path) -> None:
    with DemoProcess(tmp_path) as demo:
        demo.wait_until(demo.output.exists, "folder of the run")
        demo.interrupt()
        demo.exit_seconds()
        demo.assert_nothing_runs_or_lies_about()
        assert "Traceback" not in demo.log


def test_in_the_midst_of_training(tmp_path: Path) -> None:
    with DemoProcess(tmp_path) as demo:
        demo.wait_until(lambda: steps(demo) >= 2, "two steps")
        demo.interrupt()
        demo.exit_seconds()
        demo.assert_nothing_runs_or_lies_about()
        reported = sum(record["rollouts"] - record["failed"] for record in demo.records)
        assert assert_store_is_whole(demo.output) >= reported
        assert not list(demo.output.glob("store.db-*")), "whoever copies store.db has everything"
        assert (demo.output / "checkpoint" / "model.safetensors").exists()
        assert "Interrupted. Kept in" in demo.log
        assert "Traceback" not in demo.log


@pytest.mark.parametrize(
    "pause",
    [
        pytest.param(0.01, id="at_once"),
        pytest.param(0.2, id="while_it_cleans_up", marks=pytest.mark.soak),
        pytest.param(1.0, id="while_python_ends", marks=pytest.mark.soak),
    ],
)
def test_twice_in_a_row(tmp_path: Path, pause: float) -> None:
    with DemoProcess(tmp_path) as demo:
        demo.wait_until((demo.output / "metrics.jsonl").exists, "evaluation")
        demo.wait_until(lambda: succeeded(demo.output) >= 20, "rollouts")
        demo.interrupt()
        time.sleep(pause)  # the user's, between two key presses
        demo.interrupt()
        demo.exit_seconds()
        demo.assert_nothing_runs_or_lies_about()
        assert assert_store_is_whole(demo.output) >= 20
        assert "Traceback" not in demo.log


def test_on_a_terminal_while_the_untrained_policy_is_evaluated(tmp_path: Path) -> None:
    terminal, side_of_the_demo = pty.openpty()
    screen: list[bytes] = []
    with DemoProcess(tmp_path, stdout=side_of_the_demo) as demo:
        os.close(side_of_the_demo)
        reader = threading.Thread(target=read_all, args=(terminal, screen), daemon=True)
        reader.start()
        demo.wait_until((demo.output / "metrics.jsonl").exists, "evaluation")
        demo.wait_until(lambda: succeeded(demo.output) >= 20, "rollouts")
        demo.interrupt()
        demo.exit_seconds()
        reader.join(10)
    os.close(terminal)
    demo.assert_nothing_runs_or_lies_about()
    assert assert_store_is_whole(demo.output) >= 20
    shown = b"".join(screen).decode(errors="replace")
    assert "training" in shown
    assert "Interrupted. Kept in" in shown
    assert "Traceback" not in shown
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l"), "the cursor is shown again"


def read_all(terminal: int, screen: list[bytes]) -> None:
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # how Linux says that the other side is closed
            return
        if not data:
            return
        screen.append(data)
