from __future__ import annotations

import importlib
import logging

import pytest
from opentelemetry import trace as otel

from agentlightning.tracer import OtelTracer
from agentlightning.tracer.provider import get_tracer, get_tracer_provider


class Foreign(otel.TracerProvider):
    def get_tracer(self, *args: object, **kwargs: object) -> otel.Tracer:
        return otel.NoOpTracer()


async def test_spans_of_the_tracer_are_recorded_unless_it_is_isolated() -> None:
    tracer = OtelTracer()
    async with tracer.trace_context("test"):
        get_tracer().start_span("seen").end()
        get_tracer(use_active_span_processor=False).start_span("unseen").end()
    assert [span.name for span in tracer.get_last_trace()] == ["seen"]


def test_without_a_provider_there_is_no_tracer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otel, "get_tracer_provider", otel.ProxyTracerProvider)
    with pytest.raises(RuntimeError, match="open a trace"):
        get_tracer_provider()
    with pytest.raises(RuntimeError, match="open a trace"):
        get_tracer()
    assert get_tracer(use_active_span_processor=False)


def test_a_foreign_provider_is_returned_and_complained_about(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    foreign = Foreign()
    monkeypatch.setattr(otel, "get_tracer_provider", lambda: foreign)
    assert get_tracer_provider() is foreign
    assert "Foreign, not one of the SDK" in caplog.text


async def test_where_spans_go_is_logged_on_demand(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with OtelTracer().trace_context("test"):
        pass
    with caplog.at_level(logging.INFO, "agentlightning"):
        get_tracer_provider()
        assert caplog.text == ""
        monkeypatch.setenv("AGL_EMITTER_DEBUG", "1")
        get_tracer_provider(inspect=False)
        assert caplog.text == ""
        get_tracer_provider()
    assert "TraceProcessor" in caplog.text


def test_v03s_path_leads_here() -> None:
    v03 = importlib.import_module("agentlightning.utils.otel")
    assert v03.get_tracer is get_tracer
    assert v03.get_tracer_provider is get_tracer_provider
    assert v03.flatten_attributes({"a": {"b": 1}}) == {"a.b": 1}
