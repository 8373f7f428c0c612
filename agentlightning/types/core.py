"""Rollouts, attempts, workers, and the small shapes that travel between the layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Literal,
    Protocol,
    SupportsIndex,
    TypeAlias,
    TypedDict,
    TypeVar,
    overload,
    runtime_checkable,
)

from opentelemetry.sdk.trace import ReadableSpan
from pydantic import BaseModel, Field, field_validator, model_validator

from agentlightning.types.tracer import Span, SpanCoreFields

if TYPE_CHECKING:
    from agentlightning.litagent import LitAgent
    from agentlightning.runner import Runner
    from agentlightning.tracer import Tracer

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

TaskInput: TypeAlias = Any
"""What a task hands to the agent: any JSON value, or what `normalize_task_input` turns into one."""

RolloutStatus: TypeAlias = Literal["queuing", "preparing", "running", "failed", "succeeded", "cancelled", "requeuing"]
AttemptStatus: TypeAlias = Literal["preparing", "running", "failed", "succeeded", "unresponsive", "timeout"]
RolloutMode: TypeAlias = Literal["train", "val", "test"]
WorkerStatus: TypeAlias = Literal["idle", "busy", "unknown"]

RolloutRawResult: TypeAlias = float | list[ReadableSpan] | list[Span] | list[SpanCoreFields] | None
"""What an agent may return: nothing, a reward, or spans."""


class RolloutConfig(BaseModel):
    """When an attempt counts as lost, and which losses are tried again.

    The store ends attempts by the two deadlines, to the moment and by its own clock. The time that a store on a file
    was away does not count: once it is back, every live attempt has the full length of both again.

    Attributes:
        timeout_seconds: Longest life of an attempt, from its start; nothing puts it off. None for no limit; 0 ends it
            at once.
        unresponsive_seconds: Longest silence of an attempt; each of its spans and each heartbeat of it or its worker
            ends a silence. None for no limit.
        max_attempts: How many attempts the rollout may have in all.
        retry_condition: The attempt outcomes that lead to another attempt.
    """

    timeout_seconds: float | None = None
    unresponsive_seconds: float | None = None
    max_attempts: int = Field(default=1, ge=1)
    retry_condition: list[AttemptStatus] = Field(default_factory=list[AttemptStatus])

    @field_validator("timeout_seconds", "unresponsive_seconds")
    @classmethod
    def _check_number(cls, seconds: float | None) -> float | None:
        if seconds is not None and not seconds >= 0:  # NaN is not, either
            raise ValueError(f"{seconds} is no number of seconds to wait: give None for no limit")
        return seconds


class Attempt(BaseModel):
    """One try at a rollout, held by a worker under a lease that its id names.

    Attributes:
        sequence_id: 1 for the first attempt of a rollout, then 2, 3, …
        start_time: Unix seconds at which the attempt was claimed.
        end_time: Unix seconds at which it ended; None while it lives.
        last_heartbeat_time: Unix seconds of the latest span or heartbeat.
    """

    rollout_id: str
    attempt_id: str
    sequence_id: int
    start_time: float
    end_time: float | None = None
    status: AttemptStatus = "preparing"
    worker_id: str | None = None
    last_heartbeat_time: float | None = None
    metadata: dict[str, Any] | None = None


class Rollout(BaseModel):
    """A task given to an agent.

    Attributes:
        start_time: Unix seconds at which the rollout was enqueued (or started).
        end_time: Unix seconds at which it finished; None until then.
        mode: The split it belongs to; None when nobody said.
        resources_id: The resources it runs with; None means the latest when it runs.
    """

    rollout_id: str
    input: TaskInput
    start_time: float
    end_time: float | None = None
    mode: RolloutMode | None = None
    resources_id: str | None = None
    status: RolloutStatus = "queuing"
    config: RolloutConfig = Field(default_factory=RolloutConfig)
    metadata: dict[str, Any] | None = None


class AttemptedRollout(Rollout):
    """A rollout together with its latest attempt."""

    attempt: Attempt

    @model_validator(mode="after")
    def _check_ids(self) -> AttemptedRollout:
        if self.attempt.rollout_id != self.rollout_id:
            raise ValueError(
                f"attempt {self.attempt.attempt_id} belongs to rollout {self.attempt.rollout_id}, not {self.rollout_id}"
            )
        return self


class EnqueueRolloutRequest(BaseModel):
    """One task to put into the queue."""

    input: TaskInput
    mode: RolloutMode | None = None
    resources_id: str | None = None
    config: RolloutConfig | None = None
    metadata: dict[str, Any] | None = None


class Worker(BaseModel):
    """A runner as the store knows it; times are Unix seconds."""

    worker_id: str
    status: WorkerStatus = "unknown"
    heartbeat_stats: dict[str, Any] | None = None
    last_heartbeat_time: float | None = None
    last_dequeue_time: float | None = None
    last_busy_time: float | None = None
    last_idle_time: float | None = None
    current_rollout_id: str | None = None
    current_attempt_id: str | None = None


class LeaseRenewal(BaseModel):
    """What a store answers to a heartbeat.

    Attributes:
        time: When the store heard it, by the store's own clock; the next heartbeat passes it as `as_of`.
        lost: Rollout id and attempt id of those it listed that are no longer the worker's: ended, cancelled, replaced.
        former_stats: What the last heartbeat under the worker's name told until this one; None if it told nothing. By
            it two programs that call themselves alike learn of each other.
    """

    time: float
    lost: list[tuple[str, str]]
    former_stats: dict[str, Any] | None = None


class FinishedRollouts(BaseModel):
    """Some of the rollouts that finished, in the order in which they did; `cursor` is where the next read goes on."""

    items: list[Rollout | AttemptedRollout]
    cursor: int


class SpanBatch(BaseModel):
    """Some spans, in the order in which they were written; `cursor` is where the next read goes on."""

    items: list[Span]
    cursor: int


class FilterField(TypedDict, total=False):
    """Conditions on one field; those present must all hold."""

    exact: Any
    within: Sequence[Any]
    contains: str


FilterOptions: TypeAlias = Mapping[str, Any]
"""Field name to `FilterField`, with `_aggregate` ("and" or "or") and `_must` (conditions that always hold)."""


class SortOptions(TypedDict):
    """Which field to sort by, and in which direction."""

    name: str
    order: Literal["asc", "desc"]


class PaginatedResult(BaseModel, Sequence[T], Generic[T]):
    """One page of a query; behaves as the sequence of its items.

    Attributes:
        limit: The page size that was asked for; -1 for all.
        offset: How many matches come before this page.
        total: How many matches there are on all pages.
    """

    items: Sequence[T]
    limit: int
    offset: int
    total: int

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        return self.items[index]

    def __iter__(self) -> Iterator[T]:  # pyright: ignore[reportIncompatibleMethodOverride]  # a page iterates over its items, not over its fields
        return iter(self.items)

    def __repr__(self) -> str:
        end = "" if self.limit < 0 else str(self.offset + self.limit)
        first = f"[{self.items[0]!r}, ...]" if self.items else "empty"
        return f"<PaginatedResult ({self.offset}:{end} of {self.total}) {first}>"


class Triplet(BaseModel):
    """One model call as prompt, response and reward."""

    prompt: Any
    response: Any
    reward: float | None = None
    metadata: dict[str, Any] = Field(default_factory=dict[str, Any])


@runtime_checkable
class Dataset(Protocol[T_co]):
    """Anything with a length and items by index; a list is one."""

    def __getitem__(self, index: SupportsIndex, /) -> T_co:
        """Return the item at `index`."""
        ...

    def __len__(self) -> int:
        """Return the number of items."""
        ...


class ParallelWorkerBase:
    """The lifecycle of what exists once per program (`init`) and once per worker (`init_worker`)."""

    worker_id: int | None = None

    def init(self, *args: Any, **kwargs: Any) -> None:
        """Prepare what all workers share."""

    def init_worker(self, worker_id: int, *args: Any, **kwargs: Any) -> None:
        """Prepare what one worker needs."""
        self.worker_id = worker_id

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Do the work."""

    def teardown_worker(self, worker_id: int, *args: Any, **kwargs: Any) -> None:
        """Undo `init_worker`."""

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        """Undo `init`."""


class Hook(ParallelWorkerBase):
    """Callbacks around a rollout; override what you need. An error in a hook is logged and changes nothing."""

    async def on_rollout_start(self, *, agent: LitAgent[Any], runner: Runner[Any], rollout: AttemptedRollout) -> None:
        """Called before the trace is opened."""

    async def on_trace_start(
        self, *, agent: LitAgent[Any], runner: Runner[Any], tracer: Tracer, rollout: AttemptedRollout
    ) -> None:
        """Called inside the trace, before the agent runs."""

    async def on_trace_end(
        self, *, agent: LitAgent[Any], runner: Runner[Any], tracer: Tracer, rollout: AttemptedRollout
    ) -> None:
        """Called inside the trace, after the agent ended, however it ended."""

    async def on_rollout_end(
        self, *, agent: LitAgent[Any], runner: Runner[Any], rollout: AttemptedRollout, spans: Sequence[Span]
    ) -> None:
        """Called before the attempt's status is written, with every span of the attempt, the reward included."""
