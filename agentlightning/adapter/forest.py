"""Which span stands below which, whatever ids the spans carry."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agentlightning.adapter.llm_call import in_order, once
from agentlightning.types import Span


@dataclass(frozen=True, slots=True)
class Forest:
    """Spans in order, each with its parent.

    Attributes:
        spans: All spans, by sequence id and start.
        parents: For each span the index of its parent; None when it has none, or when that is not among the spans.
        duplicates: Span ids that several spans carry; children stand below the first of them.
        cut: Span ids whose parent is ignored, because it stands below them.
    """

    spans: list[Span]
    parents: list[int | None]
    duplicates: list[str]
    cut: list[str]


def link_spans(spans: Iterable[Span]) -> Forest:
    """Find the parent of each span.

    No span is left out; one that comes twice stands once. Of several with one id the first is the parent; a ring of
    parents is opened at its first span.
    """
    ordered = once(in_order(spans))
    first: dict[str, int] = {}
    duplicates: dict[str, None] = {}
    for index, span in enumerate(ordered):
        if first.setdefault(span.span_id, index) != index:
            duplicates[span.span_id] = None
    parents = [first.get(span.parent_id) if span.parent_id else None for span in ordered]
    rings = _open_rings(parents)
    return Forest(ordered, parents, list(duplicates), [ordered[index].span_id for index in rings])


def _open_rings(parents: list[int | None]) -> list[int]:
    """Cut each ring of parents at its first span; return where."""
    cut: list[int] = []
    walk_of = [-1] * len(parents)  # the walk that came by first, named by the span it began at
    for start in range(len(parents)):
        index: int | None = start
        while index is not None and walk_of[index] < 0:
            walk_of[index] = start
            index = parents[index]
        if index is not None and walk_of[index] == start:
            first = min(_ring(parents, index))
            parents[first] = None
            cut.append(first)
    return cut


def _ring(parents: list[int | None], start: int) -> list[int]:
    ring = [start]
    while (index := parents[ring[-1]]) is not None and index != start:
        ring.append(index)
    return ring
