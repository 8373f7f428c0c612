from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

import pytest

from agentlightning.runner.giving_up import ended_or_given_up

DEADLINE = 10.0


async def returns() -> int:
    return 1


async def fails() -> None:
    raise SystemExit(2)


async def cancels_itself() -> None:
    raise asyncio.CancelledError("my own")


def started(work: Coroutine[Any, Any, Any], grace: float = DEADLINE) -> asyncio.Task[Any]:
    return asyncio.create_task(ended_or_given_up(work, grace, "the agent"))


async def test_an_agent_that_ends_is_as_if_it_were_awaited() -> None:
    assert await started(returns()) == 1
    with pytest.raises(SystemExit, match="2"):
        await ended_or_given_up(fails(), DEADLINE, "the agent")
    with pytest.raises(asyncio.CancelledError, match="my own"):
        await started(cancels_itself())


async def test_a_cancelled_agent_may_clean_up_and_say_something_else() -> None:
    waiting, cleaned = asyncio.Event(), asyncio.Event()

    async def agent() -> None:
        try:
            waiting.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            cleaned.set()
            raise ValueError("while cleaning") from None

    task = started(agent())
    await waiting.wait()
    task.cancel()
    with pytest.raises(ValueError, match="while cleaning"):
        await task
    assert cleaned.is_set()


@pytest.mark.parametrize("turns", range(1, 4))
async def test_an_agent_may_be_cancelled_at_any_time(turns: int) -> None:
    task = started(asyncio.sleep(DEADLINE))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_agent_that_swallows_its_cancellation_is_cancelled_all_the_same() -> None:
    waiting = asyncio.Event()

    async def agent() -> int:
        waiting.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return 1

    task = started(agent())
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


class Stubborn:
    """An agent that goes on whatever it is told."""

    def __init__(self, swallowed: type[BaseException]) -> None:
        self.waiting, self.cancelled = asyncio.Event(), asyncio.Event()
        self._swallowed = swallowed

    async def run(self) -> None:
        while True:
            try:
                self.waiting.set()
                await asyncio.Event().wait()
            except self._swallowed:
                self.cancelled.set()


@pytest.mark.parametrize("hurry", [False, True])
async def test_an_agent_that_goes_on_is_given_up(caplog: pytest.LogCaptureFixture, hurry: bool) -> None:
    """After its grace, or at once when the caller is cancelled again."""
    agent = Stubborn(asyncio.CancelledError)
    task = started(agent.run(), DEADLINE if hurry else 0.01)
    await agent.waiting.wait()
    task.cancel()
    await agent.cancelled.wait()
    if hurry:
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "the agent does not end when it is cancelled" in caplog.text


@pytest.mark.parametrize("swallowed", [asyncio.CancelledError, BaseException])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Python tells of the second one
def test_an_agent_that_was_given_up_does_not_keep_its_loop_from_closing(swallowed: type[BaseException]) -> None:
    async def main() -> None:
        agent = Stubborn(swallowed)
        task = started(agent.run(), 0.0)
        await agent.waiting.wait()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(main())
