"""Everything that an APO run tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from agentlightning.algorithm.apo.candidate import Candidate, Score
from agentlightning.algorithm.apo.proposer import Proposal
from agentlightning.algorithm.apo.settings import Settings
from agentlightning.algorithm.paired import PairedDifference


@dataclass(frozen=True, slots=True)
class Comparison:
    """A round's leader beside the best prompt before it, over all validation tasks.

    Attributes:
        leader: Version of the leader.
        best: Version of the best before; None if there was none.
        difference: The leader's rewards minus those of the best; None if there was nothing to compare.
        promoted: Whether the leader is the best now.
    """

    leader: str
    best: str | None
    difference: PairedDifference | None
    promoted: bool


@dataclass(slots=True)
class RoundRecord:
    """What happened in a round.

    Attributes:
        number: Of the round, from 1.
        validation_tasks: Numbers of the tasks that ranked its prompts.
        ranking: Score of each prompt on these, the best first.
        beam: Versions that went on.
        dropped: Proposals that were not tried.
        comparison: Of its leader with the best; None if the best led it.
    """

    number: int
    validation_tasks: list[int]
    ranking: dict[str, Score]
    beam: list[str]
    dropped: list[Proposal]
    comparison: Comparison | None = None


@dataclass(slots=True)
class History:
    """Everything that a run tried.

    Attributes:
        resource: Name of the prompt's resource.
        settings: Of the run.
        validation: Numbers of all validation tasks.
        candidates: The prompts that were tried, by version.
        rounds: The rounds so far.
        best: The best prompt so far, or None.
        cost: What it took so far.
    """

    resource: str
    settings: Settings
    validation: Sequence[int]
    candidates: dict[str, Candidate] = field(default_factory=dict[str, Candidate])
    rounds: list[RoundRecord] = field(default_factory=list[RoundRecord])
    best: Candidate | None = None
    cost: dict[str, float] = field(default_factory=dict[str, float])

    @property
    def worst(self) -> float:
        """What a rollout without a reward counts: the lowest reward that was seen, and at most 0."""
        results = (of_mode for each in self.candidates.values() for of_mode in each.results.values())
        rewards = (one.reward for of_mode in results for one in of_mode.values() if one.reward is not None)
        return min(0.0, min(rewards, default=0.0))

    def validation_score(self, candidate: Candidate) -> Score | None:
        """Return a prompt's score on all validation tasks; None if it was not tried on all."""
        return (
            None if candidate.missing("val", self.validation) else candidate.score("val", self.validation, self.worst)
        )

    def record(self) -> dict[str, Any]:
        """Return everything as JSON."""
        return {
            "best": self.best.version if self.best else None,
            "resource": self.resource,
            "settings": asdict(self.settings),
            "cost": dict(self.cost),
            "candidates": [self._candidate_record(each) for each in self.candidates.values()],
            "rounds": [_round_record(each) for each in self.rounds],
        }

    def summary(self) -> str:
        """Say in a few lines what came of it, and what it took."""
        first = self.validation_score(self.candidates["v0"])
        before = f", from {first} of v0" if first is not None else ""
        best = f"{self.best.version} with {self.validation_score(self.best)}{before}" if self.best else "none yet"
        return (
            f"Best on {len(self.validation)} validation tasks: {best}. {len(self.candidates)} prompts were tried in "
            f"{len(self.rounds)} rounds, with {self.cost.get('rollouts', 0):,} rollouts and "
            f"{self.cost.get('model_calls', 0):,} calls of the models that write "
            f"({self.cost.get('prompt_tokens', 0):,} tokens in, {self.cost.get('completion_tokens', 0):,} out)."
        )

    def _candidate_record(self, each: Candidate) -> dict[str, Any]:
        score = self.validation_score(each)
        return {
            "version": each.version,
            "parent": each.parent,
            "round": each.round,
            "prompt": each.prompt_template.template,
            "engine": each.prompt_template.engine,
            "critique": each.critique,
            "validation": asdict(score) if score else None,
            "results": {mode: [asdict(one) for one in of_mode.values()] for mode, of_mode in each.results.items()},
        }


def _round_record(each: RoundRecord) -> dict[str, Any]:
    comparison = None
    if each.comparison is not None:
        difference = each.comparison.difference
        verdict = difference.verdict if difference else None
        comparison = asdict(each.comparison) | {"verdict": verdict}
    return {
        "round": each.number,
        "validation_tasks": each.validation_tasks,
        "ranking": [{"version": version} | asdict(score) for version, score in each.ranking.items()],
        "beam": each.beam,
        "dropped": [_dropped_record(proposal) for proposal in each.dropped],
        "comparison": comparison,
    }


def _dropped_record(proposal: Proposal) -> dict[str, Any]:
    prompt = proposal.prompt_template
    return {
        "parent": proposal.parent.version,
        "reason": proposal.dropped,
        "prompt": prompt.template if prompt else None,
        "critique": proposal.critique,
    }


def describe_comparison(comparison: Comparison) -> str:
    """Say in a line what came of a comparison."""
    end = "it is the best now" if comparison.promoted else f"{comparison.best} stays the best"
    difference = comparison.difference
    if difference is None:
        return f"{comparison.leader} leads: {end}."
    return (
        f"{comparison.leader} compared with {comparison.best}: {difference.mean:+.3f}, 95 % interval "
        f"{difference.low:+.3f} to {difference.high:+.3f}, {difference.verdict}: {end}."
    )
