"""The spans of a rollout as a tree: which agent made a call, and what a reward stands in."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from agentlightning import semconv
from agentlightning.adapter.agents import agent_name
from agentlightning.adapter.call_triplet import RECORDED_REWARD, call_to_triplet, prompt_image_urls, to_triplets
from agentlightning.adapter.credit import assign_rewards
from agentlightning.adapter.forest import Forest, link_spans
from agentlightning.adapter.garbage import collected_afterwards
from agentlightning.adapter.llm_call import llm_calls, read_calls, read_distinct
from agentlightning.adapter.place import Places
from agentlightning.adapter.reading import CallReading
from agentlightning.adapter.repair import repair
from agentlightning.adapter.rewards import RewardMatchPolicy, to_policy
from agentlightning.adapter.selection import TracedCall, of_agents, select_calls
from agentlightning.emitter import get_reward_value, get_rewards_from_span
from agentlightning.types import LLMCall, Span, Triplet

logger = logging.getLogger(__name__)

VIRTUAL_ROOT = "virtual-root"
"""Id and name of the node above several roots."""

_OPERATION_NAME = semconv.LightningSpanAttributes.OPERATION_NAME.value


class TraceTree:
    """A span and what stands below it, ordered by sequence id and start.

    Nothing here recurses, so a tree may be as deep as it likes.

    Args:
        id: The span's id.
        span: The span.
        children: The nodes below.
        virtual: Whether the span was made up: no such span was recorded.
    """

    def __init__(self, id: str, span: Span, children: list[TraceTree] | None = None, *, virtual: bool = False) -> None:
        self.id = id
        self.span = span
        self.children: list[TraceTree] = children or []
        self.virtual = virtual

    @classmethod
    def from_spans(cls, spans: Sequence[Span]) -> TraceTree:
        """Build the tree; the order of the spans does not matter.

        No span is left out. An absent parent and the parent of several roots are made up, as long as what is below
        them. Ids that stand twice and rings of parents are logged; `link_spans` returns them.

        Raises:
            ValueError: There are no spans.
        """
        return cls.from_forest(link_spans(spans))

    @classmethod
    def from_forest(cls, forest: Forest) -> TraceTree:
        """Build the tree of spans whose parents are known; see `from_spans`."""
        if not forest.spans:
            raise ValueError("a trace tree needs at least one span")
        _report(forest)
        nodes = [cls(span.span_id, span) for span in forest.spans]
        roots: list[TraceTree | str] = []
        orphans: dict[str, list[TraceTree]] = {}
        for node, parent in zip(nodes, forest.parents, strict=True):
            if parent is not None:
                nodes[parent].add_child(node)
            elif node.span.parent_id and node.id not in forest.cut:
                if node.span.parent_id not in orphans:
                    roots.append(node.span.parent_id)
                orphans.setdefault(node.span.parent_id, []).append(node)
            else:
                roots.append(node)
        tops = [cls._virtual(top, semconv.AGL_VIRTUAL, orphans[top]) if isinstance(top, str) else top for top in roots]
        return tops[0] if len(tops) == 1 else cls._virtual(VIRTUAL_ROOT, VIRTUAL_ROOT, tops)

    @classmethod
    def _virtual(cls, id: str, name: str, children: list[TraceTree]) -> TraceTree:
        first = children[0].span
        starts = [child.start_time for child in children if child.start_time is not None]
        ends = [child.end_time for child in children if child.end_time is not None]
        span = Span.from_attributes(
            attributes={},
            rollout_id=first.rollout_id,
            attempt_id=first.attempt_id,
            sequence_id=first.sequence_id,
            name=name,
            trace_id=first.trace_id,
            span_id=id,
            start_time=min(starts, default=None),
            end_time=max(ends, default=None),
        )
        return cls(id, span, children, virtual=True)

    @property
    def start_time(self) -> float | None:
        """Unix seconds at which the span began."""
        return self.span.start_time

    @property
    def end_time(self) -> float | None:
        """Unix seconds at which the span ended."""
        return self.span.end_time

    def traverse(self) -> list[TraceTree]:
        """Return this node and all below it, each before what is below it."""
        nodes: list[TraceTree] = []
        waiting: list[TraceTree] = [self]
        while waiting:
            node = waiting.pop()
            nodes.append(node)
            waiting.extend(reversed(node.children))
        return nodes

    def find_id(self, id: str) -> TraceTree | None:
        """Return the first node with this id, or None."""
        return next((node for node in self.traverse() if node.id == id), None)

    def add_child(self, child: TraceTree) -> None:
        """Append a node below this one."""
        self.children.append(child)

    def names_tuple(self) -> tuple[str, list[Any]]:
        """Return the name, with the agent's in brackets if it names one, and the same of each child."""
        built: dict[int, tuple[str, list[Any]]] = {}
        for node in reversed(self.traverse()):
            agent = node.agent_name()
            name = f"{node.span.name} [{agent}]" if agent else node.span.name
            built[id(node)] = (name, [built.pop(id(child)) for child in node.children])
        return built[id(self)]

    def to_json(self) -> dict[str, Any]:
        """Return `id`, `span` and `children` of each node as plain data."""
        built: dict[int, dict[str, Any]] = {}
        for node in reversed(self.traverse()):
            children = [built.pop(id(child)) for child in node.children]
            built[id(node)] = {"id": node.id, "span": node.span.model_dump(mode="json"), "children": children}
        return built[id(self)]

    def visualize(self, filename: str, interested_span_match: str | None = None) -> None:
        """Write the tree to `<filename>.dot`, in the language of Graphviz (`dot -Tsvg` draws it).

        Args:
            filename: The file without its ending.
            interested_span_match: Draw only spans with a name that this expression finds, and those above them.
        """
        shown = self._shown(interested_span_match)
        lines = [f'  "{number}" [label={_quoted(node.span.name)}];' for node, number in shown.values()]
        for node, number in shown.values():
            below = (shown[id(child)][1] for child in node.children if id(child) in shown)
            lines += [f'  "{number}" -> "{child}";' for child in below]
        text = "\n".join(["digraph trace {", "  node [shape=box];", *lines, "}", ""])
        Path(f"{filename}.dot").write_text(text, encoding="utf-8")

    def _shown(self, interested_span_match: str | None) -> dict[int, tuple[TraceTree, int]]:
        nodes = self.traverse()
        keep: set[int] = set()
        for node in reversed(nodes):
            found = interested_span_match is None or re.search(interested_span_match, node.span.name)
            if found or any(id(child) in keep for child in node.children):
                keep.add(id(node))
        return {id(node): (node, number) for number, node in enumerate(nodes) if id(node) in keep}

    def agent_name(self) -> str | None:
        """Return the name of the agent whose work this span is, if the span says so itself."""
        return None if self.virtual else agent_name(self.span)

    def maybe_reward_dict(self) -> dict[str, Any]:
        """Return `{"type": "reward", "value": …}` if the span carries a reward, otherwise an empty dict."""
        value = get_reward_value(self.span)
        return {} if value is None else {"type": "reward", "value": value}

    def is_reward_span(self) -> bool:
        """Whether the span carries a reward, or is the operation that computes one."""
        return self._is_reward_operation() or get_reward_value(self.span) is not None

    def computes_reward(self) -> bool:
        """Whether calls below the span are made to compute a reward.

        A reward among the attributes of an agent, a call or any other work is about that work: what is below counts.
        """
        if self._is_reward_operation():
            return True
        is_about_itself = self.span.name != semconv.AGL_ANNOTATION and bool(get_rewards_from_span(self.span))
        return not is_about_itself and self.agent_name() is None and get_reward_value(self.span) is not None

    def _is_reward_operation(self) -> bool:
        named = self.span.attributes.get(_OPERATION_NAME) == semconv.AGL_REWARD
        return named and self.span.name == semconv.AGL_OPERATION

    def find_llm_calls(
        self,
        *,
        llm_call_match: str | None,
        agent_match: str | None,
        within_matching_subtree: str | None = None,
        within_reward: bool | None = None,
        within_llm_call: bool | None = None,
        existing_llm_call_response_ids: set[str] | None = None,
    ) -> list[tuple[TraceTree, str]]:
        """Return the answered calls, each by the node it is read from, with the name of its agent.

        Args:
            llm_call_match: Only calls that a span saw with a name that this expression finds.
            agent_match: Only calls of agents with a name that this expression finds.
            within_matching_subtree: The agent above this node; without it, calls below no agent do not count.
            within_reward: Whether this node stands in the computation of a reward, whose calls are left out; None to
                take those too.
            within_llm_call: None to return a call once for each span that saw it.
            existing_llm_call_response_ids: Calls to leave out, by response id; those returned are added.
        """
        taken = set[str]() if existing_llm_call_response_ids is None else existing_llm_call_response_ids
        calls = self.select_calls(llm_call_match, agent_match, within_reward is not None, within_llm_call is not None)
        nodes = {node.id: node for node in reversed(self.traverse())}
        found: list[tuple[TraceTree, str]] = []
        for call in calls:
            agent, response_id = call.agent or within_matching_subtree, call.first.response_id
            if within_reward or agent is None or response_id in taken:
                continue
            found.append((nodes[call.first.span_id], agent))
            if response_id is not None and within_llm_call is not None:
                taken.add(response_id)
        return found

    def repair_hierarchy(self) -> None:
        """Put calls that stand outside of every agent below the span that was open around them; see `repair`."""
        repair(Places(self), self._read().seen)

    def select_calls(
        self,
        llm_call_match: str | None = None,
        agent_match: str | None = None,
        exclude_llm_call_in_reward: bool = True,
        dedup_llm_call: bool = True,
    ) -> list[TracedCall]:
        """Return the calls to train on, in order; see `to_trajectory`."""
        return of_agents(self._select(llm_call_match, exclude_llm_call_in_reward, dedup_llm_call), agent_match)[0]

    def match_rewards(self, reward_match: str, llm_calls: list[TraceTree]) -> dict[str, float | None]:
        """Return the primary reward of each of the calls by span id, None for a call without one.

        Args:
            reward_match: A `RewardMatchPolicy`.
            llm_calls: The calls' nodes.
        """
        wanted = {node.id for node in llm_calls}
        calls = [call for call in self.select_calls(exclude_llm_call_in_reward=False) if wanted & {*call.span_ids}]
        credit = assign_rewards(self, calls, to_policy(reward_match))
        rewards: dict[str, float | None] = dict.fromkeys([node.id for node in llm_calls])
        for index, given in credit.given.items():
            rewards[next(span_id for span_id in calls[index].span_ids if span_id in wanted)] = given.reward.value
        return rewards

    def extract_prompt_image_urls(self, prompt_raw_content: Any) -> list[str]:
        """Return the URLs of all images in messages, in order."""
        return prompt_image_urls(prompt_raw_content)

    def span_to_triplet(self, span: Span, agent_name: str) -> Triplet:
        """Return the first answer that the span holds as a triplet.

        Raises:
            ValueError: The span holds no answer of a model.
        """
        calls = llm_calls([span])
        if not calls:
            raise ValueError(f"span {span.span_id} ({span.name}) holds no answer of a model")
        return call_to_triplet(calls[0], agent_name)

    def to_trajectory(
        self,
        llm_call_match: str | None = None,
        agent_match: str | None = None,
        exclude_llm_call_in_reward: bool = True,
        dedup_llm_call: bool = True,
        reward_match: RewardMatchPolicy = RewardMatchPolicy.FIRST_OCCURRENCE,
        final_reward: float | None = None,
        _skip_empty_token_spans: bool = False,
    ) -> list[Triplet]:
        """Return the selected calls as triplets, in order.

        Args:
            llm_call_match: Only calls that a span saw with a name that this expression finds.
            agent_match: Only calls whose nearest agent has a name that this expression finds.
            exclude_llm_call_in_reward: Leave out calls made to compute a reward.
            dedup_llm_call: Take a call that several spans saw once.
            reward_match: Which call gets which reward.
            final_reward: Reward of the last triplet, whatever was recorded; of several answers to a request the last.
        """
        everybody = self._select(llm_call_match, exclude_llm_call_in_reward, dedup_llm_call)
        calls, others = of_agents(everybody, agent_match)
        if _skip_empty_token_spans:
            calls = [call for call in calls if call.has_tokens]
        triplets = to_triplets(calls, assign_rewards(self, calls, to_policy(reward_match), others), self._maker())
        if triplets and final_reward is not None:
            triplets[-1].reward = final_reward
            for key in RECORDED_REWARD:
                triplets[-1].metadata.pop(key, None)
        return triplets

    def _maker(self) -> Callable[[LLMCall, str], Triplet]:
        """Return what makes the triplets; the first answer's is that of `span_to_triplet` where a subclass has one."""
        if type(self).span_to_triplet is TraceTree.span_to_triplet:
            return call_to_triplet
        spans = {node.id: node.span for node in reversed(self.traverse())}
        return lambda call, agent: (
            call_to_triplet(call, agent) if call.choice else self.span_to_triplet(spans[call.span_id], agent)
        )

    def _select(self, llm_call_match: str | None, exclude_in_reward: bool, once: bool) -> list[TracedCall]:
        requests = answered(self._read(), once)
        return select_calls(Places(self), requests, llm_call_match=llm_call_match, exclude_in_reward=exclude_in_reward)

    def _read(self) -> CallReading:
        return read_calls([node.span for node in self.traverse() if not node.virtual])


