"""The conformance suite: what every implementation of `LightningStore` does.

Each law is a coroutine function that takes an empty store; `CONFORMANCE` holds them all. With pytest:

```python
@pytest.mark.parametrize("law", CONFORMANCE, ids=lambda law: law.__name__)
async def test_conformance(law, store):
    await law(store)
```
"""

from agentlightning.store.testing import (
    attempts,
    feeds,
    leases,
    lifetime,
    queries,
    refusals,
    resources,
    rollouts,
    spans,
    waiting,
    workers,
)
from agentlightning.store.testing.suite import Law, laws_of

CONFORMANCE: tuple[Law, ...] = tuple(
    law
    for module in (rollouts, attempts, spans, queries, resources, workers, waiting, leases, feeds, refusals, lifetime)
    for law in laws_of(module)
)
"""Every law, each to be run on an empty store of its own."""

__all__ = ["CONFORMANCE", "Law"]
