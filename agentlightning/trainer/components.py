"""From what users write for a component to the component itself."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar, cast

from agentlightning.errors import ConfigurationError

T = TypeVar("T")

ComponentSpec: TypeAlias = T | type[T] | Callable[[], T] | str | dict[str, Any] | None
"""An instance, a class, a factory, a name or dotted path, a dict with `type` and arguments, or None."""


def build_component(
    spec: ComponentSpec[T],
    *,
    expected_type: type[T],
    name: str,
    default: Callable[[], T] | None = None,
    optional_arguments: Mapping[str, Any] | None = None,
    registry: Mapping[str, str] | None = None,
) -> T | None:
    """Build a component.

    Args:
        spec: An instance is returned as it is. A class is instantiated, a factory called. A string is a name of the
            registry or a dotted path to a class. A dict names the class under `type`; the rest are its arguments.
        expected_type: What must come out.
        name: What the user calls the component, for error messages.
        default: Makes the component when `spec` is None; without it None stays None.
        optional_arguments: Given to constructors that have such a parameter, unless the user gave it.
        registry: Short names and the dotted paths they stand for.

    Raises:
        ConfigurationError: The specification leads to nothing of the expected type.
    """
    if isinstance(spec, expected_type):
        return cast("T", spec)
    if spec is None:
        return default() if default else None
    made = _make(spec, name, optional_arguments or {}, registry or {})
    if not isinstance(made, expected_type):
        raise ConfigurationError(f"{name} must be a {expected_type.__name__}; {spec!r} gave a {type(made).__name__}")
    return made


def _make(spec: Any, name: str, optional: Mapping[str, Any], registry: Mapping[str, str]) -> Any:
    if isinstance(spec, str):
        return _construct(load_class(registry.get(spec, spec), name, registry), {}, optional)
    if isinstance(spec, dict):
        arguments = dict(cast("dict[str, Any]", spec))
        kind = arguments.pop("type", None)
        if not isinstance(kind, str):
            raise ConfigurationError(f"{name} is a dict without 'type': add one of {sorted(registry)} or a dotted path")
        return _construct(load_class(registry.get(kind, kind), name, registry), arguments, optional)
    if inspect.isclass(spec):
        return _construct(cast("type[Any]", spec), {}, optional)
    if callable(spec):
        return spec()
    raise ConfigurationError(f"{name} cannot be made from {spec!r}: give an instance, class, factory, string or dict")


def load_class(path: str, name: str = "component", registry: Mapping[str, str] | None = None) -> type[Any]:
    """Import a class by its dotted path.

    Raises:
        ConfigurationError: There is no such module or class.
    """
    module, _, attribute = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        known = f" or one of {sorted(registry)}" if registry else ""
        raise ConfigurationError(f"{name} {path!r} cannot be imported ({error}); give a dotted path{known}") from error
    if not inspect.isclass(found):
        raise ConfigurationError(f"{name} {path!r} is not a class")
    return cast("type[Any]", found)


def _construct(kind: type[Any], arguments: dict[str, Any], optional: Mapping[str, Any]) -> Any:
    parameters = inspect.signature(kind).parameters
    return kind(**{key: value for key, value in optional.items() if key in parameters} | arguments)
