"""Plain HTTP to a store's server, as programs in other languages speak it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp
from multidict import CIMultiDictProxy
from pydantic_core import from_json, to_json
from yarl import URL


class Reply(NamedTuple):
    status: int
    body: Any
    headers: CIMultiDictProxy[str]


class Rest:
    """Sends requests below `/v1/agl`; paths are sent as they are written."""

    def __init__(self, session: aiohttp.ClientSession, root: str) -> None:
        self.session = session
        self.root = root

    async def __call__(
        self, verb: str, path: str, body: Any = None, *, raw: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Reply:
        data = raw if raw is not None else None if body is None else to_json(body)
        url = URL(f"{self.root}/v1/agl{path}", encoded=True)
        async with self.session.request(verb, url, data=data, headers=headers) as answer:
            content = await answer.read()
            kind = answer.headers.get("content-type")
            return Reply(answer.status, from_json(content) if kind == "application/json" else content, answer.headers)

    async def get(self, path: str, **headers: str) -> Reply:
        return await self("GET", path, headers=headers)

    async def post(self, path: str, body: Any = None, **headers: str) -> Reply:
        return await self("POST", path, body, headers=headers)


@asynccontextmanager
async def rest_of(root: str, **headers: str) -> AsyncIterator[Rest]:
    async with aiohttp.ClientSession(headers=headers) as session:
        yield Rest(session, root)


def wire_span(rollout_id: str, attempt_id: str, span_id: str = "00f067aa0ba902b7", **fields: Any) -> dict[str, Any]:
    """Return a span as its JSON."""
    return {
        "rollout_id": rollout_id,
        "attempt_id": attempt_id,
        "sequence_id": 0,
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "span_id": span_id,
        "parent_id": None,
        "name": "step",
        "status": {"status_code": "OK", "description": None},
        "attributes": {"n": 1},
        "events": [],
        "links": [],
        "start_time": 1.0,
        "end_time": 2.0,
        "context": None,
        "parent": None,
        "resource": {"attributes": {}, "schema_url": ""},
        **fields,
    }
