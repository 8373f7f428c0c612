"""The client of a store's server: what it repeats, what it does not, and where it works."""

import asyncio
import multiprocessing
import pickle
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import pytest
from aiohttp import ClientResponse
from starlette.types import Message, Receive, Scope, Send

from agentlightning import errors
from agentlightning.errors import (
    ConfigurationError,
    InvalidValue,
    LeaseLost,
    NotFound,
    StoreClosed,
    StoreError,
    StoreUnreachable,
    TooBusy,
)
from agentlightning.store import InMemoryLightningStore, SqliteLightningStore
from agentlightning.store.client import LightningStoreClient
from agentlightning.store.routes import StoreApp
from agentlightning.types import EnqueueRolloutRequest, Rollout
from tests.store.serving import served, serving

PATIENCE = 10.0
QUICK = (0.01, 0.01, 0.01)

Fault: TypeAlias = Callable[[Receive, Send], Awaitable[None]]


@dataclass
class FaultySite:
    """A store's server that does to each request, beside those for its health, the next thing of a list.

    A fault takes the request's place; None lets the store answer. After the last one the store answers all.
    """

    store: InMemoryLightningStore
    faults: list[Fault | None] = field(default_factory=list)
    answers_late: list[float] = field(default_factory=list)
    healthy: bool = True
    seen: list[tuple[str, str | None]] = field(default_factory=list)
    health_asked: int = 0

    def __post_init__(self) -> None:
        self._app = StoreApp(self.store)
        self._came = asyncio.Condition()
        self.carried_out = asyncio.Event()

    async def asked(self, times: int) -> None:
        """Wait until so many requests came."""
        async with asyncio.timeout(PATIENCE), self._came:
            await self._came.wait_for(lambda: len(self.seen) >= times)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].endswith("/health"):
            self.health_asked += 1
            await (self._app(scope, receive, send) if self.healthy else answer(503)(receive, send))
            return
        key = dict(scope["headers"]).get(b"idempotency-key")
        async with self._came:
            self.seen.append((f"{scope['method']} {scope['path']}", key and key.decode()))
            self._came.notify_all()
        fault = self.faults.pop(0) if self.faults else None
        if fault is not None:
            await fault(receive, send)
            return
        if not self.answers_late or "withdraw" in scope["path"]:
            await self._app(scope, receive, send)
            return
        answered: list[Message] = []

        async def keep(message: Message) -> None:
            answered.append(message)

        await self._app(scope, receive, keep)
        self.carried_out.set()
        with suppress(TimeoutError):
            await asyncio.wait_for(silence(receive, send), self.answers_late.pop(0))
        for message in answered:
            await send(message)

    @property
    def keys(self) -> list[str | None]:
        return [key for _, key in self.seen]


def answer(status: int, body: bytes = b"{}", **headers: str) -> Fault:
    async def fault(_: Receive, send: Send) -> None:
        lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        lines.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": lines})
        await send({"type": "http.response.body", "body": body})

    return fault


def refusal(error: type[StoreError], **headers: str) -> Fault:
    return answer(error.status, f'{{"detail":"told","error":"{error.__name__}"}}'.encode(), **headers)


async def silence(receive: Receive, _: Send) -> None:
    """Say nothing until the client leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def hang_up(_: Receive, send: Send) -> None:
    """Begin an answer, and end it too early."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})
    await send({"type": "http.response.body", "body": b"[", "more_body": True})
    raise ConnectionResetError("the server hangs up")


@asynccontextmanager
async def site(*faults: Fault | None) -> AsyncIterator[tuple[FaultySite, str]]:
    store = InMemoryLightningStore()
    made = FaultySite(store, list(faults))
    async with serving(made) as server:
        yield made, server.url
    await store.close()


