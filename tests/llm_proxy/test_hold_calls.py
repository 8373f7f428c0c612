"""What agents notice of held calls: nothing, or an error after which they may try again."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import anthropic
import openai
import pytest
from protocol_clients import Client
from scripted_backend import ScriptedBackend
from shifted_clock import Clock, until
from starlette.responses import JSONResponse
from streams import ANSWER, DONE, USAGE, Stream

from agentlightning.errors import ConfigurationError
from agentlightning.llm_proxy import LLMProxy, flush_captures
from agentlightning.llm_proxy.held import KEEPALIVE_SECONDS
from agentlightning.store import InMemoryLightningStore
from agentlightning.types import AttemptedRollout, Span

APIS = ("Chat Completions", "Responses", "Messages")
REQUESTS: dict[str, dict[str, Any]] = {
    "Chat Completions": {"model": "policy", "messages": [{"role": "user", "content": "q"}]},
    "Responses": {"model": "policy", "input": "q"},
    "Messages": {"model": "policy", "max_tokens": 9, "messages": [{"role": "user", "content": "q"}]},
}
PATHS = {"Chat Completions": "/chat/completions", "Responses": "/responses", "Messages": "/messages"}

Connect = Callable[[str], Client]


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
def endpoint(proxy: LLMProxy, attempted: AttemptedRollout) -> str:
    return proxy.as_resource(attempted.rollout_id, attempted.attempt.attempt_id).endpoint


@pytest.fixture
async def connect(endpoint: str) -> AsyncIterator[Connect]:
    clients: list[Client] = []

    def make(api: str) -> Client:
        clients.append(Client(api, "async", endpoint))
        return clients[-1]

    yield make
    for client in clients:
        await client.close()


async def held(proxy: LLMProxy, number: int = 1) -> None:
    for _ in range(5000):
        if (await proxy.hold_status()).held == number:
            return
        await asyncio.sleep(0.002)
    pytest.fail("no call is held")


async def spans_of(proxy: LLMProxy, store: InMemoryLightningStore, attempted: AttemptedRollout) -> list[Span]:
    await flush_captures({"llm": proxy.as_resource()}, attempted.rollout_id, attempted.attempt.attempt_id)
    return list(await store.query_spans(attempted.rollout_id))


def text_of(api: str, answer: Any) -> str:
    if api == "Chat Completions":
        return answer.choices[0].message.content
    return answer.output_text if api == "Responses" else answer.content[0].text


@pytest.mark.parametrize("api", APIS)
async def test_a_held_call_is_answered_once_calls_go_on(
    api: str, connect: Connect, proxy: LLMProxy, backend: ScriptedBackend
) -> None:
    async with proxy.hold() as drained:
        assert drained
        answer = asyncio.create_task(connect(api).create(**REQUESTS[api]))
        await held(proxy)
        assert not backend.requests
    assert text_of(api, await answer) == "answer 1.0"
    assert len(backend.requests) == 1


async def test_nothing_is_sent_to_the_client_of_a_held_call_without_a_stream(
    endpoint: str, proxy: LLMProxy, clock: Clock, backend: ScriptedBackend
) -> None:
    host, port = endpoint.removeprefix("http://").partition("/")[0].split(":")
    path = "/" + endpoint.split("/", 3)[3] + "/chat/completions"
    body = json.dumps(REQUESTS["Chat Completions"]).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    await proxy.pause("trainer")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head.encode() + body)
    await held(proxy)
    first = asyncio.create_task(reader.read(1))
    await clock.advance(100)
    assert not first.done()
    await proxy.resume("trainer")
    assert (await first + await reader.read()).startswith(b"HTTP/1.1 200")
    writer.close()


@pytest.mark.parametrize("api", APIS)
async def test_a_held_stream_says_that_there_is_more_to_come(
    api: str, connect: Connect, proxy: LLMProxy, clock: Clock, backend: ScriptedBackend
) -> None:
    backend.script = lambda _: Stream([*ANSWER, USAGE, DONE]).response()
    await proxy.pause("trainer")
    # Hearing nothing for 10 seconds would be an error here.
    answer = asyncio.create_task(connect(api).stream(timeout=10.0, **REQUESTS[api]))
    await held(proxy)
    await clock.advance(100)
    assert not answer.done()
    assert not backend.requests
    await proxy.resume("trainer")
    assert text_of(api, await answer) == "ab"
    assert len(backend.requests) == 1


async def test_a_held_stream_begins_with_comments_and_goes_on_as_the_backend_s(
    http: aiohttp.ClientSession, endpoint: str, proxy: LLMProxy, clock: Clock, backend: ScriptedBackend
) -> None:
    backend.script = lambda _: Stream([*ANSWER, DONE]).response()
    await proxy.pause("trainer")
    request = REQUESTS["Chat Completions"] | {"stream": True}
    asking = asyncio.create_task(http.post(f"{endpoint}/chat/completions", json=request).__aenter__())
    await held(proxy)
    await clock.advance(3 * KEEPALIVE_SECONDS + 1)
    async with await asking as reply:
        assert reply.status == 200
        assert reply.content_type == "text/event-stream"
        await proxy.resume("trainer")
        body = await reply.read()
    assert body == b": hold\n\n" * 3 + b"".join((*ANSWER, DONE))


@pytest.mark.parametrize("api", APIS)
async def test_a_stream_that_was_held_for_a_moment_only_has_the_backend_s_status(
    api: str, connect: Connect, proxy: LLMProxy, backend: ScriptedBackend
) -> None:
    backend.script = lambda _: JSONResponse({"error": {"message": "too long", "code": "too_long"}}, 400)
    client = connect(api)
    async with proxy.hold():
        answer = asyncio.create_task(client.events(**REQUESTS[api]))
        await held(proxy)
    with pytest.raises(client.errors.BadRequestError, match="too long"):
        await answer


@pytest.mark.parametrize("api", APIS)
async def test_errors_after_a_long_hold_come_within_the_stream(
    api: str,
    connect: Connect,
    proxy: LLMProxy,
    clock: Clock,
    backend: ScriptedBackend,
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
) -> None:
    backend.script = lambda _: JSONResponse({"error": {"message": "too long", "code": "too_long"}}, 400)
    client = connect(api)
    await proxy.pause("trainer")
    answer = asyncio.create_task(client.events(**REQUESTS[api]))
    await held(proxy)
    await clock.advance(10)
    await proxy.resume("trainer")
    with pytest.raises(client.errors.APIError, match="too long"):
        await answer
    (span,) = await spans_of(proxy, store, attempted)
    assert span.status.status_code == "ERROR"
    assert "400" in (span.status.description or "")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (JSONResponse({"error": "bare"}, 500), "bare"),
        (JSONResponse(["x"], 500), "the backend answered 500"),
        (JSONResponse({"choices": []}, 200), "not with the stream"),
    ],
    ids=["a bare error", "another form", "no stream"],
)
async def test_whatever_the_backend_answers_a_stream_that_has_begun_ends_with_an_error(
    answer: JSONResponse,
    said: str,
    http: aiohttp.ClientSession,
    endpoint: str,
    proxy: LLMProxy,
    clock: Clock,
    backend: ScriptedBackend,
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
) -> None:
    backend.script = lambda _: answer
    await proxy.pause("trainer")
    request = REQUESTS["Chat Completions"] | {"stream": True}
    asking = asyncio.create_task(http.post(f"{endpoint}/chat/completions", json=request).__aenter__())
    await held(proxy)
    await clock.advance(5)
    await proxy.resume("trainer")
    async with await asking as reply:
        *_, last, _ = (await reply.read()).split(b"\n\n")
    assert said in json.loads(last.removeprefix(b"data: "))["error"]["message"]
    (span,) = await spans_of(proxy, store, attempted)
    assert span.status.status_code == "ERROR"


@pytest.mark.parametrize("stream", [False, True])
async def test_who_leaves_while_held_is_recorded_and_no_backend_is_asked(
    stream: bool,
    connect: Connect,
    proxy: LLMProxy,
    clock: Clock,
    backend: ScriptedBackend,
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
) -> None:
    client = connect("Chat Completions")
    ask = client.events if stream else client.create
    async with proxy.hold():
        leaving = asyncio.create_task(ask(**REQUESTS["Chat Completions"]))
        await held(proxy)
        await clock.advance(5)
        leaving.cancel()
        await held(proxy, 0)
        (span,) = await spans_of(proxy, store, attempted)
    assert "the client left while its call was held" in (span.status.description or "")
    assert not backend.requests
    assert proxy.in_flight == 0


@pytest.mark.parametrize("api", APIS)
async def test_a_call_that_is_held_for_too_long_may_be_tried_again(
    api: str, connect: Connect, proxy: LLMProxy, clock: Clock, backend: ScriptedBackend
) -> None:
    client = connect(api)
    await proxy.pause("trainer", deadline=50.0)
    answer = asyncio.create_task(client.create(**REQUESTS[api]))
    await held(proxy)
    await clock.advance(51)
    with pytest.raises(client.errors.InternalServerError, match="held since more than 50 s") as caught:
        await answer
    assert caught.value.status_code == 503
    assert 0 < float(caught.value.response.headers["retry-after"]) <= 60
    assert not backend.requests


@pytest.mark.parametrize("api", APIS)
async def test_a_stream_that_is_held_for_too_long_ends_with_an_error(
    api: str, connect: Connect, proxy: LLMProxy, clock: Clock
) -> None:
    client = connect(api)
    await proxy.pause("trainer", deadline=50.0)
    answer = asyncio.create_task(client.events(**REQUESTS[api]))
    await held(proxy)
    await clock.advance(51)
    with pytest.raises(client.errors.APIError, match="held since more than 50 s"):
        await answer


async def test_a_gateway_that_stops_sends_held_calls_away(connect: Connect, proxy: LLMProxy) -> None:
    client = connect("Chat Completions")
    await proxy.pause("trainer")
    answer = asyncio.create_task(client.create(**REQUESTS["Chat Completions"]))
    await held(proxy)
    await proxy.stop()
    with pytest.raises(openai.InternalServerError, match="the gateway stopped"):
        await answer


@pytest.mark.parametrize("stream", [False, True])
async def test_a_flush_waits_for_held_calls_and_the_span_says_how_long_they_were_held(
    store: InMemoryLightningStore,
    proxy: LLMProxy,
    endpoint: str,
    attempted: AttemptedRollout,
    http: aiohttp.ClientSession,
    backend: ScriptedBackend,
    stream: bool,
) -> None:
    if stream:
        backend.script = lambda _: Stream([*ANSWER, USAGE, DONE]).response()
    body = {"model": "policy", "messages": [], "stream": stream}
    flush = endpoint.removesuffix("/v1") + "/flush"
    async with asyncio.timeout(30):
        async with proxy.hold():
            calling = asyncio.create_task(http.post(f"{endpoint}/chat/completions", json=body))
            await held(proxy, 1)
            async with http.post(flush, params={"deadline": "0.05"}) as answer:
                assert answer.status == 504
            flushing = asyncio.create_task(http.post(flush, params={"deadline": "20"}))
        async with await calling as answer:
            assert (answer.status, len(await answer.read()) > 0) == (200, True)
        async with await flushing as answer:
            assert answer.status == 200
    (span,) = await store.query_spans(attempted.rollout_id)
    assert span.end_time is not None
    assert span.start_time is not None
    seconds, first = (span.attributes.get(f"agentlightning.llm_call.{key}") for key in ("held", "time_to_first_token"))
    assert isinstance(seconds, float)
    assert seconds >= 0.05  # the first flush waited that long
    assert (first is not None) == stream
    assert float(str(first or 0)) + seconds <= span.end_time - span.start_time + 0.001


async def test_a_call_has_its_place_from_the_moment_it_comes(
    connect: Connect,
    proxy: LLMProxy,
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    numbered = asyncio.Event()
    reserve = store.get_many_span_sequence_ids

    async def reserve_and_tell(*args: Any) -> Any:
        ids = await reserve(*args)
        numbered.set()
        return ids

    monkeypatch.setattr(store, "get_many_span_sequence_ids", reserve_and_tell)
    async with proxy.hold():
        answer = asyncio.create_task(connect("Chat Completions").create(**REQUESTS["Chat Completions"]))
        await numbered.wait()
        later = await store.get_next_span_sequence_id(attempted.rollout_id, attempted.attempt.attempt_id)
    await answer
    (span,) = await spans_of(proxy, store, attempted)
    assert span.sequence_id < later


async def test_what_the_backends_serve_besides_is_held_if_it_asks_a_model(
    http: aiohttp.ClientSession, endpoint: str, proxy: LLMProxy, backend: ScriptedBackend
) -> None:
    embeddings, count = f"{endpoint}/embeddings", f"{endpoint}/messages/count_tokens"
    async with proxy.hold():
        async with http.get(f"{endpoint}/models") as models:
            assert models.status == 200
        asked = [
            asyncio.create_task(http.post(embeddings, json={"model": "policy", "input": "x"}).__aenter__()),
            asyncio.create_task(http.post(count, json=REQUESTS["Messages"]).__aenter__()),
        ]
        await held(proxy, 2)
        assert not backend.requests
    for reply in await asyncio.gather(*asked):
        assert reply.status == 200
        reply.release()


async def test_held_calls_meet_the_models_of_the_time_when_they_go_on(
    connect: Connect, proxy: LLMProxy, backend: ScriptedBackend
) -> None:
    later = ScriptedBackend()
    await later.server.start()
    try:
        async with proxy.hold():
            answer = asyncio.create_task(connect("Chat Completions").create(**REQUESTS["Chat Completions"]))
            await held(proxy)
            proxy.update_model_list([later.model_config])
        await answer
        assert (len(backend.requests), len(later.requests)) == (0, 1)
    finally:
        await later.server.stop()


async def test_a_drain_waits_for_answers_and_for_the_ends_of_streams(
    connect: Connect, proxy: LLMProxy, backend: ScriptedBackend
) -> None:
    stream = Stream([*ANSWER, DONE], before=2)
    backend.script = lambda _: stream.response()
    answer = asyncio.create_task(connect("Chat Completions").stream(**REQUESTS["Chat Completions"]))
    await backend.asked.wait()
    assert proxy.in_flight == 1
    await proxy.pause("trainer")
    assert not await proxy.drain(0.05)
    draining = asyncio.create_task(proxy.drain(60.0))
    stream.gate.set()
    assert await draining
    assert proxy.in_flight == 0
    assert text_of("Chat Completions", await answer) == "ab"


async def test_failed_and_abandoned_calls_are_not_in_flight(
    connect: Connect, proxy: LLMProxy, backend: ScriptedBackend
) -> None:
    client = connect("Chat Completions")
    backend.script = lambda _: Stream(ANSWER[:1], error=RuntimeError("broken")).response()
    with pytest.raises(openai.APIError):
        await client.stream(**REQUESTS["Chat Completions"])
    backend.script = lambda _: Stream(ANSWER, before=1).response()
    await client.leave(**REQUESTS["Chat Completions"])
    backend.gate.clear()
    backend.asked.clear()
    await client.give_up(backend.asked, **REQUESTS["Chat Completions"])
    await backend.server.stop()
    with pytest.raises(openai.APIError):
        await client.create(**REQUESTS["Chat Completions"])
    assert await proxy.drain(60.0)


async def test_however_often_calls_are_held_none_is_asked_meanwhile_and_none_is_lost(
    http: aiohttp.ClientSession, endpoint: str, proxy: LLMProxy, backend: ScriptedBackend
) -> None:
    changing, ended, answered = False, False, 0

    def script(payload: dict[str, Any]) -> Any:
        assert not changing
        return Stream([*ANSWER, DONE]).response() if payload.get("stream") else JSONResponse({"choices": []})

    async def agent(request: dict[str, Any]) -> None:
        nonlocal answered
        while not ended:
            async with http.post(f"{endpoint}/chat/completions", json=request) as reply:
                assert reply.status == 200
                assert await reply.read()
                answered += 1

    backend.script = script
    request = REQUESTS["Chat Completions"]
    agents = [asyncio.create_task(agent(request | {"stream": bool(number % 2)})) for number in range(12)]
    for hold in range(25):
        before = answered
        async with proxy.hold(drain=60.0) as drained:
            assert drained
            changing = True
            if hold % 5 == 0:
                await held(proxy, len(agents))
            await asyncio.sleep(0)
            changing = False
        await until(lambda: answered > before)  # noqa: B023  # it is awaited within the turn
    ended = True
    await asyncio.gather(*agents)
    assert len(backend.requests) == answered
    assert proxy.in_flight == 0


async def test_the_lease_is_kept_alive_inside_the_block(proxy: LLMProxy, clock: Clock) -> None:
    async with proxy.hold("trainer", lease=3.0):
        await clock.advance(60)
        assert (await proxy.hold_status()).owners.keys() == {"trainer"}
    assert not (await proxy.hold_status()).paused


async def test_a_hold_ends_with_its_block_also_by_an_error(proxy: LLMProxy) -> None:
    with pytest.raises(ZeroDivisionError):
        async with proxy.hold():
            raise ZeroDivisionError
    assert not (await proxy.hold_status()).paused


async def test_a_hold_that_was_lost_is_taken_again_and_said(
    proxy: LLMProxy, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with proxy.hold("trainer", lease=30.0):
        await clock.advance(100, step=100)  # the loop was blocked for longer than the lease
        await clock.advance(11)
        assert (await proxy.hold_status()).paused
    assert "the hold of 'trainer' ran out before it was renewed" in caplog.text


async def test_calls_can_be_held_from_another_event_loop(proxy: LLMProxy) -> None:
    seen: list[Any] = []

    async def hold() -> None:
        async with proxy.hold("trainer") as drained:
            seen.extend((drained, await proxy.hold_status(), await proxy.renew("trainer")))

    thread = threading.Thread(target=lambda: asyncio.run(hold()))
    thread.start()
    await until(lambda: not thread.is_alive())
    drained, status, renewed = seen
    assert drained
    assert status.paused
    assert renewed
    assert not (await proxy.hold_status()).paused


async def test_a_gateway_with_an_event_loop_of_its_own_can_be_held(
    store: InMemoryLightningStore, backend: ScriptedBackend
) -> None:
    proxy = LLMProxy(model_list=[backend.model_config], store=store, launch_mode="thread")
    await proxy.start()
    try:
        async with openai.AsyncOpenAI(base_url=proxy.as_resource().endpoint, api_key="k") as client:
            async with proxy.hold() as drained:
                assert drained
                answer = asyncio.create_task(client.chat.completions.create(**REQUESTS["Chat Completions"]))
                await held(proxy)
                assert not backend.requests
            assert text_of("Chat Completions", await answer) == "answer 1.0"
    finally:
        await proxy.stop()


async def test_a_gateway_may_stop_while_it_is_held(proxy: LLMProxy, caplog: pytest.LogCaptureFixture) -> None:
    async with proxy.hold("trainer"):
        await proxy.stop()
    assert "the hold of 'trainer' is left to its lease" in caplog.text


async def test_a_gateway_that_does_not_run_holds_nothing() -> None:
    with pytest.raises(ConfigurationError, match="await start"):
        await LLMProxy().pause("trainer")
    assert LLMProxy().in_flight == 0


@pytest.mark.parametrize(
    ("owner", "numbers"), [("", {}), ("a", {"lease": 0}), ("a", {"lease": float("nan")}), ("a", {"deadline": -1})]
)
async def test_a_hold_that_means_nothing_is_refused(owner: str, numbers: dict[str, float], proxy: LLMProxy) -> None:
    with pytest.raises(ConfigurationError):
        await proxy.pause(owner, **numbers)
    assert not (await proxy.hold_status()).paused


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
@pytest.mark.parametrize("timeout", [None, 250.0])
async def test_an_sdk_s_own_retries_survive_a_hold_of_ten_minutes(
    kind: str,
    timeout: float | None,
    endpoint: str,
    proxy: LLMProxy,
    clock: Clock,
    backend: ScriptedBackend,
    store: InMemoryLightningStore,
    attempted: AttemptedRollout,
) -> None:
    """As the SDKs come, with two retries; by default they wait for ten minutes, or less if they are told so."""
    options: dict[str, Any] = {"base_url": endpoint, "api_key": "k"} | ({"timeout": timeout} if timeout else {})
    api = "Chat Completions" if kind == "openai" else "Messages"
    async with openai.AsyncOpenAI(**options) as chat, anthropic.AsyncAnthropic(**options) as messages:
        await proxy.pause("trainer", lease=3600.0)
        create = chat.chat.completions.create if kind == "openai" else messages.messages.create
        asking: Any = create(**REQUESTS[api])
        answer = asyncio.create_task(asking)
        await held(proxy)
        await clock.advance(602)
        assert not answer.done()
        assert not backend.requests
        await proxy.resume("trainer")
        await clock.advance_until(answer.done)  # the SDK may be about to try again
        assert text_of(api, answer.result()) == "answer 1.0"
    assert len(backend.requests) == 1
    *abandoned, good = await spans_of(proxy, store, attempted)
    assert len(abandoned) == (2 if timeout else 1)
    assert all("the client left while its call was held" in (span.status.description or "") for span in abandoned)
    assert good.status.status_code == "OK"


async def test_a_stream_survives_a_hold_of_ten_minutes_without_a_retry(
    endpoint: str, proxy: LLMProxy, clock: Clock, backend: ScriptedBackend
) -> None:
    backend.script = lambda _: Stream([*ANSWER, USAGE, DONE]).response()
    async with openai.AsyncOpenAI(base_url=endpoint, api_key="k", timeout=30.0, max_retries=0) as client:
        await proxy.pause("trainer", lease=3600.0)
        asking = client.chat.completions.create(**REQUESTS["Chat Completions"], stream=True)
        answer = asyncio.create_task(asking)
        await held(proxy)
        await clock.advance(600)
        await proxy.resume("trainer")
        pieces = [piece async for piece in await answer]
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == "ab"
    assert len(backend.requests) == 1
