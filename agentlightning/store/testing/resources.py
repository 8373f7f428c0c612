"""Laws: Resources and their versions."""
# ruff: noqa: D103  # the name of a law is its statement

from __future__ import annotations

import asyncio

from agentlightning.store.base import LightningStore
from agentlightning.store.testing.suite import law, rollout_of
from agentlightning.types import LLM, PromptTemplate


@law
async def resources_written_last_are_the_latest(store: LightningStore) -> None:
    assert await store.get_latest_resources() is None
    prompt = PromptTemplate(template="{x}", engine="f-string")
    first = await store.add_resources({"prompt": prompt})
    second = await store.add_resources({"llm": LLM(endpoint="http://h/v1", model="m")})
    assert first.resources_id != second.resources_id
    assert len(first.resources_id) == 15
    assert (first.version, first.resources) == (1, {"prompt": prompt})
    assert await store.get_latest_resources() == second
    assert await store.get_resources_by_id(first.resources_id) == first
    again = await store.update_resources(first.resources_id, {})
    assert (again.version, again.create_time, again.resources) == (2, first.create_time, {})
    assert again.update_time >= first.update_time
    assert await store.get_latest_resources() == again
    named = await store.update_resources("mine", {"prompt": prompt})
    assert (named.resources_id, named.version) == ("mine", 1)
    assert await store.get_resources_by_id("nobody's") is None
    page = await store.query_resources(sort_by="version", sort_order="desc", limit=1)
    assert ([item.resources_id for item in page], page.total) == ([first.resources_id], 3)


@law
async def new_rollouts_take_the_latest_resources(store: LightningStore) -> None:
    assert (await store.enqueue_rollout(1)).resources_id is None
    first = await store.add_resources({})
    queued = await store.enqueue_rollout(1)
    assert queued.resources_id == first.resources_id
    second = await store.add_resources({})
    assert (await store.start_rollout(1)).resources_id == second.resources_id
    assert (await store.enqueue_rollout(1, resources_id="rs-given")).resources_id == "rs-given"
    assert (await rollout_of(store, queued.rollout_id)).resources_id == first.resources_id


@law
async def concurrent_updates_of_resources_lose_none(store: LightningStore) -> None:
    versions = await asyncio.gather(*(store.update_resources("shared", {}) for _ in range(20)))
    assert sorted(update.version for update in versions) == list(range(1, 21))
