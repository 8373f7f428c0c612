"""Tasks from files and from Python."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Final, cast

from agentlightning.errors import ConfigurationError, MissingExtra
from agentlightning.extras import needed_for
from agentlightning.litagent.loading import load_object
from agentlightning.types import Dataset


def load_dataset(source: str) -> Dataset[Any]:
    """Load tasks.

    Args:
        source: A file (`.jsonl`: a task a line, `.json`: a list, `.csv` and `.parquet`: a task of each row, with the
            columns as its fields), or `package.module:name` of a dataset or of a function that returns one.

    Raises:
        ConfigurationError: There is no such file or object, or it holds no tasks.
        MissingExtra: The library that reads such files is not installed.
    """
    path = Path(source)
    reader = _READERS.get(path.suffix)
    if reader is None:
        return _from_python(source)
    try:
        tasks = reader(path)
    except MissingExtra:
        raise
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{source} holds no tasks: {error}") from error
    if not isinstance(tasks, list) or not tasks:
        raise ConfigurationError(f"{source} holds no tasks: it must be a list with at least one")
    return cast("list[Any]", tasks)


def _from_python(source: str) -> Dataset[Any]:
    found = load_object(source, f"dataset; files end in {', '.join(_READERS)}")
    if callable(found) and not hasattr(found, "__getitem__"):
        found = found()
    if not isinstance(found, Dataset):
        raise ConfigurationError(f"{source} is no dataset but a {type(found).__name__}: it needs a length and indices")
    return cast("Dataset[Any]", found)


def _read_lines(path: Path) -> Any:
    tasks: list[Any] = []
    for number, line in enumerate(_text(path).split("\n"), 1):  # JSON's texts hold other line ends, such as U+2028
        try:
            tasks += [json.loads(line)] if line.strip() else []
        except ValueError as error:
            raise ValueError(f"line {number} is no JSON: {error}") from error
    return tasks


def _read_json(path: Path) -> Any:
    return json.loads(_text(path))


def _text(path: Path) -> str:
    return path.read_text("utf-8-sig")  # which spreadsheets and Windows write


def _read_csv(path: Path) -> Any:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def _read_parquet(path: Path) -> Any:
    with needed_for("a dataset in Parquet"):
        parquet: Any = import_module("pyarrow.parquet")
    return parquet.read_table(path).to_pylist()


_READERS: Final[dict[str, Callable[[Path], Any]]] = {
    ".jsonl": _read_lines,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
