"""HTTP inside a program: a server on an event loop or in a thread, and work that ends when its client leaves."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
import threading
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final, TypeVar, cast

import uvicorn
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from agentlightning.errors import AddressTaken, ConfigurationError

CLIENT_LEFT: Final = 499
"""What servers log for a client that left; nobody receives it."""

_KEEP_ALIVE_SECONDS: Final = 30
"""How long an idle connection stays open: longer than clients keep theirs (aiohttp 15 s, our own 4 s), so that none
sends a request into a connection that is being closed."""
_THREAD_SECONDS: Final = 10.0
_FIRST_HEAD_SECONDS: Final = 10
"""How long a new connection has for the head of its first request."""
_LAST_WORDS_SECONDS: Final = 30
"""How long a client has to take the rest of an answer once its connection is closed."""
_HEAD_BYTES: Final = 64 * 1024
"""How large a request's head may be, and what else a connection sends that is no body."""

_CLIENT: Final = "agentlightning.client"
"""Where a request's scope has its connection; servers other than the embedded one put nothing there."""

T = TypeVar("T")


class EmbeddedServer:
    """Serves an ASGI app on the event loop that calls `start`, and leaves signals to the program.

    The socket is bound by `start` itself, so the address is known, and connections are accepted, once it returns.

    Args:
        app: The ASGI application.
        host: Address to bind; loopback by default.
        port: Port to bind; 0 picks a free one.
        drain_seconds: How long `stop` waits for requests in flight before it cuts them off.
        on_stop: Called by `stop` first, on the server's event loop.
    """

    def __init__(
        self,
        app: ASGIApp,
        host: str = "127.0.0.1",
        port: int = 0,
        drain_seconds: int = 2,
        on_stop: Callable[[], None] | None = None,
    ) -> None:
        self._app = app
        self._host = host
        self._port = port
        self._drain_seconds = drain_seconds
        self._on_stop = on_stop
        self._url: str | None = None
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where others reach the address that the last `start` bound, such as `http://127.0.0.1:4747`."""
        if self._url is None:
            raise ConfigurationError("a server that picks its port has no address before it is started: start it first")
        return self._url

    @property
    def running(self) -> bool:
        """Whether the server accepts connections."""
        return self._task is not None and not self._task.done()

    async def start(self) -> None:
        """Bind and serve; returns when connections are accepted.

        Raises:
            AddressTaken: The address cannot be bound.
        """
        if self.running:
            return
        bound = _bind(self._host, self._port)
        host, port = bound.getsockname()[:2]
        self._url = url_of(host, port)
        self._server = _Server(
            uvicorn.Config(
                self._app,
                http=_Protocol,
                log_level="warning",
                access_log=False,
                lifespan="off",  # an app's life is its owner's affair
                ws="none",
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                date_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=self._drain_seconds,
            )
        )
        self._task = asyncio.create_task(self._server.serve(sockets=[bound]), name="agl-http-server")
        ready = asyncio.create_task(self._server.ready.wait())
        await asyncio.wait({ready, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            ready.cancel()
            self._task.result()
            raise ConfigurationError(f"the server at {self.url} ended while it started")

    async def stop(self) -> None:
        """Refuse new connections, let requests in flight end within `drain_seconds`, and close."""
        if self._server is None or self._task is None:
            return
        if self._on_stop is not None:
            self._on_stop()
        self._server.leave.set()
        await self._task
        self._server = self._task = None


class OwnLoop:
    """An event loop in a thread of its own, which runs until `close`.

    Args:
        name: The thread's name.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_run_loop, args=(self._loop,), name=name, daemon=True)
        self._thread.start()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do work there, and wait for it here."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def close(self) -> None:
        """End the loop, then the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join, _THREAD_SECONDS)


class ServerThread:
    """Runs an `EmbeddedServer` on an event loop in a thread of its own; any loop may start and stop it.

    Args:
        server: The server, which nobody else starts.
        name: The thread's name.
    """

    def __init__(self, server: EmbeddedServer, name: str) -> None:
        self._server = server
        self._name = name
        self._own: OwnLoop | None = None

    @property
    def url(self) -> str:
        """See `EmbeddedServer.url`."""
        return self._server.url

    @property
    def running(self) -> bool:
        """Whether the server accepts connections."""
        return self._server.running

    async def start(self) -> None:
        """Start the thread; returns when connections are accepted.

        Raises:
            AddressTaken: The address cannot be bound.
        """
        if self._own is not None:
            return
        self._own = OwnLoop(self._name)
        try:
            await self._own.run(self._server.start())
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop the server as `EmbeddedServer.stop` does, then end the thread."""
        own, self._own = self._own, None
        if own is None:
            return
        try:
            await own.run(self._server.stop())
        finally:
            await own.close()


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.get_loop().run_forever()


