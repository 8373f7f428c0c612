"""The description of the REST interface is complete, valid, and frozen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rest import rest_of

from agentlightning.store import InMemoryLightningStore, LightningStore
from agentlightning.store.base import ROUTES
from agentlightning.store.openapi import openapi_of
from tests.openapi import openapi_text
from tests.store.serving import served

ROOT = Path(__file__).parents[2]
DESCRIPTION = openapi_of(LightningStore)


def test_the_interface_is_that_of_openapi_json() -> None:
    assert openapi_text() == (ROOT / "openapi.json").read_text("utf-8"), "if meant, run `make api` and review the diff"


def test_every_route_is_described_with_its_parameters_and_statuses() -> None:
    for route in ROUTES:
        described = DESCRIPTION["paths"][f"/v1/agl{route.path}"][route.verb.lower()]
        body = described.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
        named = {each["name"] for each in described["parameters"]} | set(body.get("properties", {}))
        assert set(route.signature.parameters) - {route.body} <= named
        assert {str(route.status), "401", "403", "413", "422", "429"} <= described["responses"].keys()
        assert described["summary"]
    names = [each["operationId"] for path in DESCRIPTION["paths"].values() for each in path.values()]
    assert len(names) == len(set(names))


def test_the_errors_of_an_operation_are_those_of_its_docstring() -> None:
    def refusals(path: str, verb: str = "post") -> dict[str, str]:
        statuses = DESCRIPTION["paths"][path][verb]["responses"].items()
        return {status: each["description"] for status, each in statuses if status in ("404", "409")}

    assert refusals("/v1/agl/queues/rollouts/dequeue") == {}
    assert refusals("/v1/agl/resources/{resources_id}") == {"409": "The newest version is another one."}
    assert refusals("/v1/agl/rollouts/{rollout_id}") == {"404": "No such rollout."}
    assert refusals("/v1/agl/rollouts/{rollout_id}", "get").keys() == {"404"}
    assert refusals("/v1/agl/rollouts/{rollout_id}/attempts/{attempt_id}").keys() == {"404", "409"}


def test_what_is_beside_the_operations_is_described_with_its_statuses() -> None:
    paths = {path: set(each["post"]["responses"]) for path, each in DESCRIPTION["paths"].items() if "post" in each}
    assert paths["/v1/traces"] == {"200", "400", "401", "403", "408", "413", "422", "429", "503"}
    assert paths["/v1/agl/requests/withdraw"] == {"200", "401", "403", "422", "429", "503"}
    assert paths["/v1/metrics"] == paths["/v1/logs"] == {"501"}


def _references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set[str]()
        return own.union(*(_references(item) for item in value.values()))
    return set[str]().union(*(_references(item) for item in value)) if isinstance(value, list) else set()


def test_every_reference_leads_somewhere() -> None:
    components = {f"#/components/schemas/{name}" for name in DESCRIPTION["components"]["schemas"]}
    assert _references(DESCRIPTION) == components


async def test_the_server_tells_its_own_description() -> None:
    store = InMemoryLightningStore()
    async with served(store) as url, rest_of(url) as rest, rest.session.get(f"{url}/openapi.json") as reply:
        assert await reply.json() == DESCRIPTION
    await store.close()


@pytest.mark.parametrize("path", ["/docs", "/", "/v1", "/openapi.json/", "/v1/aglx", "/v1/agl"])
async def test_there_is_nothing_beside_the_routes(path: str) -> None:
    store = InMemoryLightningStore()
    async with served(store) as url, rest_of(url) as rest, rest.session.get(f"{url}{path}") as reply:
        assert reply.status == 404
    await store.close()
