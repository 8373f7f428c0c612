"""Import: what an export wrote joins a store, as a whole or not at all."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from agentlightning.errors import ConfigurationError, InvalidValue
from agentlightning.store.sql.checks import check_integer, check_optional_text, check_text
from agentlightning.store.sql.codec import ATTEMPT_FIELDS, ROLLOUT_FIELDS, encode_input, encode_mapping
from agentlightning.store.sql.filters import Conditions
from agentlightning.store.sql.leases import new_lease
from agentlightning.store.sql.moves import count_up
from agentlightning.store.sql.resources import RESOURCES_FIELDS, encode_resources
from agentlightning.store.sql.spans import INSERT as INSERT_SPAN, encode_span
from agentlightning.store.sql.transaction import Transaction
from agentlightning.store.sql.transfer import (
    FORMAT,
    AttemptLine,
    Header,
    Line,
    Progress,
    ResourcesLine,
    RolloutLine,
    SpanLine,
    Transferred,
    open_file,
    parse,
)
from agentlightning.types import Span
from agentlightning.types.lifecycle import ENDED, FINISHED, QUEUED

_AT_ONCE: Final = 200
"""Lines in memory."""


def _insert(table: str, names: Sequence[str]) -> str:
    return f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' for _ in names)})"


_INSERT_RESOURCES: Final = _insert("resources", (*RESOURCES_FIELDS, "newest", "position"))
_INSERT_ROLLOUT: Final = _insert(
    "rollouts", (*ROLLOUT_FIELDS, "latest_attempt_id", "span_counter", "queue_position", "finish_position")
)
_INSERT_ATTEMPT: Final = _insert("attempts", (*ATTEMPT_FIELDS, "lease_start", "timeout_at", "silence", "silent_at"))
_MARK_NEWEST: Final = """
    UPDATE resources SET newest = 1 WHERE position > ? AND version = (
        SELECT MAX(o.version) FROM resources o WHERE o.resources_id = resources.resources_id)
