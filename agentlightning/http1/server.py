"""Whom a URL names."""

from __future__ import annotations

from base64 import b64encode
from functools import lru_cache
from typing import NamedTuple

from yarl import URL


class Address(NamedTuple):
    """Where connections lead."""

    host: str
    port: int
    tls: bool


class Server(NamedTuple):
    """A server.

    Attributes:
        address: Where it is.
        path: The encoded path of its URL, without a slash at its end.
        lines: What every request to it says.
        user: The authorization of a request that has no other, if the URL names a user.
    """

    address: Address
    path: str
    lines: str
    user: str | None


@lru_cache(maxsize=1024)
def server_of(url: str) -> Server:
    """Return the server that a URL names.

    Raises:
        ValueError: It names none.
    """
    try:
        parts = URL(url)
        host, port = parts.raw_host, parts.port
    except ValueError:  # the port is none, or a bracket does not close
        raise _no_address(url) from None
    if parts.scheme not in ("http", "https") or not host or port is None:
        raise _no_address(url)
    user = None
    if parts.user is not None:
        secret = f"{parts.user}:{parts.password or ''}"
        user = f"Basic {b64encode(secret.encode()).decode()}"
    lines = [f"host: {parts.host_port_subcomponent}", "accept: */*", "accept-encoding: identity"]
    lines += ["user-agent: agentlightning", ""]
    return Server(Address(host, port, parts.scheme == "https"), parts.raw_path.rstrip("/"), "\r\n".join(lines), user)


def _no_address(url: str) -> ValueError:
    return ValueError(f"{url!r} is no address of a server")
