"""Whatever an agent, its store or an operator does to a runner: every attempt ends in the right status, in time, and
nobody is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faulty_agents as faults
import pytest

import agentlightning as agl
from agentlightning.runner import LitAgentRunner
from tests.store.server_process import ServerProcess

DEADLINE = 60.0
"""For anything to happen, on a machine that does much else."""
TIMEOUT = 1.5
"""`timeout_seconds` of what hangs."""


@dataclass(frozen=True)
class Fault:
    """What an agent does, where it runs, and what becomes of its attempt."""

    misbehave: Callable[[str], Any]
    isolation: str
    status: str
    error: str | None

    @property
    def agent(self) -> agl.LitAgent[Any]:
        is_async = asyncio.iscoroutinefunction(self.misbehave)
        return faults.async_agent(self.misbehave) if is_async else faults.sync_agent(self.misbehave)


THREAD, PROCESS = "thread", "process"
STOPPED = f"RolloutCancelled: the attempt was not over after its timeout_seconds={TIMEOUT}"
FAULTS = {
    "raises": Fault(faults.raises, THREAD, "failed", "LookupError: no such thing"),
    "raises, in a process": Fault(faults.raises, PROCESS, "failed", "LookupError: no such thing"),
    "hangs, async": Fault(faults.hangs_async, THREAD, "timeout", STOPPED),
    "hangs, async in a process": Fault(faults.hangs_async, PROCESS, "timeout", STOPPED),
    "hangs, sync in a process": Fault(faults.hangs, PROCESS, "timeout", STOPPED),
    "ignores cancellation": Fault(faults.ignores_cancellation, THREAD, "timeout", STOPPED),
    "ignores signals, in a process": Fault(faults.ignores_signals, PROCESS, "timeout", STOPPED),
    "exits the process": Fault(
        faults.exits, PROCESS, "failed", "AgentError: the process of the agent ended with exit code 3"
    ),
    "calls sys.exit": Fault(faults.calls_sys_exit, THREAD, "failed", "SystemExit: 4"),
    "calls sys.exit, in a process": Fault(faults.calls_sys_exit, PROCESS, "failed", "SystemExit: 4"),
    "raises what ends programs": Fault(faults.raises_own_exit, THREAD, "failed", "OwnExit: enough"),
    "raises what ends programs, async": Fault(faults.raises_own_exit_async, THREAD, "failed", "OwnExit: enough"),
    "raises what ends programs, in a process": Fault(
        faults.raises_own_exit, PROCESS, "failed", "AgentError: the agent raised OwnExit: enough"
    ),
    "interrupts itself, in a process": Fault(
        faults.interrupts_itself, PROCESS, "failed", "AgentError: the agent raised KeyboardInterrupt: "
    ),
    "raises GeneratorExit": Fault(
        faults.raises_generator_exit, THREAD, "failed", "AgentError: the agent raised GeneratorExit: over"
    ),
    "raises GeneratorExit, async": Fault(
        faults.raises_generator_exit_async, THREAD, "failed", "AgentError: the agent raised GeneratorExit: over"
    ),
    "raises GeneratorExit, in a process": Fault(
        faults.raises_generator_exit, PROCESS, "failed", "AgentError: the agent raised GeneratorExit: over"
    ),
    "crashes": Fault(faults.crashes, PROCESS, "failed", "AgentError: the process of the agent was killed by SIGSEGV"),
    "floods stdout": Fault(faults.floods_stdout, PROCESS, "succeeded", None),
    "leaks a program": Fault(faults.leaks_a_program, PROCESS, "succeeded", None),
    "leaks a fork": Fault(faults.leaks_a_fork, PROCESS, "succeeded", None),
    "leaks a program and hangs": Fault(faults.leaks_a_program_and_hangs, PROCESS, "timeout", STOPPED),
    "leaks a program and exits": Fault(
        faults.leaks_a_program_and_exits,
        PROCESS,
        "failed",
        "AgentError: the process of the agent ended with exit code 5",
    ),
}


@pytest.fixture
async def store() -> AsyncIterator[agl.InMemoryLightningStore]:
    store = agl.InMemoryLightningStore()
    yield store
    await store.close()


def is_alive(process: int) -> bool:
    """Whether a process runs; one that is dead and waits to be laid to rest does not."""
    try:
        os.kill(process, 0)
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"


async def until(condition: Callable[[], object], what: str) -> None:
    try:
        async with asyncio.timeout(DEADLINE):
            while not condition():  # noqa: ASYNC110  # other processes tell of nothing
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"no {what}")


async def noted(path: Path) -> int:
    """Wait for the number that an agent notes."""
    await until(path.exists, f"process in {path.name}")
    return number_in(path)


def number_in(path: Path) -> int:
    return int(path.read_text())


async def attempts(store: agl.LightningStore) -> dict[str, list[agl.Attempt]]:
    """Return the attempts of each rollout by its input."""
    return {
        item.input: list(await store.query_attempts(item.rollout_id)) for item in await store.query_rollouts(limit=-1)
    }


# -- agents ------------------------------------------------------------------------------------------------------------


def runner_for(isolation: Any = THREAD, **options: Any) -> LitAgentRunner[Any]:
    settings: dict[str, Any] = {"heartbeat_interval": 0, "cancel_grace": 0.1}
    return LitAgentRunner[Any](agl.OtelTracer(), isolation=isolation, **{**settings, **options})


def told(attempt: agl.Attempt) -> str:
    error = (attempt.metadata or {}).get("error", {})
    return f"{error.get('type')}: {error.get('message')}"


@pytest.mark.parametrize("name", FAULTS)
async def test_an_agent_that(
    name: str, store: agl.InMemoryLightningStore, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its attempt ends as it should, what it emitted is there, its slot goes on, and no process is left."""
    fault, path = FAULTS[name], tmp_path / "process"
    config = agl.RolloutConfig(timeout_seconds=TIMEOUT if fault.status == "timeout" else None)
    faulty = await store.enqueue_rollout(str(path), config=config)
    well = await store.enqueue_rollout(faults.WELL)
    runner = runner_for(fault.isolation, max_rollouts=2)
    with runner.run_context(agent=fault.agent, store=store):
        async with asyncio.timeout(DEADLINE):
            await runner.iter()
    output = capfd.readouterr()
    (attempt,) = await store.query_attempts(faulty.rollout_id)
    assert attempt.status == fault.status
    if fault.error is not None:
        assert told(attempt).startswith(fault.error)
    spans = [span.name for span in await store.query_spans(faulty.rollout_id)]
    ending = "agentlightning.annotation" if fault.status == "succeeded" else "agentlightning.exception"
    # A process may take longer to start than the attempt may live, on a machine that does much else.
    began = fault.status != "timeout" or path.exists()
    assert spans == (["agentlightning.message"] if began else []) + [ending]
    (after,) = await store.query_attempts(well.rollout_id)
    assert after.status == "succeeded"
    if fault.isolation == PROCESS and path.exists():
        assert not is_alive(number_in(path))
    if fault.misbehave is faults.floods_stdout:
        assert len(output.out) >= faults.FLOOD_BYTES <= len(output.err)


