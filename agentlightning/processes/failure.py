"""An error on its way from one process to another."""

from __future__ import annotations

import pickle
import traceback
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from agentlightning._internal.text import text_of
from agentlightning.errors import AgentLightningError
from agentlightning.processes.pickling import dumps


@dataclass(frozen=True, slots=True)
class Failure:
    """What a process failed with.

    Attributes:
        pickled: The error; None where it cannot be pickled.
        text: Its type and message.
        traceback: Where it was raised.
    """

    pickled: bytes | None
    text: str
    traceback: str

    @classmethod
    def of(cls, error: BaseException) -> Self:
        """Describe an error that was caught."""
        text = f"{type(error).__name__}: {text_of(error)}"
        return cls(_pickled(error), text, "".join(traceback.format_exception(error)))

    def error(self, who: str, otherwise: type[AgentLightningError]) -> BaseException:
        """Return the error, which tells where in its process it was raised.

        Args:
            who: Whose process it was, such as "the agent".
            otherwise: What is returned in its place if it cannot come here, or would end this process here, as a
                KeyboardInterrupt does.
        """
        error = self._unpickled(who, otherwise)
        error.add_note(f"In the process of {who}:\n{self.traceback}")
        return error

    def _unpickled(self, who: str, otherwise: type[AgentLightningError]) -> BaseException:
        if self.pickled is None:
            return otherwise(f"{who} raised an error that cannot be pickled, {self.text}")
        with suppress(Exception):  # of a module that only its process has, say
            error = pickle.loads(self.pickled)
            if isinstance(error, (Exception, SystemExit)):
                return error
            return otherwise(f"{who} raised {self.text}")
        return otherwise(f"{who} raised an error that cannot be pickled, {self.text}")


def _pickled(error: BaseException) -> bytes | None:
    try:
        content = dumps(error)
        pickle.loads(content)  # many an exception can be taken apart, but not put together again
    except Exception:  # noqa: BLE001  # its text goes in its place
        return None
    return content
