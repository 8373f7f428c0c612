"""What a process leaves behind ends with it, on systems with and without a way to wait before its number is free."""

from __future__ import annotations

import asyncio
import os

import pytest

from agentlightning.processes import child
from agentlightning.processes.child import ChildProcess


@pytest.mark.parametrize("waits_without_taking", [hasattr(os, "waitid"), False])
async def test_what_a_process_leaves_behind_ends_with_it(
    monkeypatch: pytest.MonkeyPatch, waits_without_taking: bool
) -> None:
    monkeypatch.setattr(child, "_WAITS_WITHOUT_TAKING", waits_without_taking)
    process = ChildProcess("tests.processes.leaving")
    try:
        async with asyncio.timeout(60):
            assert await process.exit_code() == 3
            process.line.setblocking(False)
            assert await asyncio.get_running_loop().sock_recv(process.line, 1) == b""  # nobody holds the other end
    finally:
        await process.end()


@pytest.mark.parametrize("waits_without_taking", [hasattr(os, "waitid"), False])
async def test_a_process_can_be_ended(monkeypatch: pytest.MonkeyPatch, waits_without_taking: bool) -> None:
    monkeypatch.setattr(child, "_WAITS_WITHOUT_TAKING", waits_without_taking)
    process = ChildProcess("tests.processes.staying")
    async with asyncio.timeout(60):
        await process.end()
        assert await process.exit_code() == -9
