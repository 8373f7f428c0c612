"""A transformers decoder as the engine needs it: checked once, called with explicit masks and positions."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from agentlightning.errors import ModelError, UnsupportedModel

_FORWARD_ARGUMENTS = {"input_ids", "attention_mask", "position_ids", "past_key_values", "use_cache", "logits_to_keep"}
_USE_INSTEAD = "serve it with vLLM, or use a decoder-only model with full attention such as Qwen3, Llama or GPT-NeoX"


class Decoder:
    """Owns a decoder-only model.

    Args:
        model: Put into evaluation mode on `device`; nobody else may change it afterwards.
        device: Where to run; None leaves the model where it is.

    Attributes:
        context_length: Most tokens of prompt and answer together.
        vocab_size: Number of tokens the model knows.
        layers: Number of attention layers.

    Raises:
        UnsupportedModel: The model does not decode with a cache of full keys and values.
    """

    def __init__(self, model: PreTrainedModel, device: torch.device | str | None = None) -> None:
        config = cast("Any", model.config)  # its attributes depend on the architecture
        self.layers = _check_supported(model, config)
        self.context_length = int(config.max_position_embeddings)
        self.vocab_size = int(config.vocab_size)
        module = cast("torch.nn.Module", model)  # whose methods have types
        if device is not None:
            module.to(device)
        self._module = module.eval().requires_grad_(False)
        self._model_config = config
        self.device = next(module.parameters()).device

    def new_cache(self) -> DynamicCache:
        """An empty cache for one forward pass or several over the same rows."""
        return DynamicCache(config=self._model_config)

    def forward(
        self, token_ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Cache, keep: int = 0
    ) -> torch.Tensor:
        """Logits of the tokens that follow.

        Args:
            token_ids: New tokens. Shape (B, Q).
            mask: False on the padding of cached and new columns. Shape (B, K + Q).
            positions: Position of each new token in its sequence. Shape (B, Q).
            cache: Of K columns; the new ones are added.
            keep: Return logits of the last `keep` new tokens only; 0 keeps all.

        Returns:
            Shape (B, `keep` or Q, V).
        """
        output = self._module(
            input_ids=token_ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=keep,
        )
        return cast("torch.Tensor", output.logits)

    @torch.no_grad()
    def load(self, state_dict: Mapping[str, torch.Tensor]) -> None:
        """Copy weights in place; all of them or, on an error, none.

        Args:
            state_dict: A tensor for every weight. Of weights that share storage (tied embeddings) one is enough.

        Raises:
            ModelError: Names or shapes do not fit, or tied weights differ.
        """
        own = cast("dict[str, torch.Tensor]", self._module.state_dict())
        given_at: dict[int, str] = {}
        for name, tensor in state_dict.items():
            if name not in own or own[name].shape != tensor.shape:
                raise ModelError(f"these weights are not this model's: {name} {_difference(own.get(name), tensor)}")
            twin = given_at.setdefault(own[name].data_ptr(), name)
            if twin != name and not torch.equal(state_dict[twin], tensor):
                raise ModelError(f"{twin} and {name} are tied in the engine's model, but these weights differ")
        missing = [name for name, tensor in own.items() if tensor.data_ptr() not in given_at]
        if missing:
            raise ModelError(f"weights are missing: {_some(missing)}")
        for name in given_at.values():
            own[name].copy_(state_dict[name])


def _check_supported(model: PreTrainedModel, config: Any) -> int:
    """Return the number of attention layers, or raise `UnsupportedModel`."""
    name = type(model).__name__
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModel(f"{name} is an encoder-decoder: {_USE_INSTEAD}")
    absent = _FORWARD_ARGUMENTS - set(inspect.signature(model.forward).parameters)
    if absent:
        raise UnsupportedModel(f"{name}.forward does not take {_some(sorted(absent))}: {_USE_INSTEAD}")
    if not isinstance(getattr(config, "max_position_embeddings", None), int):
        raise UnsupportedModel(f"{name} has no max_position_embeddings, so its context has no known length")
    layers = DynamicCache(config=config).layers
    other = sorted({type(layer).__name__ for layer in layers if type(layer) is not DynamicLayer})
    if other:
        raise UnsupportedModel(
            f"{name} caches more than full keys and values ({_some(other)}): {_USE_INSTEAD}; "
            "a sliding window can be switched off in the config of some models"
        )
    return len(layers)


def _difference(own: torch.Tensor | None, given: torch.Tensor) -> str:
    return "is unknown to it" if own is None else f"has shape {tuple(given.shape)} and not {tuple(own.shape)}"


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
