"""Moves calls from the journal to the store, in batches, behind the backs of those who made them."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from typing import Final

from agentlightning.errors import AgentLightningError, InvalidValue, NotFound
from agentlightning.llm_proxy.capture import to_span
from agentlightning.llm_proxy.exchange import Exchange
from agentlightning.llm_proxy.journal import Journal, Segment
from agentlightning.llm_proxy.losses import Losses
from agentlightning.llm_proxy.pace import Pace
from agentlightning.llm_proxy.unknown import UnknownAttempts
from agentlightning.store.base import LightningStore
from agentlightning.types import Span

logger = logging.getLogger(__name__)

_LINGER_SECONDS: Final = 0.02
"""How long a first call waits for others to share an operation of the store, unless somebody flushes."""
_LONGEST_DELAY_SECONDS: Final = 5.0
_STORE_SECONDS: Final = 30.0
"""How long one operation of the store may take. Writing is harmless twice, so what takes longer is tried again."""
_SEQUENCE_SECONDS: Final = 5.0
"""How long calls wait at most for numbers that are asked for already; after that the shipper asks."""

SequenceFuture = asyncio.Future[int | None]


class _Backlog:
    """The calls of one attempt that are not in the store yet."""

    def __init__(self) -> None:
        self.size = 0
        self.empty = asyncio.Event()


class _Waiting:
    """What is known of the calls in one segment: whose they are, and the sequence ids reserved for them by span id."""

    def __init__(self) -> None:
        self.attempts: Counter[tuple[str, str]] = Counter()
        self.sequence_ids: dict[str, SequenceFuture] = {}


class Shipper:
    """Takes finished calls and sees to it that each is in the store once.

    Args:
        journal: Where calls are kept until then; what it holds from an earlier process is shipped first.
        get_store: Returns the store to write to.

    Attributes:
        losses: Counts the calls that never reach the store.
        waiting: How many calls wait for it.
    """

    def __init__(self, journal: Journal, get_store: Callable[[], LightningStore]) -> None:
        self._journal = journal
        self._get_store = get_store
        self._backlogs: dict[tuple[str, str], _Backlog] = {}
        self._waiting: defaultdict[Segment, _Waiting] = defaultdict(_Waiting)
        self.losses = Losses()
        self._unknown = UnknownAttempts()
        self.waiting = 0
        self._recounted = asyncio.Event()
        self._arrived = asyncio.Event()
        self._urgent = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def journal_bytes(self) -> int:
        """What the calls that wait take on disk."""
        return self._journal.size

    def start(self) -> None:
        """Begin, with what an earlier process left."""
        self._task = asyncio.create_task(self._run(self._journal.seal()), name="agl-gateway-shipper")
        self._task.add_done_callback(_say_why_it_ended)

    def add(self, exchange: Exchange, sequence_id: SequenceFuture) -> bool:
        """Journal a call, which reaches the store later; False if it is lost, for the journal takes no more."""
        try:
            segment = self._journal.append(exchange)
        except OSError as error:
            self.losses.add_unwritten((exchange.rollout_id, exchange.attempt_id), error)
            return False
        self._waiting[segment].sequence_ids[exchange.span_id] = sequence_id
        self._count(segment, exchange)
        self._arrived.set()
        return True

    def expect(self, rollout_id: str, attempt_id: str) -> Callable[[], None]:
        """Let flushes of an attempt wait for a call whose answer is still coming; returns what ends that."""
        attempt = rollout_id, attempt_id
        self._grow(attempt)
        return lambda: self._shrink(attempt, 1)

    async def flush(self, rollout_id: str, attempt_id: str, deadline: float) -> bool:
        """Wait until the calls of an attempt are in the store; False if `deadline` seconds were not enough.

        What is lost is not waited for: see `losses`.
        """
        attempt = rollout_id, attempt_id
        if attempt not in self._backlogs and self._recounted.is_set():
            return True
        return await self._wait_empty(lambda: [self._backlogs[attempt]] if attempt in self._backlogs else [], deadline)

    async def close(self, deadline: float) -> bool:
        """Ship what is left and stop; False if `deadline` seconds were not enough: the rest stays in the journal."""
        shipped = await self._wait_empty(lambda: list(self._backlogs.values()), deadline)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        self._journal.seal()
        return shipped

    async def _wait_empty(self, get_backlogs: Callable[[], list[_Backlog]], deadline: float) -> bool:
        self._urgent.set()
        try:
            async with asyncio.timeout(deadline):
                await self._recounted.wait()
                for backlog in get_backlogs():
                    await backlog.empty.wait()
        except TimeoutError:
            return False
        return True

    async def _run(self, left: list[Segment]) -> None:
        pace, readable = Pace(), list[Segment]()
        for segment in left:
            if self._recount(segment):
                readable.append(segment)
            await pace.rest()
        self._recounted.set()
        for segment in readable:
            await self._ship(segment)
        while True:
            await self._arrived.wait()
            await self._linger()
            self._arrived.clear()
            self._urgent.clear()
            for segment in self._journal.seal():
                await self._ship(segment)

    async def _linger(self) -> None:
        try:
            async with asyncio.timeout(_LINGER_SECONDS):
                await self._urgent.wait()
        except TimeoutError:
            return  # the usual end: nobody is in a hurry

    async def _ship(self, segment: Segment) -> None:
        exchanges = self._read(segment)
        if exchanges is None:
            return
        spans = await self._to_spans(exchanges)
        await self._write_until_taken(spans, await self._take_sequence_ids(segment))
        try:
            self._journal.delete(segment)
        except OSError as error:
            logger.warning("%s stays, though the store has its calls: %r", segment.path, error)
        self._uncount(segment)

    def _read(self, segment: Segment) -> list[Exchange] | None:
        """Return a segment's calls, or None if it cannot be read and nobody shall wait for it any more."""
        try:
            return segment.read()
        except (OSError, ValueError) as error:
            lost = self._uncount(segment)
            for attempt, count in lost.items():
                self.losses.add(attempt, count)
            logger.error(
                "%s is set aside, its model calls (%d known) do not reach the store: %r",
                segment.path,
                lost.total(),
                error,
            )
        try:
            self._journal.set_aside(segment)
        except OSError as error:
            logger.warning("%s could not be renamed: %r", segment.path, error)
        return None

    async def _to_spans(self, exchanges: list[Exchange]) -> list[Span]:
        pace, spans = Pace(), list[Span]()
        for exchange in exchanges:
            try:
                spans.append(await to_span(exchange, pace))
            except Exception as error:  # noqa: BLE001  # one answer in an odd form costs itself and no other call
                self.losses.add_refused((exchange.rollout_id, exchange.attempt_id), 1, error)
        return spans

    async def _take_sequence_ids(self, segment: Segment) -> dict[str, int]:
        futures = self._waiting[segment].sequence_ids
        if waiting := [future for future in futures.values() if not future.done()]:
            await asyncio.wait(waiting, timeout=_SEQUENCE_SECONDS)
        ids = {span_id: future.result() for span_id, future in futures.items() if future.done()}
        return {span_id: sequence_id for span_id, sequence_id in ids.items() if sequence_id is not None}

    async def _write_until_taken(self, spans: list[Span], sequence_ids: dict[str, int]) -> None:
        """Write calls, or those among them that the store takes: what it refuses now it refuses always."""
        delay, groups = 0.05, deque(self._groups(spans))
        while groups:
            try:
                await self._write(groups[0], sequence_ids)
            except (NotFound, InvalidValue) as error:
                groups.extendleft(self._refused(groups.popleft(), error))
            except Exception as error:  # noqa: BLE001  # any store may fail in any way; the calls are safe meanwhile
                count = sum(map(len, groups))
                logger.warning("%d model calls wait for the store, next try in %.2f s: %r", count, delay, error)
                await asyncio.sleep(delay)
                delay = min(delay * 2, _LONGEST_DELAY_SECONDS)
            else:
                groups.popleft()

    def _groups(self, spans: list[Span]) -> list[list[Span]]:
        """Return the calls to write in one operation; attempts that the store did not know each in their own."""
        groups: defaultdict[tuple[str, str] | None, list[Span]] = defaultdict(list)
        for span in spans:
            attempt = span.rollout_id, span.attempt_id
            groups[attempt if attempt in self._unknown else None].append(span)
        return list(groups.values())

    def _refused(self, spans: list[Span], error: AgentLightningError) -> list[list[Span]]:
        """Count calls as lost if the refusal is about all of them; else return the parts to try."""
        attempts = {(span.rollout_id, span.attempt_id) for span in spans}
        if len(attempts) > 1 or (len(spans) > 1 and not isinstance(error, NotFound)):
            return _parts(spans)
        (attempt,) = attempts
        if isinstance(error, NotFound):
            self._unknown.add(attempt)
        self.losses.add_refused(attempt, len(spans), error)
        return []

    async def _write(self, spans: list[Span], sequence_ids: dict[str, int]) -> None:
        store = self._get_store()
        missing = [span for span in spans if span.span_id not in sequence_ids]
        if missing:
            attempts = [(span.rollout_id, span.attempt_id) for span in missing]
            async with asyncio.timeout(_STORE_SECONDS):
                reserved = await store.get_many_span_sequence_ids(attempts)
            sequence_ids.update(zip((span.span_id for span in missing), reserved, strict=True))
        for span in spans:
            span.sequence_id = sequence_ids[span.span_id]
        async with asyncio.timeout(_STORE_SECONDS):
            await store.add_many_spans(spans)

    def _recount(self, segment: Segment) -> bool:
        """Count what an earlier process left in a segment; False if that cannot be read."""
        exchanges = self._read(segment)
        for exchange in exchanges or ():
            self._count(segment, exchange)
        return exchanges is not None

    def _count(self, segment: Segment, exchange: Exchange) -> None:
        attempt = exchange.rollout_id, exchange.attempt_id
        self._waiting[segment].attempts[attempt] += 1
        self.waiting += 1
        self._grow(attempt)

    def _uncount(self, segment: Segment) -> Counter[tuple[str, str]]:
        """Nobody shall wait for a segment's calls any more; returns how many of whom were waited for."""
        attempts = self._waiting.pop(segment, _Waiting()).attempts
        self.waiting -= attempts.total()
        for attempt, size in attempts.items():
            self._shrink(attempt, size)
        return attempts

    def _grow(self, attempt: tuple[str, str]) -> None:
        self._backlogs.setdefault(attempt, _Backlog()).size += 1

    def _shrink(self, attempt: tuple[str, str], size: int) -> None:
        backlog = self._backlogs[attempt]
        backlog.size -= size
        if backlog.size == 0:
            backlog.empty.set()
            del self._backlogs[attempt]


def _parts(spans: list[Span]) -> list[list[Span]]:
    """Return the calls by attempt; those of one attempt one by one."""
    parts: defaultdict[tuple[str, str], list[Span]] = defaultdict(list)
    for span in spans:
        parts[span.rollout_id, span.attempt_id].append(span)
    return list(parts.values()) if len(parts) > 1 else [[span] for span in spans]


def _say_why_it_ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("model calls reach the store no more; the journal keeps them for the next start", exc_info=error)
