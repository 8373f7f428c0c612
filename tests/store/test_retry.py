"""What fails for now is tried again; what is refused is not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from agentlightning.errors import LeaseLost, StoreClosed, StoreError, StoreUnreachable, TooBusy
from agentlightning.store.retry import may_pass, persistently


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentlightning.store.retry.FIRST_PAUSE", 0.001)


def kinds(base: type[StoreError]) -> Iterator[type[StoreError]]:
    yield base
    for kind in base.__subclasses__():
        yield from kinds(kind)


PASSING = (StoreError, TooBusy, StoreUnreachable)


@pytest.mark.parametrize("kind", [kind for kind in kinds(StoreError) if kind.__module__ == StoreError.__module__])
def test_requests_at_fault_and_a_closed_store_stay_as_they_are(kind: type[StoreError]) -> None:
    """A status of 4xx says that the request is at fault, but for 429: its time."""
    at_fault = 400 <= kind.status < 500 and kind.status != 429
    assert may_pass(kind("x")) == (kind in PASSING) == (not at_fault and kind is not StoreClosed)


class Flaky:
    """A store's operation that fails some times."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    async def __call__(self) -> int:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.calls


@pytest.mark.parametrize("kind", [*PASSING, ConnectionError, TimeoutError])
async def test_what_may_pass_is_asked_again(kind: type[Exception]) -> None:
    assert await persistently(Flaky(*[kind("not now")] * 6), what="ask", patience=10.0) == 7


@pytest.mark.parametrize("kind", [LeaseLost, StoreClosed, KeyError])
async def test_a_refusal_is_final(kind: type[Exception]) -> None:
    refused = Flaky(kind("never"))
    with pytest.raises(kind, match="never"):
        await persistently(refused, what="ask", patience=10.0)
    assert refused.calls == 1


async def test_patience_ends_and_pauses_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def counted(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(seconds)

    monkeypatch.setattr("agentlightning.store.retry.asyncio.sleep", counted)
    monkeypatch.setattr("agentlightning.store.retry.LONGEST_PAUSE", 0.01)
    away = Flaky(*[StoreError("away")] * 10_000)
    with pytest.raises(StoreError, match="away"):
        await persistently(away, what="ask", patience=0.1)
    assert sum(pauses) <= 0.1 * 1.25
    assert pauses[0] < pauses[2] < pauses[-1] <= 0.01 * 1.25
    assert away.calls == len(pauses) + 1


async def test_without_patience_it_is_asked_once() -> None:
    away = Flaky(StoreError("away"))
    with pytest.raises(StoreError, match="away"):
        await persistently(away, what="ask", patience=0.0)
    assert away.calls == 1


async def test_a_call_that_hangs_counts_as_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentlightning.store.retry.CALL_TIMEOUT", 0.01)

    async def hang() -> None:
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await persistently(hang, what="ask", patience=0.05)
