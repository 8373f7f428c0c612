"""The processes of a program under test: found by a mark in their environment, which they all inherit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

DEADLINE = 60.0
"""For anything to happen, on a machine that does much else."""


class MarkedProgram:
    """A Python program in a process group of its own, whose processes can be counted.

    Args:
        folder: Where its output goes.
        arguments: Of the interpreter.
        environment: More variables.
    """

    def __init__(self, folder: Path, *arguments: str, environment: dict[str, str] | None = None) -> None:
        self._mark = f"AGL_TEST_MARK={uuid.uuid4().hex}"
        self._log = folder / f"log-{self._mark[-6:]}"
        name, value = self._mark.split("=")
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                stdout=log,
                stderr=log,
                env={**os.environ, **(environment or {}), name: value},
                start_new_session=True,
            )

    def __enter__(self) -> MarkedProgram:
        return self

    def __exit__(self, *error: object) -> None:
        for number in [self.process.pid, *self.living()]:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self.process.wait()

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def living(self) -> list[int]:
        """Return the numbers of its processes."""
        return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/environ") if self._is_marked(path)]

    def wait_until(self, condition: Callable[[], object], what: str) -> None:
        end = time.monotonic() + DEADLINE
        while not condition():
            if self.process.poll() is not None or time.monotonic() > end:
                pytest.fail(f"no {what}; exit code {self.process.poll()}, output:\n{self.log[-4000:]}")
            time.sleep(0.01)

    def signal(self, number: int) -> None:
        """Signal the program's process group, as a terminal does."""
        os.killpg(self.process.pid, number)

    def exit_code(self) -> int:
        try:
            return self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it does not end; output:\n{self.log[-4000:]}")

    def assert_nothing_is_left(self) -> None:
        end = time.monotonic() + DEADLINE
        while left := self.living():
            if time.monotonic() > end:
                pytest.fail(f"processes {left} are left; output:\n{self.log[-4000:]}")
            time.sleep(0.01)

    def _is_marked(self, path: Path) -> bool:
        with suppress(OSError):  # it has just ended
            return self._mark.encode() in path.read_bytes()
        return False
