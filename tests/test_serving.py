from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import aiohttp
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from agentlightning import serving
from agentlightning.errors import ConfigurationError
from agentlightning.serving import EmbeddedServer


async def test_the_address_is_known_from_the_start_on_and_can_still_be_said_after_the_end() -> None:
    server = EmbeddedServer(Starlette())
    with pytest.raises(ConfigurationError, match="started"):
        _ = server.url
    await server.start()
    url = server.url
    async with aiohttp.ClientSession() as session:
        async with session.get(url) as reply:
            assert reply.status == 404
        await server.stop()
        assert server.url == url
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(url)
    await server.start()
    assert server.running
    await server.stop()


async def test_an_address_taken_is_refused_and_named() -> None:
    first = EmbeddedServer(Starlette())
    await first.start()
    port = int(first.url.removeprefix("http://127.0.0.1:"))
    with pytest.raises(ConfigurationError, match=f"127.0.0.1:{port} .*choose another port"):
        await EmbeddedServer(Starlette(), port=port).start()
    await first.stop()


@pytest.mark.parametrize("host", ["nosuch.invalid", "192.0.2.7"])
async def test_a_host_that_is_not_this_machine_is_told_so(host: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{host}:0 .*choose an address of this machine"):
        await EmbeddedServer(Starlette(), host).start()


@asynccontextmanager
async def connected() -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A server that answers 404, and a connection to it."""
    server = EmbeddedServer(Starlette())
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
    yield reader, writer
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    await server.stop()


HEAD = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"
ROOM = 64 * 1024


@pytest.mark.parametrize(
    "sent",
    [
        HEAD + b"A: " + b"x" * ROOM,
        HEAD + b"A: b\r\n" * (ROOM // 6),
        HEAD + b"A: " + b"x" * ROOM + b"\r\n\r\n",
        b"GET /" + b"x" * ROOM,
    ],
    ids=["one header", "many headers", "complete", "path"],
)
async def test_a_head_that_is_too_large_is_431_and_the_end(sent: bytes) -> None:
    async with connected() as (reader, writer):
        writer.write(sent)
        answer = await asyncio.wait_for(reader.read(), 10)
        assert answer.startswith(b"HTTP/1.1 431 ")


async def test_what_follows_a_body_is_bounded_too() -> None:
    async with connected() as (reader, writer):
        writer.write(CHUNKED)
        assert b" 404 " in await asyncio.wait_for(reader.readline(), 10)
        writer.write(b"A: " + b"x" * ROOM)
        assert b" 431 " in await asyncio.wait_for(reader.read(), 10)


async def test_a_large_head_and_a_larger_body_are_taken() -> None:
    async with connected() as (reader, writer):
        for _ in range(3):
            writer.write(HEAD + b"A: " + b"x" * (ROOM - 1000) + b"\r\nContent-Length: 300000\r\n\r\n" + b"x" * 300_000)
            assert b" 404 " in await asyncio.wait_for(reader.readline(), 10)
            await asyncio.wait_for(reader.readuntil(b"Not Found"), 10)


@pytest.mark.parametrize("sent", [b"", b"\r\n", HEAD])
async def test_a_connection_without_a_request_is_closed(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(serving, "_FIRST_HEAD_SECONDS", 0.05)
    async with connected() as (reader, writer):
        writer.write(sent)
        assert await asyncio.wait_for(reader.read(), 10) == b""


async def test_a_later_request_that_is_not_finished_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_KEEP_ALIVE_SECONDS", 0.5)
    async with connected() as (reader, writer):
        writer.write(HEAD + b"\r\n" + HEAD)
        assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 404")


async def test_answers_are_sent_at_once() -> None:
    no_delay: list[int] = []

    async def look(_: Request) -> Response:
        for connection in server._server.server_state.connections:
            accepted = connection.transport.get_extra_info("socket")
            no_delay.append(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        return Response()

    server = EmbeddedServer(Starlette(routes=[Route("/", look)]))
    await server.start()
    async with aiohttp.ClientSession() as session, session.get(server.url) as reply:
        assert reply.status == 200
    await server.stop()
    assert no_delay == [1]


class Client:
    """Stands for a request of which all has come, and whose client may leave."""

    def __init__(self) -> None:
        self.left = asyncio.Event()

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}


def request_of(client: Client) -> Request:
    return Request({"type": "http"}, client.receive)


async def test_work_for_a_client_that_stays_is_done() -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        return 1

    assert await serving.while_connected(request_of(Client()), work()) == 1


async def test_work_for_a_client_that_leaves_is_cancelled() -> None:
    client, cancelled = Client(), asyncio.Event()

    async def work() -> None:
        client.left.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with asyncio.timeout(10):
        assert await serving.while_connected(request_of(client), work()) is None
    assert cancelled.is_set()
    task = asyncio.current_task()
    assert task
    assert task.cancelling() == 0


async def test_a_timeout_of_the_work_is_no_client_that_left() -> None:
    async def work() -> None:
        raise TimeoutError("slow")

    with pytest.raises(TimeoutError, match="slow"):
        await serving.while_connected(request_of(Client()), work())


async def test_whoever_waits_for_work_can_be_cancelled() -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    waiter = asyncio.create_task(serving.while_connected(request_of(Client()), work()))
    async with asyncio.timeout(10):
        await begun.wait()
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
    assert cancelled.is_set()


@pytest.mark.parametrize("left_before", [False, True], ids=["while-it-is-done", "before-it-begins"])
async def test_work_of_the_embedded_server_ends_when_its_client_leaves(left_before: bool) -> None:
    begun, seen = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        assert await request.body() == b"all of it"
        begun.set()
        if left_before:
            assert (await receive())["type"] == "http.disconnect"
        assert await serving.while_connected(request, asyncio.Event().wait()) is None
        seen.set()

    server = serving.EmbeddedServer(app)
    await server.start()
    try:
        async with asyncio.timeout(30):
            host, port = server.url.removeprefix("http://").split(":")
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nall of it")
            await begun.wait()
            writer.close()
            await writer.wait_closed()
            await seen.wait()
    finally:
        await server.stop()
