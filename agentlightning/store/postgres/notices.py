"""What one store tells the others on the same tables: `Changes` as the payload of a NOTIFY."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from agentlightning.store.sql.transaction import Changes

_LARGEST: Final = 7999
"""Bytes that PostgreSQL takes as one payload."""


@dataclass(frozen=True, slots=True)
class Notice:
    """What a store tells.

    Attributes:
        origin: Which store.
        changes: What it changed.
        complete: False when it finished or reopened more rollouts than it could name.
    """

    origin: str
    changes: Changes
    complete: bool


def announcement(channel: str, origin: str, changes: Changes) -> str:
    """Return the statement that announces changes, nothing if there is nothing to hear."""
    if not changes.rollouts and not changes.enqueued and changes.deadline is None:
        return ""
    payload = json.dumps([origin, changes.rollouts, changes.enqueued, changes.deadline])  # ASCII
    if len(payload) > _LARGEST:
        payload = json.dumps([origin, None, changes.enqueued, changes.deadline])
    quoted = payload.replace("'", "''")
    return f"NOTIFY \"{channel}\", '{quoted}';"


def notice_of(payload: str) -> Notice:
    """Read what another store announced."""
    origin, rollouts, enqueued, deadline = json.loads(payload)
    changes = Changes([(rollout_id, finished) for rollout_id, finished in rollouts or ()], enqueued, deadline)
    return Notice(origin, changes, rollouts is not None)
