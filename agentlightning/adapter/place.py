"""Where each span of a tree stands: below which agent, inside of a reward or not, and what lies below it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentlightning.adapter.tree import TraceTree


@dataclass(slots=True)
class Place:
    """One node's place.

    Attributes:
        node: The node.
        parent: The place above; None for the node the walk began at.
        agent: The nearest agent's name, of the node itself or from above; None when there is none.
        depth: How many nodes stand above.
        in_reward: Whether a span that computes a reward stands above.
        first: Index among all nodes, each before what is below it.
        end: Index behind the last node below.
    """

    node: TraceTree
    parent: Place | None
    agent: str | None
    depth: int
    in_reward: bool
    first: int
    end: int = 0

    def holds(self, other: Place) -> bool:
        """Whether the other is this one or stands below it."""
        return self.first <= other.first < self.end


class Places:
    """The places of all nodes of a tree as it stands now.

    Attributes:
        all: Each place at its index.
        by_id: The places by span id; of several with one id, the first.
    """

    def __init__(self, tree: TraceTree) -> None:
        self.all = _walk(tree)
        self.by_id = {place.node.id: place for place in reversed(self.all)}

    def of(self, span_ids: Iterable[str]) -> list[Place]:
        """Return the places of those spans that stand in the tree."""
        return [self.by_id[span_id] for span_id in span_ids if span_id in self.by_id]


def _walk(tree: TraceTree) -> list[Place]:
    places: list[Place] = []
    waiting: list[tuple[TraceTree, Place | None, bool]] = [(tree, None, False)]
    while waiting:
        node, parent, in_reward = waiting.pop()
        agent = node.agent_name() or (parent.agent if parent else None)
        depth = 0 if parent is None else parent.depth + 1
        place = Place(node, parent, agent, depth, in_reward, first=len(places))
        places.append(place)
        if node.children:
            inside = in_reward or node.computes_reward()
            waiting.extend((child, place, inside) for child in reversed(node.children))
    _set_ends(places)
    return places


def _set_ends(places: list[Place]) -> None:
    for place in reversed(places):
        place.end = max(place.end, place.first + 1)
        if place.parent is not None:
            place.parent.end = max(place.parent.end, place.end)
