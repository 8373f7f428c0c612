"""Examples as modules and as processes."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType

import pytest

from agentlightning.doctor.scripted_model import ScriptedModel

EXAMPLES = Path(__file__).parents[2] / "examples"
DEADLINE = 60.0


def load(name: str) -> ModuleType:
    """Import the main program of an example."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / name / "main.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def environment(model: ScriptedModel) -> dict[str, str]:
    """Return what examples read of a model server."""
    return {"OPENAI_BASE_URL": model.url, "OPENAI_MODEL": model.name, "OPENAI_API_KEY": "unused"}


def set_environment(monkeypatch: pytest.MonkeyPatch, model: ScriptedModel) -> None:
    """Set the same for this process."""
    for name, value in environment(model).items():
        monkeypatch.setenv(name, value)


@asynccontextmanager
async def running(*command: str | Path, **variables: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a program in the background; it does not survive the block."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@asynccontextmanager
async def running_python(*arguments: str | Path, **variables: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a Python program."""
    async with running(sys.executable, *arguments, **variables) as process:
        yield process


async def outcome(process: asyncio.subprocess.Process) -> tuple[int | None, list[str], str]:
    """Wait for a program; returns its exit code, the lines of its output, and what it said on stderr."""
    async with asyncio.timeout(DEADLINE):
        out, err = await process.communicate()
    return process.returncode, out.decode().splitlines(), err.decode()


async def accepting(port: int) -> None:
    """Return once something listens on a port of this machine."""
    async with asyncio.timeout(DEADLINE):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                await writer.wait_closed()
                return
