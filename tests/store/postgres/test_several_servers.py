"""Several servers on one PostgreSQL: while one is dead, the others work on, and nothing is lost or repeated."""

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.store.crash_load import Ledger, Load, check, clients_of, report
from tests.store.server_process import ServerProcess

SERVERS = 3
PATIENCE = 60.0


async def kill_one_after_another(servers: list[ServerProcess], ledger: Ledger, kills: int, seed: int) -> None:
    """Leave all servers running; each dead one is missed until the others have done a good deal."""
    moments = random.Random(seed)
    for _ in range(kills):
        await asyncio.sleep(moments.uniform(0.05, 0.6))
        server = moments.choice(servers)
        server.kill()
        await acknowledged(ledger, ledger.acknowledged + 100)
        await server.start()


async def acknowledged(ledger: Ledger, count: int) -> None:
    """Wait until the clients were told of so many writes."""
    async with asyncio.timeout(PATIENCE):
        while ledger.acknowledged < count:  # noqa: ASYNC110  # the load is not the test's to wake
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("kills", [6, pytest.param(200, marks=[pytest.mark.soak, pytest.mark.timeout(1200)])])
async def test_work_goes_on_while_a_server_is_dead(
    postgres_dsn: str,
    postgres_namespace: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    record_property: Callable[[str, object], None],
    kills: int,
) -> None:
    caplog.set_level("ERROR", "agentlightning.store.exchange")  # each client tells of each retry
    began = time.monotonic()
    place = ["--backend", "postgres", "--dsn", postgres_dsn, "--namespace", postgres_namespace]
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(ServerProcess(place, tmp_path / f"log-{n}")) for n in range(SERVERS)]
        await asyncio.gather(*(server.start() for server in servers))
        clients = await stack.enter_async_context(clients_of([server.url for server in servers]))
        load = Load(clients, seed=kills)
        await load.run(kill_one_after_another(servers, load.ledger, kills, seed=kills))
        found = await check(clients[0], load.ledger)
    title = f"{kills} kills of one of {SERVERS} servers on PostgreSQL, {time.monotonic() - began:.0f} s"
    record_property("crash", report(title, found, load.ledger))
    with capsys.disabled():
        print(f"\n{report(title, found, load.ledger)}")  # noqa: T201
