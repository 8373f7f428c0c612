"""A command that serves, as a user starts and stops it."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.cli.forked import call_agl

DEADLINE = 60
COMMAND = (sys.executable, "-c", "import sys; from agentlightning.cli import main; sys.exit(main())")
LAST_LINE = b"Ctrl+C stops it.\n"


@asynccontextmanager
async def served(*arguments: str, folder: Path, **environment: str) -> AsyncIterator[tuple[Process, str]]:
    """Start a command; yields it with what it said by the time it serves. Its errors go to `stderr` in the folder."""
    with (folder / "stderr").open("w") as errors:
        process = await asyncio.create_subprocess_exec(
            *COMMAND, *arguments, cwd=folder, env=os.environ | environment, stdout=PIPE, stderr=errors
        )
    try:
        assert process.stdout
        async with asyncio.timeout(DEADLINE):
            said = await process.stdout.readuntil(LAST_LINE)
        yield process, said.decode()
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def finished(*arguments: str, folder: Path) -> tuple[int, str, str]:
    """Run a command to its end; returns its exit code and what it wrote to stdout and stderr."""
    done = await asyncio.to_thread(call_agl, *arguments, folder=folder)
    return done.returncode, done.stdout, done.stderr


async def ended(process: Process) -> int:
    async with asyncio.timeout(DEADLINE):
        return await process.wait()
