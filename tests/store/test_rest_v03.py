"""v0.3's routes answer as they did, but for its status codes of errors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from rest import Rest, rest_of, wire_span

from agentlightning.store import InMemoryLightningStore, LightningStore
from tests.store.serving import served


@pytest.fixture
async def store() -> AsyncIterator[InMemoryLightningStore]:
    store = InMemoryLightningStore()
    yield store
    await store.close()


@pytest.fixture
async def rest(store: LightningStore) -> AsyncIterator[Rest]:
    async with served(store) as url, rest_of(url) as rest:
        yield rest


async def enqueued(rest: Rest, *inputs: Any) -> list[str]:
    reply = await rest.post("/queues/rollouts/enqueue", {"rollouts": [{"input": value} for value in inputs]})
    assert reply.status == 201
    return [rollout["rollout_id"] for rollout in reply.body]


async def test_health_and_statistics(rest: Rest) -> None:
    assert (await rest.get("/health"))[:2] == (200, {"status": "ok"})
    statistics = await rest.get("/statistics")
    assert (statistics.status, statistics.body["total_rollouts"]) == (200, 0)


async def test_queue(rest: Rest) -> None:
    first, second = await enqueued(rest, {"task": 1}, {"task": 2})
    assert (await rest.post("/queues/rollouts/enqueue", {"rollouts": []}))[:2] == (201, [])
    assert (await rest.post("/queues/rollouts/enqueue", {})).status == 422
    assert (await rest.post("/queues/rollouts/dequeue", {"limit": 0}))[:2] == (200, [])
    claimed = await rest.post("/queues/rollouts/dequeue")
    assert claimed.status == 200
    assert [claim["rollout_id"] for claim in claimed.body] == [first]
    assert claimed.body[0]["attempt"]["sequence_id"] == 1
    claimed = await rest.post("/queues/rollouts/dequeue", {"limit": 5, "worker_id": "w"})
    assert [(claim["rollout_id"], claim["attempt"]["worker_id"]) for claim in claimed.body] == [(second, "w")]
    assert (await rest.post("/queues/rollouts/dequeue"))[:2] == (200, [])


async def test_rollouts(rest: Rest) -> None:
    made = await rest.post("/rollouts", {"input": {"task": 1}, "mode": "val", "unknown": "key", "worker_id": "w"})
    assert (made.status, made.body["status"], made.body["mode"]) == (201, "preparing", "val")
    rollout_id = made.body["rollout_id"]
    assert (await rest.get(f"/rollouts/{rollout_id}"))[:2] == (200, made.body)
    changed = await rest.post(f"/rollouts/{rollout_id}", {"mode": None, "metadata": {"a": 1}})
    assert (changed.status, changed.body["mode"], changed.body["metadata"]) == (200, None, {"a": 1})
    assert changed.body["input"] == {"task": 1}
    for mandatory in ("status", "config"):
        assert (await rest.post(f"/rollouts/{rollout_id}", {mandatory: None})).status == 422


async def test_attempts(rest: Rest) -> None:
    (rollout_id,) = await enqueued(rest, 1)
    assert (await rest.get(f"/rollouts/{rollout_id}/attempts/latest"))[:2] == (200, None)
    started = await rest.post(f"/rollouts/{rollout_id}/attempts")
    assert (started.status, started.body["attempt"]["sequence_id"]) == (201, 1)
    again = await rest.post(f"/rollouts/{rollout_id}/attempts", {"worker_id": "w"})
    attempt_id = again.body["attempt"]["attempt_id"]
    attempts = await rest.get(f"/rollouts/{rollout_id}/attempts")
    assert [attempt["sequence_id"] for attempt in attempts.body["items"]] == [1, 2]
    attempts = await rest.get(f"/rollouts/{rollout_id}/attempts?sort_order=desc&limit=1")
    assert [attempt["sequence_id"] for attempt in attempts.body["items"]] == [2]
    searched = await rest.post(f"/rollouts/{rollout_id}/attempts/search", {"sort_order": "desc", "limit": 1})
    assert searched.body == attempts.body
    assert (await rest.get(f"/rollouts/{rollout_id}/attempts/latest")).body["attempt_id"] == attempt_id
    ended = await rest.post(f"/rollouts/{rollout_id}/attempts/latest", {"status": "succeeded"})
    assert (ended.status, ended.body["attempt_id"], ended.body["status"]) == (200, attempt_id, "succeeded")
    assert (await rest.get("/rollouts/nobody/attempts"))[:2] == (
        200,
        {"items": [], "limit": -1, "offset": 0, "total": 0},
    )


async def test_queries_by_query_string_and_by_body_give_the_same_pages(rest: Rest) -> None:
    ids = await enqueued(rest, 1, 2, 3)
    await rest.post("/queues/rollouts/dequeue", {"worker_id": "w-1"})
    for path, query, body in (
        ("/rollouts", "status_in=queuing&status_in=preparing&sort_by=start_time&sort_order=desc", None),
        ("/rollouts", f"rollout_id_in={ids[0]}&rollout_id_in={ids[2]}", {"rollout_id_in": [ids[0], ids[2]]}),
        ("/rollouts", "limit=2&offset=1", {"limit": 2, "offset": 1}),
        ("/rollouts", "limit=-1", {"limit": -1}),
        (
            "/rollouts",
            f"status_in=preparing&rollout_id_contains={ids[1]}&filter_logic=or",
            {"status_in": ["preparing"], "rollout_id_contains": ids[1], "filter_logic": "or"},
        ),
        ("/workers", "status_in=busy&worker_id_contains=w", {"status_in": ["busy"], "worker_id_contains": "w"}),
        ("/resources", "resources_id_contains=none", {"resources_id_contains": "none"}),
    ):
        body = body or {"status_in": ["queuing", "preparing"], "sort_by": "start_time", "sort_order": "desc"}
        got, searched = await rest.get(f"{path}?{query}"), await rest.post(f"{path}/search", body)
        assert got.status == searched.status == 200
        assert got.body == searched.body
    assert (await rest.get("/rollouts")).body["total"] == 3


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=-2", "offset=-1", "sort_by=input", "sort_order=up", "status_in=x", "limit=many"]
)
async def test_wrong_queries_are_refused(rest: Rest, query: str) -> None:
    reply = await rest.get(f"/rollouts?{query}")
    assert reply.status == 422
    assert reply.body["error"] == "InvalidValue"
    assert query.split("=")[0].split("_")[0] in reply.body["detail"]


async def test_resources(rest: Rest) -> None:
    assert (await rest.get("/resources/latest"))[:2] == (200, None)
    named = {"prompt": {"resource_type": "prompt_template", "template": "{x}", "engine": "f-string"}}
    made = await rest.post("/resources", named)
    assert (made.status, made.body["version"], made.body["resources"]) == (201, 1, named)
    resources_id = made.body["resources_id"]
    assert (await rest.get("/resources/latest")).body == made.body
    assert (await rest.get(f"/resources/{resources_id}")).body == made.body
    assert (await rest.get("/resources/nobody"))[:2] == (200, None)
    assert (await rest.post(f"/resources/{resources_id}", named)).body["version"] == 2
    assert (await rest.post("/resources/of-my-own", named)).status == 200
    assert (await rest.get("/resources?sort_by=resources_id")).body["total"] == 2
    assert (await rest.post("/resources", {"x": {"resource_type": "sword"}})).status == 422


async def test_workers(rest: Rest) -> None:
    assert (await rest.get("/workers/nobody"))[:2] == (200, None)
    assert (await rest.post("/workers/w")).body["status"] == "unknown"
    assert (await rest.post("/workers/w", {"heartbeat_stats": {"cpu": 1}})).body["heartbeat_stats"] == {"cpu": 1}
    assert (await rest.post("/workers/w", {"heartbeat_stats": None})).status == 422
    assert (await rest.get("/workers/w")).body["heartbeat_stats"] == {"cpu": 1}


async def test_spans(rest: Rest) -> None:
    claim = (await rest.post("/rollouts", {"input": 1})).body
    rollout_id, attempt_id = claim["rollout_id"], claim["attempt"]["attempt_id"]
    span = wire_span(rollout_id, attempt_id, extra_of_the_producer=[1])
    written = await rest.post("/spans", span)
    assert (written.status, written.body["extra_of_the_producer"]) == (201, [1])
    assert (await rest.post("/spans", span))[:2] == (201, None)
    ids = {"rollout_id": rollout_id, "attempt_id": attempt_id}
    assert (await rest.post("/spans/next", ids))[:2] == (200, {"sequence_id": 1})
    found = await rest.get(f"/spans?rollout_id={rollout_id}&attempt_id=latest&name_contains=st")
    assert [item["span_id"] for item in found.body["items"]] == [span["span_id"]]
    search = {"rollout_id": rollout_id, "attempt_id": "latest", "name_contains": "st"}
    assert (await rest.post("/spans/search", search)).body == found.body
    assert (await rest.get("/spans")).status == 422


async def test_waits(rest: Rest) -> None:
    (rollout_id,) = await enqueued(rest, 1)
    assert (await rest.post("/waits/rollouts", {"rollout_ids": [rollout_id], "timeout": 0.0}))[:2] == (200, [])
    await rest.post(f"/rollouts/{rollout_id}", {"status": "cancelled"})
    done = await rest.post("/waits/rollouts", {"rollout_ids": [rollout_id]})
    assert [rollout["status"] for rollout in done.body] == ["cancelled"]


@pytest.mark.parametrize(
    ("verb", "path", "body"),
    [
        ("GET", "/rollouts/nobody", None),
        ("POST", "/rollouts/nobody", {"mode": "val"}),
        ("POST", "/rollouts/nobody/attempts", None),
        ("POST", "/rollouts/nobody/attempts/latest", {"status": "failed"}),
        ("POST", "/spans", wire_span("nobody", "nobody")),
        ("POST", "/spans/next", {"rollout_id": "nobody", "attempt_id": "nobody"}),
        ("GET", "/nothing", None),
        ("POST", "/rollouts/nobody/attempts/latest/further", {}),
    ],
)
async def test_what_does_not_exist_is_404(rest: Rest, verb: str, path: str, body: Any) -> None:
    reply = await rest(verb, path, body)
    assert reply.status == 404
    assert reply.body.keys() == {"detail", "error"}


@pytest.mark.parametrize(
    ("verb", "path", "allowed"),
    [
        ("DELETE", "/rollouts/r", "GET, POST"),
        ("PUT", "/rollouts", "GET, POST"),
        ("GET", "/queues/rollouts/enqueue", "POST"),
        ("POST", "/statistics", "GET"),
        ("POST", "/health", "GET"),
        ("OPTIONS", "/workers", "GET"),
    ],
)
async def test_a_wrong_verb_is_405_and_says_the_right_ones(rest: Rest, verb: str, path: str, allowed: str) -> None:
    reply = await rest(verb, path)
    assert (reply.status, reply.headers["allow"]) == (405, allowed)


async def test_a_conflict_is_409(rest: Rest) -> None:
    claim = (await rest.post("/rollouts", {"input": 1})).body
    path = f"/rollouts/{claim['rollout_id']}/attempts/{claim['attempt']['attempt_id']}"
    await rest.post(f"/rollouts/{claim['rollout_id']}", {"status": "cancelled"})
    reply = await rest.post(path, {"status": "succeeded"})
    assert (reply.status, reply.body["error"]) == (409, "LeaseLost")
