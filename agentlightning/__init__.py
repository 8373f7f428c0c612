"""Train any AI agent with almost no change to the agent.

    import agentlightning as agl

The block below is the table of public names (`as` marks them as public for type checkers). Each is imported when it
is first used, so that `import agentlightning` stays quick and needs neither torch nor a web framework.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentlightning import _compat
from agentlightning._internal.lazy import names_for_type_checkers

if TYPE_CHECKING:
    from agentlightning.adapter import (
        Adapter as Adapter,
    )
    from agentlightning.adapter import (
        LlmProxyTraceToTriplet as LlmProxyTraceToTriplet,
    )
    from agentlightning.adapter import (
        OtelTraceAdapter as OtelTraceAdapter,
    )
    from agentlightning.adapter import (
        TraceAdapter as TraceAdapter,
    )
    from agentlightning.adapter import (
        TracerTraceToTriplet as TracerTraceToTriplet,
    )
    from agentlightning.adapter import (
        TraceToTrajectories as TraceToTrajectories,
    )
    from agentlightning.adapter import (
        TraceToTripletBase as TraceToTripletBase,
    )
    from agentlightning.algorithm import (
        Algorithm as Algorithm,
    )
    from agentlightning.algorithm import (
        Baseline as Baseline,
    )
    from agentlightning.algorithm import (
        FastAlgorithm as FastAlgorithm,
    )
    from agentlightning.algorithm import (
        algo as algo,
    )
    from agentlightning.algorithm.grpo import (
        GRPO as GRPO,
    )
    from agentlightning.emitter import (
        emit_annotation as emit_annotation,
    )
    from agentlightning.emitter import (
        emit_exception as emit_exception,
    )
    from agentlightning.emitter import (
        emit_message as emit_message,
    )
    from agentlightning.emitter import (
        emit_object as emit_object,
    )
    from agentlightning.emitter import (
        emit_reward as emit_reward,
    )
    from agentlightning.emitter import (
        find_final_reward as find_final_reward,
    )
    from agentlightning.emitter import (
        find_reward_spans as find_reward_spans,
    )
    from agentlightning.emitter import (
        get_message_value as get_message_value,
    )
    from agentlightning.emitter import (
        get_object_value as get_object_value,
    )
    from agentlightning.emitter import (
        get_reward_value as get_reward_value,
    )
    from agentlightning.emitter import (
        get_rewards_from_span as get_rewards_from_span,
    )
    from agentlightning.emitter import (
        is_reward_span as is_reward_span,
    )
    from agentlightning.emitter import (
        operation as operation,
    )
    from agentlightning.emitter import (
        reward as reward,
    )
    from agentlightning.execution import (
        ExecutionEvent as ExecutionEvent,
    )
    from agentlightning.execution import (
        ExecutionStrategy as ExecutionStrategy,
    )
    from agentlightning.execution import (
        MultiprocessingEvent as MultiprocessingEvent,
    )
    from agentlightning.execution import (
        SharedMemoryExecutionStrategy as SharedMemoryExecutionStrategy,
    )
    from agentlightning.execution import (
        ThreadingEvent as ThreadingEvent,
    )
    from agentlightning.litagent import (
        LitAgent as LitAgent,
    )
    from agentlightning.litagent import (
        llm_rollout as llm_rollout,
    )
    from agentlightning.litagent import (
        prompt_rollout as prompt_rollout,
    )
    from agentlightning.litagent import (
        rollout as rollout,
    )
    from agentlightning.llm_proxy import (
        LLMProxy as LLMProxy,
    )
    from agentlightning.runner import (
        LitAgentRunner as LitAgentRunner,
    )
    from agentlightning.runner import (
        Runner as Runner,
    )
    from agentlightning.store import (
        InMemoryLightningStore as InMemoryLightningStore,
    )
    from agentlightning.store import (
        LightningStore as LightningStore,
    )
    from agentlightning.store import (
        LightningStoreCapabilities as LightningStoreCapabilities,
    )
    from agentlightning.store import (
        LightningStoreStatistics as LightningStoreStatistics,
    )
    from agentlightning.store import (
        SqliteLightningStore as SqliteLightningStore,
    )
    from agentlightning.tracer import (
        DummyTracer as DummyTracer,
    )
    from agentlightning.tracer import (
        OtelTracer as OtelTracer,
    )
    from agentlightning.tracer import (
        Tracer as Tracer,
    )
    from agentlightning.tracer import (
        clear_active_tracer as clear_active_tracer,
    )
    from agentlightning.tracer import (
        get_active_tracer as get_active_tracer,
    )
    from agentlightning.tracer import (
        set_active_tracer as set_active_tracer,
    )
    from agentlightning.trainer import (
        Trainer as Trainer,
    )
    from agentlightning.trainer import (
        build_component as build_component,
    )
    from agentlightning.types import (
        LLM as LLM,
    )
    from agentlightning.types import (
        Attempt as Attempt,
    )
    from agentlightning.types import (
        AttemptedRollout as AttemptedRollout,
    )
    from agentlightning.types import (
        AttemptStatus as AttemptStatus,
    )
    from agentlightning.types import (
        Attributes as Attributes,
    )
    from agentlightning.types import (
        AttributeValue as AttributeValue,
    )
    from agentlightning.types import (
        Dataset as Dataset,
    )
    from agentlightning.types import (
        EnqueueRolloutRequest as EnqueueRolloutRequest,
    )
    from agentlightning.types import (
        Event as Event,
    )
    from agentlightning.types import (
        FilterField as FilterField,
    )
    from agentlightning.types import (
        FilterOptions as FilterOptions,
    )
    from agentlightning.types import (
        Hook as Hook,
    )
    from agentlightning.types import (
        Link as Link,
    )
    from agentlightning.types import (
        LLMCall as LLMCall,
    )
    from agentlightning.types import (
        NamedResources as NamedResources,
    )
    from agentlightning.types import (
        OtelResource as OtelResource,
    )
    from agentlightning.types import (
        PaginatedResult as PaginatedResult,
    )
    from agentlightning.types import (
        ParallelWorkerBase as ParallelWorkerBase,
    )
    from agentlightning.types import (
        PromptTemplate as PromptTemplate,
    )
    from agentlightning.types import (
        ProxyLLM as ProxyLLM,
    )
    from agentlightning.types import (
        Resource as Resource,
    )
    from agentlightning.types import (
        ResourcesUpdate as ResourcesUpdate,
    )
    from agentlightning.types import (
        ResourceUnion as ResourceUnion,
    )
    from agentlightning.types import (
        Rollout as Rollout,
    )
    from agentlightning.types import (
        RolloutConfig as RolloutConfig,
    )
    from agentlightning.types import (
        RolloutMode as RolloutMode,
    )
    from agentlightning.types import (
        RolloutRawResult as RolloutRawResult,
    )
    from agentlightning.types import (
        RolloutStatus as RolloutStatus,
    )
    from agentlightning.types import (
        SortOptions as SortOptions,
    )
    from agentlightning.types import (
        Span as Span,
    )
    from agentlightning.types import (
        SpanAttributeNames as SpanAttributeNames,
    )
    from agentlightning.types import (
        SpanContext as SpanContext,
    )
    from agentlightning.types import (
        SpanCoreFields as SpanCoreFields,
    )
    from agentlightning.types import (
        SpanLike as SpanLike,
    )
    from agentlightning.types import (
        SpanNames as SpanNames,
    )
    from agentlightning.types import (
        SpanRecordingContext as SpanRecordingContext,
    )
    from agentlightning.types import (
        StatusCode as StatusCode,
    )
    from agentlightning.types import (
        TaskInput as TaskInput,
    )
    from agentlightning.types import (
        TraceState as TraceState,
    )
    from agentlightning.types import (
        TraceStatus as TraceStatus,
    )
    from agentlightning.types import (
        TrainingRow as TrainingRow,
    )
    from agentlightning.types import (
        Triplet as Triplet,
    )
    from agentlightning.types import (
        Worker as Worker,
    )
    from agentlightning.types import (
        WorkerStatus as WorkerStatus,
    )

__version__ = "0.4.0"

_compat.install()
_HOMES = names_for_type_checkers(Path(__file__))


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        _compat.raise_ended(name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
