from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from typing import Any

import pytest

import agentlightning as agl
from agentlightning._internal.aio import wait_for_flag
from agentlightning.errors import ConfigurationError, MissingExtra
from agentlightning.execution import ExecutionEvent
from agentlightning.execution.ray_cluster import connected

ray = pytest.importorskip("ray")

PROMPT = agl.PromptTemplate(template="{x}", engine="f-string")


class Runner:
    """Does as the rollouts say, in a process of its own."""

    def __init__(self) -> None:
        self.home = os.getpid()

    async def __call__(self, store: agl.LightningStore, worker_id: int, event: ExecutionEvent) -> None:
        assert os.getpid() != self.home
        await store.add_resources({"prompt": PROMPT})
        stop = asyncio.create_task(wait_for_flag(event))
        while not stop.done():
            for rollout in await store.dequeue_many_rollouts(worker_id=f"it-{worker_id}", wait=0.2):
                if rollout.input == "deadly":
                    os._exit(0)
                await store.update_attempt(rollout.rollout_id, rollout.attempt.attempt_id, status="succeeded")
        await store.update_resources(f"{worker_id} ended", {"prompt": PROMPT})


async def begun(store: agl.LightningStore, processes: int) -> None:
    async with asyncio.timeout(90):
        while len(await store.query_resources()) < processes:  # noqa: ASYNC110  # written in other processes
            await asyncio.sleep(0.02)


async def end(store: agl.LightningStore, task: str) -> str:
    rollout = await store.enqueue_rollout(task)
    done = await store.wait_for_rollout(rollout.rollout_id, timeout=60)
    assert done is not None
    return done.status


async def never(*_: object) -> None:
    raise AssertionError("nothing should have started")


def test_local_cluster_lives_as_long_as_the_run_and_starts_runners_again() -> None:
    store = agl.InMemoryLightningStore()
    ends: list[str] = []

    async def algorithm(store: agl.LightningStore, event: ExecutionEvent) -> None:
        assert ray.cluster_resources()["CPU"] >= 2, "there is room for all"
        await begun(store, 2)
        ends.append(await end(store, "deadly"))
        await begun(store, 3)
        ends.append(await end(store, "harmless"))

    agl.RayExecutionStrategy(2).execute(algorithm, Runner(), store)
    assert ends == ["failed", "succeeded"], "what the dead one held was released"
    assert [len(asyncio.run(store.query_resources(resources_id=f"{number} ended"))) for number in range(2)] == [1, 1]
    assert not ray.is_initialized()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert "RAY_USAGE_STATS_ENABLED" not in os.environ


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_runners": 0}, "make it 1 <= min_runners <= n_runners"),
        ({"n_runners": 2, "min_runners": 3}, "make it 1 <= min_runners <= n_runners"),
        ({"actor_options": {"max_restarts": 1, "lifetime": "detached"}}, "actor_options say lifetime, max_restarts"),
    ],
    ids=["no runner", "more than there are", "ours"],
)
def test_contradictions_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        agl.RayExecutionStrategy(**arguments)


def test_clusters_that_cannot_be_used_are_named_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigurationError, match=f"there is no Ray cluster at '{address}'"), connected(address, 1):
            pass
    strategy = agl.RayExecutionStrategy(address="ray://somewhere:10001")
    with pytest.raises(ConfigurationError, match="start the program on a node"):
        strategy.execute(never, never, agl.InMemoryLightningStore())


@pytest.mark.parametrize("address", ["10.0.0.1", "nonsense"])
def test_malformed_addresses_are_named_as_such(address: str) -> None:
    message = f"there is no Ray cluster at '{address}', which is no host:port: .+"
    with pytest.raises(ConfigurationError, match=message), connected(address, 1):
        pass
    assert not ray.is_initialized()


def test_a_handler_of_sigterm_that_python_did_not_set_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "getsignal", lambda _: None)
    with pytest.raises(ConfigurationError, match="no host:port"), connected("nonsense", 1):
        pass


def test_ray_that_is_missing_or_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = agl.RayExecutionStrategy()
    monkeypatch.setattr(ray, "__version__", "2.9.3")
    with pytest.raises(ConfigurationError, match=r"Ray 2\.9\.3 is too old .* needs 2\.50 or newer: pip install"):
        strategy.execute(never, never, agl.InMemoryLightningStore())
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"pip install -e '\.\[ray\]'"):
        strategy.execute(never, never, agl.InMemoryLightningStore())


def test_what_cannot_be_sent_is_named_before_anything_starts() -> None:
    class Connected:
        def __init__(self) -> None:
            self.connection = socket.socket

        def __reduce__(self) -> Any:
            raise TypeError("not this")

    with pytest.raises(ConfigurationError, match="cannot be sent"):
        agl.RayExecutionStrategy().execute(never, Connected(), agl.InMemoryLightningStore())  # type: ignore[arg-type]
    assert not ray.is_initialized()
