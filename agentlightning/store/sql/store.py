"""The store's operations over SQL, whatever runs the transactions."""

from __future__ import annotations

import asyncio
import os
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeVar

from agentlightning.store.base import (
    IN_PLAIN_VALUES,
    UNSET,
    LightningStore,
    LightningStoreCapabilities,
    LightningStoreStatistics,
)
from agentlightning.store.events import Signals
from agentlightning.store.looks import Looks
from agentlightning.store.polls import check_wait
from agentlightning.store.span_json import SpansOnTheWire
from agentlightning.store.sql import (
    attempts,
    export,
    feeds,
    finishing,
    load,
    renewals,
    resources as resource_sets,
    retention,
    rollouts as tasks,
    spans as traces,
    statistics,
    transfer,
    workers,
)
from agentlightning.store.sql.checks import (
    check_id,
    check_integer,
    check_optional_text,
    check_optional_time,
    check_text,
    check_texts,
)
from agentlightning.store.sql.claims import Claim, undo_claims
from agentlightning.store.sql.codec import rollout_of, rollout_values_of, rollout_with_attempt_of
from agentlightning.store.sql.filters import Conditions, Paging
from agentlightning.store.sql.idempotency import Request, RequestKeys, check_key, withdraw
from agentlightning.store.sql.span_rows import encode_spans
from agentlightning.store.sql.transaction import Transaction
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

T = TypeVar("T")

_FEW_SPANS: Final = 128
"""Spans that are written in a millisecond, as long as it took to encode them: another thread would take longer."""
_FEW: Final = 16
"""Items of an operation that still is a small one."""
_PARTS_OF_FINISHING: Final = ("add_many_spans", "get_many_span_sequence_ids", "update_attempt")
"""The operations that finishing an attempt is made of."""
MOST_CLAIMS: Final = 1000
"""Rollouts that one call claims at most: it bounds how long others wait for it."""


