"""What only a store in process shows of its queries."""

import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

from agentlightning.store import InMemoryLightningStore, LightningStore
from agentlightning.store.sql.store import MOST_CLAIMS
from agentlightning.types import EnqueueRolloutRequest


@pytest.fixture
async def store() -> AsyncIterator[LightningStore]:
    made = InMemoryLightningStore()
    yield made
    await made.close()


async def test_older_names_of_filters_warn_at_the_caller(store: LightningStore) -> None:
    for name, newer in (("status", "status_in"), ("rollout_ids", "rollout_id_in")):
        with pytest.warns(DeprecationWarning, match=newer) as caught:
            assert list(await store.query_rollouts(**{name: []})) == []
        assert Path(caught[0].filename) == Path(__file__)
    with warnings.catch_warnings(action="error"):
        await store.query_rollouts(status_in=[], rollout_id_in=[])


async def test_filters_take_any_collection(store: LightningStore) -> None:
    made = await store.enqueue_rollout(1)
    collections: list[Any] = [
        {"queuing"},
        {"queuing": 1}.keys(),
        {"queuing", "failed"},
        ("queuing",),
        iter(["queuing"]),
    ]
    for statuses in collections:
        assert list(await store.query_rollouts(status_in=statuses)) == [made]


async def test_one_call_claims_no_more_than_others_can_wait_for(store: LightningStore) -> None:
    await store.enqueue_many_rollouts([EnqueueRolloutRequest(input=i) for i in range(MOST_CLAIMS + 1)])
    assert len(await store.dequeue_many_rollouts(limit=2**40)) == MOST_CLAIMS
    assert len(await store.dequeue_many_rollouts(limit=2**40, wait=1)) == 1


async def test_span_of_the_sdk_keeps_no_nul_in_its_name(store: LightningStore) -> None:
    claim = await store.start_rollout(1)
    with TracerProvider().get_tracer("t").start_as_current_span("a\0b", attributes={"kept": "c\0d"}) as span:
        assert isinstance(span, ReadableSpan)
    await store.add_otel_span(claim.rollout_id, claim.attempt.attempt_id, span)
    (read,) = await store.query_spans(claim.rollout_id)
    assert (read.name, read.attributes) == ("a\ufffdb", {"kept": "c\0d"})
