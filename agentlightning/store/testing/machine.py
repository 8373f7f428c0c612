"""A state machine that drives several stores with one sequence of calls and demands equal answers.

It needs Hypothesis. With pytest:

```python
@asynccontextmanager
async def stores():
    yield {"SQLite": InMemoryLightningStore(), "mine": MyStore()}

TestStores = comparing(stores).TestCase
```
"""
# ruff: noqa: D102  # the name of a rule is the operation that it calls

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Final, TypeAlias, cast

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from agentlightning.store.base import LightningStore
from agentlightning.store.testing.comparison import Built, Comparison, Id, Plain, Told
from agentlightning.types import (
    LLM,
    EnqueueRolloutRequest,
    Event,
    Link,
    OtelResource,
    PromptTemplate,
    RolloutConfig,
    Span,
    SpanContext,
    TraceStatus,
)
from agentlightning.types.lifecycle import ATTEMPT_STATUSES, ROLLOUT_STATUSES

OpenStores: TypeAlias = Callable[[], AbstractAsyncContextManager[Mapping[str, LightningStore]]]
"""Opens empty stores, by what to call them."""

_PATIENCE: Final = 60.0

_workers = st.sampled_from([None, "", "w1", "w2", "runner/ä"])
_named_workers = st.sampled_from(["w1", "w2", "runner/ä", "", "..", "search", "nobody %2F?#"])
_modes = st.sampled_from([None, "train", "val", "test"])
_picks = st.integers(0, 5)
_orders = st.sampled_from(["asc", "desc"])
_logics = st.sampled_from(["and", "or"])
_pages = {"limit": st.sampled_from([-1, -1, 0, 1, 2, 5, -2]), "offset": st.sampled_from([0, 0, 1, 3, 50, -1])}
_texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
_numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
_json = st.recursive(
    st.none() | st.booleans() | _numbers | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=6,
)
_metadata = st.none() | st.dictionaries(_texts, _json, max_size=2)
_attributes = st.dictionaries(
    _texts, _json | st.lists(st.integers(-(2**40), 2**40), min_size=16, max_size=20), max_size=3
)
_configs = st.builds(
    RolloutConfig,
    timeout_seconds=st.sampled_from([None, 3600, 7200.5]),
    unresponsive_seconds=st.sampled_from([None, 3600.0]),
    max_attempts=st.integers(1, 3),
    retry_condition=st.lists(st.sampled_from(["failed", "timeout", "unresponsive"]), unique=True, max_size=3),
)
_span_values = st.fixed_dictionaries(
    {
        "sequence_id": st.integers(0, 6),
        "span_id": st.sampled_from([f"{n:016x}" for n in range(12)]),
        "trace_id": st.sampled_from(["0" * 32, "ab" * 16]),
        "parent_id": st.sampled_from([None, "cd" * 8, "ef" * 8]),
        "name": st.sampled_from(["step", "call.one", "call.two", "Ünï", ""]),
        "start_time": st.sampled_from([None, 0.1 + 0.2, 1.0, 2.0]),
        "end_time": st.sampled_from([None, 3.0000000000000004]),
        "attributes": _attributes,
    },
    optional={"kind": st.sampled_from(["CLIENT", 3]), "more": _json},
)
_resources = st.dictionaries(
    st.sampled_from(["llm", "prompt"]),
    st.builds(LLM, endpoint=_texts, model=_texts, sampling_parameters=st.dictionaries(_texts, _json, max_size=2))
    | st.builds(PromptTemplate, template=_texts, engine=st.just("f-string")),
    max_size=2,
)
_resources_ids = st.sampled_from(["rs-mine", "a/b", "é %", "latest"])


def _sorted_by(*fields: str) -> dict[str, st.SearchStrategy[Any]]:
    return {
        "sort_by": st.none() | st.sampled_from([*fields, "nothing"]),
        "sort_order": _orders,
        **_pages,
    }


