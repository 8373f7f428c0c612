"""Operations that run at most once for a key, so that a request sent again is answered, not repeated.

A key is written in the transaction of its operation, with what its answer is rebuilt from. An answer without items is
not kept: the same request may find something later.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar

from agentlightning.errors import InvalidValue, NotFound
from agentlightning.store.operations import LONGEST_KEY
from agentlightning.store.sql.answers import encode_answer, rebuild_answer
from agentlightning.store.sql.checks import check_text
from agentlightning.store.sql.claims import Claim, withdraw_claim
from agentlightning.store.sql.transaction import Row, Transaction

T = TypeVar("T")
_Operation: TypeAlias = Callable[[Transaction], Coroutine[Any, Any, T]]
_Undo: TypeAlias = Callable[[Transaction, T], Coroutine[Any, Any, None]]

KEPT_SECONDS: Final = 600.0
"""How long a key is remembered at least."""
_PRUNE_EVERY: Final = 128
"""Operations with a key between two looks for old ones. A look deletes up to twice as many: more than came meanwhile,
and too few for others to notice the wait."""

# Who comes second waits here for the first to commit, and never runs beside it.
_RESERVE: Final = """
    INSERT INTO request_keys (request_key, fingerprint, answer, uses, create_time) VALUES (?, ?, ?, 1, ?)
    ON CONFLICT (request_key) DO NOTHING
"""
_ANSWER: Final = "UPDATE request_keys SET answer = ? WHERE request_key = ?"
_RECALL: Final = "UPDATE request_keys SET uses = uses + 1 WHERE request_key = ? RETURNING fingerprint, answer, uses"
_FORGET: Final = "DELETE FROM request_keys WHERE request_key = ? AND uses = ?"
_LOCK: Final = "UPDATE request_keys SET uses = uses WHERE request_key = ? AND uses = ?"
_WITHDRAW: Final = "UPDATE request_keys SET fingerprint = ?, uses = uses + 1 WHERE request_key = ? RETURNING answer"
_WITHDRAWN: Final = b"withdrawn"
"""The fingerprint of a request that is to come to nothing; no request has it."""
_OLD: Final = """
    SELECT k.request_key FROM request_keys k WHERE k.create_time < ?
    ORDER BY k.create_time LIMIT ? FOR UPDATE OF k SKIP LOCKED
"""


@dataclass(slots=True, frozen=True)
class Request:
    """What a caller sends once or several times, and means once.

    Attributes:
        key: The caller's name for it.
        fingerprint: Digest of what is asked for.

    Raises:
        InvalidValue: The key cannot be kept.
    """

    key: str
    fingerprint: bytes

    def __post_init__(self) -> None:
        check_key(self.key)


def check_key(key: str) -> None:
    """Refuse a key that cannot be kept."""
    check_text(key, "the idempotency key")
    if not 1 <= len(key) <= LONGEST_KEY:
        raise InvalidValue(f"the idempotency key has {len(key)} characters: use 1 to {LONGEST_KEY}")


class Write(Protocol):
    """How a store runs an operation that changes it; see `SqlLightningStore.write`."""

    async def __call__(self, operation: _Operation[T], undo: _Undo[T] | None = None, *, small: bool = False) -> T:
        """Run the operation."""
        ...


@dataclass(slots=True, frozen=True)
class _Outcome(Generic[T]):
    """What a request came to.

    Attributes:
        result: Of the operation.
        use: How many requests were given it, this one included; the first one made it.
    """

    result: T
    use: int


class RequestKeys:
    """The keys of a store."""

    def __init__(self) -> None:
        self._requests = count(1)

    def once(self, request: Request, write: Write) -> Write:
        """Return a `write` that runs what it is given at most once for the request."""

        async def write_once(operation: _Operation[T], undo: _Undo[T] | None = None, *, small: bool = False) -> T:
            undo_outcome = partial(_undo_outcome, request, undo) if undo else None
            outcome: _Outcome[T] = await write(lambda tx: self._run(tx, request, operation), undo_outcome, small=small)
            return outcome.result

        return write_once

    async def _run(self, tx: Transaction, request: Request, operation: _Operation[T]) -> _Outcome[T]:
        if next(self._requests) % _PRUNE_EVERY == 0:
            await _prune(tx)
        while not await tx.execute(_RESERVE, (request.key, request.fingerprint, b"", tx.now)):
            known = await tx.fetch_one(_RECALL, (request.key,))
            if known is not None:  # None: another server pruned it just now
                return await _recalled(tx, request, known)
        result = await operation(tx)
        if result == []:
            await tx.execute(_FORGET, (request.key, 1))
        else:
            await tx.execute(_ANSWER, (encode_answer(result), request.key))
        return _Outcome(result, use=1)


async def withdraw(tx: Transaction, key: str) -> None:
    """Undo the claims of a request whose caller went away, and see to it that it makes none later.

    A claim that did not come from the queue cannot vanish; its attempt fails, unless somebody works on it.
    """
    if await tx.execute(_RESERVE, (key, _WITHDRAWN, b"", tx.now)):
        await _prune(tx)  # seldom enough not to be counted
        return
    known = await tx.fetch_one(_WITHDRAW, (_WITHDRAWN, key))
    if known is None or not known[0]:
        return
    with contextlib.suppress(NotFound):
        answer = await rebuild_answer(tx, known[0])
        for claim in answer if isinstance(answer, list) else [answer]:  # pyright: ignore[reportUnknownVariableType]
            if isinstance(claim, Claim):
                await withdraw_claim(tx, claim)


async def _prune(tx: Transaction) -> None:
    old = await tx.fetch(_OLD, (tx.now - KEPT_SECONDS, 2 * _PRUNE_EVERY))
    await tx.execute_many("DELETE FROM request_keys WHERE request_key = ?", [(key,) for (key,) in old])


async def _recalled(tx: Transaction, request: Request, known: Row) -> _Outcome[Any]:
    fingerprint, answer, use = known
    if fingerprint != request.fingerprint:
        raise InvalidValue(f"the idempotency key {request.key!a} was used for another request: give each its own")
    return _Outcome(await rebuild_answer(tx, answer), use)


async def _undo_outcome(request: Request, undo: _Undo[T], tx: Transaction, outcome: _Outcome[T]) -> None:
    """Undo what its caller never heard of, unless somebody was given the same answer since: it is theirs then."""
    still_the_last = _FORGET if outcome.use == 1 else _LOCK
    if await tx.execute(still_the_last, (request.key, outcome.use)):
        await undo(tx, outcome.result)
