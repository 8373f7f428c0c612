"""Credit: which model call gets which reward of its attempt, and by which rule."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from agentlightning.adapter.llm_call import in_order
from agentlightning.adapter.place import Place, Places
from agentlightning.adapter.reward_links import LinkIndex
from agentlightning.adapter.reward_targets import PlacedReward, Target, Targets
from agentlightning.adapter.rewards import (
    Credit,
    CreditRule,
    GivenReward,
    Reward,
    RewardMatchPolicy,
    Unmatched,
    UnmatchedReward,
    find_rewards,
)
from agentlightning.adapter.selection import TracedCall
from agentlightning.types.attributes import extract_links_from_attributes

if TYPE_CHECKING:
    from agentlightning.adapter.tree import TraceTree


def assign_rewards(
    tree: TraceTree,
    calls: Sequence[TracedCall],
    policy: RewardMatchPolicy = RewardMatchPolicy.FIRST_OCCURRENCE,
    others: Sequence[TracedCall] = (),
) -> Credit:
    """Give the rewards in a tree to its calls; see `assign_in_places`."""
    return assign_in_places(Places(tree), calls, policy, others)


def assign_in_places(
    places: Places, calls: Sequence[TracedCall], policy: RewardMatchPolicy, others: Sequence[TracedCall] = ()
) -> Credit:
    """Give the rewards in a tree to calls.

    A call has one reward at most, and none of another attempt. First come the rewards in a call's own span, then
    those with links, then the policy's rule; what no call gets is reported with the reason.

    Args:
        places: Where the spans stand.
        calls: The calls that can get a reward.
        policy: How rewards without links find their calls.
        others: Calls of agents that are not trained: a reward that stands with them alone is not given to another.
    """
    spans = in_order(place.node.span for place in places.all if not place.node.virtual)
    found = find_rewards(spans)
    if not found:
        return Credit()
    positions = {id(span): position for position, span in enumerate(spans)}
    rewards = _placed_rewards(found, places, positions)
    targets, left_out = _targets(calls, places, positions), _targets(others, places, positions)
    credit = Credit()
    for attempt, own in rewards.items():
        _Matching(places.all, Targets(targets.get(attempt, []), left_out.get(attempt, [])), credit).match(own, policy)
    credit.unmatched.sort(key=lambda each: positions[id(each.reward.span)])
    return credit


_Attempt = tuple[str, str]


def _placed_rewards(
    found: Iterable[Reward], places: Places, positions: dict[int, int]
) -> dict[_Attempt, list[PlacedReward]]:
    by_span = {id(place.node.span): place for place in places.all if not place.node.virtual}
    rewards: dict[_Attempt, list[PlacedReward]] = {}
    for reward in found:
        placed = PlacedReward(reward, by_span[id(reward.span)], positions[id(reward.span)])
        rewards.setdefault((reward.span.rollout_id, reward.span.attempt_id), []).append(placed)
    return rewards


def _targets(calls: Sequence[TracedCall], places: Places, positions: dict[int, int]) -> dict[_Attempt, list[Target]]:
    targets: dict[_Attempt, list[Target]] = {}
    for index, call in enumerate(calls):
        seen = tuple(places.of(call.span_ids))
        record = call.first
        target = Target(index, record.response_id, record.sequence_id, positions[id(seen[0].node.span)], seen)
        targets.setdefault((record.rollout_id, record.attempt_id), []).append(target)
    return targets


class _Matching:
    """Gives the rewards of one attempt to its calls."""

    def __init__(self, places: list[Place], targets: Targets, credit: Credit) -> None:
        self._places = places
        self._targets = targets
        self._credit = credit

    def match(self, rewards: Sequence[PlacedReward], policy: RewardMatchPolicy) -> None:
        if policy is RewardMatchPolicy.FINAL:
            self._leave(rewards[:-1], Unmatched.NOT_FINAL)
            rewards = rewards[-1:]
        left = list(self._without_linked(self._without_own(rewards)))
        match policy:
            case RewardMatchPolicy.FIRST_OCCURRENCE:
                self._by_subtree(left)
            case RewardMatchPolicy.FIRST_SIBLING:
                self._by_sibling(left)
            case RewardMatchPolicy.BACK_FILL:
                self._by_back_fill(left)
            case RewardMatchPolicy.FINAL:
                self._in_order(left, self._targets.all, CreditRule.FINAL)

    def _without_own(self, rewards: Iterable[PlacedReward]) -> list[PlacedReward]:
        """Give the rewards that stand in a call's own span; return the others."""
        left: list[PlacedReward] = []
        for reward in rewards:
            own, is_other = self._targets.at(reward.place)
            if extract_links_from_attributes(reward.reward.span.attributes) or not (own or is_other):
                left.append(reward)
            else:
                otherwise = Unmatched.NOT_TRAINED if is_other else Unmatched.TAKEN
                self._pair([reward], [own] if own else [], CreditRule.OWN, otherwise)
        return left

    def _without_linked(self, rewards: Iterable[PlacedReward]) -> Iterator[PlacedReward]:
        """Give the rewards with links; yield the others."""
        index = LinkIndex(self._places, self._targets)
        for reward in rewards:
            links = extract_links_from_attributes(reward.reward.span.attributes)
            if not links:
                yield reward
                continue
            linked = index.find(links)[-1:]
            self._pair([reward], linked, CreditRule.LINK, Unmatched.TAKEN if linked else Unmatched.NO_LINKED_CALL)

    def _by_subtree(self, rewards: Iterable[PlacedReward]) -> None:
        earliest = self._targets.earliest_within(self._places)
        scopes: dict[int, list[PlacedReward]] = {}
        for reward in rewards:
            scope = reward.place.parent
            while scope is not None and not _before(earliest[scope.first], reward):
                scope = scope.parent
            if scope is None:
                self._leave([reward], Unmatched.NO_CALL_BEFORE)
            else:
                scopes.setdefault(scope.first, []).append(reward)
        for first, inside in sorted(scopes.items(), reverse=True):  # the inner subtrees before those around them
            scope = self._places[first]
            rule = CreditRule.SEQUENCE if scope.parent is None else CreditRule.SUBTREE
            targets = self._targets.within(scope)
            none_before = Unmatched.NO_CALL_BEFORE if scope.parent is None else Unmatched.NOT_TRAINED
            self._in_order(inside, targets, rule, none_before)

    def _by_sibling(self, rewards: Iterable[PlacedReward]) -> None:
        siblings: dict[int, dict[int, Target]] = {}
        for target in self._targets.all:
            for place in target.places:
                siblings.setdefault(id(place.parent), {})[target.index] = target
        by_parent: dict[int, list[PlacedReward]] = {}
        for reward in rewards:
            by_parent.setdefault(id(reward.place.parent), []).append(reward)
        for parent, inside in by_parent.items():
            self._in_order(inside, list(siblings.get(parent, {}).values()), CreditRule.SIBLING)

    def _by_back_fill(self, rewards: Iterable[PlacedReward]) -> None:
        later = sorted(self._targets.all, key=lambda target: target.sequence_id, reverse=True)
        open_calls: list[Target] = []
        for reward in rewards:
            while later and later[-1].sequence_id < reward.reward.span.sequence_id:
                open_calls.append(later.pop())
            while open_calls and open_calls[-1].index in self._credit.given:
                open_calls.pop()
            none_before = len(later) == len(self._targets.all)
            self._pair(
                [reward],
                open_calls[-1:],
                CreditRule.BACK_FILL,
                Unmatched.NO_CALL_BEFORE if none_before else Unmatched.TAKEN,
            )

    def _in_order(
        self,
        rewards: Sequence[PlacedReward],
        calls: Sequence[Target],
        rule: CreditRule,
        none_before: Unmatched = Unmatched.NO_CALL_BEFORE,
    ) -> None:
        """Give rewards that follow each other to the last calls before them, in order."""
        run: list[PlacedReward] = []
        block: list[Target] = []
        reason = none_before
        for event in sorted([*calls, *rewards], key=lambda event: event.position):
            if isinstance(event, PlacedReward):
                run.append(event)
                continue
            if run:
                self._pair(run, block, rule, reason)
                run, block = [], []
            block.append(event)
            reason = Unmatched.TAKEN
        self._pair(run, block, rule, reason)

    def _pair(
        self, rewards: Sequence[PlacedReward], calls: Iterable[Target], rule: CreditRule, otherwise: Unmatched
    ) -> None:
        """Give rewards, in order, to as many of the last calls that have none; `otherwise` says why one gets none."""
        free = [call for call in calls if call.index not in self._credit.given]
        matched = min(len(rewards), len(free))
        for reward, call in zip(rewards[:matched], free[len(free) - matched :], strict=True):
            self._credit.given[call.index] = GivenReward(reward.reward, rule)
        self._leave(rewards[matched:], otherwise)

    def _leave(self, rewards: Iterable[PlacedReward], reason: Unmatched) -> None:
        self._credit.unmatched.extend(UnmatchedReward(each.reward, reason) for each in rewards)


def _before(position: int | None, reward: PlacedReward) -> bool:
    return position is not None and position < reward.position
