"""GRPO: learn from how the rollouts of one task compare with each other (DeepSeekMath, arXiv:2402.03300)."""

from __future__ import annotations

import asyncio
import copy
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agentlightning._internal.heap import settled_heap
from agentlightning._internal.threads import run_to_its_end
from agentlightning.adapter.selection import check_expression
from agentlightning.algorithm.base import Algorithm
from agentlightning.algorithm.checkpoints import Checkpoint
from agentlightning.algorithm.group_sampling import RolloutSample, describe_groups, sample_groups
from agentlightning.algorithm.policy_evaluation import Evaluation, evaluate_policy
from agentlightning.algorithm.policy_server import MODEL_NAME, PolicyServer
from agentlightning.errors import ConfigurationError, ExecutionError
from agentlightning.learner import (
    Learner,
    Normalization,
    StepMetrics,
    group_advantages,
    load_model,
    load_tokenizer,
    load_training_state,
    save_checkpoint,
    write_checkpoint,
)
from agentlightning.types import Dataset, TrainingRow

FailurePolicy: TypeAlias = Literal["zero", "drop"]
"""What a failed rollout does to its group: it counts as reward 0, or the whole group is left out."""

CHECKPOINT_FOLDER: Final = "checkpoint"
"""Where in a run's folder the trained policy is."""

_CANARY_ROWS = 8


