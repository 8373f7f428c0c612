"""Optional dependencies: which extra brings them, and a clear error where one is missing."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from agentlightning.errors import MissingExtra

EXTRA_OF: Final[dict[str, str]] = {
    "asyncpg": "postgres",
    "datasets": "datasets",
    "gepa": "gepa",
    "matplotlib": "train",
    "mlflow": "mlflow",
    "prometheus_client": "prometheus",
    "pyarrow": "datasets",
    "ray": "ray",
    "safetensors": "train",
    "tokenizers": "train",
    "torch": "train",
    "transformers": "train",
    "openai": "openai",
    "tensorboardX": "tensorboard",
    "trackio": "trackio",
    "wandb": "wandb",
}
"""Package to the extra that installs it."""


@contextmanager
def needed_for(purpose: str) -> Generator[None]:
    """Import optional packages inside the block.

    Args:
        purpose: What needs them, for the error message.

    Raises:
        MissingExtra: One of them is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRA_OF:
            raise
        raise MissingExtra(package, EXTRA_OF[package], purpose) from error
