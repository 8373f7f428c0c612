"""Laws: What no store keeps, and says so."""
# ruff: noqa: D103  # the name of a law is its statement

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

from pydantic import BaseModel

from agentlightning.errors import InvalidValue, NotFound
from agentlightning.store.base import LightningStore
from agentlightning.store.testing.suite import law, refused, running, span_of
from agentlightning.types import LLM, AttemptedRollout

Call: TypeAlias = Callable[[LightningStore, AttemptedRollout, Any], Awaitable[object]]
"""Gives a store a bad value, and what it needs of a claimed rollout."""

_NO_TEXT: Final[list[Any]] = [5, ["w"], "caf\udce9", "nul\0"]
_TEXTS: Final[dict[str, Call]] = {
    "resources_id of start_rollout": lambda store, _, bad: store.start_rollout(1, resources_id=bad),
    "worker_id of start_rollout": lambda store, _, bad: store.start_rollout(1, worker_id=bad),
    "resources_id of enqueue_rollout": lambda store, _, bad: store.enqueue_rollout(1, resources_id=bad),
    "mode": lambda store, _, bad: store.enqueue_rollout(1, mode=bad),
    "worker_id of dequeue_rollout": lambda store, _, bad: store.dequeue_rollout(bad),
    "rollout_id of start_attempt": lambda store, _, bad: store.start_attempt(bad),
    "worker_id of start_attempt": lambda store, claim, bad: store.start_attempt(claim.rollout_id, bad),
    "rollout_id of get_next_span_sequence_id": lambda store, _, bad: store.get_next_span_sequence_id(bad, "at"),
    "rollout_ids": lambda store, _, bad: store.wait_for_rollouts(rollout_ids=[bad], timeout=0),
    "rollout_id_in": lambda store, _, bad: store.query_rollouts(rollout_id_in=[bad]),
    "rollout_id_contains": lambda store, _, bad: store.query_rollouts(rollout_id_contains=bad),
    "sort_by": lambda store, _, bad: store.query_rollouts(sort_by=bad),
    "rollout_id of update_rollout": lambda store, _, bad: store.update_rollout(bad, metadata={}),
    "resources_id of update_rollout": lambda store, c, bad: store.update_rollout(c.rollout_id, resources_id=bad),
    "rollout_id of query_attempts": lambda store, _, bad: store.query_attempts(bad),
    "rollout_id of update_attempt": lambda store, _, bad: store.update_attempt(bad, "latest", metadata={}),
    "attempt_id": lambda store, c, bad: store.update_attempt(c.rollout_id, bad, metadata={}),
    "worker_id of update_attempt": lambda store, c, bad: store.update_attempt(c.rollout_id, "latest", worker_id=bad),
    "rollout_id of query_spans": lambda store, _, bad: store.query_spans(bad),
    "attempt_id of query_spans": lambda store, c, bad: store.query_spans(c.rollout_id, bad),
    "name of query_spans": lambda store, c, bad: store.query_spans(c.rollout_id, name=bad),
    "resources_id of update_resources": lambda store, _, bad: store.update_resources(bad, {}),
    "resources_id of query_resources": lambda store, _, bad: store.query_resources(resources_id=bad),
    "worker_id of get_worker_by_id": lambda store, _, bad: store.get_worker_by_id(bad),
    "worker_id of update_worker": lambda store, _, bad: store.update_worker(bad),
    "status": lambda store, c, bad: store.update_rollout(c.rollout_id, status=bad),
}
_SPAN_TEXTS: Final[dict[str, Call]] = {
    f"{field} of a span": lambda store, c, bad, field=field: store.add_span(span_of(c).model_copy(update={field: bad}))
    for field in ("rollout_id", "attempt_id", "span_id", "trace_id", "parent_id", "name")
}
_NO_COUNT: Final[list[Any]] = [2**70, -(2**70), "5", 2.5]
_COUNTS: Final[dict[str, Call]] = {
    "limit of dequeue_many_rollouts": lambda store, _, bad: store.dequeue_many_rollouts(limit=bad),
    "limit of query_rollouts": lambda store, _, bad: store.query_rollouts(limit=bad),
    "offset of query_spans": lambda store, c, bad: store.query_spans(c.rollout_id, offset=bad),
    "sequence_id of a span": lambda store, c, bad: store.add_span(span_of(c).model_copy(update={"sequence_id": bad})),
}
_NO_TIME: Final[list[Any]] = ["soon", float("nan"), float("inf"), 10**400, [1.0]]
_TIMES: Final[dict[str, Call]] = {
    "last_heartbeat_time": lambda store, c, bad: store.update_attempt(c.rollout_id, "latest", last_heartbeat_time=bad),
    "start_time of a span": lambda store, c, bad: store.add_span(span_of(c).model_copy(update={"start_time": bad})),
    "end_time of a span": lambda store, c, bad: store.add_span(span_of(c).model_copy(update={"end_time": bad})),
}
_VALUES: Final[dict[str, Call]] = {
    "input of start_rollout": lambda store, _, bad: store.start_rollout(bad),
    "input of enqueue_rollout": lambda store, _, bad: store.enqueue_rollout(bad),
    "input of update_rollout": lambda store, c, bad: store.update_rollout(c.rollout_id, input=bad),
    "config of start_rollout": lambda store, _, bad: store.start_rollout(1, config=bad),
    "config of enqueue_rollout": lambda store, _, bad: store.enqueue_rollout(1, config=bad),
    "config of update_rollout": lambda store, c, bad: store.update_rollout(c.rollout_id, config=bad),
    "metadata of start_rollout": lambda store, _, bad: store.start_rollout(1, metadata={"x": bad}),
    "metadata of update_attempt": lambda store, c, bad: store.update_attempt(
        c.rollout_id, "latest", metadata={"x": bad}
    ),
    "heartbeat_stats": lambda store, _, bad: store.update_worker("w", {"x": bad}),
    "attributes of a span": lambda store, c, bad: store.add_span(span_of(c).model_copy(update={"attributes": bad})),
    "resources": lambda store, _, bad: store.add_resources(
        {"llm": LLM(endpoint="http://h/v1", model="m", sampling_parameters={"x": bad})}
    ),
}


