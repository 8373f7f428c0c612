"""What a diagnosis starts from, read from files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from agentlightning.doctor.script import Reply
from agentlightning.errors import ConfigurationError
from agentlightning.types import NamedResources


def load_task(path: Path) -> Any:
    """Read a task from a JSON file.

    Raises:
        ConfigurationError: It cannot be read.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} holds no task, which is one JSON value: {error}") from error


def load_resources(path: Path) -> NamedResources:
    """Read resources from a JSON file: an object of their names, each resource with its `resource_type`.

    Raises:
        ConfigurationError: It cannot be read, or something in it is no resource.
    """
    try:
        return TypeAdapter(NamedResources).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        example = '{"main": {"resource_type": "llm", "endpoint": "http://127.0.0.1:8000/v1", "model": "name"}}'
        raise ConfigurationError(f"{path} holds no resources such as {example}: {error}") from error


def load_replies(path: Path) -> list[str | Reply]:
    """Read what the scripted model says from a JSON file: a list of texts, or of objects like `Reply`.

    Raises:
        ConfigurationError: It cannot be read, or it is no such list.
    """
    try:
        return TypeAdapter(Annotated[list[str | Reply], Field(min_length=1)]).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        example = '["text", {"content": "", "tool_calls": [{"name": "look_up", "arguments": {"key": "ruby"}}]}]'
        raise ConfigurationError(f"{path} holds no replies such as {example}: {error}") from error
