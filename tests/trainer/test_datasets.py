from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from agentlightning.errors import ConfigurationError, MissingExtra
from agentlightning.trainer.datasets import load_dataset

TASKS: list[dict[str, Any]] = [{"text": f"one{end}two"} for end in ("\u2028", "\u0085", "\x0b", "\x0c", " ")]


def write_lines(path: Path, tasks: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(task, ensure_ascii=False) + "\n" for task in tasks), "utf-8")


def write_list(path: Path, tasks: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps(tasks, ensure_ascii=False), "utf-8")


def write_table(path: Path, tasks: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(tasks[0]))
        table.writeheader()
        table.writerows(tasks)


FORMATS = {".jsonl": write_lines, ".json": write_list, ".csv": write_table}


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte-order-mark"])
def test_tasks_are_read_as_they_were_written(tmp_path: Path, suffix: str, mark: bytes) -> None:
    path = tmp_path / f"tasks{suffix}"
    FORMATS[suffix](path, TASKS)
    path.write_bytes(mark + path.read_bytes())
    assert load_dataset(str(path)) == TASKS


def test_lines_may_end_as_on_windows_and_be_empty(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_bytes(b'{"a": 1}\r\n\r\n{"a": 2}')
    assert load_dataset(str(path)) == [{"a": 1}, {"a": 2}]


def test_line_that_is_no_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text('"a\u2028b"\n{\n', "utf-8")
    with pytest.raises(ConfigurationError, match="line 2 is no JSON"):
        load_dataset(str(path))


@pytest.mark.parametrize("content", ["[]", "{}", "", "7"])
def test_file_without_tasks_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tasks.json"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match="holds no tasks"):
        load_dataset(str(path))


def test_parquet_s_rows_are_tasks(tmp_path: Path) -> None:
    path = tmp_path / "tasks.parquet"
    if importlib.util.find_spec("pyarrow") is None:
        with pytest.raises(MissingExtra, match=r"\[datasets\]"):
            load_dataset(str(path))
        return
    table = pytest.importorskip("pyarrow").Table.from_pylist(TASKS)
    pytest.importorskip("pyarrow.parquet").write_table(table, path)
    assert load_dataset(str(path)) == TASKS
