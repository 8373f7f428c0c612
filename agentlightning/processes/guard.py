"""A program must not outlive the one that started it, whatever that one dies of."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path
from typing import Final

# `read` returns when the pipe's other end is closed, which the kernel does also for a process that was killed.
_SCRIPT: Final = 'read -r _; kill -s KILL -- "-$1"; shift; rm -rf -- "$@"'


class Guard:
    """Kills a group of processes and removes its files once this process is gone.

    It is a shell that waits at a pipe which only this process holds open, and what was forked from it and runs no
    program of its own: the guard waits for such children too.

    Args:
        group: The group.
        files: A directory that only its programs need.
    """

    def __init__(self, group: int, files: Path | None = None) -> None:
        read, self._write = os.pipe()
        removed = [] if files is None else [str(files)]
        try:
            self._shell = subprocess.Popen(
                ["/bin/sh", "-c", _SCRIPT, "agl-guard", str(group), *removed],
                stdin=read,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={},
                start_new_session=True,  # a Ctrl+C in the terminal is not meant for it
            )
        except BaseException:
            os.close(self._write)
            raise
        finally:
            os.close(read)

    def stand_down(self) -> None:
        """End the guard; nothing is killed."""
        self._shell.kill()
        threading.Thread(target=self._clear_away, name="agl-guard", daemon=True).start()

    def _clear_away(self) -> None:
        self._shell.wait()  # which an event loop has no time for
        os.close(self._write)
