"""The warm start: imitation in two phases, after which the policy is able but bad, which is the room RL needs.

Both phases are needed. On clean transcripts alone the policy is already good; on weak ones alone it may never learn to
copy a name.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any, Final, cast

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from agentlightning.demo.teacher import Message, clean_transcript, weak_transcript
from agentlightning.demo.world import LOOKUP_TOOL, Task, train_tasks
from agentlightning.errors import ModelError

_LEARNING_RATE: Final = 2e-3
_MAX_GRAD_NORM: Final = 1.0
_BATCH: Final = 16

_CLEAN_LOSS: Final = 0.005
_CLEAN_STEPS_AT_MOST: Final = 1000
_CLEAN_WARMUP: Final = 50
_WEAK_STEPS: Final = 80
_WEAK_WARMUP: Final = 20
_REPORT_EVERY: Final = 50


def warm_start(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, seed: int, progress: Callable[[str], None]
) -> None:
    """Train a policy by imitation, in place: clean transcripts until it copies without fail, then weak ones.

    Args:
        model: A policy with fresh weights.
        tokenizer: Its tokenizer.
        seed: Of the transcripts.
        progress: Called with a line of text now and then.

    Raises:
        ModelError: The policy did not learn to copy.
    """
    tasks = iter(train_tasks(seed, count=(_CLEAN_STEPS_AT_MOST + _WEAK_STEPS) * _BATCH))
    rng = random.Random(seed)
    clean = _batches(tokenizer, tasks, clean_transcript)
    weak = _batches(tokenizer, tasks, lambda task: weak_transcript(task, rng))
    _imitate_clean(model, clean, progress)
    schedule = _warmup_and_decay(_WEAK_WARMUP, _WEAK_STEPS)
    losses = [loss for _, loss in zip(range(_WEAK_STEPS), _imitate(model, weak, schedule), strict=False)]
    progress(f"weak transcripts: loss {losses[-1]:.3f} after {_WEAK_STEPS} steps")


def _imitate_clean(
    model: PreTrainedModel, batches: Iterator[dict[str, Tensor]], progress: Callable[[str], None]
) -> None:
    smoothed = 1.0
    losses = _imitate(model, batches, lambda step: min(1.0, (step + 1) / _CLEAN_WARMUP))
    for step, loss in enumerate(losses, start=1):
        smoothed = 0.9 * smoothed + 0.1 * loss
        if smoothed < _CLEAN_LOSS:
            progress(f"clean transcripts: loss {smoothed:.3f} after {step} steps")
            return
        if step == _CLEAN_STEPS_AT_MOST:
            raise ModelError(f"the policy did not learn to copy, its loss is {smoothed:.3f}; try another seed")
        if step % _REPORT_EVERY == 0:
            progress(f"clean transcripts: loss {smoothed:.3f} after {step} steps")


def _imitate(
    model: PreTrainedModel, batches: Iterator[dict[str, Tensor]], schedule: Callable[[int], float]
) -> Iterator[float]:
    """Take a step for each batch; yield its loss."""
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=_LEARNING_RATE)
    scheduler = LambdaLR(optimizer, schedule)
    for batch in batches:
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, _MAX_GRAD_NORM)
        cast("Any", optimizer).step()
        scheduler.step()
        yield loss.item()


def _warmup_and_decay(warmup: int, steps: int) -> Callable[[int], float]:
    return lambda step: min(1.0, (step + 1) / warmup) * (1 - step / steps)


def _batches(
    tokenizer: PreTrainedTokenizerFast, tasks: Iterator[Task], teach: Callable[[Task], list[Message]]
) -> Iterator[dict[str, Tensor]]:
    """Yield inputs of a transformers model: padded transcripts with labels (B, L) on what the assistant says."""
    render = cast("Any", tokenizer).apply_chat_template
    while True:
        transcripts = [teach(next(tasks)) for _ in range(_BATCH)]
        batch: dict[str, Tensor] = render(
            transcripts, tools=[LOOKUP_TOOL], padding=True, return_tensors="pt", return_assistant_tokens_mask=True
        )
        token_ids_BL, said_BL = batch["input_ids"], batch["assistant_masks"]
        yield {
            "input_ids": token_ids_BL,
            "attention_mask": batch["attention_mask"],
            "labels": token_ids_BL.masked_fill(said_BL == 0, -100),
        }
