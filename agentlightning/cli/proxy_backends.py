"""The model servers that `agl proxy` stands before, and what they serve."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlsplit

import aiohttp

from agentlightning.errors import ConfigurationError

if TYPE_CHECKING:
    from agentlightning.llm_proxy import ModelConfig

_SECONDS: Final = 10.0


def base_url_of(url: str) -> str:
    """Return a backend's base URL; where only a machine is named, its `/v1`.

    Raises:
        ConfigurationError: It is no URL.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(f"--backend is {url}: use a base URL such as http://localhost:8000/v1")
    return url.rstrip("/") + ("" if parts.path.strip("/") else "/v1")


async def model_list_of(backends: Sequence[str], models: Sequence[str], api_key: str | None) -> list[ModelConfig]:
    """Return what a gateway serves: each backend with the models that were named, or those that it lists.

    Raises:
        ConfigurationError: A backend lists none.
    """
    listed = [models or await _listed(each, api_key) for each in backends]
    return [_entry(each, name, api_key) for each, names in zip(backends, listed, strict=True) for name in names]


async def _listed(backend: str, api_key: str | None) -> list[str]:
    """Ask a backend for the names of its models."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    url = f"{backend}/models"
    try:
        async with (
            asyncio.timeout(_SECONDS),
            aiohttp.ClientSession(headers=headers, raise_for_status=True) as session,
            session.get(url) as answer,
        ):
            names = _names(await answer.json(content_type=None))
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise ConfigurationError(
            f"{url} does not list models ({type(error).__name__}: {error}): is the server running? Name its model with "
            "--model to start without asking"
        ) from error
    if not names:
        raise ConfigurationError(f"{url} lists no model: name one with --model")
    return names


def _names(listing: Any) -> list[str]:
    if not isinstance(listing, dict) or not isinstance(listing.get("data"), list):  # pyright: ignore[reportUnknownMemberType]  # JSON
        raise ValueError("not the form of OpenAI's list of models")
    found = cast("list[Any]", listing["data"])
    return [each["id"] for each in found if isinstance(each, dict) and isinstance(each.get("id"), str)]  # pyright: ignore[reportUnknownMemberType]  # JSON


def _entry(backend: str, name: str, api_key: str | None) -> ModelConfig:
    # The prefix goes, once, before the backend is asked: a name with a slash of its own stays as it is.
    parameters = {"model": f"openai/{name}", "api_base": backend}
    return {"model_name": name, "litellm_params": parameters | ({"api_key": api_key} if api_key else {})}
