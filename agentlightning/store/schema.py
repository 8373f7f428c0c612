"""The tables, and the check that a database holds them.

`position` is the order of insertion. The queue is the index `queue`: the rollouts that wait, in their order.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from agentlightning.errors import ConfigurationError

VERSION: Final = 1

_TABLES: Final = (
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
        queue_position INTEGER NOT NULL DEFAULT 0
    )
    """,
    "CREATE INDEX queue ON rollouts (queue_position) WHERE status IN ('queuing', 'requeuing')",
    "CREATE INDEX rollouts_by_status ON rollouts (status, start_time)",
    "CREATE INDEX rollouts_by_start ON rollouts (start_time)",
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
        PRIMARY KEY (rollout_id, attempt_id)
    ) WITHOUT ROWID
    """,
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
        UNIQUE (rollout_id, attempt_id, span_id)
    )
    """,
    "CREATE INDEX spans_in_order ON spans (rollout_id, sequence_id, start_time_ns)",
    """
    CREATE TABLE resources (
        position INTEGER PRIMARY KEY,
        resources_id TEXT NOT NULL UNIQUE,
        create_time REAL NOT NULL,
        update_time REAL NOT NULL,
        version INTEGER NOT NULL,
        resources BLOB NOT NULL,
        write_position INTEGER NOT NULL UNIQUE
    )
    """,
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
    "CREATE TABLE queue_tail (position INTEGER NOT NULL)",
    "INSERT INTO queue_tail VALUES (0)",
)


def prepare(connection: sqlite3.Connection, place: str) -> None:
    """Create the tables in an empty database; `place` names the database in the error.

    Raises:
        ConfigurationError: A newer program wrote the database.
    """
    connection.execute("BEGIN IMMEDIATE")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        for statement in _TABLES:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")
    if version > VERSION:
        raise ConfigurationError(
            f"{place} has schema version {version}, this program knows {VERSION}: "
            "upgrade agentlightning or use another file"
        )
