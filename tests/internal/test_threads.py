from __future__ import annotations

import asyncio
import threading

import pytest

from agentlightning._internal.threads import run_in_thread, run_to_its_end


async def test_cancelled_caller_goes_on_only_when_the_thread_has_ended() -> None:
    started, release = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    log: list[str] = []

    def work() -> None:
        loop.call_soon_threadsafe(started.set)
        release.wait(30)
        log.append("work ended")

    async def caller() -> None:
        try:
            await run_to_its_end(work)
        finally:
            log.append("caller went on")

    task = asyncio.create_task(caller())
    await started.wait()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    loop.call_later(0.05, release.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == ["work ended", "caller went on"]


async def test_result_and_error_come_back() -> None:
    assert await run_to_its_end(max, 1, 2) == 2
    with pytest.raises(ZeroDivisionError):
        await run_to_its_end(divmod, 1, 0)


async def test_cancelled_caller_of_a_users_function_does_not_wait() -> None:
    release = threading.Event()
    task = asyncio.create_task(run_in_thread(lambda: release.wait(30), "blocked"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert any(thread.name == "blocked" for thread in threading.enumerate())
    release.set()


async def test_stop_iteration_of_a_users_function_comes_back() -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        await run_in_thread(lambda: next(iter(())), "empty")