def answered(reading: CallReading, once: bool = True) -> list[tuple[LLMCall, ...]]:
    """Return the answers to each request; unless `once`, as often as a span saw them."""
    if once:
        return [seen.answers for seen in reading.seen if seen.answers]
    return [sighting.answers for seen in reading.seen for sighting in seen.sightings if sighting.answers]


def agent_labels(spans: Sequence[Span], *, repair_hierarchy: bool = True) -> dict[str, str]:
    """Return, by span id, the name of the agent that each span belongs to; spans that belong to none are left out.

    A model call belongs to one agent, whoever saw it.
    """
    if not spans:
        return {}
    places, calls = select_from_spans(spans, exclude_in_reward=False, repair_hierarchy=repair_hierarchy)
    labels = {place.node.id: place.agent for place in places.by_id.values() if place.agent and not place.node.virtual}
    labels.update({span_id: call.agent for call in calls if call.agent for span_id in call.span_ids})
    return labels


@collected_afterwards()
def select_from_spans(
    spans: Sequence[Span],
    *,
    llm_call_match: str | None = None,
    exclude_in_reward: bool = True,
    repair_hierarchy: bool = True,
) -> tuple[Places, list[TracedCall]]:
    """Return where the spans stand and the calls, reading the spans once.

    Raises:
        ValueError: There are no spans.
    """
    forest = link_spans(spans)
    tree, reading = TraceTree.from_forest(forest), read_distinct(forest.spans)
    places = Places(tree)
    if repair_hierarchy:
        places = repair(places, reading.seen)
    calls = select_calls(
        places,
        answered(reading),
        llm_call_match=llm_call_match,
        exclude_in_reward=exclude_in_reward,
    )
    return places, calls


def _report(forest: Forest) -> None:
    if forest.duplicates:
        logger.warning("%d span ids stand twice, such as %s", len(forest.duplicates), forest.duplicates[0])
    if forest.cut:
        logger.warning(
            "%d spans stand below themselves, such as %s: its parent is ignored", len(forest.cut), forest.cut[0]
        )


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
