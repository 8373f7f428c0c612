"""GEPA: prompts evolve by reflection on what went wrong (Agrawal et al., arXiv:2507.19457)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from importlib.util import find_spec
from typing import Any

from agentlightning.algorithm.base import Algorithm
from agentlightning.algorithm.gepa.history import History
from agentlightning.algorithm.gepa.reflection_lm import ReflectionLM, as_client
from agentlightning.algorithm.gepa.settings import ModuleSelector, Selection, Settings
from agentlightning.algorithm.prompt_search import (
    JOURNAL_FILE,
    Journal,
    PromptEvaluator,
    Writer,
    drop_connections,
    placeholders,
)
from agentlightning.errors import ConfigurationError, MissingExtra
from agentlightning.types import Dataset, NamedResources, PromptTemplate

logger = logging.getLogger(__name__)


class GEPA(Algorithm):
    """Evolves prompts with the `gepa` library: a model reads what happened with a prompt, and writes a better one.

    Each iteration takes a candidate that is best on some validation task, runs it on a few training tasks, shows the
    reflection model what was said and done there, and tries what that writes on the same tasks. What does better is run
    on all validation tasks, and is a candidate from then on. The best of them on the validation tasks is the result, so
    measure it once more on others.

    Whatever was paid for is in the run's folder before it is used: a run that goes on (`fit(…, resume=…)`) repeats no
    call of the reflection model and no rollout. The folder also gets `history.md` and `history.json`, with every
    candidate and why it was given up.

    Args:
        reflection_lm: An asynchronous client that has OpenAI's shape, or a function that gets the question and returns
            the answer, directly or by `await`.
        reflection_model: Which model of the client reflects.
        max_metric_calls: The most rollouts. An iteration that may need more than are left is not begun.
        prompts: Names of the resources to evolve, each a `PromptTemplate`; None for all of them.
        reflection_minibatch_size: How many training tasks a reflection sees.
        proposals: Candidates of an iteration, which are made and run at the same time. GEPA's own way is one; more of
            them keep more runners busy.
        candidate_selection_strategy: Which candidates become parents; see the library.
        module_selector: Which prompts of a candidate are rewritten: `round_robin`, one after the other, or `all`.
        reflection_prompt_template: The question to the reflection model, with `<curr_param>` for the prompt and
            `<side_info>` for what happened; None for the library's own.
        perfect_score: The highest reward there is: what reaches it on all validation tasks ends the search. None for no
            such bound.
        rollout_batch_timeout: Seconds that the rollouts of an evaluation have together, times the evaluations that run
            at once, for these share the runners; late ones are cancelled and count as failed ones do: the lowest reward
            that was seen, and at most 0.
        seed: Of all that is drawn.

    Attributes:
        history: The candidates; filled by `run`.

    Raises:
        ConfigurationError: A value is out of range.
        MissingExtra: The library is not installed.
    """

    def __init__(
        self,
        reflection_lm: ReflectionLM,
        *,
        max_metric_calls: int,
        reflection_model: str = "gpt-5-mini",
        prompts: Sequence[str] | None = None,
        reflection_minibatch_size: int = 3,
        proposals: int = 1,
        candidate_selection_strategy: Selection = "pareto",
        module_selector: ModuleSelector = "round_robin",
        reflection_prompt_template: str | None = None,
        perfect_score: float | None = 1.0,
        rollout_batch_timeout: float = 3600.0,
        seed: int = 0,
    ) -> None:
        if find_spec("gepa") is None:
            raise MissingExtra("gepa", "gepa", "GEPA")
        self._client = as_client(reflection_lm)
        self._settings = Settings(
            model=reflection_model,
            max_metric_calls=max_metric_calls,
            prompts=None if prompts is None else list(prompts),
            minibatch=reflection_minibatch_size,
            proposals=proposals,
            selection=candidate_selection_strategy,
            module_selector=module_selector,
            template=reflection_prompt_template,
            perfect_score=perfect_score,
            timeout=rollout_batch_timeout,
            seed=seed,
        )
        self._sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
        self._seed: dict[str, PromptTemplate] = {}
        self.history = History()

    async def run(self, train_dataset: Dataset[Any] | None = None, val_dataset: Dataset[Any] | None = None) -> None:
        """Search until the budget is used up or nothing is left to gain.

        Args:
            train_dataset: Tasks to reflect on.
            val_dataset: Tasks to choose by; None takes those for training.

        Raises:
            ConfigurationError: There is nothing to evolve or to learn from, or the budget is too small.
            ExecutionError: All rollouts with the initial prompts failed, or none was rewarded.
            ModelError: The reflection model does not answer.
        """
        from agentlightning.algorithm.gepa.search import (
            Search,
        )  # the library, which `import agentlightning` does without

        resources = self.get_initial_resources() or {}
        training, validation = _tasks(train_dataset), _tasks(val_dataset) or _tasks(train_dataset)
        if not training:
            raise ConfigurationError("GEPA needs tasks: fit(agent, train_dataset)")
        self._seed = _prompts(resources, self._settings.prompts)
        settings = self._settings.for_tasks(len(training), len(validation))
        self.history = History()
        context, at_once = self.get_context(), settings.proposals * len(self._seed)
        journal = Journal(context.run_dir / JOURNAL_FILE if context.run_dir else None)
        evaluator = PromptEvaluator(context, journal, resources, timeout=settings.timeout, at_once=settings.proposals)
        search = Search(
            context=context,
            journal=journal,
            evaluator=evaluator,
            writer=Writer(self._client, journal, at_once=at_once, sleep=self._sleep),
            seed=self._seed,
            tasks={"train": training, "val": validation},
            settings=settings,
            history=self.history,
        )
        try:
            await search.run()
        finally:
            journal.close()
            if context.run_dir is not None and self.history.candidates:
                self.history.write(context.run_dir)
            await drop_connections(self._client)
        logger.info("%s", self.history.summary())

    def get_best_prompts(self) -> dict[str, PromptTemplate]:
        """Return the prompts that evolved, as they are in the best candidate.

        Raises:
            ConfigurationError: Nothing was tried yet.
        """
        best = self.history.best
        if best is None:
            raise ConfigurationError("there is no best prompt yet: run the algorithm through Trainer.fit first")
        return {name: prompt.model_copy(update={"template": best.texts[name]}) for name, prompt in self._seed.items()}

    def get_best_prompt(self) -> PromptTemplate:
        """Return the prompt that evolved, as it is in the best candidate.

        Raises:
            ConfigurationError: Nothing was tried yet, or there are several.
        """
        prompts = self.get_best_prompts()
        if len(prompts) > 1:
            raise ConfigurationError(f"{len(prompts)} prompts evolved, {sorted(prompts)}: use get_best_prompts()")
        return next(iter(prompts.values()))


def _tasks(dataset: Dataset[Any] | None) -> list[Any]:
    return [] if dataset is None else [dataset[index] for index in range(len(dataset))]


def _prompts(resources: NamedResources, names: Sequence[str] | None) -> dict[str, PromptTemplate]:
    """Return the prompts to evolve, each of which can be filled.

    Raises:
        ConfigurationError: There are none, or a name stands for something else.
        InvalidPrompt: One of them is malformed.
    """
    prompts = {name: value for name, value in resources.items() if isinstance(value, PromptTemplate)}
    unknown = [name for name in names or () if name not in prompts]
    if unknown:
        raise ConfigurationError(f"there are no prompts {unknown} among the initial resources, only {sorted(prompts)}")
    chosen = {name: prompts[name] for name in (prompts if names is None else names)}
    if not chosen:
        raise ConfigurationError("GEPA needs a prompt: Trainer(initial_resources={'prompt': PromptTemplate(...)})")
    for prompt in chosen.values():
        placeholders(prompt)
    return chosen
