"""Prompts of different lengths, read in as few passes as pay: what is known of them, and what they share, once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
from transformers.cache_utils import DynamicCache

from agentlightning.inference.decoder import Decoder
from agentlightning.inference.padding import group_by_length, left_pad
from agentlightning.inference.prefixes import Prefix, PrefixStore
from agentlightning.inference.request import Request


class Prefilled(NamedTuple):
    """Requests whose prompts were read.

    Attributes:
        requests: R of them.
        rows: Row of each in `cache`. Shape (R,).
        cache: Keys and values of the prompts, left-padded.
        logits: Of each request's first token. Shape (R, V).
        reused: How many tokens of the R prompts were not computed: they were known, or another's.
    """

    requests: list[Request]
    rows: list[int]
    cache: DynamicCache
    logits: torch.Tensor
    reused: int


class _Prompt:
    """A prompt, what is known of it, and who asks."""

    def __init__(self, requests: list[Request], prefix: Prefix | None) -> None:
        self.requests = requests
        self.token_ids = requests[0].prompt
        self.prefix = prefix

    @property
    def unknown(self) -> int:
        """How many tokens must be computed."""
        return len(self.token_ids) - (self.prefix.length if self.prefix else 0)


def prefill(decoder: Decoder, known: PrefixStore, requests: Sequence[Request]) -> Iterator[Prefilled]:
    """Read the prompts of requests, in groups of similar length."""
    askers: dict[tuple[int, ...], list[Request]] = {}
    for request in requests:
        askers.setdefault(tuple(request.prompt), []).append(request)
    prompts = [_Prompt(each, known.find(each[0].prompt)) for each in askers.values()]
    for group in group_by_length(prompts, lambda prompt: prompt.unknown):
        cache, logits_BV, computed = _read(decoder, group)
        joining = [request for prompt in group for request in prompt.requests]
        rows = [row for row, prompt in enumerate(group) for _ in prompt.requests]
        reused = sum(len(request.prompt) for request in joining) - computed
        yield Prefilled(joining, rows, cache, logits_BV[rows], reused)


def _read(decoder: Decoder, prompts: list[_Prompt]) -> tuple[DynamicCache, torch.Tensor, int]:
    """Return the cache of some prompts, the logits behind each of them, and how many of their tokens were computed."""
    # All compute as many tokens as the one with the most unknown ones: so no row has a gap between old and new.
    computed = max(prompt.unknown for prompt in prompts)
    lengths = [max(0, len(prompt.token_ids) - computed) for prompt in prompts]
    padded = left_pad(
        [prompt.token_ids[length:] for prompt, length in zip(prompts, lengths, strict=True)], decoder.device, lengths
    )
    cache = decoder.new_cache()
    for index in range(decoder.layers if any(lengths) else 0):
        cast("Any", cache).update(*_known(prompts, lengths, index), index)  # takes untyped arguments
    logits_BV = decoder.forward(*padded, cache, keep=1)[:, -1]
    return cache, logits_BV, sum(min(computed, len(prompt.token_ids)) for prompt in prompts)


def _known(prompts: list[_Prompt], lengths: list[int], layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return keys and values of the prompts' first `lengths` tokens, left-padded. Shape (B, heads, K, head size)."""
    some_keys, some_values = next(prompt.prefix.layers[layer] for prompt in prompts if prompt.prefix)
    keys_BHKD, values_BHKD = (
        each.new_zeros(len(prompts), each.shape[0], max(lengths), each.shape[2]) for each in (some_keys, some_values)
    )
    for row, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
        if prompt.prefix and length:
            keys, values = prompt.prefix.layers[layer]
            keys_BHKD[row, :, -length:] = keys[:, :length]
            values_BHKD[row, :, -length:] = values[:, :length]
    return keys_BHKD, values_BHKD
