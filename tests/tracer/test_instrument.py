from __future__ import annotations

import asyncio
import functools
import json
import os
import subprocess
import sys
import types
from collections.abc import AsyncIterator, Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from langchain_openai import ChatOpenAI
from openai import AsyncOpenAI, DefaultAsyncHttpxClient, DefaultHttpxClient, OpenAI
from openinference.instrumentation.openai import OpenAIInstrumentor
from opentelemetry.trace import format_span_id

from agentlightning.doctor.scripted_model import ScriptedModel
from agentlightning.errors import ConfigurationError, MissingExtra
from agentlightning.tracer import OtelTracer, instrument
from agentlightning.tracer.instrument import (
    Instrumentors,
    imported_but_not_instrumented,
    instrumented,
    instrumentors,
)
from agentlightning.tracer.processor import connect
from agentlightning.types import Span

QUESTION = [{"role": "user", "content": "Hello?"}]


@pytest.fixture(autouse=True)
def _own_instrumentors() -> Iterator[None]:
    """Nothing is on that the test does not switch on: tests elsewhere may leave tracers behind that hold something."""
    before = instrumented()
    for name in before:
        instrument._instrumentor(name).uninstrument()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agentlightning.tracer.otel.instrumentors", functools.cache(Instrumentors))
        yield
    for name in before:
        instrument._switched_on(name)


@pytest.fixture(scope="module")
def model() -> Iterator[ScriptedModel]:
    with ScriptedModel(lambda request: request["messages"][-1]["content"]) as model:
        yield model


@pytest.fixture
async def client(model: ScriptedModel) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=model.url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def chat_model(model: ScriptedModel) -> AsyncIterator[Callable[[bool], ChatOpenAI]]:
    """Makes LangChain's model, streaming or not."""
    async with DefaultAsyncHttpxClient() as http_async_client:
        with DefaultHttpxClient() as http_client:
            yield lambda streaming: ChatOpenAI(
                model="scripted",
                base_url=model.url,
                api_key="none",
                streaming=streaming,
                http_client=http_client,
                http_async_client=http_async_client,
            )


