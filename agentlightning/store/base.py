"""The store's interface: the operations, and the sugar over them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final, Literal

from opentelemetry.sdk.trace import ReadableSpan
from pydantic import ValidationError
from typing_extensions import TypedDict  # pydantic reads no other below Python 3.12

from agentlightning.errors import InvalidValue
from agentlightning.store.operations import Operation, alias, operation, operations_of, routes_of
from agentlightning.types import (
    Attempt,
    AttemptedRollout,
    AttemptStatus,
    EnqueueRolloutRequest,
    FinishedRollouts,
    LeaseRenewal,
    NamedResources,
    PaginatedResult,
    ResourcesUpdate,
    Rollout,
    RolloutConfig,
    RolloutMode,
    RolloutStatus,
    Span,
    SpanBatch,
    TaskInput,
    Worker,
    WorkerStatus,
)
from agentlightning.types.lifecycle import FINISHED, QUEUED, RUNNING


class Unset:
    """The type of `UNSET`: an argument that was not passed, where None is a value."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "UNSET"

    def __reduce__(self) -> str:
        return "UNSET"


UNSET: Final[Any] = Unset()
"""Stands for "leave this field as it is"; typed `Any` so that it fits every parameter as a default."""


class LightningStoreCapabilities(TypedDict, total=False):
    """What a store can do; what is absent it cannot.

    Attributes:
        thread_safe: Several threads may call it.
        async_safe: Several coroutines may call it.
        zero_copy: All processes see one copy of the data.
        otlp_traces: It takes OpenTelemetry spans over HTTP.
    """

    thread_safe: bool
    async_safe: bool
    zero_copy: bool
    otlp_traces: bool


class LightningStoreStatistics(TypedDict, total=False):
    """How much a store holds; `uptime` in seconds."""

    name: str
    total_rollouts: int
    total_attempts: int
    total_spans: int
    total_resources: int
    total_workers: int
    uptime: float


