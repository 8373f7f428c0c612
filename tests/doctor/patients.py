"""Agents with one thing wrong each, for the doctor to tell apart."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import urllib.request
from typing import Any

from openai import AsyncOpenAI, NotFoundError, OpenAI
from opentelemetry import context as otel_context, trace as otel

import agentlightning as agl

Messages = list[dict[str, Any]]

LOOKUP: dict[str, Any] = {
    "type": "function",
    "function": {"name": "lookup", "parameters": {"type": "object", "properties": {"key": {"type": "string"}}}},
}


async def converse(llm: agl.LLM, messages: Messages, **request: Any) -> dict[str, Any]:
    """Ask, append the answer to the messages as it came, and return it."""
    async with AsyncOpenAI(base_url=llm.endpoint, api_key="none", max_retries=0) as client:
        completion: Any = await client.chat.completions.create(model=llm.model, messages=messages, **request)
    messages.append(completion.choices[0].message.model_dump(exclude_none=True))
    return messages[-1]


async def ask_with_tool(llm: agl.LLM) -> Messages:
    """Look something up and answer: two calls, the second of which goes on from the first."""
    messages: Messages = [{"role": "user", "content": "What is the value of ruby?"}]
    for call in (await converse(llm, messages, tools=[LOOKUP]))["tool_calls"]:
        messages.append({"role": "tool", "tool_call_id": call["id"], "content": "42"})
    await converse(llm, messages, tools=[LOOKUP])
    return messages


@agl.rollout
async def good(task: Any, llm: agl.LLM) -> float:
    await ask_with_tool(llm)
    return 1.0


@agl.rollout
def good_and_sync(task: Any, llm: agl.LLM) -> float:
    with OpenAI(base_url=llm.endpoint, api_key="none") as client:
        client.chat.completions.create(model=llm.model, messages=[{"role": "user", "content": "hi"}])
    return 1.0


@agl.rollout
def unmodelled(task: Any, llm: agl.LLM) -> float:
    """Ask nobody."""
    return 1.0


@agl.rollout
async def busy(task: Any, llm: agl.LLM) -> float:
    """Leave a stream, ask again, and talk to another service beside."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        return float(await impatient(task, llm))


