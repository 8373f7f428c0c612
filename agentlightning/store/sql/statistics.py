"""How much the store holds."""

from __future__ import annotations

from agentlightning.store.base import LightningStoreStatistics
from agentlightning.store.sql.transaction import Transaction


async def totals(tx: Transaction) -> LightningStoreStatistics:
    """Count the rows of each table."""
    row = await tx.fetch_one(
        """
        SELECT (SELECT COUNT(*) FROM rollouts), (SELECT COUNT(*) FROM attempts), (SELECT COUNT(*) FROM spans),
            (SELECT COUNT(*) FROM resources), (SELECT COUNT(*) FROM workers)
        """
    )
    assert row is not None
    rollouts, attempts, spans, resources, workers = row
    return {
        "total_rollouts": rollouts,
        "total_attempts": attempts,
        "total_spans": spans,
        "total_resources": resources,
        "total_workers": workers,
    }
