"""The calls that a reward names by its links."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from agentlightning.adapter.place import Place
from agentlightning.adapter.reward_targets import Target, Targets
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

    def find(self, links: Sequence[LinkPydanticModel]) -> list[Target]:
        """Return the calls that all the links lead to."""
        ids = {link.value_match for link in links if link.key_match in _RESPONSE_ID_KEYS}
        others = [link for link in links if link.key_match not in _RESPONSE_ID_KEYS]
        found = self._below(others) if others else self._targets.all
        return [target for target in found if ids <= {target.response_id}]

    def _below(self, links: Sequence[LinkPydanticModel]) -> list[Target]:
        candidates = self._values(links[0].key_match).get(links[0].value_match, [])
        matching = {id(span) for span in query_linked_spans([place.node.span for place in candidates], links)}
        places = [place for place in candidates if id(place.node.span) in matching]
        return [target for place in places for target in self._targets.within(place)]

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
