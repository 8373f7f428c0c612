"""CommandAgent: a program in any language as an agent."""

from __future__ import annotations

import inspect
import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agentlightning._internal.threads import run_in_thread, run_to_its_end
from agentlightning.emitter import emit_message
from agentlightning.errors import CommandFailed, ConfigurationError, InvalidAgent, InvalidResult
from agentlightning.litagent.calling import is_async_callable
from agentlightning.litagent.command.environment import RESULT_FILE, environment
from agentlightning.litagent.command.output import KeptOutput
from agentlightning.litagent.command.program import Program
from agentlightning.litagent.command.reward import reward_from_file
from agentlightning.litagent.inject import describe, signature_of
from agentlightning.litagent.litagent import LitAgent
from agentlightning.processes.words import words_for
from agentlightning.types import NamedResources, Rollout, RolloutRawResult

STREAM: Final = "agentlightning.command.stream"
"""On the message that holds what a program wrote: `stdout` or `stderr`."""
SIZE: Final = "agentlightning.command.size"
"""On the same: how many bytes the program wrote there."""
OMITTED: Final = "agentlightning.command.omitted"
"""On the same: how many of them, from the middle, were left out."""

_PREFIX: Final = "agentlightning-command-"
_LEAST_OUTPUT: Final = 1024
_ERROR_BYTES: Final = 2000


@dataclass(frozen=True)
class CommandRun:
    """What a program left behind when it ended well, for its grader.

    Attributes:
        stdout: What it wrote, without the middle if that was more than `output_limit`.
        stderr: Likewise.
        result: What it wrote into its result file; None if there is none.
        cwd: The directory in which it ran.
    """

    stdout: str
    stderr: str
    result: str | None
    cwd: Path