class _Model(BaseModel):
    x: Any


def _no_json() -> list[Any]:
    cycle: list[Any] = []
    cycle.append(cycle)
    depths: list[Any] = []
    for depth in (220, 2_000):  # more than the reader of JSON allows, and more than its writer
        nested: Any = 1
        for _ in range(depth):
            nested = [nested]
        depths.append(nested)
    return [cycle, _Model(x=cycle), *depths, 10**4_500, "caf\udce9", object()]


async def _refuses(store: LightningStore, *tables: tuple[dict[str, Call], list[Any]]) -> None:
    """Require `InvalidValue` of each call for each value, and a store that stays as it was and can be read."""
    claim = await running(store)
    for what, call, bad in [
        (what, call, bad) for calls, values in tables for what, call in calls.items() for bad in values
    ]:
        try:
            await refused(InvalidValue, call(store, claim, bad))
        except Exception as error:
            error.add_note(f"{what} was given a {type(bad).__name__}")
            raise
    assert list(await store.query_rollouts()) == [claim]
    assert await store.get_latest_resources() is None
    assert (await store.query_spans(claim.rollout_id)).total == 0
    assert (await store.query_workers()).total == 0


@law
async def text_of_another_type_or_that_not_every_store_can_keep_is_refused(store: LightningStore) -> None:
    await _refuses(store, (_TEXTS, _NO_TEXT), (_SPAN_TEXTS, _NO_TEXT))


@law
async def numbers_out_of_range_are_refused(store: LightningStore) -> None:
    await _refuses(store, (_COUNTS, _NO_COUNT), (_TIMES, _NO_TIME))


@law
async def values_that_could_not_be_read_back_are_refused(store: LightningStore) -> None:
    await _refuses(store, (_VALUES, _no_json()))


@law
async def list_that_was_forgotten_around_a_text_is_noticed(store: LightningStore) -> None:
    text: Any = "failed"
    await refused(InvalidValue, store.query_rollouts(status_in=text))
    await refused(InvalidValue, store.wait_for_rollouts(rollout_ids=text, timeout=0))


@law
async def unknown_ids_are_named_as_programs_for_v03_expect(store: LightningStore) -> None:
    claim, queued = await running(store), await store.enqueue_rollout(1)
    assert re.search("Item.*does not exist", await refused(NotFound, store.update_rollout("ro-x", metadata={})))
    assert "Rollout ro-x not found" in await refused(NotFound, store.start_attempt("ro-x"))
    assert "Attempt at-x not found" in await refused(NotFound, store.update_attempt(claim.rollout_id, "at-x"))
    assert "No attempts found" in await refused(NotFound, store.update_attempt(queued.rollout_id, "latest"))


@law
async def an_empty_id_names_no_worker(store: LightningStore) -> None:
    await refused(InvalidValue, store.update_worker(""))
    await refused(InvalidValue, store.renew_leases("", []))
    assert await store.get_worker_by_id("") is None
    assert (await store.query_workers()).total == 0


@law
async def refusals_of_queries_name_the_parameter(store: LightningStore) -> None:
    bad = "nul\0"
    for name, query in {
        "rollout_id_in": store.query_rollouts(rollout_id_in=[bad]),
        "rollout_id_contains": store.query_rollouts(rollout_id_contains=bad),
        "name": store.query_spans("ro", name=bad),
        "worker_id_contains": store.query_workers(worker_id_contains=bad),
        "resources_id": store.query_resources(resources_id=bad),
    }.items():
        assert (await refused(InvalidValue, query)).startswith(f"{name} is ")
