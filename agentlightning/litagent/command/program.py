"""A program in a process group of its own, which is killed whole whatever happens."""

from __future__ import annotations

import asyncio
import errno
import os
import shlex
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, cast
from weakref import WeakKeyDictionary

from agentlightning.errors import CommandFailed
from agentlightning.litagent.command.environment import TASK_FILE
from agentlightning.litagent.command.output import KeptOutput
from agentlightning.litagent.command.reward import RewardLines
from agentlightning.processes.guard import Guard

_DRAIN_SECONDS: Final = 1.0
"""For what is left in the pipes of a program that ended; one that left its group may hold them open for ever."""
_NAME_LENGTH: Final = 200
_STARTING: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock]] = WeakKeyDictionary()


class Program(asyncio.SubprocessProtocol):
    """Runs a command once, and keeps what it writes; reading never waits for anybody, so a flood never blocks it.

    Args:
        command: The program and its arguments.
        output_limit: How many bytes to keep of stdout, and of stderr.

    Attributes:
        stdout: What it wrote there.
        stderr: Likewise.
        reward: What it wrote to stdout, searched for its reward.
    """

    def __init__(self, command: Sequence[str], output_limit: int) -> None:
        self.stdout = KeptOutput(output_limit)
        self.stderr = KeptOutput(output_limit)
        self.reward = RewardLines()
        self._command = command
        self._transport: asyncio.SubprocessTransport | None = None
        self._guard: Guard | None = None
        self._starting: asyncio.Task[None] | None = None
        self._exited = asyncio.Event()
        self._closed = asyncio.Event()

    @property
    def name(self) -> str:
        """The command as one would type it."""
        line = shlex.join(self._command)
        return line if len(line) <= _NAME_LENGTH else f"{line[:_NAME_LENGTH]}…"

    async def run(
        self, files: Path, cwd: Path, env: Mapping[str, str], timeout: float | None, kill_after: float
    ) -> int:
        """Run it to its end, or kill it: nobody of its process group is left afterwards.

        Args:
            files: The directory of its files, which goes with it if this process dies; it reads its task from there.
            cwd: The directory that it runs in.
            env: All of its environment.
            timeout: Seconds that it may take; None for no limit.
            kill_after: Seconds between SIGTERM and SIGKILL.

        Returns:
            Its exit code; the negative number of the signal that ended it, if one did.

        Raises:
            CommandFailed: It could not be started, or took too long.
        """
        try:
            async with _one_start_at_a_time():
                self._starting = asyncio.create_task(self._start(files, cwd, env))
                await asyncio.shield(self._starting)
            async with asyncio.timeout(timeout):
                await self._exited.wait()
        except TimeoutError:
            raise CommandFailed(f"{self.name} did not end within {timeout:g} s and was killed") from None
        finally:
            await self._end(kill_after)
        assert self._transport is not None
        return cast("int", self._transport.get_returncode())

    async def _start(self, files: Path, cwd: Path, env: Mapping[str, str]) -> None:
        loop = asyncio.get_running_loop()
        try:
            with (files / TASK_FILE).open("rb") as task:
                transport, _ = await loop.subprocess_exec(
                    lambda: self, *self._command, stdin=task, cwd=cwd, env=env, start_new_session=True
                )
            with suppress(FileNotFoundError):  # a machine without a shell: its programs are on their own
                self._guard = Guard(transport.get_pid(), files)
        except (OSError, ValueError) as error:
            raise CommandFailed(f"{self.name} could not be started: {_reason(error, self._command[0], cwd)}") from error

    async def _end(self, kill_after: float) -> None:
        """Kill the group, politely at first if the program runs, and read what is left; an interruption hurries it."""
        if self._starting is None:
            return
        if not self._starting.done():  # its group is not known yet, and may be at work already
            self._starting.add_done_callback(self._kill_newborn)
            return
        if self._transport is None:
            return
        try:
            if not self._exited.is_set():
                self._signal(signal.SIGTERM)
                await _wait(self._exited, kill_after)
        finally:
            self._signal(signal.SIGKILL)
            try:
                await _wait(self._closed, _DRAIN_SECONDS)
            finally:
                self._leave()

    def _kill_newborn(self, starting: asyncio.Task[None]) -> None:
        """Kill what was started for nobody; why it could not be started interests nobody either."""
        if not starting.cancelled():
            starting.exception()
        if self._transport is not None:
            self._signal(signal.SIGKILL)
            self._leave()

    def _leave(self) -> None:
        assert self._transport is not None
        self._transport.close()
        if self._guard is not None:
            self._guard.stand_down()

    def _signal(self, number: int) -> None:
        assert self._transport is not None
        # Nobody is left in the group, or only who has died and macOS calls it a lack of permission.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._transport.get_pid(), number)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Know the process as soon as it exists: its start may be interrupted."""
        self._transport = cast("asyncio.SubprocessTransport", transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Keep what the program writes."""
        (self.stdout if fd == 1 else self.stderr).add(data)
        if fd == 1:
            self.reward.add(data)

    def process_exited(self) -> None:
        """Note that the program ended; others of its group may still hold its pipes open."""
        self._exited.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that everything is read."""
        self._closed.set()


def _one_start_at_a_time() -> asyncio.Lock:
    """The lock of this event loop: a start takes milliseconds of it, and many of them in a row hold everybody up."""
    return _STARTING.setdefault(asyncio.get_running_loop(), asyncio.Lock())


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def _reason(error: Exception, program: str, cwd: Path) -> str:
    if not cwd.is_dir():
        return f"there is no directory {cwd}"
    if isinstance(error, FileNotFoundError) and "/" not in program and (cwd / program).exists():
        return f"there is no program {program!r} in PATH: for the file in {cwd.resolve()} write './{program}'"
    if isinstance(error, FileNotFoundError) and (cwd / program).exists():
        return f"the interpreter that the first line of {program!r} names is not there"
    if isinstance(error, FileNotFoundError):
        return f"there is no program {program!r}, neither in PATH nor as a path from {cwd.resolve()}"
    if isinstance(error, PermissionError):
        return f"{program!r} may not be executed: {error}"
    if isinstance(error, OSError) and error.errno == errno.ENOEXEC:
        return f"{program!r} has no first line that says who runs it, such as #!/bin/sh"
    return str(error)
