"""The calls that a reward names by its links."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from agentlightning.adapter.place import Place
from agentlightning.adapter.reward_targets import Target, Targets, in_position
from agentlightning.semconv import LinkPydanticModel
from agentlightning.types import Span
from agentlightning.types.attributes import query_linked_spans

_RESPONSE_ID_KEYS: Final = ("gen_ai.response.id", "response_id")


class LinkIndex:
    """Finds calls by links: the spans that match all links, and the calls that were seen there or below.

    A response id finds its call whatever attribute the library that saw it keeps it in.
    """

    def __init__(self, places: Sequence[Place], targets: Targets) -> None:
        self._places = places
        self._targets = targets
        self._by_value: dict[str, dict[str, list[Place]]] = {}
        self._by_response: dict[str | None, list[Target]] = {}
        for target in targets.all:
            self._by_response.setdefault(target.response_id, []).append(target)
        self._found: dict[tuple[tuple[str, str], ...], list[Target]] = {}

    def find(self, links: Sequence[LinkPydanticModel]) -> list[Target]:
        """Return the calls that all the links lead to, in order."""
        key = tuple((link.key_match, link.value_match) for link in links)
        if key not in self._found:
            self._found[key] = self._find(links)
        return self._found[key]

    def _find(self, links: Sequence[LinkPydanticModel]) -> list[Target]:
        ids = {link.value_match for link in links if link.key_match in _RESPONSE_ID_KEYS}
        others = [link for link in links if link.key_match not in _RESPONSE_ID_KEYS]
        if not others:
            return self._by_response.get(ids.pop(), []) if len(ids) == 1 else []
        return [target for target in self._below(others) if ids <= {target.response_id}]

    def _below(self, links: Sequence[LinkPydanticModel]) -> list[Target]:
        candidates = self._values(links[0].key_match).get(links[0].value_match, [])
        matching = {id(span) for span in query_linked_spans([place.node.span for place in candidates], links)}
        found: dict[int, Target] = {}
        end = 0
        for place in candidates:  # each before what is below it
            if id(place.node.span) in matching and place.first >= end:
                end = place.end
                found |= {target.index: target for target in self._targets.within(place)}
        return in_position(found.values())

    def _values(self, key: str) -> dict[str, list[Place]]:
        """Return the places by what their spans say under this key."""
        if key not in self._by_value:
            by_value = self._by_value[key] = {}
            for place in self._places:
                value = _value(place.node.span, key)
                if isinstance(value, str) and not place.node.virtual:
                    by_value.setdefault(value, []).append(place)
        return self._by_value[key]


def _value(span: Span, key: str) -> object:
    if key == "trace_id":
        return span.trace_id
    return span.span_id if key == "span_id" else span.attributes.get(key)
