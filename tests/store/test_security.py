"""Tokens, roles, origins, hosts and limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from rest import Rest, rest_of, wire_span

from agentlightning.errors import StoreClosed, Unauthorized
from agentlightning.store import InMemoryLightningStore, LightningStoreServer
from agentlightning.store.base import ROUTES
from agentlightning.store.limits import Limits
from agentlightning.store.operations import Operation
from agentlightning.store.tokens import Caller, agent_token, generate_token, runner_token, verify

SECRET = "the-secret-of-the-tests"
BEARER = {"Authorization": f"Bearer {SECRET}"}


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[tuple[InMemoryLightningStore, str]]:
    store = options.pop("store", None) or InMemoryLightningStore()
    server = LightningStoreServer(store, port=0, launch_mode="asyncio", **options)
    await server.start()
    try:
        yield store, server.endpoint
    finally:
        await server.stop()
        await store.close()


@pytest.fixture
async def guarded() -> AsyncIterator[tuple[InMemoryLightningStore, str]]:
    async with serving(token=SECRET) as guarded:
        yield guarded


def name_of(route: Operation) -> str:
    return f"{route.verb} {route.path}"


def test_a_token_says_whose_it_is() -> None:
    secret = generate_token()
    assert verify(secret, secret) == Caller("admin")
    assert verify(secret, runner_token(secret)) == Caller("runner")
    for ids in (("ro-1", "at-1"), ("a/b.c", "\N{LLAMA}"), ("", "")):
        assert verify(secret, agent_token(secret, *ids)) == Caller("agent", *ids)
        assert agent_token(runner_token(secret), *ids) == agent_token(secret, *ids)
    assert generate_token() != secret


def test_a_token_that_was_changed_is_nobodys() -> None:
    secret = generate_token()
    good = agent_token(secret, "ro-1", "at-1")
    forged = [
        good[:-1] + ("A" if good[-1] != "A" else "B"),
        good.replace("agent", "runner"),
        runner_token("another secret"),
        agent_token("another secret", "ro-1", "at-1"),
        agent_token("agl1.runner.forged", "ro-1", "at-1"),
        ".".join([*agent_token(secret, "ro-2", "at-1").split(".")[:-1], good.split(".")[-1]]),
        good.rpartition(".")[0],
        "agl1.admin." + good.split(".")[-1],
        "",
        ".",
        "\u00e9",
        secret + " ",
        secret[:-1],
    ]
    for token in forged:
        with pytest.raises(Unauthorized):
            verify(secret, token)


@pytest.mark.parametrize("route", ROUTES, ids=name_of)
async def test_every_route_wants_a_token(guarded: tuple[InMemoryLightningStore, str], route: Operation) -> None:
    path = route.path.format(**{name: "some-id" for name in route.path_parameters})
    async with rest_of(guarded[1]) as rest:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": f"Basic {SECRET}"},
            {"X-API-Key": "no"},
        ):
            reply = await rest(route.verb, path, headers=headers)
            assert (reply.status, reply.body["error"]) == (401, "Unauthorized")
            assert reply.headers["www-authenticate"] == "Bearer"
        for headers in (BEARER, {"X-API-Key": SECRET}, {"Authorization": f"bearer {SECRET}"}):
            assert (await rest(route.verb, path, headers=headers)).status not in (401, 403)


async def test_health_and_the_description_want_none(guarded: tuple[InMemoryLightningStore, str]) -> None:
    async with rest_of(guarded[1]) as rest, rest.session.get(f"{guarded[1]}/openapi.json") as description:
        assert (await rest.get("/health")).status == 200
        assert description.status == 200


ADMINS = {
    "POST /queues/rollouts/enqueue",
    "POST /rollouts/cancel",
    "POST /rollouts/{rollout_id}",
    "POST /resources/{resources_id}",
    "POST /workers/{worker_id}/release",
}
AGENTS = {
    "POST /spans",
    "POST /spans/bulk",
    "POST /spans/next",
    "POST /spans/next/bulk",
    "GET /spans",
    "POST /spans/search",
    "GET /rollouts/{rollout_id}",
    "GET /rollouts/{rollout_id}/attempts",
    "POST /rollouts/{rollout_id}/attempts/search",
    "GET /rollouts/{rollout_id}/attempts/latest",
}


@pytest.mark.parametrize("route", ROUTES, ids=name_of)
async def test_a_role_ends_where_the_next_one_begins(
    guarded: tuple[InMemoryLightningStore, str], route: Operation
) -> None:
    path = route.path.format(**{name: "some-id" for name in route.path_parameters})
    async with rest_of(guarded[1]) as rest:
        as_runner = await rest(route.verb, path, headers={"Authorization": f"Bearer {runner_token(SECRET)}"})
        assert (as_runner.status == 403) == (name_of(route) in ADMINS)
        token = agent_token(SECRET, "some-id", "at-1")
        as_agent = await rest(route.verb, path, headers={"Authorization": f"Bearer {token}"})
        assert name_of(route) in AGENTS or as_agent.status == 403


async def test_an_agent_withdraws_nobodys_claim(guarded: tuple[InMemoryLightningStore, str]) -> None:
    store, url = guarded
    await store.enqueue_rollout(1)
    claim = await store.keyed("key", b"body").dequeue_rollout("w")
    assert claim is not None
    token = agent_token(SECRET, claim.rollout_id, claim.attempt.attempt_id)
    for bearer, status, claimed in ((token, 403, "preparing"), (runner_token(SECRET), 200, "queuing")):
        async with rest_of(url, Authorization=f"Bearer {bearer}") as rest:
            reply = await rest("POST", "/requests/withdraw", headers={"Idempotency-Key": "key"})
            assert reply.status == status
        assert [rollout.status for rollout in await store.query_rollouts()] == [claimed]


async def test_an_agent_writes_to_its_attempt_and_reads_its_rollout(
    guarded: tuple[InMemoryLightningStore, str],
) -> None:
    store, url = guarded
    mine, other = await store.start_rollout(1), await store.start_rollout(2)
    ids = (mine.rollout_id, mine.attempt.attempt_id)
    later = (await store.start_attempt(mine.rollout_id)).attempt.attempt_id
    async with rest_of(url, Authorization=f"Bearer {agent_token(SECRET, *ids)}") as rest:
        own = wire_span(*ids)
        strangers = [
            wire_span(other.rollout_id, other.attempt.attempt_id),
            wire_span(mine.rollout_id, later),
            wire_span(other.rollout_id, mine.attempt.attempt_id),
        ]
        assert (await rest.post("/spans", own)).status == 201
        assert (await rest.post("/spans/next", {"rollout_id": ids[0], "attempt_id": ids[1]})).status == 200
        assert (await rest.post("/spans/next/bulk", {"rollout_attempt_ids": [ids, ids]})).status == 200
        for span in strangers:
            pair = (span["rollout_id"], span["attempt_id"])
            assert (await rest.post("/spans", span)).status == 403
            assert (await rest.post("/spans/bulk", {"spans": [own, span]})).status == 403
            assert (await rest.post("/spans/next", {"rollout_id": pair[0], "attempt_id": pair[1]})).status == 403
            assert (await rest.post("/spans/next/bulk", {"rollout_attempt_ids": [ids, pair]})).status == 403
        for path in ("/rollouts/{}", "/rollouts/{}/attempts", "/rollouts/{}/attempts/latest", "/spans?rollout_id={}"):
            assert (await rest.get(path.format(ids[0]))).status == 200
            assert (await rest.get(path.format(other.rollout_id))).status == 403
        for target, status in ((ids[0], 200), (other.rollout_id, 403)):
            assert (await rest.post("/spans/search", {"rollout_id": target})).status == status
            assert (await rest.post(f"/rollouts/{target}/attempts/search", {})).status == status
    assert [span.attempt_id for span in await store.query_spans(ids[0])] == [ids[1]]
    assert (await store.query_spans(other.rollout_id)).total == 0


async def test_without_a_token_only_names_of_this_machine_are_answered() -> None:
    async with serving() as (_, url), rest_of(url) as rest:
        for host, status in (
            ("localhost", 200),
            ("localhost:4747", 200),
            ("127.0.0.1:80", 200),
            ("[::1]:4747", 200),
            ("evil.example", 403),
            ("127.0.0.1.evil.example", 403),
            ("localhost.evil.example:4747", 403),
            ("[", 403),
            ("192.0.2.7", 403),
        ):
            assert (await rest("GET", "/statistics", headers={"Host": host})).status == status, host


async def test_without_a_token_no_web_page_of_another_site_reads_or_writes() -> None:
    text = {"Content-Type": "text/plain"}  # what a browser sends without asking first
    async with serving(cors_allow_origins="https://a.example") as (store, url), rest_of(url, **text) as rest:
        for headers, status in (
            ({"Origin": "https://evil.example"}, 403),
            ({"Origin": "https://localhost.evil.example"}, 403),
            ({"Origin": "null"}, 403),
            ({"Origin": "http://["}, 403),
            ({"Sec-Fetch-Site": "cross-site"}, 403),
            ({}, 201),
            ({"Sec-Fetch-Site": "none"}, 201),
            ({"Origin": "https://a.example", "Sec-Fetch-Site": "cross-site"}, 201),
            ({"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"}, 201),
            ({"Origin": "http://[::1]:3000"}, 201),
        ):
            before = (await store.query_rollouts()).total
            reply = await rest("POST", "/rollouts", raw=b'{"input": 1}', headers=headers)
            assert reply.status == status, headers
            assert (await store.query_rollouts()).total == before + (status == 201)
            as_json = {**headers, "Content-Type": "application/json"}
            async with rest.session.post(f"{url}/v1/traces", data=b"{}", headers=as_json) as exported:
                assert exported.status == (403 if status == 403 else 200)


async def test_with_a_token_the_origin_does_not_matter(guarded: tuple[InMemoryLightningStore, str]) -> None:
    async with rest_of(guarded[1], **BEARER) as rest:
        page = {"Origin": "https://b.example", "Sec-Fetch-Site": "cross-site"}
        assert (await rest("GET", "/statistics", headers=page)).status == 200


async def test_with_a_token_the_host_does_not_matter(guarded: tuple[InMemoryLightningStore, str]) -> None:
    async with rest_of(guarded[1], **BEARER) as rest:
        assert (await rest("GET", "/statistics", headers={"Host": "store.example"})).status == 200


async def preflight(rest: Rest, origin: str) -> aiohttp.ClientResponse:
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    return await rest.session.options(f"{rest.root}/v1/agl/rollouts", headers=asked)


async def test_no_web_page_may_read_answers_unless_its_origin_is_named() -> None:
    async with serving() as (_, url), rest_of(url) as rest:
        reply = await rest("GET", "/health", headers={"Origin": "https://a.example"})
        assert not any(name.lower().startswith("access-control") for name in reply.headers)
        assert (await preflight(rest, "https://a.example")).status == 403
    async with serving(cors_allow_origins=["https://a.example ", ""]) as (_, url), rest_of(url) as rest:
        for origin, allowed in (
            ("https://a.example", "https://a.example"),
            ("https://b.example", None),
            ("null", None),
        ):
            reply = await rest("GET", "/health", headers={"Origin": origin})
            assert (reply.status, reply.headers.get("access-control-allow-origin")) == (200, allowed)
            asked = await preflight(rest, origin)
            assert (asked.status == 200, asked.headers.get("access-control-allow-origin")) == (bool(allowed), allowed)
            assert "access-control-allow-credentials" not in asked.headers
    async with serving(cors_allow_origins="*", token=SECRET) as (_, url), rest_of(url) as rest:
        reply = await rest("GET", "/statistics", headers={"Origin": "https://c.example", **BEARER})
        assert (reply.status, reply.headers["access-control-allow-origin"]) == (200, "*")
        assert "access-control-allow-credentials" not in reply.headers


async def test_a_body_that_is_too_large_is_413_however_it_comes() -> None:
    async def in_pieces() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 1000

    async with serving(limits=Limits(body_bytes=1000)) as (_, url), rest_of(url) as rest:
        for body in (b" " * 1001, in_pieces()):
            reply = await rest("POST", "/rollouts", raw=body)  # type: ignore[arg-type]
            assert (reply.status, reply.body["error"]) == (413, "TooLarge")
            assert reply.headers["connection"] == "close"
        assert (await rest("POST", "/rollouts", raw=b'{"input": 1}' + b" " * 988)).status == 201


async def test_a_list_that_is_too_long_is_413() -> None:
    async with serving(limits=Limits(items=2)) as (_, url), rest_of(url) as rest:
        tasks = {"rollouts": [{"input": 1}] * 3}
        assert (await rest.post("/queues/rollouts/enqueue", tasks)).status == 413
        assert (await rest.post("/rollouts/search", {"rollout_id_in": ["a", "b", "c"]})).status == 413
        assert (await rest.post("/queues/rollouts/enqueue", {"rollouts": [{"input": 1}] * 2})).status == 201


class SlowStore(InMemoryLightningStore):
    def __init__(self) -> None:
        super().__init__()
        self.inside, self.go_on = asyncio.Semaphore(0), asyncio.Event()

    async def statistics(self) -> Any:
        self.inside.release()
        await self.go_on.wait()
        return {"name": "slow"}

    async def dequeue_many_rollouts(self, **arguments: Any) -> Any:
        self.inside.release()
        return await super().dequeue_many_rollouts(**arguments)


async def test_more_requests_than_it_has_room_for_are_429_and_come_again_later() -> None:
    store = SlowStore()
    async with serving(store=store, limits=Limits(requests=2, polls=1)) as (_, url), rest_of(url) as rest:
        slow = [asyncio.create_task(rest.get("/statistics")) for _ in range(2)]
        poll = asyncio.create_task(rest.post("/queues/rollouts/dequeue", {"wait": 20}))
        async with asyncio.timeout(10):
            for _ in range(3):
                await store.inside.acquire()
        for reply in (await rest.get("/workers"), await rest.post("/queues/rollouts/dequeue", {"wait": 20})):
            assert (reply.status, reply.body["error"], reply.headers["retry-after"]) == (429, "TooBusy", "1")
        store.go_on.set()
        assert [reply.status for reply in await asyncio.gather(*slow)] == [200, 200]
        assert (await rest.get("/workers")).status == 200
        await store.enqueue_rollout(1)
        assert len((await asyncio.wait_for(poll, 10)).body) == 1


def traces(*pairs: tuple[str, str]) -> dict[str, Any]:
    """Return an OTLP request with a span for each attempt."""

    def attributes(pair: tuple[str, str]) -> list[dict[str, Any]]:
        names = ("agentlightning.rollout_id", "agentlightning.attempt_id")
        return [{"key": name, "value": {"stringValue": value}} for name, value in zip(names, pair, strict=True)]

    spans = [
        {"traceId": "0" * 31 + "1", "spanId": f"{n + 1:016x}", "name": "step", "attributes": attributes(pair)}
        for n, pair in enumerate(pairs)
    ]
    return {"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}


async def test_otlp_takes_tokens_and_keeps_agents_to_their_attempt() -> None:
    async with serving(token=SECRET, limits=Limits(body_bytes=10_000)) as (store, url), rest_of(url) as rest:
        mine, other = [await store.start_rollout(n) for n in range(2)]
        ids = [(claim.rollout_id, claim.attempt.attempt_id) for claim in (mine, other)]

        async def export(token: str | None, body: Any) -> tuple[int, Any]:
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            async with rest.session.post(f"{url}/v1/traces", json=body, headers=headers) as reply:
                return reply.status, await reply.json()

        assert (await export(None, traces(*ids)))[0] == 401
        assert (await export("wrong", traces(*ids)))[0] == 401
        status, told = await export(agent_token(SECRET, *ids[0]), traces(*ids))
        assert (status, told["partialSuccess"]["rejectedSpans"]) == (200, "1")
        assert [(await store.query_spans(rollout_id)).total for rollout_id, _ in ids] == [1, 0]
        assert await export(runner_token(SECRET), traces(*ids)) == (200, {})
        assert [(await store.query_spans(rollout_id)).total for rollout_id, _ in ids] == [1, 1]
        assert (await export(SECRET, {"padding": "x" * 20_000}))[0] == 413
        for path in ("metrics", "logs", "development/profiles"):
            async with rest.session.post(f"{url}/v1/{path}", json={}) as reply:
                assert reply.status == 501
        async with rest.session.get(f"{url}/v1/traces") as reply:
            assert (reply.status, reply.headers["allow"]) == (405, "POST")


async def test_a_client_that_leaves_in_the_middle_of_its_request_changes_nothing() -> None:
    async with serving() as (store, url):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(
            b"POST /v1/agl/rollouts HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n" + b'{"input": 1}'
        )
        await writer.drain()
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        await writer.wait_closed()
        assert (await store.query_rollouts()).total == 0


@asynccontextmanager
async def half_sent(url: str, path: str, body: bytes) -> AsyncIterator[asyncio.StreamReader]:
    """Send the head of a request and a part of its body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n"
    writer.write(f"{head}\r\n".encode() + body)
    await writer.drain()
    yield reader
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("path", ["/v1/agl/rollouts", "/v1/traces"])
async def test_a_body_that_does_not_come_is_408(path: str) -> None:
    async with serving(limits=Limits(body_seconds=0.05)) as (_, url), half_sent(url, path, b"{") as reader:
        answer = await asyncio.wait_for(reader.read(), 10)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"connection: close" in answer


