"""What a store's client says and hears over HTTP, whatever the server makes of the protocol."""

import asyncio
import gc
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from yarl import URL

from agentlightning.store.http1 import HttpClient

PATIENCE = 30.0


class Server:
    """Answers each request on a connection with the next of the given bytes; None closes the connection instead."""

    def __init__(self, *answers: bytes | None) -> None:
        self.answers = list(answers)
        self.requests: list[bytes] = []
        self.connections = 0
        self.ended = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int((head.lower().split(b"content-length: ")[1:] or [b"0"])[0].split(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                if not self.answers:
                    continue
                if (answer := self.answers.pop(0)) is None:
                    break
                writer.write(answer)
                if answer in (UNTIL_THE_END, LAST, HALF):
                    break
        self.ended += 1
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


@asynccontextmanager
async def client_of(server: Server, root: str = "http://{}") -> AsyncGenerator[HttpClient]:
    listening = await asyncio.start_server(server, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    client = HttpClient(URL(root.format(f"127.0.0.1:{port}")), {"content-type": "application/json"}, 5.0)
    try:
        yield client
    finally:
        await client.close()
        listening.close()
        await until(lambda: server.ended == server.connections)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0.005)


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n"
UNTIL_THE_END = b"HTTP/1.1 200 OK\r\n\r\nok"
ANNOUNCED = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK
LAST = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"
HALF = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok"


@pytest.mark.parametrize(
    ("answer", "kept"),
    [(OK, True), (CHUNKED, True), (UNTIL_THE_END, False), (ANNOUNCED, True), (LAST, False)],
    ids=["length", "chunked", "until-the-end", "announced", "last"],
)
async def test_answer_in_each_form(answer: bytes, kept: bool) -> None:
    server = Server(answer, OK)
    async with client_of(server) as client:
        for _ in range(2):
            got = await client.request("POST", "/x", {}, b"{}", PATIENCE)
            assert (got.status, got.body) == (200, b"ok")
        assert server.connections == (1 if kept else 2)


async def test_request_says_what_it_has_to() -> None:
    server = Server(OK, OK)
    async with client_of(server, "http://me:secret@{}/prefix") as client:
        await client.request("POST", "/x?y=1", {"idempotency-key": "k"}, b"{}", PATIENCE)
        await client.request("GET", "/z", {}, b"", PATIENCE)
    first, second = (request.split(b"\r\n") for request in server.requests)
    assert first[0] == b"POST /x?y=1 HTTP/1.1"
    assert {b"content-type: application/json", b"idempotency-key: k", b"content-length: 2"} <= set(first)
    assert b"authorization: Basic bWU6c2VjcmV0" in first
    assert first[1].startswith(b"host: 127.0.0.1:")
    assert first[-1] == b"{}"
    assert not any(line.startswith((b"content-length", b"idempotency-key")) for line in second)


@pytest.mark.parametrize(
    "answer",
    [None, b"junk\r\n\r\n", HALF],
    ids=["nothing", "junk", "half"],
)
async def test_what_is_no_answer_is_an_error_and_the_connection_is_given_up(answer: bytes | None) -> None:
    server = Server(answer, OK)
    async with client_of(server) as client:
        with pytest.raises(ConnectionError):
            await client.request("POST", "/x", {}, b"{}", PATIENCE)
        assert (await client.request("POST", "/x", {}, b"{}", PATIENCE)).body == b"ok"
        assert server.connections == 2


async def test_answer_that_does_not_come_in_time_ends_its_connection() -> None:
    server = Server()
    async with client_of(server) as client:
        with pytest.raises(TimeoutError, match="in time"):
            await client.request("POST", "/x", {}, b"{}", 0.05)
        await until(lambda: server.ended == 1)


async def test_cancelled_request_ends_its_connection() -> None:
    server = Server()
    async with client_of(server) as client:
        request = asyncio.create_task(client.request("POST", "/x", {}, b"{}", PATIENCE))
        await until(lambda: len(server.requests) == 1)
        request.cancel()
        await until(lambda: server.ended == 1)
        with pytest.raises(asyncio.CancelledError):
            await request


@pytest.mark.parametrize("steps", range(12))
async def test_request_cancelled_at_any_step_leaves_no_socket_open(steps: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = HttpClient(URL(f"http://127.0.0.1:{listening.getsockname()[1]}"), {}, 5.0)
        request = asyncio.create_task(client.request("POST", "/x", {}, b"{}", PATIENCE))
        for _ in range(steps):
            await asyncio.sleep(0)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        await client.close()
    gc.collect()  # a socket that was forgotten says so, which fails this test


async def test_closing_ends_what_is_under_way() -> None:
    server = Server()
    async with client_of(server) as client:
        request = asyncio.create_task(client.request("POST", "/x", {}, b"{}", PATIENCE))
        await until(lambda: len(server.requests) == 1)
        await client.close()
        with pytest.raises(ConnectionError):
            await request


async def test_nobody_there_is_an_error() -> None:
    server = await asyncio.start_server(Server(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    with pytest.raises(OSError):
        await HttpClient(URL(f"http://127.0.0.1:{port}"), {}, 5.0).request("GET", "/", {}, b"", PATIENCE)
