from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Any

import pytest

import agentlightning as agl
from agentlightning._internal.aio import wait_for_flag
from agentlightning.errors import AddressTaken, ConfigurationError, ExecutionError, Forbidden
from agentlightning.execution import ClientServerExecutionStrategy, ExecutionEvent
from agentlightning.execution.run_store import Members

Bundle = Callable[..., Coroutine[Any, Any, None]]
PROMPT = agl.PromptTemplate(template="{x}", engine="f-string")


def cs(**arguments: Any) -> ClientServerExecutionStrategy:
    return ClientServerExecutionStrategy(**{"server_port": 0, **arguments})


@pytest.fixture
def store() -> agl.InMemoryLightningStore:
    return agl.InMemoryLightningStore()


async def forever(*_: object) -> None:
    await asyncio.Event().wait()


async def until_stopped(store: agl.LightningStore, worker_id: int, event: ExecutionEvent) -> None:
    await wait_for_flag(event)


async def present(store: agl.LightningStore, *names: str) -> None:
    """Return when somebody has stored resources under these ids."""
    async with asyncio.timeout(60):
        for name in names:
            while await store.get_resources_by_id(name) is None:  # noqa: ASYNC110  # written in other processes
                await asyncio.sleep(0.02)


async def say(store: agl.LightningStore, name: str) -> None:
    await store.update_resources(name, {"prompt": PROMPT})


async def failed(store: agl.LightningStore, rollout: agl.Rollout) -> None:
    finished = await store.wait_for_rollout(rollout.rollout_id, timeout=60)
    assert finished is not None
    assert finished.status == "failed"


async def ends(store: agl.LightningStore, event: ExecutionEvent) -> None:
    return


def test_runners_are_processes_and_end_with_the_algorithm(store: agl.LightningStore) -> None:
    here, suffix = os.getpid(), "is elsewhere"  # what a closure holds travels with it

    async def runner(store: agl.LightningStore, worker_id: int, event: ExecutionEvent) -> None:
        assert os.getpid() != here
        await say(store, f"{worker_id} {suffix}")
        await wait_for_flag(event)
        await say(store, f"{worker_id} ended")

    async def algorithm(store: agl.LightningStore, event: ExecutionEvent) -> None:
        assert os.getpid() == here
        await present(store, "0 is elsewhere", "1 is elsewhere")

    cs(n_runners=2).execute(algorithm, runner, store)
    asyncio.run(present(store, "0 ended", "1 ended"))


def test_algorithm_is_a_process_and_its_end_stops_the_runner_here(store: agl.LightningStore) -> None:
    here, seen = os.getpid(), list[int]()

    async def algorithm(store: agl.LightningStore, event: ExecutionEvent) -> None:
        assert os.getpid() != here
        await present(store, "runner")

    async def runner(store: agl.LightningStore, worker_id: int, event: ExecutionEvent) -> None:
        await say(store, "runner")
        await wait_for_flag(event)
        seen.append(os.getpid())

    cs(main_process="runner").execute(algorithm, runner, store)
    assert seen == [here]


@pytest.mark.parametrize("main_process", ["algorithm", "runner"])
def test_error_of_either_side_is_raised_and_says_where_it_was(store: agl.LightningStore, main_process: Any) -> None:
    async def fail(*_: object) -> None:
        raise LookupError("on purpose")

    with pytest.raises(LookupError, match="on purpose") as caught:
        cs(main_process=main_process).execute(fail, until_stopped, store)
    elsewhere = getattr(caught.value, "__notes__", [""])[0]
    assert ("the process of the algorithm" in elsewhere) is (main_process == "runner")
    with pytest.raises(LookupError, match="on purpose") as caught:
        cs(main_process=main_process).execute(forever, fail, store)
    elsewhere = getattr(caught.value, "__notes__", [""])[0]
    assert ("the process of runner 0" in elsewhere) is (main_process == "algorithm")


def test_what_cannot_be_sent_is_named_before_anything_starts(store: agl.LightningStore) -> None:
    started: list[bool] = []
    lock = threading.Lock()

    async def algorithm(store: agl.LightningStore, event: ExecutionEvent) -> None:
        started.append(True)

    async def runner(store: agl.LightningStore, worker_id: int, event: ExecutionEvent) -> None:
        with lock:
            return

    with pytest.raises(ConfigurationError, match="the run's lock, a lock, cannot be sent to a process"):
        cs().execute(algorithm, runner, store)
    with pytest.raises(ConfigurationError, match=r"the run\.connections\[1\], a lock, cannot be sent to a process"):
        cs(main_process="runner").execute(Connected(), until_stopped, store)
    assert not started


class Connected:
    """An algorithm that holds what only this process has."""

    def __init__(self) -> None:
        self.connections = [0, threading.Lock()]

    async def __call__(self, store: agl.LightningStore, event: ExecutionEvent) -> None:
        return


