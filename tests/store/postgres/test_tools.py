"""`agl store`'s tools on PostgreSQL."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from agentlightning.cli.app import run
from agentlightning.store import InMemoryLightningStore
from agentlightning.store.testing.suite import running, span_of


async def export_of_five_lives(file: Path) -> None:
    store = InMemoryLightningStore()
    claims = [await running(store) for _ in range(6)]
    for claim in claims:
        await store.add_span(span_of(claim))
    for claim in claims[:5]:
        await store.update_rollout(claim.rollout_id, status="succeeded")
    await store.export_to(file)
    await store.close()


def test_tools_work_on_postgres(
    tmp_path: Path,
    postgres_dsn: str,
    postgres_namespace: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agentlightning.logging.setup_logging", lambda level: None)  # for this process's other tests
    file, back = tmp_path / "out.jsonl", tmp_path / "back.jsonl"
    asyncio.run(export_of_five_lives(file))

    def agl(command: str, *arguments: str | Path, code: int = 0) -> str:
        namespace = ("--namespace", postgres_namespace)
        assert run(["store", command, postgres_dsn, *map(str, arguments), *namespace]) == code
        return capfd.readouterr().out

    agl("import", file)
    assert re.search(r"succeeded +│ +5", agl("inspect"))
    agl("export", back)
    assert back.read_bytes() == file.read_bytes()
    assert agl("prune", "--keep", "2") == "Pruned 3 rollouts, 3 attempts and 3 spans.\n"
    agl("prune", "--keep", "2", "--vacuum", code=1)
    assert "schema version" in agl("migrate")
