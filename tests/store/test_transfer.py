"""Export and import: nothing is lost, nothing is half done, nothing secret slips out."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import random
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from pydantic_core import from_json, to_json

from agentlightning.errors import ConfigurationError, InvalidValue, StoreError
from agentlightning.store import InMemoryLightningStore, SqliteLightningStore
from agentlightning.store.sql import export, load
from agentlightning.store.sql.store import SqlLightningStore
from agentlightning.store.sql.transfer import Transferred
from agentlightning.store.testing.suite import PATIENCE, soon, span_of
from agentlightning.types import LLM, EnqueueRolloutRequest, PromptTemplate, RolloutConfig
from tests.store.conftest import OpenPostgres

OpenStore: TypeAlias = Callable[[], SqlLightningStore]


@pytest.fixture(params=["sqlite", "out of postgres", "into postgres"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> OpenStore:
    """Opens two stores, the one to export from first."""
    if request.param == "sqlite":
        return lambda: SqliteLightningStore(tmp_path / f"{random.getrandbits(64):x}.db")
    postgres: SqlLightningStore = request.getfixturevalue("postgres")
    memory = InMemoryLightningStore()
    stores = iter([postgres, memory] if request.param == "out of postgres" else [memory, postgres])
    return lambda: next(stores)


async def fill(store: SqlLightningStore) -> None:
    """Everything that a store can hold."""
    prompt = PromptTemplate(template="{{ x }}", engine="jinja")
    llm = LLM(endpoint="http://h/v1", model="m", api_key="sk-secret", sampling_parameters={"temperature": 0.1})
    await store.update_resources("mine", {"prompt": prompt})
    await store.add_resources({"llm": llm})
    await store.update_resources("mine", {"prompt": prompt, "llm": llm})
    config = RolloutConfig(max_attempts=3, retry_condition=["failed"], timeout_seconds=1e4, unresponsive_seconds=1e3)
    for number in range(8):
        await store.enqueue_rollout(
            {"z": number, "a": ["ü", None, 1e-9]}, mode="train", config=config, metadata={"n": number}
        )
    done, retried, live, cancelled, silent, requeued = await store.dequeue_many_rollouts(limit=6, worker_id="w")
    await store.add_many_spans(
        [span_of(done, n, start_time=n / 7).model_copy(update={"kind": "CLIENT", "scope": {"v": None}}) for n in (5, 1)]
    )
    numbers = {"ids": list(range(100)), "logprobs": [-0.1 * n for n in range(100)], "after": "text"}
    await store.add_span(span_of(live, 2).model_copy(update={"attributes": numbers}))
    await store.add_span(span_of(done, 3))
    await store.get_next_span_sequence_id(done.rollout_id, done.attempt.attempt_id)
    await store.update_attempt(cancelled.rollout_id, "latest", status="succeeded", metadata={"x": [1]})
    await store.update_attempt(done.rollout_id, "latest", status="succeeded")
    await store.add_span(span_of(done, 9, "late"))
    await store.update_attempt(retried.rollout_id, "latest", status="failed")
    await store.update_rollout(cancelled.rollout_id, status="cancelled")
    await store.update_attempt(silent.rollout_id, "latest", status="unresponsive")
    await store.update_rollout(requeued.rollout_id, status="requeuing")


async def contents(store: SqlLightningStore) -> dict[str, Any]:
    """What the interface shows of a store, but for the workers."""
    rollouts = list(await store.query_rollouts())
    finished = await store.read_finished_rollouts(limit=1000)
    return {
        "rollouts": rollouts,
        "attempts": [list(await store.query_attempts(rollout.rollout_id)) for rollout in rollouts],
        "spans": [span async for span in store.iterate_spans()],
        "finished": [rollout.rollout_id for rollout in finished.items],
        "latest": await store.get_latest_resources(),
        "versions": [list(await store.query_resources(version=version, sort_by="resources_id")) for version in (1, 2)],
        "newest": list(await store.query_resources()),
        "queuing": (await store.query_rollouts(status_in=["queuing"], limit=1)).total,
    }


async def test_round_trip_is_exact(open_store: OpenStore, tmp_path: Path) -> None:
    async with AsyncExitStack() as closing:
        full, empty = open_store(), open_store()
        for store in (full, empty):
            closing.push_async_callback(store.close)
        await fill(full)
        path, again = tmp_path / "store.jsonl", tmp_path / "again.jsonl"
        exported = await full.export_to(path, with_secrets=True)
        assert exported == Transferred(resources=3, rollouts=8, attempts=6, spans=5)
        assert await empty.import_from(path) == exported
        before, after = await contents(full), await contents(empty)
        assert after == before
        assert to_json(after["spans"]) == to_json(before["spans"])
        assert to_json([rollout.input for rollout in after["rollouts"]]) == to_json(
            [rollout.input for rollout in before["rollouts"]]
        )
        await empty.export_to(again, with_secrets=True)
        assert again.read_bytes() == path.read_bytes()
        # Both go on alike: the same queue, the same counters.
        claimed = [[claim.rollout_id for claim in await s.dequeue_many_rollouts(limit=9)] for s in (full, empty)]
        assert claimed[0] == claimed[1]
        assert len(claimed[0]) == 4
        for rollout in before["rollouts"]:
            numbers = [await s.get_next_span_sequence_id(rollout.rollout_id, "at-any") for s in (full, empty)]
            assert numbers[0] == numbers[1]


async def test_import_goes_behind_what_is_there(open_store: OpenStore, tmp_path: Path) -> None:
    async with AsyncExitStack() as closing:
        full, other = open_store(), open_store()
        for store in (full, other):
            closing.push_async_callback(store.close)
        await fill(full)
        theirs = await contents(full)
        await full.export_to(tmp_path / "store.jsonl.gz", with_secrets=True)
        own = [(await other.enqueue_rollout("was there first")).rollout_id for _ in range(20)]
        ended = [(await other.start_rollout("ended first")).rollout_id for _ in range(20)]
        for rollout_id in ended:
            await other.update_rollout(rollout_id, status="failed")
        await other.add_resources({})
        await other.import_from(tmp_path / "store.jsonl.gz")
        both = await contents(other)
        assert [rollout.rollout_id for rollout in both["rollouts"]] == [
            *own,
            *ended,
            *(rollout.rollout_id for rollout in theirs["rollouts"]),
        ]
        assert both["finished"] == [*ended, *theirs["finished"]]
        assert both["latest"] == theirs["latest"]
        assert (await other.add_resources({})).version == 1
        claimed = await other.dequeue_many_rollouts(limit=99)
        expected = await full.dequeue_many_rollouts(limit=99)
        assert [claim.rollout_id for claim in claimed] == [*own, *(claim.rollout_id for claim in expected)]


async def test_who_waits_hears_of_an_import(tmp_path: Path) -> None:
    full, empty = InMemoryLightningStore(), InMemoryLightningStore()
    await fill(full)
    await full.export_to(tmp_path / "store.jsonl", with_secrets=True)
    feed = asyncio.create_task(empty.read_finished_rollouts(wait=60))
    work = asyncio.create_task(empty.dequeue_rollout(wait=60))
    await asyncio.wait([feed, work], timeout=0.02)
    await empty.import_from(tmp_path / "store.jsonl")
    assert (await soon(feed)).items
    assert await soon(work) is not None
    await full.close()
    await empty.close()


async def test_live_attempts_get_their_full_deadlines(tmp_path: Path) -> None:
    full, empty = InMemoryLightningStore(), InMemoryLightningStore()
    short = RolloutConfig(timeout_seconds=0.1)
    claim = await full.start_rollout(1)
    await full.export_to(tmp_path / "store.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "store.jsonl").read_text().splitlines()]
    lines[1]["config"] = short.model_dump()
    (tmp_path / "store.jsonl").write_bytes(b"\n".join(map(to_json, lines)))
    await empty.import_from(tmp_path / "store.jsonl")
    (ended,) = await empty.wait_for_rollouts(rollout_ids=[claim.rollout_id], timeout=PATIENCE)
    assert ended.status == "failed"
    await full.close()
    await empty.close()


async def test_keys_are_redacted_unless_asked_for(tmp_path: Path) -> None:
    full, empty = InMemoryLightningStore(), InMemoryLightningStore()
    await fill(full)
    path = tmp_path / "store.jsonl"
    await full.export_to(path)
    assert b"sk-secret" not in path.read_bytes()
    with pytest.raises(InvalidValue, match=r"line 3: .*--with-secrets.*nothing was imported"):
        await empty.import_from(path)
    assert await empty.get_latest_resources() is None
    await full.close()
    await empty.close()


def names_in(folder: Path, pattern: str) -> list[str]:
    return sorted(path.name for path in folder.glob(pattern))


def without_the_end(lines: list[Any]) -> list[Any]:
    return lines[:-1]


def without_the_first(lines: list[Any]) -> list[Any]:
    return lines[1:]


def of_the_future(lines: list[Any]) -> list[Any]:
    return [lines[0] | {"format": 99}, *lines[1:]]


def span_of_a_stranger(lines: list[Any]) -> list[Any]:
    return [*lines[:-1], lines[-1] | {"span": lines[-1]["span"] | {"rollout_id": "ro-unknown"}}]


def attempt_without_its_rollout(lines: list[Any]) -> list[Any]:
    return [line for line in lines if line["kind"] != "rollout"]


def rollout_twice(lines: list[Any]) -> list[Any]:
    index = next(index for index, line in enumerate(lines) if line["kind"] == "rollout")
    return [*lines[: index + 1], *lines[index:]]


def again(lines: list[Any], kind: str) -> list[Any]:
    """The last line of a kind comes again, later than at once."""
    last = max(index for index, line in enumerate(lines) if line["kind"] == kind)
    counts = lines[0]["counts"]
    key = kind if kind == "resources" else f"{kind}s"
    return [lines[0] | {"counts": counts | {key: counts[key] + 1}}, *lines[1 : last + 1], *lines[last:]]


def resources_twice(lines: list[Any]) -> list[Any]:
    return again(lines, "resources")


def attempt_twice(lines: list[Any]) -> list[Any]:
    return again(lines, "attempt")


def span_twice(lines: list[Any]) -> list[Any]:
    return again(lines, "span")


def place_beyond_the_counter(lines: list[Any]) -> list[Any]:
    return [lines[0] | {"queue": 1}, *lines[1:]]


def end_beyond_the_counter(lines: list[Any]) -> list[Any]:
    return [lines[0] | {"finish": 1}, *lines[1:]]


def two_exports(lines: list[Any]) -> list[Any]:
    return lines + lines


def status_of_no_kind(lines: list[Any]) -> list[Any]:
    return [line | {"status": "bored"} if line["kind"] == "rollout" else line for line in lines]


def unknown_kind(lines: list[Any]) -> list[Any]:
    return [*lines, {"kind": "worker"}]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (without_the_end, "not whole"),
        (without_the_first, "line 1: .*'store'"),
        (of_the_future, "upgrade"),
        (span_of_a_stranger, "ro-unknown"),
        (attempt_without_its_rollout, "does not follow its rollout"),
        (rollout_twice, "there already"),
        (resources_twice, "version 2 of resources mine is in the file twice"),
        (attempt_twice, r"line 17: attempt .* is in the file twice"),
        (span_twice, "span .* is in the file twice"),
        (place_beyond_the_counter, "line .*queue_position"),
        (end_beyond_the_counter, "line .*finish_position"),
        (two_exports, "second export"),
        (status_of_no_kind, "line 5: .*status"),
        (unknown_kind, "line 24: .*worker"),
    ],
)
async def test_damaged_file_changes_nothing(
    damage: Callable[[list[Any]], list[Any]], says: str, tmp_path: Path
) -> None:
    full, empty = InMemoryLightningStore(), InMemoryLightningStore()
    await fill(full)
    path = tmp_path / "store.jsonl"
    await full.export_to(path, with_secrets=True)
    lines = damage([from_json(line) for line in path.read_bytes().splitlines()])
    path.write_bytes(b"".join(to_json(line) + b"\n" for line in lines))
    with pytest.raises((InvalidValue, ConfigurationError), match=says):
        await empty.import_from(path)
    assert [value for value in (await contents(empty)).values() if value not in ([], [[], []], None, 0)] == []
    await full.close()
    await empty.close()


@pytest.mark.parametrize("at_once", [1, 200])
async def test_span_that_comes_twice_is_named(
    at_once: int, postgres: SqlLightningStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it was written before the other one was read."""
    monkeypatch.setattr(load, "_AT_ONCE", at_once)
    full, path = InMemoryLightningStore(), tmp_path / "store.jsonl"
    await fill(full)
    await full.export_to(path, with_secrets=True)
    lines = span_twice([json.loads(line) for line in path.read_text().splitlines()])
    path.write_bytes(b"".join(to_json(line) + b"\n" for line in lines))
    await full.close()
    for store in (InMemoryLightningStore(), postgres):
        with pytest.raises(InvalidValue, match=r"span .* is in the file twice; nothing was imported"):
            await store.import_from(path)
        await store.close()


