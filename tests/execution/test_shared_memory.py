from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from typing import cast

import pytest

from agentlightning.errors import ConfigurationError, ExecutionError
from agentlightning.execution import ExecutionEvent, SharedMemoryExecutionStrategy, ThreadingEvent
from agentlightning.store import LightningStore

STORE = cast("LightningStore", object())


async def until_stopped(store: LightningStore, worker_id: int, event: ExecutionEvent) -> None:
    assert isinstance(event, ThreadingEvent)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    event.subscribe(lambda: loop.call_soon_threadsafe(stopped.set))
    await stopped.wait()


async def forever(*_: object) -> None:
    await asyncio.Event().wait()


def test_end_of_the_algorithm_stops_all_runners() -> None:
    ended: list[int] = []

    async def algorithm(store: LightningStore, event: ExecutionEvent) -> None:
        assert threading.current_thread() is threading.main_thread()

    async def runner(store: LightningStore, worker_id: int, event: ExecutionEvent) -> None:
        await until_stopped(store, worker_id, event)
        ended.append(worker_id)

    SharedMemoryExecutionStrategy(n_runners=3).execute(algorithm, runner, STORE)
    assert sorted(ended) == [0, 1, 2]


def test_end_of_the_algorithm_stops_a_runner_on_the_main_thread() -> None:
    async def algorithm(store: LightningStore, event: ExecutionEvent) -> None:
        assert threading.current_thread() is not threading.main_thread()

    SharedMemoryExecutionStrategy(main_thread="runner").execute(algorithm, until_stopped, STORE)


def test_algorithm_goes_on_when_runners_have_used_up_their_quota() -> None:
    runners_done = threading.Event()
    finished: list[bool] = []

    async def algorithm(store: LightningStore, event: ExecutionEvent) -> None:
        await asyncio.to_thread(runners_done.wait, 10)
        finished.append(not event.is_set())

    async def runner(store: LightningStore, worker_id: int, event: ExecutionEvent) -> None:
        runners_done.set()

    for main_thread in ("algorithm", "runner"):
        runners_done.clear()
        SharedMemoryExecutionStrategy(main_thread=main_thread).execute(algorithm, runner, STORE)  # type: ignore[arg-type]
    assert finished == [True, True]


@pytest.mark.parametrize("main_thread", ["algorithm", "runner"])
def test_error_of_the_algorithm_stops_runners_and_is_raised(main_thread: str) -> None:
    async def algorithm(store: LightningStore, event: ExecutionEvent) -> None:
        raise LookupError("algorithm")

    strategy = SharedMemoryExecutionStrategy(main_thread=main_thread)  # type: ignore[arg-type]
    with pytest.raises(LookupError, match="algorithm"):
        strategy.execute(algorithm, forever, STORE)


@pytest.mark.parametrize("main_thread", ["algorithm", "runner"])
def test_error_of_a_runner_cancels_the_algorithm_and_is_raised(main_thread: str) -> None:
    async def runner(store: LightningStore, worker_id: int, event: ExecutionEvent) -> None:
        raise LookupError("runner")

    strategy = SharedMemoryExecutionStrategy(main_thread=main_thread)  # type: ignore[arg-type]
    with pytest.raises(LookupError, match="runner"):
        strategy.execute(forever, runner, STORE)


def test_one_failing_runner_takes_the_others_down() -> None:
    cancelled: list[int] = []

    async def runner(store: LightningStore, worker_id: int, event: ExecutionEvent) -> None:
        if worker_id == 1:
            raise LookupError("runner 1")
        try:
            await forever()
        except asyncio.CancelledError:
            cancelled.append(worker_id)
            raise

    with pytest.raises(LookupError, match="runner 1"):
        SharedMemoryExecutionStrategy(n_runners=3).execute(forever, runner, STORE)
    assert set(cancelled) <= {0, 2}


def test_keyboard_interrupt_reaches_the_caller_after_cleanup() -> None:
    log: list[str] = []

    async def algorithm(store: LightningStore, event: ExecutionEvent) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await forever()
        finally:
            log.append("algorithm")

    async def runner(store: LightningStore, worker_id: int, event: ExecutionEvent) -> None:
        try:
            await forever()
        finally:
            log.append("runner")

    with pytest.raises(KeyboardInterrupt):
        SharedMemoryExecutionStrategy().execute(algorithm, runner, STORE)
    assert log[-1] == "algorithm"  # the runner, if it had begun by then, ends first
    assert set(log) <= {"algorithm", "runner"}


async def test_works_where_an_event_loop_runs_already() -> None:
    seen: list[str] = []

    async def algorithm(store: LightningStore, event: ExecutionEvent) -> None:
        seen.append(threading.current_thread().name)

    SharedMemoryExecutionStrategy().execute(algorithm, until_stopped, STORE)
    assert seen == ["agl-main"]


async def test_an_error_crosses_over_from_the_thread_of_its_own() -> None:
    async def algorithm(store: LightningStore, event: ExecutionEvent) -> None:
        raise LookupError("algorithm")

    with pytest.raises(LookupError, match="algorithm"):
        SharedMemoryExecutionStrategy().execute(algorithm, until_stopped, STORE)


def test_runner_that_will_not_stop_is_named() -> None:
    release = threading.Event()

    async def algorithm(store: LightningStore, event: ExecutionEvent) -> None:
        return

    async def runner(store: LightningStore, worker_id: int, event: ExecutionEvent) -> None:
        release.wait(60)

    strategy = SharedMemoryExecutionStrategy(graceful_delay=0.01, join_timeout=0.01)
    try:
        with pytest.raises(ExecutionError, match="blocks the event loop"):
            strategy.execute(algorithm, runner, STORE)
    finally:
        release.set()


def test_runners_that_end_while_the_algorithm_runs_say_so(caplog: pytest.LogCaptureFixture) -> None:
    async def algorithm(store: LightningStore, event: ExecutionEvent) -> None:
        async with asyncio.timeout(30):
            while "used up their quota" not in caplog.text:  # noqa: ASYNC110  # a log record sets no event
                await asyncio.sleep(0.01)

    async def runner(store: LightningStore, worker_id: int, event: ExecutionEvent) -> None:
        return

    with caplog.at_level(logging.WARNING):
        SharedMemoryExecutionStrategy(n_runners=2).execute(algorithm, runner, STORE)
    assert "All 2 runners have used up their quota" in caplog.text


def test_runners_end_before_an_algorithm_that_is_interrupted() -> None:
    log: list[str] = []
    started = threading.Event()

    async def algorithm(store: LightningStore, event: ExecutionEvent) -> None:
        await asyncio.to_thread(started.wait, 10)
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await forever()
        finally:
            log.append("algorithm")

    async def runner(store: LightningStore, worker_id: int, event: ExecutionEvent) -> None:
        started.set()
        try:
            await forever()
        finally:
            log.append("runner")

    with pytest.raises(KeyboardInterrupt):
        SharedMemoryExecutionStrategy().execute(algorithm, runner, STORE)
    assert log == ["runner", "algorithm"]


def test_impossible_placements_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="n_runners"):
        SharedMemoryExecutionStrategy(n_runners=0)
    with pytest.raises(ConfigurationError, match="n_runners=1"):
        SharedMemoryExecutionStrategy(n_runners=2, main_thread="runner")
