"""A process of this interpreter, the leader of a process group, which is killed whole."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Final

from agentlightning._internal.threads import run_in_thread
from agentlightning.processes.guard import Guard

KILL_DEADLINE: Final = 10.0
"""Seconds for the kernel to end a process that was killed."""
_WAITS_WITHOUT_TAKING: Final = hasattr(os, "waitid")
"""Whether the end of a process can be waited for while its number stays taken; on macOS since Python 3.13."""
_START: Final = (
    "import gc, sys; gc.disable(); sys.path[:] = {path!r}; sys.argv[:] = {argv!r}; "
    "from {module} import main; main({descriptor})"
)


class ChildProcess:
    """One process; it dies with this one, however this one dies, and all of its process group with it.

    Its standard output, its arguments and its modules are this process's, its standard input empty. A Ctrl+C in the
    terminal does not reach it.

    Args:
        module: Whose `main` is called there, with the number of its end of `line`. It calls `begin_collecting` once it
            has imported what it needs.

    Attributes:
        line: This end of the way to it.
        pid: Its number.
    """

    def __init__(self, module: str) -> None:
        self.line, theirs = socket.socketpair()
        with theirs:
            start = _START.format(path=sys.path, argv=sys.argv, module=module, descriptor=theirs.fileno())
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", start],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
            except BaseException:
                self.line.close()
                raise
        self.pid: Final = self._process.pid
        self._guard: Guard | None = None
        with suppress(FileNotFoundError):  # a machine without a shell: what the process started is on its own
            self._guard = Guard(self.pid)
        self._lock = threading.Lock()
        self._exit = asyncio.create_task(run_in_thread(self._wait, "agl-child-exit"))

    @property
    def returncode(self) -> int | None:
        """The exit code if the process has ended, as far as it is known."""
        return self._process.returncode

    async def exit_code(self) -> int:
        """Return the exit code once the process has ended; the negative number of the signal that ended it."""
        return await asyncio.shield(self._exit)

    async def end(self) -> None:
        """Kill what is left of the process group."""
        self._kill()
        await asyncio.wait({self._exit}, timeout=KILL_DEADLINE)
        if self._guard is not None:
            self._guard.stand_down()
        self.line.close()

    def _wait(self) -> int:
        """Wait for the end of the process, and end those that it left behind before its number is free again."""
        if _WAITS_WITHOUT_TAKING:
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            self._kill()
            with self._lock:
                return self._process.wait()
        code = self._process.wait()
        self._kill_group()  # what it left behind keeps the group's number from being given to others
        return code

    def _kill(self) -> None:
        with self._lock:
            if self._process.returncode is None:
                self._kill_group()

    def _kill_group(self) -> None:
        # macOS calls it a lack of permission when those left are dead.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
