"""APO: prompts that get better by critiques of what they led to, in a beam search (arXiv:2305.03495)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from agentlightning.adapter import TraceToMessages
from agentlightning.algorithm.apo.beam import Beam
from agentlightning.algorithm.apo.candidate import Candidate
from agentlightning.algorithm.apo.history import History
from agentlightning.algorithm.apo.prompt_files import PromptFiles, read_prompt_files
from agentlightning.algorithm.apo.proposer import Proposer
from agentlightning.algorithm.apo.report import Report
from agentlightning.algorithm.apo.settings import Promotion, Settings
from agentlightning.algorithm.base import Algorithm
from agentlightning.algorithm.prompt_search import (
    JOURNAL_FILE,
    Journal,
    PromptEvaluator,
    SearchProgress,
    Writer,
    drop_connections,
    placeholders,
)
from agentlightning.errors import ConfigurationError
from agentlightning.types import Dataset, PromptTemplate

logger = logging.getLogger(__name__)

T = TypeVar("T")


class APO(Algorithm, Generic[T]):
    """Finds a better prompt: models criticise what came of a prompt and rewrite it, and the best of many go on.

    Each round, the prompts of the beam are run on a few training tasks, and each is criticised and rewritten several
    times. Beam and new prompts are ranked by the same validation tasks. The leader is then compared with the best
    prompt so far, task by task and on all validation tasks. Whatever can be done at once is, and no task is run twice
    with the same prompt.

    It needs both datasets, `TraceToMessages` for the trainer's adapter, and a `PromptTemplate` among the initial
    resources, the first of which it tunes; the other resources stay beside every prompt.

    Args:
        async_openai_client: An asynchronous client that has OpenAI's shape, such as `openai.AsyncOpenAI()`.
        gradient_model: The model that criticises.
        apply_edit_model: The model that rewrites.
        diversity_temperature: Sampling temperature of both; a model that refuses it has its own.
        gradient_batch_size: Training tasks by which a parent is criticised.
        val_batch_size: Validation tasks that rank the prompts of a round.
        beam_width: How many prompts go on to the next round.
        branch_factor: How often each parent is rewritten.
        beam_rounds: How many rounds.
        rollout_batch_timeout: Seconds that the rollouts of one prompt in one step have together, times the prompts that
            are tried at once, for these share the runners; late ones are cancelled and count as failed.
        run_initial_validation: Whether the first prompt is run on all validation tasks; if not, the first leader is the
            best without having been compared.
        gradient_prompt_files: Texts that ask for a critique: files, or a folder of `.txt` files; None for ours.
        apply_edit_prompt_files: Texts that ask for a rewritten prompt, likewise.
        _poml_trace: Accepted for v0.3.
        max_concurrency: How many prompts are tried, and how many model calls are made, at a time.
        promotion: What makes a leader the best: that the paired comparison says `better`, or a higher `mean`. Fewer
            than six validation tasks are never evidence; then it is the mean.
        seed: Of the choice of tasks and texts.

    A run with a folder writes down every answer and every evaluation before it uses them (`journal.jsonl`), so that
    `fit(…, resume=FOLDER)` pays for none of them again, and leaves `history.json` and `history.md` there.

    Attributes:
        history: Everything that was tried; None before `run`.

    Raises:
        ConfigurationError: A value is out of range, a text cannot be used, or the client is none.
    """

    def __init__(
        self,
        async_openai_client: Any,
        *,
        gradient_model: str = "gpt-5-mini",
        apply_edit_model: str = "gpt-4.1-mini",
        diversity_temperature: float = 1.0,
        gradient_batch_size: int = 4,
        val_batch_size: int = 16,
        beam_width: int = 4,
        branch_factor: int = 4,
        beam_rounds: int = 3,
        rollout_batch_timeout: float = 3600.0,
        run_initial_validation: bool = True,
        gradient_prompt_files: PromptFiles | None = None,
        apply_edit_prompt_files: PromptFiles | None = None,
        _poml_trace: bool = False,
        max_concurrency: int = 16,
        promotion: Promotion = "evidence",
        seed: int = 0,
    ) -> None:
        self._settings = Settings(
            gradient_model=gradient_model,
            apply_edit_model=apply_edit_model,
            diversity_temperature=diversity_temperature,
            gradient_batch_size=gradient_batch_size,
            val_batch_size=val_batch_size,
            beam_width=beam_width,
            branch_factor=branch_factor,
            beam_rounds=beam_rounds,
            rollout_batch_timeout=rollout_batch_timeout,
            run_initial_validation=run_initial_validation,
            max_concurrency=max_concurrency,
            promotion=promotion,
            seed=seed,
        )
        completions = getattr(getattr(async_openai_client, "chat", None), "completions", None)
        if not callable(getattr(completions, "create", None)):
            raise ConfigurationError(
                f"APO asks models through a client such as openai.AsyncOpenAI(), not {async_openai_client!r:.100}"
            )
        self._client = async_openai_client
        self._critiques = read_prompt_files("critique", gradient_prompt_files)
        self._edits = read_prompt_files("edit", apply_edit_prompt_files)
        self._sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
        self.history: History | None = None

    async def run(self, train_dataset: Dataset[T] | None = None, val_dataset: Dataset[T] | None = None) -> None:
        """Search.

        Args:
            train_dataset: Tasks to criticise by.
            val_dataset: Tasks to rank and compare by.

        Raises:
            ConfigurationError: A dataset, the adapter or the prompt to begin with is missing.
            InvalidPrompt: The prompt to begin with is malformed.
            ExecutionError: The first prompt gave no reward at all, or no model answered.
        """
        train, val = _tasks("train_dataset", train_dataset), _tasks("val_dataset", val_dataset)
        name, prompt = self.get_seed_prompt_template()
        seed = Candidate("v0", prompt)
        self.history = history = History(name, self._settings, range(len(val)), {"v0": seed})
        run_dir = self.get_context().run_dir
        journal = Journal(run_dir / JOURNAL_FILE if run_dir else None)
        writer = Writer(self._client, journal, at_once=self._settings.max_concurrency, sleep=self._sleep)
        evaluator = PromptEvaluator(
            self.get_context(),
            journal,
            self.get_initial_resources() or {},
            timeout=self._settings.rollout_batch_timeout,
            at_once=self._settings.max_concurrency,
        )
        proposer = Proposer(writer, self._settings, placeholders(prompt), self._critiques, self._edits)
        steps = Beam(self._settings, evaluator, proposer, journal, self.get_adapter(), history, train, val)
        report = Report(self.get_context(), history, evaluator, writer)
        try:
            with SearchProgress(self._settings.beam_rounds, report.figures) as progress:
                await self._search(steps, seed, report, progress)
        finally:
            journal.close()
            await drop_connections(self._client)
        logger.info("%s", history.summary())

    async def _search(self, steps: Beam, seed: Candidate, report: Report, progress: SearchProgress) -> None:
        best = None
        if self._settings.run_initial_validation:
            best = seed
            report.begin(best, await steps.try_on_all(seed))
        beam = [seed]
        for number in range(1, self._settings.beam_rounds + 1):
            record = await steps.propose(number, beam)
            beam = await steps.select(record, beam)
            best = await steps.promote(record, beam[0], best)
            report.round(record, best)
            progress.done(number)

    def get_seed_prompt_template(self) -> tuple[str, PromptTemplate]:
        """Return the prompt to begin with, and the name of its resource.

        Raises:
            ConfigurationError: There is no prompt among the initial resources.
        """
        for name, resource in (self.get_initial_resources() or {}).items():
            if isinstance(resource, PromptTemplate):
                return name, resource
        raise ConfigurationError(
            "APO needs a prompt to begin with: Trainer(initial_resources={'prompt': PromptTemplate(…)})"
        )

    def get_adapter(self) -> TraceToMessages:
        """Return the adapter; raises `ConfigurationError` if it is no `TraceToMessages`."""
        adapter = super().get_adapter()
        if not isinstance(adapter, TraceToMessages):
            raise ConfigurationError(
                f"APO reads conversations, and {type(adapter).__name__} makes none: "
                "Trainer(adapter=agl.TraceToMessages())"
            )
        return adapter

    def get_best_prompt(self) -> PromptTemplate:
        """Return the best prompt that was found so far.

        Raises:
            ConfigurationError: `run` has not found one yet.
        """
        if self.history is None or self.history.best is None:
            raise ConfigurationError("there is no best prompt yet: run the algorithm first")
        return self.history.best.prompt_template


def _tasks(name: str, dataset: Dataset[Any] | None) -> list[Any]:
    if dataset is None or not len(dataset):
        raise ConfigurationError(f"APO needs tasks in {name}: fit(agent, train_dataset=…, val_dataset=…)")
    return [dataset[index] for index in range(len(dataset))]