@agl.rollout
def elsewhere(task: dict[str, str], llm: agl.LLM) -> float:
    """Call a model by its own address, with a client that nobody instruments."""
    body = json.dumps({"model": "other", "messages": [{"role": "user", "content": "hi"}]}).encode()
    request = urllib.request.Request(f"{task['url']}/chat/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return float(len(json.load(answer)["choices"]))


@agl.rollout
async def elsewhere_by_sdk(task: dict[str, str], llm: agl.LLM) -> float:
    """Call a model by its own address, with an SDK that is instrumented."""
    await converse(agl.LLM(endpoint=task["url"], model="other"), [{"role": "user", "content": "hi"}])
    return 1.0


@agl.rollout
async def half_elsewhere(task: dict[str, str], llm: agl.LLM) -> float:
    """Call one model by its own address, and one as it should be."""
    await elsewhere_by_sdk(task, llm)
    await converse(llm, [{"role": "user", "content": "hi"}])
    return 1.0


@agl.rollout(strip_proxy=False)
async def anonymous(task: Any, llm: agl.ProxyLLM) -> float:
    """Call the gateway by an address that names no attempt."""
    await converse(llm, [{"role": "user", "content": "hi"}])
    return 1.0


@agl.rollout
async def unrewarded(task: Any, llm: agl.LLM) -> None:
    await ask_with_tool(llm)


@agl.rollout
async def hasty(task: Any, llm: agl.LLM) -> None:
    """Give the reward before there is anything to reward."""
    agl.emit_reward(1.0)
    tracer = agl.get_active_tracer()
    assert tracer is not None
    await tracer.flush()  # its place in the order is reserved beside the agent, who might be faster otherwise
    await ask_with_tool(llm)


@agl.rollout
async def streaming(task: Any, llm: agl.LLM) -> float:
    async with AsyncOpenAI(base_url=llm.endpoint, api_key="none") as client:
        messages: Any = [{"role": "user", "content": "hi"}]
        chunks = await client.chat.completions.create(model=llm.model, messages=messages, stream=True)
        words = [chunk.choices[0].delta.content or "" async for chunk in chunks if chunk.choices]
    return float(bool("".join(words)))


@agl.rollout
async def impatient(task: Any, llm: agl.LLM) -> float:
    """Leave a stream after its first words, and ask again."""
    messages: Any = [{"role": "user", "content": "hi"}]
    async with AsyncOpenAI(base_url=llm.endpoint, api_key="none") as client:
        async with await client.chat.completions.create(model=llm.model, messages=messages, stream=True) as chunks:
            async for chunk in chunks:
                if chunk.choices[0].delta.content:
                    break
        await client.chat.completions.create(model=llm.model, messages=messages)
    return 1.0


@agl.rollout
async def repeating(task: Any, llm: agl.LLM) -> float:
    """Ask the same thing twice."""
    for _ in range(2):
        await converse(llm, [{"role": "user", "content": "hi"}])
    return 1.0


@agl.rollout
async def writer_and_critic(task: Any, llm: agl.LLM) -> float:
    for name in ("writer", "critic"):
        with agl.operation(**{"type": "agent", "agent.name": name}):
            await converse(llm, [{"role": "user", "content": f"You are the {name}."}])
    return 1.0


@agl.rollout
async def forgetful(task: Any, llm: agl.LLM) -> float:
    """Shorten what the model said before asking again."""
    messages: Messages = [{"role": "user", "content": "Tell me a story."}]
    answer = await converse(llm, messages)
    messages[-1] = {**answer, "content": answer["content"][:6] + " …"}
    messages.append({"role": "user", "content": "Go on."})
    await converse(llm, messages)
    return 1.0


@agl.rollout
async def rewriting(task: Any, llm: agl.LLM) -> float:
    """Parse a tool call's arguments, and write them in a form of its own."""
    messages: Messages = [{"role": "user", "content": "What is the value of ruby?"}]
    for call in (await converse(llm, messages, tools=[LOOKUP]))["tool_calls"]:
        call["function"]["arguments"] = json.dumps(json.loads(call["function"]["arguments"]), separators=(",", ":"))
        messages.append({"role": "tool", "tool_call_id": call["id"], "content": "42"})
    await converse(llm, messages, tools=[LOOKUP])
    return 1.0


@agl.rollout
async def picky(task: Any, llm: agl.LLM) -> float:
    """Ask for a model that the gateway does not serve."""
    await converse(llm.model_copy(update={"model": "gpt-of-my-own"}), [{"role": "user", "content": "hi"}])
    return 1.0


@agl.rollout
async def foreign(task: Any, llm: agl.LLM) -> float:
    """Speak a protocol that is not recorded."""
    async with AsyncOpenAI(base_url=llm.endpoint, api_key="none", max_retries=0) as client:
        await client.post(f"/models/{llm.model}:generateContent", body={}, cast_to=object)
    return 1.0


@agl.rollout
async def curious(task: Any, llm: agl.LLM) -> float:
    """Look at the model and try its embeddings before asking it."""
    async with AsyncOpenAI(base_url=llm.endpoint, api_key="none", max_retries=0) as client:
        assert (await client.models.retrieve(llm.model)).id == llm.model
        with contextlib.suppress(NotFoundError):
            await client.embeddings.create(model=llm.model, input="hi")
    await converse(llm, [{"role": "user", "content": "hi"}])
    return 1.0


@agl.rollout
async def broken(task: Any, llm: agl.LLM) -> float:
    return task["no such key"]


@agl.rollout
async def leaving(task: str, llm: agl.LLM) -> float:
    """End the process, after a call."""
    await converse(llm, [{"role": "user", "content": "hi"}])
    if task == "sys":
        sys.exit(0)
    os._exit(0)


@agl.rollout
def forking(task: Any, llm: agl.LLM) -> float:
    """Print from a process of one's own."""
    subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
    return good_and_sync(task, llm)


@agl.rollout
async def wanting(task: Any, prompt_template: agl.PromptTemplate) -> float:
    return 1.0


@agl.rollout
async def waiting(task: Any, llm: agl.LLM) -> float:
    await converse(llm, [{"role": "user", "content": "hi"}])
    await asyncio.Event().wait()
    return 1.0


@agl.rollout
async def blocking(task: Any, llm: agl.LLM) -> float:
    """Block the event loop for longer than anybody waits, with a call made before."""
    await converse(llm, [{"role": "user", "content": "hi"}])
    threading.Event().wait(task["seconds"])
    return 1.0


@agl.rollout
def astray(task: Any, llm: agl.LLM) -> float:
    """Record a span where nobody knows the rollout."""

    def work() -> None:
        otel_context.attach(otel_context.Context())
        otel.get_tracer("astray").start_span("lost work").end()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    with OpenAI(base_url=llm.endpoint, api_key="none") as client:
        client.chat.completions.create(model=llm.model, messages=[{"role": "user", "content": "hi"}])
    return 1.0


@agl.rollout
async def generous(task: Any, llm: agl.LLM) -> None:
    """Give two rewards for one call, and talk while doing so."""
    await converse(llm, [{"role": "user", "content": "hi"}])
    for reward in (0.5, 1.0):
        sys.stdout.write(f"a reward of {reward}\n")
        agl.emit_reward(reward)


PROGRAM = """
import json, os, urllib.request
body = json.dumps({"model": "scripted", "messages": [{"role": "user", "content": "hi"}]}).encode()
url = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": "application/json"})).read()
print(json.dumps({"reward": 1}))
"""
program = agl.CommandAgent([sys.executable, "-c", PROGRAM])


class Demanding(agl.LitAgent[Any]):
    """An agent that is not made without knowing what for."""

    def __init__(self, purpose: str) -> None:
        super().__init__()

    async def rollout_async(self, task: Any, resources: agl.NamedResources, rollout: agl.Rollout) -> float:
        return 1.0


class Team:
    @agl.rollout
    def play(self, task: Any, llm: agl.LLM) -> float:
        return 1.0


class Classy(agl.LitAgent[Any]):
    """An agent as a class."""

    async def rollout_async(self, task: Any, resources: agl.NamedResources, rollout: agl.Rollout) -> float:
        llm = resources["llm"]
        assert isinstance(llm, agl.LLM)
        await ask_with_tool(llm)
        return 1.0


not_an_agent = "just a text"
