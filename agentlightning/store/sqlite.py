"""The store on SQLite: a file, or a private database in memory."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable
from contextlib import closing as closing_on_exit, suppress
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from agentlightning.errors import ConfigurationError
from agentlightning.store import schema
from agentlightning.store.events import Signals
from agentlightning.store.lane import Lane, Undo
from agentlightning.store.presence import Presence
from agentlightning.store.sql.deadlines import enforce_deadlines
from agentlightning.store.sql.leases import restart_leases
from agentlightning.store.sql.store import SqlLightningStore
from agentlightning.store.sql.transaction import Transaction
from agentlightning.store.sqlite_transaction import Operation, run_alone

logger = logging.getLogger(__name__)

T = TypeVar("T")

_BUSY_SECONDS: Final = 30.0
_READERS: Final = 2
_PAGE_BYTES: Final = 2048
"""Half of SQLite's own: a small write logs the whole of each page that it touches, about six."""
_CACHE_KILOBYTES: Final = 4_000
"""Of pages that the writer remembers. With SQLite's own 2 MB, what 64 agents write at a time was read again for each
group of writes, a tenth of its price; with 8 MB and more, long batches took longer: a processor's cache is small."""
_LOG_PAGES: Final = 8000
"""How far the write-ahead log grows before it is written back: each time costs disk syncs, of which SQLite's own 1000
pages make a third of the price of a small write. 16 MB."""


class _LaneStore(SqlLightningStore):
    """A store whose operations run in lanes; the threads end when the store is closed or forgotten."""

    def __init__(self, signals: Signals, writes: Lane, reads: Lane) -> None:
        super().__init__(signals)
        self._writes, self._reads = writes, reads
        self._lanes = (writes, reads)
        for lane in self._lanes:
            weakref.finalize(self, lane.stop)

    async def write(self, operation: Operation[T], undo: Undo[T] | None = None, *, small: bool = False) -> T:
        """Run an operation that changes the store."""
        return await self._writes.run(operation, undo, small=small)

    async def read(self, operation: Operation[T]) -> T:
        """Run an operation that only looks; it sees everything that was acknowledged."""
        return await self._reads.run(operation)

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError(
            f"{type(self).__name__} lives in its process: for another one, pickle the LightningStoreServer "
            "that serves it, or open the file there"
        )

    async def close(self) -> None:
        """Finish what was accepted, end the threads and close the database; closing twice is fine.

        Cancelled, it stops waiting, and the store closes all the same.

        Raises:
            StoreError: An operation does not end.
        """
        for lane in self._lanes:
            lane.stop()
        self._signals.call_all()
        for lane in self._lanes:
            await lane.join()


