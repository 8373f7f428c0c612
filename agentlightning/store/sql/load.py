"""Import: what an export wrote joins a store, as a whole or not at all.

Whoever counts something holds the counter until the commit, so an import counts last: what it writes has negative
places until then, and others go on where several transactions write at a time.
"""

from __future__ import annotations

import random
import zlib
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar, cast

from agentlightning.errors import ConfigurationError, InvalidValue
from agentlightning.store.sql.checks import check_integer, check_optional_text, check_text
from agentlightning.store.sql.codec import ATTEMPT_FIELDS, ROLLOUT_FIELDS, encode_input, encode_mapping
from agentlightning.store.sql.filters import Conditions
from agentlightning.store.sql.leases import new_lease
from agentlightning.store.sql.moves import count_up
from agentlightning.store.sql.resources import RESOURCES_FIELDS, encode_resources
from agentlightning.store.sql.span_rows import INSERT as INSERT_SPAN, encode_span
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

_Key = TypeVar("_Key", bound=Hashable)

_AT_ONCE: Final = 200
"""Lines in memory."""


def _insert(table: str, names: Sequence[str]) -> str:
    return f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' for _ in names)})"


_INSERT_RESOURCES: Final = _insert("resources", (*RESOURCES_FIELDS, "newest", "position"))
_INSERT_ROLLOUT: Final = _insert(
    "rollouts", (*ROLLOUT_FIELDS, "latest_attempt_id", "span_counter", "queue_position", "finish_position")
)
_INSERT_ATTEMPT: Final = _insert("attempts", (*ATTEMPT_FIELDS, "lease_start", "timeout_at", "silence", "silent_at"))
_HELD_SPANS: Final = """
    WITH named (rollout_id, attempt_id, span_id) AS (VALUES {})
    SELECT s.rollout_id, s.attempt_id, s.span_id FROM named n CROSS JOIN spans s
    WHERE s.rollout_id = n.rollout_id AND s.attempt_id = n.attempt_id AND s.span_id = n.span_id
"""
_PLACE_RESOURCES: Final = """
    UPDATE resources SET position = position + ?, newest = CASE WHEN version = (
        SELECT MAX(o.version) FROM resources o WHERE o.resources_id = resources.resources_id) THEN 1 ELSE 0 END
    WHERE position < 0
"""
_PLACE_ROLLOUTS: Final = """
    UPDATE rollouts SET
        queue_position = CASE WHEN queue_position < 0 THEN ? - queue_position ELSE queue_position END,
        finish_position = CASE WHEN finish_position < 0 THEN ? - finish_position ELSE finish_position END
    WHERE position > ? AND (queue_position < 0 OR finish_position < 0)
"""


def _twice(keys: Sequence[_Key]) -> list[_Key]:
    return [key for key, count in Counter(keys).items() if count > 1]


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
    ((last_rollout,),) = await tx.fetch("SELECT COALESCE(MAX(position), 0) FROM rollouts")
    return _Loading(tx, header, last_rollout)


