"""Where a store is served and kept if nobody says otherwise; commands know it without loading a store."""

from __future__ import annotations

from typing import Final

PORT: Final = 4747
"""Of a store's server."""
NAMESPACE: Final = "agentlightning"
"""Of a PostgreSQL database."""
GATEWAY_PORT: Final = 4748
"""Of a gateway that is a process of its own."""
INFERENCE_PORT: Final = 8000
"""Of a model's server; vLLM's is the same."""
