"""Writes docs/lifecycle.md from the tables that the store obeys.

Run `python docs/generate_lifecycle.py > docs/lifecycle.md`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from agentlightning.types.lifecycle import (
    ATTEMPT_EVENTS,
    ATTEMPT_STATUSES,
    ATTEMPT_TABLE,
    FINISHED,
    LIVE,
    QUEUED,
    ROLLOUT_EVENTS,
    ROLLOUT_STATUSES,
    ROLLOUT_TABLE,
    RUNNING,
    AttemptTransition,
    Effect,
    RolloutTransition,
)

_Table: TypeAlias = Mapping[Any, RolloutTransition | AttemptTransition]
"""Pairs of status and event to what comes of them."""

_EXPLICIT: Final = tuple(event for event in ROLLOUT_EVENTS if event.startswith("set_") or event == "restart")
_WORK: Final = tuple(event for event in ROLLOUT_EVENTS if event not in _EXPLICIT)

_EFFECTS: Final = {
    Effect.ENQUEUE: "joins the tail of the queue",
    Effect.END: "`end_time` is set",
    Effect.REOPEN: "`end_time` is cleared",
    Effect.END_ATTEMPTS: "live attempts end too",
}

_PAGE: Final = """\
<!-- Written by docs/generate_lifecycle.py from agentlightning/types/lifecycle.py; do not edit. -->
# Lifecycle

Every change of a status is a row of one table, `agentlightning/types/lifecycle.py`, and the store knows no other way to
change one. The diagrams and tables below are drawn from it. The diagrams show where things go, and leave out steps
inside a box; the tables hold every step. A pair of status and event that they do not hold is illegal:
`IllegalTransition` for a rollout, `LeaseLost` for an attempt.

