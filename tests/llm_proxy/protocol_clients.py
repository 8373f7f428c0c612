"""The three APIs by their real SDKs, sync and async, behind one small interface, and what their answers say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import anthropic
import openai

from agentlightning._internal.threads import run_in_thread

Json = dict[str, Any]

PIXEL = "iVBORw0KGgo="
SCHEMA: Json = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}
PARAMETERS: Json = {"type": "object", "properties": {"city": {"type": "string"}}}


@dataclass
class Said:
    """What an answer says, in the words of no API."""

    text: str = ""
    thoughts: str = ""
    calls: list[tuple[str, str, Any]] = field(default_factory=list[tuple[str, str, Any]])
    ended: str = ""


class Client:
    """An SDK's client that was made for one API."""

    def __init__(self, api: str, mode: str, endpoint: str) -> None:
        kinds: dict[tuple[str, str], Callable[..., Any]] = {
            ("openai", "sync"): openai.OpenAI,
            ("openai", "async"): openai.AsyncOpenAI,
            ("anthropic", "sync"): anthropic.Anthropic,
            ("anthropic", "async"): anthropic.AsyncAnthropic,
        }
        self.api, self.mode = api, mode
        self.errors: Any = anthropic if api == "Messages" else openai
        kind = kinds["anthropic" if api == "Messages" else "openai", mode]
        self._sdk = kind(base_url=endpoint, api_key="unused", max_retries=0)

    @property
    def _resource(self) -> Any:
        resources: dict[str, Callable[[], Any]] = {
            "Chat Completions": lambda: self._sdk.chat.completions,
            "Completions": lambda: self._sdk.completions,
            "Embeddings, models": lambda: self._sdk.embeddings,
            "Responses": lambda: self._sdk.responses,
            "Messages": lambda: self._sdk.messages,
        }
        return resources[self.api]()

    async def create(self, **request: Any) -> Any:
        """One answer, whole."""
        if self.mode == "async":
            return await self._resource.create(**request)
        return await run_in_thread(lambda: self._resource.create(**request), "sync-client")

    async def stream(self, on_event: Callable[[Any], object] = id, **request: Any) -> Any:
        """The final answer, as the SDK's helper makes it of the events, each of which `on_event` sees."""
        if self.mode == "async":
            async with self._resource.stream(**request) as stream:
                async for event in stream:
                    on_event(event)
                return await getattr(stream, self._final)()

        def read() -> Any:
            with self._resource.stream(**request) as stream:
                for event in stream:
                    on_event(event)
                return getattr(stream, self._final)()

        return await run_in_thread(read, "sync-client")

    async def events(self, **request: Any) -> list[Any]:
        """The raw events."""
        if self.mode == "async":
            return [event async for event in await self._resource.create(stream=True, **request)]
        return await run_in_thread(lambda: list(self._resource.create(stream=True, **request)), "sync-client")

    async def leave(self, **request: Any) -> None:
        """Begin to read a stream, and hang up."""
        if self.mode == "async":
            async with await self._resource.create(stream=True, **request) as stream:
                await anext(aiter(stream))
            return

        def read() -> None:
            with self._resource.create(stream=True, **request) as stream:
                next(iter(stream))

        await run_in_thread(read, "sync-client")

    async def give_up(self, asked: asyncio.Event, **request: Any) -> None:
        """Give up a request once the backend has it: by cancelling it, where the SDK has no loop by its timeout."""
        if self.mode == "sync":
            try:
                await self.create(timeout=0.3, **request)
            except self.errors.APITimeoutError:
                return
            raise AssertionError("the request was answered")
        task = asyncio.create_task(self.create(**request))
        await asked.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()

    async def models(self) -> Any:
        """The list of models, as the backend gives it."""
        if self.mode == "async":
            return await self._sdk.models.list()
        return await run_in_thread(self._sdk.models.list, "sync-client")

    async def close(self) -> None:
        """Close the SDK's client."""
        if self.mode == "async":
            await self._sdk.close()
        else:
            self._sdk.close()

    @property
    def _final(self) -> str:
        names = {"Chat Completions": "get_final_completion", "Responses": "get_final_response"}
        return names.get(self.api, "get_final_message")


def question(api: str, **more: Any) -> Json:
    """A request that asks `hi`."""
    if api in ("Responses", "Embeddings, models"):
        return {"model": "policy", "input": "hi", **more}
    if api == "Completions":
        return {"model": "policy", "prompt": "hi", **more}
    limit = {"max_tokens": 64} if api == "Messages" else {}
    return {"model": "policy", "messages": [{"role": "user", "content": "hi"}], **limit, **more}


def with_tools(api: str) -> Json:
    if api == "Messages":
        return question(api, tools=[{"name": "weather", "description": "Look.", "input_schema": PARAMETERS}])
    function = {"name": "weather", "description": "Look.", "parameters": PARAMETERS}
    if api == "Responses":
        return question(api, tools=[{"type": "function", **function, "strict": False}])
    return question(api, tools=[{"type": "function", "function": function}])


def with_schema(api: str) -> Json:
    if api == "Messages":
        return question(api, output_config={"format": {"type": "json_schema", "schema": SCHEMA}})
    named = {"name": "answer", "schema": SCHEMA, "strict": True}
    if api == "Responses":
        return question(api, text={"format": {"type": "json_schema", **named}})
    return question(api, response_format={"type": "json_schema", "json_schema": named})


def with_image(api: str) -> Json:
    url = f"data:image/png;base64,{PIXEL}"
    if api == "Messages":
        image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
        return _asking(api, [{"type": "text", "text": "what?\n"}, image])
    if api == "Responses":
        return _asking(api, [{"type": "input_text", "text": "what?\n"}, {"type": "input_image", "image_url": url}])
    return _asking(api, [{"type": "text", "text": "what?\n"}, {"type": "image_url", "image_url": {"url": url}}])


def _asking(api: str, content: list[Json]) -> Json:
    key = "input" if api == "Responses" else "messages"
    return question(api) | {key: [{"role": "user", "content": content}]}


def said(api: str, answer: Any) -> Said:
    """What an answer says."""
    return {"Chat Completions": _chat, "Responses": _responses, "Messages": _messages}[api](answer)


def _chat(answer: Any) -> Said:
    choice = answer.choices[0]
    calls = [(call.id, call.function.name, json.loads(call.function.arguments)) for call in _calls(choice.message)]
    extra: Json = choice.message.model_extra or {}
    thoughts: str = extra.get("reasoning_content") or ""
    return Said(choice.message.content or "", thoughts, calls, choice.finish_reason)


def _calls(message: Any) -> list[Any]:
    return message.tool_calls or []


def _responses(answer: Any) -> Said:
    calls = [
        (item.call_id, item.name, json.loads(item.arguments)) for item in answer.output if item.type == "function_call"
    ]
    thoughts = [part.text for item in answer.output if item.type == "reasoning" for part in item.content]
    ended = "tool_calls" if calls else {"completed": "stop"}[answer.status]
    return Said(answer.output_text, "".join(thoughts), calls, ended)


def _messages(answer: Any) -> Said:
    by_type: dict[str, list[Any]] = {"text": [], "thinking": [], "tool_use": []}
    for block in answer.content:
        by_type[block.type].append(block)
    return Said(
        "".join(block.text for block in by_type["text"]),
        "".join(block.thinking for block in by_type["thinking"]),
        [(block.id, block.name, block.input) for block in by_type["tool_use"]],
        {"end_turn": "stop", "tool_use": "tool_calls"}[answer.stop_reason],
    )
