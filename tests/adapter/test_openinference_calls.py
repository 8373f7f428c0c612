"""What the installed SDKs and frameworks do is read from the spans of the installed instrumentors: one call each."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import agents
import openai
import pytest
from anthropic import AsyncAnthropic
from langchain_openai import ChatOpenAI
from openai import AsyncOpenAI, DefaultAsyncHttpxClient, DefaultHttpxClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from agentlightning.adapter.llm_call import read_calls
from agentlightning.adapter.reading import CallReading, SeenCall
from agentlightning.doctor.script import Reply, ToolCall
from agentlightning.doctor.scripted_model import ScriptedModel
from agentlightning.execution.loop_thread import Cancellable, run_blocking
from agentlightning.serving import EmbeddedServer, ServerThread
from agentlightning.tracer import OtelTracer
from agentlightning.types import LLMCall

Json = dict[str, Any]

QUESTION = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
EXACT: Json = {"logprobs": True, "extra_body": {"return_token_ids": True}}
WEATHER: Json = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
OPENAI = "openinference.instrumentation.openai"
LANGCHAIN = "openinference.instrumentation.langchain"
AGENTS = "openinference.instrumentation.openai_agents"
ANTHROPIC = "openinference.instrumentation.anthropic"


def answer(request: Json) -> Reply:
    """Call the tool that is offered, then say hello."""
    if request.get("tools") and request["messages"][-1]["role"] == "user":
        return Reply(tool_calls=[ToolCall(request["tools"][0]["function"]["name"], {"city": "Oslo"})])
    if request["messages"][-1]["content"] == "fail":
        raise RuntimeError("the script fails")
    return Reply("Hello.")


@pytest.fixture(scope="module")
def model() -> Iterator[ScriptedModel]:
    with ScriptedModel(answer) as model:
        yield model


@pytest.fixture
async def client(model: ScriptedModel) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=model.url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def tracer() -> AsyncIterator[OtelTracer]:
    tracer = OtelTracer(instrument="auto")
    with tracer.lifespan():
        yield tracer


async def reading(tracer: OtelTracer, body: Callable[[], Awaitable[Any]]) -> CallReading:
    async with tracer.trace_context("t"):
        await body()
    return read_calls(tracer.get_last_trace()[::-1])


async def the_call(tracer: OtelTracer, body: Callable[[], Awaitable[Any]]) -> LLMCall:
    (seen,) = (await reading(tracer, body)).seen
    (call,) = seen.answers
    return call


def scopes(seen: SeenCall) -> list[str | None]:
    return [sighting.scope for sighting in seen.sightings]


async def test_a_chat_is_read_whole(tracer: OtelTracer, client: AsyncOpenAI) -> None:
    replies: list[Any] = []

    async def body() -> None:
        replies.append(
            await client.chat.completions.create(
                model="scripted", messages=QUESTION, temperature=0.5, tools=[WEATHER], **EXACT
            )
        )

    call = await the_call(tracer, body)
    reply = replies[0].model_dump()
    choice = reply["choices"][0]
    assert call.prompt_token_ids == reply["prompt_token_ids"] != []
    assert call.response_token_ids == choice["token_ids"] != []
    assert call.response_logprobs == [token["logprob"] for token in choice["logprobs"]["content"]]
    assert (call.temperature, call.sampling) == (0.5, {"temperature": 0.5, "logprobs": True})
    assert (call.messages, call.tools, call.model) == (QUESTION, [WEATHER], "scripted")
    assert call.message["tool_calls"] == choice["message"]["tool_calls"]
    assert (call.finish_reason, call.response_id) == ("tool_calls", reply["id"])
    assert call.response["usage"]["prompt_tokens"] == len(call.prompt_token_ids)
    assert (call.source, call.streamed) == ("openinference", False)


async def test_each_of_n_choices_is_a_record(tracer: OtelTracer, client: AsyncOpenAI) -> None:
    read = await reading(
        tracer, lambda: client.chat.completions.create(model="scripted", messages=QUESTION, n=3, **EXACT)
    )
    (seen,) = read.seen
    assert [call.choice for call in seen.answers] == [0, 1, 2]
    assert seen.sightings[0].has_tokens
    assert seen.sightings[0].has_logprobs


@pytest.mark.parametrize("tools", [[], [WEATHER]], ids=["text", "tool"])
async def test_a_streamed_chat_is_what_it_would_be_unstreamed(
    tracer: OtelTracer, client: AsyncOpenAI, tools: list[Json]
) -> None:
    sent: Json = {"model": "scripted", "messages": QUESTION, **EXACT} | ({"tools": tools} if tools else {})

    async def streamed() -> None:
        async for _ in await client.chat.completions.create(stream=True, **sent):
            pass

    whole = await the_call(tracer, lambda: client.chat.completions.create(**sent))
    pieces = await the_call(tracer, streamed)
    assert (pieces.streamed, whole.streamed) == (True, False)
    for name in ("prompt_token_ids", "response_token_ids", "response_logprobs", "finish_reason", "messages", "tools"):
        assert getattr(pieces, name) == getattr(whole, name)
    assert pieces.message.get("content") == (whole.message["content"] or None)
    functions = [[call["function"] for call in each.message.get("tool_calls") or []] for each in (pieces, whole)]
    assert functions[0] == functions[1]
    assert all(set(call) == {"id", "type", "function"} for call in pieces.message.get("tool_calls", ()))


async def test_a_stream_that_nobody_reads_to_its_end_is_no_call(tracer: OtelTracer, client: AsyncOpenAI) -> None:
    async def left() -> None:
        stream = await client.chat.completions.create(model="scripted", messages=QUESTION, stream=True, **EXACT)
        async for _ in stream:
            break
        await stream.close()

    read = await reading(tracer, left)
    assert read.calls == []
    (failed,) = read.failed
    assert failed.sightings[0].silent


async def test_a_request_that_asks_no_model_anything_is_no_call(tracer: OtelTracer, client: AsyncOpenAI) -> None:
    assert list((await reading(tracer, client.models.list)).seen) == []


async def test_pictures_and_tool_results_in_the_history_stand_as_they_were_sent(
    tracer: OtelTracer, client: AsyncOpenAI
) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}
    history: list[Any] = [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
    ]
    made = await the_call(tracer, lambda: client.chat.completions.create(model="scripted", messages=history))
    assert made.messages == history


async def test_a_completion_is_a_call(tracer: OtelTracer, client: AsyncOpenAI) -> None:
    call = await the_call(
        tracer,
        lambda: client.completions.create(model="scripted", prompt="Hi", extra_body={"return_token_ids": True}),
    )
    assert call.prompt_token_ids
    assert call.response_token_ids
    assert call.message == {"role": "assistant", "content": "Hello."}


async def failing(create: Callable[[], Awaitable[Any]]) -> None:
    with pytest.raises(openai.APIError):
        await create()


FAILING = [{"role": "user", "content": "fail"}]


async def test_a_failed_call_is_counted_with_its_reason_and_its_retry_is_a_call(
    tracer: OtelTracer, client: AsyncOpenAI
) -> None:
    async def body() -> None:
        await failing(lambda: client.chat.completions.create(model="scripted", messages=FAILING))
        await client.chat.completions.create(model="scripted", messages=QUESTION)

    read = await reading(tracer, body)
    assert [call.message["content"] for call in read.calls] == ["Hello."]
    (failed,) = read.failed
    assert "500" in str(failed.failure)


@pytest.fixture
async def chat_model(model: ScriptedModel) -> AsyncIterator[Callable[..., ChatOpenAI]]:
    async with DefaultAsyncHttpxClient() as http_async_client:
        with DefaultHttpxClient() as http_client:
            yield lambda **options: ChatOpenAI(
                model="scripted",
                base_url=model.url,
                api_key="none",
                max_retries=0,
                http_client=http_client,
                http_async_client=http_async_client,
                extra_body={"return_token_ids": True},
                **options,
            )


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
async def test_langchain_and_the_sdk_below_it_see_one_call(
    tracer: OtelTracer, chat_model: Callable[..., ChatOpenAI], streaming: bool
) -> None:
    async def body() -> None:
        for question in ("Hi", "Hi"):
            await chat_model(streaming=streaming).ainvoke(question)

    read = await reading(tracer, body)
    assert [scopes(seen) for seen in read.seen] == [[OPENAI, LANGCHAIN]] * 2
    assert all(call.prompt_token_ids and call.response_token_ids for call in read.calls)
    assert [call.messages for call in read.calls] == [[{"role": "user", "content": "Hi"}]] * 2
    assert all(call.span_ids == tuple(s.span_id for s in seen.sightings) for seen in read.seen for call in seen.answers)


async def test_langchain_alone_tells_what_was_said(model: ScriptedModel, chat_model: Callable[..., ChatOpenAI]) -> None:
    tracer = OtelTracer(instrument="auto")
    with tracer.lifespan():
        async with tracer.trace_context("t"):
            await (
                chat_model()
                .bind_tools([WEATHER])
                .ainvoke([("system", "Be brief."), ("user", [{"type": "text", "text": "Hi"}])])
            )
        spans = [span for span in tracer.get_last_trace() if span.name == "ChatOpenAI"]
    (call,) = read_calls(spans).calls
    assert call.messages[0] == {"role": "system", "content": "Be brief."}
    assert call.messages[1]["content"] in ("Hi", [{"type": "text", "text": "Hi"}])
    assert call.message["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city": "Oslo"}'}
    assert call.tools == [WEATHER]
    assert (call.model, call.finish_reason) == ("scripted", "tool_calls")
    assert str(call.response_id).startswith("chatcmpl-")


async def test_a_failure_that_langchain_and_the_sdk_see_is_one_failed_call(
    tracer: OtelTracer, chat_model: Callable[..., ChatOpenAI]
) -> None:
    read = await reading(tracer, lambda: failing(lambda: chat_model().ainvoke("fail")))
    assert (read.calls, [scopes(seen) for seen in read.failed]) == ([], [[OPENAI, LANGCHAIN]])


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streamed"])
async def test_an_agent_of_the_openai_agents_sdk_and_the_sdk_below_it_see_one_call_a_turn(
    tracer: OtelTracer, client: AsyncOpenAI, streaming: bool
) -> None:
    @agents.function_tool
    def weather(city: str) -> str:
        """The weather of a city."""
        return f"rain in {city}"

    agent = agents.Agent(
        name="forecaster",
        instructions="Be brief.",
        tools=[weather],
        model=agents.OpenAIChatCompletionsModel(model="scripted", openai_client=client),
        model_settings=agents.ModelSettings(extra_body={"return_token_ids": True}),
    )

    async def body() -> None:
        if streaming:
            async for _ in agents.Runner.run_streamed(agent, "Hi").stream_events():
                pass
        else:
            await agents.Runner.run(agent, "Hi")

    read = await reading(tracer, body)
    assert [scopes(seen) for seen in read.seen] == [[OPENAI, AGENTS]] * 2
    assert [call.finish_reason for call in read.calls] == ["tool_calls", "stop"]
    assert [message["role"] for message in read.calls[1].messages] == ["system", "user", "assistant", "tool"]
    assert all(call.response_token_ids for call in read.calls)


# -- the other protocols, by a server that says always the same --------------------------------------------------------

RESPONSE: Json = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "model": "m",
    "status": "completed",
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "output": [
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Hello.", "annotations": []}],
        },
        {
            "id": "fc_1",
            "type": "function_call",
            "call_id": "c1",
            "name": "weather",
            "arguments": '{"city":"Oslo"}',
            "status": "completed",
        },
    ],
    "usage": {
        "input_tokens": 3,
        "output_tokens": 2,
        "total_tokens": 5,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    },
}
MESSAGE: Json = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [
        {"type": "text", "text": "Hello."},
        {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Oslo"}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {"input_tokens": 3, "output_tokens": 2},
}


def event(kind: str, **said: Any) -> str:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **said})}\n\n"


def message_events() -> Iterator[str]:
    yield event("message_start", message=MESSAGE | {"content": [], "stop_reason": None})
    yield event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    yield event("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hello."})
    yield event("content_block_stop", index=0)
    tool = MESSAGE["content"][1] | {"input": {}}
    yield event("content_block_start", index=1, content_block=tool)
    yield event("content_block_delta", index=1, delta={"type": "input_json_delta", "partial_json": '{"city": "Oslo"}'})
    yield event("content_block_stop", index=1)
    yield event("message_delta", delta={"stop_reason": "tool_use", "stop_sequence": None}, usage={"output_tokens": 2})
    yield event("message_stop")


async def respond(_: Request) -> Response:
    return JSONResponse(RESPONSE)


async def message(request: Request) -> Response:
    if (await request.json()).get("stream"):
        return StreamingResponse(message_events(), media_type="text/event-stream")
    return JSONResponse(MESSAGE)


@pytest.fixture(scope="module")
def other_protocols() -> Iterator[str]:
    routes = [Route("/v1/responses", respond, methods=["POST"]), Route("/v1/messages", message, methods=["POST"])]
    server = ServerThread(EmbeddedServer(Starlette(routes=routes)), "other-protocols")
    run_blocking(Cancellable(server.start))
    yield server.url
    run_blocking(Cancellable(server.stop))


CALLED = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}


async def test_the_responses_api_is_brought_to_the_shape_of_chats(tracer: OtelTracer, other_protocols: str) -> None:
    async with AsyncOpenAI(base_url=f"{other_protocols}/v1", api_key="none") as client:
        items: list[Any] = [
            {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
            {"type": "function_call", "call_id": "c0", "name": "weather", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c0", "output": "rain"},
        ]
        tool = WEATHER["function"] | {"type": "function", "strict": True}
        call = await the_call(
            tracer,
            lambda: client.responses.create(model="m", instructions="Be brief.", input=items, tools=[tool], top_p=0.5),
        )
    asked = {"id": "c0", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    assert call.messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": [asked]},
        {"role": "tool", "tool_call_id": "c0", "content": "rain"},
    ]
    function = CALLED["function"] | {"arguments": '{"city":"Oslo"}'}
    assert call.message == {"role": "assistant", "content": "Hello.", "tool_calls": [CALLED | {"function": function}]}
    assert call.tools == [{"type": "function", "function": WEATHER["function"] | {"strict": True}}]
    assert (call.response_id, call.finish_reason, call.sampling) == ("resp_1", "tool_calls", {"top_p": 0.5})


@pytest.mark.parametrize("way", ["create", "create_stream", "stream"])
async def test_anthropics_messages_are_brought_to_the_shape_of_chats(
    tracer: OtelTracer, other_protocols: str, way: str
) -> None:
    tool: Any = {"name": "weather", "description": "W", "input_schema": {"type": "object"}}
    sent: Any = {
        "model": "m",
        "max_tokens": 9,
        "system": "Be brief.",
        "tools": [tool],
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "c0", "name": "weather", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c0", "content": "rain"}]},
        ],
    }
    async with AsyncAnthropic(base_url=other_protocols, api_key="none") as client:

        async def body() -> None:
            if way == "create":
                await client.messages.create(**sent)
            elif way == "create_stream":
                async for _ in await client.messages.create(stream=True, **sent):
                    pass
            else:
                async with client.messages.stream(**sent) as stream:
                    async for _ in stream:
                        pass

        call = await the_call(tracer, body)
    asked = {"id": "c0", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    assert call.messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": [asked]},
        {"role": "tool", "tool_call_id": "c0", "content": "rain"},
    ]
    assert call.message == {"role": "assistant", "content": "Hello.", "tool_calls": [CALLED]}
    function = {"name": "weather", "description": "W", "parameters": {"type": "object"}}
    assert call.tools == [{"type": "function", "function": function}]
    assert (call.response_id, call.finish_reason, call.sampling) == ("msg_1", "tool_calls", {"max_tokens": 9})
    assert call.streamed == (way != "create")
