from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from agentlightning.types import TrainingRow

VOCAB = 29


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make_model() -> Callable[[], Qwen3ForCausalLM]:
    """Makes equal small models, each with weights of its own."""

    def make() -> Qwen3ForCausalLM:
        config = Qwen3Config(
            vocab_size=VOCAB,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            max_position_embeddings=64,
            tie_word_embeddings=True,
        )
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model = Qwen3ForCausalLM(config)
            # Freshly initialised weights give nearly uniform logits, on which many mistakes cancel out.
            for parameter in model.parameters():
                parameter.data.mul_(8)
        return model.eval()

    return make


@pytest.fixture
def rows() -> list[TrainingRow]:
    """Rows of 6 rollouts, one of them in two rows: two turns each, several temperatures, off-policy log-probs."""
    rng = random.Random(3)
    return [_row(rng, rollout_id) for rollout_id in ("a", "b", "c", "d", "d", "e", "f")]


@pytest.fixture
def advantages() -> dict[str, float]:
    return {"a": 1.5, "b": -0.7, "c": 0.0, "d": -1.1, "e": 0.4, "f": 2.0}


def _row(rng: random.Random, rollout_id: str) -> TrainingRow:
    turns = [rng.randint(1, 5) for _ in range(4)]
    mask = [spoken for turn, length in enumerate(turns) for spoken in [turn % 2 == 1] * length]
    return TrainingRow(
        rollout_id=rollout_id,
        attempt_id="at-1",
        token_ids=[rng.randrange(VOCAB) for _ in mask],
        mask=mask,
        logprobs=[-math.log(VOCAB) + rng.gauss(0, 0.7) if sampled else 0.0 for sampled in mask],
        temperatures=[rng.choice([0.6, 1.0, 1.4]) if sampled else 1.0 for sampled in mask],
        weights_versions=[0 if sampled else -1 for sampled in mask],
    )
