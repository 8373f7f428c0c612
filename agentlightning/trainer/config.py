"""A run as a file: what `agl train` reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeAlias, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentlightning.errors import ConfigurationError
from agentlightning.trainer.metric_sinks import MetricsSink, open_sinks
from agentlightning.trainer.trainer import Trainer
from agentlightning.types import NamedResources

Component: TypeAlias = str | dict[str, Any] | None
"""A short name, a dotted path, or a dict with `type` and arguments."""


class TrainConfig(BaseModel):
    """What is run, on which tasks, and with which parts.

    Attributes:
        agent: `package.module:name` or `path/to/file.py:name`.
        train: Tasks to learn from: a file, or `package.module:name`.
        val: Tasks to measure with, likewise.
        run_dir: The run's folder; `runs/<time>` if there is none.
        n_runners: How many runners.
        max_rollouts: The most rollouts of each.
        port: Where a client-server strategy serves the store.
        algorithm: What learns.
        strategy: Where algorithm and runners live.
        store: Where everything lives; a file in the run's folder if there is none.
        runner: Runs the agent.
        tracer: Records what it does.
        adapter: Turns spans into training data.
        llm_proxy: The gateway.
        initial_resources: Handed to the algorithm: by name, each with its `resource_type`.
        metrics: Where metrics go beside `metrics.jsonl`.
    """

    model_config = ConfigDict(extra="forbid")

    agent: str
    train: str | None = None
    val: str | None = None
    run_dir: Path | None = None
    n_runners: int | None = Field(default=None, ge=0)
    max_rollouts: int | None = Field(default=None, ge=1)
    port: int | None = Field(default=None, ge=0, le=65535)
    algorithm: Component = None
    strategy: Component = None
    store: Component = None
    runner: Component = None
    tracer: Component = None
    adapter: Component = None
    llm_proxy: Component = None
    initial_resources: NamedResources | None = None
    metrics: list[MetricsSink] = Field(default_factory=list[MetricsSink])

    def trainer(self, run_dir: Path | None) -> Trainer:
        """Return the trainer of this run.

        Args:
            run_dir: The run's folder, which takes the place of the file's.

        Raises:
            ConfigurationError: A component cannot be made.
        """
        names = ("n_runners", "max_rollouts", "port", "initial_resources")
        components = ("algorithm", "strategy", "store", "runner", "tracer", "adapter", "llm_proxy")
        given = {name: getattr(self, name) for name in (*names, *components)}
        folder = run_dir or self.run_dir
        return Trainer(**given, run_dir=folder, on_metrics=open_sinks(self.metrics, folder))


def read_config(path: Path, changes: Sequence[str] = ()) -> TrainConfig:
    """Read a run from a YAML file.

    Args:
        path: The file.
        changes: `key=value` each, over what stands there; dots reach into dicts, values are YAML.

    Raises:
        ConfigurationError: It cannot be read, or a key or a value in it is wrong; the message names the nearest key.
    """
    try:
        content: Any = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path} holds no run: it must be a mapping with `agent` and more")
    settings = cast("dict[str, Any]", content)
    for change in changes:
        _apply(settings, change)
    try:
        return TrainConfig.model_validate(settings)
    except ValidationError as error:
        raise ConfigurationError(f"{path}: {'; '.join(map(_what_is_wrong, cast('Any', error.errors())))}") from error


def _apply(settings: dict[str, Any], change: str) -> None:
    key, equals, value = change.partition("=")
    if not key or not equals:
        raise ConfigurationError(f"{change!r} changes nothing: write key=value, such as algorithm.steps=10")
    *outer, last = key.split(".")
    place = settings
    for name in outer:
        inner: Any = place.get(name)
        if inner is None:
            inner = {}
        elif isinstance(inner, str):  # a component by its name, which now gets arguments
            inner = {"type": inner}
        elif not isinstance(inner, dict):
            raise ConfigurationError(f"{change!r} reaches into {name!r}, which is no mapping")
        place[name] = inner
        place = cast("dict[str, Any]", inner)
    try:
        place[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        why = " ".join(str(error).split())
        raise ConfigurationError(f"{change!r} changes nothing, for its value is no YAML: {why}") from error


def _what_is_wrong(error: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] != "extra_forbidden":
        return f"{where}: {error['msg']}"
    near = get_close_matches(where, TrainConfig.model_fields, n=1)
    return f"{where}: there is no such key{f'; {near[0]!r} is meant?' if near else ''}"
