"""What a store on a file acknowledged is there after its process was killed."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from agentlightning.store import SqliteLightningStore

WRITER = """
import asyncio, sys
from agentlightning.store import SqliteLightningStore
from agentlightning.types import Span

async def live(store):
    while True:
        made = await store.enqueue_rollout({"x": 1})
        print("rollout", made.rollout_id, flush=True)
        claim = await store.dequeue_rollout("w")
        attempt = claim.attempt
        for n in range(3):
            span = await store.add_span(Span.from_attributes(
                attributes={"n": n}, rollout_id=claim.rollout_id, attempt_id=attempt.attempt_id, sequence_id=n))
            print("span", claim.rollout_id, span.span_id, flush=True)
        await store.update_attempt(claim.rollout_id, attempt.attempt_id, status="succeeded")
        print("done", claim.rollout_id, flush=True)
        last = await store.enqueue_rollout("stays")
        print("rollout", last.rollout_id, flush=True)
        print("stays", last.rollout_id, flush=True)
        await store.update_rollout(last.rollout_id, status="requeuing")

async def main():
    store = SqliteLightningStore(sys.argv[1])
    print("ready", flush=True)
    await asyncio.gather(*(live(store) for _ in range(int(sys.argv[2]))))

asyncio.run(main())
"""


KEYED_WRITER = """
import asyncio, sys
from agentlightning.store import SqliteLightningStore

async def live(store, producer):
    for n in range(1_000_000):
        task = f"{producer}-{n}"
        made = await store.keyed(task, b"").enqueue_rollout(task)
        print(task, made.rollout_id, flush=True)

async def main():
    store = SqliteLightningStore(sys.argv[1])
    print("ready", flush=True)
    await asyncio.gather(*(live(store, producer) for producer in range(int(sys.argv[2]))))

asyncio.run(main())
"""


def write_until_killed(program: str, path: Path, producers: int, lines: int) -> list[list[str]]:
    """Let a process write, kill it once it has acknowledged so many writes; returns all that it acknowledged."""
    command = [sys.executable, "-c", program, str(path), str(producers)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == "ready\n"
            acknowledged = [child.stdout.readline() for _ in range(lines)]
        finally:
            child.kill()
        acknowledged += child.stdout.read().splitlines(keepends=True)
    return [line.split() for line in acknowledged if line.endswith("\n")]


@pytest.mark.parametrize(("producers", "lines"), [(4, 1), (4, 40), (4, 150), (4, 400), (64, 200), (64, 2000)])
async def test_everything_acknowledged_survives_a_kill(tmp_path: Path, producers: int, lines: int) -> None:
    path = tmp_path / "store.db"
    acknowledged = write_until_killed(WRITER, path, producers, lines)
    store = SqliteLightningStore(path)
    rollouts = {rollout.rollout_id: rollout for rollout in await store.query_rollouts()}
    assert {words[1] for words in acknowledged if words[0] == "rollout"} <= rollouts.keys()
    for rollout_id in {words[1] for words in acknowledged if words[0] == "span"}:
        written = {words[2] for words in acknowledged if words[:2] == ["span", rollout_id]}
        assert written <= {span.span_id for span in await store.query_spans(rollout_id)}
    assert {rollouts[words[1]].status for words in acknowledged if words[0] == "done"} <= {"succeeded"}
    queued = [rollout.rollout_id for rollout in rollouts.values() if rollout.status in ("queuing", "requeuing")]
    claims = await store.dequeue_many_rollouts(limit=len(rollouts) + 1)
    assert sorted(claim.rollout_id for claim in claims) == sorted(queued)
    await store.close()


@pytest.mark.parametrize("lines", [1, 300, 1000])
async def test_a_key_is_there_exactly_if_what_it_did_is(tmp_path: Path, lines: int) -> None:
    path, producers = tmp_path / "store.db", 64
    acknowledged = {task: rollout_id for task, rollout_id in write_until_killed(KEYED_WRITER, path, producers, lines)}
    store = SqliteLightningStore(path)
    before = {str(rollout.input): rollout.rollout_id for rollout in await store.query_rollouts()}
    assert acknowledged.items() <= before.items()
    counted = [int(task.split("-")[1]) for task in before]
    for producer in range(producers):
        for n in range(max(counted) + 1):
            task = f"{producer}-{n}"
            rollout = await store.keyed(task, b"").enqueue_rollout(task)
            assert before.setdefault(task, rollout.rollout_id) == rollout.rollout_id
    assert (await store.query_rollouts()).total == producers * (max(counted) + 1)
    await store.close()


def test_a_program_that_never_closes_its_store_ends_and_loses_nothing(tmp_path: Path) -> None:
    program = """
import asyncio, sys
from agentlightning.store import InMemoryLightningStore, SqliteLightningStore
store, other = SqliteLightningStore(sys.argv[1]), InMemoryLightningStore()
asyncio.run(other.enqueue_rollout(1))
print(asyncio.run(store.enqueue_rollout(1)).rollout_id)
"""
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", program, str(tmp_path / "store.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    store = SqliteLightningStore(tmp_path / "store.db")
    assert [rollout.rollout_id for rollout in asyncio.run(store.query_rollouts())] == [done.stdout.strip()]
    asyncio.run(store.close())
