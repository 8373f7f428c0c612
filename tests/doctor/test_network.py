from __future__ import annotations

import asyncio
import socket
from typing import Any, NoReturn

import pytest

from agentlightning.doctor.network import connections_noted
from agentlightning.doctor.scripted_model import ScriptedModel


def port_of(model: ScriptedModel) -> int:
    return int(model.url.removesuffix("/v1").rpartition(":")[2])


async def test_connections_are_noted_by_the_name_that_was_asked_for() -> None:
    async with ScriptedModel() as model:
        port = port_of(model)
        with connections_noted() as contacted:
            with socket.create_connection(("127.0.0.1", port), timeout=5):
                pass
            _, writer = await asyncio.open_connection("localhost", port, family=socket.AF_INET)
            writer.close()
            await writer.wait_closed()
    assert [contact.name for contact in contacted] == [f"127.0.0.1:{port}", f"localhost:{port}"]
    assert {contact.address for contact in contacted} == {f"127.0.0.1:{port}"}


def test_a_name_that_nobody_knows_is_noted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> NoReturn:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with connections_noted() as contacted, pytest.raises(socket.gaierror):
        socket.create_connection(("api.example.invalid", 443), timeout=5)
    assert list(contacted) == [("api.example.invalid:443", "api.example.invalid:443")]
    assert socket.getaddrinfo is fail


def test_nothing_stays_changed() -> None:
    before = socket.socket.connect, socket.getaddrinfo
    with connections_noted() as contacted, ScriptedModel() as model:
        pass
    assert (socket.socket.connect, socket.getaddrinfo) == before
    with model, socket.create_connection(("127.0.0.1", port_of(model)), timeout=5):
        pass
    assert list(contacted) == []