class LightningStore:
    """Where tasks, attempts, spans, resources and workers live: the one contract between algorithms and runners.

    Times are Unix seconds. An unknown id raises `NotFound` where it must exist and gives None or an empty page where
    it is only looked for. Queries return pages; `limit=-1` means all.
    """

    @property
    def capabilities(self) -> LightningStoreCapabilities:
        """What this store can do."""
        return {"thread_safe": False, "async_safe": False, "zero_copy": False, "otlp_traces": False}

    def otlp_traces_endpoint(self) -> str:
        """Return the URL that takes OTLP spans.

        Raises:
            NotImplementedError: The store has no such endpoint.
        """
        raise NotImplementedError(f"{type(self).__name__} takes no OTLP spans; serve it and ask the server")

    async def close(self) -> None:
        """Finish what was accepted and release everything; closing twice is fine."""

    def keyed(self, key: str, fingerprint: bytes) -> LightningStore:
        """Return a view of this store for one operation that happens at most once for the key.

        A store that remembers no keys returns itself: served, it does a request that is sent again a second time.

        Args:
            key: The caller's name for its request.
            fingerprint: Digest of all that the request says, so that a key used for two requests is found out.
        """
        return self

    def in_plain_values(self) -> LightningStore:
        """Return a view of this store for one who writes answers as JSON at once; of use for `IN_PLAIN_VALUES` only.

        Their answers may hold what JSON makes of rollouts, where others hold the rollouts.
        """
        return self

    async def withdraw(self, key: str) -> None:
        """Undo the claims of the operation that was called with this key, or keep it from happening later.

        For a caller that went away when its answer may have been on the way. What somebody works on stays.
        """

    # -- the operations --------------------------------------------------------------------------------------------

    @operation("GET", "/statistics", mutates=False)
    async def statistics(self) -> LightningStoreStatistics:
        """Count what the store holds."""
        raise NotImplementedError

    @operation("POST", "/rollouts", status=201)
    async def start_rollout(
        self,
        input: TaskInput,
        mode: RolloutMode | None = None,
        resources_id: str | None = None,
        config: RolloutConfig | None = None,
        metadata: dict[str, Any] | None = None,
        worker_id: str | None = None,
    ) -> AttemptedRollout:
        """Create a rollout with its first attempt at once, past the queue.

        Args:
            input: The task.
            mode: The split it belongs to.
            resources_id: The resources to run with; None takes the latest there are, if any.
            config: When the attempt counts as lost and what is tried again.
            metadata: Free to use.
            worker_id: Who runs it.

        Raises:
            InvalidValue: The input has no JSON form.
        """
        raise NotImplementedError

    @operation("POST", "/rollouts/cancel", repeatable=True, role="admin")
    async def cancel_rollouts(self, rollout_ids: Sequence[str]) -> Sequence[Rollout]:
        """Cancel those rollouts that have not finished, at one moment; returns all of them as they are then.

        Raises:
            NotFound: One of them does not exist; none is cancelled.
        """
        raise NotImplementedError

    @operation("POST", "/queues/rollouts/enqueue", status=201, role="admin")
    async def enqueue_many_rollouts(self, rollouts: Sequence[EnqueueRolloutRequest]) -> Sequence[Rollout]:
        """Append rollouts to the queue, all or none; returns them in order.

        Raises:
            InvalidValue: An input has no JSON form.
        """
        raise NotImplementedError

    @operation("POST", "/queues/rollouts/dequeue")
    async def dequeue_many_rollouts(
        self, *, limit: int = 1, worker_id: str | None = None, wait: float = 0.0
    ) -> Sequence[AttemptedRollout]:
        """Claim up to `limit` rollouts, oldest first, each with a new attempt.

        Args:
            limit: The most to claim; 0 or less claims none.
            worker_id: Who claims.
            wait: Seconds to wait for work when the queue is empty. The store wakes the caller; it does not poll.
        """
        raise NotImplementedError

    @operation("POST", "/rollouts/{rollout_id}/attempts", status=201)
    async def start_attempt(self, rollout_id: str, worker_id: str | None = None) -> AttemptedRollout:
        """Start another attempt, whatever the rollout's status and `max_attempts`: an explicit restart.

        Raises:
            NotFound: No such rollout.
        """
        raise NotImplementedError

    @operation("POST", "/spans/bulk", repeatable=True, status=201, echoes="spans", role="agent")
    async def add_many_spans(self, spans: Sequence[Span]) -> Sequence[Span]:
        """Write spans; returns those that were new (same rollout, attempt and span id means the same span).

        A span revives an unresponsive attempt that no newer one replaced. Spans of ended attempts are kept.

        Raises:
            NotFound: A span names a rollout or attempt that does not exist; nothing is written.
        """
        raise NotImplementedError

    @operation("POST", "/spans/next/bulk", role="agent")
    async def get_many_span_sequence_ids(self, rollout_attempt_ids: Sequence[tuple[str, str]]) -> Sequence[int]:
        """Reserve the next sequence id for each pair, in order; ids count per rollout from 1.

        Raises:
            NotFound: No such rollout.
        """
        raise NotImplementedError

    @operation("POST", "/waits/rollouts", mutates=False)
    async def wait_for_rollouts(self, *, rollout_ids: list[str], timeout: float | None = None) -> list[Rollout]:
        """Wait until all of the rollouts are finished, or the time is up; returns the finished ones in order.

        Args:
            rollout_ids: Whom to wait for; unknown ids are ignored.
            timeout: Seconds; 0 or less only looks; None waits as long as it takes.
        """
        raise NotImplementedError

    @alias("GET", "/rollouts")
    @operation("POST", "/rollouts/search", mutates=False)
    async def query_rollouts(
        self,
        *,
        status_in: Sequence[RolloutStatus] | None = None,
        rollout_id_in: Sequence[str] | None = None,
        rollout_id_contains: str | None = None,
        filter_logic: Literal["and", "or"] = "and",
        sort_by: str | None = None,
        sort_order: Literal["asc", "desc"] = "asc",
        limit: int = -1,
        offset: int = 0,
        status: Sequence[RolloutStatus] | None = None,
        rollout_ids: Sequence[str] | None = None,
    ) -> PaginatedResult[Rollout | AttemptedRollout]:
        """Find rollouts; those with attempts come as `AttemptedRollout` with the latest one.

        `status` and `rollout_ids` are v0.3's older names of `status_in` and `rollout_id_in`, which win over them.

        Raises:
            InvalidValue: `sort_by` is not a sortable field.
        """
        raise NotImplementedError

    @operation("POST", "/rollouts/{rollout_id}", role="admin")
    async def update_rollout(
        self,
        rollout_id: str,
        input: TaskInput = UNSET,
        mode: RolloutMode | None = UNSET,
        resources_id: str | None = UNSET,
        status: RolloutStatus = UNSET,
        config: RolloutConfig = UNSET,
        metadata: dict[str, Any] | None = UNSET,
    ) -> Rollout:
        """Change the fields that are passed; a status given here always wins.

        Raises:
            NotFound: No such rollout.
            InvalidValue: A value that cannot be kept.
        """
        raise NotImplementedError

    @alias("GET", "/rollouts/{rollout_id}/attempts", role="agent")
    @operation("POST", "/rollouts/{rollout_id}/attempts/search", mutates=False, role="agent")
    async def query_attempts(
        self,
        rollout_id: str,
        *,
        sort_by: str | None = "sequence_id",
        sort_order: Literal["asc", "desc"] = "asc",
        limit: int = -1,
        offset: int = 0,
    ) -> PaginatedResult[Attempt]:
        """Find the attempts of a rollout."""
        raise NotImplementedError

    @operation("POST", "/rollouts/{rollout_id}/attempts/{attempt_id}")
    async def update_attempt(
        self,
        rollout_id: str,
        attempt_id: str | Literal["latest"],
        status: AttemptStatus = UNSET,
        worker_id: str | None = UNSET,
        last_heartbeat_time: float | None = UNSET,
        metadata: dict[str, Any] | None = UNSET,
    ) -> Attempt:
        """Change the fields that are passed; a new status of the latest attempt moves its rollout.

        Raises:
            NotFound: No such rollout or attempt.
            LeaseLost: The attempt was ended, or fell silent and was replaced, so its status cannot change.
        """
        raise NotImplementedError

    @operation("POST", "/rollouts/{rollout_id}/attempts/{attempt_id}/finish", repeatable=True)
    async def finish_attempt(
        self,
        rollout_id: str,
        attempt_id: str,
        status: AttemptStatus,
        spans: Sequence[Span] = (),
        metadata: dict[str, Any] | None = UNSET,
    ) -> Attempt:
        """Write an attempt's last spans and its status in one: both or, in the stores of this package, neither.

        Args:
            rollout_id: Whose attempt.
            attempt_id: Its id.
            status: How it ended.
            spans: Its spans; those with the sequence id 0 get the next ones, in order.
            metadata: As in `update_attempt`.

        Raises:
            NotFound: No such rollout or attempt.
            InvalidValue: A span of another attempt, or a value that cannot be kept.
            LeaseLost: As in `update_attempt`.
        """
        check_spans_of(spans, rollout_id, attempt_id)
        if unplaced := [span for span in spans if span.sequence_id == UNPLACED]:
            numbers = await self.get_many_span_sequence_ids([(rollout_id, attempt_id)] * len(unplaced))
            placed = dict(zip(map(id, unplaced), numbers, strict=True))
            spans = [span.model_copy(update={"sequence_id": placed.get(id(span), span.sequence_id)}) for span in spans]
        if spans:
            await self.add_many_spans(spans)
        return await self.update_attempt(rollout_id, attempt_id, status=status, metadata=metadata)

    @alias("GET", "/spans", role="agent")
    @operation("POST", "/spans/search", mutates=False, role="agent")
    async def query_spans(
        self,
        rollout_id: str,
        attempt_id: str | Literal["latest"] | None = None,
        *,
        trace_id: str | None = None,
        trace_id_contains: str | None = None,
        span_id: str | None = None,
        span_id_contains: str | None = None,
        parent_id: str | None = None,
        parent_id_contains: str | None = None,
        name: str | None = None,
        name_contains: str | None = None,
        filter_logic: Literal["and", "or"] = "and",
        limit: int = -1,
        offset: int = 0,
        sort_by: str | None = "sequence_id",
        sort_order: Literal["asc", "desc"] = "asc",
    ) -> PaginatedResult[Span]:
        """Find the spans of a rollout, of all attempts or one; equal sort keys keep their start order."""
        raise NotImplementedError

    @alias("GET", "/resources")
    @operation("POST", "/resources/search", mutates=False)
    async def query_resources(
        self,
        *,
        resources_id: str | None = None,
        resources_id_contains: str | None = None,
        sort_by: str | None = None,
        sort_order: Literal["asc", "desc"] = "asc",
        limit: int = -1,
        offset: int = 0,
        version: int | None = None,
    ) -> PaginatedResult[ResourcesUpdate]:
        """Find resources: of each id the newest version, or the one with this number."""
        raise NotImplementedError

    @operation("GET", "/resources/latest", mutates=False)
    async def get_latest_resources(self) -> ResourcesUpdate | None:
        """Return the resources written last, or None."""
        raise NotImplementedError

    @operation("POST", "/resources", status=201, body="resources")
    async def add_resources(self, resources: NamedResources) -> ResourcesUpdate:
        """Store resources under a new id; they become the latest."""
        raise NotImplementedError

    @operation("POST", "/resources/{resources_id}", body="resources", role="admin")
    async def update_resources(
        self, resources_id: str, resources: NamedResources, *, expected_version: int | None = None
    ) -> ResourcesUpdate:
        """Store the next version of an id, which may be new; it becomes the latest. Former versions stay readable.

        Args:
            resources_id: The id.
            resources: The whole new version.
            expected_version: Write only if this is the id's newest version, 0 for an id that is new; None for any.

        Raises:
            InvalidValue: The id is empty or `latest`, or the resources cannot be kept.
            IllegalTransition: The newest version is another one.
        """
        raise NotImplementedError

    @alias("GET", "/workers")
    @operation("POST", "/workers/search", mutates=False)
    async def query_workers(
        self,
        *,
        status_in: Sequence[WorkerStatus] | None = None,
        worker_id_contains: str | None = None,
        filter_logic: Literal["and", "or"] = "and",
        sort_by: str | None = None,
        sort_order: Literal["asc", "desc"] = "asc",
        limit: int = -1,
        offset: int = 0,
    ) -> PaginatedResult[Worker]:
        """Find workers."""
        raise NotImplementedError

    @operation("GET", "/workers/{worker_id}", mutates=False)
    async def get_worker_by_id(self, worker_id: str) -> Worker | None:
        """Return a worker, or None."""
        raise NotImplementedError

    @operation("POST", "/workers/{worker_id}", repeatable=True)
    async def update_worker(self, worker_id: str, heartbeat_stats: dict[str, Any] = UNSET) -> Worker:
        """Record a heartbeat, which also renews the worker's live attempts.

        Raises:
            InvalidValue: The id is empty, or `heartbeat_stats` is None; also a `TypeError`, as v0.3 raised.
        """
        raise NotImplementedError

    @operation("POST", "/workers/{worker_id}/leases", repeatable=True)
    async def renew_leases(
        self,
        worker_id: str,
        held: Sequence[tuple[str, str]],
        *,
        as_of: float | None = None,
        heartbeat_stats: dict[str, Any] = UNSET,
    ) -> LeaseRenewal:
        """Record a heartbeat that lists the attempts its worker holds; it renews those and releases all others.

        A live attempt of the worker that was claimed before `as_of` and is not in the list is one whose claim never
        reached the worker. If nobody worked on it, its rollout returns to the queue as if it had not been claimed;
        otherwise the attempt ends as unresponsive. An attempt in the list that was only silent lives again, while its
        rollout has not ended and no newer attempt took its place.

        Args:
            worker_id: Who lives.
            held: Rollout id and attempt id of every attempt that the worker holds.
            as_of: `time` of one of the worker's earlier renewals, which it got before it wrote the list; None releases
                none.
            heartbeat_stats: What the worker's machine is doing; left out, the former statistics stay.

        Raises:
            InvalidValue: The id is empty.
        """
        raise NotImplementedError

    @operation("POST", "/workers/{worker_id}/release", repeatable=True, role="admin")
    async def release_worker(self, worker_id: str) -> Sequence[Attempt]:
        """End the leases of a worker whose process is known to be dead; returns its attempts, now unresponsive.

        Their rollouts are tried again where their configuration says so.
        """
        raise NotImplementedError

    @operation("POST", "/feeds/rollouts", mutates=False)
    async def read_finished_rollouts(self, *, cursor: int = 0, limit: int = 100, wait: float = 0.0) -> FinishedRollouts:
        """Read which rollouts finished, in the order in which they did; each read goes on where the last one ended.

        A rollout that was restarted and finished again comes again, with its new end only.

        Args:
            cursor: `cursor` of the previous read; 0 for the beginning; -1 answers at once, with nothing but the cursor
                behind all that has finished.
            limit: The most to return; at least 1.
            wait: Seconds to wait when nothing finished since. The store wakes the caller; it does not poll.
        """
        raise NotImplementedError

    @operation("POST", "/feeds/spans", mutates=False)
    async def read_spans(self, *, rollout_id: str | None = None, cursor: int = 0, limit: int = 1000) -> SpanBatch:
        """Read spans in the order in which they were written, however many there are; see `iterate_spans`.

        Args:
            rollout_id: Whose spans; None for those of all rollouts.
            cursor: `cursor` of the previous read; 0 for the beginning.
            limit: The most to return; at least 1.
        """
        raise NotImplementedError

    # -- sugar -----------------------------------------------------------------------------------------------------

    async def enqueue_rollout(
        self,
        input: TaskInput,
        mode: RolloutMode | None = None,
        resources_id: str | None = None,
        config: RolloutConfig | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Rollout:
        """Append one rollout to the queue.

        Raises:
            InvalidValue: A value that cannot be kept.
        """
        try:
            request = EnqueueRolloutRequest(
                input=input, mode=mode, resources_id=resources_id, config=config, metadata=metadata
            )
        except ValidationError as error:
            raise InvalidValue(f"the rollout cannot be enqueued: {error}") from error
        return (await self.enqueue_many_rollouts([request]))[0]

    async def dequeue_rollout(self, worker_id: str | None = None, *, wait: float = 0.0) -> AttemptedRollout | None:
        """Claim the oldest rollout of the queue, or return None; see `dequeue_many_rollouts`."""
        claimed = await self.dequeue_many_rollouts(limit=1, worker_id=worker_id, wait=wait)
        return claimed[0] if claimed else None

    @alias("POST", "/spans", mutates=True, repeatable=True, status=201, body="span", none_status=201, role="agent")
    async def add_span(self, span: Span) -> Span | None:
        """Write one span; None when it was there already.

        Raises:
            NotFound: It names a rollout or attempt that does not exist.
        """
        stored = await self.add_many_spans([span])
        return stored[0] if stored else None

    async def add_otel_span(
        self, rollout_id: str, attempt_id: str, readable_span: ReadableSpan, sequence_id: int | None = None
    ) -> Span | None:
        """Write a span of the OpenTelemetry SDK; None when it was there already."""
        if sequence_id is None:
            sequence_id = await self.get_next_span_sequence_id(rollout_id, attempt_id)
        return await self.add_span(Span.from_opentelemetry(readable_span, rollout_id, attempt_id, sequence_id))

    @alias("POST", "/spans/next", mutates=True, answer="sequence_id", role="agent")
    async def get_next_span_sequence_id(self, rollout_id: str, attempt_id: str) -> int:
        """Reserve one sequence id.

        Raises:
            NotFound: No such rollout.
        """
        return (await self.get_many_span_sequence_ids([(rollout_id, attempt_id)]))[0]

    @alias("GET", "/rollouts/{rollout_id}", none_status=404, role="agent")
    async def get_rollout_by_id(self, rollout_id: str) -> Rollout | AttemptedRollout | None:
        """Return a rollout, with its latest attempt if there is one, or None."""
        page = await self.query_rollouts(rollout_id_in=[rollout_id])
        return page[0] if page else None

    @alias("GET", "/rollouts/{rollout_id}/attempts/latest", role="agent")
    async def get_latest_attempt(self, rollout_id: str) -> Attempt | None:
        """Return the newest attempt, or None."""
        page = await self.query_attempts(rollout_id, sort_order="desc", limit=1)
        return page[0] if page else None

    async def wait_for_rollout(self, rollout_id: str, timeout: float | None = None) -> Rollout | None:
        """Wait for one rollout; None if it is unknown, or not finished when the time is up."""
        finished = await self.wait_for_rollouts(rollout_ids=[rollout_id], timeout=timeout)
        return finished[0] if finished else None

    @alias("GET", "/resources/{resources_id}")
    async def get_resources_by_id(self, resources_id: str, version: int | None = None) -> ResourcesUpdate | None:
        """Return a version of an id, the newest by default, or None."""
        page = await self.query_resources(resources_id=resources_id, version=version)
        return page[0] if page else None

    async def iterate_spans(self, rollout_id: str | None = None, *, batch: int = 1000) -> AsyncGenerator[Span]:
        """Yield the spans of a rollout, or of all, in the order of their writing, one batch in memory at a time."""
        cursor = 0
        while (read := await self.read_spans(rollout_id=rollout_id, cursor=cursor, limit=batch)).items:
            for span in read.items:
                yield span
            cursor = read.cursor


UNPLACED: Final = 0
"""The sequence id of a span that `finish_attempt` is to give one."""

IN_PLAIN_VALUES: Final = ("query_rollouts", "get_rollout_by_id")
"""The operations to call on `LightningStore.in_plain_values`; others may work with what these answer."""

OPERATIONS: Final[dict[str, Operation]] = operations_of(LightningStore)
"""Every operation of the store by name."""

ROUTES: Final[list[Operation]] = routes_of(LightningStore)
"""Every route to the store: its operations, and v0.3's other routes to them."""


def is_queuing(rollout: Rollout) -> bool:
    """Whether the rollout waits in the queue."""
    return rollout.status in QUEUED


def is_running(rollout: Rollout) -> bool:
    """Whether a worker holds the rollout."""
    return rollout.status in RUNNING


def is_finished(rollout: Rollout) -> bool:
    """Whether the rollout has ended."""
    return rollout.status in FINISHED


def check_spans_of(spans: Sequence[Span], rollout_id: str, attempt_id: str) -> None:
    """Refuse spans of other attempts.

    Raises:
        InvalidValue: One is there.
    """
    for span in spans:
        if (span.rollout_id, span.attempt_id) != (rollout_id, attempt_id):
            raise InvalidValue(f"span {span.span_id} is not of attempt {attempt_id} of rollout {rollout_id}")
