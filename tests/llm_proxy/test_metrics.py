"""What a gateway counts, how it says so, and what it logs."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import re
import sys
from bisect import bisect_left
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import pytest
from hypothesis import given, strategies as st
from scripted_backend import ScriptedBackend, answer
from shifted_clock import until
from starlette.responses import JSONResponse
from streams import ANSWER, DONE, USAGE, Stream, chunk

from agentlightning.llm_proxy import LLMProxy
from agentlightning.llm_proxy.exposition import Exposition, gauges_of
from agentlightning.llm_proxy.hold import Gate
from agentlightning.llm_proxy.journal import Journal
from agentlightning.llm_proxy.metrics import SECONDS, Histogram, Meter, Series, tokens_in
from agentlightning.llm_proxy.reply import Reply
from agentlightning.llm_proxy.shipper import Shipper
from agentlightning.llm_proxy.watch import Watch
from agentlightning.store import InMemoryLightningStore
from agentlightning.types import AttemptedRollout

needs_prometheus = pytest.mark.skipif(
    importlib.util.find_spec("prometheus_client") is None, reason="the extra `prometheus` is not installed"
)
CHAT = "/chat/completions"
REQUEST: dict[str, Any] = {"model": "policy", "messages": []}


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def url(proxy: LLMProxy) -> str:
    return proxy.as_resource().endpoint.removesuffix("/v1")


@pytest.fixture
def endpoint(proxy: LLMProxy, attempted: AttemptedRollout) -> str:
    return proxy.as_resource(attempted.rollout_id, attempted.attempt.attempt_id).endpoint


async def post(http: aiohttp.ClientSession, url: str, **request: Any) -> int:
    async with http.post(url + CHAT, json=REQUEST | request) as reply:
        await reply.read()
        return reply.status


async def samples(http: aiohttp.ClientSession, url: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """All metrics, as Prometheus reads them."""
    from prometheus_client.parser import text_string_to_metric_families

    async with http.get(f"{url}/metrics") as reply:
        assert reply.status == 200
        text = await reply.text()
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in found}


def labels(model: str = "policy", path: str = CHAT, **more: str) -> frozenset[tuple[str, str]]:
    return frozenset({"model": model, "path": path, **more}.items())


@needs_prometheus
async def test_calls_are_counted_by_model_path_and_status(
    http: aiohttp.ClientSession, url: str, endpoint: str, backend: ScriptedBackend
) -> None:
    assert await post(http, endpoint) == 200
    assert await post(http, f"{url}/v1") == 200
    backend.script = lambda _: Stream([*ANSWER, USAGE, DONE]).response()
    assert await post(http, endpoint, stream=True) == 200
    backend.script = lambda _: JSONResponse({"error": {"message": "no"}}, 400)
    assert await post(http, endpoint) == 400
    assert await post(http, endpoint, model="made up") == 404
    seen = await samples(http, url)
    assert seen["agl_gateway_requests_total", labels(status="200")] == 3
    assert seen["agl_gateway_requests_total", labels(status="400")] == 1
    assert seen["agl_gateway_requests_total", labels(model="unknown", status="404")] == 1
    assert seen["agl_gateway_request_seconds_count", labels()] == 4
    assert seen["agl_gateway_time_to_first_token_seconds_count", labels()] == 1
    assert seen["agl_gateway_prompt_tokens_total", labels()] == 6
    assert seen["agl_gateway_completion_tokens_total", labels()] == 6


@needs_prometheus
async def test_a_request_that_is_none_counts_as_refused(http: aiohttp.ClientSession, url: str, endpoint: str) -> None:
    async with http.post(f"{endpoint}/messages", data=b"[]") as reply:
        assert reply.status == 400
    assert (await samples(http, url))["agl_gateway_requests_total", labels("unknown", "/messages", status="400")] == 1


@needs_prometheus
async def test_what_is_under_way_is_said(
    http: aiohttp.ClientSession, url: str, endpoint: str, backend: ScriptedBackend, proxy: LLMProxy
) -> None:
    nothing = frozenset[tuple[str, str]]()
    backend.gate.clear()
    flying = asyncio.create_task(post(http, endpoint))
    await backend.asked.wait()
    await proxy.pause("trainer")
    holding = asyncio.create_task(post(http, endpoint))
    while not (await proxy.hold_status()).held:  # noqa: ASYNC110  # it tells nobody
        await asyncio.sleep(0.002)
    seen = await samples(http, url)
    assert seen["agl_gateway_in_flight", nothing] == 1
    assert seen["agl_gateway_held", nothing] == 1
    assert seen["agl_gateway_paused", nothing] == 1
    backend.gate.set()
    await proxy.resume("trainer")
    assert [await flying, await holding] == [200, 200]
    seen = await samples(http, url)
    assert seen["agl_gateway_in_flight", nothing] == seen["agl_gateway_held", nothing] == 0
    assert seen["agl_gateway_paused", nothing] == 0


@needs_prometheus
async def test_what_waits_for_the_store_is_said(
    http: aiohttp.ClientSession, url: str, endpoint: str, proxy: LLMProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any) -> Any:
        raise ConnectionError("the store is away")

    store = proxy.get_store()
    with monkeypatch.context() as away:
        away.setattr(store, "add_many_spans", refuse)
        await post(http, endpoint)
        seen = await samples(http, url)
        assert seen["agl_gateway_capture_queue", frozenset()] == 1
        assert seen["agl_gateway_spill_bytes", frozenset()] > 0
    async with http.post(endpoint.removesuffix("/v1") + "/flush", params={"deadline": 30}) as flushed:
        assert flushed.status == 200
    seen = await samples(http, url)
    assert seen["agl_gateway_capture_queue", frozenset()] == 0
    assert seen["agl_gateway_lost_calls", frozenset()] == seen["agl_gateway_journal_full", frozenset()] == 0


async def test_without_the_extra_the_answer_names_it(
    http: aiohttp.ClientSession, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("prometheus_client")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    async with http.get(f"{url}/metrics") as reply:
        assert reply.status == 501
        assert "[prometheus]" in (await reply.json())["error"]["message"]


async def test_good_calls_are_not_logged_and_failed_ones_in_one_line_with_their_rollout(
    http: aiohttp.ClientSession,
    endpoint: str,
    backend: ScriptedBackend,
    attempted: AttemptedRollout,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "agentlightning"):
        await post(http, endpoint)
        assert not caplog.records
        backend.script = lambda _: JSONResponse({"error": {"message": "out of paper"}}, 400)
        await post(http, endpoint)
        backend.script = lambda _: Stream(ANSWER[:1], error=RuntimeError("broken")).response()
        await post(http, endpoint, stream=True)
        await until(lambda: len(caplog.records) >= 2)
    ours = [record for record in caplog.records if record.name == "agentlightning.llm_proxy.watch"]
    assert [(record.levelname, getattr(record, "status", None)) for record in ours] == [
        ("WARNING", 400),
        ("WARNING", 502),
    ]
    assert {getattr(record, "rollout_id", None) for record in ours} == {attempted.rollout_id}
    assert "out of paper" in ours[0].message
    assert attempted.attempt.attempt_id in ours[0].message


def test_retries_of_the_gateway_are_counted() -> None:
    series = Series()
    Watch(series, CHAT, ("r", "a")).answered(Reply(200, b"{}", retries=2))
    Watch(series, CHAT, ("r", "a")).answered(Reply(503, b"{}", retries=1))
    assert series.retries == 3
    assert series.statuses == {200: 1, 503: 1}


@given(values=st.lists(st.floats(0, 1000)))
def test_a_histogram_counts_each_value_in_its_bucket(values: list[float]) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    assert sum(histogram.counts) == len(values)
    assert histogram.total == pytest.approx(sum(values))
    for number, bound in enumerate(SECONDS):
        assert sum(histogram.counts[: number + 1]) == sum(value <= bound for value in values)
    assert histogram.counts[-1] == sum(bisect_left(SECONDS, value) == len(SECONDS) for value in values)


USAGES = st.fixed_dictionaries(
    {"prompt_tokens": st.integers(0, 10**6), "completion_tokens": st.integers(0, 10**6)},
    optional={"total_tokens": st.integers(0, 9), "prompt_tokens_details": st.just({"cached_tokens": 3})},
)


@given(usage=USAGES, text=st.text() | st.just('"prompt_tokens": 7, "completion_tokens": 8'), spaced=st.booleans())
def test_the_usage_of_an_answer_is_found_whatever_its_text_says(usage: Any, text: str, spaced: bool) -> None:
    reply = answer({"model": "m"}, 1) | {"usage": usage, "prompt_token_ids": [1, 2]}
    reply["choices"][0]["message"]["content"] = text
    body = json.dumps(reply, separators=None if spaced else (",", ":")).encode()
    expected = usage["prompt_tokens"], usage["completion_tokens"]
    assert tokens_in([body]) == expected
    event = b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n"
    pieces = [chunk({"content": text})] * 20 + [event[:9], event[9:], DONE]
    assert tokens_in(pieces) == expected


@given(body=st.binary())
def test_an_answer_without_usage_has_no_tokens(body: bytes) -> None:
    assert tokens_in([body]) == (0, 0)
    assert tokens_in([]) == (0, 0)


@needs_prometheus
async def test_gateways_of_one_process_share_no_metrics() -> None:
    from prometheus_client import REGISTRY

    first, second = Meter(), Meter()
    first.of("m", CHAT).count(200, 0.1, (), 0)
    families = {family.name: family for family in Exposition(second, Gate()).collect()}
    assert not families["agl_gateway_requests"].samples
    assert not [family for family in REGISTRY.collect() if family.name.startswith("agl_")]


@needs_prometheus
def test_every_metric_is_on_the_page() -> None:
    async def names() -> list[str]:
        store = InMemoryLightningStore()
        with TemporaryDirectory() as directory:
            gauges = gauges_of(Shipper(Journal(Path(directory)), lambda: store))
            families = list(Exposition(Meter(), Gate(), gauges).collect())
        await store.close()
        return [family.name + ("_total" if family.type == "counter" else "") for family in families]

    page = (Path(__file__).parents[2] / "docs" / "gateway.md").read_text("utf-8").split("## Metrics")[1]
    shown = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)))
    assert shown == [name.removeprefix("agl_gateway_") for name in asyncio.run(names())]
