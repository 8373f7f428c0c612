from __future__ import annotations

import socket

import aiohttp
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

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
