"""Train any AI agent with almost no change to the agent.

    import agentlightning as agl

The block below is the table of public names (`as` marks them as public for type checkers). Each is imported when it
is first used, so that `import agentlightning` stays quick and needs neither torch nor a web framework.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentlightning import _compat
from agentlightning._internal.lazy import names_for_type_checkers

if TYPE_CHECKING:
    from agentlightning.adapter import (
        Adapter as Adapter,
        LlmProxyTraceToTriplet as LlmProxyTraceToTriplet,
        OtelTraceAdapter as OtelTraceAdapter,
        TraceAdapter as TraceAdapter,
        TracerTraceToTriplet as TracerTraceToTriplet,
        TraceToMessages as TraceToMessages,
        TraceToTrajectories as TraceToTrajectories,
        TraceToTripletBase as TraceToTripletBase,
    )
    from agentlightning.algorithm import (
        APO as APO,
        GEPA as GEPA,
        GRPO as GRPO,
        Algorithm as Algorithm,
        AlgorithmContext as AlgorithmContext,
        Baseline as Baseline,
        FastAlgorithm as FastAlgorithm,
        algo as algo,
    )
    from agentlightning.emitter import (
        emit_annotation as emit_annotation,
        emit_exception as emit_exception,
        emit_message as emit_message,
        emit_object as emit_object,
        emit_reward as emit_reward,
        find_final_reward as find_final_reward,
        find_reward_spans as find_reward_spans,
        get_message_value as get_message_value,
        get_object_value as get_object_value,
        get_reward_value as get_reward_value,
        get_rewards_from_span as get_rewards_from_span,
        is_reward_span as is_reward_span,
        operation as operation,
        reward as reward,
    )
    from agentlightning.env_var import (
        LightningEnvVar as LightningEnvVar,
        resolve_bool_env_var as resolve_bool_env_var,
        resolve_int_env_var as resolve_int_env_var,
        resolve_str_env_var as resolve_str_env_var,
    )
    from agentlightning.evaluation import (
        EvaluationResult as EvaluationResult,
        Prices as Prices,
        evaluate as evaluate,
    )
    from agentlightning.execution import (
        ClientServerExecutionStrategy as ClientServerExecutionStrategy,
        ExecutionEvent as ExecutionEvent,
        ExecutionStrategy as ExecutionStrategy,
        MultiprocessingEvent as MultiprocessingEvent,
        RayExecutionStrategy as RayExecutionStrategy,
        SharedMemoryExecutionStrategy as SharedMemoryExecutionStrategy,
        ThreadingEvent as ThreadingEvent,
    )
    from agentlightning.litagent import (
        CommandAgent as CommandAgent,
        CommandRun as CommandRun,
        LitAgent as LitAgent,
        llm_rollout as llm_rollout,
        prompt_rollout as prompt_rollout,
        rollout as rollout,
    )
    from agentlightning.llm_proxy import (
        LLMProxy as LLMProxy,
    )
    from agentlightning.logging import (
        configure_logger as configure_logger,
        setup_logging as setup_logging,
        setup_module_logging as setup_module_logging,
    )
    from agentlightning.runner import (
        LitAgentRunner as LitAgentRunner,
        Runner as Runner,
    )
    from agentlightning.store import (
        InMemoryLightningStore as InMemoryLightningStore,
        LightningStore as LightningStore,
        LightningStoreCapabilities as LightningStoreCapabilities,
        LightningStoreClient as LightningStoreClient,
        LightningStoreServer as LightningStoreServer,
        LightningStoreStatistics as LightningStoreStatistics,
        LightningStoreThreaded as LightningStoreThreaded,
        PostgresLightningStore as PostgresLightningStore,
        SqliteLightningStore as SqliteLightningStore,
    )
    from agentlightning.tracer import (
        AgentOpsTracer as AgentOpsTracer,
        DummyTracer as DummyTracer,
        OtelTracer as OtelTracer,
        Tracer as Tracer,
        clear_active_tracer as clear_active_tracer,
        get_active_tracer as get_active_tracer,
        set_active_tracer as set_active_tracer,
    )
    from agentlightning.trainer import (
        Trainer as Trainer,
        TrainingResult as TrainingResult,
        build_component as build_component,
    )
    from agentlightning.types import (
        LLM as LLM,
        Attempt as Attempt,
        AttemptedRollout as AttemptedRollout,
        AttemptStatus as AttemptStatus,
        Attributes as Attributes,
        AttributeValue as AttributeValue,
        Dataset as Dataset,
        EnqueueRolloutRequest as EnqueueRolloutRequest,
        Event as Event,
        FilterField as FilterField,
        FilterOptions as FilterOptions,
        Hook as Hook,
        Link as Link,
        LLMCall as LLMCall,
        NamedResources as NamedResources,
        OtelResource as OtelResource,
        PaginatedResult as PaginatedResult,
        ParallelWorkerBase as ParallelWorkerBase,
        PromptTemplate as PromptTemplate,
        ProxyLLM as ProxyLLM,
        Resource as Resource,
        ResourcesUpdate as ResourcesUpdate,
        ResourceUnion as ResourceUnion,
        Rollout as Rollout,
        RolloutConfig as RolloutConfig,
        RolloutMode as RolloutMode,
        RolloutRawResult as RolloutRawResult,
        RolloutStatus as RolloutStatus,
        SortOptions as SortOptions,
        Span as Span,
        SpanAttributeNames as SpanAttributeNames,
        SpanContext as SpanContext,
        SpanCoreFields as SpanCoreFields,
        SpanLike as SpanLike,
        SpanNames as SpanNames,
        SpanRecordingContext as SpanRecordingContext,
        StatusCode as StatusCode,
        TaskInput as TaskInput,
        TraceState as TraceState,
        TraceStatus as TraceStatus,
        TrainingRow as TrainingRow,
        Triplet as Triplet,
        Worker as Worker,
        WorkerStatus as WorkerStatus,
    )

__version__ = "0.4.0"

_compat.install()
_HOMES = names_for_type_checkers(Path(__file__))
__all__ = [*_HOMES]  # pyright: ignore[reportUnsupportedDunderAll]  # type checkers read the `as` above


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None and find_spec(f"{__name__}.{name}") is not None:
        return import_module(f"{__name__}.{name}")
    if home is None:
        _compat.raise_ended(name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
