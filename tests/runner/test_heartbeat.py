from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal

import pytest

from agentlightning.litagent import rollout
from agentlightning.runner import LitAgentRunner
from agentlightning.runner.heartbeat import Heartbeat, HeartbeatSettings
from agentlightning.runner.leases import Leases
from agentlightning.runner.snapshot import system_snapshot
from agentlightning.store import InMemoryLightningStore
from agentlightning.store.base import UNSET
from agentlightning.tracer import DummyTracer
from agentlightning.types import LeaseRenewal, RolloutConfig, Worker

DEADLINE = 10.0


class CountingStore(InMemoryLightningStore):
    """Counts heartbeats; the first `failures` of them fail."""

    def __init__(self, failures: int = 0) -> None:
        super().__init__()
        self.beats: list[tuple[str, dict[str, Any]]] = []
        self.failures = failures
        self.changed = threading.Condition()

    async def renew_leases(
        self,
        worker_id: str,
        held: Sequence[tuple[str, str]],
        *,
        as_of: float | None = None,
        heartbeat_stats: dict[str, Any] = UNSET,
    ) -> LeaseRenewal:
        self.count(worker_id, heartbeat_stats)
        return LeaseRenewal(time=1.0, lost=[])

    def count(self, worker_id: str, heartbeat_stats: dict[str, Any]) -> None:
        with self.changed:
            self.beats.append((worker_id, heartbeat_stats))
            self.changed.notify_all()
        if len(self.beats) <= self.failures:
            raise ConnectionError("lost")

    def wait_for_beats(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.beats) >= count, DEADLINE)


class FormerStore(CountingStore):
    """A store of a user's that knows heartbeats and no leases."""

    async def renew_leases(self, *args: Any, **options: Any) -> LeaseRenewal:
        raise NotImplementedError

    async def update_worker(self, worker_id: str, heartbeat_stats: dict[str, Any] = UNSET) -> Worker:
        self.count(worker_id, heartbeat_stats)
        return Worker(worker_id=worker_id)


@pytest.fixture(params=["asyncio", "thread"])
def mode(request: pytest.FixtureRequest) -> Literal["asyncio", "thread"]:
    return request.param


def heartbeat(store: InMemoryLightningStore, *settings: Any) -> Heartbeat:
    return Heartbeat(store, "Worker-1", Leases(), HeartbeatSettings(*settings))


@pytest.mark.parametrize("make_store", [CountingStore, FormerStore])
async def test_it_beats_at_once_again_and_never_after_the_end(
    make_store: type[CountingStore], mode: Literal["asyncio", "thread"]
) -> None:
    store = make_store()
    async with heartbeat(store, 0.01, 0.0, mode).beating():
        await asyncio.to_thread(store.wait_for_beats, 3)
    count = len(store.beats)
    assert {worker for worker, _ in store.beats} == {"Worker-1"}
    assert all("host" in stats for _, stats in store.beats)
    assert not [thread for thread in threading.enumerate() if "heartbeat" in thread.name]
    await asyncio.sleep(0)
    assert len(store.beats) == count
    await store.close()


async def test_a_failing_beat_costs_a_warning(
    mode: Literal["asyncio", "thread"], caplog: pytest.LogCaptureFixture
) -> None:
    store = CountingStore(failures=2)
    async with heartbeat(store, 0.01, 0.0, mode).beating():
        await asyncio.to_thread(store.wait_for_beats, 3)
    assert "heartbeat of Worker-1 failed: ConnectionError" in caplog.text
    await store.close()


async def test_a_store_without_leases_is_asked_once_and_costs_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    store = FormerStore()
    async with heartbeat(store, 0.01, 0.0).beating():
        await asyncio.to_thread(store.wait_for_beats, 3)
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["FormerStore has no renew_leases"]
    await store.close()


async def test_a_thread_beats_while_the_loop_is_blocked() -> None:
    store = CountingStore()
    async with heartbeat(store, 0.01, 0.0, "thread").beating():
        store.wait_for_beats(2)  # blocks the loop on purpose
    await store.close()


