"""An agent's token is good for its attempt, at the gateway as at the store, and stays away from backends."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import anthropic
import openai
import pytest
from scripted_backend import ScriptedBackend

from agentlightning.adapter import llm_calls
from agentlightning.emitter import find_final_reward
from agentlightning.errors import ConfigurationError
from agentlightning.litagent import CommandAgent, resolve_proxies
from agentlightning.llm_proxy import LLMProxy, flush_captures
from agentlightning.runner import LitAgentRunner
from agentlightning.store import InMemoryLightningStore
from agentlightning.store.tokens import Caller, agent_token, runner_token, verify
from agentlightning.tracer import OtelTracer
from agentlightning.types import LLM, AttemptedRollout

SECRET = "the-secret-of-the-tests"
BODY = {"model": "policy", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
async def proxy(store: InMemoryLightningStore, backend: ScriptedBackend) -> AsyncIterator[LLMProxy]:
    proxy = LLMProxy(model_list=[backend.model_config], store=store, token=SECRET)
    await proxy.start()
    yield proxy
    await proxy.stop()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def given_to_agent(proxy: LLMProxy, attempted: AttemptedRollout) -> LLM:
    model = resolve_proxies({"llm": proxy.as_resource()}, attempted)["llm"]
    assert isinstance(model, LLM)
    return model


async def test_the_sdks_take_what_agents_are_given_and_backends_never_see_it(
    proxy: LLMProxy, store: InMemoryLightningStore, attempted: AttemptedRollout, backend: ScriptedBackend
) -> None:
    model = given_to_agent(proxy, attempted)
    ids = attempted.rollout_id, attempted.attempt.attempt_id
    assert proxy.as_resource(*ids).api_key == model.api_key
    assert model.api_key is not None
    assert verify(SECRET, model.api_key) == Caller("agent", *ids)
    async with openai.AsyncOpenAI(base_url=model.endpoint, api_key=model.api_key, max_retries=0) as client:
        await client.chat.completions.create(model="policy", messages=[{"role": "user", "content": "hi"}])
    async with anthropic.AsyncAnthropic(base_url=model.endpoint, api_key=model.api_key, max_retries=0) as client:
        await client.messages.create(model="policy", max_tokens=9, messages=[{"role": "user", "content": "hi"}])
    await flush_captures({"llm": proxy.as_resource()}, *ids)
    assert len(await store.query_spans(attempted.rollout_id)) == 2
    assert len(backend.headers) == 2
    for headers in backend.headers:
        assert not {"authorization", "x-api-key"} & headers.keys()
        assert SECRET not in str(headers)
        assert model.api_key not in str(headers)


async def test_the_backend_gets_its_own_key(
    store: InMemoryLightningStore, attempted: AttemptedRollout, backend: ScriptedBackend, http: aiohttp.ClientSession
) -> None:
    config = backend.model_config
    config["litellm_params"]["api_key"] = "the-backend's"
    proxy = LLMProxy(model_list=[config], store=store, token=SECRET)
    await proxy.start()
    try:
        model = given_to_agent(proxy, attempted)
        bearer = {"Authorization": f"Bearer {model.api_key}"}
        async with http.post(f"{model.endpoint}/chat/completions", json=BODY, headers=bearer) as reply:
            assert reply.status == 200
    finally:
        await proxy.stop()
    assert backend.headers[0]["authorization"] == "Bearer the-backend's"


@pytest.mark.parametrize(
    ("key", "status", "code"),
    [
        (None, 401, "invalid_api_key"),
        ("wrong", 401, "invalid_api_key"),
        (agent_token("another secret", "{rollout}", "{attempt}"), 401, "invalid_api_key"),
        (agent_token(SECRET, "another", "at"), 403, "forbidden"),
    ],
    ids=["none", "wrong", "another secret", "another attempt"],
)
@pytest.mark.parametrize("header", ["Authorization", "x-api-key"])
async def test_others_are_refused_in_the_apis_own_words_and_leave_no_record(
    proxy: LLMProxy,
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
    backend: ScriptedBackend,
    http: aiohttp.ClientSession,
    key: str | None,
    status: int,
    code: str,
    header: str,
) -> None:
    ids = attempted.rollout_id, attempted.attempt.attempt_id
    headers = {} if key is None else {header: f"Bearer {key}" if header == "Authorization" else key}
    endpoint = proxy.as_resource(*ids).endpoint
    root = endpoint.removesuffix(f"/rollout/{ids[0]}/attempt/{ids[1]}/v1")
    events = f"{root}/api/rollouts/{ids[0]}/attempt/{ids[1]}/events"
    v1 = f"{root}/proxy/rollout/{ids[0]}/attempt/{ids[1]}/mode/train/openai/v1"
    for url in (f"{endpoint}/chat/completions", f"{root}/v1/chat/completions", f"{v1}/chat/completions", events):
        async with http.post(url, json=BODY, headers=headers) as reply:
            assert reply.status == status
            error = (await reply.json())["error"]
            assert error["code"] == code
            assert ("api_key=llm.api_key" if status == 401 else "base URL that the agent was given") in error["message"]
            assert reply.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
    async with http.post(f"{endpoint}/messages", json=BODY, headers=headers) as reply:
        refused = await reply.json()
        assert (reply.status, refused["type"]) == (status, "error")
        assert refused["error"]["type"] == ("authentication_error" if status == 401 else "permission_error")
    await flush_captures({"llm": proxy.as_resource()}, *ids)
    assert list(await store.query_spans(attempted.rollout_id)) == []
    assert backend.requests == []


@pytest.mark.parametrize(
    ("path", "agent", "runner"),
    [
        ("/v1/models", 403, 200),
        ("/v1/chat/completions", 403, 200),
        ("/rollout/{}/attempt/{}/v1/models", 200, 200),
        ("/rollout/{}/attempt/{}x/v1/models", 403, 200),
        ("/rollout/x/rollout/{}/attempt/{}/v1/models", 403, 404),
        ("/proxy/pause", 403, 403),
    ],
)
async def test_roles_reach_what_is_theirs(
    proxy: LLMProxy,
    attempted: AttemptedRollout,
    http: aiohttp.ClientSession,
    path: str,
    agent: int,
    runner: int,
) -> None:
    ids = attempted.rollout_id, attempted.attempt.attempt_id
    root = proxy.as_resource().endpoint.removesuffix("/v1")
    for token, status in ((agent_token(SECRET, *ids), agent), (runner_token(SECRET), runner)):
        ask = http.get if path.endswith("/models") else http.post
        async with ask(root + path.format(*ids), json=BODY, headers={"x-api-key": token}) as reply:
            assert reply.status == status
    async with http.get(f"{root}/health") as reply:
        assert reply.status == 200


async def test_a_gateway_on_a_machine_of_runners_gives_its_agents_tokens_of_its_own(
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
    backend: ScriptedBackend,
    http: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AGL_TOKEN", runner_token(SECRET))
    proxy = LLMProxy(model_list=[backend.model_config], store=store)
    await proxy.start()
    try:
        model = given_to_agent(proxy, attempted)
        assert model.api_key == proxy.as_resource(attempted.rollout_id, attempted.attempt.attempt_id).api_key
        async with http.post(
            f"{model.endpoint}/chat/completions", json=BODY, headers={"x-api-key": str(model.api_key)}
        ) as reply:
            assert reply.status == 200
    finally:
        await proxy.stop()


ASKING = """
import json, os, urllib.request