async def test_others_go_on_beside_an_import(open_postgres: OpenPostgres, tmp_path: Path) -> None:
    full, importing, other = InMemoryLightningStore(), open_postgres(), open_postgres()
    for number in range(300):
        claim = await full.start_rollout(number)
        await full.add_resources({})
        await full.update_rollout(claim.rollout_id, status="succeeded")
    await full.enqueue_rollout("waits")
    await full.export_to(tmp_path / "store.jsonl")
    loop = asyncio.get_running_loop()
    ended: list[str] = []

    async def work() -> None:
        await other.enqueue_rollout("meanwhile")
        claim = await other.dequeue_rollout()
        assert claim is not None
        await other.update_attempt(claim.rollout_id, claim.attempt.attempt_id, status="succeeded")
        await other.add_resources({})
        ended.append(claim.rollout_id)

    def progress(done: Transferred, all_: Transferred) -> None:
        asyncio.run_coroutine_threadsafe(work(), loop).result(PATIENCE)

    theirs = await full.read_finished_rollouts(limit=1000)
    await importing.import_from(tmp_path / "store.jsonl", progress=progress)
    finished = await other.read_finished_rollouts(limit=1000)
    assert [rollout.rollout_id for rollout in finished.items] == ended + [item.rollout_id for item in theirs.items]
    latest, expected = await other.get_latest_resources(), await full.get_latest_resources()
    assert latest == expected
    assert [claim.input for claim in await other.dequeue_many_rollouts(limit=9)] == ["waits"]
    await full.close()