# -- what is repeated --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [answer(status) for status in (408, 429, 500, 502, 503, 504)] + [hang_up])
async def test_failure_that_may_pass_is_tried_again_under_one_key(fault: Fault) -> None:
    async with site(fault, fault) as (server, url), LightningStoreClient(url, retry_delays=QUICK) as client:
        await client.enqueue_rollout(1)
        assert len(server.seen) == 3
        assert len(set(server.keys)) == 1
        assert None not in server.keys
        await client.enqueue_rollout(2)
        assert server.keys[3] not in server.keys[:3]
        assert (await client.query_rollouts()).total == 2


async def test_answer_that_came_too_late_is_given_again() -> None:
    async with site() as (server, url):
        server.answers_late = [0.6]
        async with LightningStoreClient(url, retry_delays=QUICK, request_timeout=0.3) as client:
            made = await client.enqueue_rollout("once")
            assert len(server.seen) == 2
            assert [rollout.rollout_id for rollout in await client.query_rollouts()] == [made.rollout_id]


async def test_only_what_would_be_done_twice_has_a_key() -> None:
    async with site() as (server, url), LightningStoreClient(url) as client:
        claim = await client.start_rollout(1, worker_id="w")
        await client.update_worker("w")
        await client.query_rollouts()
        await client.add_many_spans([])
        await client.update_attempt(claim.rollout_id, "latest", status="running")
        assert [key is not None for key in server.keys] == [True, False, False, False, True]


async def test_last_failure_is_raised_as_the_stores_own_class() -> None:
    async with site(*[answer(500)] * 3, refusal(TooBusy)) as (server, url):
        async with LightningStoreClient(url, retry_delays=QUICK) as client:
            with pytest.raises(TooBusy, match="told"):
                await client.enqueue_rollout(1)
        assert len(server.seen) == 4


@pytest.mark.parametrize("error", [NotFound, LeaseLost, InvalidValue, errors.Unauthorized, errors.TooLarge])
async def test_refusal_is_raised_at_once_as_the_class_the_store_raised(error: type[StoreError]) -> None:
    async with site(refusal(error)) as (server, url), LightningStoreClient(url) as client:
        with pytest.raises(error, match="told") as raised:
            await client.query_rollouts()
        assert type(raised.value) is error
        assert (len(server.seen), server.health_asked) == (1, 0)


@pytest.mark.parametrize(
    "body", [b'{"detail":"no","error":"SystemExit"}', b'{"detail":"no","error":"AgentError"}', b"<"]
)
async def test_foreign_error_is_a_store_error(body: bytes) -> None:
    async with site(answer(404, body)) as (_, url), LightningStoreClient(url) as client:
        with pytest.raises(StoreError) as raised:
            await client.query_rollouts()
        assert type(raised.value) is StoreError


async def test_answer_that_means_nothing_is_a_store_error() -> None:
    async with site(answer(200, b'{"items":')) as (_, url), LightningStoreClient(url) as client:
        with pytest.raises(StoreError, match="cannot be read"):
            await client.query_rollouts()


async def test_server_that_asks_for_time_is_given_it() -> None:
    clock = asyncio.get_running_loop().time
    busy = refusal(TooBusy, retry_after="0.2")
    async with site(busy) as (_, url), LightningStoreClient(url, retry_delays=(0.0,)) as client:
        start = clock()
        await client.query_rollouts()
        assert clock() - start >= 0.2


async def test_unknown_rollout_is_answered_by_one_request() -> None:
    async with site() as (server, url), LightningStoreClient(url) as client:
        assert await client.get_rollout_by_id("ro-unknown") is None
        assert await client.get_worker_by_id("nobody") is None
        assert len(server.seen) == 2
        with pytest.raises(NotFound):
            await client.start_attempt("ro-unknown")
        assert (len(server.seen), server.health_asked) == (3, 0)


async def test_no_delays_means_one_try() -> None:
    async with site(answer(500)) as (server, url), LightningStoreClient(url, retry_delays=()) as client:
        with pytest.raises(StoreError):
            await client.query_rollouts()
        assert (len(server.seen), server.health_asked) == (1, 0)


