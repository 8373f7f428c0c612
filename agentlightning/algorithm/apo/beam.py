"""The steps of a beam search over prompts."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence
from typing import Any, Final

from agentlightning.adapter import TraceToMessages
from agentlightning.algorithm.apo.candidate import Candidate, Score
from agentlightning.algorithm.apo.experiments import describe_experiment
from agentlightning.algorithm.apo.history import Comparison, History, RoundRecord, describe_comparison
from agentlightning.algorithm.apo.proposer import Proposal, Proposer
from agentlightning.algorithm.apo.settings import Settings
from agentlightning.algorithm.paired import paired_difference
from agentlightning.algorithm.prompt_search import Answer, Journal, PromptEvaluator, Scored, together
from agentlightning.errors import ExecutionError
from agentlightning.types import RolloutMode
from agentlightning.types.task_input import normalize_task_input

logger = logging.getLogger(__name__)

_FEWEST_TASKS: Final = 6
"""With fewer tasks there is never evidence of a difference."""


class Beam:
    """The steps of the search, each of which does all its work at once.

    Args:
        settings: Of the run.
        evaluator: Runs tasks.
        proposer: Asks for better prompts.
        journal: Where it is written down what critics read, and which proposals were given up.
        adapter: Turns spans into conversations.
        history: What was tried.
        train: Tasks to criticise by.
        val: Tasks to rank and compare by.
    """

    def __init__(
        self,
        settings: Settings,
        evaluator: PromptEvaluator,
        proposer: Proposer,
        journal: Journal,
        adapter: TraceToMessages,
        history: History,
        train: Sequence[Any],
        val: Sequence[Any],
    ) -> None:
        self._settings = settings
        self._evaluator = evaluator
        self._proposer = proposer
        self._journal = journal
        self._adapter = adapter
        self._history = history
        self._tasks: dict[RolloutMode, Sequence[Any]] = {"train": train, "val": val}
        self._rng = random.Random(settings.seed)
        self._train_batches = task_batches(len(train), settings.gradient_batch_size, self._rng)
        self._val_batches = task_batches(len(val), settings.val_batch_size, self._rng)

    async def try_on_all(self, candidate: Candidate) -> Score:
        """Try a prompt on all validation tasks; returns its score."""
        numbers = range(len(self._tasks["val"]))
        await self._try(candidate.round, candidate, "val", numbers)
        return candidate.score("val", numbers, self._history.worst)

    async def propose(self, number: int, beam: Sequence[Candidate]) -> RoundRecord:
        """Ask for better prompts than those of the beam, and begin the round with what came of it."""
        parents = self._parents(beam)
        batches = [next(self._train_batches) for _ in parents]
        ways = [[self._proposer.choose(self._rng) for _ in range(self._settings.branch_factor)] for _ in parents]
        await together(self._try(number, each, "train", self._batches_of(each, parents, batches)) for each in beam)
        experiments = await together(
            self._experiments(f"round-{number}/parent-{place}", parent, batch)
            for place, (parent, batch) in enumerate(zip(parents, batches, strict=True))
        )
        asked = [
            (f"round-{number}/parent-{place}/branch-{branch}", parents[place], experiments[place], way)
            for place in range(len(parents))
            for branch, way in enumerate(ways[place])
        ]
        proposals = await together(self._propose(*each) for each in asked)
        self._give_up(proposals, [self._proposer.asked(*each[1:]) for each in asked])
        dropped = self._take(number, proposals)
        return RoundRecord(number, next(self._val_batches), {}, [], dropped)

    async def select(self, record: RoundRecord, beam: Sequence[Candidate]) -> list[Candidate]:
        """Rank the beam and the round's new prompts by the same validation tasks; returns those that go on."""
        new = [each for each in self._history.candidates.values() if each.round == record.number]
        pool, tasks = [*beam, *new], record.validation_tasks
        await together(self._try(record.number, each, "val", tasks) for each in pool)
        worst = self._history.worst
        scores = {each.version: each.score("val", tasks, worst) for each in pool}

        def rank(candidate: Candidate) -> tuple[float, int]:
            score = scores[candidate.version]
            return -score.mean, score.failed

        ranked = sorted(pool, key=rank)  # of equals, the older comes first
        record.ranking = {each.version: scores[each.version] for each in ranked}
        record.beam = [each.version for each in ranked[: self._settings.beam_width]]
        return ranked[: self._settings.beam_width]

    async def promote(self, record: RoundRecord, leader: Candidate, best: Candidate | None) -> Candidate:
        """Compare the round's leader with the best so far, on all validation tasks; returns which is the best now."""
        if leader is best:
            return leader
        await self.try_on_all(leader)
        if best is None:
            record.comparison = Comparison(leader.version, None, None, promoted=True)
            return leader
        numbers = range(len(self._tasks["val"]))
        before, after = (each.rewards("val", numbers, self._history.worst) for each in (best, leader))
        difference = paired_difference(before, after) if len(numbers) > 1 else None
        higher = sum(after) > sum(before)
        wanted = self._settings.promotion == "evidence" and len(numbers) >= _FEWEST_TASKS
        promoted = higher and (not wanted or (difference is not None and difference.verdict == "better"))
        record.comparison = Comparison(leader.version, best.version, difference, promoted)
        logger.info("[Round %02d] %s", record.number, describe_comparison(record.comparison))
        return leader if promoted else best

    def _parents(self, beam: Sequence[Candidate]) -> list[Candidate]:
        """Return as many parents as the beam is wide."""
        width = self._settings.beam_width
        if len(beam) < width:
            return [beam[place % len(beam)] for place in range(width)]
        return self._rng.sample(beam, width)

    async def _try(self, number: int, candidate: Candidate, mode: RolloutMode, numbers: Sequence[int]) -> None:
        """Run a prompt on those of the tasks that it was not run on."""
        missing = candidate.missing(mode, numbers)
        if not missing:
            return
        tasks = [(each, self._tasks[mode][each]) for each in missing]
        prompts = {self._history.resource: candidate.prompt_template}
        scored = await self._evaluator.evaluate(f"{candidate.version}/round-{number}/{mode}", prompts, tasks, mode)
        candidate.results[mode].update({each.task: each for each in scored})
        score = candidate.score(mode, missing, self._history.worst)
        logger.info("[Round %02d | Prompt %s] %s on %d %s tasks", number, candidate.version, score, len(missing), mode)
        if candidate.parent is None:
            _check_signal([each for results in candidate.results.values() for each in results.values()])

    def _batches_of(
        self, candidate: Candidate, parents: Sequence[Candidate], batches: Sequence[Sequence[int]]
    ) -> list[int]:
        """Return the training tasks of all places that a parent has."""
        own = [batch for parent, batch in zip(parents, batches, strict=True) if parent is candidate]
        return [number for batch in own for number in batch]

    async def _experiments(self, key: str, parent: Candidate, batch: Sequence[int]) -> list[dict[str, Any]]:
        """Return what critics read of a parent's runs, which stays the same when spans come late."""
        results = [parent.results["train"][number] for number in batch]

        async def describe() -> Answer:
            spans = await together(map(self._evaluator.spans, results))
            tasks = [normalize_task_input(self._tasks["train"][number]) for number in batch]
            told = zip(tasks, results, spans, strict=True)
            return {"runs": [describe_experiment(task, scored, read, self._adapter) for task, scored, read in told]}

        asked = [scored.rollout_id for scored in results]
        return (await self._journal.once("experiments", key, asked, describe))["runs"]

    async def _propose(self, key: str, parent: Candidate, experiments: Sequence[Any], ways: Any) -> Proposal:
        given_up = self._journal.find("given up", key, self._proposer.asked(parent, experiments, ways))
        if given_up is not None:
            return Proposal(key, parent, dropped=given_up["reason"])
        return await self._proposer.propose(key, parent, experiments, ways)

    def _give_up(self, proposals: Sequence[Proposal], asked: Sequence[Answer]) -> None:
        """Write down who got no answer, so that a resumed run does the same; if nobody got one, the run ends."""
        unanswered = [each for each in proposals if each.unanswered]
        if unanswered and len(unanswered) == len(proposals):
            raise ExecutionError(
                f"no better prompt was proposed, as no model answered; the first error: {unanswered[0].dropped}. A run "
                "with a folder goes on by fit(…, resume=FOLDER)"
            )
        for each, question in zip(proposals, asked, strict=True):
            if each.unanswered:
                self._journal.write("given up", each.key, question, {"reason": each.dropped})

    def _take(self, number: int, proposals: Sequence[Proposal]) -> list[Proposal]:
        """Count the new prompts among the candidates; returns the proposals that are not tried."""
        candidates = self._history.candidates
        known = {each.prompt_template.template: each.version for each in candidates.values()}
        dropped: list[Proposal] = []
        for each in proposals:
            prompt = each.prompt_template
            if each.dropped is not None or prompt is None:
                dropped.append(each)
            elif prompt.template in known:
                reason = f"it is the same as {known[prompt.template]}"
                dropped.append(Proposal(each.key, each.parent, each.critique, None, reason))
            else:
                version = f"v{len(candidates)}"
                candidates[version] = Candidate(version, prompt, each.parent.version, number, each.critique)
                known[prompt.template] = version
        for each in dropped:
            logger.info("[Round %02d | Prompt %s] Dropped: %s", number, each.parent.version, each.dropped)
        return dropped


def task_batches(count: int, size: int, rng: random.Random) -> Iterator[list[int]]:
    """Yield batches of task numbers without end; every task comes once before any comes again, and once a batch."""
    size = min(size, count)
    waiting: list[int] = []
    while True:
        batch, waiting = waiting[:size], waiting[size:]
        if len(batch) < size:
            order = rng.sample(range(count), count)
            fresh = [number for number in order if number not in batch][: size - len(batch)]
            batch += fresh
            waiting = [number for number in order if number not in fresh]
        yield batch


def _check_signal(results: Sequence[Scored]) -> None:
    """Refuse a first prompt that says nothing about better ones."""
    errors = [each.error for each in results if each.error is not None]
    if len(errors) == len(results):
        raise ExecutionError(f"all {len(errors)} rollouts of the first prompt failed; the first one with {errors[0]}")
    if all(each.reward is None for each in results):
        raise ExecutionError("no rollout of the first prompt was rewarded: return a number from the agent, or emit one")
