"""What goes to its backend directly, what through LiteLLM's SDK, and that the SDK's calls are calls like any other."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from importlib.util import find_spec
from typing import Any

import openai
import pytest
from scripted_backend import ScriptedBackend, answer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from agentlightning.adapter import llm_calls
from agentlightning.errors import ConfigurationError, MissingExtra
from agentlightning.llm_proxy import LLMProxy
from agentlightning.llm_proxy.backends import Backend, read_backend
from agentlightning.serving import EmbeddedServer
from agentlightning.store import InMemoryLightningStore
from agentlightning.types import AttemptedRollout

BASE = "http://gpu:8000/v1"
MESSAGES: Any = [{"role": "user", "content": "Hi"}]
needs_litellm = pytest.mark.skipif(find_spec("litellm") is None, reason="the extra litellm is not installed")


def read(**parameters: Any) -> Backend:
    return read_backend({"model_name": "policy", "litellm_params": parameters})


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentlightning.llm_proxy.backends.find_spec", lambda _: object())


@pytest.mark.parametrize(
    ("model", "known_as"),
    [
        ("policy", "policy"),
        ("openai/policy", "policy"),
        ("hosted_vllm/Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B"),
        ("openai/openai/gpt-oss-20b", "openai/gpt-oss-20b"),
        ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B"),
    ],
)
def test_openai_shaped_servers_are_asked_directly(model: str, known_as: str) -> None:
    backend = read(model=model, api_base=BASE + "/", api_key="k")
    assert (backend.model, backend.api_base, backend.api_key, backend.litellm) == (known_as, BASE, "k", None)


def test_openai_itself_needs_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "from the environment")
    backend = read(model="openai/gpt-4.1-nano")
    assert (backend.model, backend.api_base) == ("gpt-4.1-nano", "https://api.openai.com/v1")
    assert (backend.api_key, backend.litellm) == ("from the environment", None)


def test_the_environments_key_goes_to_openai_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "from the environment")
    assert read(model="openai/policy", api_base=BASE).api_key is None


def test_values_may_name_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    assert read(model="m", api_base=BASE, api_key="os.environ/MY_KEY").api_key == "secret"
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(ConfigurationError, match=r"'policy'.*MY_KEY is not set"):
        read(model="m", api_base=BASE, api_key="os.environ/MY_KEY")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    "parameters",
    [
        {"model": "anthropic/claude-sonnet"},
        {"model": "anthropic/claude-sonnet", "api_base": BASE},
        {"model": "bedrock/some.model", "aws_region_name": "eu-central-1"},
        {"model": "some-new-provider/model"},
        {"model": "openai/policy", "api_base": BASE, "extra_headers": {"x-team": "7"}},
    ],
)
def test_other_providers_and_more_parameters_are_litellms(parameters: dict[str, Any]) -> None:
    backend = read(**parameters)
    assert backend.litellm == parameters
    assert backend.model == parameters["model"]


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"model": "anthropic/claude-sonnet", "api_base": BASE}, "'anthropic' is a provider with an API of its own"),
        ({"model": "gemini/flash"}, "no `api_base`"),
        ({"model": "m", "api_base": BASE, "api_kee": "k"}, r"\['api_kee'\] beside"),
    ],
)
def test_without_litellm_the_error_says_why_it_is_needed_and_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, parameters: dict[str, Any], reason: str
) -> None:
    monkeypatch.setattr("agentlightning.llm_proxy.backends.find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=rf"'policy'.*{reason}.*needs `litellm`.*\[litellm\]"):
        LLMProxy(model_list=[{"model_name": "policy", "litellm_params": parameters}])


def test_a_key_is_not_in_what_is_printed() -> None:
    assert "secret" not in repr(read(model="m", api_base=BASE, api_key="secret"))


class AnthropicShaped:
    """A server of Anthropic's Messages API."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.refusals: list[Response] = []
        self.server = EmbeddedServer(Starlette(routes=[Route("/v1/messages", self._serve, methods=["POST"])]))

    async def _serve(self, request: Request) -> Response:
        payload = await request.json()
        self.requests.append(payload)
        self.keys.append(request.headers.get("x-api-key"))
        if self.refusals:
            return self.refusals.pop(0)
        usage = {"input_tokens": 5, "output_tokens": 2}
        message: dict[str, Any] = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": payload["model"],
            "content": [{"type": "text", "text": "Hello there"}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": usage,
        }
        if not payload.get("stream"):
            return JSONResponse(message)
        block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        events = [
            {"type": "message_start", "message": {**message, "content": [], "stop_reason": None}},
            block,
            *(
                {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
                for text in ("Hello", " there")
            ),
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": usage},
            {"type": "message_stop"},
        ]
        lines = (f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
        return StreamingResponse(lines, media_type="text/event-stream")


@pytest.fixture
async def provider() -> AsyncIterator[AnthropicShaped]:
    provider = AnthropicShaped()
    await provider.server.start()
    yield provider
    await provider.server.stop()


@pytest.fixture
async def foreign(provider: AnthropicShaped, store: InMemoryLightningStore) -> AsyncIterator[LLMProxy]:
    parameters = {"model": "anthropic/claude-test", "api_base": provider.server.url, "api_key": "the-providers"}
    proxy = LLMProxy(model_list=[{"model_name": "policy", "litellm_params": parameters}], store=store)
    await proxy.start()
    yield proxy
    await proxy.stop()


@pytest.fixture
async def client(foreign: LLMProxy, attempted: AttemptedRollout) -> AsyncIterator[openai.AsyncOpenAI]:
    endpoint = foreign.as_resource(attempted.rollout_id, attempted.attempt.attempt_id).endpoint
    async with openai.AsyncOpenAI(base_url=endpoint, api_key="the-agents", max_retries=0) as client:
        yield client


async def spans(foreign: LLMProxy, store: InMemoryLightningStore, attempted: AttemptedRollout) -> list[dict[str, Any]]:
    await foreign.stop()
    return [dict(span.attributes) for span in await store.query_spans(attempted.rollout_id)]


@needs_litellm
async def test_another_providers_answer_is_a_chat_completion(
    client: openai.AsyncOpenAI, provider: AnthropicShaped, foreign: LLMProxy, store: Any, attempted: AttemptedRollout
) -> None:
    answer = await client.chat.completions.create(model="policy", messages=MESSAGES, max_tokens=9, temperature=0.5)
    assert answer.choices[0].message.content == "Hello there"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 2)
    (asked,) = provider.requests
    assert (asked["model"], asked["max_tokens"], asked["temperature"]) == ("claude-test", 9, 0.5)
    assert provider.keys == ["the-providers"]
    (attributes,) = await spans(foreign, store, attempted)
    assert provider.server.url in attributes.values()
    assert not any("the-providers" in str(value) for value in attributes.values())


@needs_litellm
async def test_another_providers_stream_is_a_stream(
    client: openai.AsyncOpenAI, foreign: LLMProxy, store: Any, attempted: AttemptedRollout
) -> None:
    stream = await client.chat.completions.create(model="policy", messages=MESSAGES, stream=True)
    chunks = [chunk async for chunk in stream]
    texts = [choice.delta.content for chunk in chunks for choice in chunk.choices if choice.delta.content]
    assert texts == ["Hello", " there"]
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason] == ["stop"]
    await foreign.stop()
    (span,) = await store.query_spans(attempted.rollout_id)
    assert span.status.status_code == "OK", span.status


