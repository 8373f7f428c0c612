"""Commands of v0.3 that ended, and what takes their place."""

from __future__ import annotations

from typing import NoReturn

import typer

_WRONG_USAGE = 2


def vllm() -> NoReturn:
    """Run vLLM's own `vllm serve`: since 0.10.2 it returns token ids without a patch."""
    _refuse(
        "agl vllm ended: vLLM returns token ids by itself since 0.10.2. Run `vllm serve MODEL`, and put the gateway "
        "before it: `agl proxy --backend http://127.0.0.1:8000/v1 --store agl-store.db`"
    )


def prometheus() -> NoReturn:
    """Scrape the servers themselves: `agl proxy` has /metrics, `agl store --tracker prometheus` has /v1/prometheus."""
    _refuse(
        "agl prometheus ended: the gateway (`agl proxy`) serves /metrics itself, and the store (`agl store --tracker "
        "prometheus`) /v1/prometheus; point Prometheus there"
    )


def _refuse(message: str) -> NoReturn:
    typer.echo(f"agl: {message}", err=True)
    raise typer.Exit(_WRONG_USAGE)
