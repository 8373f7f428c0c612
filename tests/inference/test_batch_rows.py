from __future__ import annotations

import random

import torch
from transformers import PreTrainedModel

from agentlightning.inference import SamplingParams
from agentlightning.inference.batch import Batch
from agentlightning.inference.decoder import Decoder
from agentlightning.inference.request import Request


def request(prompt: list[int]) -> Request:
    return Request(
        prompt,
        SamplingParams(max_tokens=6),
        room=50,
        end_token_ids=frozenset(),
        generator=random.Random(0),
        tokenizer=None,
    )


def test_row_that_is_cancelled_between_two_steps_leaves_the_others_right(model: PreTrainedModel) -> None:
    batch = Batch(Decoder(model), kept_bytes=0)
    batch.join([request([5, 6, 7]), request([8, 9]), request([10])], 0)
    batch.step(0)
    cancelled, *others = batch.rows
    cancelled.future.cancel()
    batch.drop_done()
    assert set(batch.rows) == set(others)
    while batch.rows:
        batch.step(0)
    for row in others:
        completion = row.future.result(0)
        token_ids_1L = torch.tensor([[*row.prompt, *completion.token_ids]])
        with torch.no_grad():
            logprobs_LV = model(input_ids=token_ids_1L, use_cache=False).logits[0].float().log_softmax(-1)
        expected = [
            logprobs_LV[len(row.prompt) - 1 + position, token_id].item()
            for position, token_id in enumerate(completion.token_ids)
        ]
        torch.testing.assert_close(torch.tensor(completion.logprobs), torch.tensor(expected), atol=1e-4, rtol=0)
