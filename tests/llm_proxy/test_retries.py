"""A call that is refused for now is made again: elsewhere at once, else after a while, and never beyond its time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from email.utils import formatdate

import pytest
from shifted_clock import Clock, until

from agentlightning.errors import BackendTimeout, BackendUnreachable, InvalidAnswer, ModelError
from agentlightning.llm_proxy.backends import Backend
from agentlightning.llm_proxy.dispatch import Dispatcher, Trail
from agentlightning.llm_proxy.health import Prober
from agentlightning.llm_proxy.hold import Gate
from agentlightning.llm_proxy.replicas import Replicas
from agentlightning.llm_proxy.reply import EventStream, Reply
from agentlightning.llm_proxy.retries import Backoff, is_passing

NOW = 1_800_000_000.0
OK = Reply(200, b"{}", backend="http://b0/v1")
UNREACHABLE = BackendUnreachable("nobody answers")
PASSING = (408, 409, 429, 500, 502, 503, 504, 529)


class Stream(EventStream):
    """A stream that ends as it is told, after one event or none."""

    def __init__(self, failure: ModelError | None = None, events: int = 1) -> None:
        super().__init__(200, {}, "http://b0/v1")
        self._rest: list[bytes | ModelError] = [*[b"data: {}\n\n"] * events, failure or b""]
        self.closed = False

    async def _next(self) -> bytes:
        piece = self._rest.pop(0)
        if isinstance(piece, ModelError):
            raise piece
        return piece

    def close(self) -> None:
        self.closed = True


class Script:
    """Answers calls with what is given, in turn, and keeps what happened."""

    def __init__(
        self,
        outcomes: Iterable[Reply | Stream | ModelError],
        replicas: int = 1,
        *,
        retries: int = 2,
        timeout: float = 60,
    ) -> None:
        self.outcomes = list(outcomes)
        self.asked: list[str] = []
        self.slept: list[float] = []
        self.probed: list[Backend] = []
        self.trail = Trail()
        self.replicas = Replicas([Backend("m", f"http://b{number}/v1", None) for number in range(replicas)])
        prober = Prober(self._probe, lambda _: True, asyncio.sleep)
        self.prober = prober
        self.gate = Gate()
        self.dispatcher = Dispatcher(
            prober, self.gate, timeout, retries, Backoff(lambda: 0.0, lambda: NOW), self._sleep
        )

    async def _probe(self, backend: Backend) -> bool:
        self.probed.append(backend)
        return False

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    async def work(self, backend: Backend) -> Reply | EventStream:
        self.asked.append(backend.api_base)
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, ModelError):
            raise outcome
        return outcome

    async def run(self, *, repeatable: bool = True) -> Reply | EventStream:
        try:
            answer = await self.dispatcher.answer(self.replicas, "ro", self.work, self.trail, repeatable=repeatable)
            return self.trail.mark(answer)
        finally:
            await self.prober.close()


def refused(status: int, **headers: str) -> Reply:
    return Reply(status, b"not now", {key.replace("_", "-"): value for key, value in headers.items()}, "http://b0/v1")


@pytest.mark.parametrize("status", PASSING)
async def test_what_may_pass_is_tried_again(status: int) -> None:
    script = Script([refused(status), refused(status), OK])
    answer = await script.run()
    assert (answer.status, answer.retries, answer.backend) == (200, 2, "http://b0/v1")
    assert script.slept == [0.5, 1.0]


@pytest.mark.parametrize("status", [200, 204, 301, 400, 401, 403, 404, 413, 422])
async def test_what_cannot_change_is_not_tried_again(status: int) -> None:
    script = Script([refused(status)])
    answer = await script.run()
    assert (answer.status, answer.retries, script.slept) == (status, 0, [])
    assert not is_passing(status)


@pytest.mark.parametrize("status", PASSING)
@pytest.mark.parametrize("retries", [0, 1, 3])
async def test_what_remains_after_the_retries_is_the_backends_own_answer(status: int, retries: int) -> None:
    last = refused(status, retry_after="3", x_request_id="7")
    script = Script([*[refused(status)] * retries, last], retries=retries)
    answer = await script.run()
    assert isinstance(answer, Reply)
    assert (answer.status, answer.body, answer.headers, answer.retries) == (status, b"not now", last.headers, retries)


async def test_a_connection_that_fails_is_tried_again_and_named_in_the_end() -> None:
    script = Script([UNREACHABLE] * 3)
    with pytest.raises(BackendUnreachable):
        await script.run()
    own = script.trail.mark(Reply(502, b"own"))
    assert (own.backend, own.retries, len(script.slept)) == ("http://b0/v1", 2, 2)


@pytest.mark.parametrize("failure", [UNREACHABLE, refused(503), refused(429, retry_after="20")])
async def test_another_replica_is_asked_at_once_and_each_before_any_is_asked_twice(failure: Reply | ModelError) -> None:
    script = Script([failure, failure, failure, OK], replicas=3, retries=3)
    answer = await script.run()
    assert (answer.status, answer.retries) == (200, 3)
    assert len(set(script.asked[:3])) == 3
    assert len(script.slept) == 1


async def test_no_answer_in_time_is_an_error_whatever_retries_are_left() -> None:
    script = Script([], timeout=0.01)

    async def hang(backend: Backend) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError

    script.work = hang
    with pytest.raises(BackendTimeout, match=r"http://b0/v1 gave no answer within 0\.01 s"):
        await script.run()
    assert script.trail.mark(Reply(504, b"own")).backend == "http://b0/v1"


async def test_a_wait_that_the_call_has_no_time_for_is_not_begun() -> None:
    script = Script([refused(503), OK], timeout=0.4)
    answer = await script.run()
    assert (answer.status, script.slept) == (503, [])


async def test_a_client_that_leaves_ends_the_retries() -> None:
    script = Script([refused(503), OK])
    waits = asyncio.Event()

    async def sleep(_: float) -> None:
        waits.set()
        await asyncio.Event().wait()

    script._sleep = sleep
    script.dispatcher = Dispatcher(script.prober, script.gate, 60, 2, sleep=sleep)
    task = asyncio.create_task(script.run())
    await waits.wait()
    task.cancel()
    await asyncio.wait([task])
    assert (task.cancelled(), len(script.asked)) == (True, 1)


@pytest.mark.parametrize("failure", [refused(503), UNREACHABLE])
async def test_what_may_be_done_once_only_is_tried_once(failure: Reply | ModelError) -> None:
    script = Script([failure, OK], replicas=2)
    if isinstance(failure, Reply):
        assert (await script.run(repeatable=False)).status == 503
    else:
        with pytest.raises(BackendUnreachable):
            await script.run(repeatable=False)
    assert len(script.asked) == 1


async def test_an_answer_of_no_known_form_is_not_asked_for_again() -> None:
    script = Script([InvalidAnswer("garbage"), OK])
    with pytest.raises(InvalidAnswer):
        await script.run()


async def test_a_stream_is_never_begun_again_and_its_break_counts_against_the_backend() -> None:
    script = Script([refused(503), Stream(UNREACHABLE)])
    stream = await script.run()
    (backend,) = script.replicas.backends
    assert isinstance(stream, EventStream)
    assert (stream.retries, backend.health.failures) == (1, 1)
    assert await stream.read() == b"data: {}\n\n"
    with pytest.raises(BackendUnreachable):
        await stream.read()
    assert (len(script.asked), backend.health.failures) == (2, 2)


async def test_a_stream_that_breaks_before_its_first_event_is_asked_for_elsewhere() -> None:
    broken, whole = Stream(UNREACHABLE, events=0), Stream()
    script = Script([broken, whole], replicas=2)
    stream = await script.run()
    assert stream is whole
    assert (stream.retries, broken.closed, whole.closed) == (1, True, False)
    assert [await whole.read(), await whole.read()] == [b"data: {}\n\n", b""]
    assert len(set(script.asked)) == 2


async def test_a_client_that_leaves_before_the_first_event_ends_the_stream() -> None:
    stream = Stream(events=0)
    waits = asyncio.Event()

    async def silence() -> bytes:
        waits.set()
        await asyncio.Event().wait()
        return b""

    stream._next = silence
    task = asyncio.create_task(Script([stream]).run())
    await waits.wait()
    task.cancel()
    await asyncio.wait([task])
    assert (task.cancelled(), stream.closed) == (True, True)


async def test_a_stream_that_ends_well_makes_up_for_failures_before() -> None:
    script = Script([refused(503), Stream()])
    stream = await script.run()
    assert isinstance(stream, EventStream)
    (backend,) = script.replicas.backends
    failures = [backend.health.failures]
    while await stream.read():
        failures.append(backend.health.failures)
    assert [*failures, backend.health.failures] == [1, 1, 0]


async def test_answers_tell_how_a_backend_is() -> None:
    script = Script([refused(500), refused(500), refused(404), refused(500), refused(429), OK], retries=9)
    seen: list[int] = []
    work = script.work

    async def watching(backend: Backend) -> Reply | EventStream:
        seen.append(backend.health.failures)
        return await work(backend)

    script.work = watching
    for _ in range(2):
        await script.run()
    assert seen == [0, 1, 2, 0, 1, 0]


async def test_a_replica_that_keeps_failing_is_left_out_and_probed() -> None:
    script = Script([*[UNREACHABLE, OK] * 3, OK], replicas=2)
    for _ in range(3):
        await script.dispatcher.answer(script.replicas, "ro", script.work, Trail())
    first = script.asked[0]
    assert [backend.api_base for backend in script.replicas.backends if backend.health.out] == [first]
    await script.dispatcher.answer(script.replicas, "ro", script.work, Trail())
    assert script.asked[-1] != first
    await script.prober.close()


def backoff(draw: float = 0.0) -> Callable[[int, dict[str, str]], float | None]:
    return Backoff(lambda: draw, lambda: NOW).seconds


def test_waits_double_up_to_a_bound_and_chance_takes_up_to_a_quarter() -> None:
    assert [backoff()(retries, {}) for retries in range(6)] == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0]
    assert backoff(0.999_999)(4, {}) == pytest.approx(6.0, abs=1e-4)
    assert backoff()(10**6, {}) == 8.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after": "0"}, 0.5),
        ({"retry-after": "30"}, 30.0),
        ({"retry-after": "31"}, None),
        ({"Retry-After": formatdate(NOW + 9, usegmt=True)}, 9.0),
        ({"Retry-After": formatdate(NOW - 9, usegmt=True)}, 0.5),
        ({"retry-after": "60", "Retry-After-Ms": "1500"}, 1.5),
        ({"retry-after": "soon"}, 0.5),
        ({"retry-after": ""}, 0.5),
        ({"retry-after": "-1"}, 0.5),
        ({"retry-after": "9" * 400}, None),
        ({"retry-after-ms": "nan"}, 0.5),
    ],
)
def test_a_backend_that_says_how_long_is_believed_within_reason(headers: dict[str, str], seconds: float | None) -> None:
    assert backoff()(0, headers) == seconds


async def test_a_backend_that_wants_more_time_than_that_is_heard_by_the_client() -> None:
    answer = await Script([refused(429, retry_after="600"), OK]).run()
    assert (answer.status, answer.headers["retry-after"], answer.retries) == (429, "600", 0)


@pytest.mark.parametrize("replicas", [1, 2])
async def test_a_call_that_is_made_again_waits_while_calls_are_held_and_is_not_in_flight(
    replicas: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, script = Clock(monkeypatch), Script([refused(503), OK], replicas)
    script.gate.enter()  # as whoever dispatches a call does
    script.gate.close("trainer", 600.0, 3600.0)
    call = asyncio.create_task(script.run())
    assert await script.gate.drain(60.0)
    await until(lambda: script.gate.held)
    await clock.advance(500)  # the hold is no part of the call's time
    assert len(script.asked) == 1
    script.gate.open("trainer")
    answer = await call
    assert (answer.status, len(script.asked), script.gate.in_flight) == (200, 2, 1)


async def test_a_call_that_is_held_for_too_long_gets_the_backends_answer() -> None:
    script = Script([refused(503)])
    script.gate.enter()
    script.gate.close("trainer", 600.0, 0.01)
    assert ((await script.run()).status, script.gate.in_flight) == (503, 1)
    script.gate.open("trainer")
