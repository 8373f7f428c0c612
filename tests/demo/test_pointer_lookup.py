"""The example's agent against a model server that speaks from a script."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import agentlightning as agl
from agentlightning.demo.agent import load_agent
from agentlightning.demo.world import Task, solution, test_tasks as frozen_tasks
from agentlightning.serving import EmbeddedServer

Script = Callable[[list[dict[str, Any]]], dict[str, Any]]
TASK: Task = next(task for task in frozen_tasks() if task["hops"] == 3)


class ScriptedModel:
    """Answers each request with what `script` says to its messages, and keeps the requests."""

    def __init__(self) -> None:
        self.script: Script = lambda _messages: {"content": ""}
        self.requests: list[dict[str, Any]] = []

    async def reply(self, request: Request) -> JSONResponse:
        body = await request.json()
        self.requests.append(body)
        message = {"role": "assistant", "content": None, **self.script(body["messages"])}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        return JSONResponse(
            {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice]}
        )


@pytest.fixture
def model() -> ScriptedModel:
    return ScriptedModel()


@pytest.fixture
async def llm(model: ScriptedModel) -> AsyncIterator[agl.LLM]:
    server = EmbeddedServer(Starlette(routes=[Route("/v1/chat/completions", model.reply, methods=["POST"])]))
    await server.start()
    yield agl.LLM(endpoint=f"{server.url}/v1", model="scripted", sampling_parameters={"temperature": 0.5})
    await server.stop()


def ask(key: str) -> dict[str, Any]:
    call = {"id": "call_1", "type": "function", "function": {"name": "lookup", "arguments": json.dumps({"key": key})}}
    return {"tool_calls": [call]}


def follow_pointers(messages: list[dict[str, Any]]) -> dict[str, Any]:
    last = messages[-1]["content"]
    if last.startswith("value "):
        return {"content": f"The value is {last.removeprefix('value ')}."}
    return ask(last.removeprefix("What is the value of ").removeprefix("same as ").removesuffix("?"))


async def test_following_the_pointers_is_rewarded(model: ScriptedModel, llm: agl.LLM) -> None:
    model.script = follow_pointers
    assert await load_agent()(TASK, llm) == 1.0
    assert len(model.requests) == 4
    assert all(request["max_tokens"] == 28 and request["temperature"] == 0.5 for request in model.requests)
    for earlier, later in zip(model.requests, model.requests[1:], strict=False):
        assert later["messages"][: len(earlier["messages"])] == earlier["messages"]


@pytest.mark.parametrize("answer", ["The value is 100.", solution(TASK).lower(), f"{solution(TASK)} ", ""])
async def test_only_the_exact_sentence_is_rewarded(model: ScriptedModel, llm: agl.LLM, answer: str) -> None:
    model.script = lambda _messages: {"content": answer}
    assert await load_agent()(TASK, llm) == 0.0
    assert len(model.requests) == 1


async def test_asking_forever_ends_without_reward(model: ScriptedModel, llm: agl.LLM) -> None:
    model.script = lambda _messages: ask("nobody")
    assert await load_agent()(TASK, llm) == 0.0
    assert len(model.requests) == 5
    assert model.requests[-1]["messages"][-1]["content"] == "error"


async def test_arguments_that_are_no_json_end_it_without_reward(model: ScriptedModel, llm: agl.LLM) -> None:
    (call,) = ask("ruby")["tool_calls"]
    call["function"]["arguments"] = '{"key": "ru'
    model.script = lambda _messages: {"tool_calls": [call]}
    assert await load_agent()(TASK, llm) == 0.0
    assert len(model.requests) == 1
