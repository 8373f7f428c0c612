"""Agents without a tracer report over HTTP, and speak to v1.0's addresses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
import pytest
from scripted_backend import ScriptedBackend

from agentlightning.adapter import llm_calls
from agentlightning.emitter import find_final_reward, get_message_value, get_rewards_from_span
from agentlightning.llm_proxy import LLMProxy, flush_captures
from agentlightning.store import InMemoryLightningStore
from agentlightning.types import AttemptedRollout, Span


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def root_of(proxy: LLMProxy) -> str:
    return proxy.as_resource().endpoint.removesuffix("/v1")


def events_of(proxy: LLMProxy, attempted: AttemptedRollout) -> str:
    ids = f"{attempted.rollout_id}/attempt/{attempted.attempt.attempt_id}"
    return f"{root_of(proxy)}/api/rollouts/{ids}/events"


async def spans_of(proxy: LLMProxy, store: InMemoryLightningStore, attempted: AttemptedRollout) -> list[Span]:
    await flush_captures({"llm": proxy.as_resource()}, attempted.rollout_id, attempted.attempt.attempt_id)
    return list(await store.query_spans(attempted.rollout_id))


async def test_events_become_spans_in_their_order(
    proxy: LLMProxy, store: InMemoryLightningStore, attempted: AttemptedRollout, http: aiohttp.ClientSession
) -> None:
    data: list[dict[str, Any]] = [
        {"event_type": "message", "data": {"message": "thinking", "step": 1}},
        {"event_type": "reward", "data": {"value": 0.5, "source": "grader", "reason": None}},
        {"event_type": "reward", "data": {"value": {"style": 1, "right": 0.25}, "primary_key": "right"}},
        {"event_type": "checkpoint", "data": {"files": ["a", "b"], "size": {"bytes": 3}}},
        {"event_type": "done"},
    ]
    for event in data:
        async with http.post(events_of(proxy, attempted), json=event) as reply:
            answer = await reply.json()
            assert reply.status == 200
        assert answer["data"] == event.get("data", {})
        assert (answer["event_type"], answer["rollout_id"]) == (event["event_type"], attempted.rollout_id)
    message, reward, rewards, checkpoint, done = await spans_of(proxy, store, attempted)
    assert get_message_value(message) == "thinking"
    assert message.attributes["agentlightning.event.data.step"] == 1
    assert find_final_reward([message, reward]) == 0.5
    assert reward.attributes["agentlightning.event.data.source"] == "grader"
    assert [(each.name, each.value) for each in get_rewards_from_span(rewards)] == [("right", 0.25), ("style", 1.0)]
    assert checkpoint.attributes["agentlightning.event.data.files"] == ["a", "b"]
    assert checkpoint.attributes["agentlightning.event.data.size.bytes"] == 3
    assert done.attributes == {"agentlightning.event.type": "done"}
    assert all(span.status.status_code == "OK" for span in (message, reward, rewards, checkpoint, done))


@pytest.mark.parametrize(
    "body",
    [
        "reward",
        "[]",
        '{"data": {}}',
        '{"event_type": "", "data": {}}',
        '{"event_type": "reward"}',
        '{"event_type": "reward", "data": {"value": "good"}}',
        '{"event_type": "reward", "data": {"value": NaN}}',
        '{"event_type": "reward", "data": {"value": 1e999}}',
        '{"event_type": "reward", "data": {"value": {"a": 1}}}',
        '{"event_type": "reward", "data": {"value": {"a": 1}, "primary_key": []}}',
        '{"event_type": "note", "data": [1]}',
    ],
)
async def test_what_is_no_event_is_refused(
    proxy: LLMProxy,
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
    http: aiohttp.ClientSession,
    body: str,
) -> None:
    async with http.post(events_of(proxy, attempted), data=body) as reply:
        assert (reply.status, (await reply.json())["error"]["code"]) == (422, "invalid_event")
    assert await spans_of(proxy, store, attempted) == []


async def test_events_of_an_attempt_that_is_not_there_are_refused(
    proxy: LLMProxy, attempted: AttemptedRollout, http: aiohttp.ClientSession
) -> None:
    for rollout_id in (attempted.rollout_id, "none"):
        url = f"{root_of(proxy)}/api/rollouts/{rollout_id}/attempt/none/events"
        async with http.post(url, json={"event_type": "reward", "data": {"value": 1}}) as reply:
            assert reply.status == 404


async def test_an_event_is_safe_while_the_store_is_away(http: aiohttp.ClientSession) -> None:
    class Away(InMemoryLightningStore):
        failures = 2

        async def get_many_span_sequence_ids(self, rollout_attempt_ids: Sequence[tuple[str, str]]) -> Sequence[int]:
            if self.failures:
                self.failures -= 1
                raise ConnectionError("the store is away")
            return await super().get_many_span_sequence_ids(rollout_attempt_ids)

    store = Away()
    attempted = await store.start_rollout(input={})
    proxy = LLMProxy(model_list=[{"model_name": "m", "litellm_params": {"model": "m", "api_base": "x"}}], store=store)
    await proxy.start()
    async with http.post(events_of(proxy, attempted), json={"event_type": "reward", "data": {"value": 1}}) as reply:
        assert reply.status == 200
    assert find_final_reward(await spans_of(proxy, store, attempted)) == 1.0
    await proxy.stop()


async def test_an_event_comes_behind_the_call_it_is_about(
    proxy: LLMProxy, store: InMemoryLightningStore, attempted: AttemptedRollout, http: aiohttp.ClientSession
) -> None:
    endpoint = proxy.as_resource(attempted.rollout_id, attempted.attempt.attempt_id).endpoint
    for number in range(3):
        async with http.post(f"{endpoint}/chat/completions", json={"model": "policy"}) as reply:
            await reply.read()
        async with http.post(
            events_of(proxy, attempted), json={"event_type": "reward", "data": {"value": number}}
        ) as reply:
            await reply.read()
    spans = await spans_of(proxy, store, attempted)
    assert [span.name for span in spans] == ["agentlightning.llm_call", "agentlightning.annotation"] * 3
    assert [find_final_reward([span]) for span in spans[1::2]] == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("mode", ["train", "val"])
async def test_calls_to_v1_addresses_are_recorded_whatever_model_they_name(
    proxy: LLMProxy,
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
    backend: ScriptedBackend,
    http: aiohttp.ClientSession,
    mode: str,
) -> None:
    ids = f"rollout/{attempted.rollout_id}/attempt/{attempted.attempt.attempt_id}"
    base = f"{root_of(proxy)}/proxy/{ids}/mode/{mode}/openai/v1"
    for payload in ({"model": "anything"}, {"model": "policy"}, {}):
        async with http.post(f"{base}/chat/completions", json=payload) as reply:
            assert reply.status == 200
    async with http.get(f"{base}/files") as reply:
        assert (await reply.json())["path"] == "/v1/files"
    assert len(llm_calls(await spans_of(proxy, store, attempted))) == 3
    assert {payload["model"] for payload in backend.requests} == {"org/net"}


async def test_v1_knows_two_modes(proxy: LLMProxy, http: aiohttp.ClientSession) -> None:
    url = f"{root_of(proxy)}/proxy/rollout/r/attempt/a/mode/test/openai/v1/chat/completions"
    async with http.post(url, json={"model": "policy"}) as reply:
        assert reply.status == 404
