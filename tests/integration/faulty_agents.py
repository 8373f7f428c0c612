"""Agents that do what agents should not do; each does a task that is not about that at once."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import agentlightning as agl

WELL = "well"
LONG = 1000.0
FLOOD_BYTES = 5_000_000


def note_process(path: str, process: int | None = None) -> None:
    """Write a process's number where the test looks for it, whole or not at all."""
    unfinished = Path(f"{path}.unfinished")
    unfinished.write_text(str(process or os.getpid()))
    unfinished.rename(path)


def sync_agent(misbehave: Callable[[str], Any]) -> agl.LitAgent[Any]:
    def agent(task: str) -> float:
        if task != WELL:
            agl.emit_message("before")
            misbehave(task)
        return 1.0

    return agl.rollout(agent)


def async_agent(misbehave: Callable[[str], Any]) -> agl.LitAgent[Any]:
    async def agent(task: str) -> float:
        if task != WELL:
            agl.emit_message("before")
            await misbehave(task)
        return 1.0

    return agl.rollout(agent)


def raises(task: str) -> None:
    raise LookupError("no such thing")


def hangs(task: str) -> None:
    note_process(task)
    time.sleep(LONG)


async def hangs_async(task: str) -> None:
    note_process(task)
    await asyncio.sleep(LONG)


async def ignores_cancellation(task: str) -> None:
    note_process(task)
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(LONG)


def ignores_signals(task: str) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    hangs(task)


def exits(task: str) -> None:
    os._exit(3)


def calls_sys_exit(task: str) -> None:
    sys.exit(4)


class OwnExit(BaseException):
    """What a framework ends a program with."""


def raises_own_exit(task: str) -> None:
    raise OwnExit("enough")


async def raises_own_exit_async(task: str) -> None:
    raise OwnExit("enough")


def interrupts_itself(task: str) -> None:
    raise KeyboardInterrupt


def raises_generator_exit(task: str) -> None:
    raise GeneratorExit("over")


async def raises_generator_exit_async(task: str) -> None:
    raise GeneratorExit("over")


def crashes(task: str) -> None:
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(LONG)


def floods_stdout(task: str) -> None:
    for stream in (sys.stdout, sys.stderr):
        for _ in range(FLOOD_BYTES // 10_000):
            stream.write("x" * 9_999 + "\n")


def leaks_a_program(task: str) -> None:
    """Leave a program behind that holds this process's output open."""
    note_process(task, subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({LONG})"]).pid)


def leaks_a_fork(task: str) -> None:
    """Leave a process behind that holds everything open that this one has."""
    leaked = multiprocessing.get_context("fork").Process(target=time.sleep, args=(LONG,))
    leaked.start()
    note_process(task, leaked.pid)


def leaks_a_program_and_hangs(task: str) -> None:
    leaks_a_program(task)
    time.sleep(LONG)


def leaks_a_program_and_exits(task: str) -> None:
    leaks_a_program(task)
    os._exit(5)
