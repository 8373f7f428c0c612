from __future__ import annotations

import aiohttp
import pytest
from starlette.applications import Starlette

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
