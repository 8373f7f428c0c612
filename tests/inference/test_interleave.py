from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from agentlightning.inference.interleave import interleave

DEADLINE = 30.0


class Streams:
    """Makes streams, and knows which of them are closed."""

    def __init__(self) -> None:
        self.closed: list[str] = []

    async def words(self, words: str, *, fails: bool = False, waits: bool = False) -> AsyncGenerator[str]:
        try:
            for word in words.split():
                await asyncio.sleep(0)
                yield word
            if fails:
                raise ZeroDivisionError
            if waits:
                await asyncio.Event().wait()
        finally:
            self.closed.append(words)


async def drain(stream: AsyncGenerator[tuple[int, str]]) -> None:
    async for _ in stream:
        pass


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_every_stream_keeps_its_order(count: int) -> None:
    streams = Streams()
    texts = ["a b c", "d", "e f"][:count]
    items = [item async for item in interleave([streams.words(text) for text in texts])]
    assert [[word for index, word in items if index == number] for number in range(count)] == [
        text.split() for text in texts
    ]
    assert sorted(streams.closed) == texts


@pytest.mark.parametrize("count", [1, 2, 3])
async def test_an_error_of_one_ends_all(count: int) -> None:
    streams = Streams()
    made = [streams.words("a", fails=True), streams.words("b", waits=True), streams.words("c", waits=True)][:count]
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(drain(interleave(made)), DEADLINE)
    assert sorted(streams.closed) == ["a", "b", "c"][:count]


@pytest.mark.parametrize("count", [1, 2, 3])
async def test_closing_closes_all(count: int) -> None:
    streams = Streams()
    both = interleave([streams.words(text, waits=True) for text in ("a a", "b b", "c c")[:count]])
    async with asyncio.timeout(DEADLINE):
        for _ in range(2 * count):
            await anext(both)
        await both.aclose()
    assert sorted(streams.closed) == ["a a", "b b", "c c"][:count]