Taking a step back is not a step: when the caller of `dequeue_rollout`, `start_rollout` or `start_attempt` is cancelled
before it hears of its attempt, the store withdraws the attempt, and the rollout is what it was before. If something
moved the rollout meanwhile, the unheard attempt takes the step `set_failed` instead. Likewise a claim from the queue
whose answer was lost on its way: see [leases](#leases).

## Rollouts

`enqueue_rollout` starts a rollout as `queuing`, `start_rollout` as `preparing` with its first attempt. From then on it
follows its latest attempt until it is finished, which is one of {final}. Nothing an attempt
does moves a finished rollout; only what is asked for does, and `cancelled` comes from nothing else.

```mermaid
{rollout_diagram}
```

### Steps that work takes

`claim` is a worker taking the rollout from the queue. The other events say what became of the latest attempt. It is
lost when its status is `failed`, `timeout` or `unresponsive`: `attempt_lost` if the rollout's `RolloutConfig` has
another attempt for that (`retry_condition`, `max_attempts`), `attempt_lost_for_good` if it has none.

{rollout_work}

### Steps that are asked for

`restart` is `start_attempt`; `set_…` is `update_rollout(status=…)`. A status that is asked for always wins.

{rollout_explicit}

## Attempts

An attempt begins as `preparing`. `span` is the arrival of one of its spans; `set_…` is `update_attempt(status=…)`.
Spans are kept whatever the status; those that come after the end are marked `late`. To spans, an `unresponsive`
attempt has ended too if a newer one has replaced it or its rollout is finished. A live one that `start_attempt`
replaces is no longer held by its worker: `renew_leases` names it as lost. What is said of its status moves nothing but
itself, and it ends with its rollout at the latest.

```mermaid
{attempt_diagram}
```

{attempt_steps}

## Leases

A worker holds an attempt under a lease, which ends only in one of these ways; each is a step of the tables above.

| what ends it | step | when |
|---|---|---|
| the attempt's outcome | `set_succeeded`, `set_failed` | its worker says so |
| too long a life | `set_timeout` | `timeout_seconds` after the attempt's start; nothing puts it off |
| too long a silence | `set_unresponsive` | `unresponsive_seconds` after its last span or heartbeat came |
| the death of its worker | `set_unresponsive` | somebody who saw it calls `release_worker` |
| a heartbeat of its worker that does not list it | `set_unresponsive`, or back to the queue | see below |
| the end of its rollout | `set_failed`, `set_succeeded` | `update_rollout(status=…)`, such as `cancelled` |

With neither number in the rollout's `RolloutConfig`, which is the default, nothing ends by clock. Where both deadlines
have passed, the attempt is `timeout`. Deadlines hold to the moment, whether or not anybody calls the store: it sleeps
until the earliest one. They are measured by a clock that does not jump when the machine's time is set, and the time
that a store on a file was away does not count: opening the file gives every live attempt the full length of both again.
`update_attempt(last_heartbeat_time=…)` is a heartbeat that comes now, whatever time it names.
An `unresponsive` attempt that a span revives may be silent for the full time again, but lives no longer than it would
have.

`renew_leases` is the heartbeat of a worker that lists the attempts it holds. The answer names those it has lost, so
that it stops working on them; that is how a worker learns that a rollout was cancelled. An attempt that was claimed for
the worker before its previous heartbeat and is not in the list is one that the worker never heard of. If nothing came
of it, neither a span nor a status, a claim from the queue is withdrawn: the rollout waits where it waited before, and
its next attempt has the same number. Otherwise the attempt becomes `unresponsive`.
"""


def page() -> str:
    """Return the page."""
    return _PAGE.format(
        final=_names(FINISHED),
        rollout_diagram=_diagram(ROLLOUT_TABLE, ROLLOUT_STATUSES, _WORK, [QUEUED, RUNNING]),
        rollout_work=_steps(ROLLOUT_TABLE, ROLLOUT_STATUSES, _WORK),
        rollout_explicit=_steps(ROLLOUT_TABLE, ROLLOUT_STATUSES, _EXPLICIT),
        attempt_diagram=_diagram(ATTEMPT_TABLE, ATTEMPT_STATUSES, ATTEMPT_EVENTS, [LIVE]),
        attempt_steps=_steps(ATTEMPT_TABLE, ATTEMPT_STATUSES, ATTEMPT_EVENTS),
    )


def _diagram(table: _Table, statuses: Sequence[str], events: Sequence[str], groups: Iterable[Sequence[str]]) -> str:
    """Draw the steps between statuses, those of a group as one box, which is named after its first status."""
    box_of = {status: status for status in statuses}
    for group in groups:
        box_of |= dict.fromkeys(group, group[0])
    edges: dict[tuple[str, str], dict[str, None]] = {}
    for (before, event), step in table.items():
        ends = box_of[before], box_of[step.status]
        if event in events and ends[0] != ends[1]:
            edges.setdefault(ends, {})[event] = None
    lines = ["stateDiagram-v2"]
    for box in dict.fromkeys(box_of.values()):
        members = ", ".join(status for status in statuses if box_of[status] == box)
        lines.append(f'    state "{members}" as {box}')
    lines += [f"    {source} --> {target}: {', '.join(labels)}" for (source, target), labels in edges.items()]
    return "\n".join(lines)


def _steps(table: _Table, statuses: Sequence[str], events: Sequence[str]) -> str:
    """List the steps; those that differ only in where they start are one row."""
    lines = ["| event | from | to | besides |", "|---|---|---|---|"]
    for event in events:
        rows: dict[tuple[str, frozenset[Effect]], list[str]] = {}
        for before in statuses:
            step = table.get((before, event))
            if step is not None:
                after = "the same" if step.status == before else f"`{step.status}`"
                rows.setdefault((after, step.effects), []).append(before)
        for (after, effects), befores in rows.items():
            besides = ", ".join(_EFFECTS[effect] for effect in Effect if effect in effects)
            lines.append(f"| `{event}` | {_names(befores)} | {after} | {besides} |")
    return "\n".join(lines)


def _names(statuses: Iterable[str]) -> str:
    return ", ".join(f"`{status}`" for status in statuses)


if __name__ == "__main__":
    sys.stdout.write(page())
