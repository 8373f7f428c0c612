"""Base URLs: what is below them, whose it is, and what is not."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from agentlightning.llm_proxy.base_urls import BelowBases

ATTEMPT = "/rollout/ro-1/attempt/at-2"
NAMES = {"rollout_id": "ro-1", "attempt_id": "at-2"}


async def endpoint(_: Request) -> Response:
    return Response()


def placed(path: str, method: str = "POST") -> tuple[str, str, dict[str, Any]] | None:
    """Return the base URL's path, the path below it and the parameters; None for a path of no endpoint."""
    asked: list[tuple[str, str]] = []

    def find(base: str, below: str) -> Any:
        asked.append((base, below))
        return endpoint

    match, child = BelowBases({"POST"}, find).matches({"type": "http", "method": method, "path": path})
    return (*asked[0], child["path_params"]) if match is Match.FULL else None


@pytest.mark.parametrize(
    ("base", "names"),
    [
        ("", {}),
        ("/v1", {}),
        ("/v1/v1", {}),
        (ATTEMPT, NAMES),
        (f"{ATTEMPT}/v1", NAMES),
        (f"{ATTEMPT}/v1/v1", NAMES),
        (f"/proxy{ATTEMPT}/mode/train/openai/v1", NAMES | {"mode": "train"}),
        (f"/proxy{ATTEMPT}/mode/val/openai/v1", NAMES | {"mode": "val"}),
    ],
)
@pytest.mark.parametrize("below", ["/chat/completions", "/models", "/"])
def test_base_urls_name_the_attempt_and_what_is_below_them(base: str, names: dict[str, str], below: str) -> None:
    assert placed(base + below) == (base, below, names | {"path": below[1:]})


@pytest.mark.parametrize(
    ("path", "base"),
    [
        ("/v1x/models", ""),
        ("/rollout//attempt/at-2/v1/models", ""),
        ("/rollout/ro-1/v1/models", ""),
        (f"/proxy{ATTEMPT}/mode/other/openai/v1/models", ""),
        (f"/proxy{ATTEMPT}/v1/models", ""),
        ("/v1/v1", "/v1"),
        ("/v1/v1/v1/models", "/v1/v1"),
        (f"{ATTEMPT}/v1x", ATTEMPT),
    ],
)
def test_what_looks_like_a_longer_base_url_is_below_a_shorter_one(path: str, base: str) -> None:
    found = placed(path)
    assert found
    assert found[:2] == (base, path.removeprefix(base))
    assert found[2].keys() == ({"path", "rollout_id", "attempt_id"} if base == ATTEMPT else {"path"})


def test_other_methods_and_endpoints_are_other_routes() -> None:
    assert placed("/v1/models", "GET") is None
    scope = {"type": "http", "method": "POST", "path": "/v1/models"}
    assert BelowBases({"POST"}, lambda base, below: None).matches(scope)[0] is Match.NONE
    assert BelowBases({"POST"}, lambda base, below: endpoint).matches({"type": "lifespan"})[0] is Match.NONE
