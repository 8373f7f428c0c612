from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from agentlightning._internal.aio import wait_for_flag
from agentlightning.execution.events import MultiprocessingEvent, ThreadingEvent

DEADLINE = 10.0


class NoThreads(ThreadPoolExecutor):
    def submit(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("waiting must not cost a thread")


@pytest.mark.parametrize("make", [threading.Event, ThreadingEvent, MultiprocessingEvent])
@pytest.mark.parametrize("before", [True, False])
async def test_any_flag_is_waited_for_without_a_thread(make: Any, before: bool) -> None:
    asyncio.get_running_loop().set_default_executor(NoThreads())
    flag = make()
    if before:
        flag.set()
    waiting = asyncio.create_task(wait_for_flag(flag))
    await asyncio.sleep(0)
    assert waiting.done() == before
    flag.set()
    async with asyncio.timeout(DEADLINE):
        await waiting
