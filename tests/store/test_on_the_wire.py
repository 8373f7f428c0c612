"""What a server leaves as JSON is what the store itself would have made of it."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import pytest
from pydantic_core import to_json
from rest import wire_span

from agentlightning.errors import InvalidValue
from agentlightning.store import InMemoryLightningStore, LightningStoreClient
from agentlightning.store.base import OPERATIONS
from agentlightning.store.span_json import SpansOnTheWire
from agentlightning.store.wire import wire_of
from agentlightning.types import Event, PaginatedResult, RolloutConfig, Span
from tests.store.serving import served

REWARD = {"name": "reward", "attributes": {"value": 1}, "timestamp": 1.5, "unknown": True}


def request(*spans: dict[str, Any]) -> SpansOnTheWire:
    arguments = wire_of(OPERATIONS["add_many_spans"]).decode_arguments({}, "", to_json({"spans": spans}))
    return arguments["spans"]


async def test_spans_of_a_request_are_spans_to_whoever_looks_and_stay_as_they_came() -> None:
    spans = request(wire_span("ro", "at", "a", events=[REWARD]), wire_span("ro", "at", "b", late=True))
    came = deepcopy(spans.values)
    assert [type(span) for span in spans] == [Span, Span]
    assert spans[0].events == [Event.model_validate(REWARD | {"attributes": {"value": 1}})]
    assert (len(spans), spans[1].span_id, [span.span_id for span in spans[:1]]) == (2, "b", ["a"])
    assert spans.values == came


@pytest.mark.parametrize("looked_at", [False, True])
async def test_spans_of_a_request_are_kept_as_the_spans_they_are(looked_at: bool) -> None:
    store = InMemoryLightningStore()
    claims = [await store.start_rollout(number) for number in range(2)]
    ids = [(claim.rollout_id, claim.attempt.attempt_id) for claim in claims]
    context = {"trace_id": "7" * 32, "span_id": "8" * 16, "is_remote": True, "trace_state": {"a": "b"}}
    unusual = {"events": [REWARD], "context": context, "parent": context, "mine": 1, "start_time_ns": 5}
    spans = request(wire_span(*ids[0], "a"), wire_span(*ids[0], "b", **unusual), wire_span(*ids[0], "a", name="again"))
    assert not looked_at or len(list(spans)) == 3
    assert [span.span_id for span in await store.add_many_spans(spans)] == ["a", "b"]
    await store.add_many_spans(list(request(wire_span(*ids[1], "a"), wire_span(*ids[1], "b", **unusual))))
    kept, same = [
        [span.model_copy(update={"rollout_id": "", "attempt_id": ""}) for span in await store.query_spans(rollout_id)]
        for rollout_id, _ in ids
    ]
    assert kept == same
    await store.close()


async def test_a_late_span_of_a_request_is_said_to_be_late() -> None:
    store = InMemoryLightningStore()
    claim = await store.start_rollout(1)
    await store.update_attempt(claim.rollout_id, "latest", status="succeeded")
    async with served(store) as url:
        client = LightningStoreClient(url)
        sent = list(request(wire_span(claim.rollout_id, claim.attempt.attempt_id, "a")))
        stored = await client.add_many_spans(sent)
        assert [span.model_extra for span in stored] == [{"late": True}]
        assert [span.model_extra for span in sent] == [{}]
        await client.close()
    await store.close()


@pytest.mark.parametrize("field", ["name", "trace_id", "span_id"])
async def test_a_text_that_cannot_be_kept_is_refused_by_its_name(field: str) -> None:
    store = InMemoryLightningStore()
    claim = await store.start_rollout(1)
    spans = request(wire_span(claim.rollout_id, claim.attempt.attempt_id, "a") | {field: "a\0b"})
    with pytest.raises(InvalidValue, match=f"^{field} is "):
        await store.add_many_spans(spans)
    await store.close()


async def test_plain_values_are_the_json_of_the_models() -> None:
    store = InMemoryLightningStore()
    await store.start_rollout({"task": 1}, metadata={"of": "mine"})
    await store.enqueue_rollout([1.5], config=RolloutConfig(max_attempts=3, retry_condition=["failed"]))
    plain, models = [await view.query_rollouts() for view in (store.in_plain_values(), store)]
    encode = wire_of(OPERATIONS["query_rollouts"]).encode_answer
    assert encode(plain) == encode(models)
    assert [type(item) for item in plain.items] == [dict, dict]
    await store.close()


class Counting(InMemoryLightningStore):
    """A store that looks into what its base answers."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    async def query_rollouts(self, **asked: Any) -> PaginatedResult[Any]:
        page = await super().query_rollouts(**asked)
        self.seen += [rollout.rollout_id for rollout in page]
        return page

    async def add_many_spans(self, spans: Sequence[Span]) -> Sequence[Span]:
        self.seen += [span.span_id for span in spans]
        return await super().add_many_spans(spans)


async def test_a_subclass_may_look_into_what_it_is_given_and_what_its_base_answers() -> None:
    store = Counting()
    claim = await store.start_rollout(1)
    async with served(store) as url:
        client = LightningStoreClient(url)
        await client.add_many_spans(list(request(wire_span(claim.rollout_id, claim.attempt.attempt_id, "a"))))
        found = await client.query_rollouts()
        await client.close()
    assert store.seen == ["a", claim.rollout_id]
    assert [type(rollout) for rollout in found] == [type(claim)]
    await store.close()
