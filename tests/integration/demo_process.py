"""`agl demo` as a user starts it, and what it leaves behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import agentlightning as agl

START = "import sys; from agentlightning.cli import main; sys.exit(main())"
DEADLINE = 90.0
"""For anything to happen, on a machine that does much else."""


class DemoProcess:
    """The demo in a process group and with a folder for temporary files of its own.

    Args:
        folder: Where everything goes.
        stdout: A file descriptor for its output; a file in `folder` by default.
        python: More options of the interpreter.
    """

    def __init__(self, folder: Path, stdout: int | None = None, python: tuple[str, ...] = ()) -> None:
        self.output = folder / "run"
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *python, "-c", START, "demo", "--output", str(self.output)],
                stdout=log if stdout is None else stdout,
                stderr=log if stdout is None else stdout,
                env={**os.environ, "TMPDIR": str(self.temporary), "TERM": "xterm"},
                start_new_session=True,
            )

    def __enter__(self) -> DemoProcess:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def records(self) -> list[dict[str, Any]]:
        path = self.output / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def wait_until(self, condition: Callable[[], object], what: str) -> None:
        end = time.monotonic() + DEADLINE
        while not condition():
            if self.process.poll() is not None or time.monotonic() > end:
                pytest.fail(f"no {what}; exit code {self.process.poll()}, output:\n{self.log[-2000:]}")
            time.sleep(0.01)

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def exit_seconds(self) -> float:
        """Wait for the end after an interrupt; returns the seconds it took, which are also printed."""
        started = time.monotonic()
        assert self.process.wait(DEADLINE) == 130, self.log[-2000:]
        seconds = time.monotonic() - started
        print(f"exit 130 after {seconds:.2f} s")  # noqa: T201  # a figure to look at, not to assert
        return seconds

    def assert_nothing_runs_or_lies_about(self) -> None:
        with pytest.raises(ProcessLookupError):
            os.killpg(self.process.pid, 0)
        assert list(self.temporary.glob("agentlightning*")) == []


def assert_store_is_whole(output: Path) -> int:
    """Check what every interrupted run must have kept; returns how many rollouts had succeeded."""
    return asyncio.run(_count_checked(output))


async def _count_checked(output: Path) -> int:
    store = agl.SqliteLightningStore(output / "store.db")
    try:
        rollouts = list(await store.query_rollouts())
        assert not [rollout for rollout in rollouts if rollout.status in ("preparing", "running")]
        succeeded = [rollout for rollout in rollouts if rollout.status == "succeeded"]
        for rollout in succeeded:
            spans = list(await store.query_spans(rollout.rollout_id))
            assert agl.find_final_reward(spans) is not None
            assert [span for span in spans if span.name == "agentlightning.llm_call"]
        return len(succeeded)
    finally:
        await store.close()
