"""Several streams as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

Item = TypeVar("Item")


async def interleave(streams: Sequence[AsyncGenerator[Item]]) -> AsyncGenerator[tuple[int, Item]]:
    """Yield what the streams yield, as it comes, with the number of its stream; an error of one ends all."""
    if len(streams) == 1:  # without a task for each item, which costs more than all else
        async with aclosing(streams[0]) as stream:
            async for item in stream:
                yield 0, item
        return
    waiting = {asyncio.ensure_future(_next(stream)): index for index, stream in enumerate(streams)}
    try:
        while waiting:
            arrived, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in arrived:
                index = waiting.pop(task)
                if item := task.result():
                    waiting[asyncio.ensure_future(_next(streams[index]))] = index
                    yield index, item[0]
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for stream in streams:
            await stream.aclose()


async def _next(stream: AsyncGenerator[Item]) -> tuple[Item] | None:
    """Return the next item, or None at the end."""
    async for item in stream:
        return (item,)
    return None