async def test_unhealthy_server_is_sent_nothing_more() -> None:
    async with site(answer(500)) as (server, url):
        server.healthy = False
        async with LightningStoreClient(url, retry_delays=QUICK[:2], health_retry_delays=QUICK[:2]) as client:
            with pytest.raises(StoreError):
                await client.query_rollouts()
        assert (len(server.seen), server.health_asked) == (1, 6)


async def test_health_is_not_asked_for_when_there_are_no_delays() -> None:
    async with site(answer(500)) as (server, url):
        server.healthy = False
        async with LightningStoreClient(url, retry_delays=QUICK, health_retry_delays=()) as client:
            await client.query_rollouts()
        assert (len(server.seen), server.health_asked) == (2, 0)


async def test_nobody_at_the_address_is_unreachable() -> None:
    async with site() as (_, url):
        pass
    async with LightningStoreClient(url, retry_delays=QUICK[:1], health_retry_delays=QUICK[:1]) as client:
        with pytest.raises(StoreUnreachable, match=url):
            await client.get_latest_resources()


# -- waits -------------------------------------------------------------------------------------------------------------


async def test_long_wait_is_cut_into_polls() -> None:
    async with site() as (server, url), LightningStoreClient(url, request_timeout=0.2) as client:
        claim = await client.start_rollout(1)
        waits = [
            asyncio.create_task(client.wait_for_rollouts(rollout_ids=["ro-unknown", claim.rollout_id])),
            asyncio.create_task(client.wait_for_rollouts(rollout_ids=[claim.rollout_id], timeout=60)),
            asyncio.create_task(client.read_finished_rollouts(wait=60)),
            asyncio.create_task(client.dequeue_rollout("w", wait=60)),
        ]
        await server.asked(1 + 3 * len(waits))
        assert not any(wait.done() for wait in waits)
        await client.update_rollout(claim.rollout_id, status="succeeded")
        queued = await client.enqueue_rollout(2)
        one, two, read, claimed = await asyncio.wait_for(asyncio.gather(*waits), PATIENCE)
        assert [rollout.rollout_id for rollout in one] == [claim.rollout_id] == [two[0].rollout_id]
        assert type(one[0]) is Rollout
        assert read.items[0].rollout_id == claim.rollout_id
        assert claimed is not None
        assert claimed.rollout_id == queued.rollout_id


async def test_polls_end_with_the_time_that_was_asked_for() -> None:
    async with site() as (server, url), LightningStoreClient(url, request_timeout=0.2) as client:
        claim = await client.start_rollout(1)
        start = asyncio.get_running_loop().time()
        assert await client.wait_for_rollouts(rollout_ids=[claim.rollout_id], timeout=0.25) == []
        assert asyncio.get_running_loop().time() - start >= 0.25
        assert len(server.seen) >= 4
        before = len(server.seen)
        assert await client.wait_for_rollouts(rollout_ids=["ro-unknown"]) == []
        assert await client.wait_for_rollouts(rollout_ids=[claim.rollout_id], timeout=0) == []
        assert await client.dequeue_many_rollouts(limit=0, wait=60) == []
        assert len(server.seen) == before + 3


@pytest.mark.parametrize("seconds", ["soon", float("nan")])
async def test_wait_without_a_length_is_refused(seconds: object) -> None:
    async with site() as (server, url), LightningStoreClient(url) as client:
        with pytest.raises(InvalidValue):
            await client.dequeue_rollout(wait=seconds)  # pyright: ignore[reportArgumentType]  # the test
        assert server.seen == []


async def test_claim_of_a_poll_that_is_cancelled_goes_back() -> None:
    async with site() as (server, url), LightningStoreClient(url) as client:
        waiting = asyncio.create_task(client.dequeue_rollout("w", wait=60))
        await server.asked(1)
        waiting.cancel()
        await asyncio.wait({waiting}, timeout=PATIENCE)
        assert waiting.cancelled()
        made = await client.enqueue_rollout(1)
        claim = await asyncio.wait_for(client.dequeue_rollout("v", wait=60), PATIENCE)
        assert claim is not None
        assert (claim.rollout_id, claim.attempt.sequence_id) == (made.rollout_id, 1)


