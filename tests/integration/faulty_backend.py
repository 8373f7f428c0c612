"""A model server that fails as its requests say: `faulty_backend.py PORT`, and its process for tests.

The last message's first word says how: `ok`, `dies`, `hangs`, `closes`, `garbage`, `fails`, `busy`, or `recovers`,
which is busy twice. What streams begins to answer first.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import uuid
from collections import Counter
from pathlib import Path
from typing import Any, Self

WORDS = 6
Json = dict[str, Any]
asked: Counter[str] = Counter()


async def serve(port: int) -> None:
    server = await asyncio.start_server(_converse, "127.0.0.1", port)
    await server.serve_forever()


async def _converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.partition("content-length:")[2].split("\r\n")[0] or 0)
            body = await reader.readexactly(length)
            if head.startswith("post"):
                await _answer(json.loads(body), writer)
            else:
                _send(writer, 200, {"data": [{"id": "policy"}]})
    writer.close()


async def _answer(request: Json, writer: asyncio.StreamWriter) -> None:
    content = request["messages"][-1]["content"]
    asked[content] += 1
    how = content.split()[0]
    if how == "busy" or (how == "recovers" and asked[content] < 3):
        _send(writer, 429, {"error": {"message": "busy"}}, "retry-after: 0.05\r\n")
    elif how == "fails":
        _send(writer, 500, {"error": {"message": "out of memory"}})
    elif request.get("stream"):
        await _stream(how, writer)
    elif how in ("ok", "recovers"):
        await asyncio.sleep(0.01)
        message = {"role": "assistant", "content": "word " * WORDS}
        _send(writer, 200, {"id": _new_id(), "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
    else:
        await _fail(how, writer)


async def _stream(how: str, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    id = _new_id()
    for number in range(WORDS):
        if number == WORDS // 2 and how not in ("ok", "recovers"):
            await writer.drain()
            return await _fail(how, writer)
        reason = "stop" if number == WORDS - 1 else None
        choice = {"index": 0, "delta": {"content": "word "}, "finish_reason": reason}
        _send_chunk(writer, b"data: " + json.dumps({"id": id, "choices": [choice]}).encode() + b"\n\n")
        await asyncio.sleep(0.002)
    _send_chunk(writer, b"data: [DONE]\n\n")
    writer.write(b"0\r\n\r\n")


async def _fail(how: str, writer: asyncio.StreamWriter) -> None:
    match how:
        case "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hangs":
            await asyncio.Event().wait()
        case "closes":
            writer.transport.abort()
        case "garbage":
            page = b"<html>502 Bad Gateway</html>"
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: %d\r\n\r\n" % len(page) + page)
        case _:
            raise ValueError(how)


def _new_id() -> str:
    return f"chatcmpl-{uuid.uuid4().hex}"


def _send(writer: asyncio.StreamWriter, status: int, content: Json, headers: str = "") -> None:
    body = json.dumps(content).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
    writer.write(head.encode() + body)


def _send_chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))


class FaultyBackend:
    """The process, which may be killed and started again at the same address.

    Args:
        port: A free port.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/v1"
        self._port = port
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.kill()

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(sys.executable, str(Path(__file__)), str(self._port))
        async with asyncio.timeout(60):
            while not await self._accepts():  # noqa: ASYNC110  # another process tells of nothing
                await asyncio.sleep(0.01)

    async def kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):  # it may have died as it was told
                self._process.kill()
            await self._process.wait()
            self._process = None

    async def _accepts(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            return False
        writer.close()
        return True


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