def post(url, body):
    headers = {"Authorization": "Bearer " + os.environ["AGL_KEY"], "Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    urllib.request.urlopen(request, timeout=60).read()

assert "AGL_TOKEN" not in os.environ
body = {"model": os.environ["OPENAI_MODEL"], "messages": [{"role": "user", "content": "hi"}]}
for base in (os.environ["OPENAI_BASE_URL"], os.environ["AGL_OPENAI_BASE_URL"]):
    post(base + "/chat/completions", body)
post(os.environ["AGL_EVENT_URL"], {"event_type": "reward", "data": {"value": 0.5}})
"""


async def test_a_program_needs_to_know_of_no_token(
    proxy: LLMProxy, store: InMemoryLightningStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGL_TOKEN", SECRET)
    runner = LitAgentRunner[Any](OtelTracer())
    agent = CommandAgent([sys.executable, "-c", ASKING])
    with runner.run_context(agent=agent, store=store):
        async with asyncio.timeout(60):
            await runner.step({}, resources={"llm": proxy.as_resource()}, mode="train")
    (rollout,) = await store.query_rollouts()
    spans = await store.query_spans(rollout.rollout_id)
    assert rollout.status == "succeeded"
    assert len(llm_calls(spans)) == 2
    assert find_final_reward(spans) == 0.5


async def test_an_attempt_reports_its_reward_with_its_token(
    proxy: LLMProxy, store: InMemoryLightningStore, attempted: AttemptedRollout, http: aiohttp.ClientSession
) -> None:
    ids = attempted.rollout_id, attempted.attempt.attempt_id
    root = proxy.as_resource().endpoint.removesuffix("/v1")
    event = {"event_type": "reward", "data": {"value": 0.5}}
    bearer = {"Authorization": f"Bearer {agent_token(SECRET, *ids)}"}
    async with http.post(f"{root}/api/rollouts/{ids[0]}/attempt/{ids[1]}/events", json=event, headers=bearer) as reply:
        assert reply.status == 200


def test_what_cannot_be_configured_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGL_TOKEN", raising=False)
    with pytest.raises(ConfigurationError, match="pass token="):
        LLMProxy(host="0.0.0.0")
    with pytest.raises(ConfigurationError, match="empty"):
        LLMProxy(token="")
    with pytest.raises(ConfigurationError, match="journal_bytes"):
        LLMProxy(journal_bytes=0)
    monkeypatch.setenv("AGL_TOKEN", SECRET)
    LLMProxy(host="0.0.0.0")
