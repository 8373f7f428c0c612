"""Requests that a client sends again because it did not get the answer: which call is repeated by which.

SDKs say so in a header, `x-stainless-retry-count`. An idempotency key names the request; without one, requests of an
attempt with the same body are the same request or, as in best-of-n, several samples. So an answered call is repeated
only by one that says that it is a repetition; a call that failed, or whose client left, by any later one.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

_WINDOW_SECONDS: Final = 900.0
"""How long a lost call is remembered: SDKs wait ten minutes for an answer."""
_ANSWERED_SECONDS: Final = 60.0
"""How long an answered call may be repeated: no SDK waits longer before it asks again."""
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
        self._order: deque[Sent] = deque()
        self._same: dict[Hashable, _Same] = {}

    def __len__(self) -> int:
        """Return how many calls are remembered."""
        return len(self._order)

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
        self._forget_old(sent.began)
        self._order.append(sent)
        same = self._same.get(sent.identity)
        if same is None:
            same = self._same[sent.identity] = _Same()
        same.calls.append(sent)
        return sent

    def end(self, sent: Sent, outcome: Outcome) -> str | None:
        """Take note of how a call ended; returns the span id of the call that it repeats, or None."""
        sent.ended, sent.outcome = self._clock(), outcome
        same = self._same.get(sent.identity)
        if same is None:
            return None
        if sent.named or sent.retry:
            repeated = _repeated(sent, same.before(sent))
            if repeated is not None:
                repeated.claimed = True
        else:
            repeated = next((each for each in reversed(same.failed) if _end(each) <= sent.began), None)
        if outcome == "failed":
            same.failed.append(sent)
        return None if repeated is None else repeated.span_id

    def _forget_old(self, now: float) -> None:
        while self._order and (len(self._order) >= _MOST_CALLS or self._order[0].began < now - _WINDOW_SECONDS):
            old = self._order.popleft()
            same = self._same[old.identity]
            same.calls.popleft()
            if not same.calls:
                del self._same[old.identity]


@dataclass(slots=True)
class _Same:
    """The calls of one identity as they came, and those that failed as they did."""

    calls: deque[Sent] = field(default_factory=deque[Sent])
    failed: deque[Sent] = field(default_factory=lambda: deque[Sent](maxlen=_MOST_COMPARED))

    def before(self, sent: Sent) -> list[Sent]:
        """Return the last calls before this one, in order."""
        last = itertools.islice(reversed(self.calls), _MOST_COMPARED)
        return [each for each in last if each is not sent and each.began <= sent.began][::-1]


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
