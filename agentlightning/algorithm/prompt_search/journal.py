"""What was paid for is written down before it is used, so that a resumed run pays for none of it again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import IO, Any, Final, TypeAlias

Answer: TypeAlias = dict[str, Any]
"""A JSON object."""

JOURNAL_FILE: Final = "journal.jsonl"
"""Its name in a run's folder."""


class Journal:
    """Answers on disk, one JSON object a line, each with the digest of what was asked.

    A question is told from others by its kind, its key and what was asked. A run that goes on asks the same again, in
    whatever order, and is given what is written; one that asks something else under an old key is not.

    Args:
        path: The file; it is read if it is there, and the first answer makes it. None remembers within this process.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self._answers: dict[tuple[str, str, str], Answer] = {}
        if path is not None and path.exists():
            self._read(path.read_bytes())

    async def once(self, kind: str, key: str, asked: Any, work: Callable[[], Awaitable[Answer]]) -> Answer:
        """Return the answer that is written, or do the work and write its answer down.

        Args:
            kind: What sort of question it is.
            key: Names the question within its kind: two that ask the same have different keys.
            asked: The question, as JSON.
            work: Finds the answer; nothing is written if it raises.
        """
        found = self.find(kind, key, asked)
        if found is None:
            found = await work()
            self.write(kind, key, asked, found)
        return found

    def find(self, kind: str, key: str, asked: Any) -> Answer | None:
        """Return the answer that is written, or None."""
        return self._answers.get((kind, key, digest(asked)))

    def write(self, kind: str, key: str, asked: Any, answer: Answer) -> None:
        """Write an answer down; it is on disk when this returns."""
        asked_digest = digest(asked)
        self._answers[kind, key, asked_digest] = answer
        if self._path is None:
            return
        if self._file is None:
            self._file = _open_whole(self._path)
        line = {"kind": kind, "key": key, "asked": asked_digest, "answer": answer}
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; a later answer opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read(self, content: bytes) -> None:
        for line in content.split(b"\n")[:-1]:  # what a killed process was writing has no end, and nobody used it
            record = json.loads(line)
            self._answers[record["kind"], record["key"], record["asked"]] = record["answer"]


def digest(asked: Any) -> str:
    """Return what stands for a question: SHA-256 of its JSON."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _open_whole(path: Path) -> IO[bytes]:
    """Open a file to append lines to, without the line that a killed process had begun."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+b")
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)
    return file
