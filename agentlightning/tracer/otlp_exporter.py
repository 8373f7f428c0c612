"""An OpenTelemetry exporter that can be turned to a store for the time of an attempt, as in v0.3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult

from agentlightning.errors import MissingExtra
from agentlightning.semconv import LightningResourceAttributes

try:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
except ModuleNotFoundError as error:
    raise MissingExtra("opentelemetry-exporter-otlp-proto-http", "otlp", "LightningStoreOTLPExporter") from error


class LightningStoreOTLPExporter(OTLPSpanExporter):
    """Sends spans to a store between `enable_store_otlp` and `disable_store_otlp`.

    Outside of that it drops them, unless a subclass's `should_bypass` says otherwise: then they go where any
    exporter's would. Programs that need no such switch send with a stock exporter, as the store's page shows.

    Args:
        **settings: As `OTLPSpanExporter` takes them; they hold for what goes to a store too, but for `endpoint`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._settings = settings
        self._target: _Target | None = None

    @property
    def endpoint(self) -> str | None:
        """The store's OTLP endpoint, while enabled."""
        return self._target.endpoint if self._target else None

    @property
    def rollout_id(self) -> str | None:
        """Whose spans these are, while enabled."""
        return self._target.rollout_id if self._target else None

    @property
    def attempt_id(self) -> str | None:
        """Whose spans these are, while enabled."""
        return self._target.attempt_id if self._target else None

    def enable_store_otlp(self, endpoint: str, rollout_id: str, attempt_id: str) -> None:
        """Send to a store from now on.

        Args:
            endpoint: `store.otlp_traces_endpoint()`.
            rollout_id: Whose spans these are.
            attempt_id: Likewise.
        """
        self.disable_store_otlp()
        self._target = _Target(endpoint, rollout_id, attempt_id, self._settings)

    def disable_store_otlp(self) -> None:
        """Send to no store any more."""
        target, self._target = self._target, None
        if target is not None:
            target.shutdown()

    def should_bypass(self) -> bool:
        """Whether spans are dropped while no store is enabled."""
        return True

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans where they belong now."""
        target = self._target
        if target is not None:
            return target.export(spans)
        return SpanExportResult.SUCCESS if self.should_bypass() else super().export(spans)

    def shutdown(self) -> None:
        """Send nothing any more."""
        self.disable_store_otlp()
        super().shutdown()


class _Target:
    """An exporter of its own for one attempt: a stock one cannot change its endpoint."""

    def __init__(self, endpoint: str, rollout_id: str, attempt_id: str, settings: dict[str, Any]) -> None:
        self.endpoint = endpoint
        self.rollout_id = rollout_id
        self.attempt_id = attempt_id
        self._identity = Resource(
            {
                LightningResourceAttributes.ROLLOUT_ID.value: rollout_id,
                LightningResourceAttributes.ATTEMPT_ID.value: attempt_id,
            }
        )
        redirected: dict[str, Any] = {**settings, "endpoint": endpoint}
        self._exporter = OTLPSpanExporter(**redirected)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return self._exporter.export([self._identified(span) for span in spans])

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def _identified(self, span: ReadableSpan) -> ReadableSpan:
        return ReadableSpan(
            name=span.name,
            context=span.get_span_context(),
            parent=span.parent,
            resource=span.resource.merge(self._identity),
            attributes=span.attributes,
            events=span.events,
            links=span.links,
            kind=span.kind,
            status=span.status,
            start_time=span.start_time,
            end_time=span.end_time,
            instrumentation_scope=span.instrumentation_scope,
        )
