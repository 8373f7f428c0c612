"""Whatever a request holds, the server answers it with a refusal or an answer, never with a fault."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from rest import Rest, rest_of, wire_span

from agentlightning.errors import NotFound
from agentlightning.store import InMemoryLightningStore, LightningStoreThreaded
from agentlightning.store.base import ROUTES
from agentlightning.store.operations import Operation
from tests.store.serving import served

JUNK_BODIES = {
    "no json": b"{",
    "not utf-8": b'{"input": "\xff\xfe"}',
    "an array": b"[]",
    "a number": b"17",
    "a text": b'"text"',
    "nested": b'{"input": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    "nested in a span": b'{"attributes": ' + b'{"a":' * 150 + b"1" + b"}" * 150 + b"}",
    "a huge integer": b'{"limit": 1' + b"0" * 4000 + b"}",
    "a huger integer": b'{"limit": 1' + b"0" * 9000 + b"}",
    "a huge time": b'{"wait": 1e999, "timeout": 1e999, "last_heartbeat_time": 1e999}',
    "not a number": b'{"wait": NaN, "timeout": NaN, "input": NaN, "last_heartbeat_time": NaN}',
    "infinite": b'{"input": [Infinity], "wait": -Infinity, "timeout": Infinity}',
    "half a surrogate pair": b'{"input": "\\ud800", "worker_id": "\\udfff"}',
    "nul": b'{"worker_id": "\\u0000", "input": "\\u0000", "rollout_id": "\\u0000", "sort_by": "\\u0000"}',
    "nulls": b'{"limit": null, "offset": null, "rollout_ids": null, "spans": null, "input": null, "wait": null}',
    "wrong types": b'{"limit": "x", "offset": {}, "rollout_ids": 5, "spans": [[]], "rollouts": [1], "held": [1]}',
    "dunder": b'{"__class__": "x", "self": 1, "input": {"__proto__": {}}}',
    "empty names": b'{"": "", "sort_by": ""}',
}
IDS = [
    "a%2Fb",
    "%00",
    "%ED%A0%80",
    "%FF%FE",
    "..",
    "%2E%2E",
    "%25",
    "%F0%9F%A6%99",
    "'%3B--",
    "x" * 4000,
    "null",
    "%20",
]


@pytest.fixture
async def rest() -> AsyncIterator[Rest]:
    store = InMemoryLightningStore()
    async with served(store) as url, rest_of(url) as rest:
        yield rest
    await store.close()


def name_of(route: Operation) -> str:
    return f"{route.verb} {route.path}"


@pytest.mark.parametrize("route", ROUTES, ids=name_of)
async def test_junk_is_refused_without_a_fault(rest: Rest, route: Operation) -> None:
    path = route.path.format(**{name: "some-id" for name in route.path_parameters})
    for kind, body in JUNK_BODIES.items():
        reply = await asyncio.wait_for(rest(route.verb, path, raw=body), 30)
        assert reply.status < 500, kind
        if reply.status >= 400:
            assert reply.body.keys() == {"detail", "error"}, kind
            assert "Traceback" not in reply.body["detail"]


@pytest.mark.parametrize("route", [route for route in ROUTES if route.path_parameters], ids=name_of)
async def test_any_text_may_stand_where_an_id_does(rest: Rest, route: Operation) -> None:
    for value in IDS:
        path = route.path.format(**{name: value for name in route.path_parameters})
        for body in (b"", b"{}", b'{"input": 1}'):
            reply = await rest(route.verb, path, raw=body)
            assert reply.status < 500, value


async def test_ids_with_slashes_percents_and_letters_of_any_language_are_found_again(rest: Rest) -> None:
    prompt = {"resource_type": "prompt_template", "template": "", "engine": "jinja"}
    for segment, resources_id in (
        ("a%2Fb", "a/b"),
        ("%25", "%"),
        ("%F0%9F%A6%99", "\N{LLAMA}"),
        ("latest%20", "latest "),
    ):
        assert (await rest.post(f"/resources/{segment}", {"p": prompt})).body["resources_id"] == resources_id
        assert (await rest.get(f"/resources/{segment}")).body["resources_id"] == resources_id


@pytest.mark.parametrize(
    "query",
    [
        "limit=1&limit=x",
        "limit=" + "9" * 400,
        "limit=",
        "offset=1e3",
        "sort_by=%00",
        "%00=%00",
        "status_in=",
        "=",
        "&&",
        "%",
    ],
)
async def test_junk_in_a_query_is_refused_without_a_fault(rest: Rest, query: str) -> None:
    for path in ("/rollouts", "/workers", "/resources", "/rollouts/x/attempts"):
        assert (await rest.get(f"{path}?{query}")).status < 500
    assert (await rest.get(f"/spans?rollout_id=x&{query}")).status < 500


@pytest.mark.parametrize(
    "fields",
    [
        {"start_time": "soon"},
        {"start_time": 1e308},
        {"sequence_id": 10**30},
        {"sequence_id": True},
        {"events": [1]},
        {"links": [{}]},
        {"context": []},
        {"status": {"status_code": 5}},
        {"span_id": "\0"},
        {"attributes": {"x": [[[[]]]]}},
        {"attributes": {"agentlightning.reward": "\0"}},
    ],
    ids=str,
)
async def test_a_malformed_span_is_refused_or_kept_without_a_fault(rest: Rest, fields: dict[str, Any]) -> None:
    claim = (await rest.post("/rollouts", {"input": 1})).body
    span = wire_span(claim["rollout_id"], claim["attempt"]["attempt_id"], **fields)
    assert (await rest.post("/spans", span)).status < 500
    assert (await rest.post("/spans/bulk", {"spans": [span]})).status < 500
    assert (await rest.get(f"/spans?rollout_id={claim['rollout_id']}")).status == 200


class FaultyStore(InMemoryLightningStore):
    async def statistics(self) -> Any:
        raise RuntimeError("the password is swordfish")

    async def get_latest_resources(self) -> Any:
        raise NotFound("nothing \ud800 here")


async def test_a_body_that_is_no_json_is_said_to_be_so(rest: Rest) -> None:
    reply = await rest("POST", "/rollouts", raw=b"{")
    assert reply.status == 422
    assert reply.body["detail"].startswith("Invalid JSON")


async def test_a_fault_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    store = FaultyStore()
    async with served(store) as url, rest_of(url) as rest:
        reply = await rest.get("/statistics")
        assert (reply.status, reply.body["error"]) == (500, "StoreError")
        assert "swordfish" not in reply.body["detail"]
        assert "swordfish" in caplog.text
        assert (await rest.get("/resources/latest")).body == {"detail": "nothing \\ud800 here", "error": "NotFound"}
    await store.close()


async def test_a_key_counts_behind_a_wrapper_too() -> None:
    store = InMemoryLightningStore()
    async with served(LightningStoreThreaded(store)) as url, rest_of(url) as rest:
        made = [await rest.post("/rollouts", {"input": 1}, **{"Idempotency-Key": "one-key"}) for _ in range(2)]
        assert made[0].body["rollout_id"] == made[1].body["rollout_id"]
        assert (await rest.post("/requests/withdraw", **{"Idempotency-Key": "one-key"})).status == 200
    await store.close()


async def test_a_key_makes_a_request_count_once(rest: Rest) -> None:
    task, key = {"rollouts": [{"input": 1}]}, "one-key"
    first = await rest("POST", "/queues/rollouts/enqueue", task, headers={"Idempotency-Key": key})
    again = await rest("POST", "/queues/rollouts/enqueue", task, headers={"Idempotency-Key": key})
    assert (first.status, first.body) == (again.status, again.body)
    other = await rest(
        "POST", "/queues/rollouts/enqueue", {"rollouts": [{"input": 2}]}, headers={"Idempotency-Key": key}
    )
    elsewhere = await rest("POST", "/rollouts", {"input": 1}, headers={"Idempotency-Key": key})
    assert (other.status, elsewhere.status) == (422, 422)
    assert (await rest.get("/rollouts")).body["total"] == 1


@pytest.mark.parametrize("key", ["", "x" * 201, "a key", "schl\u00fcssel", "a\tb"])
async def test_a_key_is_visible_ascii_of_a_bounded_length(rest: Rest, key: str) -> None:
    reply = await rest("POST", "/rollouts", {"input": 1}, headers={"Idempotency-Key": key})
    assert (reply.status, reply.body["error"]) == (422, "InvalidValue")


class WatchedStore(InMemoryLightningStore):
    """Tells when a claim begins and when it is given up."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.given_up = asyncio.Event(), asyncio.Event()

    async def dequeue_many_rollouts(self, **arguments: Any) -> Any:
        self.begun.set()
        try:
            return await super().dequeue_many_rollouts(**arguments)
        except asyncio.CancelledError:
            self.given_up.set()
            raise


async def test_a_client_that_leaves_while_it_waits_claims_nothing() -> None:
    store = WatchedStore()
    async with served(store) as url, rest_of(url) as rest:
        waiting = asyncio.create_task(rest.post("/queues/rollouts/dequeue", {"wait": 20, "worker_id": "w"}))
        await asyncio.wait_for(store.begun.wait(), 10)
        waiting.cancel()
        await asyncio.wait_for(store.given_up.wait(), 10)
        rollout = await store.enqueue_rollout(1)
        assert [claim.rollout_id for claim in await store.dequeue_many_rollouts(limit=2)] == [rollout.rollout_id]
    await store.close()
