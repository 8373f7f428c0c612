"""Rollouts run through `Trainer.fit`, and what the store says of each afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import agentlightning as agl
from agentlightning import semconv

DEADLINE = 60.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is left of a finished rollout: its status, its error as recorded, and the spans of its latest attempt."""

    status: str
    error: dict[str, str]
    spans: list[agl.Span]

    @property
    def reward(self) -> float | None:
        return agl.find_final_reward(self.spans)

    @property
    def calls(self) -> list[agl.Span]:
        return [span for span in self.spans if span.name == semconv.AGL_LLM_CALL]


async def run_all(store: agl.LightningStore, requests: Sequence[agl.EnqueueRolloutRequest]) -> list[Outcome]:
    """Enqueue rollouts and look at each in the moment in which the store says that it is finished."""
    rollouts = await store.enqueue_many_rollouts(requests)
    return await asyncio.gather(*(_outcome(store, rollout.rollout_id) for rollout in rollouts))


async def _outcome(store: agl.LightningStore, rollout_id: str) -> Outcome:
    finished = await store.wait_for_rollouts(rollout_ids=[rollout_id], timeout=DEADLINE)
    assert finished, f"rollout {rollout_id} did not finish in {DEADLINE} s"
    (rollout,) = finished
    spans = await store.query_spans(rollout_id, "latest")
    attempt = await store.get_latest_attempt(rollout_id)
    assert attempt is not None
    return Outcome(rollout.status, (attempt.metadata or {}).get("error", {}), list(spans))


def fit(
    agent: agl.LitAgent[object], requests: Sequence[agl.EnqueueRolloutRequest], n_runners: int = 2
) -> list[Outcome]:
    """Run the rollouts through a trainer whose algorithm only looks at them."""
    outcomes: list[Outcome] = []

    @agl.algo
    async def look(store: agl.LightningStore) -> None:
        outcomes.extend(await run_all(store, requests))

    agl.Trainer(algorithm=look, n_runners=n_runners).fit(agent)
    return outcomes
