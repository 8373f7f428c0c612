"""What a run and its services count: files, TensorBoard, Prometheus and the log."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import urllib.request
from pathlib import Path

from openai import AsyncOpenAI

import agentlightning as agl
from agentlightning.metrics import (
    ConsoleMetricsBackend,
    MetricsBackend,
    MultiMetricsBackend,
    PrometheusMetricsBackend,
)
from agentlightning.trainer.metric_sinks import open_sinks


@agl.rollout
async def guess(task: int) -> float:
    """Guess a number; every tenth one is too hard."""
    if task % 10 == 9:
        raise ValueError(f"{task} is too hard")
    return 1.0 - abs(task - random.Random(task).randrange(10)) / 10


@agl.algo
async def measure(context: agl.AlgorithmContext, train_dataset: agl.Dataset[int]) -> None:
    """Log one record for each pass over the tasks."""
    tasks = [train_dataset[index] for index in range(len(train_dataset))]
    for step in range(3):
        rewards = [outcome.reward async for outcome in context.rollouts(tasks, key=f"pass-{step}")]
        worked = [reward for reward in rewards if reward is not None]
        context.log({"step": step, "reward": sum(worked) / len(worked), "failed": len(rewards) - len(worked)})


def run(folder: Path) -> agl.TrainingResult:
    """Train; the metrics are in the folder: `metrics.jsonl` always, and TensorBoard's files because of the sink."""
    sinks = open_sinks(["tensorboard"], folder)
    return agl.Trainer(algorithm=measure, n_runners=2, run_dir=folder, on_metrics=sinks).fit(guess, list(range(10)))


async def shop(backend: MetricsBackend) -> None:
    """Count something of one's own: register first, then count."""
    backend.register_counter("shop.sales.total", ["town"])
    backend.register_histogram("shop.queue.seconds", buckets=[1.0, 5.0, 30.0])
    for town, seconds in [("Bath", 3.0), ("York", 0.5), ("Bath", 12.0)]:
        await backend.inc_counter("shop.sales.total", labels={"town": town})
        await backend.observe_histogram("shop.queue.seconds", seconds)


async def serve() -> str:
    """Serve a store that counts what it is asked, use it a little, and return what Prometheus reads of it."""
    backend = MultiMetricsBackend([ConsoleMetricsBackend(log_interval_seconds=0.1), PrometheusMetricsBackend()])
    await shop(backend)
    store = agl.InMemoryLightningStore()
    server = agl.LightningStoreServer(store, port=0, tracker=backend)
    await server.start()
    try:
        async with agl.LightningStoreClient(server.endpoint) as client:
            await client.enqueue_rollout(1, "train")
            worker = agl.LitAgentRunner[int](agl.OtelTracer(), max_rollouts=1)
            with worker.run_context(agent=guess, store=client):
                await worker.iter()
        return await asyncio.to_thread(read, f"{server.endpoint}/v1/prometheus")
    finally:
        await server.stop()
        await store.close()


async def gateway() -> str:
    """Ask the model that the environment names once, through a gateway, and return what Prometheus reads of that."""
    model = {
        "model": os.environ["OPENAI_MODEL"],
        "api_base": os.environ["OPENAI_BASE_URL"],
        "api_key": os.environ.get("OPENAI_API_KEY"),
    }
    store = agl.InMemoryLightningStore()
    proxy = agl.LLMProxy(model_list=[{"model_name": "policy", "litellm_params": model}], store=store)
    await proxy.start()
    try:
        endpoint = proxy.as_resource().endpoint
        async with AsyncOpenAI(base_url=endpoint, api_key="unused") as client:
            await client.chat.completions.create(model="policy", messages=[{"role": "user", "content": "Hello."}])
        return await asyncio.to_thread(read, f"{endpoint.removesuffix('/v1')}/metrics")
    finally:
        await proxy.stop()
        await store.close()


def read(url: str) -> str:
    """Read a page as Prometheus does."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


if __name__ == "__main__":
    agl.setup_logging()
    if sys.argv[1:2] == ["run"] and len(sys.argv) == 3:
        print(run(Path(sys.argv[2])).metrics)
    elif sys.argv[1:] in (["serve"], ["gateway"]):
        print(asyncio.run(serve() if sys.argv[1] == "serve" else gateway()))
    else:
        sys.exit(f"usage: python {Path(sys.argv[0]).name} run FOLDER | serve | gateway")
