"""What a diagnosis starts from: an agent by its name, a task and resources from files."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, cast

from pydantic import Field, TypeAdapter, ValidationError

from agentlightning.doctor.place import place_of
from agentlightning.doctor.script import Reply
from agentlightning.errors import ConfigurationError
from agentlightning.litagent import LitAgent
from agentlightning.types import NamedResources


def load_agent(target: str) -> LitAgent[Any]:
    """Import an agent.

    Args:
        target: `package.module:agent` or `path/to/file.py:agent`; the working directory is searched first. The agent
            is an instance of `LitAgent`, which is what `@rollout` makes of a function, or a class of it.

    Raises:
        ConfigurationError: There is no such module, name or agent, or it cannot be imported or made.
        InvalidAgent: It is a method without its instance, or overrides nothing that does a task.
    """
    module_name, separator, name = target.rpartition(":")
    if not separator or not module_name or not name or module_name.startswith("."):
        raise ConfigurationError(f"{target!r} names no agent: write package.module:agent or path/to/file.py:agent")
    module = _import_file(Path(module_name)) if module_name.endswith(".py") else _import_module(module_name)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise ConfigurationError(f"{module_name} has no {name!r}; it has {_agents_in(module) or 'no agents'}")
        found = getattr(found, part)
    if inspect.isclass(found) and issubclass(found, LitAgent):
        found = _instance_of(cast("type[LitAgent[Any]]", found))
    if not isinstance(found, LitAgent):
        raise ConfigurationError(
            f"{target} is no agent but a {type(cast('object', found)).__name__}: decorate the function with "
            "@agl.rollout, or name an instance or a class of agl.LitAgent"
        )
    agent = cast("LitAgent[Any]", found)
    agent.method_for("train")
    return agent


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


def _import_module(name: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))  # and it stays there: agents import more when they run
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            raise ConfigurationError(f"there is no module {name!r} here or among what is installed") from error
        raise ConfigurationError(_what_failed(f"importing {name}", error)) from error


def _import_file(path: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location(path.stem, path.absolute())
    if not path.is_file() or specification is None or specification.loader is None:
        raise ConfigurationError(f"there is no Python file {path}")
    loaded = sys.modules.get(path.stem)
    if loaded is not None:
        if getattr(loaded, "__file__", None) == specification.origin:
            return loaded
        raise ConfigurationError(f"{path} has the name of another module, {loaded}: name it package.module:agent")
    module = importlib.util.module_from_spec(specification)
    sys.modules[path.stem] = module  # where dataclasses and pickle look for it
    sys.path.insert(0, str(path.absolute().parent))
    try:
        specification.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[path.stem]
        raise ConfigurationError(_what_failed(f"importing {path}", error)) from error
    return module


def _instance_of(kind: type[LitAgent[Any]]) -> LitAgent[Any]:
    try:
        return kind()
    except (Exception, SystemExit) as error:
        advice = "give the file an instance, and name that"
        raise ConfigurationError(f"{_what_failed(f'{kind.__qualname__}()', error)}; {advice}") from error


def _what_failed(what: str, error: BaseException) -> str:
    advice = ""
    if isinstance(error, ImportError) and "relative import" in str(error):
        advice = ": it belongs to a package, so name it package.module:agent"
    return f"{what} raised {type(error).__name__}{place_of(error)}: {error}{advice}"


def _agents_in(module: ModuleType) -> str:
    return ", ".join(name for name, value in vars(module).items() if isinstance(value, LitAgent))