@pytest.mark.parametrize("body", [b"", b"\n", b"no json", b"[]", b'{"kind": "store"}', b"\xff\xfe", b'{"kind": 1}'])
@pytest.mark.parametrize("name", ["store.jsonl", "store.jsonl.gz", "half.jsonl.gz"])
async def test_file_that_is_no_export_is_refused(body: bytes, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(body)[:-9] if name.startswith("half") else body)
    store = InMemoryLightningStore()
    with pytest.raises(InvalidValue, match="nothing was imported"):
        await store.import_from(path)
    await store.close()


async def test_import_of_what_is_there_is_refused(tmp_path: Path) -> None:
    store = InMemoryLightningStore()
    await store.add_resources({})
    await store.export_to(tmp_path / "resources.jsonl")
    await store.start_rollout(1)
    await store.export_to(tmp_path / "all.jsonl")
    before = await contents(store)
    for name in ("resources.jsonl", "all.jsonl"):
        with pytest.raises(InvalidValue, match="there already"):
            await store.import_from(tmp_path / name)
    assert await contents(store) == before
    await store.close()


async def test_export_is_of_one_moment_and_holds_nobody_up(tmp_path: Path) -> None:
    store = SqliteLightningStore(tmp_path / "store.db")
    await store.enqueue_many_rollouts([EnqueueRolloutRequest(input=number) for number in range(500)])
    loop = asyncio.get_running_loop()
    steps: list[Transferred] = []

    def progress(done: Transferred, all_: Transferred) -> None:
        """Runs in the reader's thread, so that the export waits for what is written meanwhile."""
        steps.append(all_)
        asyncio.run_coroutine_threadsafe(store.start_rollout("meanwhile"), loop).result(PATIENCE)

    exported = await soon(store.export_to(tmp_path / "store.jsonl", progress=progress))
    assert exported == Transferred(rollouts=500)
    assert {counts.rollouts for counts in steps} == {500}
    assert (await store.query_rollouts(limit=0)).total == 500 + len(steps)
    await store.close()


