"""What a run leaves after each step: metrics, the best resources, its history."""

from __future__ import annotations

from typing import Any

from agentlightning.algorithm.apo.candidate import Candidate, Score
from agentlightning.algorithm.apo.history import History, RoundRecord
from agentlightning.algorithm.apo.history_files import write_history
from agentlightning.algorithm.context import AlgorithmContext
from agentlightning.algorithm.prompt_search import Cost, PromptEvaluator, Writer


class Report:
    """Writes down where a run is.

    Args:
        context: What the run gives.
        history: What was tried.
        evaluator: Knows the whole sets of resources.
        writer: Says what models answered.
    """

    def __init__(self, context: AlgorithmContext, history: History, evaluator: PromptEvaluator, writer: Writer) -> None:
        self._context = context
        self._history = history
        self._evaluator = evaluator
        self._cost = Cost(evaluator, writer)

    def begin(self, best: Candidate, score: Score) -> None:
        """Report how good the first prompt is."""
        self._keep(best)
        self._context.log({"kind": "evaluation", "version": best.version} | _figures(score) | self._cost.record())

    def round(self, record: RoundRecord, best: Candidate) -> None:
        """Report a round that has ended."""
        self._history.rounds.append(record)
        self._keep(best)
        leader = record.ranking[record.beam[0]]
        self._context.log(
            {"kind": "round", "round": record.number, "rounds": self._history.settings.beam_rounds}
            | _figures(leader)
            | {"best": self._score(best).mean, "version": best.version, "dropped": len(record.dropped)}
            | self._cost.record()
        )

    def figures(self) -> str:
        """Say in a few words how far the run is."""
        best, cost = self._history.best, self._cost.record()
        score = self._score(best) if best else "not known yet"
        return f"best {score}  {cost['rollouts']:,} rollouts  {cost['model_calls']:,} model calls"

    def _keep(self, best: Candidate) -> None:
        if best is not self._history.best and self._history.worst < 0:
            self._context.best = None  # its score has fallen where a failure of it counts less than it did
        self._history.best = best
        self._history.cost = self._cost.record()
        prompts = {self._history.resource: best.prompt_template}
        self._context.keep_best(self._score(best).mean, self._evaluator.with_prompts(prompts))
        if self._context.run_dir is not None:
            write_history(self._history, self._context.run_dir)

    def _score(self, best: Candidate) -> Score:
        return best.score("val", self._history.validation, self._history.worst)


def _figures(score: Score) -> dict[str, Any]:
    return {"score": score.mean, "standard_error": score.standard_error, "tasks": score.tasks, "failed": score.failed}
