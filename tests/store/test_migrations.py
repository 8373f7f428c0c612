"""A file of an older program becomes what a new one is, with everything that was in it."""

import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from agentlightning.errors import ConfigurationError
from agentlightning.store import SqliteLightningStore, migrations
from agentlightning.types import AttemptedRollout, RolloutConfig

# The tables of version 1, as that program made them.
VERSION_1 = (
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
    "PRAGMA user_version = 1",
)
CONFIG = (
    '{"timeout_seconds":%s,"unresponsive_seconds":%s,"max_attempts":2,"retry_condition":["timeout","unresponsive"]}'
)
SPAN = (
    '{"rollout_id":"ro-run","attempt_id":"at-run","sequence_id":4,"trace_id":"t","span_id":"s","parent_id":null,'
    '"name":"step","status":{"status_code":"OK","description":null},"attributes":{"x":1.5},"events":[],"links":[],'
    '"start_time":1.0,"end_time":2.0,"context":null,"parent":null,'
    '"resource":{"attributes":{},"schema_url":""},"start_time_ns":1000000000}'
)
ROWS = (
    ("UPDATE queue_tail SET position = 7", ()),
    *(
        (
            "INSERT INTO rollouts VALUES (?, ?, ?, ?, ?, 'train', 'rs-a', ?, ?, ?, ?, ?, ?)",
            (position, f"ro-{name}", b'{"n":1}', 1.0, end, status, config.encode(), b"{}", latest, 4, queue),
        )
        for position, name, end, status, config, latest, queue in (
            (1, "late", 30.0, "failed", CONFIG % ("null", "null"), "at-late", 1),
            (2, "early", 20.0, "succeeded", CONFIG % ("null", "null"), "at-early", 2),
            (3, "second", None, "requeuing", CONFIG % ("null", "null"), "at-second", 7),
            (4, "first", None, "queuing", CONFIG % ("null", "null"), None, 5),
            (5, "run", None, "running", CONFIG % ("300.0", "50.0"), "at-run", 3),
            (6, "free", None, "preparing", CONFIG % ("null", "null"), "at-free", 4),
        )
    ),
    *(
        (
            "INSERT INTO attempts VALUES (?, ?, 1, 2.0, ?, ?, ?, 3.0, ?)",
            (f"ro-{name}", f"at-{name}", end, status, "w", b'{"k":"v"}'),
        )
        for name, end, status in (
            ("late", 30.0, "failed"),
            ("early", 20.0, "succeeded"),
            ("second", 9.0, "timeout"),
            ("run", None, "running"),
            ("free", None, "preparing"),
        )
    ),
    (
        "INSERT INTO spans VALUES (1, 'ro-run', 'at-run', 's', 4, 1000000000, 2.0, 't', NULL, 'step', 0, ?)",
        (SPAN.encode(),),
    ),
    ("INSERT INTO resources VALUES (1, 'rs-a', 1.0, 6.0, 3, ?, 5)", (b"{}",)),
    ("INSERT INTO resources VALUES (2, 'rs-b', 2.0, 2.0, 1, ?, 2)", (b"{}",)),
    (
        "INSERT INTO workers VALUES (1, 'w', 'busy', ?, 1.0, 1.0, 1.0, NULL, 'ro-run', 'at-run')",
        (b'{"cpu":1}',),
    ),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of version 1 with something in every table."""
    path = tmp_path / "store.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    for statement in VERSION_1:
        connection.execute(statement)
    for statement, values in ROWS:
        connection.execute(statement, values)
    connection.close()
    return path


def schema_of(path: Path) -> tuple[dict[str, str], dict[str, list[tuple[object, ...]]], int]:
    """Return the statements behind a file's tables, indexes and triggers, its tables' columns and its version."""
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT name, type, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    statements = {name: normal(sql) for name, _, sql in rows}
    tables = [name for name, kind, _ in rows if kind == "table"]
    columns = {name: connection.execute(f"PRAGMA table_info({name})").fetchall() for name in tables}
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    connection.close()
    return statements, columns, version


def normal(sql: str) -> str:
    return re.sub(r"\s*([(),])\s*", r"\1", re.sub(r"\s+", " ", sql))


async def test_a_migrated_file_has_the_tables_of_a_new_one(path: Path, tmp_path: Path) -> None:
    await SqliteLightningStore(path).close()
    await SqliteLightningStore(tmp_path / "new.db").close()
    assert schema_of(path) == schema_of(tmp_path / "new.db")


async def test_a_migrated_file_keeps_what_was_in_it(path: Path) -> None:
    store = SqliteLightningStore(path)
    rollouts = {rollout.rollout_id: rollout for rollout in await store.query_rollouts()}
    assert {key: (r.status, r.end_time) for key, r in rollouts.items()} == {
        "ro-late": ("failed", 30.0),
        "ro-early": ("succeeded", 20.0),
        "ro-second": ("requeuing", None),
        "ro-first": ("queuing", None),
        "ro-run": ("running", None),
        "ro-free": ("preparing", None),
    }
    run = rollouts["ro-run"]
    assert isinstance(run, AttemptedRollout)
    assert (run.input, run.mode, run.resources_id, run.metadata) == ({"n": 1}, "train", "rs-a", {})
    assert run.config == RolloutConfig(
        timeout_seconds=300, unresponsive_seconds=50, max_attempts=2, retry_condition=["timeout", "unresponsive"]
    )
    assert run.attempt.model_dump() == {
        "rollout_id": "ro-run",
        "attempt_id": "at-run",
        "sequence_id": 1,
        "start_time": 2.0,
        "end_time": None,
        "status": "running",
        "worker_id": "w",
        "last_heartbeat_time": 3.0,
        "metadata": {"k": "v"},
    }
    (span,) = await store.query_spans("ro-run")
    assert (span.name, span.sequence_id, span.attributes) == ("step", 4, {"x": 1.5})
    assert [(r.resources_id, r.version, r.update_time) for r in await store.query_resources()] == [
        ("rs-b", 1, 2.0),
        ("rs-a", 3, 6.0),
    ]
    worker = await store.get_worker_by_id("w")
    assert worker is not None
    assert (worker.status, worker.heartbeat_stats, worker.current_attempt_id) == ("busy", {"cpu": 1}, "at-run")
    await store.close()


async def test_a_migrated_file_can_be_worked_with(path: Path) -> None:
    store = SqliteLightningStore(path)
    last = await store.enqueue_rollout("last")
    claims = await store.dequeue_many_rollouts(limit=9, worker_id="v")
    assert [claim.rollout_id for claim in claims] == ["ro-first", "ro-second", last.rollout_id]
    assert [claim.attempt.sequence_id for claim in claims] == [1, 2, 1]
    finished = await store.read_finished_rollouts()
    assert [rollout.rollout_id for rollout in finished.items] == ["ro-early", "ro-late"]
    await store.update_attempt("ro-free", "latest", status="succeeded")
    more = await store.read_finished_rollouts(cursor=finished.cursor)
    assert [rollout.rollout_id for rollout in more.items] == ["ro-free"]
    waited = await store.wait_for_rollouts(rollout_ids=["ro-free", "ro-late"], timeout=10)
    assert [rollout.status for rollout in waited] == ["succeeded", "failed"]
    assert await store.get_next_span_sequence_id("ro-run", "at-run") == 5
    latest = await store.get_latest_resources()
    assert latest is not None
    assert latest.resources_id == "rs-a"
    assert (await store.update_resources("rs-b", {}, expected_version=1)).version == 2
    latest = await store.get_latest_resources()
    assert latest is not None
    assert latest.resources_id == "rs-b"
    assert (await store.query_rollouts(status_in=["preparing"])).total == 3
    await store.close()


async def test_deadlines_of_a_migrated_file_are_in_force(path: Path) -> None:
    store = SqliteLightningStore(path)

    async def deadlines(tx):  # type: ignore[no-untyped-def]
        rows = await tx.fetch("SELECT attempt_id, timeout_at, silence, silent_at FROM attempts WHERE end_time IS NULL")
        return {row[0]: [value and value - tx.clock for value in (row[1], row[3])] + [row[2]] for row in rows}

    left = await store.read(deadlines)
    assert left["at-free"] == [None, None, None]
    assert left["at-run"] == [pytest.approx(300, abs=10), pytest.approx(50, abs=10), 50.0]
    await store.update_rollout("ro-run", config=RolloutConfig(timeout_seconds=0))
    assert [r.status for r in await store.wait_for_rollouts(rollout_ids=["ro-run"], timeout=10)] == ["failed"]
    await store.close()


async def test_a_file_that_is_only_read_is_not_migrated(path: Path) -> None:
    before = schema_of(path)
    with pytest.raises(ConfigurationError, match="agl store migrate"):
        SqliteLightningStore(path, read_only=True)
    assert schema_of(path) == before


@pytest.mark.parametrize("number", range(len(migrations.STEPS[1])))
async def test_a_migration_that_fails_leaves_the_file_as_it_was(
    path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, statements = schema_of(path), migrations.STEPS[1]
    failing = (*statements[:number], "SELECT * FROM nowhere", *statements[number:])
    with monkeypatch.context() as patch:
        patch.setitem(migrations.STEPS, 1, failing)
        with pytest.raises(ConfigurationError, match="nowhere"):
            SqliteLightningStore(path)
    assert schema_of(path) == before
    store = SqliteLightningStore(path)
    assert (await store.query_rollouts()).total == 6
    await store.close()


KILLED = """
import os, sys
from agentlightning.store import SqliteLightningStore, migrations

def some():
    yield from statements[: int(sys.argv[2])]
    os.kill(os.getpid(), 9)

statements = migrations.STEPS[1]
migrations.STEPS[1] = some()
SqliteLightningStore(sys.argv[1])
"""


@pytest.mark.parametrize("number", [1, len(migrations.STEPS[1]) // 2, len(migrations.STEPS[1])])
def test_a_migration_that_is_killed_leaves_the_file_as_it_was(path: Path, number: int) -> None:
    before = schema_of(path)
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), str(number)], timeout=60, check=False)
    assert done.returncode == -9
    assert schema_of(path) == before