async def test_an_agent_that_hangs_in_a_thread_frees_its_slot(store: agl.InMemoryLightningStore) -> None:
    """The thread cannot be ended: it is left to itself, and what it returns is dropped."""
    release, returned = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    @agl.rollout
    def agent(task: str) -> float:
        if task != faults.WELL:
            release.wait(DEADLINE)
            loop.call_soon_threadsafe(returned.set)
        return 1.0

    hanging = await store.enqueue_rollout("hang", config=agl.RolloutConfig(timeout_seconds=TIMEOUT))
    await store.enqueue_rollout(faults.WELL)
    runner = runner_for(max_rollouts=2)
    with runner.run_context(agent=agent, store=store):
        async with asyncio.timeout(DEADLINE):
            await runner.iter()
            release.set()
            await returned.wait()
    ended = await attempts(store)
    assert {task: [one.status for one in tries] for task, tries in ended.items()} == {
        "hang": ["timeout"],
        faults.WELL: ["succeeded"],
    }
    assert [span.name for span in await store.query_spans(hanging.rollout_id)] == ["agentlightning.exception"]


async def test_time_is_kept_while_the_store_says_nothing(
    store: agl.InMemoryLightningStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without heartbeats and without the store's timer, the runner ends the attempt itself, as out of time."""

    async def keep_no_time(*args: Any) -> None:
        return None

    monkeypatch.setattr("agentlightning.store.sql.deadlines.expire_due", keep_no_time)
    started = asyncio.Event()

    @agl.rollout
    async def agent(task: str) -> None:
        started.set()
        await asyncio.sleep(faults.LONG)

    hanging = await store.enqueue_rollout("hang", config=agl.RolloutConfig(timeout_seconds=0.2))
    runner = runner_for(max_rollouts=1)
    with runner.run_context(agent=agent, store=store):
        async with asyncio.timeout(DEADLINE):
            await runner.iter()
    (attempt,) = await store.query_attempts(hanging.rollout_id)
    assert started.is_set()
    assert (attempt.status, told(attempt)) == ("timeout", STOPPED.replace(str(TIMEOUT), "0.2"))


# -- the store ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("how", "seconds"), [("dead", 10.0), ("hung", 3.0)])
async def test_a_store_that_is_away_for_a_while(tmp_path: Path, how: str, seconds: float) -> None:
    """What runs meanwhile is recorded once the store is back, what is out of time has ended, and the rest is run."""
    let_end = asyncio.Event()

    @agl.rollout
    async def agent(task: str) -> float:
        agl.emit_message("before")
        if task == "out of time":
            await asyncio.sleep(faults.LONG)
        await let_end.wait()
        if task == "fails meanwhile":
            raise LookupError("no such thing")
        return 1.0

    tasks = ["ends meanwhile", "fails meanwhile", "out of time", "waits in the queue"]
    limit = {"out of time": agl.RolloutConfig(timeout_seconds=seconds / 2)}
    arguments = ["--file", str(tmp_path / "store.db")]
    async with ServerProcess(arguments, tmp_path / "log") as server:
        await server.start()
        async with agl.LightningStoreClient(server.url) as store:
            for task in tasks:
                await store.enqueue_rollout(task, config=limit.get(task))
            runner = runner_for(max_rollouts=len(tasks), max_concurrency=3, heartbeat_interval=0.5)
            with runner.run_context(agent=agent, store=store):
                async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
                    group.create_task(runner.iter())
                    while len(await store.query_rollouts(status_in=["running"])) < 3:  # noqa: ASYNC110  # no event tells
                        await asyncio.sleep(0.01)
                    if how == "dead":
                        server.kill()
                    else:
                        server.hang()
                    let_end.set()
                    await asyncio.sleep(seconds)  # what is tested, not a guess at when something is over
                    if how == "dead":
                        await server.start()
                    else:
                        server.go_on()
            ended = await attempts(store)
    assert {task: [one.status for one in tries] for task, tries in ended.items()} == {
        "ends meanwhile": ["succeeded"],
        "fails meanwhile": ["failed"],
        "out of time": ["timeout"],
        "waits in the queue": ["succeeded"],
    }


# -- the runner's process ----------------------------------------------------------------------------------------------


class RunnerProcess:
    """A runner in a process of its own on a store that is served here."""

    def __init__(self, url: str, misbehave: Callable[[str], Any], isolation: str, log: Path) -> None:
        self._log = log
        with log.open("wb") as output:
            script = Path(__file__).with_name("runner_process.py")
            self._process = subprocess.Popen(
                [sys.executable, script, url, misbehave.__name__, isolation], stdout=output, stderr=output
            )

    def __enter__(self) -> RunnerProcess:
        return self

    def __exit__(self, *error: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    async def exit_code(self) -> int:
        try:
            return await asyncio.to_thread(self._process.wait, DEADLINE)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the runner does not end:\n{self._log.read_text()[-4000:]}")


@pytest.fixture
async def url(store: agl.InMemoryLightningStore) -> AsyncIterator[str]:
    server = agl.LightningStoreServer(store, port=0)
    await server.start()
    yield server.endpoint
    await server.stop()


TERMINATED = {
    "async": (faults.hangs_async, THREAD),
    "sync in a thread": (faults.hangs, THREAD),
    "sync in a process": (faults.hangs, PROCESS),
    "ignoring cancellation": (faults.ignores_cancellation, THREAD),
    "ignoring signals in a process": (faults.ignores_signals, PROCESS),
    "leaving a program behind": (faults.leaks_a_program_and_hangs, PROCESS),
}


@pytest.mark.parametrize("name", TERMINATED)
async def test_sigterm_to_a_runner_with_an_agent(
    name: str, store: agl.InMemoryLightningStore, url: str, tmp_path: Path
) -> None:
    """Its attempts end as failed, what is queued stays there, and no process is left."""
    misbehave, isolation = TERMINATED[name]
    paths = [tmp_path / str(number) for number in range(4)]
    for path in paths:
        await store.enqueue_rollout(str(path))
    with RunnerProcess(url, misbehave, isolation, tmp_path / "log") as runner:
        processes = [await noted(path) for path in paths[:3]]
        runner.send(signal.SIGTERM)
        assert await runner.exit_code() == 0, (tmp_path / "log").read_text()
    ended = await attempts(store)
    assert [[one.status for one in ended[str(path)]] for path in paths] == [["failed"]] * 3 + [[]]
    assert {told(ended[str(path)][0]).partition(":")[0] for path in paths[:3]} == {"RolloutCancelled"}
    assert not [process for process in processes if is_alive(process)]


async def test_a_runner_that_is_killed_takes_its_agents_with_it(
    store: agl.InMemoryLightningStore, url: str, tmp_path: Path
) -> None:
    path = tmp_path / "process"
    await store.enqueue_rollout(str(path))
    with RunnerProcess(url, faults.leaks_a_program_and_hangs, PROCESS, tmp_path / "log") as runner:
        program = await noted(path)
        assert is_alive(program)
        runner.send(signal.SIGKILL)
        assert await runner.exit_code() == -signal.SIGKILL
        await until(lambda: not is_alive(program), "end of what the agent started")
