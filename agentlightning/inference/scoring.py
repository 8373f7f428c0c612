"""Log-probabilities of given tokens, the way the engine would have sampled them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch

from agentlightning.inference.decoder import Decoder
from agentlightning.inference.padding import group_by_length, left_pad

_CHUNK_COLUMNS = 64
_CHUNK_LOGITS = 2**24


@torch.inference_mode()
def score(decoder: Decoder, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
    """Return each token's log-probability at temperature 1 given those before it; 0.0 for a first token.

    Sequences are left-padded together and read in chunks through the cache, as sampling does, so that a fault of
    padding, positions or cache shows here too.
    """
    scores: list[list[float]] = [[] for _ in sequences]
    for indices in group_by_length(range(len(sequences)), lambda index: len(sequences[index])):
        rows = _score_group(decoder, [sequences[index] for index in indices])
        for index, row in zip(indices, rows, strict=True):
            scores[index] = row
    return scores


def _score_group(decoder: Decoder, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
    token_ids_BL, mask_BL, positions_BL = left_pad(sequences, decoder.device)
    rows, length = token_ids_BL.shape
    cache = decoder.new_cache()
    logprobs_BL = torch.zeros(rows, length, device=decoder.device)
    step = min(_CHUNK_COLUMNS, max(1, _CHUNK_LOGITS // (rows * decoder.vocab_size)))
    for start in range(0, length - 1, step):
        stop = min(start + step, length - 1)
        chunk = slice(start, stop)
        logits_BCV = decoder.forward(token_ids_BL[:, chunk], mask_BL[:, :stop], positions_BL[:, chunk], cache)
        next_BC1 = token_ids_BL[:, start + 1 : stop + 1, None]
        logprobs_BL[:, start + 1 : stop + 1] = logits_BCV.float().log_softmax(-1).gather(-1, next_BC1)[..., 0]
    rows_logprobs = cast("list[list[float]]", cast("Any", logprobs_BL).tolist())
    return [[0.0, *row[length - len(s) + 1 :]] for row, s in zip(rows_logprobs, sequences, strict=True)]
