"""A server with a tracker counts what it is asked, by operation and not by id, and answers Prometheus."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

import agentlightning as agl
from agentlightning.errors import NotFound
from agentlightning.metrics import ConsoleMetricsBackend, MetricsBackend, MultiMetricsBackend, PrometheusMetricsBackend
from agentlightning.store.tokens import agent_token, runner_token
from tests.metrics.exposed import samples


@asynccontextmanager
async def served(tracker: MetricsBackend | None, token: str | None = None) -> AsyncIterator[agl.LightningStoreServer]:
    store = agl.InMemoryLightningStore()
    server = agl.LightningStoreServer(store, port=0, tracker=tracker, token=token)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
        await store.close()


async def scrape(server: agl.LightningStoreServer, path: str = "/v1/prometheus", token: str = "") -> tuple[int, str]:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    async with aiohttp.ClientSession() as session, session.get(server.endpoint + path, headers=headers) as answer:
        return answer.status, await answer.text()


async def finish_one(client: agl.LightningStore, status: agl.AttemptStatus) -> str:
    await client.enqueue_rollout("task", "train")
    claimed = await client.dequeue_rollout(worker_id="w")
    assert claimed is not None
    await client.update_attempt(claimed.rollout_id, claimed.attempt.attempt_id, status=status)
    return claimed.rollout_id


async def test_requests_operations_and_rollouts_are_counted() -> None:
    backend = PrometheusMetricsBackend()
    async with served(MultiMetricsBackend([ConsoleMetricsBackend(), backend])) as server:
        async with agl.LightningStoreClient(server.endpoint) as client:
            for status in ("succeeded", "succeeded", "failed"):
                await finish_one(client, status)
            with pytest.raises(NotFound):
                await client.update_rollout("no-such", status="failed")
        for _ in range(2):
            status, text = await scrape(server)
            assert (status, "agl_http_total" in text) == (200, True)
        assert (await scrape(server, "/v1/prometheus/"))[0] == 200
        assert (await scrape(server, "/nowhere/17"))[0] == 404
    counted = samples(backend)
    expected = {
        "agl_http_total method=POST path=/v1/agl/queues/rollouts/enqueue status=201": 3,
        "agl_store_total operation=enqueue_many_rollouts status=201": 3,
        "agl_store_latency_count operation=dequeue_many_rollouts status=200": 3,
        "agl_http_total method=POST path=/v1/agl/rollouts/{rollout_id}/attempts/{attempt_id} status=200": 3,
        "agl_store_total operation=update_rollout status=404": 1,
        "agl_http_total method=GET path=other status=404": 1,
        "agl_rollouts_total mode=train status=succeeded": 2,
        "agl_rollouts_total mode=train status=failed": 1,
        "agl_rollouts_duration_count mode=train status=succeeded": 2,
    }
    assert {name: counted.get(name) for name in expected} == expected
    assert not any("prometheus" in name for name in counted)


async def test_metrics_are_for_those_who_may_read_the_store() -> None:
    token = "the-token"
    async with served(PrometheusMetricsBackend(), token) as server:
        assert (await scrape(server))[0] == 401
        assert (await scrape(server, token=agent_token(token, "ro-1", "at-1")))[0] == 403
        assert (await scrape(server, token=runner_token(token)))[0] == 200


async def test_without_prometheus_there_is_nothing_to_read() -> None:
    for tracker in (None, ConsoleMetricsBackend()):
        async with served(tracker) as server:
            assert (await scrape(server))[0] == 404
