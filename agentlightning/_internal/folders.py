"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(target: Path) -> Generator[Path]:
    """Give a folder to write into, which takes the place of `target` when the block ends well.

    A folder that exists is moved aside first, so a crash between the two renames leaves neither under this name; write
    each state under its own name where that matters.
    """
    target = target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as workspace:
        written = Path(workspace) / "written"
        written.mkdir()
        yield written
        for path in written.rglob("*"):
            if path.is_file():
                _sync(path)
        if target.exists():
            target.rename(Path(workspace) / "replaced")
        written.rename(target)


def write_whole(path: Path, text: str) -> None:
    """Write a file that readers see as it was or as it is, and that a crash leaves so."""
    draft = path.with_name(f".{path.name}-{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    _sync(draft)
    draft.replace(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
