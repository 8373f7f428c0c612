"""Execution strategies: where the algorithm and the runners of a run live, and how they end.

Each is imported when it is first used: the processes that a strategy starts need none of them.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from agentlightning._internal.lazy import getter_of

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

__getattr__ = getter_of(__name__, Path(__file__))
