from __future__ import annotations

import asyncio

import pytest

from agentlightning.errors import LeaseLost, StoreError, StoreUnreachable, TooBusy
from agentlightning.runner.patience import persistently


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentlightning.runner.patience.FIRST_PAUSE", 0.001)


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


@pytest.mark.parametrize("error", [StoreUnreachable("away"), TooBusy("busy"), OSError("reset"), TimeoutError()])
async def test_what_may_pass_is_asked_again(error: Exception) -> None:
    assert await persistently(Flaky(*[error] * 6), what="ask", patience=10.0) == 7


async def test_a_refusal_is_final() -> None:
    refused = Flaky(LeaseLost("ended"))
    with pytest.raises(LeaseLost):
        await persistently(refused, what="ask", patience=10.0)
    assert refused.calls == 1


async def test_patience_ends_and_pauses_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def counted(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(seconds)

    monkeypatch.setattr("agentlightning.runner.patience.asyncio.sleep", counted)
    monkeypatch.setattr("agentlightning.runner.patience.LONGEST_PAUSE", 0.01)
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
    monkeypatch.setattr("agentlightning.runner.patience.CALL_TIMEOUT", 0.01)

    async def hang() -> None:
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await persistently(hang, what="ask", patience=0.05)
