from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any

import aiohttp
import openai
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from agentlightning.errors import ConfigurationError
from agentlightning.inference import Completion, CompletionPart, Engine, InferenceServer, SamplingParams, create_app
from agentlightning.inference.chat import render_prompt

DEADLINE = 30.0
MESSAGES: list[Any] = [{"role": "user", "content": "What is the value of ruby?"}]
TOOLS: list[Any] = [{"type": "function", "function": {"name": "lookup", "parameters": {}}}]


class Scripted:
    """A sampler that always says the same."""

    def __init__(self, token_ids: list[int], end: int) -> None:
        self.token_ids = token_ids
        self.end_token_ids = frozenset({end})
        self.weights_version = 5
        self.started = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.never = False

    async def generate(self, prompt_token_ids: Sequence[int], params: SamplingParams) -> Completion:
        self.started.set()
        try:
            if self.never:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if not self.token_ids:
            raise ZeroDivisionError("secret")
        return Completion(
            token_ids=self.token_ids,
            logprobs=[-0.5] * len(self.token_ids),
            finish_reason="stop",
            weights_versions=[5] * len(self.token_ids),
        )

    async def stream(self, prompt_token_ids: Sequence[int], params: SamplingParams) -> AsyncGenerator[CompletionPart]:
        completion = await self.generate(prompt_token_ids, params)
        for number, (token_id, logprob) in enumerate(zip(completion.token_ids, completion.logprobs, strict=True), 1):
            yield CompletionPart(
                token_ids=[token_id],
                logprobs=[logprob],
                finish_reason="stop" if number == len(completion.token_ids) else None,
                weights_versions=[5],
            )

    async def score(self, token_ids: Sequence[Sequence[int]]) -> list[list[float]]:
        raise NotImplementedError

    async def update_weights(self, state_dict: Mapping[str, torch.Tensor], version: int) -> None:
        raise NotImplementedError


@pytest.fixture
async def client(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> AsyncIterator[openai.AsyncOpenAI]:
    with Engine(model, tokenizer) as engine:
        server = InferenceServer(engine, tokenizer, "tiny")
        await server.start()
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            yield client
        await server.stop()


@pytest.fixture
async def scripted(tokenizer: PreTrainedTokenizerFast) -> AsyncIterator[tuple[Scripted, openai.AsyncOpenAI]]:
    sampler = Scripted(tokenizer.encode("The value is 42.<|im_end|>"), tokenizer.eos_token_id)
    server = InferenceServer(sampler, tokenizer, "tiny")
    await server.start()
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield sampler, client
    await server.stop()


async def test_a_reply_carries_exact_tokens_logprobs_and_version(
    client: openai.AsyncOpenAI, tokenizer: PreTrainedTokenizerFast
) -> None:
    reply = await client.chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=9, logprobs=True, seed=1, extra_body={"return_token_ids": True}
    )
    (choice,) = reply.choices
    token_ids = choice.model_extra["token_ids"]
    assert reply.id.startswith("chatcmpl-")
    assert reply.model_extra["prompt_token_ids"] == render_prompt(tokenizer, MESSAGES, None)
    assert reply.model_extra["weights_version"] == 0
    assert len(token_ids) == 9
    assert choice.finish_reason == "length"
    assert choice.message.content == tokenizer.decode(token_ids)
    assert [entry.token for entry in choice.logprobs.content] == [tokenizer.decode([each]) for each in token_ids]
    assert all(entry.logprob < 0 and entry.top_logprobs == [] for entry in choice.logprobs.content)
    assert reply.usage.prompt_tokens == len(reply.model_extra["prompt_token_ids"])
    assert reply.usage.completion_tokens == 9
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + 9


async def test_exact_tokens_and_logprobs_come_only_when_asked_for(client: openai.AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(model="tiny", messages=MESSAGES, max_completion_tokens=3)
    assert reply.usage.completion_tokens == 3
    assert reply.choices[0].logprobs is None
    assert "prompt_token_ids" not in reply.model_extra
    assert "token_ids" not in reply.choices[0].model_extra


async def test_n_answers_differ_and_a_seed_repeats_them(client: openai.AsyncOpenAI) -> None:
    async def ask() -> list[str | None]:
        reply = await client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=8, n=3, seed=4)
        assert [choice.index for choice in reply.choices] == [0, 1, 2]
        return [choice.message.content for choice in reply.choices]

    first = await ask()
    assert len(set(first)) == 3
    assert await ask() == first


@pytest.mark.parametrize("logprobs", [0, 1])
async def test_text_completions_take_text_or_tokens(
    client: openai.AsyncOpenAI, tokenizer: PreTrainedTokenizerFast, logprobs: int
) -> None:
    tokens = tokenizer.encode("The value is")
    replies = [
        await client.completions.create(
            model="tiny",
            prompt=prompt,
            max_tokens=5,
            temperature=0,
            logprobs=logprobs,
            extra_body={"return_token_ids": True},
        )
        for prompt in ("The value is", tokens)
    ]
    first, second = (reply.choices[0] for reply in replies)
    assert first.text == second.text == tokenizer.decode(first.model_extra["token_ids"])
    assert replies[0].model_extra["prompt_token_ids"] == tokens
    assert len(first.logprobs.token_logprobs) == 5
    assert first.logprobs.text_offset[0] == 0


