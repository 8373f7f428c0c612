"""An operation that is added to the interface and its SQL is everywhere, with nothing else touched."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from rest import rest_of

from agentlightning.errors import InvalidValue, NotFound
from agentlightning.store import InMemoryLightningStore, LightningStore, LightningStoreClient, LightningStoreThreaded
from agentlightning.store.openapi import openapi_of
from agentlightning.store.operations import alias, operation
from agentlightning.types import Rollout
from tests.store.serving import served


class Interface(LightningStore):
    """The store's interface, with one more operation."""

    @alias("GET", "/rollouts/{rollout_id}/tags")
    @operation("POST", "/rollouts/{rollout_id}/tags", status=201)
    async def tag_rollout(self, rollout_id: str, tags: Sequence[str] = (), *, limit: int = 3) -> Rollout:
        """Give a rollout tags.

        Raises:
            NotFound: No such rollout.
        """
        raise NotImplementedError


class Store(InMemoryLightningStore, Interface):
    async def tag_rollout(self, rollout_id: str, tags: Sequence[str] = (), *, limit: int = 3) -> Rollout:
        if await self.get_rollout_by_id(rollout_id) is None:
            raise NotFound(f"no rollout {rollout_id}")
        return await self.update_rollout(rollout_id, metadata={"tags": list(tags)[:limit]})


class Client(LightningStoreClient, Interface):
    pass


class Wrapper(LightningStoreThreaded, Interface):
    pass


async def check(store: Interface) -> None:
    made = await store.enqueue_rollout(1)
    tagged = await store.tag_rollout(made.rollout_id, ["a", "b"], limit=1)
    assert type(tagged) is Rollout
    assert tagged.metadata == {"tags": ["a"]}
    with pytest.raises(NotFound, match="no rollout nobody"):
        await store.tag_rollout("nobody")
    with pytest.raises(TypeError):
        await store.tag_rollout(made.rollout_id, wrong=1)  # type: ignore[call-arg]


async def test_client_and_wrapper_have_it() -> None:
    store = Store()
    await check(store)
    await check(Wrapper(store))
    async with served(store) as url, Client(url) as client:
        await check(client)
        with pytest.raises(InvalidValue):
            await client.tag_rollout("x", tags="text")
    await store.close()


async def test_the_server_routes_it_and_its_alias() -> None:
    store = Store()
    made = await store.enqueue_rollout(1)
    async with served(store) as url, rest_of(url) as rest:
        path = f"/rollouts/{made.rollout_id}/tags"
        written, read = await asyncio.gather(rest.post(path, {"tags": ["a"]}), rest.get(f"{path}?tags=a&tags=b"))
        assert (written.status, written.body["metadata"]) == (201, {"tags": ["a"]})
        assert (read.status, read.body["metadata"]) == (200, {"tags": ["a", "b"]})
        assert (await rest.post("/rollouts/nobody/tags")).status == 404
        assert (await rest.post(path, {"tags": 5})).status == 422
        assert (await rest.post(path, {"tags": ["a"]}, **{"Idempotency-Key": "k"})).status == 201
    await store.close()


def test_the_description_has_it_and_the_plain_interface_has_not() -> None:
    described = openapi_of(Store)["paths"]["/v1/agl/rollouts/{rollout_id}/tags"]
    assert described["post"]["operationId"] == "tag_rollout"
    assert described["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"].keys() == {
        "tags",
        "limit",
    }
    assert {each["name"] for each in described["get"]["parameters"]} == {"rollout_id", "tags", "limit"}
    assert "/v1/agl/rollouts/{rollout_id}/tags" not in openapi_of(LightningStore)["paths"]
