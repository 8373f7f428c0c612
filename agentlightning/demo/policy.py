"""The demo's policy: a Qwen3 of half a million parameters that knows the tool, and mostly guesses instead.

`load_policy` reads the checkpoint that ships with the package; `python -m agentlightning.demo.policy FOLDER` rebuilds
it in about half a minute.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

import torch
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from agentlightning.demo.teacher import clean_transcript
from agentlightning.demo.tokenizer import CONTEXT, VOCAB_SIZE, train_tokenizer
from agentlightning.demo.warm_start import warm_start
from agentlightning.demo.world import train_tasks
from agentlightning.learner import load_model, load_tokenizer

CHECKPOINT: Final = Path(__file__).parent / "checkpoint"
"""The policy that ships with the package: a Hugging Face folder."""

_TOKENIZER_TASKS: Final = 2000


def load_policy() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the policy that ships with the package."""
    return load_model(CHECKPOINT), load_tokenizer(CHECKPOINT)


def build_policy(
    seed: int = 0, progress: Callable[[str], None] | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Make the policy from nothing: train its tokenizer, then warm-start its weights.

    Args:
        seed: Of the initial weights and of the transcripts. Torch's global generator is left as it was.
        progress: Called with a line of text now and then.
    """
    tokenizer = train_tokenizer([clean_transcript(task) for task in train_tasks(seed, _TOKENIZER_TASKS)])
    with cast("Any", torch.random).fork_rng():
        cast("Any", torch).manual_seed(seed)
        model = Qwen3ForCausalLM(_config(tokenizer))
    warm_start(model, tokenizer, seed, progress or (lambda _line: None))
    return model.eval(), tokenizer


def save_policy(folder: str | Path, seed: int = 0, progress: Callable[[str], None] | None = None) -> None:
    """Build a policy and write it as a Hugging Face folder."""
    model, tokenizer = build_policy(seed, progress)
    cast("Any", model).save_pretrained(folder)
    cast("Any", tokenizer).save_pretrained(folder)


def _config(tokenizer: PreTrainedTokenizerFast) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=cast("int", tokenizer.eos_token_id),
        pad_token_id=cast("int", tokenizer.pad_token_id),
    )


def _main() -> None:
    parser = argparse.ArgumentParser(description="Rebuild the demo's policy.")
    parser.add_argument("folder", help="where to write it")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # two threads make a model this small many times slower
    save_policy(arguments.folder, arguments.seed, progress=print)


if __name__ == "__main__":
    _main()