async def test_the_end_token_is_counted_but_not_shown(scripted: tuple[Scripted, openai.AsyncOpenAI]) -> None:
    sampler, client = scripted
    reply = await client.chat.completions.create(model="tiny", messages=MESSAGES, extra_body={"return_token_ids": True})
    assert reply.choices[0].message.content == "The value is 42."
    assert reply.choices[0].finish_reason == "stop"
    assert reply.choices[0].model_extra["token_ids"] == sampler.token_ids
    assert reply.usage.completion_tokens == len(sampler.token_ids)
    assert reply.model_extra["weights_version"] == 5


async def test_tool_calls_are_read_when_tools_are_offered(
    scripted: tuple[Scripted, openai.AsyncOpenAI], tokenizer: PreTrainedTokenizerFast
) -> None:
    sampler, client = scripted
    text = '<tool_call>\n{"name": "lookup", "arguments": {"key": "ruby"}}\n</tool_call>'
    sampler.token_ids = tokenizer.encode(f"{text}<|im_end|>")
    called = await client.chat.completions.create(model="tiny", messages=MESSAGES, tools=TOOLS)
    (call,) = called.choices[0].message.tool_calls
    assert called.choices[0].finish_reason == "tool_calls"
    assert called.choices[0].message.content is None
    assert (call.function.name, call.function.arguments) == ("lookup", '{"key": "ruby"}')
    plain = await client.chat.completions.create(model="tiny", messages=MESSAGES, tools=TOOLS, tool_choice="none")
    assert plain.choices[0].message.content == text
    assert plain.choices[0].finish_reason == "stop"


async def test_half_a_character_that_the_model_escaped_is_answered(
    scripted: tuple[Scripted, openai.AsyncOpenAI], tokenizer: PreTrainedTokenizerFast
) -> None:
    sampler, client = scripted
    text = '<tool_call>{"name": "lookup", "arguments": {"key": "\\ud83d"}}</tool_call>'
    sampler.token_ids = tokenizer.encode(f"{text}<|im_end|>")
    called = await client.chat.completions.create(model="tiny", messages=MESSAGES, tools=TOOLS)
    assert json.loads(called.choices[0].message.tool_calls[0].function.arguments) == {"key": "\ud83d"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tool_choice": "required", "tools": TOOLS}, "tool_choice"),
        ({"logprobs": True, "top_logprobs": 2}, "top_logprobs"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"extra_body": {"repetition_penalty": 1.1}}, "repetition_penalty"),
        ({"extra_body": {"min_p": 0.05}}, "min_p"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"temperature": -1}, "temperature"),
        ({"n": 0}, "n: "),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": 3}]}, "content"),
        ({"messages": [{"role": "assistant", "tool_calls": 5}]}, "tool_calls"),
    ],
)
async def test_what_the_server_cannot_do_is_a_400_that_says_so(
    client: openai.AsyncOpenAI, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        await client.chat.completions.create(**{"model": "tiny", "messages": MESSAGES, **options})
    assert caught.value.body["type"] == "invalid_request_error"


async def test_what_changes_nothing_is_no_reason_to_refuse(client: openai.AsyncOpenAI) -> None:
    neutral = {
        "repetition_penalty": 1,
        "min_p": 0.0,
        "presence_penalty": 0,
        "frequency_penalty": None,
        "logit_bias": {},
    }
    reply = await client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=2, extra_body=neutral)
    assert reply.usage.completion_tokens == 2


@pytest.mark.parametrize("options", [{"echo": True}, {"best_of": 3}, {"logprobs": 2}, {"prompt": ["a", "b"]}])
async def test_text_completions_refuse_what_they_cannot_do(client: openai.AsyncOpenAI, options: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError, match=next(iter(options))):
        await client.completions.create(**{"model": "tiny", "prompt": "x", **options})


async def test_a_long_prompt_has_its_own_code(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="1024") as caught:
        await client.completions.create(model="tiny", prompt=[5] * 1024)
    assert caught.value.code == "context_length_exceeded"


async def test_unknown_models_and_routes_are_404s(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="'tiny'"):
        await client.chat.completions.create(model="other", messages=MESSAGES)
    with pytest.raises(openai.NotFoundError):
        await client.embeddings.create(model="tiny", input="x")
    assert [model.id async for model in client.models.list()] == ["tiny"]


async def test_a_body_that_is_no_json_is_a_400(client: openai.AsyncOpenAI) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{client.base_url}chat/completions", data=b"{") as reply:
            assert reply.status == 400
            assert "JSON" in (await reply.json())["error"]["message"]
        async with session.get(f"{client.base_url}../health") as reply:
            assert await reply.json() == {"status": "ok", "weights_version": 0}


async def test_a_fault_is_a_500_without_details(scripted: tuple[Scripted, openai.AsyncOpenAI]) -> None:
    sampler, client = scripted
    sampler.token_ids = []
    with pytest.raises(openai.InternalServerError, match="ZeroDivisionError") as caught:
        await client.chat.completions.create(model="tiny", messages=MESSAGES)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("n", [1, 3])
async def test_a_client_that_leaves_cancels_its_answer(scripted: tuple[Scripted, openai.AsyncOpenAI], n: int) -> None:
    sampler, client = scripted
    sampler.never = True
    task = asyncio.create_task(client.chat.completions.create(model="tiny", messages=MESSAGES, n=n))
    async with asyncio.timeout(DEADLINE):
        await sampler.started.wait()
        task.cancel()
        await sampler.cancelled.wait()


def test_an_unknown_tool_parser_is_refused_at_once(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ConfigurationError, match="hermes"):
        create_app(Scripted([1], 2), tokenizer, "tiny", tool_parser="missing")
