"""The gateway's routes: model calls are answered by backends and recorded, events are recorded, the rest passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from agentlightning.llm_proxy.answers import on_fault
from agentlightning.llm_proxy.dialects import messages
from agentlightning.llm_proxy.dialects.protocols import PATHS
from agentlightning.llm_proxy.endpoints import Endpoints
from agentlightning.llm_proxy.hold import Gate
from agentlightning.llm_proxy.routing import RoutingTable
from agentlightning.llm_proxy.sequence import SequenceReserver
from agentlightning.llm_proxy.shipper import Shipper
from agentlightning.llm_proxy.upstream import Upstream
from agentlightning.serving import answer_nobody
from agentlightning.store.base import LightningStore

_ATTEMPT: Final = "/rollout/{rollout_id}/attempt/{attempt_id}"
_BASES: Final = (
    _ATTEMPT + "/v1/v1",  # Anthropic's clients write the version themselves, behind an OpenAI base URL, too
    "/v1/v1",
    _ATTEMPT + "/v1",
    _ATTEMPT,
    *(f"/proxy{_ATTEMPT}/mode/{mode}/openai/v1" for mode in ("train", "val")),  # v1.0's
    "/v1",
    "",
)
"""Where agents may see a model server."""
_COUNT: Final = messages.PATH + "/count_tokens"
_EVENTS: Final = "/api/rollouts/{rollout_id}/attempt/{attempt_id}/events"
_METHODS: Final = ["GET", "POST", "PUT", "PATCH", "DELETE"]


def create_app(
    get_table: Callable[[], RoutingTable],
    upstream: Upstream,
    sequences: SequenceReserver,
    shipper: Shipper,
    get_store: Callable[[], LightningStore],
    gate: Gate,
) -> Starlette:
    """Return the gateway's ASGI app."""
    endpoints = Endpoints(get_table, upstream, sequences, shipper, get_store, gate)
    return Starlette(
        routes=[
            *(Route(base + path, endpoints.call_at(path), methods=["POST"]) for base in _BASES for path in PATHS),
            *(Route(base + _COUNT, endpoints.count_tokens, methods=["POST"]) for base in _BASES),
            Route(f"{_ATTEMPT}/flush", endpoints.flush, methods=["POST"]),
            Route(_EVENTS, endpoints.event, methods=["POST"]),
            Route("/health", endpoints.health),
            *(Route(base + "/{path:path}", endpoints.pass_through, methods=_METHODS) for base in _BASES if base),
        ],
        exception_handlers={ClientDisconnect: answer_nobody, Exception: on_fault},
    )
