"""What comes back of a request: whole, or piece by piece."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from agentlightning.errors import ModelError


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer.

    Attributes:
        status: HTTP status.
        body: The body.
        headers: The headers that concern the client.
        backend: The base URL of the backend that gave it, or that was asked in vain; None if none was asked.
        retries: How often a backend was asked again before.
        weights_version: The version of that backend's weights when it was asked, as configured, or None.
    """

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    backend: str | None = None
    retries: int = 0
    weights_version: int | None = None


class EventStream(ABC):
    """An answer that comes piece by piece.

    Args:
        status: HTTP status.
        headers: The headers that concern the client.
        backend: The backend's base URL.

    Attributes:
        status: HTTP status.
        headers: The headers that concern the client.
        backend: The backend's base URL.
        retries: How often a backend was asked again before.
        weights_version: The version of its weights when it was asked, as configured, or None.
        on_end: Told that the backend has sent all, or why it has not.
    """

    def __init__(self, status: int, headers: Mapping[str, str], backend: str) -> None:
        self.status = status
        self.headers = headers
        self.backend: str | None = backend
        self.retries = 0
        self.weights_version: int | None = None
        self.on_end: Callable[[ModelError | None], None] | None = None
        self._first: bytes | None = None

    async def begin(self) -> None:
        """Wait for the first piece, before which nothing is lost if the backend dies.

        Raises:
            BackendUnreachable: The stream broke off.
            BackendTimeout: The backend is silent for too long.
        """
        try:
            self._first = await self._next()
        except BaseException:
            self.close()
            raise

    async def read(self) -> bytes:
        """Return what has come, waiting for it if need be; nothing at the end.

        Raises:
            BackendUnreachable: The stream broke off.
            BackendTimeout: The backend is silent for too long.
        """
        if self._first is not None:
            first, self._first = self._first, None
            return first
        try:
            piece = await self._next()
        except ModelError as error:
            self._end(error)
            raise
        if not piece:
            self._end(None)
        return piece

    @abstractmethod
    async def _next(self) -> bytes: ...

    @abstractmethod
    def close(self) -> None:
        """Close the connection, whether or not the backend is done."""

    def _end(self, failure: ModelError | None) -> None:
        on_end, self.on_end = self.on_end, None
        if on_end is not None:
            on_end(failure)