def _some(required: dict[str, Any], **optional: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(required, optional=optional)


def comparing(open_stores: OpenStores) -> type[StoreMachine]:
    """Return a state machine for Hypothesis that compares stores.

    Args:
        open_stores: Opens the stores of one run; the first is what the others are compared with.
    """
    return type("Stores", (StoreMachine,), {"open_stores": staticmethod(open_stores)})


class StoreMachine(RuleBasedStateMachine):
    """Every operation, with arguments that are mostly good, in any order."""

    @staticmethod
    def open_stores() -> AbstractAsyncContextManager[Mapping[str, LightningStore]]:
        """Open the stores of one run."""
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        stores = self._run(self._stack.enter_async_context(type(self).open_stores()))
        self._comparison = Comparison(stores)
        self._rollouts: list[Id] = []
        self._attempts: list[tuple[Id, Id]] = []

    def teardown(self) -> None:
        """Close the stores."""
        try:
            self._run(self._stack.aclose())
        finally:
            self._runner.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(_PATIENCE):
                return await work

        return self._runner.run(bounded())

    def call(self, method: str, *arguments: Any, **named: Any) -> Plain:
        """Call all stores and remember the ids in their answer."""
        answer = self._run(self._comparison.call(method, *arguments, **named))
        self._remember(answer)
        return answer

    def _remember(self, answer: Plain) -> None:
        for item in cast("list[Any]", answer)[1:] if isinstance(answer, list) else [answer]:  # the first is its type
            rollout = cast("dict[str, Any]", item) if isinstance(item, dict) else {}
            if rollout.get("type") not in {"Rollout", "AttemptedRollout"}:
                continue
            if rollout["rollout_id"] not in self._rollouts:
                self._rollouts.append(rollout["rollout_id"])
            attempt = rollout.get("attempt")
            if attempt and (pair := (rollout["rollout_id"], attempt["attempt_id"])) not in self._attempts:
                self._attempts.append(pair)

    def _rollout(self, pick: int) -> Id | str:
        """Return one of the latest rollouts, or an id that no store has."""
        known = [*reversed(self._rollouts)][:5]
        return known[pick] if pick < len(known) else "ro-unknown"

    def _attempt(self, pick: int) -> tuple[Id | str, Id | str]:
        known = [*reversed(self._attempts)][:5]
        return known[pick] if pick < len(known) else (self._rollout(pick - len(known)), "at-unknown")

    def _span(self, pick: int, values: dict[str, Any]) -> Built:
        rollout_id, attempt_id = self._attempt(pick)
        return Built(_span_of, {**values, "rollout_id": rollout_id, "attempt_id": attempt_id})

    # -- rollouts ------------------------------------------------------------------------------------------------------

    @rule(
        requests=st.lists(
            st.builds(EnqueueRolloutRequest, input=_json, mode=_modes, config=st.none() | _configs, metadata=_metadata),
            max_size=3,
        )
    )
    def enqueue_many_rollouts(self, requests: list[EnqueueRolloutRequest]) -> None:
        self.call("enqueue_many_rollouts", requests)

    @rule(input=_json, mode=_modes, resources_id=st.none() | _resources_ids)
    def enqueue_rollout(self, input: Any, mode: Any, resources_id: str | None) -> None:
        self.call("enqueue_rollout", input, mode, resources_id)

    @rule(input=_json, mode=_modes, config=_configs, metadata=_metadata, worker_id=_workers)
    def start_rollout(self, **arguments: Any) -> None:
        self.call("start_rollout", **arguments)

    @rule(worker_id=_workers)
    def dequeue_rollout(self, worker_id: str | None) -> None:
        self.call("dequeue_rollout", worker_id)

    @rule(limit=st.integers(-1, 3), worker_id=_workers)
    def dequeue_many_rollouts(self, limit: int, worker_id: str | None) -> None:
        self.call("dequeue_many_rollouts", limit=limit, worker_id=worker_id)

    @rule(pick=_picks, worker_id=_workers)
    def start_attempt(self, pick: int, worker_id: str | None) -> None:
        self.call("start_attempt", self._rollout(pick), worker_id)

    @rule(
        pick=_picks,
        changes=_some(
            {},
            input=_json,
            mode=_modes,
            resources_id=st.none() | _resources_ids,
            status=st.sampled_from([*ROLLOUT_STATUSES, "bogus", None]),
            config=_configs,
            metadata=_metadata,
        ),
    )
    def update_rollout(self, pick: int, changes: dict[str, Any]) -> None:
        self.call("update_rollout", self._rollout(pick), **changes)

    @rule(
        pick=_picks,
        latest=st.booleans(),
        changes=_some(
            {},
            status=st.sampled_from([*ATTEMPT_STATUSES, "requeuing"]),
            worker_id=_workers,
            last_heartbeat_time=st.none() | st.floats(0, 1e8),
            metadata=_metadata,
        ),
    )
    def update_attempt(self, pick: int, latest: bool, changes: dict[str, Any]) -> None:
        rollout_id, attempt_id = self._attempt(pick)
        self.call("update_attempt", rollout_id, "latest" if latest else attempt_id, **changes)

    @rule(
        filters=_some(
            {"filter_logic": _logics},
            status_in=st.lists(st.sampled_from(ROLLOUT_STATUSES), max_size=3),
            rollout_id_contains=st.sampled_from(["ro-", "", "nowhere", "%", "_"]),
            **_sorted_by("start_time", "end_time", "mode", "status"),
        ),
        picks=st.none() | st.lists(_picks, max_size=3),
        tail=st.none() | _picks,
    )
    def query_rollouts(self, filters: dict[str, Any], picks: list[int] | None, tail: int | None) -> None:
        if picks is not None:
            filters = {**filters, "rollout_id_in": [self._rollout(pick) for pick in picks]}
        if tail is not None and isinstance(rollout_id := self._rollout(tail), Id):
            filters = {**filters, "rollout_id_contains": Id(rollout_id.kind, rollout_id.number, tail=True)}
        self.call("query_rollouts", **filters)

    @rule(pick=_picks)
    def get_rollout_by_id(self, pick: int) -> None:
        self.call("get_rollout_by_id", self._rollout(pick))
        self.call("get_latest_attempt", self._rollout(pick))

    @rule(pick=_picks, paging=_some({}, **_sorted_by("sequence_id", "start_time", "end_time", "status", "worker_id")))
    def query_attempts(self, pick: int, paging: dict[str, Any]) -> None:
        self.call("query_attempts", self._rollout(pick), **paging)

    @rule(picks=st.lists(_picks, max_size=4), timeout=st.sampled_from([0, -1.0]))
    def wait_for_rollouts(self, picks: list[int], timeout: float) -> None:
        self.call("wait_for_rollouts", rollout_ids=[self._rollout(pick) for pick in picks], timeout=timeout)

    @rule(limit=st.integers(0, 3), again=st.booleans())
    def read_finished_rollouts(self, limit: int, again: bool) -> None:
        cursor = 0 if again else Told("finished", 0)
        tells = {"finished": "cursor"}
        self.call("read_finished_rollouts", cursor=cursor, limit=limit, tells=tells)

    # -- spans ---------------------------------------------------------------------------------------------------------

    @rule(pick=_picks, values=_span_values)
    def add_span(self, pick: int, values: dict[str, Any]) -> None:
        self.call("add_span", self._span(pick, values))

    @rule(spans=st.lists(st.tuples(_picks, _span_values), max_size=4))
    def add_many_spans(self, spans: list[tuple[int, dict[str, Any]]]) -> None:
        self.call("add_many_spans", [self._span(pick, values) for pick, values in spans])

    @rule(picks=st.lists(_picks, min_size=1, max_size=4))
    def get_many_span_sequence_ids(self, picks: list[int]) -> None:
        self.call("get_many_span_sequence_ids", [self._attempt(pick) for pick in picks])

    @rule(
        pick=_picks,
        attempt=st.sampled_from(["all", "latest", "one"]),
        filters=_some(
            {"filter_logic": _logics},
            trace_id=st.sampled_from(["0" * 32, "none"]),
            trace_id_contains=st.just("ba"),
            span_id=st.just(f"{3:016x}"),
            span_id_contains=st.just("00"),
            parent_id=st.sampled_from(["cd" * 8, "none"]),
            parent_id_contains=st.just("dc"),
            name=st.sampled_from(["step", "call.one"]),
            name_contains=st.sampled_from(["call", "CALL", "ï", "", "%"]),
            **_sorted_by("sequence_id", "trace_id", "span_id", "parent_id", "name", "start_time", "end_time"),
        ),
    )
    def query_spans(self, pick: int, attempt: str, filters: dict[str, Any]) -> None:
        rollout_id, attempt_id = self._attempt(pick)
        named = {"all": [], "latest": ["latest"], "one": [attempt_id]}[attempt]
        self.call("query_spans", rollout_id, *named, **filters)

    @rule(limit=st.integers(0, 3), pick=st.none() | _picks)
    def read_spans(self, limit: int, pick: int | None) -> None:
        rollout_id = None if pick is None else self._rollout(pick)
        name = f"spans of {rollout_id}"
        tells = {name: "cursor"}
        self.call("read_spans", rollout_id=rollout_id, cursor=Told(name, 0), limit=limit, tells=tells)

    # -- resources -----------------------------------------------------------------------------------------------------

    @rule(resources=_resources)
    def add_resources(self, resources: Any) -> None:
        self.call("add_resources", resources)

    @rule(resources_id=_resources_ids, resources=_resources, expected=st.none() | st.integers(0, 2))
    def update_resources(self, resources_id: str, resources: Any, expected: int | None) -> None:
        self.call("update_resources", resources_id, resources, expected_version=expected)

    @rule(resources_id=_resources_ids, version=st.none() | st.integers(0, 3))
    def get_resources_by_id(self, resources_id: str, version: int | None) -> None:
        self.call("get_resources_by_id", resources_id, version)
        self.call("get_latest_resources")

    @rule(
        filters=_some(
            {},
            resources_id=_resources_ids,
            resources_id_contains=st.sampled_from(["rs-", "/", "é"]),
            version=st.integers(0, 2),
            **_sorted_by("create_time", "update_time", "version"),
        )
    )
    def query_resources(self, filters: dict[str, Any]) -> None:
        self.call("query_resources", **filters)

    # -- workers -------------------------------------------------------------------------------------------------------

    @rule(worker_id=_named_workers, stats=_some({}, heartbeat_stats=st.dictionaries(_texts, _json, max_size=2)))
    def update_worker(self, worker_id: str, stats: dict[str, Any]) -> None:
        self.call("update_worker", worker_id, **stats)

    @rule(worker_id=_named_workers, picks=st.lists(_picks, max_size=3), releases=st.booleans())
    def renew_leases(self, worker_id: str, picks: list[int], releases: bool) -> None:
        held = [self._attempt(pick) for pick in picks]
        as_of = Told(f"renewal of {worker_id}", None) if releases else None
        tells = {f"renewal of {worker_id}": "time"}
        self.call("renew_leases", worker_id, held, as_of=as_of, tells=tells)

    @rule(worker_id=_named_workers)
    def release_worker(self, worker_id: str) -> None:
        self.call("release_worker", worker_id)

    @rule(worker_id=_named_workers)
    def get_worker_by_id(self, worker_id: str) -> None:
        self.call("get_worker_by_id", worker_id)

    @rule(
        filters=_some(
            {"filter_logic": _logics},
            status_in=st.lists(st.sampled_from(["idle", "busy", "unknown"]), max_size=2),
            worker_id_contains=st.sampled_from(["w", "/", "ä", ""]),
            **_sorted_by("worker_id", "status", "last_heartbeat_time", "last_dequeue_time", "last_busy_time"),
        )
    )
    def query_workers(self, filters: dict[str, Any]) -> None:
        self.call("query_workers", **filters)

    # -- the rest ------------------------------------------------------------------------------------------------------

    @rule()
    def statistics(self) -> None:
        self.call("statistics")

    @rule(
        pick=_picks,
        refused=st.sampled_from(
            [
                ("query_rollouts", {"limit": "5"}),
                ("query_rollouts", {"status_in": "failed"}),
                ("query_rollouts", {"sort_by": "input"}),
                ("query_rollouts", {"rollout_id_contains": 5}),
                ("dequeue_many_rollouts", {"limit": 2.5}),
                ("dequeue_many_rollouts", {"worker_id": "caf\udce9"}),
                ("start_rollout", {"input": float("nan")}),
                ("start_rollout", {"input": {"x": [b"bytes"]}}),
                ("start_rollout", {"input": 1, "config": {"max_attempts": 0}}),
                ("enqueue_rollout", {"input": object()}),
                ("enqueue_rollout", {"input": 1, "mode": "bogus"}),
                ("add_resources", {"resources": {"llm": 5}}),
                ("get_worker_by_id", {"worker_id": 5}),
                ("wait_for_rollouts", {"rollout_ids": "ro-x", "timeout": 0}),
                ("read_spans", {"limit": 0}),
                ("read_finished_rollouts", {"cursor": "x"}),
                ("update_worker", {"worker_id": "w1", "heartbeat_stats": None}),
            ]
        ),
    )
    def refused(self, pick: int, refused: tuple[str, dict[str, Any]]) -> None:
        method, arguments = refused
        answer = self.call(method, **arguments)
        assert set(answer) == {"error"}, f"{method} took {arguments}"


def _span_of(**values: Any) -> Span:
    context = SpanContext(trace_id=values["trace_id"], span_id=values["span_id"], is_remote=False, trace_state={})
    return Span.model_construct(
        **values,
        status=TraceStatus(status_code="OK"),
        events=[Event(name="event", attributes={"n": 1}, timestamp=1.5)],
        links=[Link(context=context, attributes=None)],
        context=context,
        parent=None,
        resource=OtelResource(attributes={"service.name": "test"}, schema_url=""),
    )
