"""What a resumed run goes on from: one folder a checkpoint, of which the newest are kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agentlightning._internal.folders import whole_folder

_STATE: Final = "state.json"
_PREFIX: Final = "step-"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint on disk.

    Attributes:
        step: The last step that is in it.
        folder: What the algorithm wrote.
        state: What it said of itself, as JSON.
    """

    step: int
    folder: Path
    state: dict[str, Any]


class Checkpoints:
    """The checkpoints of a run; each appears whole or not at all, and replaces none.

    Args:
        folder: Where they lie; made when the first is saved.
        keep: How many of the newest to keep.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self._folder = folder
        self._keep = keep

    def save(self, step: int, write: Callable[[Path], object], state: Mapping[str, Any]) -> Path:
        """Write the checkpoint of a step.

        Args:
            step: The last step that is in it.
            write: Writes the algorithm's own files into a folder.
            state: JSON that `latest` gives back.
        """
        target = self._folder / f"{_PREFIX}{step:08d}"
        with whole_folder(target) as folder:
            write(folder)
            (folder / _STATE).write_text(json.dumps(dict(state)), encoding="utf-8")
        unfinished = self._folder.glob(f".{_PREFIX}*")  # of processes that were killed while they wrote
        for old in (*self._all()[: -self._keep], *unfinished):
            shutil.rmtree(old)
        return target

    def latest(self) -> Checkpoint | None:
        """Return the newest checkpoint, or None."""
        folders = self._all()
        if not folders:
            return None
        state = json.loads((folders[-1] / _STATE).read_text(encoding="utf-8"))
        return Checkpoint(int(folders[-1].name.removeprefix(_PREFIX)), folders[-1], state)

    def _all(self) -> list[Path]:
        return sorted(self._folder.glob(f"{_PREFIX}*"))
