"""Answers come as servers send them, however they are cut; what is broken is said, and connections are used again."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import socket
import ssl
from collections.abc import AsyncGenerator, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from agentlightning.http1 import Answer, ConnectTimeout, HttpClient, server_of
from agentlightning.http1.connection import Connection
from agentlightning.http1.server import Address

PATIENCE = 30.0
BODY = b"The answer is forty two. " * 20
LENGTH = b"content-length: %d\r\n" % len(BODY)
CHUNKED = b"transfer-encoding: chunked\r\n"
GZIP = b"content-encoding: gzip\r\n"
CLOSE = b"connection: close\r\n"
HEAD = b"HTTP/1.1 200 OK\r\n"
OK = HEAD + LENGTH + b"\r\n" + BODY
PACKED = gzip.compress(BODY)


def chunks(body: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(body[i : i + 7]), body[i : i + 7]) for i in range(0, len(body), 7))


class Last(bytes):
    """An answer after which the server ends the connection."""


KEPT = {
    "length": OK,
    "chunks": HEAD + CHUNKED + b"\r\n" + chunks(BODY) + b"0\r\nTrailer: x\r\n\r\n",
    "interim": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK,
    "lines-of-lf": OK.replace(b"\r", b""),
    "http-1.0-kept": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + LENGTH + b"\r\n" + BODY,
    "gzip-nobody-asked-for": HEAD + GZIP + b"content-length: %d\r\n\r\n" % len(PACKED) + PACKED,
}
ENDING = {
    "until-the-end": Last(HEAD + b"\r\n" + BODY),
    "http-1.0": Last(b"HTTP/1.0 200 OK\r\n\r\n" + BODY),
    "http-1.0-length": b"HTTP/1.0 200 OK\r\n" + LENGTH + b"\r\n" + BODY,
    "last": HEAD + CLOSE + LENGTH + b"\r\n" + BODY,
    "bytes-behind-it": OK + b"and more",
    "an-answer-behind-it": OK + OK,
}
BROKEN = {
    "nothing": Last(b""),
    "no-http": Last(b"What?\r\n\r\n"),
    "half-a-head": Last(HEAD),
    "short": Last(OK[:-1]),
    "no-last-chunk": Last(HEAD + CHUNKED + b"\r\n" + chunks(BODY)),
    "no-chunk": HEAD + CHUNKED + b"\r\nzz\r\n",
    "no-last-line": Last(HEAD + CHUNKED + b"\r\n" + chunks(BODY) + b"0\r\n"),
    "brotli": HEAD + b"content-encoding: br\r\n" + LENGTH + b"\r\n" + BODY,
    "no-gzip": HEAD + GZIP + LENGTH + b"\r\n" + BODY,
    "half-a-gzip": HEAD + GZIP + b"content-length: %d\r\n\r\n" % (len(PACKED) - 9) + PACKED[:-9],
    "half-a-gzip-until-the-end": Last(HEAD + GZIP + b"\r\n" + PACKED[:-9]),
    "packed-chunks": HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n" + chunks(BODY) + b"0\r\n\r\n",
    "another-protocol": b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nhello",
}
ENDLESS = {
    "head": HEAD + b"x: " + b"y" * (1 << 19),
    "interim": b"HTTP/1.1 103 Early Hints\r\n\r\n" * (1 << 15),
    "extension": HEAD + CHUNKED + b"\r\n1;" + b"y" * (1 << 19),
}


class Peer:
    """Answers each request with the next of `answers`; without one it waits."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.requests: list[bytes] = []
        self.asked = asyncio.Event()
        self.connections = 0
        self.ended = 0
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                self.requests.append(head + await reader.readexactly(int(size or 0)))
                self.asked.set()
                if self.answers:
                    writer.write(answer := self.answers.pop(0))
                    await writer.drain()
                    if isinstance(answer, Last):
                        break
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client left
        finally:
            self.ended += 1
            writer.close()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():  # noqa: ASYNC110  # what is waited for has no event
                await asyncio.sleep(0.005)


