"""What calls are sampled with is the configuration's affair, by the mode of their rollout, and recorded as sent."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from scripted_backend import ScriptedBackend

from agentlightning.errors import ConfigurationError, StoreUnreachable
from agentlightning.llm_proxy import LLMProxy
from agentlightning.llm_proxy.overrides import SamplingOverrides
from agentlightning.store import InMemoryLightningStore
from agentlightning.types import AttemptedRollout, RolloutMode

OVERRIDES: dict[RolloutMode, dict[str, Any]] = {
    "train": {"temperature": 1.0, "top_k": -1},
    "val": {"temperature": 0.7},
}
CHAT = {"model": "policy", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0.1, "top_p": 0.5}


class CountingStore(InMemoryLightningStore):
    """Counts who asks for rollouts, and refuses if it is told to."""

    asked = 0
    away = False

    async def get_rollout_by_id(self, rollout_id: str) -> Any:
        self.asked += 1
        if self.away:
            raise StoreUnreachable("away")
        return await super().get_rollout_by_id(rollout_id)


@pytest.fixture
async def store() -> AsyncIterator[CountingStore]:
    store = CountingStore()
    yield store
    await store.close()


@pytest.fixture
async def proxy(store: CountingStore, backend: ScriptedBackend) -> AsyncIterator[LLMProxy]:
    proxy = LLMProxy(model_list=[backend.model_config], store=store, sampling_overrides=OVERRIDES)
    await proxy.start()
    yield proxy
    await proxy.stop()


async def call(proxy: LLMProxy, base: str, path: str = "chat/completions", body: dict[str, Any] = CHAT) -> None:
    root = proxy.as_resource().endpoint.removesuffix("/v1")
    async with aiohttp.ClientSession() as session, session.post(f"{root}{base}/{path}", json=body) as answer:
        assert answer.status == 200, await answer.text()


def base_of(attempted: AttemptedRollout) -> str:
    return f"/rollout/{attempted.rollout_id}/attempt/{attempted.attempt.attempt_id}"


@pytest.mark.parametrize(
    ("mode", "sampled"),
    [("train", (1.0, -1, 0.5)), ("val", (0.7, None, 0.5)), ("test", (0.1, None, 0.5)), (None, (0.1, None, 0.5))],
)
async def test_the_rollouts_mode_says_how_calls_are_sampled(
    proxy: LLMProxy, store: CountingStore, backend: ScriptedBackend, mode: RolloutMode | None, sampled: tuple[Any, ...]
) -> None:
    attempted = await store.start_rollout(input={}, mode=mode)
    for _ in range(3):
        await call(proxy, base_of(attempted) + "/v1")
    asked = [(body["temperature"], body.get("top_k"), body["top_p"]) for body in backend.requests]
    assert asked == [sampled] * 3
    assert store.asked == 1


@pytest.mark.parametrize(("mode", "temperature"), [("train", 1.0), ("val", 0.7)])
async def test_addresses_of_v1_name_the_mode_themselves(
    proxy: LLMProxy, store: CountingStore, backend: ScriptedBackend, mode: str, temperature: float
) -> None:
    attempted = await store.start_rollout(input={}, mode="test")
    await call(proxy, f"/proxy{base_of(attempted)}/mode/{mode}/openai/v1")
    assert backend.requests[0]["temperature"] == temperature
    assert store.asked == 0


async def test_calls_of_no_attempt_are_sent_as_they_come(proxy: LLMProxy, backend: ScriptedBackend) -> None:
    await call(proxy, "/v1")
    assert backend.requests[0]["temperature"] == 0.1


@pytest.mark.parametrize("path", ["chat/completions", "messages"])
async def test_the_record_says_what_was_sent_and_what_the_agent_asked_for(
    proxy: LLMProxy, store: CountingStore, path: str
) -> None:
    attempted = await store.start_rollout(input={}, mode="train")
    await call(proxy, base_of(attempted) + "/v1", path, {**CHAT, "max_tokens": 8})
    await proxy.stop()
    (span,) = await store.query_spans(attempted.rollout_id)
    sent, asked = (
        json.loads(str(span.attributes[f"agentlightning.llm_call.{key}"])) for key in ("request", "client_request")
    )
    assert (sent["temperature"], sent["top_k"]) == (1.0, -1)
    assert (asked["temperature"], asked.get("top_k")) == (0.1, None)


async def test_a_store_that_is_away_fails_no_call(
    proxy: LLMProxy, store: CountingStore, backend: ScriptedBackend, caplog: pytest.LogCaptureFixture
) -> None:
    attempted = await store.start_rollout(input={}, mode="train")
    store.away = True
    for _ in range(3):
        await call(proxy, base_of(attempted) + "/v1")
    assert [each.message for each in caplog.records if "its mode is not known" in each.message] != []
    assert store.asked == 1  # no further call waits for it
    assert [body["temperature"] for body in backend.requests] == [0.1] * 3


async def test_a_store_that_was_away_is_asked_again_after_some_seconds(store: CountingStore) -> None:
    now = 0.0
    attempted = await store.start_rollout(input={}, mode="train")
    other = await store.start_rollout(input={}, mode="val")
    overrides = SamplingOverrides(OVERRIDES, lambda: store, lambda: now)
    assert await overrides.of("/v1", attempted.rollout_id) == OVERRIDES["train"]
    store.away = True
    assert await overrides.of("/v1", other.rollout_id) == {}
    store.away = False
    assert await overrides.of("/v1", other.rollout_id) == {}
    assert await overrides.of("/v1", attempted.rollout_id) == OVERRIDES["train"]  # known before
    now = 5.0
    assert await overrides.of("/v1", other.rollout_id) == OVERRIDES["val"]


@pytest.mark.parametrize("set_as", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("asked_as", ["max_tokens", "max_completion_tokens"])
async def test_the_longest_answer_is_one_parameter_under_two_names(
    store: CountingStore, backend: ScriptedBackend, set_as: str, asked_as: str
) -> None:
    proxy = LLMProxy(model_list=[backend.model_config], store=store, sampling_overrides={"train": {set_as: 7}})
    await proxy.start()
    attempted = await store.start_rollout(input={}, mode="train")
    await call(proxy, base_of(attempted) + "/v1", body={**CHAT, asked_as: 5000})
    (sent,) = backend.requests
    assert {key: value for key, value in sent.items() if key.startswith("max_")} == {set_as: 7}
    await proxy.stop()


async def test_nothing_is_asked_where_nothing_is_configured(store: CountingStore) -> None:
    assert await SamplingOverrides({"train": {}}, lambda: store).of("/rollout/r/attempt/a/v1", "r") == {}
    assert store.asked == 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"training": {"temperature": 1.0}}, "the modes of rollouts are"),
        ({"train": {"temperature": 1.0, "stream": True}}, "stream.*not about sampling"),
        ({"train": {"max_tokens": 1, "max_completion_tokens": 1}}, "has both of"),
        ({"val": {"temperature": float("nan")}}, "cannot be sent as JSON"),
    ],
)
def test_what_cannot_be_set_is_refused(overrides: dict[Any, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        LLMProxy(sampling_overrides=overrides)
