from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agentlightning.errors import RolloutCancelled
from agentlightning.execution.events import ThreadingEvent
from agentlightning.runner.cancel import cancelled_by, settled

DEADLINE = 10.0


class Broken(ThreadingEvent):
    """An event that cannot be watched."""

    def subscribe(self, callback: Any) -> Any:
        raise OSError("gone")


def current() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


async def run(event: ThreadingEvent, error: type[BaseException] | None) -> None:
    """Be cancelled by the event, and say something else about it."""
    async with cancelled_by(event):
        asyncio.get_running_loop().call_soon(event.set)
        try:
            await asyncio.sleep(DEADLINE)
        except asyncio.CancelledError as cancelled:
            if error is not None:
                raise error from cancelled


@pytest.mark.parametrize("error", [None, ValueError, asyncio.CancelledError])
async def test_whatever_a_block_makes_of_the_event_it_counts_as_cancelled(error: type[BaseException] | None) -> None:
    with pytest.raises(RolloutCancelled) as caught:
        await run(ThreadingEvent(), error)
    assert isinstance(caught.value.__cause__, error or type(None))
    assert current().cancelling() == 0


async def test_an_interruption_of_the_block_is_raised_as_it_is() -> None:
    class Interruption(BaseException):
        pass

    with pytest.raises(Interruption):
        await run(ThreadingEvent(), Interruption)
    assert current().cancelling() == 0


async def test_the_cancellation_of_the_task_wins_over_the_event() -> None:
    event, waiting = ThreadingEvent(), asyncio.Event()

    async def work() -> None:
        async with cancelled_by(event):
            waiting.set()
            await asyncio.sleep(DEADLINE)

    task = asyncio.create_task(work())
    await waiting.wait()
    event.set()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_an_event_that_cannot_be_watched_cancels_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with cancelled_by(Broken()):
        await asyncio.sleep(0)
    assert current().cancelling() == 0
    assert "gone" in caplog.text


@pytest.mark.parametrize("error", [None, OSError("full")])
async def test_settled_work_ends_and_its_cancellation_is_kept(error: OSError | None) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def work() -> int:
        started.set()
        await go_on.wait()
        if error is not None:
            raise error
        return 1

    task = asyncio.create_task(settled(work(), DEADLINE))
    await started.wait()
    task.cancel()
    await asyncio.sleep(0)
    go_on.set()
    if error is None:
        result, cancelled = await task
        assert (result, type(cancelled)) == (1, asyncio.CancelledError)
    else:
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert caught.value.__cause__ is error
