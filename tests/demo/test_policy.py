from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agentlightning.demo.policy import load_policy
from agentlightning.demo.teacher import clean_transcript, weak_transcript
from agentlightning.demo.world import LOOKUP_TOOL, test_tasks as frozen_tasks, train_tasks


@pytest.fixture(scope="module")
def policy() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    return load_policy()


@pytest.fixture
def tokenizer(policy: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> PreTrainedTokenizerBase:
    return policy[1]


def render(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]], prompt: bool = False) -> list[int]:
    return tokenizer.apply_chat_template(
        messages, tools=[LOOKUP_TOOL], add_generation_prompt=prompt, tokenize=True, return_dict=False
    )


def test_the_shipped_policy_is_small(policy: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> None:
    model, tokenizer = policy
    assert 450_000 < sum(p.numel() for p in model.parameters()) < 550_000
    assert model.dtype == torch.float32
    assert len(tokenizer) == model.config.vocab_size == 512
    assert tokenizer.convert_ids_to_tokens(model.generation_config.eos_token_id) == "<|im_end|>"
    assert tokenizer.eos_token == "<|im_end|>"


def test_numbers_are_one_token_each(tokenizer: PreTrainedTokenizerBase) -> None:
    assert len({tuple(tokenizer.encode(f"{number:02d}")) for number in range(100)}) == 100
    assert all(len(tokenizer.encode(f"{number:02d}")) == 1 for number in range(100))


def test_any_text_survives(tokenizer: PreTrainedTokenizerBase) -> None:
    text = 'naïve 42 "quotes"\n\n\tΣ 🙂 007 shy-fox-owl'
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("teach", [clean_transcript, lambda task: weak_transcript(task, random.Random(0))])
def test_a_history_is_a_strict_prefix_of_what_follows(tokenizer: PreTrainedTokenizerBase, teach: Any) -> None:
    """What the model reads and writes in one turn stands unchanged before the next turn."""
    for task in [*train_tasks(0, 10), *frozen_tasks()[:10]]:
        messages = teach(task)
        for turn, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            prompt = render(tokenizer, messages[:turn], prompt=True)
            history = render(tokenizer, messages[: turn + 1])
            assert history[: len(prompt)] == prompt
            said = tokenizer.decode(history[len(prompt) :])
            assert said.endswith("<|im_end|>\n")
            if turn + 1 < len(messages):
                assert render(tokenizer, messages[: turn + 2], prompt=True)[: len(history)] == history


def test_tool_calls_have_one_canonical_form(tokenizer: PreTrainedTokenizerBase) -> None:
    call = {"type": "function", "function": {"name": "lookup", "arguments": {"key": "shy-fox"}}}
    form = '<tool_call>{"name": "lookup", "arguments": {"key": "shy-fox"}}</tool_call><|im_end|>'
    said = render(tokenizer, [{"role": "assistant", "content": None, "tool_calls": [call]}])
    assert form in tokenizer.decode(said)
    # Arguments that are no JSON reach the template as the text they were.
    as_text = {**call, "function": {"name": "lookup", "arguments": '{"key": "shy-fox"}'}}
    assert render(tokenizer, [{"role": "assistant", "content": "", "tool_calls": [as_text]}]) == said


def test_prompts_are_short(tokenizer: PreTrainedTokenizerBase) -> None:
    assert max(len(render(tokenizer, clean_transcript(task)[:1], prompt=True)) for task in frozen_tasks()) <= 40
    assert max(len(render(tokenizer, clean_transcript(task))) for task in frozen_tasks()) <= 150


def test_the_policy_knows_the_form_but_mostly_guesses(
    policy: tuple[PreTrainedModel, PreTrainedTokenizerBase],
) -> None:
    model, tokenizer = policy
    prompts = [render(tokenizer, clean_transcript(task)[:1], prompt=True) for task in frozen_tasks()[:40]]
    first_tokens = []
    for prompt in prompts:
        with torch.no_grad():
            first_tokens.append(model(torch.tensor([prompt])).logits[0, -1].softmax(-1))
    chance = torch.stack(first_tokens).mean(0)
    looks_up = chance[tokenizer.convert_tokens_to_ids("<tool_call>")].item()
    answers = chance[tokenizer.encode("The value is ")[0]].item()
    assert looks_up + answers > 0.99
    assert 0.2 < looks_up < 0.8