class _Server(uvicorn.Server):
    """uvicorn's server that says when it is ready and installs no signal handlers: Ctrl+C belongs to the program."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        self.leave = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    async def main_loop(self) -> None:
        """Wait for the end; uvicorn's own loop asks ten times a second."""
        await self.leave.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol, thriftier and with bounds on what comes before an application hears of it.

    The head and the body of an answer are sent with one system call, which is a fifth of a small request's cost. They
    leave at the end of the step: if the application then fails, its client sees the connection close with the answer,
    and not under its next request.
    """

    _deadline: asyncio.TimerHandle | None = None
    _bytes_without_use = 0
    _client: _Client

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Put the gatherer between uvicorn and the connection."""
        self._client = _Client()
        super().connection_made(cast("asyncio.Transport", _Gathering(transport, self.loop)))
        self._expect_head(_FIRST_HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._end_deadline()
        super().connection_lost(exc)
        self._client.leave()

    def data_received(self, data: bytes) -> None:
        """Count what the parser keeps to itself: the beginning of a head, or what follows a body in pieces."""
        self._bytes_without_use += len(data)
        super().data_received(data)
        if self._bytes_without_use > _HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("")
        if not self.cycle or self.cycle.response_complete:
            self._expect_head(_KEEP_ALIVE_SECONDS)

    def on_headers_complete(self) -> None:
        """Begin a request, unless its head is too large."""
        if self._bytes_without_use > _HEAD_BYTES and sum(map(_size, self.headers), len(self.url)) > _HEAD_BYTES:
            raise ValueError("the head is too large")  # ends in send_400_response
        self._bytes_without_use = 0
        self._end_deadline()
        cast("dict[str, Any]", self.scope)[_CLIENT] = self._client
        self._client.silent = False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        self._bytes_without_use = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        self._bytes_without_use = 0
        self._client.silent = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request, or too large a head."""
        if self._bytes_without_use <= _HEAD_BYTES:
            super().send_400_response(msg)
            return
        self.transport.write(
            b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        )
        self.transport.close()

    def _expect_head(self, seconds: float) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(seconds, self.transport.close)

    def _end_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class _Client:
    """The other end of a connection.

    Attributes:
        gone: Whether it has left.
        silent: Whether all of its last request has come.
    """

    __slots__ = ("_on_leave", "gone", "silent")

    def __init__(self) -> None:
        self.gone = False
        self.silent = False
        self._on_leave: list[Callable[[], None]] = []

    def watch(self, on_leave: Callable[[], None]) -> None:
        """Call this when the client leaves, or now if it has left."""
        if self.gone:
            on_leave()
        else:
            self._on_leave.append(on_leave)

    def ignore(self, on_leave: Callable[[], None]) -> None:
        """End what `watch` began."""
        if not self.gone:
            self._on_leave.remove(on_leave)

    def leave(self) -> None:
        """Tell all who watch."""
        self.gone = True
        for on_leave in self._on_leave:
            on_leave()


def _size(header: tuple[bytes, bytes]) -> int:
    return len(header[0]) + len(header[1])


class _Gathering:
    """A transport that holds back what is written until this step of the loop is over."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._held:
            self._loop.call_soon(self._send)
        self._held.append(data)

    def close(self) -> None:
        self._send()
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self._loop.call_later(_LAST_WORDS_SECONDS, self._transport.abort)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def _send(self) -> None:
        if self._held:
            data, self._held = b"".join(self._held), []
            self._transport.write(data)


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio turns off Nagle's algorithm on every connection; otherwise an answer, which is
    # sent as head and body, waits up to 40 ms for the client's acknowledgement of the head.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise AddressTaken(f"cannot listen on {host}:{port} ({error.strerror}); {_remedy(error)}") from error
    return bound


def _remedy(error: OSError) -> str:
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return "choose an address of this machine, such as 127.0.0.1, or 0.0.0.0 for all"
    return "choose another port, or 0 for a free one"


def check_address(host: str, port: int) -> None:
    """Refuse an address that cannot be bound now.

    Raises:
        AddressTaken: It cannot.
    """
    _bind(host, port).close()


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what is bound to a host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def url_of(host: str, port: int) -> str:
    """Return the URL at which others reach a bound address."""
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_unspecified:
            host = _outbound_address()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _outbound_address() -> str:
    """Return this machine's address in the network that its default route leads to."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; an address of no machine, for documentation
        except OSError:  # without a network
            return "127.0.0.1"
        return probe.getsockname()[0]


async def answer_nobody(_request: Request, _error: Exception) -> Response:
    """Handle `ClientDisconnect`, which a client causes that leaves before its request is read."""
    return Response(status_code=CLIENT_LEFT)


def has_come(request: Request) -> bool:
    """Whether all of a request is known to be there, so that nobody need wait for it."""
    client: _Client | None = request.scope.get(_CLIENT)
    return client is not None and client.silent


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """Await `work`, whose request was read to its end; if the client leaves first, cancel it and return None."""
    scope = asyncio.timeout(None)
    client: _Client | None = request.scope.get(_CLIENT)
    watch = None if client is not None else asyncio.create_task(_end_without_client(request, scope))

    def end() -> None:
        scope.reschedule(0.0)

    try:
        async with scope:
            if client is not None:
                client.watch(end)
            return await work
    except TimeoutError:
        if scope.expired():
            return None
        raise
    finally:
        if watch is not None:
            watch.cancel()
        elif client is not None:
            client.ignore(end)


async def _end_without_client(request: Request, scope: asyncio.Timeout) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    scope.reschedule(0.0)
