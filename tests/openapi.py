"""Prints the REST interface: `python -m tests.openapi > openapi.json`, compared by tests/store/test_openapi.py."""

from __future__ import annotations

import json

from agentlightning.store import LightningStore
from agentlightning.store.openapi import openapi_of


def openapi_text() -> str:
    return json.dumps(openapi_of(LightningStore), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(openapi_text(), end="")  # noqa: T201
