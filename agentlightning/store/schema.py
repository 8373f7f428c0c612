"""The tables, and the check that a database holds them.

`position` is the order of insertion. The queue is the index `queue`: the rollouts that wait, in their order.
`finish_position` orders the ends of rollouts. `lease_start`, `timeout_at` and `silent_at` are times of the lease clock
(`Transaction.clock`): when the attempt began, when it has lived too long, when it has been silent too long; `silence`
is how many seconds of silence are too long. `claimed_by` is the worker that the attempt was made for, `queued_as` the
status its rollout had in the queue if it was taken from there: what a claim that nobody heard of returns to. Of each
resources id the row of the newest version has `newest` = 1; its `position` comes from the counter, so the greatest one
is the set that was written last. `uses` counts the requests that were given the answer of a key.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Final

from agentlightning.errors import ConfigurationError
from agentlightning.store.migrations import STEPS

VERSION: Final = 2

TABLES: Final = (
    """
    CREATE TABLE rollouts (
        position INTEGER PRIMARY KEY,
        rollout_id TEXT NOT NULL UNIQUE,
        input BLOB NOT NULL,
        start_time REAL NOT NULL,
        end_time REAL,
        mode TEXT,
        resources_id TEXT,
        status TEXT NOT NULL,
        config BLOB NOT NULL,
        metadata BLOB,
        latest_attempt_id TEXT,
        span_counter INTEGER NOT NULL DEFAULT 0,
        queue_position INTEGER NOT NULL DEFAULT 0,
        finish_position INTEGER
    )
    """,
    "CREATE INDEX queue ON rollouts (queue_position) WHERE status IN ('queuing', 'requeuing')",
    "CREATE INDEX rollouts_by_status ON rollouts (status, start_time)",
    "CREATE INDEX rollouts_by_start ON rollouts (start_time)",
    "CREATE INDEX rollouts_by_finish ON rollouts (finish_position) WHERE finish_position IS NOT NULL",
    """
    CREATE TABLE attempts (
        rollout_id TEXT NOT NULL,
        attempt_id TEXT NOT NULL,
        sequence_id INTEGER NOT NULL,
        start_time REAL NOT NULL,
        end_time REAL,
        status TEXT NOT NULL,
        worker_id TEXT,
        last_heartbeat_time REAL,
        metadata BLOB,
        lease_start REAL NOT NULL,
        timeout_at REAL,
        silence REAL,
        silent_at REAL,
        claimed_by TEXT,
        queued_as TEXT,
        PRIMARY KEY (rollout_id, attempt_id)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX attempts_by_timeout ON attempts (timeout_at) "
    "WHERE timeout_at IS NOT NULL AND status IN ('preparing', 'running')",
    "CREATE INDEX attempts_by_silence ON attempts (silent_at) "
    "WHERE silent_at IS NOT NULL AND status IN ('preparing', 'running')",
    "CREATE INDEX live_attempts_by_worker ON attempts (worker_id) WHERE status IN ('preparing', 'running')",
    """
    CREATE TABLE spans (
        position INTEGER PRIMARY KEY,
        rollout_id TEXT NOT NULL,
        attempt_id TEXT NOT NULL,
        span_id TEXT NOT NULL,
        sequence_id INTEGER NOT NULL,
        start_time_ns INTEGER NOT NULL,
        end_time REAL,
        trace_id TEXT NOT NULL,
        parent_id TEXT,
        name TEXT NOT NULL,
        late INTEGER NOT NULL,
        body BLOB NOT NULL,
        numbers BLOB,
        UNIQUE (rollout_id, attempt_id, span_id)
    )
    """,
    "CREATE INDEX spans_in_order ON spans (rollout_id, sequence_id, start_time_ns)",
    """
    CREATE TABLE resources (
        position INTEGER PRIMARY KEY,
        resources_id TEXT NOT NULL,
        create_time REAL NOT NULL,
        update_time REAL NOT NULL,
        version INTEGER NOT NULL,
        newest INTEGER NOT NULL,
        resources BLOB NOT NULL,
        UNIQUE (resources_id, version)
    )
    """,
    "CREATE UNIQUE INDEX newest_resources ON resources (resources_id) WHERE newest = 1",
    """
    CREATE TABLE workers (
        position INTEGER PRIMARY KEY,
        worker_id TEXT NOT NULL UNIQUE,
        status TEXT NOT NULL DEFAULT 'unknown',
        heartbeat_stats BLOB,
        last_heartbeat_time REAL,
        last_dequeue_time REAL,
        last_busy_time REAL,
        last_idle_time REAL,
        current_rollout_id TEXT,
        current_attempt_id TEXT
    )
    """,
    "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    "INSERT INTO counters VALUES ('queue', 0), ('finish', 0), ('resources', 0)",
    """
    CREATE TABLE request_keys (
        request_key TEXT PRIMARY KEY,
        fingerprint BLOB NOT NULL,
        answer BLOB NOT NULL,
        uses INTEGER NOT NULL,
        create_time REAL NOT NULL
    ) WITHOUT ROWID
    """,
    "CREATE INDEX request_keys_by_time ON request_keys (create_time)",
)

