"""The user's gateway, served for as long as a run lasts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from agentlightning.errors import ExecutionError
from agentlightning.execution.loop_thread import Cancellable, LoopThread
from agentlightning.llm_proxy import LLMProxy
from agentlightning.store import LightningStore

_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 30.0


@contextmanager
def serving(proxy: LLMProxy | None, store: LightningStore) -> Generator[None]:
    """Serve the gateway in a thread of its own inside the block: it is up before the runners and down after them.

    Args:
        proxy: The gateway; None, or one that runs already, is left alone.
        store: Where its captures go.

    Raises:
        ExecutionError: It did not start or stop in time.
    """
    if proxy is None or proxy.is_running():
        yield
        return
    proxy.set_store(store)
    ready = threading.Event()

    async def serve() -> None:
        await proxy.start()
        ready.set()
        try:
            await asyncio.Event().wait()
        finally:
            await proxy.stop()

    thread = LoopThread(Cancellable(serve), "agl-gateway", on_error=ready.set)
    thread.start()
    if not ready.wait(_START_SECONDS):
        thread.cancel()
        raise ExecutionError(f"the gateway did not start within {_START_SECONDS:g} s")
    try:
        if thread.error is not None:
            raise thread.error
        yield
    finally:
        thread.cancel()
        if not thread.join(_STOP_SECONDS):
            raise ExecutionError(f"the gateway did not stop within {_STOP_SECONDS:g} s")
