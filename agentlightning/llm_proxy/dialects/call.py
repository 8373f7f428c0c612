"""What the gateway knows of a model call, whatever API it came by."""

from __future__ import annotations

from typing import Any, Protocol

from agentlightning.llm_proxy.reply import Reply

Json = dict[str, Any]


class View(Protocol):
    """How a client sees the backend's stream."""

    def of(self, events: bytes) -> bytes:
        """Return what the client is to see of some events of the backend's.

        Raises:
            InvalidAnswer: They are no events of a chat.
        """
        ...

    def end(self) -> bytes:
        """Return what follows the backend's last event.

        Raises:
            InvalidAnswer: The events before were none of a chat.
        """
        ...

    def error(self, message: str, code: str) -> bytes:
        """Return the event that says that the stream failed."""
        ...


class Call(Protocol):
    """A model call.

    Attributes:
        path: Where the backend serves it.
        request: The request in the backend's form.
        translated: Whether that is another form than the client's.
    """

    path: str
    request: Json
    translated: bool

    def answer(self, reply: Reply) -> Reply:
        """Return the backend's answer, or the error that stands for it, as the client gets it.

        Raises:
            InvalidAnswer: The answer is none of a chat.
        """
        ...

    def view(self) -> View:
        """Return how the client sees the backend's stream."""
        ...
