"""A runner in a process of its own, which SIGTERM asks to end: `python runner_process.py URL AGENT ISOLATION`."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import faulty_agents

import agentlightning as agl
from agentlightning.execution.events import ThreadingEvent
from agentlightning.runner import LitAgentRunner, terminating


async def main(url: str, agent: str, isolation: Any) -> None:
    runner = LitAgentRunner[Any](
        agl.OtelTracer(), max_concurrency=3, isolation=isolation, stop_grace=0.2, cancel_grace=0.2
    )
    misbehave = getattr(faulty_agents, agent)
    make = faulty_agents.async_agent if asyncio.iscoroutinefunction(misbehave) else faulty_agents.sync_agent
    event = ThreadingEvent()
    async with agl.LightningStoreClient(url) as store:
        with runner.run_context(agent=make(misbehave), store=store), terminating(event):
            await runner.iter(event=event)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
