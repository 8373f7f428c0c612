"""Requests that a client sends again because it did not get the answer: which call is repeated by which.

SDKs say so in a header, `x-stainless-retry-count`. An idempotency key names the request; without one, requests of an
attempt with the same body are the same request or, as in best-of-n, several samples. So an answered call is repeated
only by one that says that it is a repetition, and so is a stream whose client left, perhaps because it had all that it
wanted; a call that failed, also because its client left before an answer, by any later one.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

_WINDOW_SECONDS: Final = 300.0
"""How long a call that ended is remembered."""
_ANSWERED_SECONDS: Final = 60.0
"""How long an answered call may be repeated without being named: no SDK waits longer before it asks again."""
_MOST_CALLS: Final = 16_384
_MOST_COMPARED: Final = 256
_KEYS: Final = (b"idempotency-key", b"x-stainless-idempotency-key")
_RETRY_COUNT: Final = b"x-stainless-retry-count"
IDENTIFYING: Final = frozenset({*_KEYS, _RETRY_COUNT})
"""The headers that say which request a request is."""

Outcome = Literal["answered", "left", "failed"]
"""How a call ended; `left` is a stream whose client went away, perhaps because it had all that it wanted."""


@dataclass(slots=True, eq=False)
class Sent:
    """A request that came.

    Attributes:
        span_id: The span of its call.
        identity: Equal for requests that may be repetitions of each other.
        named: Whether the client named the request, so that equal ones are repetitions for sure.
        retry: The how manieth repetition it is, as its client says.
        began: When it came, by the clock of `Repetitions`.
        ended: When its answer was complete or it failed; None before.
        outcome: How it ended; None before.
        claimed: Whether a call that is a repetition for sure repeats it.
    """

    span_id: str
    identity: Hashable
    named: bool
    retry: int
    began: float
    ended: float | None = None
    outcome: Outcome | None = None
    claimed: bool = False


class Repetitions:
    """Remembers the calls of the last minutes, and finds the one that another repeats.

    Args:
        clock: Returns seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._open: dict[Sent, None] = {}
        self._ended: deque[Sent] = deque()
        self._same: dict[Hashable, _Same] = {}

    def __len__(self) -> int:
        """Return how many calls are remembered."""
        return len(self._open) + len(self._ended)

    def begin(
        self, span_id: str, attempt: tuple[str, str], path: str, body: bytes, headers: Mapping[bytes, str]
    ) -> Sent:
        """Take note of a request as it comes; hand what this returns to `end`."""
        name = next((headers[key] for key in _KEYS if headers.get(key)), None)
        count = headers.get(_RETRY_COUNT, "")
        sent = Sent(
            span_id=span_id,
            identity=(attempt, path, hash(body) if name is None else name),
            named=name is not None,
            retry=int(count) if count.isdecimal() and len(count) < 4 else 0,
            began=self._clock(),
        )
        self._open[sent] = None
        if len(self._open) > _MOST_CALLS:  # some ended unseen
            self._forget(next(iter(self._open)))
        same = self._same.get(sent.identity)
        if same is None:
            same = self._same[sent.identity] = _Same()
        same.calls.append(sent)
        return sent

    def end(self, sent: Sent, outcome: Outcome) -> str | None:
        """Take note of how a call ended; returns the span id of the call that it repeats, or None."""
        if sent not in self._open:
            return None
        del self._open[sent]
        self._ended.append(sent)
        sent.ended, sent.outcome = self._clock(), outcome
        self._forget_old(sent.ended)
        same = self._same[sent.identity]
        if sent.named or sent.retry:
            repeated = _repeated(sent, same.before(sent))
            if repeated is not None:
                repeated.claimed = True
        else:
            repeated = same.failed_before(sent)
        if outcome == "failed":
            same.add_failed(sent)
        return None if repeated is None else repeated.span_id

    def _forget_old(self, now: float) -> None:
        while len(self._ended) > _MOST_CALLS or _end(self._ended[0]) < now - _WINDOW_SECONDS:
            self._forget(self._ended.popleft())

    def _forget(self, sent: Sent) -> None:
        self._open.pop(sent, None)
        same = self._same[sent.identity]
        same.calls.remove(sent)  # one of the first
        if not same.calls:
            del self._same[sent.identity]


@dataclass(slots=True)
class _Same:
    """The calls of one identity as they came, and those that failed as they did."""

    calls: list[Sent] = field(default_factory=list[Sent])
    failed: list[Sent] = field(default_factory=list[Sent])

    def before(self, sent: Sent) -> list[Sent]:
        """Return the last calls before this one, in order."""
        return [each for each in self.calls[-_MOST_COMPARED:] if each is not sent and each.began <= sent.began]

    def failed_before(self, sent: Sent) -> Sent | None:
        """Return the call that failed last before this one came."""
        last = next((each for each in reversed(self.failed) if _end(each) <= sent.began), None)
        return last if last is not None and _end(last) > sent.began - _WINDOW_SECONDS else None

    def add_failed(self, sent: Sent) -> None:
        """Take note of a failure."""
        self.failed.append(sent)
        del self.failed[:-_MOST_COMPARED]


def _repeated(sent: Sent, earlier: list[Sent]) -> Sent | None:
    """Return the call that a certain repetition most probably repeats."""
    free = [each for each in earlier if not each.claimed and (sent.named or each.retry == sent.retry - 1)]
    lost = [each for each in free if each.outcome in ("failed", "left")]
    if lost:
        return lost[-1]
    waiting = [each for each in free if each.outcome is None]
    if waiting:
        return waiting[0]  # its client has waited longest
    answered = [each for each in free if sent.named or _end(each) > sent.began - _ANSWERED_SECONDS]
    return max(answered, key=_end, default=None)


def _end(sent: Sent) -> float:
    return math.inf if sent.ended is None else sent.ended