class SqliteLightningStore(_LaneStore):
    """The store in a SQLite file, which survives the end of the program however it ends.

    Several processes may use one file at a time, but waiting hears only of this object's own writes, and each process
    ends the attempts that outlive the deadlines it wrote or found. Opening a file that is open nowhere else gives every
    live attempt the full length of its deadlines again, for the time that a store was away does not count; who has it
    open is known by locks on a small file beside it. A file of an older program is brought to the present tables.

    Args:
        path: The file, created if missing; its folder must exist.
        synchronous: What a commit survives: `NORMAL` the end of the process, `FULL` also a power failure, at the price
            of a disk sync for each group of writes; `OFF` is for files that may be lost.
        read_only: Change nothing in the file: whatever would, raises `StoreError`.
        keep_deadlines: End the attempts whose deadline has come. A tool that only works on what is there does not: it
            leaves deadlines to those who serve the file, and its own presence is none of a store.

    Raises:
        ConfigurationError: The file cannot be opened, is no database of this program, or is from a newer one; to be
            only read, also one that does not exist or is from an older program.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        synchronous: Literal["OFF", "NORMAL", "FULL"] = "NORMAL",
        read_only: bool = False,
        keep_deadlines: bool = True,
    ) -> None:
        if synchronous not in ("OFF", "NORMAL", "FULL"):
            raise ConfigurationError(f"synchronous is {synchronous!r}: use OFF, NORMAL or FULL")
        if str(path) == ":memory:":
            raise ConfigurationError("SqliteLightningStore keeps a file; use InMemoryLightningStore for memory")
        self.path: Final = Path(path)
        signals, closing = Signals(), threading.Lock()
        presence = Presence(str(self.path))
        try:
            writer = None if read_only else _open(str(self.path), synchronous, presence if keep_deadlines else None)
            readers = [_open_to_read(str(self.path)) for _ in range(_READERS)]
        except BaseException:
            presence.leave()
            raise
        reads = Lane("agl-store-reader", readers, "read", signals.publish, closing=closing)
        writes = reads
        if writer is not None:
            upkeep = None if synchronous == "FULL" else _Checkpoints(writer, self.path, closing)
            writes = Lane(
                "agl-store-writer",
                [writer],
                "write",
                signals.publish,
                timer=enforce_deadlines if keep_deadlines else None,
                upkeep=upkeep,
                closing=closing,
                farewell=presence.leave,
            )
        super().__init__(signals, writes, reads)

    async def write_back(self) -> None:
        """Write what was committed from the log beside the file into the file itself, which can be copied then."""
        await asyncio.to_thread(_write_back, self.path)


def _write_back(path: Path) -> None:
    with closing_on_exit(sqlite3.connect(path, timeout=_BUSY_SECONDS)) as connection:
        connection.execute("PRAGMA wal_checkpoint(FULL)")


class InMemoryLightningStore(_LaneStore):
    """The store in memory: the same SQL on a private database, gone with the process.

    It may be called from any thread and loop. v0.3's arguments are accepted and have nothing to configure: the store is
    always thread-safe, holds spans as compact JSON and evicts none, and has no scans to space out.

    Args:
        thread_safe: Without effect.
        eviction_memory_threshold: Without effect.
        safe_memory_threshold: Without effect.
        span_size_estimator: Without effect.
        tracker: Without effect.
        scan_debounce_seconds: Without effect.
    """

    def __init__(
        self,
        *,
        thread_safe: bool = True,
        eviction_memory_threshold: float | None = None,
        safe_memory_threshold: float | None = None,
        span_size_estimator: Any = None,
        tracker: Any = None,
        scan_debounce_seconds: float = 10.0,
    ) -> None:
        signals = Signals()
        connection = _open(":memory:", "OFF")
        lane = Lane("agl-store", [connection], "write", signals.publish, timer=enforce_deadlines, upkeep=lambda _: None)
        super().__init__(signals, lane, lane)


class _Checkpoints:
    """Writes the log back into the file once it has grown, for commits in callers' threads must not wait for a disk.

    Most of it is written by a thread of its own while commits go on; what they add meanwhile is little, and written
    with the log's end in the lane's turn.

    Args:
        writer: The connection that writes, which gives up doing that in its commits, and waiting for other processes.
        path: The file.
        closing: Held while the thread has its connection; see `Lane`.
    """

    def __init__(self, writer: sqlite3.Connection, path: Path, closing: threading.Lock) -> None:
        writer.execute("PRAGMA wal_autocheckpoint = 0")
        writer.execute("PRAGMA busy_timeout = 0")
        self._path, self._log, self._closing = path, Path(f"{path}-wal"), closing
        self._copying: threading.Thread | None = None

    def __call__(self, writer: sqlite3.Connection) -> None:
        if self._copying is not None:
            if not self._copying.is_alive():
                self._copying = None
                writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        elif self._log.stat().st_size > _LOG_PAGES * _PAGE_BYTES:
            self._copying = threading.Thread(target=self._copy, name="agl-store-checkpoint", daemon=True)
            self._copying.start()

    def _copy(self) -> None:
        try:
            with self._closing, closing_on_exit(sqlite3.connect(_to_existing(self._path), uri=True)) as connection:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error as error:
            # The lane's turn writes all that is not written; if that fails, too, a commit says so.
            logger.warning("Could not write the log of %s back beside the writes (%s)", self._path, error)


def _open(path: str, synchronous: str, presence: Presence | None = None) -> sqlite3.Connection:
    """Open a file to write, with the present tables; if nobody was present, with every lease at its full length."""

    async def arrive(tx: Transaction) -> None:
        if presence is not None and presence.arrive():
            await restart_leases(tx)

    def prepare(connection: sqlite3.Connection) -> None:
        schema.version_of(connection, path)  # before anything is changed
        connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")  # of a new file; an older one keeps its own
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KILOBYTES}")
        schema.prepare(connection, path)
        run_alone(connection, arrive)

    if path != ":memory:":
        with suppress(OSError):  # it is there, or SQLite says why it cannot be
            Path(path).touch(0o600, exist_ok=False)  # API keys are in it; SQLite gives its log the file's mode
    return _connect(path, path, prepare, "cannot keep a store in {path} ({error}); name a file in a writable folder")


def _open_to_read(path: str) -> sqlite3.Connection:
    """Open a file that must exist; not by `mode=ro`, which would leave the write-ahead log behind."""

    def prepare(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA query_only = ON")
        schema.check(connection, path)

    return _connect(path, _to_existing(Path(path)), prepare, "cannot read a store in {path} ({error})")


def _to_existing(path: Path) -> str:
    """Return the address of a file that must exist."""
    return f"{path.absolute().as_uri()}?mode=rw"


def _connect(
    path: str, address: str, prepare: Callable[[sqlite3.Connection], None], problem: str
) -> sqlite3.Connection:
    """Return a connection in autocommit mode that any thread may use.

    Raises:
        ConfigurationError: With the problem.
    """
    options: dict[str, Any] = {"timeout": _BUSY_SECONDS, "isolation_level": None, "check_same_thread": False}
    try:
        connection = sqlite3.connect(address, uri=address != path, **options)
    except sqlite3.Error as error:
        raise ConfigurationError(problem.format(path=path, error=error)) from error
    try:
        connection.execute("PRAGMA temp_store = MEMORY")
        prepare(connection)
    except (sqlite3.Error, OSError) as error:
        connection.close()
        raise ConfigurationError(problem.format(path=path, error=error)) from error
    except ConfigurationError:
        connection.close()
        raise
    return connection
