from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
from opentelemetry.trace import StatusCode

import agentlightning as agl
from agentlightning.errors import ConfigurationError, MissingExtra
from agentlightning.tracer import agentops
from agentlightning.tracer.processor import connect
from agentlightning.tracer.weave import WeaveTracer


class FakeAgentOps(ModuleType):
    """Has the functions of AgentOps that the tracer calls; the real one cannot stand beside today's OpenAI SDK."""

    def __init__(self) -> None:
        super().__init__("agentops")
        self.said: list[object] = []
        self.core = SimpleNamespace(tracer=SimpleNamespace(provider=None))

    def init(self, **settings: object) -> None:
        self.said.append(settings)

    def instrument_all(self) -> None:
        self.said.append(self.core.tracer.provider)

    def start_trace(self, trace_name: str) -> object:
        return connect().tracer.start_span(f"{trace_name}.session")

    def end_trace(self, session: object, end_state: StatusCode) -> None:
        session.set_status(end_state)  # type: ignore[attr-defined]
        session.end()  # type: ignore[attr-defined]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeAgentOps:
    fake = FakeAgentOps()
    monkeypatch.setitem(sys.modules, "agentops", fake)
    monkeypatch.setitem(sys.modules, "agentops.sdk.core", fake.core)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "agentops.instrumentation", fake)
    monkeypatch.setattr(agentops, "find_spec", lambda name: object())
    monkeypatch.setattr(agentops, "version", {"agentops": "0.4.21", "openai": "1.91.0"}.get)
    agentops._initialise.cache_clear()
    return fake


def test_without_agentops_the_error_says_what_to_use() -> None:
    with pytest.raises(MissingExtra, match=r"OtelTracer does without.*`agentops`.*\[agentops\]"):
        agl.AgentOpsTracer(agentops_managed=True, instrument_managed=True, daemon=True)


@pytest.mark.parametrize("openai", ["1.92.0", "2.54.0", "3.54.0"])
@pytest.mark.usefixtures("fake")
def test_an_openai_whose_streams_it_loses_is_refused(openai: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agentops, "version", lambda name: openai)
    with pytest.raises(ConfigurationError, match=r"use OtelTracer.*openai<1\.92"):
        agl.AgentOpsTracer()
    assert agl.AgentOpsTracer(instrument_managed=False)


async def test_a_trace_is_a_session_and_nothing_goes_to_the_service(fake: FakeAgentOps) -> None:
    tracer = agl.AgentOpsTracer()
    for worker in range(2):
        tracer.init_worker(worker)
    settings, provider = fake.said  # once, for all workers
    assert settings == {"auto_start_session": False, "instrument_llm_calls": False, "log_session_replay_url": False}
    assert provider is connect().provider

    async def run(error: type[Exception] | None) -> tuple[str, str]:
        async with tracer.trace_context("name"):
            if error:
                raise error
        (session,) = tracer.get_last_trace()
        return session.name, session.status.status_code

    assert await run(None) == ("local.session", "OK")
    with pytest.raises(KeyError):
        await run(KeyError)
    (session,) = tracer.get_last_trace()
    assert session.status.status_code == "ERROR"


def test_langchain_needs_agentops_handler(fake: FakeAgentOps, monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(LangchainCallbackHandler=lambda tags: ("handler", tags))
    monkeypatch.setitem(sys.modules, "agentops.integration.callbacks.langchain", module)  # type: ignore[arg-type]
    assert agl.AgentOpsTracer().get_langchain_handler(["a"]) == ("handler", ["a"])
    assert agl.OtelTracer().get_langchain_handler() is None


def test_weave_is_refused_with_what_replaces_it() -> None:
    with pytest.raises(ConfigurationError, match=r"use OtelTracer"):
        WeaveTracer(project_name="x")
