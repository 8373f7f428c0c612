"""Where exporters send what: known without loading what reads it."""

from __future__ import annotations

from typing import Final

TRACES_PATH: Final = "/v1/traces"
OTHER_SIGNALS: Final = ("/v1/metrics", "/v1/logs", "/v1/development/profiles")
"""Which are refused."""
