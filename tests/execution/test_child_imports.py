"""What the process of a runner imports before it works: each millisecond is paid once a runner."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
import agentlightning.execution.child, agentlightning.runner.work, agentlightning.store.client
from agentlightning.runner import LitAgentRunner
from agentlightning.tracer import OtelTracer
LitAgentRunner(OtelTracer())
print(*sys.modules)
"""
SPARED = {
    "agentlightning.adapter",
    "agentlightning.algorithm",
    "agentlightning.execution.client_server",
    "agentlightning.llm_proxy",
    "agentlightning.store.server",
    "agentlightning.store.sqlite",
    "agentlightning.trainer",
    "google.protobuf",
    "sqlite3",
    "starlette",
    "uvicorn",
}


def test_a_runner_imports_no_server_and_nothing_of_the_algorithms_side() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    assert SPARED.isdisjoint(ran.stdout.split())
