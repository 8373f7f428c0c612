"""Stops: what ends an attempt before its agent has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal

from agentlightning.errors import RolloutCancelled


@dataclass(frozen=True, slots=True)
class Reason:
    """Why an attempt ends early.

    Attributes:
        text: In words.
        status: What becomes of the attempt; None where the store has decided that.
    """

    text: str
    status: Literal["failed", "timeout"] | None = "failed"


LOST: Final = Reason(
    "the attempt ended in the store: cancelled, out of time, silent for too long, or given to another worker", None
)
TOLD: Final = Reason("the stop event was set before the agent ended")


def out_of_time(seconds: float) -> Reason:
    """Return the reason of an attempt that lived for its `timeout_seconds`."""
    return Reason(f"the attempt was not over after its timeout_seconds={seconds:g}", "timeout")


class Stop:
    """Tells one task to stop; it belongs to the task's event loop.

    Attributes:
        reason: Why it was told; None while it may go on.
    """

    def __init__(self) -> None:
        self.reason: Reason | None = None
        self._cancel: Callable[[], None] | None = None

    def tell(self, reason: Reason) -> None:
        """Cancel the block that `cancels` guards, now or when it is entered; the first reason stands."""
        if self.reason is None:
            self.reason = reason
            if self._cancel is not None:
                self._cancel()

    @contextmanager
    def cancels(self) -> Generator[None]:
        """Let the stop cancel the block, and make sure that a cancelled block never looks finished.

        Raises:
            RolloutCancelled: The block was stopped, whatever error it made of that.
            CancelledError: The task was cancelled, even if the block swallowed that.
        """
        task = asyncio.current_task()
        assert task is not None
        cancellations, fired = task.cancelling(), False

        def cancel() -> None:
            nonlocal fired
            fired = True
            task.cancel()

        self._cancel = cancel
        told_before = asyncio.get_running_loop().call_soon(cancel) if self.reason else None
        failure: BaseException | None = None
        try:
            yield
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # raised below, unless the stop caused it
            failure = error
        finally:
            self._cancel = None
            if told_before is not None:
                told_before.cancel()
            if fired:
                task.uncancel()
        if task.cancelling() > cancellations:
            raise failure or asyncio.CancelledError("the task was cancelled and the agent went on")
        if fired and self.reason is not None:
            raise RolloutCancelled(self.reason.text) from failure
        if failure is not None:
            raise failure
