"""The gateway's routes: model calls are answered by backends and recorded, events are recorded, the rest passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from agentlightning.llm_proxy.answers import on_fault
from agentlightning.llm_proxy.base_urls import ATTEMPT, BelowBases, tidy
from agentlightning.llm_proxy.dialects.protocols import PATHS
from agentlightning.llm_proxy.dispatch import Dispatcher
from agentlightning.llm_proxy.endpoints import COUNT_PATH, Endpoints
from agentlightning.llm_proxy.hold import Gate
from agentlightning.llm_proxy.metrics import Meter
from agentlightning.llm_proxy.overrides import SamplingOverrides
from agentlightning.llm_proxy.routing import RoutingTable
from agentlightning.llm_proxy.sequence import SequenceReserver
from agentlightning.llm_proxy.shipper import Shipper
from agentlightning.llm_proxy.upstream import Upstream
from agentlightning.serving import answer_nobody
from agentlightning.store.base import LightningStore

_EVENTS: Final = "/api/rollouts/{rollout_id}/attempt/{attempt_id}/events"
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})


def create_app(
    get_table: Callable[[], RoutingTable],
    upstream: Upstream,
    dispatcher: Dispatcher,
    sequences: SequenceReserver,
    shipper: Shipper,
    get_store: Callable[[], LightningStore],
    gate: Gate,
    overrides: SamplingOverrides,
    meter: Meter,
    routes: Sequence[Route],
) -> Starlette:
    """Return the gateway's ASGI app; `routes` are for those who run it."""
    endpoints = Endpoints(get_table, upstream, dispatcher, sequences, shipper, get_store, gate, overrides, meter)
    calls = {path: endpoints.call_at(path) for path in PATHS} | {COUNT_PATH: endpoints.count_tokens}
    return Starlette(
        routes=[
            BelowBases({"POST"}, lambda base, below: calls.get(below) or calls.get(tidy(below))),
            Route(f"{ATTEMPT}/flush", endpoints.flush, methods=["POST"]),
            Route(_EVENTS, endpoints.event, methods=["POST"]),
            Route("/health", endpoints.health),
            *routes,
            BelowBases(_METHODS, lambda base, below: endpoints.pass_through if base else None),
        ],
        exception_handlers={ClientDisconnect: answer_nobody, Exception: on_fault},
    )