async def test_bodies_under_way_have_so_much_room_and_give_it_back() -> None:
    room = Limits(bytes_under_way=1000)
    async with serving(limits=room) as (store, url), rest_of(url) as rest:
        task = b'{"input": 1}'
        async with half_sent(url, "/v1/agl/rollouts", b" " * 995):
            async with asyncio.timeout(10):
                while (reply := await rest("POST", "/rollouts", raw=task)).status == 201:
                    pass  # until the half is read
            assert (reply.status, reply.body["error"], reply.headers["retry-after"]) == (429, "TooBusy", "1")
        async with asyncio.timeout(10):
            while (reply := await rest("POST", "/rollouts", raw=task)).status == 429:
                pass  # until the server knows that the client left
        for _ in range(3):
            assert (await rest("POST", "/rollouts", raw=task + b" " * 900)).status == 201
        assert (await rest("POST", "/rollouts", raw=task + b" " * 1000)).status == 429
        assert (await store.query_rollouts()).total >= 4


async def test_a_stop_in_the_middle_of_a_body_is_no_fault(caplog: pytest.LogCaptureFixture) -> None:
    store = InMemoryLightningStore()
    server = LightningStoreServer(store, port=0, launch_mode="asyncio")
    await server.start()
    async with (
        half_sent(server.endpoint, "/v1/agl/rollouts", b'{"input": 1}') as reader,
        rest_of(server.endpoint) as rest,
    ):
        assert (await rest.get("/statistics")).status == 200
        await server.stop()
        assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 408")
    assert caplog.messages == []
    await store.close()


class FaultyStore(InMemoryLightningStore):
    """Fails in ways that a store should not."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    async def add_many_spans(self, spans: Any) -> Any:
        raise self._error

    async def statistics(self) -> Any:
        raise self._error


async def test_a_fault_is_told_to_an_exporter_in_its_own_words_and_without_detail() -> None:
    async with serving(store=FaultyStore(RuntimeError("secret"))) as (store, url), aiohttp.ClientSession() as session:
        made = await store.start_rollout(1)
        body = traces((made.rollout_id, made.attempt.attempt_id))
        async with session.post(f"{url}/v1/traces", json=body) as reply:
            told = await reply.json()
        assert (reply.status, told["code"], "secret" in told["message"]) == (500, 13, False)


async def test_a_store_that_is_closed_asks_to_come_again() -> None:
    async with serving(store=FaultyStore(StoreClosed("closed"))) as (_, url), rest_of(url) as rest:
        reply = await rest.get("/statistics")
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
