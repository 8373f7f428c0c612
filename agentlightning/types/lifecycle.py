"""The lives of rollouts and attempts, as one table.

Rules of this file: every change of a status anywhere in the package is a row here; a row says the next status and
the effects; nothing here does I/O or knows the time. A pair without a row is illegal. Withdrawing an attempt whose
caller never heard of it is no change but the return to what was before, and needs no row.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto
from typing import Final, Literal, NamedTuple, TypeAlias, get_args

from agentlightning.errors import IllegalTransition, LeaseLost
from agentlightning.types.core import AttemptStatus, RolloutConfig, RolloutStatus

RolloutEvent: TypeAlias = Literal[
    "claim",  # a worker takes it from the queue
    "restart",  # start_attempt
    "set_queuing",  # update_rollout(status=...)
    "set_requeuing",
    "set_preparing",
    "set_running",
    "set_failed",
    "set_succeeded",
    "set_cancelled",
    "attempt_preparing",  # its latest attempt changed status
    "attempt_running",
    "attempt_succeeded",
    "attempt_lost",  # failed, timeout or unresponsive, to be tried again
    "attempt_lost_for_good",  # likewise, not to be tried again
]
AttemptEvent: TypeAlias = Literal[
    "span",  # a span of the attempt arrived, or its worker's heartbeat lists it after a silence
    "set_preparing",  # update_attempt(status=...), or the end of a lease
    "set_running",
    "set_failed",
    "set_succeeded",
    "set_unresponsive",
    "set_timeout",
]

ROLLOUT_STATUSES: Final[tuple[RolloutStatus, ...]] = get_args(RolloutStatus)
ATTEMPT_STATUSES: Final[tuple[AttemptStatus, ...]] = get_args(AttemptStatus)
ROLLOUT_EVENTS: Final[tuple[RolloutEvent, ...]] = get_args(RolloutEvent)
ATTEMPT_EVENTS: Final[tuple[AttemptEvent, ...]] = get_args(AttemptEvent)

QUEUED: Final[tuple[RolloutStatus, ...]] = ("queuing", "requeuing")
RUNNING: Final[tuple[RolloutStatus, ...]] = ("preparing", "running")
FINISHED: Final[tuple[RolloutStatus, ...]] = ("failed", "succeeded", "cancelled")
LIVE: Final[tuple[AttemptStatus, ...]] = ("preparing", "running")
ENDED: Final[tuple[AttemptStatus, ...]] = ("failed", "succeeded", "timeout")


class Effect(Enum):
    """What a store does besides writing the new status."""

    ENQUEUE = auto()
    """Put the rollout at the tail of the queue."""
    END = auto()
    """Set `end_time` to now; waiters wake."""
    REOPEN = auto()
    """Clear `end_time`; waiters wait again."""
    END_ATTEMPTS = auto()
    """End the live attempts: the latest as succeeded if the rollout succeeded, the others as failed."""


class RolloutTransition(NamedTuple):
    """The next status of a rollout, and what else happens."""

    status: RolloutStatus
    effects: frozenset[Effect]


class AttemptTransition(NamedTuple):
    """The next status of an attempt, and what else happens."""

    status: AttemptStatus
    effects: frozenset[Effect]


_RolloutTable: TypeAlias = dict[tuple[RolloutStatus, RolloutEvent], RolloutTransition]
_AttemptTable: TypeAlias = dict[tuple[AttemptStatus, AttemptEvent], AttemptTransition]


def _rollout_table() -> _RolloutTable:
    table: _RolloutTable = {}

    def row(
        before: Iterable[RolloutStatus], event: RolloutEvent, after: RolloutStatus | None, *effects: Effect
    ) -> None:
        """`after` None keeps the status."""
        for status in before:
            table[status, event] = RolloutTransition(after or status, frozenset(effects))

    unfinished = QUEUED + RUNNING
    row(QUEUED, "claim", "preparing")
    row(unfinished, "restart", "preparing")
    row(FINISHED, "restart", "preparing", Effect.REOPEN)

    # A rollout follows its latest attempt until it is finished; from then on nothing an attempt does moves it.
    row(unfinished, "attempt_preparing", "preparing")
    row(unfinished, "attempt_running", "running")
    row(unfinished, "attempt_succeeded", "succeeded", Effect.END, Effect.END_ATTEMPTS)
    row(RUNNING, "attempt_lost", "requeuing", Effect.ENQUEUE)
    row(QUEUED, "attempt_lost", None)
    row(unfinished, "attempt_lost_for_good", "failed", Effect.END, Effect.END_ATTEMPTS)
    row(FINISHED, "attempt_preparing", None)
    row(FINISHED, "attempt_running", None)
    row(FINISHED, "attempt_succeeded", None)
    row(FINISHED, "attempt_lost", None)
    row(FINISHED, "attempt_lost_for_good", None)

    # An explicit status always wins.
    row(RUNNING, "set_queuing", "queuing", Effect.ENQUEUE, Effect.END_ATTEMPTS)
    row(RUNNING, "set_requeuing", "requeuing", Effect.ENQUEUE, Effect.END_ATTEMPTS)
    row(QUEUED, "set_queuing", "queuing")
    row(QUEUED, "set_requeuing", "requeuing")
    row(FINISHED, "set_queuing", "queuing", Effect.ENQUEUE, Effect.REOPEN)
    row(FINISHED, "set_requeuing", "requeuing", Effect.ENQUEUE, Effect.REOPEN)
    row(unfinished, "set_preparing", "preparing")
    row(unfinished, "set_running", "running")
    row(FINISHED, "set_preparing", "preparing", Effect.REOPEN)
    row(FINISHED, "set_running", "running", Effect.REOPEN)
    row(ROLLOUT_STATUSES, "set_failed", "failed", Effect.END, Effect.END_ATTEMPTS)
    row(ROLLOUT_STATUSES, "set_succeeded", "succeeded", Effect.END, Effect.END_ATTEMPTS)
    row(ROLLOUT_STATUSES, "set_cancelled", "cancelled", Effect.END, Effect.END_ATTEMPTS)
    row(("failed",), "set_failed", None)
    row(("succeeded",), "set_succeeded", None)
    row(("cancelled",), "set_cancelled", None)
    return table


def _attempt_table() -> _AttemptTable:
    table: _AttemptTable = {}

    def row(
        before: Iterable[AttemptStatus], event: AttemptEvent, after: AttemptStatus | None, *effects: Effect
    ) -> None:
        """`after` None keeps the status."""
        for status in before:
            table[status, event] = AttemptTransition(after or status, frozenset(effects))

    row(LIVE, "span", "running")
    row(LIVE, "set_preparing", "preparing")
    row(LIVE, "set_running", "running")
    row(LIVE, "set_unresponsive", "unresponsive", Effect.END)
    row((*LIVE, "unresponsive"), "set_timeout", "timeout", Effect.END)
    row((*LIVE, "unresponsive"), "set_failed", "failed", Effect.END)
    row((*LIVE, "unresponsive"), "set_succeeded", "succeeded", Effect.END)

    # A silent attempt that speaks again was never gone.
    row(("unresponsive",), "span", "running", Effect.REOPEN)
    row(("unresponsive",), "set_running", "running", Effect.REOPEN)
    row(("unresponsive",), "set_unresponsive", None)

    # An ended attempt keeps its status; late spans are welcome.
    row(ENDED, "span", None)
    row(("failed",), "set_failed", None)
    row(("succeeded",), "set_succeeded", None)
    row(("timeout",), "set_timeout", None)
    return table


ROLLOUT_TABLE: Final = _rollout_table()
ATTEMPT_TABLE: Final = _attempt_table()


def next_rollout(status: RolloutStatus, event: RolloutEvent) -> RolloutTransition:
    """Return what `event` makes of a rollout in `status`.

    Raises:
        IllegalTransition: The table has no such row.
    """
    transition = ROLLOUT_TABLE.get((status, event))
    if transition is None:
        raise IllegalTransition(f"a rollout that is {status} cannot take the step {event!r}")
    return transition


def next_attempt(status: AttemptStatus, event: AttemptEvent) -> AttemptTransition:
    """Return what `event` makes of an attempt in `status`.

    Raises:
        LeaseLost: The attempt was ended, so its status is no longer its worker's to change.
    """
    transition = ATTEMPT_TABLE.get((status, event))
    if transition is None:
        raise LeaseLost(f"the attempt is {status}; the step {event!r} is no longer its worker's to take")
    return transition


def event_of_latest_attempt(status: AttemptStatus, sequence_id: int, config: RolloutConfig) -> RolloutEvent:
    """Return the event that the latest attempt's new status is for its rollout.

    Args:
        status: The attempt's status.
        sequence_id: The attempt's number, from 1.
        config: The rollout's configuration, which says what is tried again.
    """
    match status:
        case "preparing":
            return "attempt_preparing"
        case "running":
            return "attempt_running"
        case "succeeded":
            return "attempt_succeeded"
        case "failed" | "timeout" | "unresponsive":
            again = status in config.retry_condition and sequence_id < config.max_attempts
            return "attempt_lost" if again else "attempt_lost_for_good"


def rollout_event_setting(status: RolloutStatus) -> RolloutEvent:
    """Return the event of `update_rollout(status=status)`."""
    return _SET_ROLLOUT[status]


def attempt_event_setting(status: AttemptStatus) -> AttemptEvent:
    """Return the event of `update_attempt(status=status)`."""
    return _SET_ATTEMPT[status]


_SET_ROLLOUT: Final[dict[RolloutStatus, RolloutEvent]] = {
    "queuing": "set_queuing",
    "requeuing": "set_requeuing",
    "preparing": "set_preparing",
    "running": "set_running",
    "failed": "set_failed",
    "succeeded": "set_succeeded",
    "cancelled": "set_cancelled",
}
_SET_ATTEMPT: Final[dict[AttemptStatus, AttemptEvent]] = {
    "preparing": "set_preparing",
    "running": "set_running",
    "failed": "set_failed",
    "succeeded": "set_succeeded",
    "unresponsive": "set_unresponsive",
    "timeout": "set_timeout",
}
