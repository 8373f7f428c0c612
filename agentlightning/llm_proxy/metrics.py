"""What a gateway counts while it works: plain numbers, which become metrics when somebody asks for them."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0)
"""The upper bounds of a histogram's buckets."""

_LAST_PIECES: Final = 8
_PROMPT: Final = b'"prompt_tokens"'
_COMPLETION: Final = b'"completion_tokens"'
_NUMBER: Final = re.compile(rb"\s*:\s*(\d+)")


class Histogram:
    """How often values fell between the bounds.

    Attributes:
        counts: Of values up to each bound and above the one before; last, of those above all.
        total: The sum of all values.
    """

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(SECONDS, value)] += 1
        self.total += value


@dataclass(slots=True)
class Series:
    """What is counted of the calls for one model that came by one API.

    Attributes:
        statuses: How many were answered with each HTTP status.
        latency: Seconds from the moment a call could go on until its answer was complete.
        first_token: Seconds until a stream said something beyond the role.
        prompt_tokens: What the models read, as far as backends say it.
        completion_tokens: What they wrote.
        retries: How often backends were asked again.
    """

    statuses: Counter[int] = field(default_factory=Counter[int])
    latency: Histogram = field(default_factory=Histogram)
    first_token: Histogram = field(default_factory=Histogram)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    retries: int = 0

    def count(self, status: int, seconds: float, pieces: Sequence[bytes], retries: int) -> None:
        """Count an answer, whole or in the pieces in which it came."""
        self.statuses[status] += 1
        self.latency.add(seconds)
        self.retries += retries
        prompt, completion = tokens_in(pieces)
        self.prompt_tokens += prompt
        self.completion_tokens += completion


class Meter:
    """Counts a gateway's calls.

    Attributes:
        series: By model and path. Models are those that are served: what agents make up is not ours to remember.
    """

    def __init__(self) -> None:
        self.series: dict[tuple[str, str], Series] = {}

    def of(self, model: str, path: str) -> Series:
        """Return where the calls of a model by an API are counted."""
        series = self.series.get((model, path))
        if series is None:
            series = self.series[model, path] = Series()
        return series


def tokens_in(pieces: Sequence[bytes]) -> tuple[int, int]:
    """Return how many tokens an answer says that it read and wrote, without reading all of it.

    The usage stands near the end. No text can be taken for it: in a text all quotes are escaped.
    """
    end = b"".join(pieces[-_LAST_PIECES:])
    return _number_after(_PROMPT, end), _number_after(_COMPLETION, end)


def _number_after(key: bytes, text: bytes) -> int:
    position = text.rfind(key)
    found = _NUMBER.match(text, position + len(key)) if position >= 0 else None
    return int(found[1]) if found else 0
