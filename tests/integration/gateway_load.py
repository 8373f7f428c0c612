"""`agl proxy` in a process that may be killed, agents that call through it, and the account of what they were told."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import openai

from agentlightning.store import LightningStore
from agentlightning.types import AttemptedRollout
from tests.store.server_process import ServerProcess

PATIENCE = 120.0
RETRYABLE = (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError, httpx.TransportError)


def is_retryable(error: Exception) -> bool:
    """Whether an agent does right to ask again: what a stream says of its end has a class of no status."""
    return isinstance(error, RETRYABLE) or type(error) is openai.APIError


class GatewayProcess(ServerProcess):
    """A gateway that may be killed and started again at the same address.

    Args:
        arguments: What `agl proxy` is told beside its port.
        log: Where its output goes.
    """

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        super().__init__([], log)
        self._line = "\t".join(["proxy", "--port", str(self.port), *arguments])

    def endpoint(self, attempted: AttemptedRollout) -> str:
        return f"{self.url}/rollout/{attempted.rollout_id}/attempt/{attempted.attempt.attempt_id}/v1"


@dataclass
class Told:
    """What agents were told.

    Attributes:
        completed: Ids of the replies that were read to their end, by rollout.
        errors: How many calls failed, by what was raised.
    """

    completed: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict[str, list[str]](list))
    errors: Counter[str] = field(default_factory=Counter[str])

    @property
    def count(self) -> int:
        return sum(map(len, self.completed.values()))


class Agents:
    """Agents that call one after the other, every second one with streams, until they are told to stop.

    Args:
        gateway: What they call.
        attempts: Whose calls they are; each has one agent.
    """

    def __init__(self, gateway: GatewayProcess, attempts: Sequence[AttemptedRollout]) -> None:
        self.told = Told()
        self._gateway = gateway
        self._attempts = attempts
        self._numbers = itertools.count()
        self._moved = asyncio.Event()
        self._stop = False

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Let them work inside the block; at its end each completes the call that it is at."""
        async with asyncio.timeout(PATIENCE * 10), asyncio.TaskGroup() as group:
            for number, attempted in enumerate(self._attempts):
                group.create_task(self._work(attempted, stream=number % 2 == 1))
            yield
            self._stop = True

    async def until(self, condition: Callable[[Told], bool]) -> None:
        """Wait until a condition holds of what they were told."""
        async with asyncio.timeout(PATIENCE):
            while not condition(self.told):
                self._moved.clear()
                await self._moved.wait()

    async def _work(self, attempted: AttemptedRollout, *, stream: bool) -> None:
        endpoint = self._gateway.endpoint(attempted)
        async with openai.AsyncOpenAI(base_url=endpoint, api_key="unused", max_retries=0, timeout=60) as client:
            while not self._stop:
                try:
                    id = await ask(client, f"ok {next(self._numbers)}", stream=stream)
                except (openai.APIError, httpx.TransportError) as error:
                    if not is_retryable(error):
                        raise
                    self.told.errors[type(error).__name__] += 1
                    await asyncio.sleep(0.02)  # as an agent's own retry would
                else:
                    self.told.completed[attempted.rollout_id].append(id)
                self._moved.set()


async def ask(client: openai.AsyncOpenAI, content: str, *, stream: bool = False) -> str:
    """Make a call and read its reply to the end; returns its id."""
    messages: Any = [{"role": "user", "content": content}]
    if not stream:
        return (await client.chat.completions.create(model="policy", messages=messages)).id
    chunks = [
        chunk async for chunk in await client.chat.completions.create(model="policy", messages=messages, stream=True)
    ]
    if chunks[-1].choices[0].finish_reason != "stop":
        raise AssertionError("a stream broke off and did not say so")
    return chunks[0].id


async def recorded(store: LightningStore, gateway: GatewayProcess, attempted: AttemptedRollout) -> list[str]:
    """The ids of the replies in the store, after a flush."""
    flush = f"{gateway.endpoint(attempted).removesuffix('/v1')}/flush?deadline={PATIENCE}"
    async with aiohttp.ClientSession() as session, session.post(flush) as reply:
        assert reply.status == 200, await reply.text()
    spans = await store.query_spans(attempted.rollout_id)
    return [str(each) for span in spans if (each := span.attributes.get("gen_ai.response.id"))]


async def check(
    store: LightningStore, gateway: GatewayProcess, attempts: Sequence[AttemptedRollout], told: Told
) -> int:
    """Demand that each completed reply is recorded, once, where it belongs; returns how many records there are."""
    total = 0
    for attempted in attempts:
        found = await recorded(store, gateway, attempted)
        assert [id for id, times in Counter(found).items() if times > 1] == []
        assert set(told.completed[attempted.rollout_id]) - set(found) == set()
        total += len(found)
    return total
