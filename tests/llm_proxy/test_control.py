"""Holding calls over HTTP: by v1.0's routes, and by `GatewayControl`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from scripted_backend import ScriptedBackend
from shifted_clock import Clock

from agentlightning.errors import BackendUnreachable, ConfigurationError
from agentlightning.llm_proxy import GatewayControl, LLMProxy
from agentlightning.store import InMemoryLightningStore
from agentlightning.store.tokens import agent_token, runner_token
from agentlightning.types import AttemptedRollout

SECRET = "the-administrator-s-token"
REQUEST: dict[str, Any] = {"model": "policy", "messages": []}


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def url(proxy: LLMProxy) -> str:
    return url_of(proxy)


@pytest.fixture
async def control(url: str) -> AsyncIterator[GatewayControl]:
    async with GatewayControl(url) as control:
        yield control


def url_of(proxy: LLMProxy) -> str:
    return proxy.as_resource().endpoint.removesuffix("/v1")


async def answer(http: aiohttp.ClientSession, method: str, url: str, **options: Any) -> tuple[int, Any]:
    async with http.request(method, url, **options) as reply:
        return reply.status, await reply.json()


async def test_v1_0_s_trainers_pause_and_resume_without_a_body(http: aiohttp.ClientSession, url: str) -> None:
    state = {"retry_after_seconds": 5, "reason": None, "inflight": 0, "held": 0}
    status, paused = await answer(http, "POST", f"{url}/proxy/pause")
    assert status == 200
    assert paused.pop("owners").keys() == {"somebody"}
    assert paused == state | {"paused": True}
    assert (await answer(http, "GET", f"{url}/proxy/state"))[1]["paused"] is True
    assert await answer(http, "POST", f"{url}/proxy/resume") == (
        200,
        state | {"paused": False, "owners": {}, "done": True},
    )


async def test_a_trainer_elsewhere_controls_the_gateway(
    control: GatewayControl, proxy: LLMProxy, backend: ScriptedBackend, http: aiohttp.ClientSession, url: str
) -> None:
    backend.gate.clear()
    calling = asyncio.create_task(answer(http, "POST", f"{url}/v1/chat/completions", json=REQUEST))
    await backend.asked.wait()
    await control.pause("trainer", lease=30.0)
    assert await control.renew("trainer")
    assert not await control.renew("nobody")
    status = await control.hold_status()
    assert (status.paused, status.in_flight, status.held) == (True, 1, 0)
    assert 0 < status.owners["trainer"] <= 30
    assert not await control.drain(0.05)
    backend.gate.set()
    assert await control.drain(60.0)
    assert (await calling)[0] == 200
    assert await control.resume("trainer")
    assert not await control.resume("trainer")
    assert await control.hold_status() == await proxy.hold_status()


async def test_the_block_holds_from_elsewhere_and_keeps_its_lease(
    control: GatewayControl, proxy: LLMProxy, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with control.hold("trainer", lease=30.0) as drained:
        assert drained
        await clock.advance(200)
        assert (await proxy.hold_status()).owners.keys() == {"trainer"}
    assert not (await proxy.hold_status()).paused
    assert not caplog.records


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{",
        b'{"lease": 0}',
        b'{"lease": "soon"}',
        b'{"deadline": -1}',
        b'{"lease": NaN}',
        b'{"lease": [1]}',
        b'{"owner": ""}',
    ],
)
async def test_a_hold_that_means_nothing_is_refused(body: bytes, http: aiohttp.ClientSession, url: str) -> None:
    status, said = await answer(http, "POST", f"{url}/proxy/pause", data=body)
    assert status == 400
    assert said["error"]["code"] == "invalid_request"
    assert (await answer(http, "GET", f"{url}/proxy/state"))[1]["paused"] is False


async def test_the_remote_end_s_refusals_and_absence_are_clear_errors(control: GatewayControl, proxy: LLMProxy) -> None:
    with pytest.raises(ConfigurationError, match="400"):
        await control.pause("trainer", lease=-1.0)
    await proxy.stop()
    with pytest.raises(BackendUnreachable, match="does not answer"):
        await control.pause("trainer")
    with pytest.raises(ConfigurationError, match="async with"):
        await GatewayControl("http://127.0.0.1:9").resume("trainer")


async def test_web_pages_hold_nothing(http: aiohttp.ClientSession, url: str) -> None:
    headers = {"origin": "https://elsewhere.example"}
    status, _ = await answer(http, "POST", f"{url}/proxy/pause", headers=headers)
    assert status == 403
    assert (await answer(http, "GET", f"{url}/proxy/state"))[1]["paused"] is False


@pytest.mark.parametrize("what", ["pause", "renew", "resume", "drain", "state"])
async def test_only_administrators_control_a_gateway_with_tokens(
    what: str,
    http: aiohttp.ClientSession,
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
    backend: ScriptedBackend,
) -> None:
    proxy = LLMProxy(model_list=[backend.model_config], store=store, token=SECRET)
    await proxy.start()
    try:
        method, url = "GET" if what == "state" else "POST", f"{url_of(proxy)}/proxy/{what}"
        agent = agent_token(SECRET, attempted.rollout_id, attempted.attempt.attempt_id)
        for token in (None, "forged", agent, runner_token(SECRET)):
            headers = {"authorization": f"Bearer {token}"} if token else {}
            status, _ = await answer(http, method, url, headers=headers)
            assert status in (401, 403)
        assert not (await proxy.hold_status()).paused
        status, _ = await answer(http, method, url, headers={"authorization": f"Bearer {SECRET}", "host": "proxy:80"})
        assert status == 200
        async with GatewayControl(url_of(proxy), token=SECRET) as control, control.hold():
            assert (await proxy.hold_status()).paused
    finally:
        await proxy.stop()