class GRPO(Algorithm):
    """Trains the model behind an agent with group-relative policy optimisation.

    Each step runs `batch_size` tasks `group_size` times on the present policy, compares the rewards within each
    group, and makes one update. The validation tasks are run before the first and after the last step; nothing is
    chosen by them, so they may be a test set.

    Args:
        model: A local Hugging Face folder, or a model that is loaded already and is then trained in place.
        tokenizer: Needed with a loaded model; a folder brings its own.
        device: Where engine and learner compute; `auto` takes a GPU if there is one.
        steps: How many updates to make.
        batch_size: Tasks a step.
        group_size: Rollouts a task.
        temperature: Sampling temperature of training; what the learner divides logits by.
        max_tokens: Longest answer to one call; None leaves it to the agent and the context.
        learning_rate: AdamW's rate after the warm-up.
        warmup_steps: Steps of linear warm-up.
        max_grad_norm: Gradient norm above which gradients are scaled down.
        clip_ratio: PPO's clip range.
        normalization: What the loss is a mean of: `token` or `rollout`.
        failures: What a failed rollout does to its group.
        evaluate_temperatures: Temperatures at which the validation tasks are run.
        rollout_timeout: Seconds that all rollouts of a step (or an evaluation) have together; late ones are cancelled
            and count as failed.
        max_batch_size: The most answers that are sampled at a time.
        agent_match: Regular expression that finds the names of the agents to train, of several that share the model;
            None trains them all. Calls made to compute a reward are never trained on.
        seed: Order of the tasks. Rollouts run at once, so runs with one seed are alike, not equal.
        checkpoint_every: Steps between the checkpoints that a resumed run goes on from. What it repeats since the last
            one is learning only: rollouts that had succeeded are not run again.

    A run with a folder (`Trainer(run_dir=…)`) leaves the trained policy there, in `checkpoint/`.

    Attributes:
        evaluations: What the validation tasks gave, in order; filled by `run`.

    Raises:
        ConfigurationError: A value is out of range, or the tokenizer is missing.
    """

    def __init__(
        self,
        model: str | Path | PreTrainedModel,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        device: str = "auto",
        steps: int = 50,
        batch_size: int = 8,
        group_size: int = 8,
        temperature: float = 1.0,
        max_tokens: int | None = None,
        learning_rate: float = 2e-4,
        warmup_steps: int = 5,
        max_grad_norm: float = 1.0,
        clip_ratio: float = 0.2,
        normalization: Normalization = "token",
        failures: FailurePolicy = "zero",
        evaluate_temperatures: Sequence[float] = (1.0,),
        rollout_timeout: float = 600.0,
        max_batch_size: int = 64,
        agent_match: str | None = None,
        seed: int = 0,
        checkpoint_every: int = 10,
    ) -> None:
        if steps < 0 or batch_size < 1 or checkpoint_every < 1:
            raise ConfigurationError("steps must be at least 0, batch_size and checkpoint_every at least 1")
        if group_size < 2:
            raise ConfigurationError(f"group_size must be at least 2 (a group is compared within), not {group_size}")
        if temperature <= 0:
            raise ConfigurationError(f"temperature must be positive (training needs variety), not {temperature}")
        if isinstance(model, PreTrainedModel) and tokenizer is None:
            raise ConfigurationError("a loaded model needs its tokenizer: GRPO(model, tokenizer=...)")
        check_expression("agent_match", agent_match)
        self._agent_match = agent_match
        self._model = model
        self._tokenizer = tokenizer
        self._device = device
        self._steps = steps
        self._batch_size = batch_size
        self._group_size = group_size
        self._temperature = temperature
        self._max_tokens = max_tokens
        self._learner_options: dict[str, Any] = {
            "learning_rate": learning_rate,
            "warmup_steps": warmup_steps,
            "max_grad_norm": max_grad_norm,
            "clip_ratio": clip_ratio,
            "normalization": normalization,
        }
        self._failures: FailurePolicy = failures
        self._evaluate_temperatures = tuple(evaluate_temperatures)
        self._rollout_timeout = rollout_timeout
        self._max_batch_size = max_batch_size
        self._seed = seed
        self._checkpoint_every = checkpoint_every
        self.evaluations: list[Evaluation] = []

    async def run(self, train_dataset: Dataset[Any] | None = None, val_dataset: Dataset[Any] | None = None) -> None:
        """Evaluate, train, evaluate.

        Args:
            train_dataset: Tasks to learn from; needed unless `steps` is 0.
            val_dataset: Tasks to evaluate on; None skips the evaluations.

        Raises:
            ConfigurationError: There is nothing to train on, or the agent samples with top_p or top_k.
            ExecutionError: All rollouts of a step failed, or nothing was rewarded or captured.
            PolicyMismatch: Engine and learner disagree after an update.
        """
        if self._steps and not train_dataset:
            raise ConfigurationError("GRPO needs tasks: fit(agent, train_dataset)")
        context = self.get_context()
        checkpoint = context.latest_checkpoint()
        self.evaluations = []
        learner, served, tokenizer = await asyncio.to_thread(self._load, checkpoint)
        done = 0
        with settled_heap():
            server = PolicyServer(served, tokenizer, self.get_store(), self.get_llm_proxy(), self._max_batch_size)
            async with server:
                if checkpoint is None:
                    await self._evaluate(server, val_dataset)
                else:
                    done = checkpoint.step
                    self.evaluations = [Evaluation(**each) for each in checkpoint.state["evaluations"]]
                    await server.update(learner.state_dict(), learner.version)
                try:
                    await self._train(server, learner, tokenizer, train_dataset or [], done)
                finally:
                    await self._save(learner, tokenizer)
                await self._evaluate(server, val_dataset)

    def _load(self, checkpoint: Checkpoint | None) -> tuple[Learner, PreTrainedModel, PreTrainedTokenizerBase]:
        """Return the learner, a copy of its model to serve, and the tokenizer."""
        tokenizer = self._tokenizer or load_tokenizer(str(self._model))
        model = load_model(self._model, self._device)
        if checkpoint is not None:  # into the model that was given, which is trained in place
            model.load_state_dict(load_model(checkpoint.folder, self._device).state_dict())
        learner = Learner(model, **self._learner_options)
        if checkpoint is not None:
            load_training_state(checkpoint.folder, learner)
        return learner, copy.deepcopy(model), tokenizer

    async def _train(
        self,
        server: PolicyServer,
        learner: Learner,
        tokenizer: PreTrainedTokenizerBase,
        dataset: Dataset[Any],
        done: int,
    ) -> None:
        """Make the steps that are not done yet."""
        context = self.get_context()
        batches = islice(_batches(dataset, self._batch_size, random.Random(self._seed)), done, None)
        resources_id = await server.publish(self._sampling(self._temperature))
        for step in range(done + 1, self._steps + 1):
            started = time.monotonic()
            groups = await sample_groups(
                context,
                next(batches),
                key=f"step-{step}",
                group_size=self._group_size,
                mode="train",
                resources_id=resources_id,
                model=MODEL_NAME,
                timeout=self._rollout_timeout,
                agent_match=self._agent_match,
            )
            sampled = time.monotonic()
            learned = await self._learn(server, learner, groups)
            record = {"kind": "step", "step": step, "steps": self._steps} | describe_groups(groups, sampled - started)
            record["learning_seconds"] = time.monotonic() - sampled
            context.log(record | (asdict(learned) if learned else {}))
            if step % self._checkpoint_every == 0 or step == self._steps:
                state = {"evaluations": [asdict(evaluation) for evaluation in self.evaluations]}
                write = partial(write_checkpoint, learner=learner, tokenizer=tokenizer)
                await run_to_its_end(context.save_checkpoint, step, write, state)

    async def _learn(
        self, server: PolicyServer, learner: Learner, groups: list[list[RolloutSample]]
    ) -> StepMetrics | None:
        """Update the policy from one step's groups; None when no group says anything."""
        _check_signal([sample for group in groups for sample in group])
        groups = self._complete_groups(groups)
        rewards = [[sample.reward or 0.0 for sample in group] for group in groups]
        advantages = {
            sample.rollout.rollout_id: advantage
            for group, values in zip(groups, group_advantages(rewards), strict=True)
            for sample, advantage in zip(group, values, strict=True)
        }
        rows = [row for group in groups for sample in group for row in sample.trajectories.rows]
        if not rows:
            return None
        learned = await run_to_its_end(learner.step, rows, advantages)
        await server.update(learner.state_dict(), learner.version)
        await self._check(server, learner, rows[:_CANARY_ROWS])
        return learned

    async def _check(self, server: PolicyServer, learner: Learner, rows: list[TrainingRow]) -> None:
        whole = [
            replace(row, mask=[i > 0 for i in range(len(row.mask))], temperatures=[1.0] * len(row.mask)) for row in rows
        ]
        expected = await asyncio.to_thread(learner.logprobs, whole)
        await server.check([row.token_ids for row in rows], expected)

    def _complete_groups(self, groups: list[list[RolloutSample]]) -> list[list[RolloutSample]]:
        if self._failures == "zero":
            return groups
        return [group for group in groups if all(sample.error is None for sample in group)]

    async def _evaluate(self, server: PolicyServer, dataset: Dataset[Any] | None) -> None:
        if not dataset:
            return
        tasks = [dataset[index] for index in range(len(dataset))]
        for temperature in self._evaluate_temperatures:
            evaluation = await evaluate_policy(
                self.get_context(),
                tasks,
                version=server.engine.weights_version,
                temperature=temperature,
                resources_id=await server.publish(self._sampling(temperature)),
                model=MODEL_NAME,
                timeout=self._rollout_timeout,
            )
            before = next((each for each in self.evaluations if each.temperature == temperature), None)
            self.evaluations.append(evaluation)
            self.get_context().log(evaluation.record(before))

    async def _save(self, learner: Learner, tokenizer: PreTrainedTokenizerBase) -> None:
        run_dir = self.get_context().run_dir
        if run_dir is not None:
            await run_to_its_end(save_checkpoint, run_dir / CHECKPOINT_FOLDER, learner, tokenizer)

    def _sampling(self, temperature: float) -> dict[str, Any]:
        sampling: dict[str, Any] = {"temperature": temperature}
        if self._max_tokens is not None:
            sampling["max_tokens"] = self._max_tokens
        return sampling


