"""A store's server that is killed under load: what it acknowledged is there, once, and every rollout ends."""

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.store.crash_load import Load, check, clients_of, report
from tests.store.server_process import ServerProcess


async def kill_again_and_again(server: ServerProcess, kills: int, seed: int) -> None:
    """Leave the server running after the last start."""
    moments = random.Random(seed)
    for _ in range(kills):
        await asyncio.sleep(moments.uniform(0.05, 0.6))
        server.kill()
        await server.start()


SOAK = [pytest.mark.soak, pytest.mark.timeout(1200)]


@pytest.mark.parametrize(
    ("kills", "synchronous"),
    [(20, "FULL"), pytest.param(200, "FULL", marks=SOAK), pytest.param(200, "NORMAL", marks=SOAK)],
)
async def test_a_killed_server_loses_and_repeats_nothing(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    record_property: Callable[[str, object], None],
    kills: int,
    synchronous: str,
) -> None:
    caplog.set_level("ERROR", "agentlightning.store.exchange")  # each client tells of each retry
    began = time.monotonic()
    arguments = ["--file", str(tmp_path / "store.db"), "--synchronous", synchronous]
    async with ServerProcess(arguments, tmp_path / "log") as server, clients_of([server.url]) as clients:
        await server.start()
        load = Load(clients, seed=kills)
        await load.run(kill_again_and_again(server, kills, seed=kills))
        found = await check(clients[0], load.ledger)
    title = f"{kills} kills, synchronous={synchronous}, {time.monotonic() - began:.0f} s"
    record_property("crash", report(title, found, load.ledger))
    with capsys.disabled():
        print(f"\n{report(title, found, load.ledger)}")  # noqa: T201
