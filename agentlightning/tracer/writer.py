"""Spans on their way to the store: places reserved in order of start, spans written in batches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

from agentlightning.errors import StoreError
from agentlightning.store.retry import may_pass, retrying
from agentlightning.tracer.active import SpanRecord
from agentlightning.tracer.batcher import Batcher

if TYPE_CHECKING:
    from agentlightning.store import LightningStore

logger = logging.getLogger(__name__)

RESERVE_DELAY: Final = 0.002
WRITE_DELAY: Final = 0.02
"""Seconds a first reservation or span waits for company."""
FLUSH_TIMEOUT: Final = 30.0
"""Seconds after which a flush gives up; the spans stay queued."""


class SpanWriter:
    """Writes the spans of any number of traces to one store, from one event loop.

    Args:
        store: Where the spans go.
        loop: The event loop that calls the store.
    """

    def __init__(self, store: LightningStore, loop: asyncio.AbstractEventLoop) -> None:
        self.store = store
        self.loop = loop
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
            StoreError: The store did not answer within `FLUSH_TIMEOUT` seconds.
        """
        try:
            async with asyncio.timeout(FLUSH_TIMEOUT):
                await self._writes.flush()
        except TimeoutError as error:
            raise StoreError(f"the store did not take the spans within {FLUSH_TIMEOUT:.0f} s") from error

    def _put(self, batcher: Batcher[SpanRecord], record: SpanRecord) -> None:
        try:
            batcher.put(record)
        except RuntimeError as error:  # the loop is closed: the span stays in its trace, the caller must not suffer
            record.error = error
            logger.warning("A span of rollout %s ended after its event loop was closed", record.trace.rollout_id)

    async def _reserve_batch(self, records: list[SpanRecord]) -> None:
        await _deliver(records, self._reserve, "reserve span sequence ids")

    async def _write_batch(self, records: list[SpanRecord]) -> None:
        await self._reservations.flush()
        placed = [record for record in records if record.sequence_id is not None]
        if placed:
            await _deliver(placed, self._write, "write spans")

    async def _reserve(self, records: Sequence[SpanRecord]) -> None:
        pairs = [(record.trace.rollout_id or "", record.trace.attempt_id or "") for record in records]
        sequence_ids = await self.store.get_many_span_sequence_ids(pairs)
        for record, sequence_id in zip(records, sequence_ids, strict=True):
            record.sequence_id = sequence_id

    async def _write(self, records: Sequence[SpanRecord]) -> None:
        await self.store.add_many_spans([record.span(record.sequence_id or 0) for record in records])


async def _deliver(
    records: Sequence[SpanRecord], call: Callable[[Sequence[SpanRecord]], Awaitable[None]], what: str
) -> None:
    """Send the records together; if the store refuses, in ever smaller parts, so that none fails another."""
    try:
        await retrying(lambda: call(records), what=what)
    except Exception as error:  # noqa: BLE001  # whatever went wrong is kept on the records and raised by flush
        if len(records) > 1 and not may_pass(error):
            middle = len(records) // 2
            await _deliver(records[:middle], call, what)
            await _deliver(records[middle:], call, what)
            return
        for record in records:
            record.error = error
