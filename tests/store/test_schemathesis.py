"""Requests that schemathesis makes up from the OpenAPI description: none is answered with a fault, most succeed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from typing import Any, TypeAlias

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from agentlightning.store import InMemoryLightningStore, LightningStore, LightningStoreServer
from agentlightning.store.openapi import openapi_of
from agentlightning.store.otlp.paths import OTHER_SIGNALS

# The description has v0.3's older names too, whose use in the server's own process warns there.
pytestmark = pytest.mark.filterwarnings("ignore:query_rollouts:DeprecationWarning")

Record: TypeAlias = Callable[[str, object], None]

WANTED_SUCCESSES = 0.6
PAIRS = ("rollout_attempt_ids", "held")


@pytest.fixture
def served() -> Iterator[tuple[str, dict[str, list[Any]]]]:
    """A server, and ids that exist in its store."""
    store = InMemoryLightningStore()
    server = LightningStoreServer(store, port=0)

    async def prepare() -> dict[str, list[Any]]:
        await server.start()
        claim = await store.start_rollout({"task": 1}, worker_id="worker/1")
        resources = await store.add_resources({})
        pair = [claim.rollout_id, claim.attempt.attempt_id]
        return {
            "rollout_id": [claim.rollout_id],
            "attempt_id": [claim.attempt.attempt_id],
            "worker_id": ["worker/1", "50%", "\N{LLAMA}"],
            "resources_id": [resources.resources_id, "a/b"],
            "sort_by": ["start_time", "status"],
            "wait": [0.0],
            "timeout": [0.0],
            **{name: [pair] for name in PAIRS},
        }

    known = asyncio.run(prepare())
    yield server.endpoint, known
    asyncio.run(server.stop())
    asyncio.run(store.close())


def with_known_values(description: dict[str, Any], known: dict[str, list[Any]]) -> dict[str, Any]:
    """Return the description with what is known to exist as the only values of parameters and fields of that name."""
    described = deepcopy(description)

    def narrow(value: Any) -> None:
        if isinstance(value, list):
            for item in value:
                narrow(item)
        elif isinstance(value, dict):
            if "in" in value and value.get("name") in known:
                value["schema"] = {"enum": known[value["name"]]}
            properties = value.get("properties")
            for name in properties.keys() & known.keys() if isinstance(properties, dict) else ():
                one = {"enum": known[name]}
                properties[name] = {"type": "array", "items": one} if name in PAIRS else one
            for item in value.values():
                narrow(item)

    narrow(described)
    return described


class Fuzzer:
    """Sends made-up requests and counts the answers by operation and status."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: Counter[tuple[str, int]] = Counter()

    def ask_everything(self, description: dict[str, Any], examples: int, mode: GenerationMode) -> None:
        for operation in schemathesis.openapi.from_dict(description).get_all_operations():
            self._ask(operation.ok(), examples, mode)

    def _ask(self, operation: Any, examples: int, mode: GenerationMode) -> None:
        name = operation.definition.raw["operationId"]

        @seed(0)
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: schemathesis.Case) -> None:
            answer = case.call(base_url=self.url, timeout=30, session=self.session)
            assert answer.status_code < 500, (name, case.as_curl_command(), answer.text)
            assert str(answer.status_code) in operation.definition.raw["responses"], (name, answer.status_code)
            self.answers[name, answer.status_code] += 1

        with requests.Session() as self.session, suppress(Unsatisfiable):  # a route without input has no wrong input
            ask()


def check(served: tuple[str, dict[str, list[Any]]], examples: int, record: Record) -> int:
    url, known = served
    description = openapi_of(LightningStore)
    for path in OTHER_SIGNALS:  # refused whatever they hold
        del description["paths"][path]
    fuzzer = Fuzzer(url)
    fuzzer.ask_everything(with_known_values(description, known), examples, GenerationMode.POSITIVE)
    waits = {name: known[name] for name in ("wait", "timeout")}
    wrong = max(examples // 8, 1)
    fuzzer.ask_everything(with_known_values(description, waits), wrong, GenerationMode.NEGATIVE)
    total = fuzzer.answers.total()
    good = sum(count for (_, status), count in fuzzer.answers.items() if status < 300)
    statuses = sorted(Counter(status for _, status in fuzzer.answers.elements()).items())
    record("requests", f"{total}, of which {good / total:.0%} were answered 2xx; by status: {dict(statuses)}")
    assert good / total >= WANTED_SUCCESSES, sorted(fuzzer.answers.items())
    return total


def test_some_requests(
    served: tuple[str, dict[str, list[Any]]], record_property: Callable[[str, object], None]
) -> None:
    assert check(served, 6, record_property) >= 200


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_many_requests(
    served: tuple[str, dict[str, list[Any]]], record_property: Callable[[str, object], None]
) -> None:
    assert check(served, 80, record_property) >= 2000
