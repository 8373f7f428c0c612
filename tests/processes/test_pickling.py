from __future__ import annotations

import pickle
import threading
from typing import Any

import pytest

from agentlightning.errors import ConfigurationError
from agentlightning.litagent import LitAgent, rollout
from agentlightning.processes.pickling import pickled
from agentlightning.runner import LitAgentRunner
from agentlightning.store import InMemoryLightningStore
from agentlightning.tracer import DummyTracer


class Locked(LitAgent[str]):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.settings = {"name": "x", "tools": [1, value]}

    def rollout(self, task: str, resources: Any, rollout: Any) -> float:
        return 1.0


def closing_over(value: Any) -> LitAgent[Any]:
    return rollout(lambda task: value)


def test_what_a_function_closes_over_goes_along() -> None:
    there = pickle.loads(pickled(closing_over(2.5), "the agent"))
    assert there.rollout("task", {}, None) == 2.5


@pytest.mark.parametrize(
    ("agent", "culprit"),
    [
        (Locked(threading.Lock()), r"^the agent\.settings\['tools'\]\[1\], a lock, cannot be sent"),
        (closing_over(threading.Lock()), r"^the agent.*'s value, a lock, cannot be sent"),
    ],
    ids=["attribute", "closure"],
)
def test_what_cannot_be_sent_is_named_before_anything_starts(agent: LitAgent[Any], culprit: str) -> None:
    runner = LitAgentRunner[Any](DummyTracer(), isolation="process")
    with pytest.raises(ConfigurationError, match=culprit):
        runner.init(agent)


async def test_a_tracer_that_has_a_store_can_be_sent() -> None:
    store, tracer = InMemoryLightningStore(), DummyTracer()
    tracer.init_worker(0, store)
    LitAgentRunner[Any](tracer, isolation="process").init(Locked(1))
    await store.close()