class SqlLightningStore(LightningStore, ABC):
    """Checks and encodes what callers give, and runs the operations; a subclass says how transactions run.

    Args:
        signals: What the subclass tells of commits.
    """

    def __init__(self, signals: Signals) -> None:
        self._signals = signals
        self._opened = time.monotonic()
        self._request_keys = RequestKeys()
        self._looks = Looks()
        self._rollout_of = rollout_with_attempt_of

    @abstractmethod
    async def write(
        self,
        operation: Callable[[Transaction], Coroutine[Any, Any, T]],
        undo: Callable[[Transaction, T], Coroutine[Any, Any, None]] | None = None,
        *,
        small: bool = False,
    ) -> T:
        """Run an operation that changes the store.

        Args:
            operation: What to run.
            undo: Runs if the caller is cancelled before it hears of the operation.
            small: Whether the operation touches a few rows only.
        """

    @abstractmethod
    async def read(self, operation: Callable[[Transaction], Coroutine[Any, Any, T]]) -> T:
        """Run an operation that only looks; it sees everything that was acknowledged."""

    def keyed(self, key: str, fingerprint: bytes) -> Self:
        """Return a view of this store for one operation that happens at most once for the key.

        Called again, also after a restart, it answers as it did the first time; the answer is built from the rows as
        they are then. A key is remembered for at least ten minutes. An operation that raises, and a claim that found
        nothing, leave no key.

        Args:
            key: The caller's name for its request.
            fingerprint: Digest of all that the request says, so that a key used for two requests is found out.

        Raises:
            InvalidValue: The key cannot be kept; from the operation, the key belongs to another request.
        """
        view = object.__new__(type(self))
        vars(view).update(vars(self), write=self._request_keys.once(Request(key, fingerprint), self.write))
        return view

    def in_plain_values(self) -> Self:
        """See `LightningStore.in_plain_values`; the view works as long as this store is kept."""
        if _overrides(self, IN_PLAIN_VALUES):
            return self  # a subclass may look into what it asks its base for
        view = object.__new__(type(self))
        vars(view).update(vars(self), _rollout_of=rollout_values_of)
        return view

    async def withdraw(self, key: str) -> None:
        """Undo the claims of the operation that was called with this key, or keep it from happening later.

        For a caller that went away when its answer may have been on the way. What somebody works on stays.

        Raises:
            InvalidValue: The key cannot be kept.
        """
        check_key(key)
        await self.write(lambda tx: withdraw(tx, key), small=True)

    @property
    def capabilities(self) -> LightningStoreCapabilities:
        """Callable from any thread and loop of this process."""
        return {"thread_safe": True, "async_safe": True, "zero_copy": False, "otlp_traces": False}

    async def statistics(self) -> LightningStoreStatistics:
        """See `LightningStore.statistics`."""
        totals = await self.read(statistics.totals)
        return {"name": type(self).__name__, **totals, "uptime": time.monotonic() - self._opened}

    async def start_rollout(
        self,
        input: TaskInput,
        mode: RolloutMode | None = None,
        resources_id: str | None = None,
        config: RolloutConfig | None = None,
        metadata: dict[str, Any] | None = None,
        worker_id: str | None = None,
    ) -> AttemptedRollout:
        """See `LightningStore.start_rollout`."""
        check_optional_text(worker_id, "worker_id")
        task = tasks.encode_task(input, mode, resources_id, config, metadata)
        return await self._claim(lambda tx: tasks.start_rollout(tx, task, worker_id))

    async def enqueue_many_rollouts(self, rollouts: Sequence[EnqueueRolloutRequest]) -> Sequence[Rollout]:
        """See `LightningStore.enqueue_many_rollouts`."""
        encoded = [tasks.encode_task(r.input, r.mode, r.resources_id, r.config, r.metadata) for r in rollouts]
        if not encoded:
            return []
        return await self.write(lambda tx: tasks.enqueue_many_rollouts(tx, encoded), small=len(encoded) <= _FEW)

    async def dequeue_many_rollouts(
        self, *, limit: int = 1, worker_id: str | None = None, wait: float = 0.0
    ) -> Sequence[AttemptedRollout]:
        """See `LightningStore.dequeue_many_rollouts`."""
        check_integer(limit, "limit")
        check_optional_text(worker_id, "worker_id")
        deadline, time_is_up = _deadline(wait, "wait")
        if limit <= 0:
            return []
        limit = min(limit, MOST_CLAIMS)
        if time_is_up:
            return await self._dequeue(limit, worker_id)
        with self._signals.watch_queue() as watch:
            while True:
                self._signals.line_up(watch)
                # The last look is for what calls nobody: a claim that another request made under the same key.
                if (claimed := await self._dequeue(limit, worker_id)) or time_is_up:
                    return claimed
                time_is_up = not await watch.called(deadline)

    async def _dequeue(self, limit: int, worker_id: str | None) -> list[AttemptedRollout]:
        claims = await self.write(
            lambda tx: attempts.dequeue_many_rollouts(tx, limit, worker_id), undo=undo_claims, small=limit <= _FEW
        )
        return [claim.made for claim in claims]

    async def start_attempt(self, rollout_id: str, worker_id: str | None = None) -> AttemptedRollout:
        """See `LightningStore.start_attempt`."""
        check_text(rollout_id, "rollout_id")
        check_optional_text(worker_id, "worker_id")
        return await self._claim(lambda tx: attempts.start_attempt(tx, rollout_id, worker_id))

    async def _claim(self, operation: Callable[[Transaction], Coroutine[Any, Any, Claim]]) -> AttemptedRollout:
        claim = await self.write(operation, undo=lambda tx, claim: undo_claims(tx, [claim]), small=True)
        return claim.made

    async def add_many_spans(self, spans: Sequence[Span]) -> Sequence[Span]:
        """See `LightningStore.add_many_spans`."""
        encoded = encode_spans(spans)
        if not encoded:
            return []
        new = await self.write(lambda tx: traces.add_many_spans(tx, encoded), small=len(encoded) <= _FEW_SPANS)
        return SpansOnTheWire(new) if isinstance(spans, SpansOnTheWire) else new

    async def get_many_span_sequence_ids(self, rollout_attempt_ids: Sequence[tuple[str, str]]) -> Sequence[int]:
        """See `LightningStore.get_many_span_sequence_ids`."""
        rollout_ids = [rollout_id for rollout_id, _ in rollout_attempt_ids]
        check_texts(rollout_ids, "rollout_id")
        if not rollout_ids:
            return []
        small = len(rollout_ids) <= _FEW
        return await self.write(lambda tx: traces.get_many_span_sequence_ids(tx, rollout_ids), small=small)

    async def wait_for_rollouts(self, *, rollout_ids: list[str], timeout: float | None = None) -> list[Rollout]:
        """See `LightningStore.wait_for_rollouts`."""
        check_texts(rollout_ids, "rollout_ids")
        deadline, time_is_up = _deadline(timeout, "timeout")
        ids = tuple(rollout_ids)
        with self._signals.watch_rollouts(ids) as watch:
            while True:
                self._signals.expect(watch)
                finished, known = await self._looks.share(
                    ids, lambda: self.read(lambda tx: tasks.finished_among(tx, ids))
                )
                if time_is_up or len(finished) == len(known):
                    return [rollout_of(finished[rollout_id]) for rollout_id in ids if rollout_id in finished]
                self._signals.settle(watch, (watch.rollout_ids - known) | finished.keys())
                time_is_up = not await watch.called(deadline)

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
        """See `LightningStore.query_rollouts`."""
        _warn_of_older_names(status, rollout_ids)
        conditions = Conditions(filter_logic)
        conditions.within("r.status", status if status_in is None else status_in)
        conditions.within("r.rollout_id", rollout_ids if rollout_id_in is None else rollout_id_in)
        conditions.contains("r.rollout_id", rollout_id_contains)
        paging = Paging(sort_by, sort_order, limit, offset)
        return await self.read(lambda tx: tasks.query_rollouts(tx, conditions, paging, self._rollout_of))

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
        """See `LightningStore.update_rollout`."""
        check_text(rollout_id, "rollout_id")
        tasks.check_rollout_status(status)
        changes = tasks.encode_changes(input, mode, resources_id, config, metadata)
        return await self.write(lambda tx: tasks.update_rollout(tx, rollout_id, status, changes), small=True)

    async def cancel_rollouts(self, rollout_ids: Sequence[str]) -> Sequence[Rollout]:
        """See `LightningStore.cancel_rollouts`."""
        for rollout_id in rollout_ids:
            check_text(rollout_id, "rollout_id")
        return await self.write(lambda tx: tasks.cancel_rollouts(tx, rollout_ids), small=len(rollout_ids) <= _FEW)

    async def query_attempts(
        self,
        rollout_id: str,
        *,
        sort_by: str | None = "sequence_id",
        sort_order: Literal["asc", "desc"] = "asc",
        limit: int = -1,
        offset: int = 0,
    ) -> PaginatedResult[Attempt]:
        """See `LightningStore.query_attempts`."""
        check_text(rollout_id, "rollout_id")
        paging = Paging(sort_by, sort_order, limit, offset)
        return await self.read(lambda tx: attempts.query_attempts(tx, rollout_id, paging))

    async def update_attempt(
        self,
        rollout_id: str,
        attempt_id: str | Literal["latest"],
        status: AttemptStatus = UNSET,
        worker_id: str | None = UNSET,
        last_heartbeat_time: float | None = UNSET,
        metadata: dict[str, Any] | None = UNSET,
    ) -> Attempt:
        """See `LightningStore.update_attempt`."""
        check_text(rollout_id, "rollout_id")
        check_text(attempt_id, "attempt_id")
        attempts.check_attempt_status(status)
        changes = attempts.encode_changes(worker_id, last_heartbeat_time, metadata)
        return await self.write(
            lambda tx: attempts.update_attempt(tx, rollout_id, attempt_id, status, changes), small=True
        )

    async def finish_attempt(
        self,
        rollout_id: str,
        attempt_id: str,
        status: AttemptStatus,
        spans: Sequence[Span] = (),
        metadata: dict[str, Any] | None = UNSET,
    ) -> Attempt:
        """See `LightningStore.finish_attempt`."""
        if _overrides(self, _PARTS_OF_FINISHING):
            return await super().finish_attempt(rollout_id, attempt_id, status, spans, metadata)
        check_text(rollout_id, "rollout_id")
        check_text(attempt_id, "attempt_id")
        attempts.check_attempt_status(status)
        changes = attempts.encode_changes(UNSET, UNSET, metadata)
        encoded = encode_spans(spans)
        return await self.write(
            lambda tx: finishing.finish_attempt(tx, (rollout_id, attempt_id), status, encoded, changes),
            small=len(encoded) <= _FEW,
        )

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
        """See `LightningStore.query_spans`."""
        check_text(rollout_id, "rollout_id")
        check_optional_text(attempt_id, "attempt_id")
        conditions = Conditions(filter_logic)
        for column, exact, contained in (
            ("trace_id", trace_id, trace_id_contains),
            ("span_id", span_id, span_id_contains),
            ("parent_id", parent_id, parent_id_contains),
            ("name", name, name_contains),
        ):
            conditions.exact(column, exact)
            conditions.contains(column, contained)
        paging = Paging(sort_by, sort_order, limit, offset)
        return await self.read(lambda tx: traces.query_spans(tx, rollout_id, attempt_id, conditions, paging))

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
        """See `LightningStore.query_resources`."""
        conditions = Conditions("and")
        conditions.exact("resources_id", resources_id)
        conditions.contains("resources_id", resources_id_contains)
        if version is not None:
            check_integer(version, "version")
        paging = Paging(sort_by, sort_order, limit, offset)
        return await self.read(lambda tx: resource_sets.query_resources(tx, conditions, version, paging))

    async def get_latest_resources(self) -> ResourcesUpdate | None:
        """See `LightningStore.get_latest_resources`."""
        return await self.read(resource_sets.get_latest_resources)

    async def add_resources(self, resources: NamedResources) -> ResourcesUpdate:
        """See `LightningStore.add_resources`."""
        body = resource_sets.encode_resources(resources)
        return await self.write(lambda tx: resource_sets.write_resources(tx, None, body), small=True)

    async def update_resources(
        self, resources_id: str, resources: NamedResources, *, expected_version: int | None = None
    ) -> ResourcesUpdate:
        """See `LightningStore.update_resources`."""
        resource_sets.check_resources_id(resources_id)
        if expected_version is not None:
            check_integer(expected_version, "expected_version")
        body = resource_sets.encode_resources(resources)
        return await self.write(
            lambda tx: resource_sets.write_resources(tx, resources_id, body, expected_version), small=True
        )

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
        """See `LightningStore.query_workers`."""
        conditions = Conditions(filter_logic)
        conditions.within("w.status", status_in)
        conditions.contains("w.worker_id", worker_id_contains)
        paging = Paging(sort_by, sort_order, limit, offset)
        return await self.read(lambda tx: workers.query_workers(tx, conditions, paging))

    async def get_worker_by_id(self, worker_id: str) -> Worker | None:
        """See `LightningStore.get_worker_by_id`."""
        check_text(worker_id, "worker_id")
        return await self.read(lambda tx: workers.get_worker(tx, worker_id))

    async def update_worker(self, worker_id: str, heartbeat_stats: dict[str, Any] = UNSET) -> Worker:
        """See `LightningStore.update_worker`."""
        check_id(worker_id, "worker_id")
        stats = None if heartbeat_stats is UNSET else workers.encode_stats(heartbeat_stats)
        return await self.write(lambda tx: workers.heartbeat(tx, worker_id, stats), small=True)

    async def renew_leases(
        self,
        worker_id: str,
        held: Sequence[tuple[str, str]],
        *,
        as_of: float | None = None,
        heartbeat_stats: dict[str, Any] = UNSET,
    ) -> LeaseRenewal:
        """See `LightningStore.renew_leases`."""
        check_id(worker_id, "worker_id")
        check_texts((name for pair in held for name in pair), "held")
        asked_as_of = check_optional_time(as_of, "as_of")
        listed = {(rollout_id, attempt_id): None for rollout_id, attempt_id in held}  # each once, in order
        stats = None if heartbeat_stats is UNSET else workers.encode_stats(heartbeat_stats)
        return await self.write(
            lambda tx: renewals.renew_leases(tx, worker_id, listed, asked_as_of, stats), small=len(listed) <= _FEW
        )

    async def release_worker(self, worker_id: str) -> Sequence[Attempt]:
        """See `LightningStore.release_worker`."""
        check_text(worker_id, "worker_id")
        return await self.write(lambda tx: renewals.release_worker(tx, worker_id))

    async def read_finished_rollouts(self, *, cursor: int = 0, limit: int = 100, wait: float = 0.0) -> FinishedRollouts:
        """See `LightningStore.read_finished_rollouts`."""
        feeds.check_reading(cursor, limit)
        deadline, time_is_up = _deadline(wait, "wait")
        with self._signals.watch_ends() as watch:
            while True:
                watch.reset()
                found = await self.read(lambda tx: feeds.read_finished_rollouts(tx, cursor, limit))
                if found.items or cursor < 0 or time_is_up or not await watch.called(deadline):
                    return found

    async def read_spans(self, *, rollout_id: str | None = None, cursor: int = 0, limit: int = 1000) -> SpanBatch:
        """See `LightningStore.read_spans`."""
        check_optional_text(rollout_id, "rollout_id")
        feeds.check_reading(cursor, limit)
        return await self.read(lambda tx: feeds.read_spans(tx, rollout_id, cursor, limit))

    async def prune(
        self,
        *,
        older_than: float | None = None,
        keep: int | None = None,
        only_spans: bool = False,
        progress: Callable[[retention.Sweep], None] | None = None,
    ) -> retention.Pruned:
        """Take finished rollouts out of the store, with their attempts and spans; others are never touched.

        It works in many small transactions, so that writers go on. The space in the database is used again for what
        comes. The rollout that wrote the last span stays, whatever the policy; so do resources, workers, and what
        finishes meanwhile.

        Args:
            older_than: Those that ended more than so many seconds ago.
            keep: Not the newest so many. With both, those that are old and not among the newest.
            only_spans: Their spans go, rollouts and attempts stay.
            progress: Called with how far it has come, after each transaction.

        Raises:
            InvalidValue: Neither `older_than` nor `keep`, or a negative one.
        """
        retention.check_policy(older_than, keep)
        sweep = await self.read(lambda tx: retention.plan(tx, older_than, keep, only_spans=only_spans))
        while sweep.cursor is not None:
            sweep = await self.write(partial(retention.step, sweep=sweep))
            if progress is not None:
                progress(sweep)
        return sweep.pruned

    async def count_prunable(self, *, older_than: float | None = None, keep: int | None = None) -> int:
        """Return how many rollouts `prune` would take out."""
        retention.check_policy(older_than, keep)
        return (await self.read(lambda tx: retention.plan(tx, older_than, keep, only_spans=False))).found

    async def export_to(
        self, path: str | os.PathLike[str], *, with_secrets: bool = False, progress: transfer.Progress | None = None
    ) -> transfer.Transferred:
        """Write everything but the workers into a file of JSON lines, as one moment sees it.

        The file, compressed if its name ends in `.gz`, appears when it is whole. Writers go on meanwhile; those of a
        store in memory, which has one thread, wait.

        Args:
            path: The file; what it held is replaced.
            with_secrets: Write API keys too; without, `import_from` refuses resources that have some.
            progress: Called in another thread with what is done and what there is; the export ends if it raises.

        Raises:
            ConfigurationError: The file cannot be made.
            StoreError: It cannot be written to its end.
        """
        with transfer.stoppable(progress) as told:
            return await self.read(
                lambda tx: export.export_lines(tx, Path(path), with_secrets=with_secrets, progress=told)
            )

    async def import_from(
        self, path: str | os.PathLike[str], *, progress: transfer.Progress | None = None
    ) -> transfer.Transferred:
        """Read what `export_to` wrote into this store, all of it or nothing.

        Everything is as it was, in the same order, behind what the store holds. The file's resources become the
        latest; live attempts get the full length of their deadlines, counted from its beginning.

        A file or a store in memory has one writer at a time: others wait until the import is done, and those in other
        processes fail after thirty seconds. On PostgreSQL others go on but for the last moments, in which all that came
        is counted; only readers of all spans wait, for twenty seconds.

        Args:
            path: The file.
            progress: Called in another thread with what is done and what there is; the import ends if it raises.

        Raises:
            InvalidValue: It is no whole export, its keys were redacted, or the store holds something of it already.
            ConfigurationError: It cannot be opened, or a newer program wrote it.
        """
        with transfer.stoppable(progress) as told:
            return await self.write(lambda tx: load.import_lines(tx, Path(path), progress=told))


def _deadline(seconds: float | None, name: str) -> tuple[float | None, bool]:
    """Return when a wait of so many seconds is over by the loop's clock, None for never, and whether it is already.

    Raises:
        InvalidValue: It is neither None nor a number.
    """
    check_wait(seconds, name)
    if seconds is None:
        return None, False
    return asyncio.get_running_loop().time() + seconds, seconds <= 0


def _warn_of_older_names(status: object, rollout_ids: object) -> None:
    for older, newer, passed in (("status", "status_in", status), ("rollout_ids", "rollout_id_in", rollout_ids)):
        if passed is not None:
            warnings.warn(f"query_rollouts({older}=) is now {newer}=", DeprecationWarning, stacklevel=3)


def _overrides(store: SqlLightningStore, names: Sequence[str]) -> bool:
    """Whether a subclass, or somebody who changed the object, has a say in one of these operations."""
    return any(
        name in vars(store) or getattr(type(store), name) is not getattr(SqlLightningStore, name) for name in names
    )