@pytest.mark.parametrize("code", [0, 3])
def test_claims_of_a_runner_that_dies_are_released_and_another_one_takes_its_place(
    store: agl.LightningStore, code: int
) -> None:
    async def runner(store: agl.LightningStore, worker_id: int, event: ExecutionEvent) -> None:
        (rollout,) = await store.dequeue_many_rollouts(worker_id=f"it-{worker_id}", wait=60)
        if rollout.input == "deadly":
            os._exit(code)
        await store.update_attempt(rollout.rollout_id, rollout.attempt.attempt_id, status="succeeded")
        await wait_for_flag(event)

    async def algorithm(store: agl.LightningStore, event: ExecutionEvent) -> None:
        await failed(store, await store.enqueue_rollout("deadly"))
        second = await store.enqueue_rollout("harmless")
        assert [done.status for done in await store.wait_for_rollouts(rollout_ids=[second.rollout_id], timeout=60)] == [
            "succeeded"
        ]

    cs().execute(algorithm, runner, store)


def test_run_ends_when_too_few_runners_are_left(store: agl.LightningStore) -> None:
    async def runner(store: agl.LightningStore, worker_id: int, event: ExecutionEvent) -> None:
        if worker_id == 1:
            os._exit(3)
        await wait_for_flag(event)

    with pytest.raises(ExecutionError, match="1 of 2 runners are left, and there must be 2: runner 1 ended with exit"):
        cs(n_runners=2, min_runners=2, max_restarts=1).execute(forever, runner, store)


def test_runner_with_an_allowed_exit_is_not_started_again(store: agl.LightningStore) -> None:
    async def runner(store: agl.LightningStore, worker_id: int, event: ExecutionEvent) -> None:
        await store.add_resources({"prompt": PROMPT})
        if worker_id == 1:
            os._exit(7)
        await wait_for_flag(event)
        await store.add_resources({"prompt": PROMPT})

    async def algorithm(store: agl.LightningStore, event: ExecutionEvent) -> None:
        async with asyncio.timeout(60):
            while len(await store.query_resources()) < 2:  # noqa: ASYNC110  # written in other processes
                await asyncio.sleep(0.02)

    cs(n_runners=2, allowed_exit_codes=(7,), max_restarts=0, min_runners=2).execute(algorithm, runner, store)
    assert len(asyncio.run(store.query_resources())) == 3


def test_sigterm_takes_a_runner_out_of_the_run(store: agl.LightningStore) -> None:
    async def runner(store: agl.LightningStore, worker_id: int, event: ExecutionEvent) -> None:
        await say(store, str(os.getpid()))
        try:
            await asyncio.Event().wait()
        finally:
            await say(store, "has cleaned up")

    async def algorithm(store: agl.LightningStore, event: ExecutionEvent) -> None:
        async with asyncio.timeout(60):
            while not (said := await store.query_resources()):  # noqa: ASYNC110  # written in another process
                await asyncio.sleep(0.02)
        os.kill(int(said[0].resources_id), signal.SIGTERM)
        await present(store, "has cleaned up")

    cs(max_restarts=0).execute(algorithm, runner, store)
    assert len(asyncio.run(store.query_resources())) == 2, "no other runner was started"


@pytest.mark.parametrize("n_runners", [1, 2])
def test_runners_started_elsewhere_join_work_and_stop_when_the_algorithm_does(
    store: agl.LightningStore, n_runners: int
) -> None:
    async def runner(store: agl.LightningStore, worker_id: int, event: ExecutionEvent) -> None:
        await say(store, f"runner {worker_id}")
        await wait_for_flag(event)
        await say(store, f"runner {worker_id} ended")

    async def algorithm(store: agl.LightningStore, event: ExecutionEvent) -> None:
        await present(store, *(f"runner {number}" for number in range(n_runners)))

    with socket.socket() as probe:
        probe.bind(("127.0.0.2", 0))
        address = {"server_host": "127.0.0.2", "server_port": probe.getsockname()[1]}
    other = ClientServerExecutionStrategy("runner", n_runners=n_runners, **address)
    thread = threading.Thread(target=other.execute, args=(forever, runner, store), daemon=True)
    thread.start()
    ClientServerExecutionStrategy("algorithm", n_runners=0, **address).execute(algorithm, until_stopped, store)
    thread.join(60)
    assert not thread.is_alive()
    asyncio.run(present(store, *(f"runner {number} ended" for number in range(n_runners))))


def test_runners_have_fewer_rights_than_the_algorithm_where_there_is_a_token(store: agl.LightningStore) -> None:
    async def runner(store: agl.LightningStore, worker_id: int, event: ExecutionEvent) -> None:
        await store.update_worker("me", {})
        with pytest.raises(Forbidden):
            await store.release_worker("me")

    async def algorithm(store: agl.LightningStore, event: ExecutionEvent) -> None:
        await store.release_worker("me")

    cs(token="secret").execute(algorithm, runner, store)
    cs(token="secret", main_process="runner").execute(algorithm, until_stopped, store)


