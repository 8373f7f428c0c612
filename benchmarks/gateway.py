"""What the gateway costs: `python benchmarks/gateway.py [calls|streams|memory|rollouts] [--store file] [--clients 16]`.

A mock backend, the gateway with its store, a pass-through that keeps nothing, and the load run in a process each; all
is measured in one run, the pass-through and the gateway in turn.

calls: CPU per call, and the time that it adds; 256 prompt and 64 sampled tokens. Peers on two cores at 16 clients:
agent-lightning v0.3 27 req/s, v1.0 286 req/s.
streams: CPU per chunk, and the time that is added to the first token's.
memory: the gateway's resident memory over 100,000 calls.
rollouts: 1,000 rollouts at once with 5 calls each; the store is asked afterwards whether it has each where it belongs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from gateway_load import Answer, body_of, converse, load

from agentlightning.llm_proxy import flush_captures
from agentlightning.types import ProxyLLM

ROUNDS = 5
CHUNKS = 200
OPEN_FILES = 8192


class Child:
    """A process of `gateway_processes.py`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.urls: list[str] = self._read()

    def ask(self, question: str = "usage") -> Any:
        assert self._process.stdin
        self._process.stdin.write(question + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout
        return json.loads(self._process.stdout.readline())


@contextmanager
def child(role: str, **options: Any) -> Generator[Child]:
    named = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    command = [sys.executable, str(Path(__file__).with_name("gateway_processes.py")), role, *named]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Child(process)
    finally:
        process.communicate(timeout=60)


class Setup:
    """Backend, pass-through and gateway, and what they cost under the same load in turn."""

    def __init__(self, stack: ExitStack, store: str, attempts: int = 64, **backend_options: Any) -> None:
        self.backend = stack.enter_context(child("backend", **backend_options))
        self.bare = stack.enter_context(child("bare", backend=self.backend.urls[0]))
        options = {"backend": self.backend.urls[0], "store": store, "attempts": attempts}
        self.gateway = stack.enter_context(child("gateway", **options))

    def through_gateway(self, clients: int, requests: int, body: bytes) -> tuple[float, list[Answer], float]:
        """Return CPU seconds with the writing into the store, the answers, and wall seconds."""
        before = self.gateway.ask()["cpu"]
        wall, answers = asyncio.run(load(self.gateway.urls, clients, requests, body))
        asyncio.run(flush_all(self.gateway.urls))
        return self.gateway.ask()["cpu"] - before, answers, wall

    def through_bare(self, clients: int, requests: int, body: bytes) -> tuple[float, list[Answer], float]:
        before = self.bare.ask()["cpu"]
        wall, answers = asyncio.run(load([f"{self.bare.urls[0]}/v1"], clients, requests, body))
        return self.bare.ask()["cpu"] - before, answers, wall

    def directly(self, clients: int, requests: int, body: bytes) -> list[Answer]:
        return asyncio.run(load([f"{self.backend.urls[0]}/v1"], clients, requests, body))[1]


async def flush_all(urls: list[str]) -> None:
    for url in urls:
        root, _, rest = url.partition("/rollout/")
        rollout_id, _, attempt_id = rest.removesuffix("/v1").partition("/attempt/")
        model = ProxyLLM(endpoint=f"{root}/v1", model="mock")
        await flush_captures({"llm": model}, rollout_id, attempt_id)


def median_ms(seconds: list[float]) -> float:
    return statistics.median(seconds) * 1e3


def measure_calls(store: str, clients: int, requests: int) -> None:
    with ExitStack() as stack:
        setup, body = Setup(stack, store), body_of()
        setup.through_gateway(clients, 200, body)
        setup.through_bare(clients, 200, body)
        ours, bare, rates = list[float](), list[float](), list[float]()
        many, one, direct = list[float](), list[float](), list[float]()
        for _ in range(ROUNDS):
            cpu, answers, wall = setup.through_gateway(clients, requests // ROUNDS, body)
            ours.append(cpu / len(answers) * 1e3)
            rates.append(len(answers) / wall)
            many += [answer.last for answer in answers]
            bare.append(setup.through_bare(clients, requests // ROUNDS, body)[0] / (requests // ROUNDS) * 1e3)
            one += [answer.last for answer in setup.through_gateway(1, 100, body)[1]]
            direct += [answer.last for answer in setup.directly(1, 100, body)]
        spans, expected = setup.gateway.ask("spans"), 200 + ROUNDS * (requests // ROUNDS + 100)
        assert spans == expected, f"{spans} spans of {expected} calls"
    many.sort()
    print(
        f"calls, store={store} clients={clients}: {statistics.median(ours):.3f} CPU ms a call with the store "
        f"(least {min(ours):.3f}; a bare pass-through {statistics.median(bare):.3f}, least {min(bare):.3f}), "
        f"{statistics.median(rates):.0f} req/s (most {max(rates):.0f}), p50 {median_ms(many):.2f} ms, "
        f"p99 {many[int(len(many) * 0.99)] * 1e3:.1f} ms; one client: "
        f"p50 {median_ms(one):.2f} ms, directly {median_ms(direct):.2f} ms "
        f"(agent-lightning v0.3: 27 req/s, v1.0: 286 req/s)"
    )


def measure_streams(store: str, clients: int) -> None:
    ours, bare = list[float](), list[float]()
    first, first_bare, first_direct = list[float](), list[float](), list[float]()
    body = body_of(stream=True)
    with ExitStack() as stack:
        setup = Setup(stack, store, gap_ms=10, chunks=CHUNKS)
        for _ in range(ROUNDS):
            for cost, through in ((ours, setup.through_gateway), (bare, setup.through_bare)):
                cost.append(through(clients, clients, body)[0] / (clients * CHUNKS) * 1e6)
    with ExitStack() as stack:
        setup = Setup(stack, store, gap_ms=10, chunks=5)
        for _ in range(ROUNDS):
            first += [answer.first for answer in setup.through_gateway(1, 20, body)[1]]
            first_bare += [answer.first for answer in setup.through_bare(1, 20, body)[1]]
            first_direct += [answer.first for answer in setup.directly(1, 20, body)]
    ratio = statistics.median(a / b for a, b in zip(ours, bare, strict=True))
    print(
        f"streams, store={store} clients={clients}: {statistics.median(ours):.0f} CPU µs a chunk with the store, "
        f"a bare pass-through {statistics.median(bare):.0f}: {ratio:.2f} times; "
        f"first byte after {median_ms(first):.2f} ms, through the "
        f"pass-through {median_ms(first_bare):.2f}, directly {median_ms(first_direct):.2f}"
    )


def measure_memory(store: str, clients: int, requests: int) -> None:
    samples: list[float] = []
    with ExitStack() as stack:
        setup, body = Setup(stack, store), body_of()
        for _ in range(20):
            setup.through_gateway(clients, requests // 20, body)
            samples.append(setup.gateway.ask()["rss_mb"])
        spans = setup.gateway.ask("spans")
    assert spans == requests // 20 * 20, spans
    said = ", ".join(f"{sample:.0f}" for sample in samples)
    print(f"memory, store={store} clients={clients}: MB after each twentieth of {requests} calls: {said}")


def measure_rollouts(store: str, rollouts: int, calls: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(OPEN_FILES, hard), hard))
    with ExitStack() as stack:
        setup = Setup(stack, store, attempts=rollouts)
        start = time.perf_counter()
        answers = asyncio.run(converse(setup.gateway.urls, calls, lambda index, call: f"rollout-{index}-call-{call}"))
        wall = time.perf_counter() - start
        asyncio.run(flush_all(setup.gateway.urls))
        recorded: list[list[list[str]]] = setup.gateway.ask("recorded")
    lost = wrong = 0
    for index, (answered, spans) in enumerate(zip(answers, recorded, strict=True)):
        made = [f"rollout-{index}-call-{call}" for call in range(calls)]
        assert answered == made, answered
        lost += sum([mark, mark] not in spans for mark in made)
        wrong += sum(span not in [[mark, mark] for mark in made] for span in spans) or spans != [[m, m] for m in made]
    print(
        f"rollouts, store={store}: {rollouts} at once with {calls} calls each in {wall:.1f} s, "
        f"{lost} lost, {wrong} attributed wrongly, out of order or twice"
    )
    assert not lost
    assert not wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["calls", "streams", "memory", "rollouts"], default="calls")
    parser.add_argument("--store", choices=["memory", "file"], default="memory")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=4000, help="for calls; memory takes 25 times as many")
    parser.add_argument("--rollouts", type=int, default=1000)
    arguments = parser.parse_args()
    if arguments.what == "calls":
        measure_calls(arguments.store, arguments.clients, arguments.requests)
    elif arguments.what == "streams":
        measure_streams(arguments.store, arguments.clients)
    elif arguments.what == "memory":
        measure_memory(arguments.store, arguments.clients, arguments.requests * 25)
    else:
        measure_rollouts(arguments.store, arguments.rollouts, 5)


if __name__ == "__main__":
    main()
