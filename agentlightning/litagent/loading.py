"""Objects of a user's program by their names, such as `package.module:agent` or `path/to/file.py:agent`."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from agentlightning._internal.error_place import place_of
from agentlightning.errors import ConfigurationError
from agentlightning.litagent.litagent import LitAgent


def load_object(target: str, what: str) -> Any:
    """Import an object.

    Args:
        target: `package.module:name` or `path/to/file.py:name`; the working directory is searched first.
        what: What it shall be, for error messages.

    Raises:
        ConfigurationError: There is no such module or name, or it cannot be imported.
    """
    module_name, separator, name = target.rpartition(":")
    if not separator or not module_name or not name or module_name.startswith("."):
        raise ConfigurationError(f"{target!r} names no {what}: write package.module:name or path/to/file.py:name")
    module = _import_file(Path(module_name)) if module_name.endswith(".py") else _import_module(module_name)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise ConfigurationError(f"{module_name} has no {name!r}; it has {_names_in(module)}")
        found = getattr(found, part)
    return found


def load_agent(target: str) -> LitAgent[Any]:
    """Import an agent.

    Args:
        target: See `load_object`. The agent is an instance of `LitAgent`, which is what `@rollout` makes of a function,
            or a class of it.

    Raises:
        ConfigurationError: There is no such module, name or agent, or it cannot be imported or made.
        InvalidAgent: It is a method without its instance, or overrides nothing that does a task.
    """
    found = load_object(target, "agent")
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
        raise ConfigurationError(f"{path} has the name of another module, {loaded}: name it package.module:name")
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
        advice = ": it belongs to a package, so name it package.module:name"
    return f"{what} raised {type(error).__name__}{place_of(error)}: {error}{advice}"


def _names_in(module: ModuleType) -> str:
    """Return the agents of a module, or else all that it calls its own."""
    agents = [name for name, value in vars(module).items() if isinstance(value, LitAgent)]
    return ", ".join(agents or sorted(name for name in vars(module) if not name.startswith("_"))) or "nothing"