class CommandAgent(LitAgent[Any]):
    """Runs a program for each task: `CommandAgent(["node", "agent.mjs"])`.

    The program reads its task as JSON from stdin, or from the file that `AGL_TASK_FILE` names, and finds its model in
    the environment: see docs/agents.md for all variables. When it ends with exit code 0, the attempt succeeds; anything
    else fails it. Its reward is what `grader` returns; without one, what it wrote into the file `AGL_RESULT_FILE`, or
    else its last line of JSON: `{"reward": 0.5}`, or a number as the last line of all. It may also send rewards to
    `AGL_EVENT_URL` and end without any.

    The program and all it starts form a process group, which is killed when the program ends, is cancelled or takes too
    long, and also when this process dies. What it writes to stdout and stderr is kept as two messages.

    Args:
        command: The program and its arguments.
        grader: Called with the task and a `CommandRun` when the program ended well; may be async. It returns what an
            agent may return.
        timeout: Seconds that the program may take; None for no limit but the rollout's.
        cwd: The directory to run in; by default the one of this process.
        private_cwd: Whether each attempt runs in a copy of `cwd` that is its own and is removed afterwards; without
            `cwd`, in an empty directory.
        env: More variables; they win over all others.
        output_limit: How many bytes to keep of stdout, and of stderr.
        kill_after: Seconds between SIGTERM and SIGKILL.

    Raises:
        InvalidAgent: The command is no list of words, or the grader cannot be called with a task and a run.
        ConfigurationError: A number makes no sense, or a variable is no text.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        grader: Callable[[Any, CommandRun], Any] | None = None,
        timeout: float | None = None,
        cwd: str | Path | None = None,
        private_cwd: bool = False,
        env: Mapping[str, str] | None = None,
        output_limit: int = 64 * 1024,
        kill_after: float = 2.0,
    ) -> None:
        super().__init__()
        _check_numbers(timeout, kill_after, output_limit)
        _check_variables(env or {})
        self._command = _words(command)
        self._grader = _checked(grader)
        self._timeout = timeout
        self._cwd = None if cwd is None else Path(cwd)
        self._private_cwd = private_cwd
        self._env = dict(env or {})
        self._output_limit = output_limit
        self._kill_after = kill_after

    async def rollout_async(self, task: Any, resources: NamedResources, rollout: Rollout) -> RolloutRawResult:
        """Run the program on a task and return its reward.

        Raises:
            CommandFailed: It could not be started, took too long, or ended with an exit code other than 0.
            InvalidResult: What it left as its reward is none.
            MissingResource: Several models or prompts could be meant.
        """
        with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as directory:
            files = Path(directory)
            env = environment(files, task, resources, rollout) | self._env
            async with self._directory(files) as cwd:
                program = Program(self._command, self._output_limit)
                await self._run(program, files, cwd, env)
                result = _read(files / RESULT_FILE, self._output_limit)
                return await self._reward(task, program, result, cwd)

    @asynccontextmanager
    async def _directory(self, files: Path) -> AsyncGenerator[Path]:
        if not self._private_cwd:
            yield self._cwd or Path.cwd()
            return
        private = files / "cwd"
        try:
            await run_to_its_end(_fill, private, self._cwd)
            yield private
        finally:
            await run_to_its_end(shutil.rmtree, private, True)

    async def _run(self, program: Program, files: Path, cwd: Path, env: Mapping[str, str]) -> None:
        try:
            exit_code = await program.run(files, cwd, env, self._timeout, self._kill_after)
        finally:
            _keep("stdout", program.stdout)
            _keep("stderr", program.stderr)
        if exit_code:
            said = (program.stderr.end(_ERROR_BYTES) or program.stdout.end(_ERROR_BYTES)).strip()
            raise CommandFailed(f"{program.name} {words_for(exit_code)}: {said or 'it wrote nothing'}")

    async def _reward(self, task: Any, program: Program, result: str | None, cwd: Path) -> Any:
        if self._grader is None:
            return program.reward.end() if result is None else reward_from_file(result)
        run = CommandRun(program.stdout.text(), program.stderr.text(), result, cwd)
        return await _graded(self._grader, task, run)


def _fill(directory: Path, original: Path | None) -> None:
    if original is None:
        directory.mkdir()
        return
    try:
        # Temporary directories may lie in the original: what attempts have there is no part of it.
        shutil.copytree(original, directory, symlinks=True, ignore=shutil.ignore_patterns(f"{_PREFIX}*"))
    except (OSError, shutil.Error) as error:
        raise CommandFailed(f"the directory {original} could not be copied: {str(error)[:_ERROR_BYTES]}") from error


def _read(result_file: Path, limit: int) -> str | None:
    if not result_file.exists():
        return None
    if not result_file.is_file() or result_file.stat().st_size > limit:
        raise InvalidResult(f"the result file is no file of at most {limit} bytes")
    return result_file.read_text("utf-8-sig", "replace")


async def _graded(grader: Callable[[Any, CommandRun], Any], task: Any, run: CommandRun) -> Any:
    if is_async_callable(grader):
        return await grader(task, run)
    graded = await run_in_thread(lambda: grader(task, run), "grader")
    return await graded if inspect.isawaitable(graded) else graded


def _keep(stream: str, output: KeptOutput) -> None:
    if output.size:
        emit_message(output.text(), {STREAM: stream, SIZE: output.size, OMITTED: output.omitted})


def _words(command: Any) -> list[str]:
    words: list[Any] = [] if isinstance(command, (str, bytes)) else list(command)
    if not words or not all(isinstance(word, (str, Path)) for word in words):
        raise InvalidAgent(
            f"a command is a list of words such as ['python', 'agent.py'], not {command!r:.100}; "
            "for a line of shell write ['sh', '-c', …]"
        )
    return [str(word) for word in words]


def _check_numbers(timeout: float | None, kill_after: float, output_limit: object) -> None:
    in_time = timeout is None or timeout > 0  # which a NaN is not
    if not (in_time and kill_after >= 0 and isinstance(output_limit, int) and output_limit >= _LEAST_OUTPUT):
        raise ConfigurationError(
            f"timeout={timeout} must be positive, kill_after={kill_after} not negative, "
            f"and output_limit={output_limit} an integer of at least {_LEAST_OUTPUT}"
        )


def _check_variables(env: Mapping[Any, Any]) -> None:
    for name, value in env.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise ConfigurationError(f"variables are texts: write env={{{str(name)!r}: {str(value)!r}}}")


def _checked(grader: Any) -> Any:
    if grader is None:
        return None
    if not callable(grader):
        raise InvalidAgent(f"a grader is a function, not a {type(grader).__name__}")
    try:
        signature_of(grader).bind("task", "run")
    except TypeError as error:
        raise InvalidAgent(f"a grader is called with a task and a CommandRun, {error}: {describe(grader)}") from error
    return grader