def _check_signal(samples: Sequence[RolloutSample]) -> None:
    """Refuse a step from which nothing can be learned, and say what is missing."""
    errors = [sample.error for sample in samples if sample.error is not None]
    if len(errors) == len(samples):
        raise ExecutionError(f"all {len(errors)} rollouts of a step failed; the first one with {errors[0]}")
    if all(sample.reward is None for sample in samples):
        raise ExecutionError("no rollout of a step was rewarded: return a number from the agent, or call emit_reward")
    if not any(sample.trajectories.rows for sample in samples):
        raise ExecutionError(
            "no model call with tokens was captured in a step: the agent must call its model at the endpoint of the "
            "resource it is given (llm.endpoint)"
        )
    if any(sample.truncated for sample in samples):
        raise ConfigurationError(
            "the agent sampled with top_p or top_k, whose probabilities the learner cannot reproduce: "
            "leave both out of the agent's requests while it is trained"
        )


def _batches(dataset: Dataset[Any], size: int, rng: random.Random) -> Iterator[list[Any]]:
    """Yield batches without end; every task comes once before any comes again."""
    waiting: list[Any] = []
    while True:
        while len(waiting) < size:
            order = list(range(len(dataset)))
            rng.shuffle(order)
            waiting += [dataset[index] for index in order]
        yield waiting[:size]
        waiting = waiting[size:]
