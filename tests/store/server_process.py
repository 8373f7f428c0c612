"""`agl store` in a process that can be killed and started again, fast: it is forked from one that has imported all."""

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

PATIENCE = 60.0

# Its child is `agl` with the arguments of a line. It is laid to rest with the next line only: until then its number
# belongs to no other process.
NURSERY = """
import os, sys
from agentlightning.cli import app, main
from agentlightning.store import LightningStoreServer, SqliteLightningStore

answers = int(sys.argv[1])
if "postgres" in sys.argv:
    from agentlightning.store import PostgresLightningStore

child = None
for line in sys.stdin:
    if child is not None:
        os.waitpid(child, 0)
    child = os.fork()
    if child == 0:
        os._exit(main(line.rstrip("\\n").split("\\t")))
    os.write(answers, f"{child}\\n".encode())
"""


def free_port() -> int:
    """Return a port of this machine on which nobody listens.

    None of those that the system gives to outgoing connections: while the server is dead, one might get its port.
    """
    while True:
        with (
            contextlib.suppress(OSError),
            socket.create_server(("127.0.0.1", random.randrange(10_000, 32_000))) as found,
        ):
            return found.getsockname()[1]


class ServerProcess:
    """A server that may be killed and started again at the same address.

    Args:
        arguments: What `agl store` is told of where the data lies.
        log: Where its output goes.
    """

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._line = "\t".join(["store", "--port", str(self.port), *arguments])
        self._log = log
        self._pid: int | None = None
        reading, writing = os.pipe()
        with log.open("wb") as output:
            self._nursery = subprocess.Popen(
                [sys.executable, "-c", NURSERY, str(writing), *arguments],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=(writing,),
            )
        os.close(writing)
        self._children = os.fdopen(reading)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.kill()
        assert self._nursery.stdin is not None
        self._nursery.stdin.close()
        try:
            await asyncio.to_thread(self._nursery.wait, PATIENCE)
        finally:
            self._nursery.kill()
            self._children.close()

    async def start(self) -> None:
        """Start the server; returns when it accepts connections."""
        assert self._nursery.stdin is not None
        self._nursery.stdin.write(f"{self._line}\n".encode())
        self._nursery.stdin.flush()
        try:
            async with asyncio.timeout(PATIENCE):
                child = await asyncio.to_thread(self._children.readline)
                assert child, self._log.read_text()
                self._pid = int(child)
                while not await self._accepts():  # noqa: ASYNC110  # another process tells of nothing
                    await asyncio.sleep(0.005)
        except TimeoutError as error:
            raise AssertionError(f"the server does not answer: {self._log.read_text()}") from error

    async def _accepts(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return True

    def hang(self) -> None:
        """Let the server answer nothing until `go_on`; what is sent to it stays on its way."""
        assert self._pid is not None
        os.kill(self._pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let the server answer again."""
        assert self._pid is not None
        os.kill(self._pid, signal.SIGCONT)

    def kill(self) -> None:
        """End the server where it stands, with `kill -9`."""
        if self._pid is not None:
            os.kill(self._pid, signal.SIGKILL)
            self._pid = None
