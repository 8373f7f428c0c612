"""Answers come as backends send them, however they are cut; what is broken is said, and connections are used again."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from agentlightning.llm_proxy.backend_http import BackendGone, BackendHttp

DEADLINE = 30.0
BODY = b"The answer is forty two. " * 20
LENGTH = b"content-length: %d\r\n" % len(BODY)
CHUNKED = b"transfer-encoding: chunked\r\n"
OK = b"HTTP/1.1 200 OK\r\n"


def chunks(body: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(body[i : i + 7]), body[i : i + 7]) for i in range(0, len(body), 7))


class Backend:
    """Answers each request by what `answers` says, in pieces of `cut` bytes; nothing ends the connection."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.cut = 1 << 20
        self.requests: list[bytes] = []
        self.asked = asyncio.Event()
        self.connections = 0
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while self.answers:
                head = await reader.readuntil(b"\r\n\r\n")
                size = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                self.requests.append(head + await reader.readexactly(int(size or 0)))
                self.asked.set()
                answer = self.answers.pop(0)
                for start in range(0, len(answer), self.cut):
                    writer.write(answer[start : start + self.cut])
                    await writer.drain()
                    await asyncio.sleep(0)
                if b"\r\nconnection: close\r\n" in answer or not answer:
                    break
            else:
                await reader.read()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client left
        finally:
            writer.close()


@pytest.fixture
async def backend() -> AsyncGenerator[Backend]:
    backend = Backend()
    server = await asyncio.start_server(backend.serve, "127.0.0.1", 0)
    backend.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/chat"
    yield backend
    server.close()


@asynccontextmanager
async def client() -> AsyncGenerator[BackendHttp]:
    http = BackendHttp()
    try:
        async with asyncio.timeout(DEADLINE):
            yield http
    finally:
        await http.close()


async def body_of(http: BackendHttp, backend: Backend, method: str = "POST") -> bytes:
    answer = await http.request(method, backend.url, b"{}", {})
    try:
        return await answer.read()
    finally:
        answer.close()


async def body_in_pieces(http: BackendHttp, backend: Backend) -> bytes:
    answer, pieces = await http.request("POST", backend.url, b"{}", {}), list[bytes]()
    while piece := await answer.read_some():
        pieces.append(piece)
    return b"".join(pieces)


@pytest.mark.parametrize("read", [body_of, body_in_pieces])
@pytest.mark.parametrize("cut", [1, 2, 3, 1 << 20])
@pytest.mark.parametrize(
    "answer",
    [
        OK + LENGTH + b"\r\n" + BODY,
        OK + CHUNKED + b"\r\n" + chunks(BODY) + b"0\r\nTrailer: x\r\n\r\n",
        OK + b"connection: close\r\n\r\n" + BODY,
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK + LENGTH + b"\r\n" + BODY,
        b"HTTP/1.0 200 OK\r\nconnection: close\r\n\r\n" + BODY,
    ],
    ids=["length", "chunks", "until-the-end", "interim", "http-1.0"],
)
async def test_an_answer_is_the_same_however_it_is_cut(
    backend: Backend, answer: bytes, cut: int, read: Callable[[BackendHttp, Backend], Awaitable[bytes]]
) -> None:
    backend.answers, backend.cut = [answer], cut
    async with client() as http:
        assert await read(http, backend) == BODY


async def test_a_compressed_body_that_nobody_asked_for_is_inflated(backend: Backend) -> None:
    packed = gzip.compress(BODY)
    backend.answers = [OK + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(packed) + packed]
    async with client() as http:
        assert await body_of(http, backend) == BODY
    assert b"accept-encoding: identity\r\n" in backend.requests[0]


async def test_a_connection_is_used_again(backend: Backend) -> None:
    backend.answers = [OK + LENGTH + b"\r\n" + BODY] * 3
    async with client() as http:
        for _ in range(3):
            assert await body_of(http, backend) == BODY
    assert (len(backend.requests), backend.connections) == (3, 1)


@pytest.mark.parametrize(
    "first",
    [
        OK + LENGTH + b"\r\n" + BODY + b"and more",
        OK + LENGTH + b"\r\n" + BODY + OK + LENGTH + b"\r\n" + BODY,
        OK + b"connection: close\r\n" + LENGTH + b"\r\n" + BODY,
    ],
    ids=["bytes-behind-it", "an-answer-behind-it", "closed"],
)
async def test_a_connection_that_cannot_be_trusted_is_not(backend: Backend, first: bytes) -> None:
    backend.answers = [first, OK + b"content-length: 6\r\n\r\nsecond"]
    async with client() as http:
        assert await body_of(http, backend) == BODY
        assert await body_of(http, backend) == b"second"
    assert backend.connections == 2