async def test_no_interval_no_beat() -> None:
    store = CountingStore()
    async with heartbeat(store, 0).beating():
        await asyncio.sleep(0)
    assert store.beats == []
    await store.close()


async def test_concurrent_steps_share_one_heartbeat_and_it_ends_with_the_last() -> None:
    store, release = CountingStore(), asyncio.Event()

    async def agent(task: int) -> None:
        await (release.wait() if task else asyncio.to_thread(store.wait_for_beats, 1))

    runner = LitAgentRunner[int](DummyTracer(), heartbeat_interval=1000)
    with runner.run_context(agent=rollout(agent), store=store, worker_id=7):
        long = asyncio.create_task(runner.step(1))
        async with asyncio.timeout(DEADLINE):
            await runner.step(0)
            assert [worker for worker, _ in store.beats] == ["Worker-7"]
            release.set()
            await long
            assert len(store.beats) == 1
    await store.close()


async def test_a_beat_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    store = CountingStore()

    async def hang(*args: object, **options: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(store, "renew_leases", hang)
    monkeypatch.setattr("agentlightning.runner.heartbeat.MIN_TIMEOUT", 0.01)
    await heartbeat(store, 0.01).beat()
    assert "TimeoutError" in caplog.text
    await store.close()


def test_a_snapshot_tells_about_the_machine() -> None:
    snapshot = system_snapshot(include_gpu=True)
    assert {"timestamp", "host", "os", "cpu_name", "cpu_threads", "disk_pct", "gpus"} <= snapshot.keys()
    assert 0 < snapshot["disk_pct"] <= 100
    assert "gpus" not in system_snapshot()


def test_gpus_are_read_from_nvidia_smi(monkeypatch: pytest.MonkeyPatch) -> None:
    class Answer:
        stdout = "Some GPU, 12, 100, 2000, [N/A]\n"

    run: Callable[..., Any] = lambda *args, **options: Answer  # noqa: E731
    monkeypatch.setattr("subprocess.run", run)
    assert system_snapshot(include_gpu=True)["gpus"] == [
        {"gpu": "Some GPU", "util_pct": 12.0, "mem_used_mb": 100.0, "mem_total_mb": 2000.0, "temp_c": "[N/A]"}
    ]


async def test_a_machine_that_cannot_be_read_holds_no_beat_up(
    mode: Literal["asyncio", "thread"], monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def hang(include_gpu: bool) -> dict[str, Any]:
        go_on.wait(DEADLINE)
        return {"host": "found"}

    monkeypatch.setattr("agentlightning.runner.snapshot.system_snapshot", hang)
    monkeypatch.setattr("agentlightning.runner.snapshot.PATIENCE", 0.01)
    store = CountingStore()
    async with heartbeat(store, 0.01, 0.0, mode).beating():
        await asyncio.to_thread(store.wait_for_beats, 3)
        (reader,) = [thread for thread in threading.enumerate() if thread.name == "agl-snapshot"]
        assert reader.daemon
        go_on.set()
        await asyncio.to_thread(store.wait_for_beats, len(store.beats) + 3)
    assert "host" not in store.beats[0][1]
    assert store.beats[-1][1]["host"] == "found"
    await store.close()


async def test_it_beats_often_enough_for_the_shortest_silence_that_is_allowed(
    mode: Literal["asyncio", "thread"],
) -> None:
    """Also when the attempt comes in the midst of a long pause."""
    store, leases = CountingStore(), Leases()
    settings = HeartbeatSettings(1000.0, 0.0, mode)
    async with Heartbeat(store, "Worker-1", leases, settings).beating():
        await asyncio.to_thread(store.wait_for_beats, 1)
        short = RolloutConfig(unresponsive_seconds=0.05)
        leases.hold(await store.start_rollout(0))
        leases.hold(await store.start_rollout(0, config=short))
        await asyncio.to_thread(store.wait_for_beats, 4)
    await store.close()
