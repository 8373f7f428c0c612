"""A program that trains and meets an event: `python placement_program.py PLACEMENT EVENT FOLDER`.

It is not guarded by `if __name__ == "__main__"`, and its agent, hooks and errors are its own.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

import agentlightning as agl
from agentlightning.errors import Forbidden
from agentlightning.store.operations import Operation

PLACEMENT = sys.argv[1]
EVENT = sys.argv[2].removesuffix("_in_a_loop")
IN_A_LOOP = sys.argv[2] != EVENT
FOLDER = Path(sys.argv[3])


class ProgramError(Exception):
    """The program's own, raised in whatever process."""


@agl.rollout
async def agent(task: str) -> float:
    if task == "slow":
        await held_up()
    if task == "blocking":
        (FOLDER / "slow").write_text(str(os.getpid()))
        time.sleep(600)  # noqa: ASYNC251  # nobody else's turn comes: that is the point
    return 1.0


async def held_up() -> None:
    (FOLDER / "slow").write_text(str(os.getpid()))
    await asyncio.Event().wait()


class Training(agl.Algorithm):
    """Runs some tasks; what comes of the event is seen by the tests."""

    async def run(self, train_dataset: Any = None, val_dataset: Any = None) -> None:  # type: ignore[override]
        store = self.get_store()
        (FOLDER / "algorithm").write_text(str(os.getpid()))
        await self.finished(store, "quick", "quick")
        if EVENT == "normal_end":
            return
        if EVENT == "store_error":
            (FOLDER / "enough").touch()
            await asyncio.Event().wait()
        slow = await store.enqueue_rollout("blocking" if EVENT == "two_interrupts" else "slow", mode="train")
        if EVENT == "algorithm_error":
            while not (FOLDER / "slow").exists():  # noqa: ASYNC110  # a file sets no event
                await asyncio.sleep(0.01)
            raise ProgramError("of the algorithm")
        await store.wait_for_rollouts(rollout_ids=[slow.rollout_id])
        await self.finished(store, "quick")

    async def finished(self, store: agl.LightningStore, *tasks: str) -> None:
        ids = [(await store.enqueue_rollout(task, mode="train")).rollout_id for task in tasks]
        await store.wait_for_rollouts(rollout_ids=ids)


class FailingRunner(agl.LitAgentRunner[Any]):
    """Fails once a rollout is in its hands."""

    async def iter(self, *, event: agl.ExecutionEvent | None = None) -> None:
        work = asyncio.create_task(super().iter(event=event))
        while not (FOLDER / "slow").exists():  # noqa: ASYNC110  # a file sets no event
            await asyncio.sleep(0.01)
        work.cancel()
        await asyncio.wait({work})
        raise ProgramError("of the runner")


class FailingStore(agl.LightningStoreThreaded):
    """Gives out no more work after a while."""

    async def call(self, operation: Operation, arguments: dict[str, Any]) -> Any:
        if operation.name == "dequeue_many_rollouts" and (FOLDER / "enough").exists():
            raise Forbidden("the store has had enough")
        return await super().call(operation, arguments)


def strategy() -> agl.ExecutionStrategy:
    if PLACEMENT == "shm":
        return agl.SharedMemoryExecutionStrategy(n_runners=2)
    if PLACEMENT == "ray":
        return agl.RayExecutionStrategy(n_runners=2)
    return agl.ClientServerExecutionStrategy(
        server_port=None if "AGL_SERVER_PORT" in os.environ else 0,
        n_runners=2 if PLACEMENT == "cs" else 1,
        main_process="algorithm" if PLACEMENT == "cs" else "runner",
        terminate_timeout=600.0 if EVENT == "two_interrupts" else 10.0,
    )


store: agl.LightningStore = agl.SqliteLightningStore(FOLDER / "store.db")
if EVENT == "store_error":
    store = FailingStore(store)
kind = FailingRunner if EVENT == "runner_error" else agl.LitAgentRunner
runner = kind(agl.OtelTracer(), max_concurrency=2, poll_interval=0.5)
trainer = agl.Trainer(algorithm=Training(), runner=runner, strategy=strategy(), store=store)


async def in_a_loop() -> None:
    trainer.fit(agent)


try:
    if IN_A_LOOP:
        asyncio.run(in_a_loop())
    else:
        trainer.fit(agent)
except ProgramError as error:
    print("raised the program's own error", error, flush=True)  # noqa: T201  # for the test
    raise
except BaseException as error:
    print("raised", type(error).__name__, error, flush=True)  # noqa: T201
    raise
print("ended", flush=True)  # noqa: T201
