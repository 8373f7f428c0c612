"""Spans on their way to the store: places reserved in order of start, spans written in batches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from agentlightning.errors import InvalidValue, StoreError
from agentlightning.store.retry import CALL_TIMEOUT, may_pass, persistently
from agentlightning.tracer.active import PART, PART_CHARACTERS, SpanRecord, characters_of, index_of
from agentlightning.tracer.batcher import Batcher

if TYPE_CHECKING:
    from agentlightning.store import LightningStore
    from agentlightning.types import Span

logger = logging.getLogger(__name__)

RESERVE_DELAY: Final = 0.0
"""Seconds a first reservation waits for company: none, for a gateway reserves too, and an agent's next call must not
overtake what the agent did before it."""
WRITE_DELAY: Final = 0.02
"""Seconds a first ended span waits for company."""
MAX_OUTAGE: Final = 60.0
"""Seconds for which a store that is away is asked again."""


class SpanWriter:
    """Writes the spans of any number of traces to one store, from one event loop.

    Args:
        store: Where the spans go.
        loop: The event loop that calls the store.
        patience: Seconds for which a store that is away is asked again.
    """

    def __init__(self, store: LightningStore, loop: asyncio.AbstractEventLoop, patience: float) -> None:
        self.store = store
        self.loop = loop
        self.patience = patience
        self._reservations = Batcher[SpanRecord](loop, self._reserve_batch, RESERVE_DELAY)
        self._writes = Batcher[SpanRecord](loop, self._write_batch, WRITE_DELAY)

    def reserve(self, record: SpanRecord) -> None:
        """Queue the reservation of a sequence id, from any thread."""
        self._put(self._reservations, record)

    def write(self, record: SpanRecord) -> None:
        """Queue an ended span, from any thread."""
        self._put(self._writes, record)

    async def flush(self) -> None:
        """Return when everything queued before this call was written or has failed.

        Raises:
            StoreError: The store did not answer in time, with one more call than there is patience; the spans stay
                queued.
        """
        limit = self.patience + CALL_TIMEOUT
        try:
            async with asyncio.timeout(limit):
                await self._writes.flush()
        except TimeoutError as error:
            raise StoreError(f"the store did not take the spans within {limit:g} s") from error

    def _put(self, batcher: Batcher[SpanRecord], record: SpanRecord) -> None:
        try:
            batcher.put(record)
        except RuntimeError as error:  # the loop is closed: the span stays in its trace, the caller must not suffer
            record.error = error
            logger.warning("A span of rollout %s ended after its event loop was closed", record.rollout_id)

    async def _reserve_batch(self, records: list[SpanRecord]) -> None:
        # One that was held back and released meanwhile stands here twice, and maybe after a later one.
        records = [record for record in dict.fromkeys(records) if not record.held and record.sequence_id is None]
        records.sort(key=index_of)
        for record in records:
            record.asked = True
        if records:
            await self._deliver(records, self._reserve, "reserve span sequence ids")

    async def _write_batch(self, records: list[SpanRecord]) -> None:
        await self._reservations.flush()
        records = [record for record in dict.fromkeys(records) if not record.held and record.sequence_id is not None]
        for record in records:
            record.sent = True
        async with asyncio.TaskGroup() as writes:
            for part in _parts(records):
                writes.create_task(self._deliver(part, self._write, "write spans"))
                await asyncio.sleep(0)  # it is the agents' turn

    async def _reserve(self, records: Sequence[SpanRecord]) -> None:
        pairs = [(record.rollout_id, record.attempt_id) for record in records]
        sequence_ids = await self.store.get_many_span_sequence_ids(pairs)
        for record, sequence_id in zip(records, sequence_ids, strict=True):
            record.sequence_id = sequence_id

    async def _write(self, records: Sequence[SpanRecord]) -> None:
        await self.store.add_many_spans([_span(record) for record in records])
        for record in records:
            record.pack()

    async def _deliver(
        self, records: Sequence[SpanRecord], call: Callable[[Sequence[SpanRecord]], Awaitable[None]], what: str
    ) -> None:
        """Send the records together; if the store refuses, in ever smaller parts, so that none fails another.

        If the store does not answer for too long, each rollout is tried once more for itself: one may be why.
        """
        try:
            await persistently(lambda: call(records), what=what, patience=self.patience)
        except Exception as error:  # noqa: BLE001  # whatever went wrong is kept on the records and raised by flush
            if len(records) > 1 and not may_pass(error):
                middle = len(records) // 2
                await self._deliver(records[:middle], call, what)
                await self._deliver(records[middle:], call, what)
                return
            alone = _by_rollout(records)
            failures = [error] if len(alone) == 1 else await asyncio.gather(*(_once(call, part) for part in alone))
            for part, failure in zip(alone, failures, strict=True):
                if failure is not None:
                    _mark(part, failure, what)


def _parts(records: Iterable[SpanRecord]) -> Iterator[list[SpanRecord]]:
    part: list[SpanRecord] = []
    characters = 0
    for record in records:
        try:
            span = _span(record)
        except InvalidValue as error:
            _mark([record], error, "write a span")
            continue
        part.append(record)
        characters += characters_of(span)
        if len(part) == PART or characters >= PART_CHARACTERS:
            yield part
            part, characters = [], 0
    if part:
        yield part


def _span(record: SpanRecord) -> Span:
    return record.span(record.sequence_id or 0)


def _by_rollout(records: Sequence[SpanRecord]) -> list[list[SpanRecord]]:
    parts: dict[str, list[SpanRecord]] = {}
    for record in records:
        parts.setdefault(record.rollout_id, []).append(record)
    return list(parts.values())


async def _once(
    call: Callable[[Sequence[SpanRecord]], Awaitable[None]], records: Sequence[SpanRecord]
) -> Exception | None:
    """Make the call a single time and return what it raised."""
    try:
        async with asyncio.timeout(CALL_TIMEOUT):
            await call(records)
    except Exception as error:  # noqa: BLE001  # the caller keeps it on the records
        return error
    return None


def _mark(records: Sequence[SpanRecord], error: Exception, what: str) -> None:
    for record in records:
        record.error = error
    # A flush may never come: a span can end after its trace.
    rollouts = sorted({record.rollout_id for record in records})
    logger.error("Could not %s of %s: %s: %s", what, ", ".join(rollouts[:3]), type(error).__name__, error)
