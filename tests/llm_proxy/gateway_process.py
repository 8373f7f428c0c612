"""A gateway to be killed: `gateway_process.py STORE JOURNAL BACKEND {ships,never_ships}` prints its base URL."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from agentlightning.llm_proxy import LLMProxy
from agentlightning.store import SqliteLightningStore
from agentlightning.types import Span


class NeverShips(SqliteLightningStore):
    """A store that takes no spans."""

    async def add_many_spans(self, spans: Sequence[Span]) -> Sequence[Span]:
        raise ConnectionError("the store is away")


async def main(store_path: str, journal: str, backend: str, kind: str) -> None:
    store = SqliteLightningStore(store_path) if kind == "ships" else NeverShips(store_path)
    attempted = await store.start_rollout(input={})
    model = {"model_name": "policy", "litellm_params": {"model": "policy", "api_base": backend}}
    proxy = LLMProxy(model_list=[model], store=store, journal_dir=journal)
    await proxy.start()
    sys.stdout.write(proxy.as_resource(attempted.rollout_id, attempted.attempt.attempt_id).endpoint + "\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