STATUS_COUNTS: Final = (
    """
    INSERT INTO counters VALUES ('rollouts queuing', 0), ('rollouts preparing', 0), ('rollouts running', 0),
        ('rollouts failed', 0), ('rollouts succeeded', 0), ('rollouts cancelled', 0), ('rollouts requeuing', 0)
    """,
    """
    CREATE TRIGGER count_new_rollout AFTER INSERT ON rollouts BEGIN
        UPDATE counters SET value = value + 1 WHERE name = 'rollouts ' || new.status;
    END
    """,
    """
    CREATE TRIGGER count_moved_rollout AFTER UPDATE OF status ON rollouts WHEN new.status <> old.status BEGIN
        UPDATE counters SET value = value - 1 WHERE name = 'rollouts ' || old.status;
        UPDATE counters SET value = value + 1 WHERE name = 'rollouts ' || new.status;
    END
    """,
    """
    CREATE TRIGGER count_deleted_rollout AFTER DELETE ON rollouts BEGIN
        UPDATE counters SET value = value - 1 WHERE name = 'rollouts ' || old.status;
    END
    """,
    """
    CREATE VIEW status_counts AS
        SELECT substr(name, 10) AS status, value AS rollouts FROM counters WHERE name LIKE 'rollouts %'
    """,
)
"""How many rollouts have which status, kept by triggers: counting 50,000 for each page took most of its time. They
share a table, and so a page of each commit, with the counters that are written at the same times."""

STATUS_COUNTS_VIEW: Final = """
    CREATE VIEW status_counts AS SELECT status, COUNT(*) AS rollouts FROM rollouts GROUP BY status
"""
"""The same where many write at a time: they would queue for the rows of a table."""


def prepare(connection: sqlite3.Connection, place: str) -> None:
    """Create the tables in an empty database, or bring those of an older program here, all or nothing.

    Args:
        connection: A connection in autocommit mode.
        place: Names the database in the error.

    Raises:
        ConfigurationError: A newer program wrote the database, or a different one.
    """
    connection.execute("BEGIN IMMEDIATE")
    version = version_of(connection, place)
    if version == 0:
        _execute_all(connection, (*TABLES, *STATUS_COUNTS))
    else:
        for older in range(version, VERSION):
            _execute_all(connection, STEPS[older])
    if version != VERSION:
        connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")


def check(connection: sqlite3.Connection, place: str) -> None:
    """Require that a database has the present tables, without changing anything; `place` names it in the error.

    Raises:
        ConfigurationError: It holds none, or those of another version.
    """
    version = version_of(connection, place)
    if version == 0:
        raise ConfigurationError(f"{place} holds no store")
    if version < VERSION:
        raise ConfigurationError(
            f"{place} has schema version {version}, this program reads {VERSION}: run `agl store migrate` on it"
        )


def version_of(connection: sqlite3.Connection, place: str) -> int:
    """Return the version of a database's tables, 0 for an empty one; `place` names it in the error.

    Raises:
        ConfigurationError: The database is another program's, or from a newer one.
    """
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == 0 and connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
        raise ConfigurationError(f"{place} holds the tables of another program: use another file")
    if version > VERSION:
        raise ConfigurationError(
            f"{place} has schema version {version}, this program knows {VERSION}: "
            "upgrade agentlightning or use another file"
        )
    return version


def _execute_all(connection: sqlite3.Connection, statements: Iterable[str]) -> None:
    for statement in statements:
        connection.execute(statement)
