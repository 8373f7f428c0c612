"""The model that is trained: how it is loaded, and the log-probabilities it gives to sampled tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from agentlightning.errors import ConfigurationError
from agentlightning.learner.batch import Batch, predictors

# Both are typed too loosely to be checked.
_auto_model: Any = AutoModelForCausalLM
_auto_tokenizer: Any = AutoTokenizer


def load_model(model: str | Path | PreTrainedModel, device: str = "auto") -> PreTrainedModel:
    """Load a causal language model to train, in float32.

    It is put, and stays, in evaluation mode: with dropout, the probability a token is trained on would not be the one
    it was sampled with.

    Args:
        model: A Hugging Face folder, or a model that is loaded already and is then trained in place.
        device: A torch device; `auto` takes the GPU if there is one.

    Raises:
        ConfigurationError: No model can be read there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if not isinstance(model, PreTrainedModel):
        try:
            model = cast("PreTrainedModel", _auto_model.from_pretrained(model, dtype=torch.float32))
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"cannot load a model from {model}: {error}") from error
    return cast("Any", model).to(device).eval()


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer that lies in a model's folder.

    Raises:
        ConfigurationError: No tokenizer can be read there.
    """
    try:
        return _auto_tokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"cannot load a tokenizer from {folder}: {error}") from error


def sampled_logprobs(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Compute the log-probability of each sampled token at the temperature it was sampled at, with gradient.

    Returns:
        Natural logarithms. Shape (N,).
    """
    logits_NV = _sampled_logits(model, batch) / batch.temperatures_N[:, None]
    targets_N = batch.token_ids_BL[batch.sampled_BL]
    return -torch.nn.functional.cross_entropy(logits_NV, targets_N, reduction="none")


def _sampled_logits(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Run the model, but its output layer only where a sampled token is predicted: the others' logits are never read.

    What a model does between its output layer and its logits, such as capping them, still happens.
    """
    predictors_BL = predictors(batch.sampled_BL)

    def select(_layer: torch.nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        (hidden_BLH,) = inputs
        return (hidden_BLH[predictors_BL],)

    with cast("Any", model.get_output_embeddings()).register_forward_pre_hook(select):
        return model(input_ids=batch.token_ids_BL, use_cache=False).logits.float()
