"""GEPA's own loop, run with our evaluator, reflection and limits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gepa import api
from gepa.core.state import GEPAState
from gepa.strategies.proposal_sampling import IndependentSampling

from agentlightning.algorithm.context import AlgorithmContext
from agentlightning.algorithm.gepa.bridge import Bridge
from agentlightning.algorithm.gepa.history import History
from agentlightning.algorithm.gepa.progress import Progress
from agentlightning.algorithm.gepa.reflection import Reflector
from agentlightning.algorithm.gepa.rollouts import RolloutAdapter, texts_of
from agentlightning.algorithm.gepa.settings import Settings
from agentlightning.algorithm.prompt_search import Journal, PromptEvaluator, Writer
from agentlightning.types import PromptTemplate, RolloutMode

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Search:
    """One run of GEPA.

    It takes the same way each time it is given the same answers, so a run that goes on begins anew, and is answered by
    the journal until it comes to where the earlier process ended.

    Attributes:
        context: What the run gives.
        journal: Where answers are written down.
        evaluator: Runs the agent.
        writer: Asks the reflection model.
        seed: The prompts to begin with.
        tasks: The datasets.
        settings: What GEPA was asked for.
        history: Gets the candidates.
    """

    context: AlgorithmContext
    journal: Journal
    evaluator: PromptEvaluator
    writer: Writer
    seed: Mapping[str, PromptTemplate]
    tasks: Mapping[RolloutMode, Sequence[Any]]
    settings: Settings
    history: History

    async def run(self) -> None:
        """Run to the end."""
        bridge, settings = Bridge(), self.settings
        adapter = RolloutAdapter(bridge, self.journal, self.evaluator, self.seed, self.tasks)
        progress = Progress(bridge, self.context, self.evaluator, self.seed, self.writer, self.history)
        reflector = Reflector(
            bridge,
            self.journal,
            self.writer,
            model=settings.model,
            seed=self.seed,
            template=settings.template,
            history=self.history,
        )

        library: Any = api  # whose types want every callback, and know no score without a bound

        def blocking() -> None:
            library.optimize(
                seed_candidate=texts_of(self.seed),
                trainset=[("train", number) for number in range(len(self.tasks["train"]))],
                valset=[("val", number) for number in range(len(self.tasks["val"]))],
                adapter=adapter,
                reflection_strategy=reflector,
                candidate_selection_strategy=settings.selection,
                module_selector=settings.module_selector,
                skip_perfect_score=settings.perfect_score is not None,
                perfect_score=settings.perfect_score,
                reflection_minibatch_size=settings.minibatch,
                sampling_strategy=IndependentSampling(settings.proposals),
                acceptance_criterion=progress,
                callbacks=[progress],
                stop_callbacks=self._stopper(),
                logger=_Log(),
                track_best_outputs=False,
                seed=settings.seed,
            )

        await bridge.run(blocking, "gepa")

    def _stopper(self) -> Callable[[GEPAState[Any, Any]], bool]:
        """Return what GEPA asks before each iteration: whether to end."""
        settings, iteration = self.settings, self.settings.iteration(len(self.tasks["val"]))

        def is_enough(gepa_state: GEPAState[Any, Any]) -> bool:
            best = max(gepa_state.program_full_scores_val_set)
            perfect = settings.perfect_score is not None and best >= settings.perfect_score
            return perfect or gepa_state.total_num_evals + iteration > settings.max_metric_calls

        return is_enough


class _Log:
    """Takes what the library would print."""

    def log(self, message: str) -> None:
        logger.debug("%s", message)
