"""Where in an agent's own code an error was raised."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path
from typing import Final

_LIBRARIES: Final = [sysconfig.get_path(kind) for kind in ("stdlib", "purelib", "platlib")] + [
    Path(__file__).parents[1]
]


def place_of(error: BaseException) -> str:
    """Return ` in file:line`, the last place that is neither a library's nor ours; nothing if there is none."""
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename is not None:
        frames.append((error.filename, error.lineno))
    own = [frame for frame in frames if not _is_library(frame[0])]
    return f" in {own[-1][0]}:{own[-1][1]}" if own else ""


def _is_library(filename: str) -> bool:
    return filename.startswith("<frozen") or any(Path(filename).is_relative_to(place) for place in _LIBRARIES)
