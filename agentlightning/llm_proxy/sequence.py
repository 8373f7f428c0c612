"""Sequence ids for calls, reserved while the model works."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from agentlightning.errors import NotFound
from agentlightning.llm_proxy.unknown import UnknownAttempts
from agentlightning.store.base import LightningStore

logger = logging.getLogger(__name__)

_PATIENCE_SECONDS: Final = 2.0
_GRACE_SECONDS: Final = 0.005
"""How long a call waits at least for its number: what the agent did just before has none yet, either, and shall come
first. It is at most twice as long, so that calls wait for each other."""


_ANSWER_SECONDS: Final = 0.05
"""How long after its arrival an answered call may still keep its agent waiting for the number."""
_STORE_SECONDS: Final = 5.0
"""How long the store may take for numbers; then the shipper asks."""


@dataclass(slots=True, eq=False)
class _Waiting:
    """A call without a number, which came and is due at these times of the loop's clock."""

    attempt: tuple[str, str]
    future: asyncio.Future[int | None]
    came: float
    due: float
    asked: bool = False


class SequenceReserver:
    """Asks the store for sequence ids, many in one operation, without anybody waiting.

    A call gets its id from the moment it arrives, so that it stands before what the agent does with the answer.

    Args:
        get_store: Returns the store to ask.
    """

    def __init__(self, get_store: Callable[[], LightningStore]) -> None:
        self._get_store = get_store
        self._queue: deque[_Waiting] = deque()  # as they came, and so by when they are due; some may be asked for
        self._hurried: list[_Waiting] = []
        self._open: dict[tuple[str, str], list[_Waiting]] = {}
        self._task: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._unknown = UnknownAttempts()
        self._slow = False

    def reserve(self, rollout_id: str, attempt_id: str) -> asyncio.Future[int | None]:
        """Return the coming id, which is None when the store gives none now; ids follow the order of these calls."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[int | None] = loop.create_future()
        came = loop.time()
        due = (came // _GRACE_SECONDS + 2) * _GRACE_SECONDS
        call = _Waiting((rollout_id, attempt_id), future, came, due)
        self._queue.append(call)
        self._open.setdefault(call.attempt, []).append(call)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="agl-gateway-sequence")
        return future

    async def settle(self, rollout_id: str | None, attempt_id: str | None) -> None:
        """Ask at once for this attempt, and wait: what the agent does with its answer shall come after the call.

        A model that takes its time never makes anybody wait, for the number is there before the answer; nor does a
        store that is away, beyond a moment after the call came. Once that moment was not enough, nobody waits any more
        until the store is quick again.
        """
        if rollout_id is None or attempt_id is None:
            return
        calls = self._open.get((rollout_id, attempt_id))
        if not calls:
            return
        hurried = [call for call in calls if not call.asked]
        if hurried:
            self._hurried += hurried
            self._hurry.set()
        left = max(call.came for call in calls) + _ANSWER_SECONDS - asyncio.get_running_loop().time()
        if left > 0 and not self._slow:
            _, missing = await asyncio.wait({call.future for call in calls}, timeout=left)
            self._slow = bool(missing)

    async def reserve_known(self, rollout_id: str, attempt_id: str) -> asyncio.Future[int | None]:
        """Like `reserve`, but wait a moment for the store to say whether it knows the attempt.

        Raises:
            NotFound: It does not.
        """
        future: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                store = self._get_store()
                if attempt_id not in {attempt.attempt_id for attempt in await store.query_attempts(rollout_id)}:
                    raise NotFound(f"there is no attempt {attempt_id!r} of a rollout {rollout_id!r}")
                (sequence_id,) = await store.get_many_span_sequence_ids([(rollout_id, attempt_id)])
            future.set_result(sequence_id)
        except NotFound:
            raise
        except Exception as error:  # noqa: BLE001  # any store may fail in any way; the shipper asks again later
            logger.warning("no sequence id for an event of attempt %s yet: %r", attempt_id, error)
            future.set_result(None)
        return future

    async def close(self) -> None:
        """Stop asking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        while first := self._first():
            batch = await self._due(first.due)
            if not batch:
                continue
            ids = await self._ask([call.attempt for call in batch])
            for call, sequence_id in zip(batch, ids, strict=True):
                self._answer(call, sequence_id)

    def _first(self) -> _Waiting | None:
        """Return the call that is due next, of those that nobody asked for."""
        while self._queue and self._queue[0].asked:
            self._queue.popleft()
        return self._queue[0] if self._queue else None

    def _answer(self, call: _Waiting, sequence_id: int | None) -> None:
        call.asked = True
        if not call.future.done():
            call.future.set_result(sequence_id)
        same = self._open[call.attempt]
        same.remove(call)
        if not same:
            del self._open[call.attempt]

    async def _due(self, first: float) -> list[_Waiting]:
        """Wait until there are calls whose time has come, or that are in a hurry, and take them."""
        try:
            async with asyncio.timeout_at(first):
                await self._hurry.wait()
            now = 0.0
        except TimeoutError:
            now = max(first, asyncio.get_running_loop().time())  # a timer may be early by its clock's resolution
        self._hurry.clear()
        batch, self._hurried = self._hurried, []
        while self._queue and self._queue[0].due <= now:
            batch.append(self._queue.popleft())
        return self._taken(batch)

    def _taken(self, calls: list[_Waiting]) -> list[_Waiting]:
        """Return those that nobody has asked for, each once, in the order in which they came."""
        taken: list[_Waiting] = []
        for call in calls:
            if not call.asked:
                call.asked = True
                taken.append(call)
        return sorted(taken, key=_came)

    async def _ask(self, attempts: list[tuple[str, str]]) -> Sequence[int | None]:
        known = [attempt for attempt in attempts if attempt not in self._unknown]
        found: defaultdict[tuple[str, str], deque[int | None]] = defaultdict(deque)
        for attempt, number in zip(known, await self._ask_store(known) if known else (), strict=True):
            found[attempt].append(number)
        return [found[attempt].popleft() if found[attempt] else None for attempt in attempts]

    async def _ask_store(self, attempts: list[tuple[str, str]]) -> Sequence[int | None]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(_STORE_SECONDS):
                numbers = await self._get_store().get_many_span_sequence_ids(attempts)
        except NotFound:
            if len(set(attempts)) > 1:
                return await self._ask_apart(attempts)
            self._unknown.add(attempts[0])
            return [None] * len(attempts)
        except Exception as error:  # noqa: BLE001  # any store may fail in any way; the shipper asks again later
            logger.warning("no sequence ids for %d model calls yet: %r", len(attempts), error)
            self._leave(attempts)
            return [None] * len(attempts)
        if loop.time() - began < _ANSWER_SECONDS:
            self._slow = False
        return numbers

    async def _ask_apart(self, attempts: list[tuple[str, str]]) -> Sequence[int | None]:
        """Ask for each attempt in an operation of its own, for the store does not know all."""
        counts = Counter(attempts)
        numbers = {attempt: iter(await self._ask_store([attempt] * count)) for attempt, count in counts.items()}
        return [next(numbers[attempt]) for attempt in attempts]

    def _leave(self, attempts: list[tuple[str, str]]) -> None:
        """Give the later calls of these attempts no number either: the shipper asks for all, in the calls' order."""
        for attempt in set(attempts):
            for call in [call for call in self._open[attempt] if not call.asked]:
                self._answer(call, None)


def _came(call: _Waiting) -> float:
    return call.came
