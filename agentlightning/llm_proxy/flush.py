"""Waiting until what an attempt asked its models is in the store."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import aiohttp

from agentlightning.types import NamedResources, ProxyLLM

logger = logging.getLogger(__name__)

_LONGEST_ANSWER: Final = 1000


async def flush_captures(
    resources: NamedResources, rollout_id: str, attempt_id: str, deadline: float = 10.0
) -> list[str]:
    """Ask each gateway among the resources to put the attempt's calls into the store; returns when they are there.

    A gateway that does not answer costs a warning and no more: its journal keeps the calls.

    Args:
        resources: What the rollout ran with; only `ProxyLLM`s matter.
        rollout_id: The rollout.
        attempt_id: The attempt.
        deadline: The longest wait, in seconds.

    Returns:
        Why calls may be missing, in words; empty if all are there.
    """
    models = [resource for resource in resources.values() if isinstance(resource, ProxyLLM)]
    keys = {
        model.get_base_url(rollout_id, attempt_id).removesuffix("/v1") + "/flush": model.api_key for model in models
    }
    if not keys:
        return []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=deadline + 1)) as session:
        answers = await asyncio.gather(*(_flush(session, url, key, deadline) for url, key in keys.items()))
    missing = [answer for answer in answers if answer is not None]
    for reason in missing:
        logger.warning("model calls may be missing: %s", reason)
    return missing


async def _flush(session: aiohttp.ClientSession, url: str, key: str | None, deadline: float) -> str | None:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        async with session.post(url, params={"deadline": deadline}, headers=headers) as answer:
            if answer.status == 200:
                return None
            return f"{url} answered {answer.status}: {(await answer.text(errors='replace'))[:_LONGEST_ANSWER]}"
    except (aiohttp.ClientError, TimeoutError) as error:
        return f"the gateway does not answer at {url}: {error!r}"