async def cancelled_when_its_answer_is_on_the_way(server: FaultySite, call: Awaitable[object]) -> None:
    """Cancel a call that the store has carried out, and whose answer the server holds back."""
    before = len(server.seen)
    server.answers_late = [60.0]
    server.carried_out.clear()
    calling = asyncio.ensure_future(call)
    await server.asked(before + 1)
    async with asyncio.timeout(PATIENCE):
        await server.carried_out.wait()
    calling.cancel()
    await asyncio.wait({calling}, timeout=PATIENCE)
    assert calling.cancelled()
    await server.asked(before + 2)
    assert server.seen[before + 1] == ("POST /v1/agl/requests/withdraw", server.keys[before])


async def test_claim_whose_answer_was_on_the_way_goes_back() -> None:
    async with site() as (server, url), LightningStoreClient(url) as client:
        made = [await client.enqueue_rollout(n) for n in range(3)]
        await cancelled_when_its_answer_is_on_the_way(server, client.dequeue_many_rollouts(limit=2, worker_id="w"))
        claims = await client.dequeue_many_rollouts(limit=3, wait=PATIENCE)
        assert [claim.rollout_id for claim in claims] == [rollout.rollout_id for rollout in made]
        assert [claim.attempt.sequence_id for claim in claims] == [1, 1, 1]


@pytest.mark.parametrize("wait", [0.0, PATIENCE])
@pytest.mark.parametrize("turns", range(6))
async def test_no_moment_of_cancelling_after_the_answer_loses_a_claim(
    wait: float, turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    read = ClientResponse.read

    def cancel_after(turns: int) -> None:
        if turns:
            loop.call_soon(cancel_after, turns - 1)
        else:
            claiming.cancel()

    async def read_and_cancel(response: ClientResponse) -> bytes:
        content = await read(response)
        if "dequeue" in response.url.path:
            cancel_after(turns + 1)
        return content

    async with site() as (server, url), LightningStoreClient(url) as client:
        made = await client.enqueue_rollout(1)
        with monkeypatch.context() as patch:
            patch.setattr(ClientResponse, "read", read_and_cancel)
            claiming = asyncio.create_task(client.dequeue_rollout("w", wait=wait))
            await asyncio.wait({claiming}, timeout=PATIENCE)
        if claiming.cancelled():
            again = await server.store.dequeue_rollout(wait=PATIENCE)
            assert again is not None
            assert (again.rollout_id, again.attempt.sequence_id) == (made.rollout_id, 1)
        else:
            assert claiming.result() is not None


async def test_claim_past_the_queue_whose_answer_was_on_the_way_fails() -> None:
    async with site() as (server, url), LightningStoreClient(url) as client:
        claim = await client.start_rollout(1)
        await client.update_rollout(claim.rollout_id, status="succeeded")
        await cancelled_when_its_answer_is_on_the_way(server, client.start_attempt(claim.rollout_id))
        await cancelled_when_its_answer_is_on_the_way(server, client.start_rollout("new"))
        ids = [rollout.rollout_id for rollout in await client.query_rollouts()]
        finished = await client.wait_for_rollouts(rollout_ids=ids, timeout=PATIENCE)
        assert [rollout.status for rollout in finished] == ["failed", "failed"]


async def test_what_is_no_claim_stays_when_its_answer_was_on_the_way() -> None:
    async with site() as (server, url), LightningStoreClient(url) as client:
        await cancelled_when_its_answer_is_on_the_way(server, client.enqueue_rollout("kept"))
        assert [rollout.status for rollout in await client.query_rollouts()] == ["queuing"]


async def test_what_an_agent_may_ask_for_is_not_withdrawn() -> None:
    async with site() as (server, url):
        async with LightningStoreClient(url) as client:
            started = await client.start_rollout(1)
            server.answers_late = [60.0]
            server.carried_out.clear()
            reserving = asyncio.create_task(
                client.get_next_span_sequence_id(started.rollout_id, started.attempt.attempt_id)
            )
            await asyncio.wait_for(server.carried_out.wait(), PATIENCE)
            reserving.cancel()
            await asyncio.wait({reserving}, timeout=PATIENCE)
        assert not any("withdraw" in what for what, _ in server.seen)


async def test_withdrawn_request_that_comes_late_does_nothing() -> None:
    async with site() as (server, url):
        await server.store.withdraw("late")
        await server.store.enqueue_rollout(1)
        with pytest.raises(InvalidValue, match="late"):
            await server.store.keyed("late", b"anything").dequeue_rollout()
        assert [rollout.status for rollout in await server.store.query_rollouts()] == ["queuing"]
        assert url


async def test_claim_goes_back_when_the_program_ends() -> None:
    async with site() as (server, url), LightningStoreClient(url) as client:
        made = await client.enqueue_rollout(1)
        server.answers_late = [60.0]

        async def program() -> None:
            claiming = asyncio.create_task(client.dequeue_rollout("w"))
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(server.carried_out.wait(), loop))
            assert not claiming.done()

        loop = asyncio.get_running_loop()
        await asyncio.wait_for(asyncio.to_thread(asyncio.run, program()), PATIENCE)
        again = await client.dequeue_rollout(wait=PATIENCE)
        assert again is not None
        assert (again.rollout_id, again.attempt.sequence_id) == (made.rollout_id, 1)


