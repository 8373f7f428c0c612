"""What an operation answered, kept as the ids by which it is found again."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, cast

from pydantic_core import from_json, to_json

from agentlightning.errors import NotFound
from agentlightning.store.sql.claims import Claim
from agentlightning.store.sql.codec import (
    ATTEMPT_FIELDS,
    ROLLOUT_FIELDS,
    attempt_of,
    columns,
    rollout_of,
    rollout_with_attempt_of,
)
from agentlightning.store.sql.filters import Conditions, Paging
from agentlightning.store.sql.resources import query_resources
from agentlightning.store.sql.transaction import Transaction
from agentlightning.types import Attempt, AttemptedRollout, ResourcesUpdate, Rollout

_ROLLOUT: Final = f"SELECT {columns(ROLLOUT_FIELDS, 'r')} FROM rollouts r WHERE r.rollout_id = ?"
_ATTEMPT: Final = f"SELECT {columns(ATTEMPT_FIELDS, 'a')} FROM attempts a WHERE a.rollout_id = ? AND a.attempt_id = ?"
_CLAIM: Final = f"""
    SELECT {columns(ROLLOUT_FIELDS, "r")}, {columns(ATTEMPT_FIELDS, "a")}
    FROM attempts a JOIN rollouts r ON r.rollout_id = a.rollout_id
    WHERE a.rollout_id = ? AND a.attempt_id = ?
"""


def encode_answer(answer: Any) -> bytes:
    """Return what `rebuild_answer` needs of an answer: one thing of a kind it knows, or a list of such.

    Raises:
        TypeError: It knows no such kind.
    """
    many = isinstance(answer, list)
    items = cast("list[Any]", answer) if many else [answer]
    for name, kind in _KINDS.items():
        if all(isinstance(item, kind.type) for item in items):
            ids = [kind.ids(item) for item in items]
            return to_json((name, many, ids))
    raise TypeError(f"an answer of type {type(answer).__name__} is not in the table of kinds in {__name__}")


async def rebuild_answer(tx: Transaction, body: bytes) -> Any:
    """Build an answer from the rows as they are now; a list is without what is gone.

    Raises:
        NotFound: The one thing that it was is gone.
    """
    name, many, ids = from_json(body)
    found = [item for key in ids if (item := await _KINDS[name].find(tx, *key)) is not None]
    if many:
        return found
    if not found:
        raise NotFound(f"the {name} {' '.join(map(str, ids[0]))} is gone")
    return found[0]


async def _find_claim(tx: Transaction, rollout_id: str, attempt_id: str) -> Claim | None:
    row = await tx.fetch_one(_CLAIM, (rollout_id, attempt_id))
    made = rollout_with_attempt_of(row) if row else None
    return Claim(made, recalled=True) if isinstance(made, AttemptedRollout) else None


async def _find_rollout(tx: Transaction, rollout_id: str) -> Rollout | None:
    row = await tx.fetch_one(_ROLLOUT, (rollout_id,))
    return rollout_of(row) if row else None


async def _find_attempt(tx: Transaction, rollout_id: str, attempt_id: str) -> Attempt | None:
    row = await tx.fetch_one(_ATTEMPT, (rollout_id, attempt_id))
    return attempt_of(row) if row else None


async def _find_resources(tx: Transaction, resources_id: str, version: int) -> ResourcesUpdate | None:
    conditions = Conditions("and")
    conditions.exact("resources_id", resources_id)
    page = await query_resources(tx, conditions, version, Paging(None, "asc", 1, 0))
    return page[0] if page else None


async def _same(tx: Transaction, number: int) -> int:
    return number


@dataclass(slots=True, frozen=True)
class _Kind:
    """A kind of thing that operations answer with.

    Attributes:
        type: Its class.
        ids: Returns what it is found by.
        find: Finds it again, or None.
    """

    type: type
    ids: Callable[[Any], tuple[str | int, ...]]
    find: Callable[..., Coroutine[Any, Any, Any]]


_KINDS: Final = {
    "claim": _Kind(Claim, lambda claim: (claim.made.rollout_id, claim.made.attempt.attempt_id), _find_claim),
    "rollout": _Kind(Rollout, lambda rollout: (rollout.rollout_id,), _find_rollout),
    "attempt": _Kind(Attempt, lambda attempt: (attempt.rollout_id, attempt.attempt_id), _find_attempt),
    "resources": _Kind(ResourcesUpdate, lambda update: (update.resources_id, update.version), _find_resources),
    "number": _Kind(int, lambda number: (number,), _same),
}
