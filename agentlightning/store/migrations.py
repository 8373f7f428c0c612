"""What brings a database of an older program to the present tables, version by version.

A step is written once and never changed: it must not follow the tables of `schema.py` when they move on. What a step
makes is the same as a new database of its version, to the letter of the constraints.
"""

from __future__ import annotations

from typing import Final

_LEASES_FEEDS_AND_VERSIONS: Final = (
    # Finished rollouts, numbered in the order of their ends.
    "ALTER TABLE rollouts ADD COLUMN finish_position INTEGER",
    """
    UPDATE rollouts SET finish_position = finished.number
    FROM (
        SELECT position, ROW_NUMBER() OVER (ORDER BY end_time, position) AS number
        FROM rollouts WHERE status IN ('failed', 'succeeded', 'cancelled')
    ) AS finished
    WHERE finished.position = rollouts.position
    """,
    "CREATE INDEX rollouts_by_finish ON rollouts (finish_position) WHERE finish_position IS NOT NULL",
    # Leases, from time 0 of their clock: opening a file gives each its full length again.
    "DROP INDEX live_attempts_by_worker",
    "ALTER TABLE attempts RENAME TO old_attempts",
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
    """
    INSERT INTO attempts (rollout_id, attempt_id, sequence_id, start_time, end_time, status, worker_id,
        last_heartbeat_time, metadata, lease_start, timeout_at, silence, silent_at)
    SELECT a.rollout_id, a.attempt_id, a.sequence_id, a.start_time, a.end_time, a.status, a.worker_id,
        a.last_heartbeat_time, a.metadata, 0,
        json_extract(CAST(r.config AS TEXT), '$.timeout_seconds'),
        json_extract(CAST(r.config AS TEXT), '$.unresponsive_seconds'),
        json_extract(CAST(r.config AS TEXT), '$.unresponsive_seconds')
    FROM old_attempts a JOIN rollouts r ON r.rollout_id = a.rollout_id
    """,
    "DROP TABLE old_attempts",
    "CREATE INDEX attempts_by_timeout ON attempts (timeout_at) "
    "WHERE timeout_at IS NOT NULL AND status IN ('preparing', 'running')",
    "CREATE INDEX attempts_by_silence ON attempts (silent_at) "
    "WHERE silent_at IS NOT NULL AND status IN ('preparing', 'running')",
    "CREATE INDEX live_attempts_by_worker ON attempts (worker_id) WHERE status IN ('preparing', 'running')",
    "ALTER TABLE spans ADD COLUMN numbers BLOB",
    # Resources: of each id the one version that was kept is the newest.
    "ALTER TABLE resources RENAME TO old_resources",
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
    """
    INSERT INTO resources (position, resources_id, create_time, update_time, version, newest, resources)
    SELECT write_position, resources_id, create_time, update_time, version, 1, resources FROM old_resources
    """,
    "DROP TABLE old_resources",
    "CREATE UNIQUE INDEX newest_resources ON resources (resources_id) WHERE newest = 1",
    "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    """
    INSERT INTO counters VALUES
        ('queue', (SELECT position FROM queue_tail)),
        ('finish', (SELECT COALESCE(MAX(finish_position), 0) FROM rollouts)),
        ('resources', (SELECT COALESCE(MAX(position), 0) FROM resources))
    """,
    "DROP TABLE queue_tail",
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
    # How many rollouts have which status.
    """
    INSERT INTO counters VALUES ('rollouts queuing', 0), ('rollouts preparing', 0), ('rollouts running', 0),
        ('rollouts failed', 0), ('rollouts succeeded', 0), ('rollouts cancelled', 0), ('rollouts requeuing', 0)
    """,
    """
    UPDATE counters SET value = (SELECT COUNT(*) FROM rollouts WHERE 'rollouts ' || status = counters.name)
    WHERE name LIKE 'rollouts %'
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

STEPS: Final[dict[int, tuple[str, ...]]] = {1: _LEASES_FEEDS_AND_VERSIONS}
"""The statements that bring a database from each older version to the next."""