async def test_two_exports_to_one_path_do_not_mix(tmp_path: Path) -> None:
    first, second, path = InMemoryLightningStore(), InMemoryLightningStore(), tmp_path / "store.jsonl"
    await first.enqueue_many_rollouts([EnqueueRolloutRequest(input=number) for number in range(500)])
    await second.enqueue_rollout("alone")
    loop = asyncio.get_running_loop()

    def progress(done: Transferred, all_: Transferred) -> None:
        asyncio.run_coroutine_threadsafe(second.export_to(path), loop).result(PATIENCE)

    await soon(first.export_to(path, progress=progress))
    assert len(path.read_text().splitlines()) == 501
    assert names_in(tmp_path, "*") == ["store.jsonl"]
    await first.close()
    await second.close()


async def test_disk_has_an_export_before_it_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced = tmp_path / "store.jsonl", list[tuple[int, str]]()
    path.write_text("what was there")
    monkeypatch.setattr(
        export.os, "fsync", lambda descriptor: synced.append((os.fstat(descriptor).st_ino, path.read_text()))
    )
    store = InMemoryLightningStore()
    await store.export_to(path)
    assert synced == [(path.stat().st_ino, "what was there")]
    await store.close()


@pytest.mark.parametrize("operation", ["export", "import"])
async def test_cancelled_transfer_leaves_nothing_behind(operation: str, tmp_path: Path) -> None:
    full, empty = SqliteLightningStore(tmp_path / "full.db"), SqliteLightningStore(tmp_path / "empty.db")
    await full.enqueue_many_rollouts([EnqueueRolloutRequest(input=number) for number in range(1000)])
    await full.export_to(tmp_path / "whole.jsonl")
    begun, cancelled, loop = asyncio.Event(), threading.Event(), asyncio.get_running_loop()

    def progress(done: Transferred, all_: Transferred) -> None:
        loop.call_soon_threadsafe(begun.set)
        cancelled.wait(PATIENCE)

    transfer = (
        full.export_to(tmp_path / "cancelled.jsonl", progress=progress)
        if operation == "export"
        else empty.import_from(tmp_path / "whole.jsonl", progress=progress)
    )
    working = asyncio.create_task(transfer)
    await soon(begun.wait())
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(working)
    cancelled.set()
    assert (await soon(empty.query_rollouts())).total == 0
    await full.close()
    await empty.close()
    assert names_in(tmp_path, "*.jsonl*") == ["whole.jsonl"]


async def test_file_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    store = InMemoryLightningStore()
    with pytest.raises(ConfigurationError, match=r"missing/store\.jsonl"):
        await store.export_to(tmp_path / "missing" / "store.jsonl")
    with pytest.raises(ConfigurationError, match=r"missing\.jsonl"):
        await store.import_from(tmp_path / "missing.jsonl")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match="folder"):
        await store.export_to(tmp_path / "folder")
    assert names_in(tmp_path, "*") == ["folder"]
    await store.close()
