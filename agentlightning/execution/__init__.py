"""Execution strategies: where the algorithm and the runners of a run live, and how they end.

Each is imported when it is first used: the processes that a strategy starts need none of them.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentlightning._internal.lazy import names_for_type_checkers

if TYPE_CHECKING:
    from agentlightning.execution.base import AlgorithmBundle, ExecutionStrategy, RunnerBundle
    from agentlightning.execution.client_server import ClientServerExecutionStrategy
    from agentlightning.execution.events import ExecutionEvent, MultiprocessingEvent, ThreadingEvent
    from agentlightning.execution.ray_strategy import RayExecutionStrategy
    from agentlightning.execution.shared_memory import SharedMemoryExecutionStrategy

__all__ = [
    "AlgorithmBundle",
    "ClientServerExecutionStrategy",
    "ExecutionEvent",
    "ExecutionStrategy",
    "MultiprocessingEvent",
    "RayExecutionStrategy",
    "RunnerBundle",
    "SharedMemoryExecutionStrategy",
    "ThreadingEvent",
]

_HOMES = names_for_type_checkers(Path(__file__))


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