@pytest.fixture
async def peer() -> AsyncGenerator[Peer]:
    peer = Peer()
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    peer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield peer
    server.close()
    await peer.until(lambda: peer.ended == peer.connections)


@pytest.fixture
async def http() -> AsyncGenerator[HttpClient]:
    http = HttpClient(PATIENCE)
    yield http
    await http.close()


async def ask(http: HttpClient, url: str, method: str = "POST", *, repeatable: bool = False) -> Answer:
    async with asyncio.timeout(PATIENCE):
        return await http.request(server_of(url), method, "/x", {}, b"{}", repeatable=repeatable)


async def body_of(http: HttpClient, url: str, method: str = "POST", *, repeatable: bool = False) -> bytes:
    answer = await ask(http, url, method, repeatable=repeatable)
    try:
        async with asyncio.timeout(PATIENCE):
            return await answer.read()
    finally:
        answer.close()


@pytest.mark.parametrize("form", [*KEPT, *ENDING])
async def test_a_connection_is_used_again_where_that_is_safe(peer: Peer, http: HttpClient, form: str) -> None:
    peer.answers = [(KEPT | ENDING)[form], OK]
    for _ in range(2):
        assert await body_of(http, peer.url) == BODY
    assert peer.connections == (1 if form in KEPT else 2)


@pytest.mark.parametrize("form", [*BROKEN, *(f"endless-{form}" for form in ENDLESS)])
async def test_what_is_no_whole_answer_is_an_error(peer: Peer, http: HttpClient, form: str) -> None:
    peer.answers = [(BROKEN | {f"endless-{form}": Last(answer) for form, answer in ENDLESS.items()})[form], OK]
    with pytest.raises(ConnectionError):
        await body_of(http, peer.url)
    assert await body_of(http, peer.url) == BODY
    assert peer.connections == 2


class Wire(asyncio.Transport):
    """A transport that goes nowhere."""

    closing = False

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.closing = True


async def heard(pieces: list[bytes], ends: bool) -> tuple[int, dict[bytes, bytes], bytes] | None:
    """Return what a client makes of what comes in these pieces: an answer, or None for an error."""
    connection = Connection(Address("h", 80, False), set(), lambda _: None)
    connection.connection_made(Wire())
    asking = asyncio.create_task(connection.ask(b"", to_head=False))
    await asyncio.sleep(0)
    for piece in pieces:
        connection.data_received(piece)
    if ends:
        connection.eof_received()
        connection.connection_lost(None)
    try:
        async with asyncio.timeout(PATIENCE):
            answer = await asking
            return answer.status, answer.headers, await answer.read()
    except ConnectionError:
        return None


@settings(max_examples=150, deadline=None)
@given(
    answer=st.sampled_from([*KEPT.values(), *ENDING.values(), *BROKEN.values()]),
    cuts=st.lists(st.integers(0, len(OK) + 100)),
)
def test_an_answer_is_the_same_however_it_is_cut(answer: bytes, cuts: list[int]) -> None:
    places = [0, *sorted({cut for cut in cuts if 0 < cut < len(answer)}), len(answer)]
    pieces = [answer[start:end] for start, end in pairwise(places) if start < end]
    ends = isinstance(answer, Last)
    whole, cut = (asyncio.run(heard(each, ends)) for each in ([answer] if answer else [], pieces))
    assert whole == cut
    assert whole is None or whole[2] == BODY


@pytest.mark.parametrize(
    ("method", "answer", "kept"),
    [
        ("HEAD", HEAD + LENGTH + b"\r\n", False),
        ("GET", b"HTTP/1.1 304 Not Modified\r\n" + LENGTH + b"\r\n", False),
        ("GET", b"HTTP/1.1 304 Not Modified\r\n\r\n", True),
        ("POST", b"HTTP/1.1 204 No Content\r\n\r\n", True),
        ("POST", HEAD + GZIP + b"content-length: 0\r\n\r\n", True),
    ],
    ids=["head", "not-modified-with-length", "not-modified", "no-content", "empty-gzip"],
)
async def test_what_has_no_body_is_not_waited_for(
    peer: Peer, http: HttpClient, method: str, answer: bytes, kept: bool
) -> None:
    peer.answers = [answer, OK]
    assert await body_of(http, peer.url, method) == b""
    assert await body_of(http, peer.url) == BODY
    assert peer.connections == (1 if kept else 2)


