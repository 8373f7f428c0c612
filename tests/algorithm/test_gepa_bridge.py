from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from agentlightning.algorithm.gepa.bridge import Bridge


def library(callback: Any) -> str:
    """A blocking library that goes on after whatever a callback raises."""
    for _ in range(3):
        try:
            callback()
        except Exception:  # noqa: BLE001  # as GEPA's does
            continue
    return "done"


async def doubled(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


async def test_the_library_awaits_on_the_loop_and_returns() -> None:
    bridge = Bridge()
    found: list[int] = []
    assert await bridge.run(lambda: library(lambda: found.append(bridge.wait(doubled(4)))), "library") == "done"
    assert found == [8, 8, 8]


async def test_an_error_of_what_is_awaited_ends_the_library_and_is_raised() -> None:
    bridge = Bridge()
    asked: list[str] = []

    async def fail() -> None:
        asked.append("once")
        raise KeyError("gone")

    with pytest.raises(KeyError, match="gone"):
        await bridge.run(lambda: library(lambda: bridge.wait(fail())), "library")
    assert asked == ["once"]


async def test_an_error_of_the_library_is_raised() -> None:
    def fail() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await Bridge().run(fail, "library")


async def test_what_is_awaited_may_be_cancelled_from_within() -> None:
    bridge = Bridge()

    async def stop() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await bridge.run(lambda: library(lambda: bridge.wait(stop())), "library")


async def test_whoever_is_cancelled_leaves_when_the_thread_has_ended() -> None:
    bridge, begun, cleaned = Bridge(), asyncio.Event(), False

    async def work() -> None:
        nonlocal cleaned
        begun.set()
        try:
            await asyncio.sleep(3600)
        finally:
            cleaned = True

    task = asyncio.create_task(bridge.run(lambda: library(lambda: bridge.wait(work())), "library"))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned
    assert not [thread for thread in threading.enumerate() if thread.name == "library" and thread.is_alive()]


async def test_what_is_asked_after_the_end_is_not_begun() -> None:
    bridge, asked, may_ask = Bridge(), threading.Event(), threading.Event()
    begun: list[str] = []

    async def work() -> None:
        begun.append("late")

    def ask() -> None:
        asked.set()
        assert may_ask.wait(30)
        bridge.wait(work())

    task = asyncio.create_task(bridge.run(lambda: library(ask), "library"))
    assert await asyncio.to_thread(asked.wait, 30)
    task.cancel()
    await asyncio.sleep(0)
    may_ask.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert begun == []
