from __future__ import annotations

import asyncio
import os
import signal
from typing import cast

import pytest

from agentlightning.execution import ExecutionEvent, SharedMemoryExecutionStrategy, interrupts
from agentlightning.store import LightningStore

STORE = cast("LightningStore", object())


async def forever(*_: object) -> None:
    await asyncio.Event().wait()


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_second_interrupt_ends_a_wait_of_the_clean_up_and_no_more() -> None:
    log: list[str] = []

    async def algorithm(store: LightningStore, event: ExecutionEvent) -> None:
        press_ctrl_c()
        try:
            await forever()
        finally:
            press_ctrl_c()
            log.append("not torn apart")
            try:
                await forever()
            finally:
                log.append("cleaned up")

    with pytest.raises(KeyboardInterrupt):
        SharedMemoryExecutionStrategy().execute(algorithm, forever, STORE)
    assert log == ["not torn apart", "cleaned up"]


def test_later_interrupt_ends_synchronous_code_that_holds_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "_LOOP_SECONDS", 0.0)
    log: list[str] = []

    async def algorithm(store: LightningStore, event: ExecutionEvent) -> None:
        press_ctrl_c()
        log.append("still here")
        press_ctrl_c()
        log.append("never here")

    with pytest.raises(KeyboardInterrupt):
        SharedMemoryExecutionStrategy().execute(algorithm, forever, STORE)
    assert log == ["still here"]


def test_two_interrupts_at_once_are_one() -> None:
    log: list[str] = []

    async def algorithm(store: LightningStore, event: ExecutionEvent) -> None:
        press_ctrl_c()
        press_ctrl_c()
        log.append("not torn apart")
        await forever()

    with pytest.raises(KeyboardInterrupt):
        SharedMemoryExecutionStrategy().execute(algorithm, forever, STORE)
    assert log == ["not torn apart"]


def test_interrupt_is_raised_though_the_algorithm_went_on_to_its_end() -> None:
    async def algorithm(store: LightningStore, event: ExecutionEvent) -> None:
        press_ctrl_c()
        with pytest.raises(asyncio.CancelledError):
            await forever()

    with pytest.raises(KeyboardInterrupt):
        SharedMemoryExecutionStrategy().execute(algorithm, forever, STORE)


def test_handler_of_ctrl_c_is_given_back() -> None:
    async def algorithm(store: LightningStore, event: ExecutionEvent) -> None:
        return

    async def runner(store: LightningStore, worker_id: int, event: ExecutionEvent) -> None:
        return

    SharedMemoryExecutionStrategy().execute(algorithm, runner, STORE)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
