"""One run of an agent under observation: the real runner, tracer, store and gateway, and a model behind them."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from agentlightning.doctor.exits import exits_raise
from agentlightning.doctor.network import connections_noted
from agentlightning.doctor.scripted_model import ScriptedModel
from agentlightning.errors import ConfigurationError
from agentlightning.execution.loop_thread import Cancellable, LoopThread, run_blocking
from agentlightning.litagent import LitAgent
from agentlightning.llm_proxy import LLMProxy, ModelConfig
from agentlightning.runner import LitAgentRunner
from agentlightning.store import InMemoryLightningStore, LightningStore
from agentlightning.tracer import OtelTracer
from agentlightning.tracer.instrument import instrumented
from agentlightning.tracer.processor import dropped_spans
from agentlightning.trainer.gateway import serving
from agentlightning.types import LLM, NamedResources, Span

_SDKS: Final = ("openai", "anthropic", "litellm", "cohere", "mistralai", "google.genai", "ollama", "groq")
"""SDKs that call models, by module."""
_GRACE_SECONDS: Final = 3.0
"""How long an agent that was told to stop may take; one that blocks is left behind in its thread."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What a run left behind.

    Attributes:
        spans: The spans of the one rollout, as the store has them.
        failure: What the agent raised; None if it ended well.
        hung: Whether it was stopped because its time was over.
        requests: How many model calls the scripted model answered.
        unknown_paths: Where else the agent asked the scripted model.
        uninstrumented: SDKs of models that are loaded, with nobody to record their calls.
        contacted: Whom the process connected to besides gateway and model.
        dropped_spans: How many spans of each name belonged to no trace.
    """

    spans: Sequence[Span]
    failure: BaseException | None
    hung: bool
    requests: int
    unknown_paths: Sequence[str]
    uninstrumented: Sequence[str]
    contacted: Sequence[str]
    dropped_spans: Mapping[str, int]


def observe(
    agent: LitAgent[Any],
    task: Any,
    resources: NamedResources,
    *,
    model: ScriptedModel,
    live: bool,
    deadline: float,
) -> Observation:
    """Run an agent once, in a thread of its own, so that one that blocks its event loop can be told of as well.

    Args:
        agent: The agent.
        task: Its input.
        resources: What it gets; each model is put behind a gateway.
        model: Stands for every model unless `live`.
        live: Whether the models of the resources are really asked.
        deadline: Seconds for the agent.
    """
    store, dropped_before = InMemoryLightningStore(), Counter(dropped_spans())
    requests_before, unknown_before = len(model.requests), len(model.unknown_paths)
    with model, exits_raise(), connections_noted() as contacted, OtelTracer(instrument="auto").lifespan():
        given = resources if live else _with_endpoint(resources, model.url)
        proxy = LLMProxy(model_list=_model_list(given), timeout=deadline)
        with serving(proxy, store):
            behind = _behind(proxy, given)
            run = LoopThread(Cancellable(lambda: _run(agent, task, behind, store)), "agl-doctor-agent")
            run.start()
            try:
                hung = not run.join(deadline)
            finally:  # also on Ctrl+C
                run.cancel()
            run.join(_GRACE_SECONDS)
        known = {_address(llm.endpoint) for llm in [*given.values(), *behind.values()] if isinstance(llm, LLM)}
        # The gateway has shipped everything once it is down, also for an agent that hung.
        return Observation(
            spans=_read(store),
            failure=run.error,
            hung=hung,
            requests=len(model.requests) - requests_before,
            unknown_paths=model.unknown_paths[unknown_before:],
            uninstrumented=[name for name in _SDKS if name in sys.modules and name not in instrumented()],
            contacted=list(dict.fromkeys(each.name for each in contacted if known.isdisjoint(each))),
            dropped_spans=Counter(dropped_spans()) - dropped_before,
        )


async def _run(agent: LitAgent[Any], task: Any, resources: NamedResources, store: LightningStore) -> None:
    tracer = OtelTracer(instrument="auto")
    runner = LitAgentRunner[Any](tracer, heartbeat_interval=0)
    with runner.run_context(agent=agent, store=store):
        # A second open trace, as in training: spans that do not know their trace are not guessed to be the agent's.
        async with tracer.trace_context("a neighbour"):
            await runner.step(task, resources=resources, mode="train")


def _read(store: InMemoryLightningStore) -> list[Span]:
    spans: list[Span] = []

    async def read() -> None:
        for rollout in await store.query_rollouts():
            spans.extend(await store.query_spans(rollout.rollout_id))
        await store.close()

    run_blocking(Cancellable(read))
    return spans


def _address(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def _with_endpoint(resources: NamedResources, url: str) -> NamedResources:
    changed = {"endpoint": url, "api_key": None}
    return {
        name: resource.model_copy(update=changed) if isinstance(resource, LLM) else resource
        for name, resource in resources.items()
    }


def _model_list(resources: NamedResources) -> list[ModelConfig]:
    models: dict[str, LLM] = {}
    for resource in resources.values():
        if isinstance(resource, LLM) and models.setdefault(resource.model, resource).endpoint != resource.endpoint:
            raise ConfigurationError(f"two of the resources have the model {resource.model!r} at different endpoints")
    return [
        {
            "model_name": name,
            "litellm_params": {"model": f"openai/{name}", "api_base": model.endpoint}
            | ({"api_key": model.api_key} if model.api_key else {}),
        }
        for name, model in models.items()
    ]


def _behind(proxy: LLMProxy, resources: NamedResources) -> NamedResources:
    return {
        name: proxy.as_resource(model=resource.model, sampling_parameters=resource.sampling_parameters)
        if isinstance(resource, LLM)
        else resource
        for name, resource in resources.items()
    }
