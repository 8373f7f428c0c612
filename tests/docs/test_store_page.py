"""The page on the store: its example on PostgreSQL runs, and its tables hold what the code has."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from agentlightning.store import LightningStore
from agentlightning.store.limits import Limits
from agentlightning.store.operations import routes_of
from agentlightning.store.otlp.limits import MAX_OBJECTS
from agentlightning.store.otlp.spans import MAX_SPANS
from tests.docs.test_examples_in_docs import BLOCK
from tests.store.conftest import postgres_dsn as postgres_dsn  # the fixture

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "store.md").read_text("utf-8")


async def test_the_example_on_postgresql_runs(postgres_dsn: str) -> None:
    namespace: dict[str, Any] = {}
    (example,) = (block for block in BLOCK.findall(PAGE) if block.startswith("async def on_postgres"))
    exec(f"import asyncio, agentlightning as agl\n{example}", namespace)
    assert await namespace["on_postgres"](postgres_dsn) == "preparing"


def test_every_limit_is_listed_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)`[^|]*\| ([^|]+?) \|", PAGE.split("## Limits")[1], re.MULTILINE))
    numbers = {name: int(text.replace(",", "").replace(" MiB", "")) for name, text in rows.items()}
    for name in ("body_bytes", "bytes_under_way"):
        numbers[name] *= 2**20
    assert numbers == {field.name: field.default for field in fields(Limits)}


def test_the_limits_of_otlp_are_said() -> None:
    assert f"it may hold {MAX_SPANS:,} spans, and {MAX_OBJECTS:,} objects" in PAGE


@pytest.mark.parametrize("route", routes_of(LightningStore), ids=lambda route: f"{route.verb} {route.path}")
def test_every_route_is_on_the_page_of_routes(route: Any) -> None:
    assert f"`{route.verb} {route.path}`" in (DOCS / "store_rest.md").read_text("utf-8")
