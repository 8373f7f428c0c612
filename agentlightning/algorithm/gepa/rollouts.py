"""Our rollouts and traces as GEPA's evaluator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from gepa.core.adapter import EvaluationBatch

from agentlightning.algorithm.gepa.bridge import Bridge
from agentlightning.algorithm.gepa.records import reflective_record
from agentlightning.algorithm.prompt_search import Answer, Journal, PromptEvaluator, Scored, together
from agentlightning.errors import ExecutionError
from agentlightning.types import PromptTemplate, RolloutMode

Example: TypeAlias = tuple[RolloutMode, int]
"""What GEPA knows of a task: the dataset that it is in, and its number there."""
Texts: TypeAlias = dict[str, str]
"""A candidate: the template of each prompt that evolves, by the name of the resource."""

_FIRST: Final = "0"
"""Key of the first evaluation, that of the initial prompts."""
_SHOWN: Final = "train"
"""Key of all that is shown: rollouts are only ever shown in one way."""


class RolloutAdapter:
    """A `GEPAAdapter` that runs the agent, once for each task of a batch.

    Args:
        bridge: To the loop where rollouts are awaited.
        journal: Where it is written down what the reflection model is shown.
        evaluator: Runs them.
        seed: The prompts to begin with; those of other candidates are like them but for their text.
        tasks: The datasets.

    Attributes:
        propose_new_texts: None says that a reflection model proposes.
    """

    propose_new_texts = None

    def __init__(
        self,
        bridge: Bridge,
        journal: Journal,
        evaluator: PromptEvaluator,
        seed: Mapping[str, PromptTemplate],
        tasks: Mapping[RolloutMode, Sequence[Any]],
    ) -> None:
        self._bridge = bridge
        self._journal = journal
        self._evaluator = evaluator
        self._seed = seed
        self._tasks = tasks
        self._evaluations = 0
        self._worst = 0.0

    def evaluate(
        self, batch: list[Example], candidate: Texts, capture_traces: bool = False
    ) -> EvaluationBatch[Scored, str]:
        """Run the tasks of one batch with one candidate."""
        return self.batch_evaluate([(candidate, batch)])[0]

    def batch_evaluate(self, items: Sequence[tuple[Texts, list[Example]]]) -> list[EvaluationBatch[Scored, str]]:
        """Run several batches at once."""
        keys = [str(self._evaluations + number) for number in range(len(items))]
        self._evaluations += len(items)
        return self._bridge.wait(self._evaluate_all(keys, items))

    def make_reflective_dataset(
        self, candidate: Texts, eval_batch: EvaluationBatch[Scored, str], components_to_update: list[str]
    ) -> dict[str, list[dict[str, Any]]]:
        """Return what the reflection model is shown of a batch, for each prompt to rewrite."""
        told = self._bridge.wait(self._tell(list(dict.fromkeys(eval_batch.trajectories or ()))))
        return {name: told for name in components_to_update}

    async def _evaluate_all(
        self, keys: Sequence[str], items: Sequence[tuple[Texts, list[Example]]]
    ) -> list[EvaluationBatch[Scored, str]]:
        found = await together(
            self._evaluate(key, texts, batch) for key, (texts, batch) in zip(keys, items, strict=True)
        )
        rewards = [each.reward for scored in found for each in scored if each.reward is not None]
        self._worst = min([self._worst, *rewards])
        return [self._batch(batch, scored) for (_, batch), scored in zip(items, found, strict=True)]

    async def _evaluate(self, key: str, texts: Texts, batch: list[Example]) -> list[Scored]:
        """Run the tasks of a batch, each once."""
        mode = batch[0][0]
        numbers = list(dict.fromkeys(number for _, number in batch))
        tasks = [(number, self._tasks[mode][number]) for number in numbers]
        found = await self._evaluator.evaluate(key, prompts_of(texts, self._seed), tasks, mode)
        if key == _FIRST:
            _check_signal(found)
        return found

    def _batch(self, batch: list[Example], found: Sequence[Scored]) -> EvaluationBatch[Scored, str]:
        """Return what GEPA reads of a batch, in which it may have filled up places with tasks that it holds already.

        What has no reward counts as the lowest one so far, so that who only fails does better than nobody before.
        """
        by_number = {each.task: each for each in found}
        scored = [by_number[number] for _, number in batch]
        return EvaluationBatch(
            outputs=[each.rollout_id for each in scored],
            scores=[each.value(self._worst) for each in scored],
            trajectories=scored,
            num_metric_calls=len(found),
        )

    async def _tell(self, scored: Sequence[Scored]) -> list[dict[str, Any]]:
        """Return what is shown of rollouts, which stays the same when spans come late."""

        async def describe() -> Answer:
            spans = await together(map(self._evaluator.spans, scored))
            told = [(self._tasks["train"][each.task], read, each) for each, read in zip(scored, spans, strict=True)]
            return {"told": [reflective_record(task, read, each.reward, each.error) for task, read, each in told]}

        asked = [each.rollout_id for each in scored]
        return (await self._journal.once("told", _SHOWN, asked, describe))["told"]


def prompts_of(texts: Mapping[str, str], seed: Mapping[str, PromptTemplate]) -> dict[str, PromptTemplate]:
    """Return a candidate's prompts."""
    return {name: prompt.model_copy(update={"template": texts[name]}) for name, prompt in seed.items()}


def texts_of(prompts: Mapping[str, PromptTemplate]) -> Texts:
    """Return the candidate that prompts are."""
    return {name: prompt.template for name, prompt in prompts.items()}


def _check_signal(found: Sequence[Scored]) -> None:
    """Refuse to search where nothing can be found, and say what is missing."""
    if all(each.error is not None for each in found):
        raise ExecutionError(
            f"all {len(found)} rollouts with the initial prompts failed; the first one with {found[0].error}"
        )
    if all(each.reward is None for each in found):
        raise ExecutionError("no rollout was rewarded: return a number from the agent, or call emit_reward")