async def test_an_answer_that_is_left_takes_its_connection_along(backend: Backend) -> None:
    backend.answers = [OK + LENGTH + b"\r\n" + BODY[:10], OK + b"content-length: 6\r\n\r\nsecond"]
    async with client() as http:
        (await http.request("POST", backend.url, b"{}", {})).close()
        assert await body_of(http, backend) == b"second"
    assert backend.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"What?\r\n\r\n",
        OK + b"connection: close\r\n" + LENGTH + b"\r\n" + BODY[:-1],
        OK + b"connection: close\r\n" + CHUNKED + b"\r\n" + chunks(BODY),
        OK + CHUNKED + b"\r\n" + b"zz\r\n",
        OK + b"content-encoding: br\r\n" + LENGTH + b"\r\n" + BODY,
        OK + b"content-encoding: gzip\r\n" + LENGTH + b"\r\n" + BODY,
        OK + b"x: " + b"y" * (1 << 19),
        OK + CHUNKED + b"\r\n1;" + b"y" * (1 << 19),
    ],
    ids=[
        "nothing",
        "no-http",
        "short",
        "no-last-chunk",
        "no-chunk",
        "brotli",
        "no-gzip",
        "long-head",
        "long-extension",
    ],
)
async def test_what_is_no_whole_answer_is_said(backend: Backend, answer: bytes) -> None:
    backend.answers = [answer]
    async with client() as http:
        with pytest.raises(BackendGone):
            await body_of(http, backend)


async def test_an_answer_to_head_has_no_body(backend: Backend) -> None:
    backend.answers = [OK + LENGTH + b"\r\n"]
    async with client() as http:
        assert await body_of(http, backend, "HEAD") == b""


async def test_a_slow_reader_makes_the_backend_wait(backend: Backend) -> None:
    whole = b"x" * (1 << 26)
    backend.answers = [OK + b"content-length: %d\r\n\r\n" % len(whole) + whole]
    async with client() as http:
        answer, size, largest = await http.request("POST", backend.url, b"{}", {}), 0, 0
        while piece := await answer.read_some():
            size, largest = size + len(piece), max(largest, len(piece))
            for _ in range(3):
                await asyncio.sleep(0)
    assert size == len(whole)
    assert largest < 1 << 22


async def test_a_request_says_what_it_is_told_to(backend: Backend) -> None:
    backend.answers = [OK + LENGTH + b"\r\n" + BODY]
    async with client() as http:
        url = backend.url.replace("127.0.0.1", "user:pass%20word@127.0.0.1") + "?a=b"
        answer = await http.request("PUT", url, b"12345", {"content-type": "text/plain"})
        assert await answer.read() == BODY
    head, _, body = backend.requests[0].partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "PUT /v1/chat?a=b HTTP/1.1"
    assert {"content-type: text/plain", "content-length: 5", "authorization: Basic dXNlcjpwYXNzIHdvcmQ="} < {*lines}
    assert f"host: {backend.url.split('/')[2]}" in lines
    assert body == b"12345"


@pytest.mark.parametrize("url", ["127.0.0.1:80/v1", "ftp://host/", "http:///v1"])
async def test_what_is_no_address_is_refused(url: str) -> None:
    async with client() as http:
        with pytest.raises(ValueError, match="is no address of a server"):
            await http.request("POST", url, b"", {})


async def test_no_header_smuggles_another(backend: Backend) -> None:
    async with client() as http:
        with pytest.raises(ValueError, match="more than one line"):
            await http.request("POST", backend.url, b"", {"authorization": "Bearer key\r\nx: y"})
    assert backend.connections == 0


async def test_nobody_there_is_an_error_of_the_system(unused_tcp_port: int) -> None:
    async with client() as http:
        with pytest.raises(ConnectionRefusedError):
            await http.request("POST", f"http://127.0.0.1:{unused_tcp_port}/", b"", {})


async def test_whoever_is_cancelled_leaves_no_connection(backend: Backend) -> None:
    backend.answers = [b" ", OK]  # the beginning of an answer that never goes on
    async with client() as http:
        asking = asyncio.create_task(http.request("POST", backend.url, b"{}", {}))
        await backend.asked.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        backend.answers = [OK + LENGTH + b"\r\n" + BODY]
        assert await body_of(http, backend) == BODY
    assert backend.connections == 2
