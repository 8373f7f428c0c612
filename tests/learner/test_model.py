from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedModel

from agentlightning.errors import ConfigurationError
from agentlightning.learner import load_model, load_tokenizer
from agentlightning.learner.batch import to_batch
from agentlightning.learner.model import sampled_logprobs
from agentlightning.types import TrainingRow


def test_a_loaded_model_is_float32_and_without_dropout(
    make_model: Callable[[], PreTrainedModel], tmp_path: Path
) -> None:
    make_model().to(torch.bfloat16).save_pretrained(tmp_path)
    model = load_model(tmp_path, "cpu")
    assert model.dtype == torch.float32
    assert not model.training


def test_a_model_that_is_loaded_already_is_trained_itself(make_model: Callable[[], PreTrainedModel]) -> None:
    model = make_model().train()
    assert load_model(model, "cpu") is model
    assert not model.training


def test_a_folder_without_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=tmp_path.name):
        load_model(tmp_path)
    with pytest.raises(ConfigurationError, match=tmp_path.name):
        load_tokenizer(tmp_path)


def test_what_a_model_does_to_its_logits_is_kept(rows: list[TrainingRow]) -> None:
    model = Gemma2ForCausalLM(
        Gemma2Config(
            vocab_size=29,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            final_logit_softcapping=0.01,
        )
    ).eval()
    batch = to_batch(rows[:1], torch.device("cpu"))
    logits_LV = model(batch.token_ids_BL).logits[0, :-1]
    logprobs_LV = (logits_LV[batch.sampled_BL[0, 1:]] / batch.temperatures_N[:, None]).log_softmax(-1)
    targets_N = batch.token_ids_BL[batch.sampled_BL]
    torch.testing.assert_close(sampled_logprobs(model, batch), logprobs_LV.gather(1, targets_N[:, None])[:, 0])