async def test_headers_are_found_by_name_in_lower_case(peer: Peer, http: HttpClient) -> None:
    peer.answers = [
        HEAD + b"X-Two: 1\r\nx-two: 2\r\nContent-Type: Text/Plain; charset=x\r\nEmpty:\r\n" + LENGTH + b"\r\n" + BODY
    ]
    answer = await ask(http, peer.url)
    assert answer.headers == {
        b"x-two": b"1, 2",
        b"content-type": b"Text/Plain; charset=x",
        b"empty": b"",
        b"content-length": b"%d" % len(BODY),
    }
    assert answer.media_type == "text/plain"


async def test_an_answer_that_is_left_takes_its_connection_along(peer: Peer, http: HttpClient) -> None:
    peer.answers = [OK[:-1], OK]
    (await ask(http, peer.url)).close()
    assert await body_of(http, peer.url) == BODY
    assert peer.connections == 2


async def test_a_connection_is_not_kept_for_long(peer: Peer, http: HttpClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentlightning.http1.client._IDLE_SECONDS", 0.0)
    peer.answers = [OK, OK]
    assert await body_of(http, peer.url) == BODY
    await peer.until(lambda: peer.ended == 1)
    assert await body_of(http, peer.url) == BODY


async def test_an_answer_before_the_request_was_sent_is_heard_and_ends_the_connection(http: HttpClient) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    server = server_of(f"http://127.0.0.1:{listening.getsockname()[1]}")
    asking = asyncio.create_task(http.request(server, "POST", "/x", {}, bytes(1 << 26)))
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(PATIENCE):
        accepted, _ = await loop.sock_accept(listening)
        with listening, accepted:
            accepted.setblocking(False)
            await loop.sock_sendall(accepted, b"HTTP/1.1 413 Too Large\r\n" + LENGTH + b"\r\n" + BODY)
            answer = await asking
            assert (answer.status, await answer.read()) == (413, BODY)
            with contextlib.suppress(ConnectionError):
                while await loop.sock_recv(accepted, 1 << 20):
                    pass


@pytest.mark.parametrize(
    ("repeatable", "first", "again"),
    [(True, b"", True), (False, b"", False), (True, HEAD, False)],
    ids=["repeatable", "not-repeatable", "answer-begun"],
)
async def test_what_a_kept_connection_swallowed_is_sent_again_where_that_is_safe(
    peer: Peer, http: HttpClient, repeatable: bool, first: bytes, again: bool
) -> None:
    peer.answers = [OK, Last(first), OK]
    assert await body_of(http, peer.url) == BODY
    if again:
        assert await body_of(http, peer.url, repeatable=repeatable) == BODY
    else:
        with pytest.raises(ConnectionError):
            await body_of(http, peer.url, repeatable=repeatable)
    assert (len(peer.requests), peer.connections) == ((3, 2) if again else (2, 1))


async def test_what_a_new_connection_swallowed_is_not_sent_again(peer: Peer, http: HttpClient) -> None:
    peer.answers = [Last(b"")]
    with pytest.raises(ConnectionError):
        await body_of(http, peer.url, repeatable=True)
    assert peer.connections == 1


async def test_a_slow_reader_makes_the_server_wait(peer: Peer, http: HttpClient) -> None:
    whole = b"x" * (1 << 26)
    peer.answers = [HEAD + b"content-length: %d\r\n\r\n" % len(whole) + whole, OK]
    answer, size, largest = await ask(http, peer.url), 0, 0
    async with asyncio.timeout(PATIENCE):
        while piece := await answer.read_some():
            size, largest = size + len(piece), max(largest, len(piece))
            for _ in range(3):
                await asyncio.sleep(0)
    assert size == len(whole)
    assert largest < 1 << 22
    assert await body_of(http, peer.url) == BODY
    assert peer.connections == 1


async def test_a_stream_that_breaks_off_is_read_up_to_there(peer: Peer, http: HttpClient) -> None:
    peer.answers = [Last(OK[:-1])]
    answer, heard = await ask(http, peer.url), b""
    async with asyncio.timeout(PATIENCE):
        while len(heard) < len(BODY) - 1:
            heard += await answer.read_some()
        assert heard == BODY[:-1]
        with pytest.raises(ConnectionError):
            await answer.read_some()


async def test_a_request_says_what_it_is_told_to(peer: Peer, http: HttpClient) -> None:
    peer.answers = [OK, OK]
    server = server_of(peer.url.replace("//", "//user:pass%20word@") + "/v1/")
    target, headers = f"{server.path}/chat?a=b", {"content-type": "text/plain", "x": "ü"}
    assert await (await http.request(server, "PUT", target, headers, b"12345")).read() == BODY
    assert await (await http.request(server, "GET", "/", {"authorization": "Bearer x"}, b"")).read() == BODY
    put, get = (request.decode("latin-1").split("\r\n") for request in peer.requests)
    assert put[0] == "PUT /v1/chat?a=b HTTP/1.1"
    said = {"content-type: text/plain", "x: ü", "content-length: 5", "authorization: Basic dXNlcjpwYXNzIHdvcmQ="}
    assert said | {f"host: {peer.url.removeprefix('http://')}", "accept-encoding: identity"} < {*put}
    assert put[-1] == "12345"
    assert [line for line in get if line.startswith(("authorization", "content-length"))] == ["authorization: Bearer x"]


@pytest.mark.parametrize(
    ("url", "address", "host"),
    [
        ("http://[::1]:8000/v1", Address("::1", 8000, False), "[::1]:8000"),
        ("https://[::1]", Address("::1", 443, True), "[::1]"),
        ("https://Ünsere.example/v1", Address("xn--nsere-jva.example", 443, True), "xn--nsere-jva.example"),
    ],
)
def test_a_url_names_a_server(url: str, address: Address, host: str) -> None:
    assert server_of(url).address == address
    assert server_of(url).lines.startswith(f"host: {host}\r\n")


@pytest.mark.parametrize(
    "url", ["127.0.0.1:80/v1", "ftp://host/", "http:///v1", "http://h:99999", "http://[::1", "host", ""]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is no address of a server"):
        server_of(url)


@pytest.mark.parametrize("bad", ["a\r\nx: y", "a\nx: y", "a\rx: y", "a\0", "€"])
@pytest.mark.parametrize("where", ["target", "name", "value"])
async def test_no_request_smuggles_another(peer: Peer, http: HttpClient, where: str, bad: str) -> None:
    headers = {bad: "v"} if where == "name" else {"x": bad} if where == "value" else {}
    with pytest.raises(ValueError, match="cannot be sent"):
        await http.request(server_of(peer.url), "POST", f"/{bad if where == 'target' else ''}", headers, b"")
    assert peer.connections == 0


async def test_nobody_there_is_an_error_of_the_system(http: HttpClient, unused_tcp_port: int) -> None:
    with pytest.raises(ConnectionRefusedError):
        await ask(http, f"http://127.0.0.1:{unused_tcp_port}")


async def test_a_connection_that_nobody_takes_is_an_error_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", never)
    with pytest.raises(ConnectTimeout, match=r"within 0\.01 s"):
        await ask(HttpClient(0.01), "http://127.0.0.1:1")


@pytest.mark.parametrize("begun", [b"", OK[:-1]], ids=["nothing", "short"])
async def test_an_answer_that_takes_too_long_ends_its_connection(peer: Peer, http: HttpClient, begun: bytes) -> None:
    peer.answers = [begun]
    with pytest.raises(TimeoutError, match="in time"):
        await (await http.request(server_of(peer.url), "POST", "/x", {}, b"", seconds=0.05)).read()
    await peer.until(lambda: peer.ended == 1)


async def test_an_answer_that_came_in_time_leaves_no_deadline_behind(peer: Peer, http: HttpClient) -> None:
    peer.answers = [OK]
    await (await http.request(server_of(peer.url), "POST", "/x", {}, b"", seconds=0.05)).read()
    asking = asyncio.create_task(ask(http, peer.url))
    await asyncio.wait([asking], timeout=0.1)
    assert not asking.done()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_whoever_is_cancelled_leaves_no_connection(peer: Peer, http: HttpClient) -> None:
    peer.answers = [b" "]  # the beginning of an answer that never goes on
    asking = asyncio.create_task(ask(http, peer.url))
    await peer.asked.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await peer.until(lambda: peer.ended == 1)


async def test_whoever_is_cancelled_with_its_answer_there_leaves_the_next_one_alone() -> None:
    kept: list[Connection] = []
    connection = Connection(Address("h", 80, False), set(), kept.append)
    connection.connection_made(Wire())
    first = asyncio.create_task(connection.ask(b"", to_head=False))
    await asyncio.sleep(0)
    connection.data_received(OK)
    assert kept == [connection]
    second = asyncio.ensure_future(connection.ask(b"", to_head=False))
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await asyncio.sleep(0)
    connection.data_received(OK)
    assert await (await second).read() == BODY


def trusting(monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """Trust the tests' own certificate, of localhost and ::1; returns what a server needs to show it."""
    certificate = Path(__file__).with_name("localhost.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


async def test_a_server_under_tls_is_the_one_that_was_named(
    peer: Peer, http: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, named = trusting(monkeypatch), list[str | None]()
    context.sni_callback = lambda _, name, __: named.append(name)
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0, ssl=context)
    port, peer.answers = server.sockets[0].getsockname()[1], [OK, OK, ENDING["until-the-end"]]
    for _ in range(3):
        assert await body_of(http, f"https://localhost:{port}") == BODY
    assert (named, peer.connections) == (["localhost"], 1)
    with pytest.raises(ssl.SSLCertVerificationError):
        await ask(http, f"https://127.0.0.1:{port}")
    server.close()


async def test_what_is_cut_off_under_tls_is_no_whole_answer(
    peer: Peer, http: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ENDING["until-the-end"])
        await writer.drain()
        carrier: Any = writer.transport
        carrier._ssl_protocol._transport.close()  # below TLS, which takes no leave

    server = await asyncio.start_server(cut, "127.0.0.1", 0, ssl=trusting(monkeypatch))
    with pytest.raises(ConnectionError):
        await body_of(http, f"https://localhost:{server.sockets[0].getsockname()[1]}")
    server.close()


async def test_the_address_that_takes_the_connection_is_used(
    peer: Peer, http: HttpClient, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    async def found(*_: object, **__: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", found)
    peer.answers, ports = [OK], [unused_tcp_port, int(peer.url.rpartition(":")[2]), unused_tcp_port]
    assert await body_of(http, "http://name.example") == BODY
    ports = [unused_tcp_port]
    with pytest.raises(ConnectionRefusedError):
        await ask(http, "http://other.example")
    ports = []
    with pytest.raises(OSError, match="no address"):
        await ask(http, "http://third.example")


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_request_cancelled_at_any_step_leaves_nothing_open(peer: Peer, scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        for steps in range(20):
            http = HttpClient(PATIENCE)
            asking = asyncio.create_task(ask(http, f"{scheme}://localhost:{listening.getsockname()[1]}"))
            for _ in range(steps):
                await asyncio.sleep(0)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await http.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    gc.collect()  # a socket that was forgotten says so, which fails this test


async def test_closing_ends_what_is_under_way_and_refuses_the_rest(peer: Peer, http: HttpClient) -> None:
    asking = asyncio.create_task(ask(http, peer.url, repeatable=True))
    await peer.asked.wait()
    await http.close()
    for late in (asking, ask(http, peer.url)):
        with pytest.raises(ConnectionError):
            await late


async def test_each_loop_needs_a_client_of_its_own(peer: Peer, http: HttpClient) -> None:
    with pytest.raises(RuntimeError, match="another event loop"):
        await asyncio.to_thread(asyncio.run, ask(http, peer.url))
