"""Rows that decode together: they join after their prefill and leave when they are done."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from agentlightning.errors import ModelError
from agentlightning.inference.cache import BatchCache
from agentlightning.inference.decoder import Decoder
from agentlightning.inference.prefill import prefill
from agentlightning.inference.prefixes import PrefixStore
from agentlightning.inference.request import Request
from agentlightning.inference.sampling import BatchSampling


class Batch:
    """The running requests and their cache, and what is kept of those that are complete.

    Args:
        decoder: The model.
        kept_bytes: Most keys and values to keep of complete requests, for prompts that begin with the same tokens.

    Attributes:
        rows: The running requests, in the order of the cache's rows.
        reused_tokens: How many tokens of prompts did not have to be computed.
    """

    def __init__(self, decoder: Decoder, kept_bytes: int) -> None:
        self.rows: list[Request] = []
        self.reused_tokens = 0
        self._kept = PrefixStore(kept_bytes)
        self._decoder = decoder
        self._cache = BatchCache(decoder.layers)
        # Of the present rows; None after a change.
        self._sampling: BatchSampling | None = None

    @torch.inference_mode()
    def join(self, requests: Sequence[Request], version: int) -> None:
        """Prefill `requests`, sample their first tokens with weights `version`, and add them as rows."""
        for joining, rows, cache, logits_BV, reused in prefill(self._decoder, self._kept, requests):
            self.reused_tokens += reused
            sampling = BatchSampling([request.params for request in joining], self._decoder.device)
            self._cache.join(cache, rows, [len(request.prompt) for request in joining])
            self.rows.extend(joining)
            self._accept(len(self.rows) - len(joining), sampling, logits_BV, version)
        self._sampling = None
        self.drop_done()

    @torch.inference_mode()
    def step(self, version: int) -> None:
        """Sample one token for every row with weights `version`."""
        if self._sampling is None:
            device = self._decoder.device
            self._sampling = BatchSampling([row.params for row in self.rows], device)
        cache = self._cache
        token_ids_B1 = torch.tensor([[row.token_ids[-1]] for row in self.rows], device=self._decoder.device)
        starts_B1 = torch.tensor(cache.starts, device=self._decoder.device)[:, None]
        columns_T = torch.arange(cache.begin, cache.end + 1, device=self._decoder.device)
        logits_B1V = self._decoder.forward(token_ids_B1, columns_T >= starts_B1, cache.end - starts_B1, cache)
        cache.advance()
        self._accept(0, self._sampling, logits_B1V[:, -1], version)
        self.drop_done()

    @torch.inference_mode()
    def drop_done(self) -> None:
        """Let rows leave that are complete, failed or cancelled."""
        # From the end, so that the last row, which takes the place of one that leaves, is known to stay.
        for index in range(len(self.rows) - 1, -1, -1):
            if self.rows[index].done:
                self._keep(index)
                self._cache.leave(index)
                self.rows[index] = self.rows[-1]
                self.rows.pop()
                self._sampling = None

    def forget(self) -> None:
        """Keep nothing that the present weights have computed: they are about to change."""
        self._kept.clear()
        for row in self.rows:
            row.outdated = True

    def _keep(self, index: int) -> None:
        row = self.rows[index]
        if row.finish_reason is not None and not row.outdated:
            # The last token has been sampled, and not yet read.
            self._kept.add([*row.prompt, *row.token_ids[:-1]], self._cache.copy_of(index))

    def _accept(self, first: int, sampling: BatchSampling, logits_BV: torch.Tensor, version: int) -> None:
        """Sample a token for each row from `first` on."""
        rows = self.rows[first:]
        token_ids, logprobs = sampling.sample(logits_BV, [row.draw() for row in rows])
        for index, (row, token_id, logprob) in enumerate(zip(rows, token_ids, logprobs, strict=True), first):
            if math.isfinite(logprob):
                row.accept(token_id, logprob, version)
            else:
                row.fail(ModelError("the weights are not finite: a log-probability is NaN; update to sound weights"))
                self._cache.clear(index)
