"""What fails for now is tried again; what is refused is not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agentlightning.errors import StoreClosed, StoreError, StoreUnreachable, TooBusy
from agentlightning.store.retry import ATTEMPTS, may_pass, retrying


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


@pytest.mark.parametrize("kind", [*PASSING, ConnectionError, TimeoutError])
async def test_a_failure_that_passes_is_not_seen(kind: type[Exception]) -> None:
    failures = [kind("not now") for _ in range(ATTEMPTS - 1)]

    async def call() -> int:
        if failures:
            raise failures.pop()
        return 1

    assert await retrying(call, what="call") == 1


@pytest.mark.parametrize(("kind", "calls"), [(TooBusy, ATTEMPTS), (StoreClosed, 1), (KeyError, 1)])
async def test_a_failure_that_stays_is_raised(kind: type[Exception], calls: int) -> None:
    made = 0

    async def call() -> None:
        nonlocal made
        made += 1
        raise kind("never")

    with pytest.raises(kind, match="never"):
        await retrying(call, what="call")
    assert made == calls
