"""`agl store inspect | export | import | prune | migrate` as a user calls them."""

from __future__ import annotations

import asyncio
import hashlib
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import typer

from agentlightning.cli.app import run
from agentlightning.cli.store_location import run_until_done, shown_size
from agentlightning.store import SqliteLightningStore, schema
from agentlightning.store.opening import open_store, schema_version, shown_location
from agentlightning.store.schema import VERSION
from agentlightning.store.testing.suite import span_of
from agentlightning.types import LLM, PromptTemplate

COMMANDS = ("inspect", "export", "import", "prune", "migrate")


@dataclass
class Done:
    code: int
    out: str
    err: str


Agl: TypeAlias = Callable[..., Done]


@pytest.fixture
def agl(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Agl:
    monkeypatch.setattr("agentlightning.logging.setup_logging", lambda level: None)  # for this process's other tests

    def call(*arguments: str | Path) -> Done:
        code = run(["store", *map(str, arguments)])
        return Done(code, *capfd.readouterr())

    return call


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with five finished rollouts, one that runs and one that waits."""

    async def fill(made: SqliteLightningStore) -> None:
        await made.update_resources("mine", {"llm": LLM(endpoint="http://h/v1", model="m", api_key="sk-secret")})
        await made.update_resources("mine", {"prompt": PromptTemplate(template="x", engine="jinja")})
        for number in range(7):
            await made.enqueue_rollout(number)
        claims = await made.dequeue_many_rollouts(limit=6, worker_id="worker-7")
        for claim in claims:
            await made.add_many_spans([span_of(claim, number) for number in range(3)])
        for claim in claims[:5]:
            await made.update_attempt(claim.rollout_id, "latest", status="succeeded")

    path = tmp_path / "store.db"
    in_store(path, fill)
    return path


def in_store(path: Path, work: Callable[[SqliteLightningStore], Any]) -> Any:
    async def open_and_close() -> Any:
        opened = SqliteLightningStore(path)
        try:
            return await work(opened)
        finally:
            await opened.close()

    return asyncio.run(open_and_close())


async def statuses(store: SqliteLightningStore) -> list[str]:
    return [rollout.status for rollout in await store.query_rollouts()]


def digest(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_inspect_shows_everything_and_changes_nothing(agl: Agl, store: Path) -> None:
    before = digest(store.parent)
    done = agl("inspect", store)
    assert (done.code, done.err) == (0, "")
    for shown in (
        rf"schema version {VERSION}",
        r"succeeded +│ +5",
        r"running +│ +1",
        r"queuing +│ +1",
        r"spans in all +│ +18",
        r"oldest in the queue +│ +\d+ s ago +│ +ro-",
        r"Resources \(1\)",
        r"mine +│ +2 +│ .*prompt",
        r"Workers \(1\)",
        r"worker-7 +│ +busy",
    ):
        assert re.search(shown, done.out), shown
    assert "sk-secret" not in done.out
    assert digest(store.parent) == before


def test_export_and_import_carry_a_store(agl: Agl, store: Path, tmp_path: Path) -> None:
    file, copy = tmp_path / "store.jsonl.gz", tmp_path / "copy.db"
    before = digest(tmp_path)
    done = agl("export", store, file, "--with-secrets")
    assert (done.code, done.err) == (0, "")
    assert "2 versions of resources, 7 rollouts, 6 attempts and 18 spans" in done.out
    assert digest(tmp_path).items() >= before.items()
    assert agl("import", copy, file).code == 0
    assert in_store(copy, statuses) == in_store(store, statuses)
    again = agl("export", store, file)
    assert (again.code, again.out) == (1, "")
    assert re.fullmatch(r"agl: .*--force\n", again.err)
    assert agl("export", store, file, "--force").code == 0


def test_keys_stay_home_unless_asked_for(agl: Agl, store: Path, tmp_path: Path) -> None:
    file = tmp_path / "store.jsonl"
    assert "--with-secrets" in agl("export", store, file).out
    assert "sk-secret" not in file.read_text()
    done = agl("import", tmp_path / "copy.db", file)
    assert (done.code, done.out) == (1, "")
    assert re.fullmatch(r"agl: .*line 2: .*--with-secrets.*nothing was imported\n", done.err)


def test_prune_takes_out_what_the_policy_says(agl: Agl, store: Path) -> None:
    assert (
        agl("prune", store, "--older-than", "1h", "--keep", "1").out == "Pruned 0 rollouts, 0 attempts and 0 spans.\n"
    )
    assert agl("prune", store, "--keep", "3", "--dry-run").out == "2 rollouts would be pruned.\n"
    assert agl("prune", store, "--keep", "4", "--spans-only").out == "Pruned 0 rollouts, 0 attempts and 3 spans.\n"
    done = agl("prune", store, "--keep", "1", "--older-than", "0s", "--vacuum")
    assert done.out.startswith("Pruned 4 rollouts, 4 attempts and 9 spans.\nThe file went from ")
    assert sorted(in_store(store, statuses)) == ["queuing", "running", "succeeded"]


def test_migrate_says_what_it_did(agl: Agl, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert agl("migrate", store).out == f"{store} has schema version {VERSION}, the one of this program.\n"
    monkeypatch.setattr(schema, "STEPS", {version: () for version in range(1, VERSION)})  # its tables are new already
    with sqlite3.connect(store) as older:
        older.execute("PRAGMA user_version = 1")
    older.close()
    for command in (("inspect", store), ("prune", store, "--keep", "1", "--dry-run")):
        done = agl(*command)
        assert (done.code, done.out) == (1, "")
        assert "agl store migrate" in done.err
    assert agl("migrate", store).out == f"Migrated {store} from schema version 1 to {VERSION}.\n"
    assert agl("inspect", store).code == 0


@pytest.mark.parametrize("command", [("inspect",), ("export", "x.jsonl"), ("prune", "--keep", "1"), ("migrate",)])
@pytest.mark.parametrize("content", [None, b"", b"no database, but longer than a header of SQLite would be" * 20])
def test_what_is_no_store_is_named_and_left_alone(
    agl: Agl, tmp_path: Path, command: tuple[str, ...], content: bytes | None
) -> None:
    path = tmp_path / "other.db"
    if content is not None:
        path.write_bytes(content)
    before = digest(tmp_path)
    done = agl(command[0], path, *(tmp_path / part if part.endswith("jsonl") else part for part in command[1:]))
    assert (done.code, done.out) == (1, "")
    assert re.fullmatch(r"agl: there is no store in .*other\.db.*\n", done.err)
    assert digest(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("prune",), "--older-than"),
        (("prune", "--older-than", "soon"), "30d"),
        (("import", "missing.jsonl"), "missing.jsonl"),
        (("export", "missing/x.jsonl"), "missing/x.jsonl"),
    ],
)
def test_mistakes_are_one_line(agl: Agl, store: Path, arguments: tuple[str, ...], says: str) -> None:
    done = agl(arguments[0], store, *arguments[1:])
    assert (done.code, done.out) == (1, "")
    assert re.fullmatch(rf"agl: .*{re.escape(says)}.*\n", done.err)


def test_address_of_a_server_is_no_location(agl: Agl) -> None:
    assert "postgresql://" in agl("inspect", "http://127.0.0.1:4747").err


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("postgresql://u:SECRET@h/d", "postgresql://u:***@h/d"),
        ("postgres://u:SECRET%40x@h/d", "postgres://u:***@h/d"),
        ("postgresql://u:SEC/RET#S@ECRET?@h/d?x=y", "postgresql://u:***@h/d?x=y"),
        ("postgresql://u@h/d?password=SECRET&sslmode=require", "postgresql://u@h/d?password=***&sslmode=require"),
        ("postgresql://h/d?sslPassword=SECRET#x", "postgresql://h/d?sslPassword=***#x"),
        ("postgresql://u@h:5432/d", "postgresql://u@h:5432/d"),
        ("folder/a:b@c?password=1", "folder/a:b@c?password=1"),
    ],
)
def test_a_location_is_shown_without_its_password(location: str, shown: str) -> None:
    assert shown_location(location) == shown


@pytest.mark.parametrize("command", ["inspect", "migrate"])
@pytest.mark.parametrize(
    "location", ["postgresql+asyncpg://u:SECRET@h/d?password=SECRET", "postgresql://u:SECRET/x@h/d"]
)
def test_errors_keep_the_password_of_a_location(agl: Agl, command: str, location: str) -> None:
    done = agl(command, location)
    assert done.code == 1
    assert "SECRET" not in done.out + done.err


@pytest.mark.parametrize("content", [b"nonsense\n", b""])
def test_an_import_that_fails_leaves_no_new_file(agl: Agl, tmp_path: Path, content: bytes) -> None:
    broken = tmp_path / "broken.jsonl"
    broken.write_bytes(content)
    done = agl("import", tmp_path / "new.db", broken)
    assert done.code == 1
    assert "nothing was imported" in done.err
    assert not (tmp_path / "new.db").exists()


def test_an_import_that_fails_leaves_a_former_store(agl: Agl, store: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.jsonl").write_bytes(b"nonsense\n")
    assert agl("import", store, tmp_path / "broken.jsonl").code == 1
    assert agl("inspect", store).code == 0


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz"])
def test_stores_and_exports_are_for_their_owner_alone(agl: Agl, store: Path, tmp_path: Path, name: str) -> None:
    writer = SqliteLightningStore(store)
    assert agl("export", store, tmp_path / name).code == 0
    for each in ("store.db", "store.db-wal", "store.db-shm", name):
        assert (tmp_path / each).stat().st_mode & 0o777 == 0o600
    asyncio.run(writer.close())


def test_help_teaches() -> None:
    entry_point = "import sys; from agentlightning.cli import main; sys.exit(main())"
    for command in COMMANDS:
        done = subprocess.run(
            [sys.executable, "-c", entry_point, "store", command, "--help"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert f"Example: agl store {command} " in done.stdout


def test_interrupted_work_says_what_that_means(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentlightning.cli.store_location.ignore_interrupts", lambda: None)

    async def work() -> None:
        raise KeyboardInterrupt

    with pytest.raises(typer.Exit) as end:
        run_until_done(work(), interrupted="Nothing was imported.")
    assert end.value.exit_code == 130
    assert capsys.readouterr().err == "Interrupted. Nothing was imported.\n"


def test_sizes_are_readable() -> None:
    assert [shown_size(size) for size in (0, 999, 1500, 2_345_678, 10**10)] == [
        "0 bytes",
        "999 bytes",
        "1.5 kB",
        "2.3 MB",
        "10.0 GB",
    ]


def test_opening_makes_a_file_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    assert schema_version(path) == 0
    made = open_store(path, create=True)
    asyncio.run(made.close())
    assert schema_version(path) == VERSION