"""


async def import_lines(tx: Transaction, path: Path, *, progress: Progress) -> Transferred:
    """Read a file into the store.

    Raises:
        InvalidValue: It is no whole export, its keys were redacted, or the store holds something of it already.
        ConfigurationError: A newer program wrote it.
    """
    with open_file(path, "rb", compressed=path.suffix == ".gz") as file:
        try:
            return await _read(tx, file, progress)
        except InvalidValue as error:
            raise InvalidValue(f"{path}: {error}; nothing was imported") from error
        except (EOFError, OSError, zlib.error) as error:  # gzip's words for half a file, and for what is no gzip
            raise InvalidValue(f"{path} cannot be read ({error}); nothing was imported") from error


async def _read(tx: Transaction, file: BinaryIO, progress: Progress) -> Transferred:
    loading: _Loading | None = None
    for number, text in enumerate(file, 1):
        try:
            line = parse(text)
            if loading is None:
                loading = await _begin(tx, line)
            else:
                loading.take(line)
        except InvalidValue as error:
            raise InvalidValue(f"line {number}: {error}") from error
        if loading.kept >= _AT_ONCE:
            await loading.flush(progress)
    if loading is None:
        raise InvalidValue("it is empty")
    await loading.flush(progress)
    await loading.end()
    return loading.done


async def _begin(tx: Transaction, header: Line) -> _Loading:
    if not isinstance(header, Header):
        raise InvalidValue("an export begins with the line of kind 'store'")
    if header.format > FORMAT:
        raise ConfigurationError(f"the export has format {header.format}, this program knows {FORMAT}: upgrade it")
    queue = await count_up(tx, "queue", header.queue) - 1
    finish = await count_up(tx, "finish", header.finish) - 1
    ((last_rollout,),) = await tx.fetch("SELECT COALESCE(MAX(position), 0) FROM rollouts")
    last_resources = await count_up(tx, "resources", 0) - 1
    return _Loading(tx, header, queue, finish, last_rollout, last_resources)


class _Loading:
    """Takes lines and writes them, some at a time.

    Args:
        tx: The transaction.
        header: The first line.
        queue: What to add to a place in the queue.
        finish: What to add to the number of an end.
        last_rollout: The last position of a rollout that was there before.
        last_resources: The last position of resources that were there before.
    """

    def __init__(
        self, tx: Transaction, header: Header, queue: int, finish: int, last_rollout: int, last_resources: int
    ) -> None:
        self.done: Final = Transferred()
        self._tx = tx
        self._header = header
        self._queue, self._finish = queue, finish
        self._last_rollout, self._last_resources = last_rollout, last_resources
        self._rollout: RolloutLine | None = None
        self._finished: RolloutLine | None = None
        self._resources: list[tuple[Any, ...]] = []
        self._rollouts: list[tuple[Any, ...]] = []
        self._attempts: list[tuple[Any, ...]] = []
        self._spans: list[tuple[Any, ...]] = []

    @property
    def kept(self) -> int:
        """How many lines were taken and not written yet."""
        return sum(map(len, (self._resources, self._rollouts, self._attempts, self._spans)))

    def take(self, line: Line) -> None:
        """Keep a line until `flush`."""
        match line:
            case ResourcesLine():
                self._take_resources(line)
            case RolloutLine():
                self._take_rollout(line)
            case AttemptLine():
                self._take_attempt(line)
            case SpanLine():
                encoded = encode_span(cast("Span", line.span))
                self._spans.append((*encoded.columns, int(line.late)))
            case Header():
                raise InvalidValue("a second export begins here: import files one by one")

    def _take_resources(self, line: ResourcesLine) -> None:
        check_text(line.resources_id, "resources_id")
        check_integer(line.version, "version")
        try:
            body = encode_resources(line.resources)
        except InvalidValue as error:
            hint = "" if self._header.secrets else "; export the store --with-secrets to import it"
            raise InvalidValue(f"{error}{hint}") from error
        self._resources.append((line.resources_id, line.create_time, line.update_time, line.version, body))

    def _take_rollout(self, line: RolloutLine) -> None:
        check_text(line.rollout_id, "rollout_id")
        check_optional_text(line.resources_id, "resources_id")
        check_optional_text(line.latest_attempt_id, "latest_attempt_id")
        for name in ("span_counter", "queue_position"):
            check_integer(getattr(line, name), name)
        if (line.status in FINISHED) != (line.finish_position is not None):
            raise InvalidValue(
                f"rollout {line.rollout_id} is {line.status}, its finish_position {line.finish_position}"
            )
        columns = {
            **line.__dict__,
            "input": encode_input(line.input, "input"),
            "config": line.config.model_dump_json().encode(),
            "metadata": encode_mapping(line.metadata, "metadata"),
        }
        self._rollouts.append(
            (
                *(columns[name] for name in ROLLOUT_FIELDS),
                line.latest_attempt_id,
                line.span_counter,
                line.queue_position and line.queue_position + self._queue,
                line.finish_position and line.finish_position + self._finish,
            )
        )
        self._rollout = line
        self._finished = line if line.status in FINISHED else self._finished

    def _take_attempt(self, line: AttemptLine) -> None:
        if self._rollout is None or line.rollout_id != self._rollout.rollout_id:
            raise InvalidValue(f"attempt {line.attempt_id} does not follow its rollout {line.rollout_id}")
        check_text(line.attempt_id, "attempt_id")
        check_optional_text(line.worker_id, "worker_id")
        check_integer(line.sequence_id, "sequence_id")
        columns = {**line.__dict__, "metadata": encode_mapping(line.metadata, "metadata")}
        ended = (self._tx.clock, None, None, None)
        lease = ended if line.status in ENDED else new_lease(self._tx, self._rollout.config)
        self._attempts.append((*(columns[name] for name in ATTEMPT_FIELDS), *lease))

    async def flush(self, progress: Progress) -> None:
        """Write what was kept."""
        await self._write_resources()
        await self._write_rollouts()
        await self._tx.execute_many(_INSERT_ATTEMPT, self._attempts)
        await self._write_spans()
        for kept, kind in (
            (self._resources, "resources"),
            (self._rollouts, "rollouts"),
            (self._attempts, "attempts"),
            (self._spans, "spans"),
        ):
            setattr(self.done, kind, getattr(self.done, kind) + len(kept))
            kept.clear()
        progress(self.done, self._header.counts)

    async def _write_resources(self) -> None:
        held = await self._held("resources_id", "resources", [row[0] for row in self._resources], self._last_resources)
        if held:
            raise InvalidValue(f"resources {held[0]} are there already: import a store once, into an empty one")
        first = await count_up(self._tx, "resources", len(self._resources))
        await self._tx.execute_many(_INSERT_RESOURCES, [(*row, 0, first + i) for i, row in enumerate(self._resources)])

    async def _write_rollouts(self) -> None:
        ids = [row[0] for row in self._rollouts]
        held = await self._held("rollout_id", "rollouts", ids)
        if held or len(set(ids)) < len(ids):
            raise InvalidValue(f"rollout {(held or ids)[0]} is there already: import a store once, into an empty one")
        await self._tx.execute_many(_INSERT_ROLLOUT, self._rollouts)
        status = ROLLOUT_FIELDS.index("status")
        self._tx.changes.enqueued += sum(row[status] in QUEUED for row in self._rollouts)

    async def _write_spans(self) -> None:
        ids = {row[0] for row in self._spans}
        imported = await self._held("rollout_id", "rollouts", list(ids))
        before = await self._held("rollout_id", "rollouts", list(ids), self._last_rollout)
        if strange := sorted((ids - set(imported)) | set(before)):
            raise InvalidValue(f"rollout {strange[0]}, of which there is a span, is not in the file before it")
        await self._tx.execute_many(INSERT_SPAN, self._spans)

    async def _held(self, column: str, table: str, ids: list[str], until: int | None = None) -> list[str]:
        """Return which of the ids a table holds, or held at a former position."""
        if not ids:
            return []
        named = Conditions("and")
        named.within(column, ids)
        sql, params = f"SELECT {column} FROM {table}{named.where()}", list(named.params)
        if until is not None:
            sql, params = f"{sql} AND position <= ?", [*params, until]
        return [row[0] for row in await self._tx.fetch(sql, params)]

    async def end(self) -> None:
        """Look whether all came, and tell those who wait.

        Raises:
            InvalidValue: The file ends too early.
        """
        if self.done != self._header.counts:
            raise InvalidValue(
                f"it is not whole: it holds {asdict(self.done)}, and its first line says {asdict(self._header.counts)}"
            )
        await self._tx.execute(_MARK_NEWEST, (self._last_resources,))
        if self._finished is not None:  # one wakes whoever reads what finished; nobody waits for one of these
            self._tx.changes.rollouts.append((self._finished.rollout_id, True))
