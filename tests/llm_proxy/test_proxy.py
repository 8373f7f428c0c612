"""The gateway between a real OpenAI client and a scripted backend."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from scripted_backend import ScriptedBackend
from starlette.responses import JSONResponse, Response

from agentlightning.adapter import llm_calls
from agentlightning.errors import ConfigurationError
from agentlightning.llm_proxy import LLMProxy, ModelConfig, flush_captures
from agentlightning.store import InMemoryLightningStore
from agentlightning.types import LLM, AttemptedRollout, LLMCall, ProxyLLM, Span

MESSAGES: list[Any] = [{"role": "user", "content": "häy"}]


@pytest.fixture
async def client(proxy: LLMProxy, attempted: AttemptedRollout) -> AsyncIterator[openai.AsyncOpenAI]:
    resource = proxy.as_resource(attempted.rollout_id, attempted.attempt.attempt_id)
    async with openai.AsyncOpenAI(base_url=resource.endpoint, api_key="agent-key", max_retries=0) as client:
        yield client


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def spans_of(proxy: LLMProxy, store: InMemoryLightningStore, attempted: AttemptedRollout) -> list[Span]:
    await flush_captures({"llm": proxy.as_resource(model="policy")}, attempted.rollout_id, attempted.attempt.attempt_id)
    return list(await store.query_spans(attempted.rollout_id))


async def calls_of(proxy: LLMProxy, store: InMemoryLightningStore, attempted: AttemptedRollout) -> list[LLMCall]:
    return llm_calls(await spans_of(proxy, store, attempted))


async def test_a_call_is_recorded_with_its_exact_tokens(
    client: openai.AsyncOpenAI,
    proxy: LLMProxy,
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
    backend: ScriptedBackend,
) -> None:
    reply = await client.chat.completions.create(model="policy", messages=MESSAGES, temperature=0.5, max_tokens=9)
    (call,) = await calls_of(proxy, store, attempted)
    assert reply.choices[0].message.content == "answer 1.0"
    assert (call.rollout_id, call.attempt_id) == (attempted.rollout_id, attempted.attempt.attempt_id)
    assert (call.prompt_token_ids, call.response_token_ids) == ([1, 2], [100, 150])
    assert call.response_logprobs == [-0.5, -0.25]
    assert (call.temperature, call.sampling) == (0.5, {"temperature": 0.5, "max_tokens": 9})
    assert (call.finish_reason, call.weights_version, call.response_id) == ("stop", 3, "chatcmpl-1")
    assert (call.model, call.messages) == ("policy", MESSAGES)
    assert call.message == {"role": "assistant", "content": "answer 1.0"}
    assert call.start_time <= call.end_time
    assert backend.requests[0]["model"] == "org/net"
    assert backend.requests[0]["return_token_ids"] is backend.requests[0]["logprobs"] is True
    assert backend.headers[0]["authorization"] == "Bearer agent-key"


async def test_concurrent_calls_and_choices_are_each_recorded_once(
    client: openai.AsyncOpenAI, proxy: LLMProxy, store: InMemoryLightningStore, attempted: AttemptedRollout
) -> None:
    create = client.chat.completions.create
    replies = await asyncio.gather(*(create(model="policy", messages=MESSAGES, n=n) for n in (1, 2, 3) * 5))
    received = sorted(choice.model_extra["token_ids"] for reply in replies for choice in reply.choices)
    calls = await calls_of(proxy, store, attempted)
    assert sorted(call.response_token_ids for call in calls) == received
    assert len({call.sequence_id for call in calls}) == len(replies)


async def test_a_call_stands_before_what_the_agent_does_next(
    client: openai.AsyncOpenAI, proxy: LLMProxy, store: InMemoryLightningStore, attempted: AttemptedRollout
) -> None:
    for _ in range(5):
        await client.chat.completions.create(model="policy", messages=MESSAGES)
        following = await store.get_next_span_sequence_id(attempted.rollout_id, attempted.attempt.attempt_id)
        calls = await calls_of(proxy, store, attempted)
        assert calls[-1].sequence_id < following


async def test_completions_are_recorded(
    client: openai.AsyncOpenAI,
    proxy: LLMProxy,
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
    backend: ScriptedBackend,
) -> None:
    logprobs = {"tokens": ["a"], "token_logprobs": [-1.5]}
    choice = {
        "text": "a",
        "token_ids": [7],
        "prompt_token_ids": [5, 6],
        "logprobs": logprobs,
        "finish_reason": "length",
    }
    backend.script = lambda _: JSONResponse({"id": "c", "choices": [choice]})
    await client.completions.create(model="policy", prompt="hi")
    (call,) = await calls_of(proxy, store, attempted)
    assert (call.prompt_token_ids, call.response_token_ids, call.response_logprobs) == ([5, 6], [7], [-1.5])
    assert call.message["content"] == "a"


async def test_a_backend_that_refuses_the_token_fields_is_asked_without_them(
    client: openai.AsyncOpenAI, backend: ScriptedBackend, caplog: pytest.LogCaptureFixture
) -> None:
    def script(payload: dict[str, Any]) -> Response:
        if "return_token_ids" in payload:
            return JSONResponse({"error": {"message": "unknown field return_token_ids"}}, 400)
        return JSONResponse({"id": "c", "choices": [{"index": 0, "message": {"role": "assistant", "content": "x"}}]})

    backend.script = script
    for _ in range(2):
        await client.chat.completions.create(model="policy", messages=MESSAGES)
    asked = ["return_token_ids" in payload for payload in backend.requests]
    assert asked == [True, False, False]
    assert "cannot be trained on" in caplog.text


async def test_what_a_backend_refuses_on_one_path_is_still_asked_for_on_another(
    client: openai.AsyncOpenAI, backend: ScriptedBackend
) -> None:
    def script(payload: dict[str, Any]) -> Response:
        if "prompt" in payload and payload.get("logprobs"):
            return JSONResponse({"error": {"message": "logprobs must be 0"}}, 400)
        return JSONResponse({"id": "c", "choices": []})

    backend.script = script
    for _ in range(2):
        await client.completions.create(model="policy", prompt="hi")
        await client.chat.completions.create(model="policy", messages=MESSAGES)
    asked = [("prompt" in payload, "logprobs" in payload) for payload in backend.requests]
    assert asked == [(True, True), (True, False), (False, True), (True, False), (False, True)]


async def test_an_error_of_the_backend_passes_through_and_is_recorded(
    client: openai.AsyncOpenAI,
    proxy: LLMProxy,
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
    backend: ScriptedBackend,
) -> None:
    error = {"message": "too long", "type": "invalid_request_error", "param": None, "code": "context_length_exceeded"}
    backend.script = lambda _: JSONResponse({"error": error}, 400)
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model="policy", messages=MESSAGES)
    assert caught.value.body == error
    (span,) = await spans_of(proxy, store, attempted)
    assert span.status.status_code == "ERROR"
    assert "context_length_exceeded" in (span.status.description or "")
    assert llm_calls([span]) == []


@pytest.mark.parametrize(
    "body",
    [
        '{"choices": [{"message": {}, "logprobs": 2}]}',
        '{"choices": [{"message": {}, "token_ids": [1, null]}]}',
        '{"choices": [], "id": 7}',
        pytest.param('{"choices": ' + "[" * 100_000 + "}", id="deep"),
    ],
)
async def test_an_answer_of_another_form_reaches_the_agent_and_is_not_trained_on(
    proxy: LLMProxy,
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
    backend: ScriptedBackend,
    http: aiohttp.ClientSession,
    body: str,
) -> None:
    backend.script = lambda _: Response(body)
    resource = proxy.as_resource(attempted.rollout_id, attempted.attempt.attempt_id)
    async with http.post(f"{resource.endpoint}/chat/completions", json={"model": "policy"}) as reply:
        assert (reply.status, await reply.text()) == (200, body)
    (span,) = await spans_of(proxy, store, attempted)
    assert span.status.status_code == "ERROR"


@pytest.mark.parametrize(
    "body", ["<html>502 Bad Gateway</html>", "[]", "", '{"detail": "Not found"}', '{"choices": null}', '{"choices": [']
)
async def test_an_answer_that_is_none_of_a_model_is_an_error_that_sdks_retry(
    proxy: LLMProxy,
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
    backend: ScriptedBackend,
    http: aiohttp.ClientSession,
    body: str,
) -> None:
    backend.script = lambda _: Response(body)
    resource = proxy.as_resource(attempted.rollout_id, attempted.attempt.attempt_id)
    async with http.post(f"{resource.endpoint}/chat/completions", json={"model": "policy"}) as reply:
        assert reply.status == 502
        assert (await reply.json())["error"]["code"] == "invalid_answer"
    (span,) = await spans_of(proxy, store, attempted)
    assert span.status.status_code == "ERROR"


async def test_half_a_character_in_a_call_passes_and_is_recorded(
    proxy: LLMProxy,
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
    backend: ScriptedBackend,
    http: aiohttp.ClientSession,
) -> None:
    url = proxy.as_resource(attempted.rollout_id, attempted.attempt.attempt_id).endpoint + "/chat/completions"
    messages = '[{"role": "user", "content": "\\ud83d"}]'
    async with http.post(url, data=f'{{"model": "policy", "messages": {messages}}}') as reply:
        assert reply.status == 200
    assert backend.requests[0]["messages"] == json.loads(messages)
    (call,) = await calls_of(proxy, store, attempted)
    assert call.messages == json.loads(messages)


async def test_a_dead_backend_is_named(client: openai.AsyncOpenAI, proxy: LLMProxy, backend: ScriptedBackend) -> None:
    address = backend.server.url
    await backend.server.stop()
    with pytest.raises(openai.APIStatusError) as caught:
        await client.chat.completions.create(model="policy", messages=MESSAGES)
    assert (caught.value.status_code, caught.value.code) == (502, "backend_unreachable")
    assert address in caught.value.message


async def test_a_silent_backend_meets_the_deadline(
    backend: ScriptedBackend, store: InMemoryLightningStore, http: aiohttp.ClientSession
) -> None:
    backend.gate.clear()
    proxy = LLMProxy(model_list=[backend.model_config], store=store, timeout=0.05)
    await proxy.start()
    async with http.post(f"{proxy.as_resource().endpoint}/chat/completions", json={"model": "policy"}) as reply:
        assert (reply.status, (await reply.json())["error"]["code"]) == (504, "backend_timeout")
    await proxy.stop()


async def test_a_model_that_is_not_served_is_refused(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await client.chat.completions.create(model="other", messages=MESSAGES)
    assert caught.value.code == "model_not_found"


async def test_a_body_that_is_not_an_object_is_refused(proxy: LLMProxy, http: aiohttp.ClientSession) -> None:
    for body in ("{", "[]"):
        async with http.post(f"{proxy.as_resource().endpoint}/chat/completions", data=body) as reply:
            assert (reply.status, (await reply.json())["error"]["code"]) == (400, "invalid_request")


async def test_a_client_that_leaves_frees_the_backend(
    client: openai.AsyncOpenAI,
    proxy: LLMProxy,
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
    backend: ScriptedBackend,
) -> None:
    backend.gate.clear()
    call = asyncio.create_task(client.chat.completions.create(model="policy", messages=MESSAGES))
    async with asyncio.timeout(5):
        await backend.asked.wait()
        call.cancel()
        await backend.abandoned.wait()
    (span,) = await spans_of(proxy, store, attempted)
    assert "client_left" in (span.status.description or "")


async def test_other_paths_pass_through_unrecorded(
    proxy: LLMProxy, store: InMemoryLightningStore, attempted: AttemptedRollout, http: aiohttp.ClientSession
) -> None:
    resource = proxy.as_resource(attempted.rollout_id, attempted.attempt.attempt_id)
    async with http.get(f"{resource.endpoint}/files?a=1") as reply:
        assert await reply.json() == {"path": "/v1/files", "query": "a=1"}
    async with http.post(f"{resource.endpoint}/embeddings", json={"model": "other"}) as reply:
        assert reply.status == 404
    assert await spans_of(proxy, store, attempted) == []


async def test_calls_without_an_attempt_are_served_and_not_recorded(
    proxy: LLMProxy, store: InMemoryLightningStore, attempted: AttemptedRollout
) -> None:
    async with openai.AsyncOpenAI(base_url=proxy.as_resource().endpoint, api_key="k") as client:
        await client.chat.completions.create(model="policy", messages=MESSAGES)
    assert await spans_of(proxy, store, attempted) == []


async def test_paths_without_v1_are_served(
    proxy: LLMProxy, store: InMemoryLightningStore, attempted: AttemptedRollout
) -> None:
    endpoint = proxy.as_resource(attempted.rollout_id, attempted.attempt.attempt_id).endpoint.removesuffix("/v1")
    async with openai.AsyncOpenAI(base_url=endpoint, api_key="k") as client:
        await client.chat.completions.create(model="policy", messages=MESSAGES)
    assert len(await calls_of(proxy, store, attempted)) == 1


async def test_models_change_while_the_gateway_runs(
    client: openai.AsyncOpenAI, proxy: LLMProxy, backend: ScriptedBackend
) -> None:
    config = backend.model_config
    proxy.update_model_list([{**config, "model_name": "next"}])
    assert proxy.as_resource().model == "next"
    await client.chat.completions.create(model="next", messages=MESSAGES)
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.create(model="policy", messages=MESSAGES)
    with pytest.raises(ConfigurationError, match=r"needs `?model"):
        proxy.update_model_list([{"model_name": "bad", "litellm_params": {"api_base": "http://127.0.0.1:1/v1"}}])
    await client.chat.completions.create(model="next", messages=MESSAGES)


async def test_a_model_can_be_added_for_a_while_from_another_thread(
    client: openai.AsyncOpenAI, proxy: LLMProxy, backend: ScriptedBackend
) -> None:
    before = proxy.model_list
    assert before == [backend.model_config]
    guest: ModelConfig = {**backend.model_config, "model_name": "guest"}
    await asyncio.to_thread(proxy.update_model_list, [*before, guest])
    assert proxy.model_list == [*before, guest]
    for name in ("policy", "guest"):
        await client.chat.completions.create(model=name, messages=MESSAGES)
    proxy.model_list.clear()
    await asyncio.to_thread(proxy.update_model_list, before)
    assert proxy.model_list == before
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.create(model="guest", messages=MESSAGES)


async def test_a_configured_key_replaces_the_agents(
    client: openai.AsyncOpenAI, proxy: LLMProxy, backend: ScriptedBackend
) -> None:
    config = backend.model_config
    proxy.update_model_list([{**config, "litellm_params": {**config["litellm_params"], "api_key": "secret"}}])
    await client.chat.completions.create(model="policy", messages=MESSAGES)
    assert backend.headers[0]["authorization"] == "Bearer secret"


async def test_resources_name_the_gateway_or_the_attempt(proxy: LLMProxy, backend: ScriptedBackend) -> None:
    template = proxy.as_resource(sampling_parameters={"temperature": 0.1})
    assert isinstance(template, ProxyLLM)
    assert template.endpoint.endswith("/v1")
    fixed = proxy.as_resource("r", "a", sampling_parameters={"temperature": 0.1})
    assert type(fixed) is LLM
    assert (fixed.endpoint, fixed.model) == (template.get_base_url("r", "a"), template.model)
    assert fixed.sampling_parameters == template.sampling_parameters == {"temperature": 0.1}
    with pytest.raises(ValueError, match="attempt_id"):
        proxy.as_resource("r")
    proxy.update_model_list([backend.model_config, {**backend.model_config, "model_name": "two"}])
    with pytest.raises(ConfigurationError, match="model="):
        proxy.as_resource()


async def test_restart_keeps_the_address(proxy: LLMProxy, client: openai.AsyncOpenAI) -> None:
    before = proxy.as_resource().endpoint
    await proxy.restart()
    assert proxy.is_running()
    assert proxy.as_resource().endpoint == before
    await client.chat.completions.create(model="policy", messages=MESSAGES)


async def test_what_is_missing_at_start_is_said(store: InMemoryLightningStore) -> None:
    proxy = LLMProxy()
    with pytest.raises(ConfigurationError, match="store"):
        await proxy.start()
    with pytest.raises(ConfigurationError, match="start"):
        proxy.as_resource()
    proxy.set_store(store)
    assert proxy.get_store() is store
    assert not proxy.is_running()


async def test_a_flush_of_nothing_is_answered_and_a_bad_deadline_refused(
    proxy: LLMProxy, http: aiohttp.ClientSession
) -> None:
    root = proxy.as_resource("r", "a").endpoint.removesuffix("/v1")
    for deadline, status in (("0", 200), ("nan", 400), ("-1", 400), ("soon", 400)):
        async with http.post(f"{root}/flush", params={"deadline": deadline}) as reply:
            assert reply.status == status
    async with http.get(root.partition("/rollout")[0] + "/health") as reply:
        assert json.loads(await reply.text()) == {"status": "ok"}


async def test_a_gateway_that_is_gone_costs_a_warning(proxy: LLMProxy, caplog: pytest.LogCaptureFixture) -> None:
    resource = proxy.as_resource()
    await proxy.stop()
    with caplog.at_level(logging.WARNING):
        await flush_captures({"llm": resource}, "r", "a", deadline=1)
    assert "may be missing" in caplog.text


async def test_two_gateways_do_not_share_a_journal(
    tmp_path: Path, store: InMemoryLightningStore, backend: ScriptedBackend
) -> None:
    first, second = (LLMProxy(model_list=[backend.model_config], store=store, journal_dir=tmp_path) for _ in range(2))
    await first.start()
    try:
        with pytest.raises(ConfigurationError, match="another gateway uses"):
            await second.start()
        assert not second.is_running()
        await first.restart()
    finally:
        await first.stop()
    await second.start()
    await second.stop()
