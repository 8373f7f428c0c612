"""One call seen by several: sightings of the same request become one.

A gateway, an instrumented SDK and the framework around it may each write a span for a request. They are joined by the
id of the response. A sighting without one is joined to a span above or below it, else to one that ran at the same time
and says the same. Two spans of one library with the same id are two calls if they lie beside each other and answer
differently: some backends give every answer the same id.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from agentlightning.adapter.reading import Sighting
from agentlightning.types import LLMCall, Span
from agentlightning.types.chat_shape import dicts, mapping
from agentlightning.types.llm_call_span import SOURCE as GATEWAY


@dataclass(frozen=True)
class Seen:
    """A sighting and the span it was read from."""

    span: Span
    sighting: Sighting

    @property
    def response_id(self) -> str | None:
        """The id of the response, if the span names one."""
        return self.sighting.response_id

    @property
    def library(self) -> tuple[str, str]:
        """Who wrote the span."""
        return self.sighting.source, self.sighting.scope or self.sighting.name

    @cached_property
    def said(self) -> str:
        """What the model answered, as far as all sources agree to keep it; empty when nothing is known."""
        if self.sighting.failure is not None:
            return "" if self.sighting.silent else "failed"
        said = [_said(each) for each in self.sighting.answers]
        return json.dumps(said) if any(any(each) for each in said) else ""

    @cached_property
    def answered(self) -> str:
        """All that the span says of the answers."""
        try:  # not as JSON: a source may keep any Python value
            return repr([(each.message, each.response_token_ids) for each in self.sighting.answers])
        except RecursionError:
            return self.span.span_id  # too deep to compare, so it is like no other

    @property
    def start(self) -> float | None:
        """When the span began."""
        return self.span.start_time

    @property
    def end(self) -> float | None:
        """When the span ended."""
        return self.span.end_time


@dataclass(slots=True)
class Group:
    """The sightings of one call, in order."""

    members: list[Seen] = field(default_factory=list[Seen])
    libraries: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])

    def add(self, each: Seen) -> None:
        """Add a sighting."""
        self.members.append(each)
        self.libraries.add(each.library)


def join(seen: Sequence[Seen], spans: Iterable[Span]) -> list[Group]:
    """Put the sightings of one request into one group; groups stand in the order of their first sighting."""
    responses = Counter([(each.span.attempt_id, each.sighting.response_id) for each in seen])
    unnamed = [each for each in seen if each.response_id is None]
    if len(responses) == len(seen) and not unnamed:
        return [Group([each]) for each in seen]  # nobody saw what another did
    joining = _Joining(seen, spans, {key for key, count in responses.items() if count > 1})
    for each in seen:
        if each.response_id is not None:
            joining.put(each, joining.of_same_response(each))
    if unnamed:
        joining.note_times()
    for each in sorted(unnamed, key=lambda each: each.sighting.silent):
        joining.put(each, joining.around(each) or joining.at_the_same_time(each))
        joining.note_time(each)
    position = {id(each): number for number, each in enumerate(seen)}
    for group in joining.groups:
        group.members.sort(key=lambda each: position[id(each)])
    return sorted(joining.groups, key=lambda group: position[id(group.members[0])])


class _Joining:
    """What is known while sightings are put into groups."""

    def __init__(self, seen: Sequence[Seen], spans: Iterable[Span], repeated: set[tuple[str, str | None]]) -> None:
        self.groups: list[Group] = []
        self._group_of: dict[str, Group] = {}
        self._by_response = {key: _OfResponse() for key in repeated if key[1] is not None}
        self._by_answer: dict[tuple[str, str], _Timeline] = {}
        self._above = _nearest_above(seen, spans)
        self._below: dict[str, list[str]] = {}
        for span_id, above in self._above.items():
            self._below.setdefault(above, []).append(span_id)

    def put(self, each: Seen, group: Group | None) -> None:
        """Put a sighting into a group, or into one of its own."""
        if group is None:
            group = Group()
            self.groups.append(group)
        group.add(each)
        self._group_of[each.span.span_id] = group
        known = self._by_response.get((each.span.attempt_id, each.response_id))
        if known is not None:
            known.note(each, group)

    def note_times(self) -> None:
        """Note of all sightings so far when they were and what they say."""
        for group in self.groups:
            for each in group.members:
                self.note_time(each)

    def note_time(self, each: Seen) -> None:
        """Note when a sighting was and what it says."""
        if each.said and each.start is not None and each.end is not None:
            timeline = self._by_answer.setdefault((each.span.attempt_id, each.said), _Timeline())
            timeline.add(each.start, each.end, self._group_of[each.span.span_id])

    def of_same_response(self, each: Seen) -> Group | None:
        """Return a group with the same response id that may be the same call.

        The nearest is that of a span above or below; then one that this library has not seen, if possible at the same
        time; then one of which it wrote the same.
        """
        known = self._by_response.get((each.span.attempt_id, each.response_id))
        if known is None or not known.groups:  # nobody else saw it, or none before
            return None
        candidates = (group for group in self._candidates(each, known) if group)
        return next((group for group in candidates if self._may_join(each, group) and _end_alike(each, group)), None)

    def _candidates(self, each: Seen, known: _OfResponse) -> Iterator[Group | None]:
        yield from (group for group in self._near(each) if id(group) in known.groups)
        unseen = known.unseen_by(each.library).values()
        yield next((group for group in unseen if _overlaps(each, group)), None) or next(iter(unseen), None)
        yield known.repeated(each)

    def around(self, each: Seen) -> Group | None:
        """Return the group of a span above or below with the same outcome, if possible one that says the same."""
        fitting = [group for group in self._near(each) if self._may_join(each, group) and _agree(each, group)]
        same = (group for group in fitting if any(member.said == each.said for member in group.members))
        return next(same, fitting[-1] if fitting else None)

    def at_the_same_time(self, each: Seen) -> Group | None:
        """Return a group whose time overlaps and that says the same; the library saw none of its own around it."""
        timeline = self._by_answer.get((each.span.attempt_id, each.said))
        if timeline is None or each.start is None or each.end is None:
            return None
        overlapping = timeline.overlapping(each.start, each.end)
        unseen = (group for group in overlapping if each.library not in group.libraries)
        return next((group for group in unseen if _agree(each, group)), None)

    def _near(self, each: Seen) -> list[Group]:
        """Return the groups of the spans right below and above."""
        span_id = each.span.span_id
        near = [*self._below.get(span_id, ()), *filter(None, [self._above.get(span_id)])]
        return [self._group_of[each_id] for each_id in near if each_id in self._group_of]

    def _may_join(self, each: Seen, group: Group) -> bool:
        return each.library not in group.libraries or not any(
            member.library == each.library and not self._are_nested(each, member) and _are_two(each, member)
            for member in group.members
        )

    def _are_nested(self, one: Seen, two: Seen) -> bool:
        ids = one.span.span_id, two.span.span_id
        return self._above.get(ids[0]) == ids[1] or self._above.get(ids[1]) == ids[0]


class _OfResponse:
    """The groups of one response id, found without looking at all of them: a backend may give every answer the same."""

    def __init__(self) -> None:
        self.groups: dict[int, Group] = {}
        self._unseen: dict[tuple[str, str], dict[int, Group]] = {}
        self._by_answer: dict[tuple[tuple[str, str], str], Group] = {}
        self._unread: list[tuple[Seen, Group]] = []

    def note(self, each: Seen, group: Group) -> None:
        """Note that a group has a sighting, which is in it already."""
        if id(group) not in self.groups:
            self.groups[id(group)] = group
            for unseen in self._unseen.values():
                unseen[id(group)] = group
        if each.library in self._unseen:
            self._unseen[each.library].pop(id(group), None)
        if each.sighting.source != GATEWAY:
            self._unread.append((each, group))

    def unseen_by(self, library: tuple[str, str]) -> dict[int, Group]:
        """Return the groups that a library has no sighting in, in order."""
        if library not in self._unseen:
            self._unseen[library] = {id(each): each for each in self.groups.values() if library not in each.libraries}
        return self._unseen[library]

    def repeated(self, each: Seen) -> Group | None:
        """Return the group in which the library says the same already."""
        if each.sighting.source == GATEWAY:
            return None
        for noted, group in self._unread:
            self._by_answer.setdefault((noted.library, noted.answered), group)
        self._unread.clear()
        return self._by_answer.get((each.library, each.answered))


@dataclass
class _Timeline:
    """Groups by the time at which their sightings began."""

    starts: list[float] = field(default_factory=list[float])
    entries: list[tuple[float, Group]] = field(default_factory=list[tuple[float, Group]])
    longest: float = 0.0

    def add(self, start: float, end: float, group: Group) -> None:
        index = bisect_right(self.starts, start)
        self.starts.insert(index, start)
        self.entries.insert(index, (end, group))
        self.longest = max(self.longest, end - start)

    def overlapping(self, start: float, end: float) -> Iterator[Group]:
        for index in range(bisect_left(self.starts, start - self.longest), len(self.starts)):
            if self.starts[index] > end:
                return
            if self.entries[index][0] >= start:
                yield self.entries[index][1]


def _agree(each: Seen, group: Group) -> bool:
    """Whether no one of them saw an answer where another saw an error, or an answer of other tokens."""
    sightings = [each.sighting, *(member.sighting for member in group.members)]
    sampled = {tuple(answer.response_token_ids) for sighting in sightings for answer in sighting.answers[:1]}
    return _end_alike(each, group) and len(sampled - {()}) < 2


def _end_alike(each: Seen, group: Group) -> bool:
    ends = {member.sighting.failure is None for member in (each, *group.members) if not member.sighting.silent}
    return len(ends) < 2


def _are_two(one: Seen, two: Seen) -> bool:
    """Whether two spans of one library are two calls: the gateway sees each once, others may repeat an answer."""
    return one.sighting.source == GATEWAY or one.response_id is None or one.answered != two.answered


def _overlaps(each: Seen, group: Group) -> bool:
    start, end = each.start, each.end
    if start is None or end is None:
        return False
    times = ((member.start, member.end) for member in group.members)
    return any(a is not None and b is not None and a <= end and b >= start for a, b in times)


def _said(call: LLMCall) -> tuple[Any, list[Any]]:
    content = call.message.get("content")
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in dicts(call.message, "content"))
    functions = [mapping(each, "function") for each in dicts(call.message, "tool_calls")]
    return content or "", [function.get("name") for function in functions]


def _nearest_above(seen: Iterable[Seen], spans: Iterable[Span]) -> dict[str, str]:
    """Return, by the span of a sighting, the nearest span above it that is one too."""
    parents = {span.span_id: span.parent_id for span in spans}
    sighted = dict.fromkeys([each.span.span_id for each in seen])  # in order, so that nothing depends on a hash
    nearest: dict[str, str] = {}
    passed: dict[str, str | None] = {}
    for span_id in sighted:
        path: list[str] = []
        above = parents.get(span_id)
        while above is not None and above not in sighted and above not in passed:
            passed[above] = None  # so a circle of parents ends here
            path.append(above)
            above = parents.get(above)
        found = above if above is None or above in sighted else passed[above]
        if path:
            passed.update(dict.fromkeys(path, found))
        if found is not None and found != span_id:
            nearest[span_id] = found
    return nearest
