"""A run's folder: what was run, how it ended, and what is needed to go on with it."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Generator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentlightning._internal.folders import write_whole
from agentlightning._internal.ids import generate_id
from agentlightning.errors import ConfigurationError
from agentlightning.unix import fcntl

RunState = Literal["running", "succeeded", "failed", "interrupted"]

RECORD_FILE: Final = "run.json"
STORE_FILE: Final = "store.db"
_LOCK_FILE: Final = ".lock"
_LOOKERS_SECONDS: Final = 1.0
_PAUSE_SECONDS: Final = 0.02


class RunRecord(BaseModel):
    """What `run.json` holds.

    Attributes:
        state: `running` of a run whose process is gone says that it was killed.
        started_at: Unix seconds of the first start.
        ended_at: Unix seconds of the last end; None while it runs.
        resumed: How often the run was gone on with.
        run_id: Names the run in what it leaves in the store.
        pid: The process that runs it, or did.
        versions: Of this package and of Python.
        components: The class of each of the trainer's components, and how many runners there are.
        error: What ended the run, if it failed.
        score: How good the algorithm says the best resources are, if it named any.
        metrics: The newest value of each metric.
        rollouts: How many rollouts of the store are in each status.
    """

    model_config = ConfigDict(extra="ignore")

    state: RunState
    started_at: float
    ended_at: float | None = None
    resumed: int = 0
    run_id: str = Field(default_factory=lambda: generate_id(16))
    pid: int = Field(default_factory=os.getpid)
    versions: dict[str, str] = Field(
        default_factory=lambda: {"agentlightning": version("agentlightning"), "python": platform.python_version()}
    )
    components: dict[str, Any] = Field(default_factory=dict[str, Any])
    error: str | None = None
    score: float | None = None
    metrics: dict[str, Any] = Field(default_factory=dict[str, Any])
    rollouts: dict[str, int] = Field(default_factory=dict[str, int])


def read_run(folder: Path) -> RunRecord:
    """Read what a folder says of its run.

    Raises:
        ConfigurationError: It holds no run.
    """
    path = folder / RECORD_FILE
    try:
        return RunRecord.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise ConfigurationError(f"{folder} holds no run: there is no {RECORD_FILE} in it") from error
    except ValidationError as error:
        raise ConfigurationError(f"{path} is not what a run writes: {error}") from error


def is_held(folder: Path) -> bool:
    """Whether a process works in a run's folder; to look changes nothing there."""
    try:
        descriptor = os.open(folder / _LOCK_FILE, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except PermissionError:  # another user's run, of which its record alone speaks
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


class RunFolder:
    """Writes down a run in its folder.

    Args:
        path: The folder; made if it is missing.
        resuming: Whether the run that it holds goes on; else it must hold none.
    """

    def __init__(self, path: Path, *, resuming: bool) -> None:
        self.path = path.absolute()  # the program may go elsewhere while the store is open
        self.resuming = resuming
        self.record = RunRecord(state="running", started_at=time.time())

    @contextmanager
    def running(self) -> Generator[RunRecord]:
        """Hold the folder for the block, which may add to the record, and write down how it ends.

        Raises:
            ConfigurationError: It holds a run already, or none to go on with, or another process works in it.
        """
        if self.resuming:
            read_run(self.path)  # before anything is written where no run is
        self.path.mkdir(parents=True, exist_ok=True)
        with _held(self.path):
            self._begin()
            try:
                yield self.record
            except BaseException as error:
                state = "failed" if isinstance(error, Exception) else "interrupted"
                self._end(state, f"{type(error).__name__}: {error}")
                raise
            self._end("succeeded", None)

    def _begin(self) -> None:
        if self.resuming:
            before = read_run(self.path)
            self.record = self.record.model_copy(
                update={"run_id": before.run_id, "started_at": before.started_at, "resumed": before.resumed + 1}
            )
        elif (self.path / RECORD_FILE).exists():
            raise ConfigurationError(
                f"{self.path} holds a run already: go on with it by fit(…, resume={str(self.path)!r}), "
                "or choose another folder"
            )
        self.write()

    def _end(self, state: RunState, error: str | None) -> None:
        self.record.state, self.record.error, self.record.ended_at = state, error, time.time()
        self.write()

    def write(self) -> None:
        """Write the record as it is now."""
        write_whole(self.path / RECORD_FILE, self.record.model_dump_json(indent=2) + "\n")


@contextmanager
def _held(folder: Path) -> Generator[None]:
    """Hold a folder, which the system gives free when the process ends, however it does."""
    descriptor = os.open(folder / _LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not _locked(descriptor):
            raise ConfigurationError(f"another process works in {folder}: wait for its end, or stop it")
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    """Lock a file for this process alone, over those who only look whether it is locked; False if another has it."""
    deadline = time.monotonic() + _LOOKERS_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(_PAUSE_SECONDS)
        else:
            return True
