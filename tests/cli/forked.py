"""`agl` in a process of its own that does not import everything anew: each is forked from one that has.

Exit codes, output, working directory and environment are those of a fresh process, at a fiftieth of its start.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DEADLINE = 120
HEAVY = ("torch", "transformers", "agentlightning.demo", "agentlightning.algorithm.grpo", "agentlightning.inference")


def call_agl(
    *arguments: str, folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end.

    Args:
        arguments: What follows `agl`.
        folder: The working directory; the tests' own when None.
        environment: The whole environment; the tests' own when None.
    """
    with tempfile.TemporaryDirectory() as written:
        request = {
            "arguments": arguments,
            "folder": str(folder or Path.cwd()),
            "environment": dict(os.environ if environment is None else environment),
            "written": written,
        }
        code = _origin().ask(request)
        stdout, stderr = ((Path(written) / name).read_text() for name in ("stdout", "stderr"))
    return subprocess.CompletedProcess(arguments, code, stdout, stderr)


class _Origin:
    """The process that the others are forked from; it ends when its stdin does."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import serve; serve()"],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def ask(self, request: dict[str, Any]) -> int:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], DEADLINE)[0]:
            os.killpg(self._process.pid, signal.SIGKILL)
            raise TimeoutError(f"agl {request['arguments']} did not end within {DEADLINE} s")
        return int(self._process.stdout.readline())

    def close(self) -> None:
        with self._process:
            pass


@functools.cache
def _origin() -> _Origin:
    origin = _Origin()
    atexit.register(origin.close)
    return origin


def serve() -> None:
    """Fork a process for each line on stdin, and answer with its exit code."""
    import agentlightning.cli

    for module in pkgutil.walk_packages(agentlightning.cli.__path__, "agentlightning.cli."):
        importlib.import_module(module.name)
    for name in HEAVY:
        importlib.import_module(name)
    sys.path.insert(0, "")
    gc.freeze()
    while line := sys.stdin.readline():
        request = json.loads(line)
        child = os.fork()
        if not child:
            _become(request)
            _leave(agentlightning.cli.main())
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201  # the answer


def _leave(code: int) -> None:
    """End as the interpreter does, but leave the memory to the system, for taking it down takes a second."""
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as the interpreter does
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _become(request: dict[str, Any]) -> None:
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["agl", *request["arguments"]]
    outputs = [Path(request["written"]) / name for name in ("stdout", "stderr")]
    for descriptor, path in enumerate([Path(os.devnull), *outputs]):
        opened = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(opened, descriptor)
        os.close(opened)