def run_program(program: str, **environment: str) -> str:
    """Run a program in a process of its own, where nothing is imported or instrumented yet, and return what it says."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | environment,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def request_of(span: Span) -> dict[str, object]:
    return json.loads(str(span.attributes["input.value"]))


def test_nothing_is_imported_for_a_tracer() -> None:
    program = """if True:
        import sys
        from agentlightning.tracer import OtelTracer
        with OtelTracer().lifespan():
            print([name for name in ("openai", "openinference", "langchain_core", "anthropic") if name in sys.modules])
    """
    assert run_program(program) == "[]\n"


def test_an_sdk_that_is_imported_inside_a_trace_is_recorded_from_its_first_call(model: ScriptedModel) -> None:
    program = f"""if True:
        import asyncio
        from agentlightning.tracer import OtelTracer

        async def main():
            tracer = OtelTracer()
            async with tracer.trace_context("local"):
                from openai import AsyncOpenAI
                async with AsyncOpenAI(base_url={model.url!r}, api_key="none") as client:
                    await client.chat.completions.create(model="scripted", messages={QUESTION!r})
            print([span.name for span in tracer.get_last_trace()])

        asyncio.run(main())
    """
    assert run_program(program) == "['ChatCompletion']\n"


@pytest.mark.parametrize("module", ["langchain_core.tools.base", "langgraph.graph"])
def test_langchain_is_instrumented_whatever_part_is_imported_first(module: str) -> None:
    program = f"""if True:
        from agentlightning.tracer import OtelTracer
        from agentlightning.tracer.instrument import instrumented
        with OtelTracer().lifespan():
            import {module}
            print(sorted(instrumented()))
    """
    assert run_program(program) == "['langchain']\n"


@pytest.mark.parametrize("when", ["before", "within"])
def test_a_module_that_has_the_name_of_an_sdk_is_left_alone(tmp_path: Path, when: str) -> None:
    (tmp_path / "agents.py").touch()
    first, then = ("import agents", "pass") if when == "before" else ("pass", "import agents")
    program = f"""if True:
        import logging, sys
        sys.path.insert(0, {str(tmp_path)!r})
        from agentlightning.tracer import OtelTracer
        from agentlightning.tracer.instrument import imported_but_not_instrumented
        logging.basicConfig(stream=sys.stdout, level=logging.WARNING, force=True)
        {first}
        for _ in range(2):
            with OtelTracer().lifespan():
                {then}
        print(imported_but_not_instrumented())
    """
    assert run_program(program) == "[]\n"


async def test_a_call_keeps_its_tokens_streamed_or_not(client: AsyncOpenAI) -> None:
    tracer = OtelTracer(["openai"])
    exact = {"return_token_ids": True}
    async with tracer.trace_context("local"):
        await client.chat.completions.create(model="scripted", messages=QUESTION, extra_body=exact)
        stream = await client.chat.completions.create(
            model="scripted", messages=QUESTION, stream=True, extra_body=exact
        )
        async for _ in stream:
            pass
    whole, streamed = (json.loads(str(span.attributes["output.value"])) for span in tracer.get_last_trace())
    assert streamed["prompt_token_ids"] == whole["prompt_token_ids"] != []
    assert streamed["choices"][0]["token_ids"] == whole["choices"][0]["token_ids"] != []


async def test_the_same_instrumentors_serve_any_number_of_tracers_until_the_last_one_goes() -> None:
    first, second = OtelTracer(["openai"]), OtelTracer(["openai", "openai"])
    assert "openai" not in instrumented()
    first.init_worker(0)
    second.init_worker(1)
    second.init_worker(1)
    first.teardown_worker(0)
    assert "openai" in instrumented()
    async with first.trace_context("without a worker"):
        second.teardown_worker(1)
        assert "openai" in instrumented()
    assert "openai" not in instrumented()
    assert "openai" in imported_but_not_instrumented()


def test_what_the_program_switched_on_stays_on() -> None:
    OpenAIInstrumentor().instrument()
    try:
        with OtelTracer(["openai"]).lifespan():
            pass
        assert "openai" in instrumented()
    finally:
        OpenAIInstrumentor().uninstrument()


async def test_no_instrumentor_means_none(client: AsyncOpenAI) -> None:
    tracer = OtelTracer(None)
    async with tracer.trace_context("local"):
        await client.chat.completions.create(model="scripted", messages=QUESTION)
    assert tracer.get_last_trace() == []


async def test_calls_of_a_hundred_concurrent_traces_stay_apart(client: AsyncOpenAI, model: ScriptedModel) -> None:
    tracer = OtelTracer(["openai"])

    def call_in_thread(text: str) -> None:
        with OpenAI(base_url=model.url, api_key="none") as client:
            client.chat.completions.create(model="scripted", messages=[{"role": "user", "content": text}])

    async def run(number: int) -> None:
        text = f"I am {number}"
        async with tracer.trace_context(text):
            await client.chat.completions.create(model="scripted", messages=[{"role": "user", "content": text}])
            if number % 10 == 0:
                await asyncio.to_thread(call_in_thread, text)
        spans = tracer.get_last_trace()
        assert [span.attributes["llm.output_messages.0.message.content"] for span in spans] == [text] * len(spans)
        assert len(spans) == (2 if number % 10 == 0 else 1)

    await asyncio.gather(*map(run, range(100)))


def test_a_prompt_survives_whole_whatever_the_environment_limits(model: ScriptedModel) -> None:
    program = f"""if True:
        import asyncio, json
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from agentlightning.store import InMemoryLightningStore
        from agentlightning.tracer import OtelTracer

        trace.set_tracer_provider(TracerProvider())  # somebody else's, with the limits of the environment

        async def main():
            from openai import AsyncOpenAI
            image = {{"type": "image_url", "image_url": {{"url": "data:image/png;base64," + "A" * 40_000}}}}
            messages = [{{"role": "user", "content": f"message {{i}} " + "x" * 1000}} for i in range(300)]
            messages.append({{"role": "user", "content": [image]}})
            messages.append({{"role": "user", "content": "last"}})
            store = InMemoryLightningStore()
            rollout = await store.start_rollout(input=0)
            tracer = OtelTracer(["openai"])
            ids = {{"rollout_id": rollout.rollout_id, "attempt_id": rollout.attempt.attempt_id}}
            async with AsyncOpenAI(base_url={model.url!r}, api_key="none") as client:
                async with tracer.trace_context(store=store, **ids):
                    await client.chat.completions.create(model="scripted", messages=messages)
            span, = await store.query_spans(rollout.rollout_id)
            kept = json.loads(span.attributes["input.value"])["messages"]
            flat = "llm.input_messages.{{}}.message.content"
            print(kept == messages, all(span.attributes[flat.format(i)] == messages[i]["content"] for i in range(300)))
            print(span.attributes["llm.input_messages.300.message.contents.0.message_content.image.image.url"][-9:])
            await store.close()

        asyncio.run(main())
    """
    said = run_program(
        program,
        OTEL_ATTRIBUTE_COUNT_LIMIT="8",
        OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT="8",
        OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT="16",
        OTEL_TRACES_SAMPLER="always_off",
        OPENINFERENCE_HIDE_INPUTS="true",
        OPENINFERENCE_BASE64_IMAGE_MAX_LENGTH="100",
    )
    assert said == "True True\nAAAAAAAAA\n"


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_call_inside_a_framework_has_the_framework_s_run_as_its_parent(
    model: ScriptedModel, chat_model: Callable[[bool], ChatOpenAI], streaming: bool
) -> None:
    tracer, llm = OtelTracer(["langchain", "openai"]), chat_model(streaming)
    async with tracer.trace_context("local"):
        with tracer.operation_context("all"):
            await asyncio.gather(*(llm.ainvoke(f"number {i}") for i in range(5)))
            with tracer.operation_context("mine"), OpenAI(base_url=model.url, api_key="none") as client:
                client.chat.completions.create(model="scripted", messages=QUESTION)
    spans = {span.span_id: span for span in tracer.get_last_trace()}
    calls = [span for span in spans.values() if span.name == "ChatCompletion"]
    parents = [spans[str(span.parent_id)] for span in calls]
    assert [parent.name for parent in parents] == ["ChatOpenAI"] * 5 + ["mine"]
    for call, parent in zip(calls[:5], parents[:5], strict=True):
        key = "llm.input_messages.0.message.content"
        assert call.attributes[key] == parent.attributes[key]
        assert call.parent is not None
        assert call.parent.span_id == parent.span_id


async def test_a_call_after_a_framework_s_run_is_not_part_of_it(
    client: AsyncOpenAI, chat_model: Callable[[bool], ChatOpenAI]
) -> None:
    tracer = OtelTracer(["langchain", "openai"])
    async with tracer.trace_context("local"):
        chat_model(False).invoke("inside")
        await client.chat.completions.create(model="scripted", messages=QUESTION)
    run, inside, outside = tracer.get_last_trace()
    assert (run.parent_id, inside.parent_id, outside.parent_id) == (None, run.span_id, None)


async def test_a_framework_s_run_that_never_ends_takes_nothing_of_later_traces() -> None:
    tracer, framework = OtelTracer(None), connect().provider.get_tracer("openinference.instrumentation.langchain")
    library = connect().provider.get_tracer("a library")
    runs = []
    async with tracer.trace_context("first"):
        runs.append(framework.start_span("never ends"))
        library.start_span("inside").end()
    (inside,) = tracer.get_last_trace()
    assert inside.parent_id == format_span_id(runs[0].get_span_context().span_id)
    async with tracer.trace_context("second"):
        library.start_span("outside").end()
    assert [span.parent_id for span in tracer.get_last_trace()] == [None]


def test_the_agents_sdk_keeps_the_program_s_processors_and_sends_nothing_home() -> None:
    program = """if True:
        import agents
        from agents.tracing import TracingProcessor, get_trace_provider
        from agentlightning.tracer import OtelTracer

        def registered():
            return [type(processor).__name__ for processor in get_trace_provider()._multi_processor._processors]

        class Mine(TracingProcessor):
            on_trace_start = on_trace_end = on_span_start = on_span_end = lambda self, _: None
            shutdown = force_flush = lambda self: None

        print(registered())
        with OtelTracer().lifespan():
            print(registered())
        print(registered())
        agents.add_trace_processor(Mine())
        with OtelTracer().lifespan():
            print(registered())
    """
    assert run_program(program, OPENAI_API_KEY="").splitlines() == [
        "['BatchTraceProcessor']",
        "['OpenInferenceTracingProcessor']",
        "['BatchTraceProcessor']",
        "['BatchTraceProcessor', 'Mine', 'OpenInferenceTracingProcessor']",
    ]


@pytest.mark.parametrize("name", ["openai", "openai-agents"])
def test_a_named_instrumentor_that_is_missing_is_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert OtelTracer([name])
    monkeypatch.setattr(instrument, "_installed", lambda: {})
    with pytest.raises(MissingExtra, match=rf"`openinference-instrumentation-{name}`.*\[instrument\]"):
        OtelTracer([name])
    assert OtelTracer()


def test_an_instrumentor_that_nobody_has_is_a_clear_error() -> None:
    with pytest.raises(ConfigurationError, match=r"called 'open_ai'.*there are: anthropic, langchain, openai,"):
        OtelTracer(["open-ai"])
    with pytest.raises(ConfigurationError, match=r'\["openai"\]'):
        OtelTracer("openai")


def test_an_instrumentor_that_fails_is_told_once_and_disturbs_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    entry = EntryPoint("broken_here", "no_such_module:Instrumentor", "openinference_instrumentor")
    monkeypatch.setattr(instrument, "_installed", lambda: {"broken_here": entry})
    monkeypatch.setitem(sys.modules, "broken_here", types.ModuleType("broken_here"))
    every = Instrumentors()
    for _ in range(3):
        every.hold(["broken_here"])
        every.release(["broken_here"])
    assert [record.message for record in caplog.records] == [
        "Calls of broken_here are not traced: ModuleNotFoundError: No module named 'no_such_module'"
    ]


def test_there_is_one_set_of_instrumentors_in_a_process() -> None:
    assert instrumentors() is instrumentors()
