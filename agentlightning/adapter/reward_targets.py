"""The calls of one attempt that can get a reward, and where they stand in the tree."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass

from agentlightning.adapter.place import Place
from agentlightning.adapter.rewards import Reward


@dataclass(frozen=True, slots=True)
class PlacedReward:
    """A reward, its place, and its position among all spans in order."""

    reward: Reward
    place: Place
    position: int


@dataclass(frozen=True, slots=True)
class Target:
    """A call that can get a reward.

    Attributes:
        index: Its index among the calls.
        response_id: The id of its answer.
        sequence_id: The sequence id of its record.
        position: Its position among all spans in order.
        places: Where the spans stand that saw it.
    """

    index: int
    response_id: str | None
    sequence_id: int
    position: int
    places: tuple[Place, ...]


class Targets:
    """The calls of one attempt, in order.

    Args:
        targets: The calls.
        others: Calls beside them that cannot get a reward.
    """

    def __init__(self, targets: list[Target], others: list[Target]) -> None:
        self.all = in_position(targets)
        self._others = others
        placed = sorted(((place.first, target) for target in targets for place in target.places), key=lambda p: p[0])
        self._firsts = [first for first, _ in placed]
        self._placed = [target for _, target in placed]
        self._at = dict(placed)
        self._others_at = {place.first for target in others for place in target.places}

    def at(self, place: Place) -> tuple[Target | None, bool]:
        """Return the call that the span at a place saw, and whether that is one of the others."""
        return self._at.get(place.first), place.first in self._others_at

    def within(self, place: Place) -> list[Target]:
        """Return the calls that were seen at a place or below it, in order."""
        found = self._placed[bisect_left(self._firsts, place.first) : bisect_left(self._firsts, place.end)]
        return in_position({target.index: target for target in found}.values())

    def earliest_within(self, places: list[Place]) -> list[int | None]:
        """Return for each place the position of the earliest call, of the others too, that was seen there or below."""
        earliest: list[int | None] = [None] * len(places)
        for target in [*self.all, *self._others]:
            for place in target.places:
                earliest[place.first] = _earlier(earliest[place.first], target.position)
        for place in reversed(places):
            if place.parent is not None:
                earliest[place.parent.first] = _earlier(earliest[place.parent.first], earliest[place.first])
        return earliest


def in_position(targets: Iterable[Target]) -> list[Target]:
    """Return the calls in order."""
    return sorted(targets, key=lambda target: target.position)


def _earlier(left: int | None, right: int | None) -> int | None:
    return min((each for each in (left, right) if each is not None), default=None)
