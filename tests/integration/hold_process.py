"""A trainer elsewhere that holds a gateway's calls: `hold_process.py URL LEASE` prints `held` and waits for its end."""

from __future__ import annotations

import asyncio
import sys

from agentlightning.llm_proxy import GatewayControl


async def main(url: str, lease: float) -> None:
    async with GatewayControl(url) as control, control.hold("trainer", lease=lease):
        sys.stdout.write("held\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
