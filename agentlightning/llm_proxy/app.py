"""The gateway's routes: model calls are answered by backends and recorded, events are recorded, the rest passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

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
) -> ASGIApp:
    """Return the gateway's ASGI app; `routes` are for those who run it."""
    endpoints = Endpoints(get_table, upstream, dispatcher, sequences, shipper, get_store, gate, overrides, meter)
    calls = {path: endpoints.call_at(path) for path in PATHS} | {COUNT_PATH: endpoints.count_tokens}
    others = Starlette(
        routes=[
            Route(f"{ATTEMPT}/flush", endpoints.flush, methods=["POST"]),
            Route(_EVENTS, endpoints.event, methods=["POST"]),
            Route("/health", endpoints.health),
            *routes,
            BelowBases(_METHODS, lambda base, below: endpoints.pass_through if base else None),
        ],
        exception_handlers={ClientDisconnect: answer_nobody, Exception: on_fault},
    )
    return _CallsFirst(BelowBases({"POST"}, lambda base, below: calls.get(below) or calls.get(tidy(below))), others)


class _CallsFirst:
    """Answers model calls, and hands all else on: the layers of an app cost a call, and a stream for each chunk.

    Args:
        calls: The route of model calls.
        others: Answers all other requests.
    """

    def __init__(self, calls: BelowBases, others: ASGIApp) -> None:
        self._calls = calls
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match, found = self._calls.matches(scope)
        if match is not Match.FULL:
            return await self._others(scope, receive, send)
        scope.update(found)
        try:
            await self._calls.handle(scope, receive, send)
        except ClientDisconnect as left:
            response = await answer_nobody(Request(scope), left)
            await response(scope, receive, send)
        except Exception as error:
            response = await on_fault(Request(scope), error)
            with suppress(Exception):  # an answer that has begun has no other beside it
                await response(scope, receive, send)
            raise