@needs_litellm
@pytest.mark.parametrize("stream", [False, True])
async def test_what_another_provider_refuses_for_now_is_tried_again(
    client: openai.AsyncOpenAI, provider: AnthropicShaped, stream: bool
) -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    provider.refusals = [JSONResponse(error, 529), JSONResponse(error, 429, {"retry-after": "0"})]
    await client.chat.completions.create(model="policy", messages=MESSAGES, stream=stream)
    assert len(provider.requests) == 3


@needs_litellm
async def test_another_providers_refusal_keeps_its_status_and_words(
    client: openai.AsyncOpenAI, provider: AnthropicShaped
) -> None:
    error = {"type": "error", "error": {"type": "invalid_request_error", "message": "max_tokens: too many"}}
    provider.refusals = [JSONResponse(error, 400)]
    with pytest.raises(openai.BadRequestError, match="max_tokens: too many"):
        await client.chat.completions.create(model="policy", messages=MESSAGES)
    assert len(provider.requests) == 1


@needs_litellm
async def test_nobody_at_another_providers_address_is_a_clear_error(
    client: openai.AsyncOpenAI, provider: AnthropicShaped
) -> None:
    await provider.server.stop()
    with pytest.raises(openai.InternalServerError, match="Cannot connect"):
        await client.chat.completions.create(model="policy", messages=MESSAGES)


@needs_litellm
@pytest.mark.parametrize("field", ["api_base", "api_key", "mock_response", "extra_headers"])
async def test_agents_cannot_say_where_the_sdk_goes_and_with_whose_key(
    client: openai.AsyncOpenAI, provider: AnthropicShaped, field: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=f"'{field}'.* cannot be sent through LiteLLM"):
        await client.chat.completions.create(model="policy", messages=MESSAGES, extra_body={field: "http://evil"})
    assert provider.requests == []


@needs_litellm
async def test_a_server_with_more_parameters_still_names_its_tokens(
    backend: ScriptedBackend, store: InMemoryLightningStore, attempted: AttemptedRollout
) -> None:
    def like_vllm(payload: dict[str, Any]) -> Response:
        said = answer(payload, 1)
        for token in said["choices"][0]["logprobs"]["content"]:
            token["top_logprobs"] = []
        return JSONResponse(said)

    backend.script = like_vllm
    config = backend.model_config
    config["litellm_params"] |= {"extra_headers": {"x-team": "7"}, "api_key": "secret"}
    proxy = LLMProxy(model_list=[config], store=store)
    await proxy.start()
    endpoint = proxy.as_resource(attempted.rollout_id, attempted.attempt.attempt_id).endpoint
    async with openai.AsyncOpenAI(base_url=endpoint, api_key="the-agents", max_retries=0) as client:
        await client.chat.completions.create(model="policy", messages=MESSAGES)
    await proxy.stop()
    (call,) = llm_calls(await store.query_spans(attempted.rollout_id))
    assert (call.prompt_token_ids, call.response_token_ids, call.response_logprobs) == (
        [1, 2],
        [100, 150],
        [-0.5, -0.25],
    )
    assert backend.headers[0]["x-team"] == "7"


@needs_litellm
async def test_what_the_sdk_does_not_serve_is_said(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="does not go through LiteLLM"):
        await client.files.list()
