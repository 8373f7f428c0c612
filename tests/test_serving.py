from __future__ import annotations

import asyncio
import logging

import pytest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from agentlightning.serving import EmbeddedServer, answer_nobody


async def test_client_that_leaves_before_its_request_is_read_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    reading, left = asyncio.Event(), asyncio.Event()

    async def read(request: Request) -> Response:
        reading.set()
        try:
            await request.body()
        finally:
            left.set()
        return Response()

    app = Starlette(routes=[Route("/", read, methods=["POST"])], exception_handlers={ClientDisconnect: answer_nobody})
    server = EmbeddedServer(app)
    await server.start()
    host, port = server.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 10\r\n\r\nhalf")
    async with asyncio.timeout(10):
        await reading.wait()
        writer.close()
        await left.wait()
    await server.stop()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
