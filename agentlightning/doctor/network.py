"""Whom a program talks to, by the addresses that its sockets connect to."""

from __future__ import annotations

import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, NamedTuple


class Contact(NamedTuple):
    """Whom a program connected to.

    Attributes:
        name: As `host:port`, the host by the name that was looked up.
        address: The same with the host's address; the name again if that is not known.
    """

    name: str
    address: str


@contextmanager
def connections_noted() -> Generator[dict[Contact, None]]:
    """Note whom this process connects to inside the block, in the order of the first time.

    Programs that open sockets past Python's `socket` module (uvloop, gRPC), and other processes, are not noticed.
    """
    contacted: dict[Contact, None] = {}
    names: dict[str, str] = {}
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def noting_connect(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            host, port = address[:2]
            contacted[Contact(f"{names.get(host, host)}:{port}", f"{host}:{port}")] = None
        connect(self, address)

    def noting_look_up(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            found = look_up(host, port, *args, **kwargs)
        except OSError:
            name = f"{_text(host)}:{_text(port)}"
            contacted[Contact(name, name)] = None
            raise
        names.update({str(entry[4][0]): _text(host) for entry in found if host})
        return found

    setattr(socket.socket, "connect", noting_connect)  # noqa: B010  # type checkers allow no other way
    setattr(socket, "getaddrinfo", noting_look_up)  # noqa: B010
    try:
        yield contacted
    finally:
        setattr(socket.socket, "connect", connect)  # noqa: B010
        setattr(socket, "getaddrinfo", look_up)  # noqa: B010


def _text(value: str | bytes | int | None) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
