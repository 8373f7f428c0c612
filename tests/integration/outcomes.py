"""Rollouts run through `Trainer.fit`, and what the store says of each afterwards."""

from __future__ import annotations

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
    """Enqueue rollouts and look at each as soon as all are finished, which is when an algorithm looks."""
    ids = [rollout.rollout_id for rollout in await store.enqueue_many_rollouts(requests)]
    finished = await store.wait_for_rollouts(rollout_ids=ids, timeout=DEADLINE)
    assert len(finished) == len(ids), f"only {len(finished)} of {len(ids)} rollouts finished in {DEADLINE} s"
    return [await _outcome(store, rollout) for rollout in finished]


async def _outcome(store: agl.LightningStore, rollout: agl.Rollout) -> Outcome:
    attempt = await store.get_latest_attempt(rollout.rollout_id)
    assert attempt is not None
    spans = await store.query_spans(rollout.rollout_id, "latest")
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
