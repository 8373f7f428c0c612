"""A program must not outlive the one that started it, whatever that one dies of."""

from __future__ import annotations

import os
import subprocess
from typing import Final

# `read` returns when the pipe's other end is closed, which the kernel does also for a process that was killed.
_SCRIPT: Final = 'read -r _; kill -s KILL -- "-$1"'


class Guard:
    """Kills a process group once this process is gone: a shell that waits at a pipe which only this process holds open.

    Children that were forked and run no program of their own hold it open as well: the guard waits for them too.

    Args:
        group: The group.
    """

    def __init__(self, group: int) -> None:
        read, self._write = os.pipe()
        try:
            self._shell = subprocess.Popen(
                ["/bin/sh", "-c", _SCRIPT, "agl-guard", str(group)],
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
        self._shell.wait()
        os.close(self._write)