class _Loading:
    """Takes lines and writes them, some at a time.

    Args:
        tx: The transaction.
        header: The first line.
        last_rollout: The last position of a rollout that was there before.
    """

    def __init__(self, tx: Transaction, header: Header, last_rollout: int) -> None:
        self.done: Final = Transferred()
        self._tx = tx
        self._header = header
        self._last_rollout = last_rollout
        self._before_resources = -random.randrange(2**61, 2**62)  # not where another import has its own
        self._rollout: RolloutLine | None = None
        self._attempts_of_rollout: set[str] = set()
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
        check_integer(line.span_counter, "span_counter")
        if not 0 <= line.queue_position <= self._header.queue:
            raise InvalidValue(f"queue_position is {line.queue_position}, the first line says {self._header.queue}")
        if (line.status in FINISHED) != (line.finish_position is not None):
            raise InvalidValue(
                f"rollout {line.rollout_id} is {line.status}, its finish_position {line.finish_position}"
            )
        if line.finish_position is not None and not 1 <= line.finish_position <= self._header.finish:
            raise InvalidValue(f"finish_position is {line.finish_position}, the first line says {self._header.finish}")
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
                -line.queue_position,
                line.finish_position and -line.finish_position,
            )
        )
        self._rollout = line
        self._attempts_of_rollout.clear()
        self._finished = line if line.status in FINISHED else self._finished

    def _take_attempt(self, line: AttemptLine) -> None:
        if self._rollout is None or line.rollout_id != self._rollout.rollout_id:
            raise InvalidValue(f"attempt {line.attempt_id} does not follow its rollout {line.rollout_id}")
        check_text(line.attempt_id, "attempt_id")
        if line.attempt_id in self._attempts_of_rollout:
            raise InvalidValue(f"attempt {line.attempt_id} of rollout {line.rollout_id} is in the file twice")
        self._attempts_of_rollout.add(line.attempt_id)
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
        if not self._resources:
            return
        ids = Conditions("and")
        ids.within("resources_id", [row[0] for row in self._resources])
        held = await self._tx.fetch(f"SELECT resources_id, version, position FROM resources{ids.where()}", ids.params)
        if there := [row[0] for row in held if row[2] >= 0]:
            raise InvalidValue(f"resources {there[0]} are there already: import a store once, into an empty one")
        versions = [(row[0], row[1]) for row in held] + [(row[0], row[3]) for row in self._resources]
        for resources_id, version in _twice(versions):
            raise InvalidValue(f"version {version} of resources {resources_id} is in the file twice")
        first = self._before_resources + self.done.resources + 1
        await self._tx.execute_many(_INSERT_RESOURCES, [(*row, 0, first + i) for i, row in enumerate(self._resources)])

    async def _write_rollouts(self) -> None:
        ids = [row[0] for row in self._rollouts]
        held = await self._held("rollout_id", "rollouts", ids)
        for rollout_id in held or _twice(ids):
            raise InvalidValue(f"rollout {rollout_id} is there already: import a store once, into an empty one")
        await self._tx.execute_many(_INSERT_ROLLOUT, self._rollouts)
        status = ROLLOUT_FIELDS.index("status")
        self._tx.changes.enqueued += sum(row[status] in QUEUED for row in self._rollouts)

    async def _write_spans(self) -> None:
        ids = {row[0] for row in self._spans}
        imported = await self._held("rollout_id", "rollouts", list(ids))
        before = await self._held("rollout_id", "rollouts", list(ids), self._last_rollout)
        if strange := sorted((ids - set(imported)) | set(before)):
            raise InvalidValue(f"rollout {strange[0]}, of which there is a span, is not in the file before it")
        keys = [row[:3] for row in self._spans]
        for rollout_id, attempt_id, span_id in _twice(keys) or await self._held_spans(keys):
            raise InvalidValue(f"span {span_id} of {rollout_id}, {attempt_id} is in the file twice")
        await self._tx.execute_many(INSERT_SPAN, self._spans)

    async def _held_spans(self, keys: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
        """Return which of the spans came before."""
        if not keys:
            return []
        sql = _HELD_SPANS.format(", ".join("(?, ?, ?)" for _ in keys))
        return [(row[0], row[1], row[2]) for row in await self._tx.fetch(sql, [*chain(*keys)])]

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
        await self._place()
        if self._finished is not None:  # one wakes whoever reads what finished; nobody waits for one of these
            self._tx.changes.rollouts.append((self._finished.rollout_id, True))

    async def _place(self) -> None:
        """Count what came, and put it behind what is there; in the order in which all take the counters."""
        finish = await count_up(self._tx, "finish", self._header.finish) - 1
        queue = await count_up(self._tx, "queue", self._header.queue) - 1
        resources = await count_up(self._tx, "resources", self.done.resources) - 1
        await self._tx.execute(_PLACE_ROLLOUTS, (queue, finish, self._last_rollout))
        await self._tx.execute(_PLACE_RESOURCES, (resources - self._before_resources,))
