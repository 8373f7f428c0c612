"""Clients for `gateway.py`: raw sockets, so that the load costs little."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

REQUEST: dict[str, Any] = {
    "model": "mock",
    "messages": [
        {"role": "system", "content": "You are helpful. " * 8},
        {"role": "user", "content": "What is six times seven? " * 20},
    ],
    "temperature": 1.0,
    "max_tokens": 64,
}


def body_of(**more: Any) -> bytes:
    return json.dumps(REQUEST | more).encode()


@dataclass
class Answer:
    """What came, and after how many seconds its first byte and its last."""

    body: bytes
    first: float
    last: float


class Connection:
    """A connection to the host of a base URL, for one request after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @staticmethod
    async def to(url: str) -> Connection:
        host, _, port = url.split("/")[2].partition(":")
        return Connection(*await asyncio.open_connection(host, int(port)))

    async def ask(self, url: str, body: bytes) -> Answer:
        path = "/" + url.split("/", 3)[3] + "/chat/completions"
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        start = time.perf_counter()
        self._writer.write(head.encode() + b"\r\n" + body)
        answer = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        assert b" 200 " in answer[:20], answer + await self._reader.read(1000)
        if b"content-length:" in answer:
            whole = await self._reader.readexactly(int(answer.split(b"content-length:")[1].split(b"\r\n")[0]))
            return Answer(whole, time.perf_counter() - start, time.perf_counter() - start)
        pieces = [await self._piece()]
        first = time.perf_counter() - start
        while pieces[-1]:
            pieces.append(await self._piece())
        return Answer(b"".join(pieces), first, time.perf_counter() - start)

    async def _piece(self) -> bytes:
        size = int(await self._reader.readline(), 16)
        return (await self._reader.readexactly(size + 2))[:-2]

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


async def load(urls: list[str], clients: int, requests: int, body: bytes) -> tuple[float, list[Answer]]:
    """Send requests to the base URLs in turn; returns the seconds it took, and the answers without their bodies."""
    left, answers = [requests], list[Answer]()

    async def client() -> None:
        connection = await Connection.to(urls[0])
        while left[0] > 0:
            left[0] -= 1
            answer = await connection.ask(urls[left[0] % len(urls)], body)
            answer.body = b""
            answers.append(answer)
        await connection.close()

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return time.perf_counter() - start, answers


async def converse(urls: list[str], calls: int, mark: Callable[[int, int], str]) -> list[list[str]]:
    """Let a client for each base URL make calls one after the other, all at once; returns what they were answered."""

    async def client(index: int) -> list[str]:
        connection = await Connection.to(urls[index])
        answers = [await connection.ask(urls[index], body_of(user=mark(index, call))) for call in range(calls)]
        await connection.close()
        return [json.loads(answer.body)["id"] for answer in answers]

    return await asyncio.gather(*(client(index) for index in range(len(urls))))