async def test_waits_and_calls_go_on_when_the_server_is_started_anew(tmp_path: Path) -> None:
    store = SqliteLightningStore(tmp_path / "store.db")
    async with serving(StoreApp(store)) as server:
        url = server.url
        port = int(url.rpartition(":")[2])
        client = LightningStoreClient(url, retry_delays=(0.1,) * 20)
        claim = await client.start_rollout(1)
        waiting = asyncio.create_task(client.wait_for_rollouts(rollout_ids=[claim.rollout_id]))
        await asyncio.wait({waiting}, timeout=0.1)
    await store.close()
    calling = asyncio.create_task(client.enqueue_rollout(2))
    await asyncio.wait({waiting, calling}, timeout=0.15)
    assert not waiting.done()
    assert not calling.done()
    again = SqliteLightningStore(tmp_path / "store.db")
    async with serving(StoreApp(again), port):
        await asyncio.wait_for(calling, PATIENCE)
        await client.update_rollout(claim.rollout_id, status="succeeded")
        assert [rollout.status for rollout in await asyncio.wait_for(waiting, PATIENCE)] == ["succeeded"]
        await client.close()
    await again.close()


# -- its life ----------------------------------------------------------------------------------------------------------


async def test_close_ends_waits_and_retries_and_refuses_the_rest() -> None:
    async with site(silence) as (server, url):
        client = LightningStoreClient(url, retry_delays=(600.0,), request_timeout=60)
        polling = asyncio.create_task(client.read_finished_rollouts(wait=60))
        await server.asked(1)
        server.faults = [answer(500)]
        failing = asyncio.create_task(client.statistics())
        await server.asked(2)
        await asyncio.wait_for(client.close(), PATIENCE)
        with pytest.raises(StoreClosed):
            await polling
        with pytest.raises(StoreError):
            await failing
        with pytest.raises(StoreClosed):
            await client.statistics()
        await client.close()


async def test_settings_and_token_are_read_when_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(InMemoryLightningStore()) as url:
        monkeypatch.setenv("AGL_TOKEN", "from the environment")
        client = LightningStoreClient(url + "/", request_timeout=7.0)
        monkeypatch.delenv("AGL_TOKEN")
        assert (client.server_address_root, client.server_address) == (url, f"{url}/v1/agl")
        assert client.otlp_traces_endpoint() == f"{url}/v1/traces"
        assert client.capabilities == {"thread_safe": True, "async_safe": True, "zero_copy": True, "otlp_traces": True}
        twin: LightningStoreClient = pickle.loads(pickle.dumps(client))
        assert twin.__getstate__() == client.__getstate__()
        assert twin.__getstate__()["token"] == "from the environment"
        assert twin.__getstate__()["request_timeout"] == 7.0
        async with twin:
            await twin.enqueue_rollout(1)


