"""Calls that stand outside of every agent are put below the span that was open around them.

The gateway does not know which of an agent's spans made a call, and some tracers lose it; then only the clock is left.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentlightning.adapter.llm_call import in_order
from agentlightning.adapter.place import Place, Places
from agentlightning.adapter.reading import SeenCall
from agentlightning.types import Span

if TYPE_CHECKING:
    from agentlightning.adapter.tree import TraceTree

_NANOSECONDS = 1_000_000_000


def repair(places: Places, calls: Iterable[SeenCall]) -> Places:
    """Move stray calls below the innermost span that was open around them, until none is left to move.

    A call is stray if no span that saw it has an agent or a span of the agent's program above it. Only calls move; what
    their ids say of their parents stays true; and where two spans were open side by side, nobody can say which of them
    made the call, so it stays above both.

    Returns:
        The places as they are now.
    """
    seen = [[sighting.span_id for sighting in call.sightings] for call in calls]
    while _moved(places, seen):  # without its strays, a span may stand for the whole trace, and more calls are stray
        places = Places(places.all[0].node)
    return places


def _moved(places: Places, seen: list[list[str]]) -> bool:
    hosts = _hosts(places, {span_id for ids in seen for span_id in ids})
    strays = _strays(places, seen) if hosts else []
    moves = [(stray, host) for stray, host in _pairs(strays, hosts) if host is not stray.place.parent]
    _move(moves)
    return bool(moves)


@dataclass(frozen=True, slots=True)
class _Timed:
    """A place with the nanoseconds at which its span began and ended, and its number, which no clock can change."""

    place: Place
    start: int
    end: int
    number: int


def _strays(places: Places, seen: list[list[str]]) -> list[_Timed]:
    tops = _tops(places.all)
    strays: dict[int, Place] = {}  # of calls whose spans have one id, there is one place
    for ids in seen:
        own = places.of(ids)
        outermost = [place for place in own if place.parent is None or place.parent.node.id not in ids]
        if all(place.agent is None and place.parent and place.parent.first in tops for place in outermost):
            strays |= {place.first: place for place in outermost}
    return sorted(_timed(strays.values()), key=lambda stray: stray.start)


def _tops(places: list[Place]) -> set[int]:
    """Return the indexes of what stands for a whole trace: roots, and wrappers whose only child is the next one."""
    tops = {
        place.first
        for place in places
        if place.node.virtual or place.parent is None or (place.parent.parent is None and place.parent.node.virtual)
    }
    wrapper = places[0]
    while len(wrapper.node.children) == 1:
        wrapper = places[wrapper.first + 1]
        tops.add(wrapper.first)
    return tops


def _hosts(places: Places, call_ids: set[str]) -> list[_Timed]:
    """Return what can have made a call: any recorded span but calls and what is below one."""
    hosts: list[Place] = []
    behind_call = 0
    for place in places.all:
        if place.node.id in call_ids:
            behind_call = max(behind_call, place.end)
        elif place.first >= behind_call and not place.node.virtual:
            hosts.append(place)
    return sorted(_timed(hosts), key=lambda host: host.start)


def _timed(places: Iterable[Place]) -> list[_Timed]:
    """Leave out what has no times."""
    times = [(place, place.node.span, _nanoseconds(place.node.span)) for place in places]
    return [_Timed(place, *interval, span.sequence_id) for place, span, interval in times if interval is not None]


def _nanoseconds(span: Span) -> tuple[int, int] | None:
    if span.start_time_ns is not None and span.end_time_ns is not None:
        return span.start_time_ns, span.end_time_ns
    if span.start_time is None or span.end_time is None:
        return None
    return int(span.start_time * _NANOSECONDS), int(span.end_time * _NANOSECONDS)


def _pairs(strays: list[_Timed], hosts: list[_Timed]) -> Iterator[tuple[_Timed, Place]]:
    """Go through the time of each attempt once, with the spans that are open."""
    by_attempt: dict[tuple[str, str], list[_Timed]] = {}
    for host in hosts:
        by_attempt.setdefault(_attempt(host), []).append(host)
    moments = {attempt: _Moment(own) for attempt, own in by_attempt.items()}
    for stray in strays:
        moment = moments.get(_attempt(stray))
        host = moment.host_of(stray) if moment else None
        if host is not None:
            yield stray, host


class _Moment:
    """The spans of one attempt that are open at a moment, which only goes on.

    What they are for one call they are for the next, until one begins or ends: thousands may be open at once.
    """

    def __init__(self, hosts: list[_Timed]) -> None:
        self._upcoming = deque(hosts)
        self._open: list[_Timed] = []
        self._first_end = math.inf
        self._last_number = -math.inf
        self._innermost: dict[int, Place | None] = {}

    def host_of(self, stray: _Timed) -> Place | None:
        """Go on to the beginning of a call; return the innermost of the spans around it, if one can be told."""
        self._go_on(stray.start)
        ground = _ground(stray.place)
        if stray.end > self._first_end or stray.number < self._last_number:
            around = [each.place for each in self._open if each.end >= stray.end and each.number <= stray.number]
            return _innermost(around, ground)
        if id(ground) not in self._innermost:
            self._innermost[id(ground)] = _innermost([each.place for each in self._open], ground)
        return self._innermost[id(ground)]

    def _go_on(self, now: int) -> None:
        if now <= self._first_end and not (self._upcoming and self._upcoming[0].start <= now):
            return
        while self._upcoming and self._upcoming[0].start <= now:
            self._open.append(self._upcoming.popleft())
        self._open = [each for each in self._open if each.end >= now]
        self._first_end = min((each.end for each in self._open), default=math.inf)
        self._last_number = max((each.number for each in self._open), default=-math.inf)
        self._innermost.clear()


def _attempt(timed: _Timed) -> tuple[str, str]:
    span = timed.place.node.span
    return span.rollout_id, span.attempt_id


def _ground(stray: Place) -> Place | None:
    """Return the nearest recorded span above a call."""
    ground = stray.parent
    while ground is not None and ground.node.virtual:
        ground = ground.parent
    return ground


def _innermost(around: Sequence[Place], ground: Place | None) -> Place | None:
    """Return the innermost of the spans around a call, as long as each of them holds the next."""
    chain = sorted((place for place in around if ground is None or ground.holds(place)), key=lambda place: place.first)
    innermost: Place | None = None
    for place in chain:
        if not place.holds(chain[-1]):
            break
        innermost = place
    return innermost


def _move(pairs: list[tuple[_Timed, Place]]) -> None:
    moved = {id(stray.place.node) for stray, _ in pairs}
    for parent in {id(stray.place.parent): stray.place.parent for stray, _ in pairs}.values():
        assert parent is not None
        parent.node.children = [child for child in parent.node.children if id(child) not in moved]
    for stray, host in pairs:
        host.node.add_child(stray.place.node)
    for host in {id(host): host for _, host in pairs}.values():
        _sort_children(host.node)


def _sort_children(node: TraceTree) -> None:
    positions = {id(span): position for position, span in enumerate(in_order(child.span for child in node.children))}
    node.children.sort(key=lambda child: positions[id(child.span)])
