"""What the gateway costs per model call: `python benchmarks/gateway.py [--store file] [--clients 16]`.

A mock backend (0 ms), the gateway and the load generator run in a process each; the reply has 256 prompt and 64
sampled tokens. Peers on two cores at 16 clients: agent-lightning v0.3 27 req/s, v1.0 286 req/s.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from agentlightning.llm_proxy import LLMProxy, flush_captures
from agentlightning.serving import EmbeddedServer
from agentlightning.store import InMemoryLightningStore, SqliteLightningStore
from agentlightning.types import ProxyLLM

ATTEMPTS = 64
REPLY: dict[str, Any] = {
    "id": "chatcmpl-mock",
    "object": "chat.completion",
    "created": 1,
    "model": "mock",
    "prompt_token_ids": list(range(1000, 1256)),
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "token_ids": list(range(2000, 2064)),
            "message": {"role": "assistant", "content": "The answer is forty two. " * 10},
            "logprobs": {"content": [{"token": "tok", "logprob": -0.25, "bytes": [116], "top_logprobs": []}] * 64},
        }
    ],
    "usage": {"prompt_tokens": 256, "completion_tokens": 64, "total_tokens": 320},
}
REQUEST = {
    "model": "mock",
    "messages": [
        {"role": "system", "content": "You are helpful. " * 8},
        {"role": "user", "content": "What is six times seven? " * 20},
    ],
    "temperature": 1.0,
    "max_tokens": 64,
}


async def serve_backend() -> None:
    payload = json.dumps(REPLY).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(payload)).encode())]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": payload})

    server = EmbeddedServer(app)
    await server.start()
    print(server.url, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop()


async def serve_gateway(backend: str, store_kind: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        in_memory = store_kind == "memory"
        store = InMemoryLightningStore() if in_memory else SqliteLightningStore(str(Path(folder) / "store.db"))
        model = {"model_name": "mock", "litellm_params": {"model": "mock", "api_base": f"{backend}/v1"}}
        proxy = LLMProxy(model_list=[model], store=store)
        await proxy.start()
        attempts = [await store.start_rollout(input=i) for i in range(ATTEMPTS)]
        urls = [proxy.as_resource(each.rollout_id, each.attempt.attempt_id).endpoint for each in attempts]
        print(json.dumps(urls), flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps([time.process_time(), (await store.statistics()).get("total_spans")]), flush=True)
        await proxy.stop()
        await store.close()


async def client(urls: list[str], body: bytes, budget: list[int], latencies: list[float]) -> None:
    """Send requests over one connection until the budget is used up; raw sockets, so that the load costs little."""
    host, _, port = urls[0].split("/")[2].partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    while budget[0] > 0:
        budget[0] -= 1
        path = "/" + urls[budget[0] % len(urls)].split("/", 3)[3] + "/chat/completions"
        head = (
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        start = time.perf_counter()
        writer.write(head.encode() + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(answer.split(b"content-length:")[1].split(b"\r\n")[0]))
        latencies.append(time.perf_counter() - start)
        assert b" 200 " in answer[:20], answer
    writer.close()
    await writer.wait_closed()


async def load(urls: list[str], clients: int, requests: int) -> tuple[float, list[float]]:
    budget, latencies, body = [requests], [], json.dumps(REQUEST).encode()
    start = time.perf_counter()
    await asyncio.gather(*(client(urls, body, budget, latencies) for _ in range(clients)))
    return time.perf_counter() - start, sorted(latencies)


def child(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(process: subprocess.Popen[str]) -> tuple[float, int]:
    assert process.stdin
    assert process.stdout
    process.stdin.write("\n")
    process.stdin.flush()
    cpu_seconds, spans = json.loads(process.stdout.readline())
    return cpu_seconds, spans


async def flush_all(urls: list[str]) -> float:
    start = time.perf_counter()
    for url in urls:
        root, _, rest = url.partition("/rollout/")
        rollout_id, _, attempt_id = rest.removesuffix("/v1").partition("/attempt/")
        model = ProxyLLM(endpoint=f"{root}/v1", model="mock")
        await flush_captures({"llm": model}, rollout_id, attempt_id)
    return time.perf_counter() - start


def measure(store: str, clients: int, requests: int) -> None:
    backend = child("backend")
    assert backend.stdout
    gateway = child("gateway", "--backend", backend.stdout.readline().strip(), "--store", store)
    assert gateway.stdout
    urls = json.loads(gateway.stdout.readline())
    asyncio.run(load(urls, clients, 200))
    cpu_before, _ = ask(gateway)
    wall, latencies = asyncio.run(load(urls, clients, requests))
    flushed = asyncio.run(flush_all(urls))
    cpu_after, spans = ask(gateway)
    assert spans == requests + 200, f"{spans} spans of {requests + 200} calls"
    print(
        f"store={store} clients={clients}: {requests / wall:.0f} req/s, "
        f"p50 {statistics.median(latencies) * 1e3:.2f} ms, p99 {latencies[int(len(latencies) * 0.99)] * 1e3:.2f} ms, "
        f"gateway and store {(cpu_after - cpu_before) / requests * 1e3:.3f} CPU ms/call, "
        f"{flushed / len(urls) * 1e3:.2f} ms a flush (agent-lightning v0.3: 27 req/s, v1.0: 286 req/s)"
    )
    for process in (gateway, backend):
        process.communicate(timeout=20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", nargs="?", choices=["measure", "backend", "gateway"], default="measure")
    parser.add_argument("--store", choices=["memory", "file"], default="memory")
    parser.add_argument("--backend", default="")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=4000)
    arguments = parser.parse_args()
    if arguments.role == "backend":
        asyncio.run(serve_backend())
    elif arguments.role == "gateway":
        asyncio.run(serve_gateway(arguments.backend, arguments.store))
    else:
        measure(arguments.store, arguments.clients, arguments.requests)


if __name__ == "__main__":
    main()