def test_store_that_all_processes_see_is_handed_over_as_it_is(store: agl.LightningStore) -> None:
    async def serve() -> None:
        server = agl.LightningStoreServer(store, port=0)
        await server.start()
        try:
            client = agl.LightningStoreClient(server.endpoint)
            await asyncio.to_thread(cs(managed_store=False).execute, algorithm, runner, client)
        finally:
            await server.stop()

    async def algorithm(store: agl.LightningStore, event: ExecutionEvent) -> None:
        assert isinstance(store, agl.LightningStoreClient)
        await present(store, "runner")

    async def runner(store: agl.LightningStore, worker_id: int, event: ExecutionEvent) -> None:
        await say(store, "runner")

    asyncio.run(serve())
    with pytest.raises(ConfigurationError, match="InMemoryLightningStore is in one alone"):
        cs(managed_store=False).execute(algorithm, runner, store)


def test_usual_port_gives_way_but_a_chosen_one_does_not(
    store: agl.LightningStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoints: list[str] = []

    async def algorithm(store: agl.LightningStore, event: ExecutionEvent) -> None:
        assert isinstance(store, agl.LightningStoreServer)
        endpoints.append(store.endpoint)

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr("agentlightning.execution.client_server.PORT", port)
        ClientServerExecutionStrategy().execute(algorithm, until_stopped, store)
        assert len(endpoints) == 1
        assert not endpoints[0].endswith(f":{port}")
        with pytest.raises(AddressTaken):
            ClientServerExecutionStrategy(server_port=port).execute(algorithm, until_stopped, store)


def test_other_machines_hear_the_advertised_name(store: agl.LightningStore) -> None:
    endpoints: list[str] = []

    async def algorithm(store: agl.LightningStore, event: ExecutionEvent) -> None:
        assert isinstance(store, agl.LightningStoreServer)
        endpoints.append(store.endpoint)

    cs(advertise_host="algorithm.example").execute(algorithm, until_stopped, store)
    assert endpoints[0].startswith("http://algorithm.example:")


def test_environment_places_a_process_and_arguments_win(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "CURRENT_ROLE": "runner",
        "SERVER_HOST": "far",
        "SERVER_PORT": "1",
        "MANAGED_STORE": "0",
    }.items():
        monkeypatch.setenv(f"AGL_{name}", value)
    placed = ClientServerExecutionStrategy()
    assert (placed.role, placed.server_host, placed.server_port, placed.managed_store) == ("runner", "far", 1, False)
    placed = ClientServerExecutionStrategy("algorithm", "near", 2, managed_store=True)
    assert (placed.role, placed.server_host, placed.server_port, placed.managed_store) == ("algorithm", "near", 2, True)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"role": "everything"}, id="role"),
        pytest.param({"main_process": "both"}, id="main_process"),
        pytest.param({"main_process": "runner", "n_runners": 2}, id="two_runners_in_one_process"),
        pytest.param({"main_process": "runner", "role": "algorithm"}, id="no_runner_to_be_main"),
        pytest.param({"role": "runner", "n_runners": 0}, id="nothing_to_do"),
        pytest.param({"n_runners": -1}, id="negative"),
        pytest.param({"n_runners": 2, "min_runners": 3}, id="more_than_there_are"),
    ],
)
def test_impossible_placements_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        ClientServerExecutionStrategy(**arguments)


def test_what_agents_need_is_served_until_runners_elsewhere_have_ended(
    store: agl.LightningStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []
    is_waited_for = threading.Event()
    wait = Members.wait_until_gone

    def wait_until_gone(members: Members, timeout: float) -> int:
        is_waited_for.set()
        return wait(members, timeout)

    monkeypatch.setattr(Members, "wait_until_gone", wait_until_gone)

    class Served:
        @contextmanager
        def serving(self, store: agl.LightningStore) -> Generator[None]:
            yield
            log.append("gateway ended")

        async def __call__(self, store: agl.LightningStore, event: ExecutionEvent) -> None:
            await present(store, "runner")

    async def runner(store: agl.LightningStore, worker_id: int, event: ExecutionEvent) -> None:
        await say(store, "runner")
        await wait_for_flag(event)
        await asyncio.to_thread(is_waited_for.wait, 60)
        await say(store, "reported")
        log.append("runner ended")

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    other = ClientServerExecutionStrategy("runner", server_port=port, graceful_timeout=60)
    thread = threading.Thread(target=other.execute, args=(forever, runner, store), daemon=True)
    thread.start()
    leader = ClientServerExecutionStrategy("algorithm", server_port=port, graceful_timeout=60)
    leader.execute(Served(), until_stopped, store)
    thread.join(60)
    assert log == ["runner ended", "gateway ended"]
