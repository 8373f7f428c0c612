"""What GEPA tells while it runs: each candidate goes into the history, the metrics, and the best so far."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gepa.core.callbacks import ValsetEvaluatedEvent
from gepa.core.state import GEPAState
from gepa.proposer.base import CandidateProposal
from gepa.strategies.acceptance import StrictImprovementAcceptance

from agentlightning.algorithm.context import AlgorithmContext
from agentlightning.algorithm.gepa.bridge import Bridge
from agentlightning.algorithm.gepa.history import Candidate, History
from agentlightning.algorithm.gepa.rollouts import prompts_of
from agentlightning.algorithm.prompt_search import Cost, PromptEvaluator, Writer
from agentlightning.types import PromptTemplate


class Progress(StrictImprovementAcceptance):
    """GEPA's own rule of what is worth all validation tasks, and one of its callbacks.

    Args:
        bridge: To the loop where metrics are written.
        context: What the run gives.
        evaluator: Knows the whole sets of resources.
        seed: The prompts to begin with.
        writer: Says what the reflection model answered.
        history: Gets the candidates.
    """

    def __init__(
        self,
        bridge: Bridge,
        context: AlgorithmContext,
        evaluator: PromptEvaluator,
        seed: Mapping[str, PromptTemplate],
        writer: Writer,
        history: History,
    ) -> None:
        self._bridge = bridge
        self._context = context
        self._evaluator = evaluator
        self._seed = seed
        self._cost = Cost(evaluator, writer)
        self._history = history
        self._tried: list[Candidate] = []

    def should_accept(self, proposal: CandidateProposal[Any], state: GEPAState[Any, Any]) -> bool:
        """Whether a candidate does better than its parent on the tasks that it was made from."""
        rule: Any = super()  # whose types are not known whole
        accepted: bool = rule.should_accept(proposal, state)
        candidate = self._history.add(proposal.candidate, state.program_candidates[proposal.parent_program_ids[0]])
        candidate.before = _mean(proposal.subsample_scores_before)
        candidate.after = _mean(proposal.subsample_scores_after)
        if accepted:
            self._tried.append(candidate)
        else:
            candidate.reason = "no better than what it was made from"
            self._bridge.wait(self._tell(candidate))
        return accepted

    def on_valset_evaluated(self, event: ValsetEvaluatedEvent) -> None:
        """Take in how a candidate did on the validation tasks."""
        texts = event["candidate"]
        waiting = [each for each in self._tried if each.texts == texts]
        candidate = waiting[0] if waiting else self._history.add(texts)
        for other in waiting[1:]:
            other.reason = f"the same as candidate {candidate.number}"
        self._tried = [each for each in self._tried if each.texts != texts]
        candidate.rewards = [reward for _, reward in sorted(event["scores_by_val_id"].items())]
        self._bridge.wait(self._tell(candidate))

    async def _tell(self, candidate: Candidate) -> None:
        """Write it down, on the loop: listeners of metrics expect no other thread."""
        best = self._history.best
        self._history.cost = self._cost.record()
        if candidate is best:
            resources = self._evaluator.with_prompts(prompts_of(candidate.texts, self._seed))
            self._context.keep_best(candidate.score or 0.0, resources)
        if self._context.run_dir is not None:
            self._history.write(self._context.run_dir)
        record: dict[str, Any] = {"kind": "candidate", "candidate": candidate.number, "kept": candidate.reason is None}
        scored = {"score": candidate.score, "standard_error": candidate.standard_error, "best": best and best.score}
        record |= {key: value for key, value in scored.items() if value is not None}
        self._context.log(record | self._history.cost)


def _mean(scores: list[float] | None) -> float:
    return sum(scores) / len(scores) if scores else 0.0
