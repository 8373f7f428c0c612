"""Laws: Resources and their versions."""
# ruff: noqa: D103  # the name of a law is its statement

from __future__ import annotations

import asyncio
from typing import Any

from agentlightning.errors import IllegalTransition, InvalidValue
from agentlightning.store.base import LightningStore
from agentlightning.store.redaction import redacted
from agentlightning.store.testing.suite import law, refused, rollout_of
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


@law
async def former_versions_of_resources_stay_readable(store: LightningStore) -> None:
    written = [
        await store.update_resources("mine", {"prompt": PromptTemplate(template=str(n), engine="jinja")})
        for n in range(3)
    ]
    other = await store.add_resources({})
    assert await store.get_resources_by_id("mine") == written[2]
    for number, update in enumerate(written, start=1):
        assert update.version == number
        assert await store.get_resources_by_id("mine", version=number) == update
    for missing in (0, 4, -1):
        assert await store.get_resources_by_id("mine", version=missing) is None
    first = await store.query_resources(version=1)
    assert (list(first), first.total) == ([written[0], other], 2)
    assert list(await store.query_resources(resources_id="mine", version=2)) == [written[1]]
    newest = await store.query_resources(limit=1)
    assert (list(newest), newest.total) == ([written[2]], 2)
    not_a_number: Any = "1"
    await refused(InvalidValue, store.query_resources(version=not_a_number))


@law
async def update_of_another_version_than_expected_changes_nothing(store: LightningStore) -> None:
    first = await store.update_resources("mine", {}, expected_version=0)
    latest = await store.add_resources({})
    for wrong in (0, 2, -1):
        await refused(IllegalTransition, store.update_resources("mine", {}, expected_version=wrong))
    await refused(IllegalTransition, store.update_resources("new", {}, expected_version=1))
    assert await store.get_resources_by_id("mine") == first
    assert await store.get_resources_by_id("new") is None
    assert await store.get_latest_resources() == latest
    second = await store.update_resources("mine", {}, expected_version=1)
    assert (second.version, await store.get_latest_resources()) == (2, second)


@law
async def of_concurrent_updates_of_one_version_one_succeeds(store: LightningStore) -> None:
    await store.update_resources("shared", {})
    updates = [store.update_resources("shared", {}, expected_version=1) for _ in range(10)]
    outcomes = await asyncio.gather(*updates, return_exceptions=True)
    assert sorted(isinstance(outcome, IllegalTransition) for outcome in outcomes) == [False] + [True] * 9
    newest = await store.get_resources_by_id("shared")
    assert newest is not None
    assert newest.version == 2


@law
async def an_empty_id_and_latest_name_no_resources(store: LightningStore) -> None:
    for resources_id in ("", "latest"):
        await refused(InvalidValue, store.update_resources(resources_id, {}))
        assert await store.get_resources_by_id(resources_id) is None
    assert (await store.query_resources()).total == 0
    kept = await store.update_resources("Latest", {})
    assert await store.get_resources_by_id("Latest") == kept


@law
async def redacted_secrets_cannot_be_written_back(store: LightningStore) -> None:
    def llm(endpoint: str = "http://h/v1", **sampling_parameters: Any) -> LLM:
        return LLM(endpoint=endpoint, model="m", sampling_parameters=sampling_parameters)

    secret = {
        "key": LLM(endpoint="http://h/v1", model="m", api_key="sk-1"),
        "nested": llm(extra=[{"api_key": "sk-2"}], temperature=1.0),
        "headers": llm(extra_headers={"Authorization": "Bearer sk-3"}),
        "other spelling": llm(extra_headers={"X-API-Key": "sk-4"}),
        "capitals": llm(OPENAI_API_KEY="sk-5"),
        "words": llm(token="sk-6", secret="sk-6", password="sk-6", apikey="sk-6"),
        "user": llm("https://name:sk-7@h/v1?x=a@b"),
    }
    plain = {"none": llm("http://h/v1?user=a@b", max_tokens=5, stop_token_ids=[1], api_key=None)}
    written = await store.update_resources("mine", {**secret, **plain})
    shown = redacted(written.resources)
    assert "sk-" not in repr(shown)
    assert shown["none"] == plain["none"]
    for name in secret:
        await refused(InvalidValue, store.add_resources({name: shown[name]}))
        await refused(InvalidValue, store.update_resources("mine", {name: shown[name]}))
    assert await store.get_latest_resources() == written
    assert written.resources == {**secret, **plain}