def _enqueue_in_child(client: LightningStoreClient) -> None:
    async def work() -> None:
        async with client:
            await client.enqueue_many_rollouts([EnqueueRolloutRequest(input=n) for n in range(3)])

    asyncio.run(work())


async def test_spawned_child_writes_to_the_parents_store() -> None:
    async with site() as (_, url), LightningStoreClient(url) as client:
        await client.enqueue_rollout("here")
        child = multiprocessing.get_context("spawn").Process(target=_enqueue_in_child, args=(client,))
        child.start()
        await asyncio.to_thread(child.join, 60)
        assert child.exitcode == 0
        assert [rollout.input for rollout in await client.query_rollouts()] == ["here", 0, 1, 2]


async def test_each_thread_has_its_own_loop_and_connections() -> None:
    async with site() as (_, url), LightningStoreClient(url) as client:
        failures: list[BaseException] = []

        async def work() -> None:
            await asyncio.gather(*(client.enqueue_rollout(n) for n in range(20)))

        def run() -> None:
            try:
                for _ in range(3):  # one loop after the other
                    asyncio.run(work())
            except BaseException as error:  # noqa: BLE001  # shown by the test's own thread
                failures.append(error)

        threads = [threading.Thread(target=run) for _ in range(2)]
        for thread in threads:
            thread.start()
        await work()
        for thread in threads:
            await asyncio.to_thread(thread.join, PATIENCE)
        assert failures == []
        assert (await client.query_rollouts(limit=0)).total == 140


_LOOPS_COME_AND_GO = """
import asyncio, gc, sys
from agentlightning.store.client import LightningStoreClient

kept = LightningStoreClient(sys.argv[1])
for _ in range(3):
    asyncio.run(kept.enqueue_rollout(1))

def open_connections():
    return [o for o in gc.get_objects() if isinstance(o, asyncio.Transport) and not o.is_closing()]

async def forgotten():
    await LightningStoreClient(sys.argv[1]).enqueue_rollout(1)
    async with asyncio.timeout(10):
        while open_connections():
            await asyncio.sleep(0.01)

asyncio.run(forgotten())
asyncio.run(kept.close())
del kept
gc.collect()
"""


async def test_loops_that_end_leave_no_connection_open() -> None:
    async with site() as (server, url):
        run = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-X", "dev", "-W", "error", "-c", _LOOPS_COME_AND_GO, url],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (run.returncode, run.stderr) == (0, "")
        assert len(server.seen) == 4


async def test_more_calls_at_once_than_connections() -> None:
    async with site() as (_, url), LightningStoreClient(url) as client:
        made = await asyncio.wait_for(asyncio.gather(*(client.enqueue_rollout(n) for n in range(300))), PATIENCE)
        waits = [
            asyncio.create_task(client.wait_for_rollouts(rollout_ids=[rollout.rollout_id], timeout=60))
            for rollout in made[:150]
        ]
        await asyncio.wait(waits, timeout=0.1)
        for rollout in made[:150]:
            await client.update_rollout(rollout.rollout_id, status="succeeded")
        assert [len(finished) for finished in await asyncio.wait_for(asyncio.gather(*waits), PATIENCE)] == [1] * 150


@pytest.mark.parametrize(
    "address", ["127.0.0.1:4747", "", "ftp://x", "http://127.0.0.1:99999", "http://[::1", "http://"]
)
def test_what_is_no_address_is_refused_at_once(address: str) -> None:
    with pytest.raises(ConfigurationError, match="use one such as"):
        LightningStoreClient(address)


async def test_a_server_that_does_not_answer_is_named_with_what_went_wrong() -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    listening = await asyncio.start_server(hang, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    async with LightningStoreClient(url, retry_delays=(), request_timeout=0.05) as client:
        with pytest.raises(StoreUnreachable, match=r"no answer from the store at http://[^ ]+: .*[Tt]ime"):
            await client.statistics()
    listening.close()
