"""How fast spans become training data: 10,000 spans of one rollout through the normaliser and the merging of rows.

    python benchmarks/adapter.py [conversations] [one_shot] [never_merged] [sdk_and_gateway] [agents] [deep]
        [--spans 10000]

Each line: what, spans, milliseconds of processor time (the best of three runs), and what came of it. The aim is 10,000
spans in less than a second.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from agentlightning import semconv
from agentlightning.adapter import TracerTraceToTriplet, TraceToMessages, llm_calls, merge_calls
from agentlightning.adapter.trajectory import Trajectories
from agentlightning.types import Attributes, Span
from agentlightning.types.llm_call_span import CapturedCall, CapturedChoice, encode_call

AGENTS = 20
PROMPT = 200
ANSWER = 50
TURNS = 25

Json = dict[str, Any]


def gateway_span(number: int, messages: list[Json], prompt: list[int], answer: list[int]) -> Span:
    message = {"role": "assistant", "content": f"answer {number}"}
    choice = CapturedChoice(token_ids=answer, logprobs=[-0.5] * len(answer), finish_reason="stop", message=message)
    request = {"model": "m", "messages": messages, "temperature": 1.0}
    call = CapturedCall(
        request=json.dumps(request), prompt_token_ids=prompt, choices=[choice], response_id=f"chatcmpl-{number}"
    )
    return make_span(number, semconv.AGL_LLM_CALL, encode_call(call))


def sdk_span(number: int, messages: list[Json]) -> Span:
    reply = {
        "id": f"chatcmpl-{number}",
        "choices": [{"message": {"role": "assistant", "content": f"answer {number}"}, "finish_reason": "stop"}],
    }
    attributes: Attributes = {
        "openinference.span.kind": "LLM",
        "input.value": json.dumps({"model": "m", "messages": messages}),
        "output.value": json.dumps(reply),
    }
    return make_span(number, "ChatCompletion", attributes)


def make_span(number: int, name: str, attributes: Attributes) -> Span:
    return Span.from_attributes(
        attributes=attributes,
        rollout_id="ro",
        attempt_id="at",
        sequence_id=number,
        name=name,
        start_time=1.0 + number,
        end_time=1.5 + number,
    )


def conversations(spans: int) -> Iterator[Span]:
    """Agents that take turns and go on for some turns, then begin anew; three of four spans are no model calls."""
    tokens: dict[int, list[int]] = {}
    messages: dict[int, list[Json]] = {}
    for number in range(spans):
        agent, turn = (number // 4) % AGENTS, number // 4 // AGENTS
        if number % 4:
            yield make_span(number, "tool", {"tool.name": "search", "input.value": "x" * 50})
            continue
        if turn % TURNS == 0:
            tokens[agent], messages[agent] = [agent, turn], [{"role": "user", "content": f"{agent} {turn}"}]
        prompt = tokens[agent] + [number] * (PROMPT // 10)
        answer = [number + 1] * ANSWER
        yield gateway_span(number, messages[agent], prompt, answer)
        tokens[agent] = prompt + answer
        said = {"role": "assistant", "content": f"answer {number}"}
        messages[agent] = [*messages[agent], said, {"role": "user", "content": "go on"}]


def one_shot(spans: int) -> Iterator[Span]:
    """Calls that share instructions and nothing else: each opens a row."""
    for number in range(spans):
        messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": str(number)}]
        yield gateway_span(number, messages, [7] * PROMPT + [number], [number] * ANSWER)


def never_merged(spans: int) -> Iterator[Span]:
    """Conversations whose template writes each turn anew, so every turn breaks a prefix; half are calls."""
    for number in range(spans):
        if number % 2:
            yield make_span(number, "tool", {"tool.name": "search", "input.value": "x" * 50})
            continue
        turn = number // 2 % TURNS
        earlier = range(number - 2 * turn, number, 2)
        messages: list[Json] = [{"role": "user", "content": str(number - 2 * turn)}]
        for each in earlier:
            messages += [{"role": "assistant", "content": f"answer {each}"}, {"role": "user", "content": "go on"}]
        yield gateway_span(number, messages, [number - 2 * turn, *[number] * PROMPT], [number] * ANSWER)


def sdk_and_gateway(spans: int) -> Iterator[Span]:
    """Each call is seen by an instrumented SDK and by the gateway."""
    for number in range(spans // 2):
        messages = [{"role": "user", "content": str(number)}]
        yield sdk_span(number, messages)
        yield gateway_span(number, messages, [number] * PROMPT, [number] * ANSWER)


def agents(spans: int) -> Iterator[Span]:
    """Agents with tools, calls and rewards below them; every other call has no parent and is found by its time."""
    for number in range(spans):
        step, agent = number % 20, f"agent{number // 20}"
        below = None if step % 4 == 1 else agent
        if step == 0:
            span = make_span(number, agent, {"agent.name": agent})
            span.end_time = number + 20.0
        elif step >= 17:
            reward: Attributes = {"agentlightning.reward.0.name": "primary", "agentlightning.reward.0.value": 0.5}
            span = make_span(number, semconv.AGL_ANNOTATION, reward)
        elif step % 2:
            span = gateway_span(number, [{"role": "user", "content": agent}], [number] * PROMPT, [number] * ANSWER)
        else:
            span = make_span(number, "tool", {"tool.name": "search"})
        yield span.model_copy(
            update={"span_id": agent if step == 0 else str(number), "parent_id": (step and below) or None}
        )


def deep(spans: int) -> Iterator[Span]:
    """Spans of which each stands in the one before, and calls without a parent while all of them are open."""
    depth = spans // 2
    for number in range(depth):
        span = make_span(number, "step", {})
        span.end_time = 2.0 * spans - number
        yield span.model_copy(update={"span_id": str(number), "parent_id": str(number - 1) if number else None})
    for number in range(depth, spans):
        yield gateway_span(number, [{"role": "user", "content": "go on"}], [number] * PROMPT, [number] * ANSWER)


TRACES: dict[str, Callable[[int], Iterator[Span]]] = {
    "conversations": conversations,
    "one_shot": one_shot,
    "never_merged": never_merged,
    "sdk_and_gateway": sdk_and_gateway,
    "agents": agents,
    "deep": deep,
}


def rows_of(spans: list[Span]) -> Trajectories:
    return merge_calls(llm_calls(spans))


def measure(convert: Callable[[list[Span]], Any], spans: list[Span], runs: int = 3) -> tuple[float, Any]:
    """Return the processor seconds of the best run, and what it returned."""
    best, result = float("inf"), None
    gc.collect()
    gc.freeze()  # the spans are the benchmark's own: collecting garbage is not to go through them again and again
    for _ in range(runs):
        began = time.process_time()
        result = convert(spans)
        best = min(best, time.process_time() - began)
    gc.unfreeze()
    return best, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", nargs="*", choices=[*TRACES, []], help="which traces; all by default")
    parser.add_argument("--spans", type=int, default=10_000)
    arguments = parser.parse_args()
    for name in arguments.traces or TRACES:
        spans = list(TRACES[name](arguments.spans))
        seconds, merged = measure(rows_of, spans)
        counters = merged.counters
        print(
            f"{name:18} {len(spans):7,} spans {seconds * 1000:8.0f} ms   calls {counters.calls:,}, "
            f"rows {counters.rows:,}, broken {counters.broken_prefixes:,}"
        )
        seconds, reading = measure(TracerTraceToTriplet(agent_match="agent" if name == "agents" else None).read, spans)
        rewarded = sum(triplet.reward is not None for triplet in reading.triplets)
        print(
            f"{'  triplets':18} {len(spans):7,} spans {seconds * 1000:8.0f} ms   triplets {len(reading.triplets):,}, "
            f"rewarded {rewarded:,}, rewards unmatched {len(reading.unmatched):,}"
        )
        seconds, messages = measure(TraceToMessages(), spans)
        print(f"{'  messages':18} {len(spans):7,} spans {seconds * 1000:8.0f} ms   conversations {len(messages):,}")


if __name__ == "__main__":
    main()
