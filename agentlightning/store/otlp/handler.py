"""The routes of OTLP: traces are taken, the other signals are refused."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from typing import Final

from agentlightning._internal.threads import run_in_thread
from agentlightning.errors import InvalidValue, StoreError
from agentlightning.store.base import LightningStore
from agentlightning.store.otlp.answer import Answer, error_answer, explain, success_answer
from agentlightning.store.otlp.ingest import Allow, write_traces
from agentlightning.store.otlp.paths import TRACES_PATH
from agentlightning.store.otlp.spans import ReceivedTraces, parse_traces

logger = logging.getLogger(__name__)

_BRIEF: Final = 32 * 1024
"""Bytes that are read faster than a thread takes them over."""


def allow_all(_rollout_id: str, _attempt_id: str) -> bool:
    """Let the caller write to every attempt."""
    return True


async def handle_traces(
    store: LightningStore,
    headers: Mapping[str, str],
    body: bytes,
    *,
    max_bytes: int,
    allow: Allow = allow_all,
) -> Answer:
    """Store the spans of a request and say which could not be.

    Args:
        store: Where they go.
        headers: Those of the request, by lower-case name.
        body: Its bytes, as they came.
        max_bytes: The most that the body may hold when decompressed.
        allow: Whether the caller may write to this rollout's attempt; its other spans are rejected.
    """
    try:
        received = await _parse(headers, body, max_bytes)
        rejected = await write_traces(store, received, allow)
    except InvalidValue as error:
        return error_answer(headers, 400, str(error))
    except StoreError as error:
        return error_answer(headers, error.status, str(error))
    if rejected:
        logger.warning("Rejected spans of an OTLP request: %s", explain(rejected))
    return success_answer(headers, rejected)


def handle_other_signal(headers: Mapping[str, str]) -> Answer:
    """Refuse metrics, logs or profiles."""
    return error_answer(headers, 501, f"the store takes traces only, at {TRACES_PATH}")


async def _parse(headers: Mapping[str, str], body: bytes, max_bytes: int) -> ReceivedTraces:
    content_type, encoding = headers.get("content-type"), headers.get("content-encoding")
    if encoding is None and len(body) <= _BRIEF:
        return parse_traces(body, content_type, max_bytes=max_bytes)
    # A thread of its own: those of the loop's executor may all be waiting for this very answer.
    read = functools.partial(parse_traces, body, content_type, encoding, max_bytes=max_bytes)
    return await run_in_thread(read, "agl-otlp")
