"""From what users write for a component to the component itself."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar, cast

from agentlightning.errors import ConfigurationError, WrongComponent

T = TypeVar("T")

ComponentSpec: TypeAlias = T | type[T] | Callable[[], T] | str | dict[str, Any] | None
"""An instance, a class, a factory, a name or dotted path, a dict with `type` and arguments, or None."""

OptionalDefaults: TypeAlias = Mapping[str, Any]
"""Arguments for constructors that have such a parameter; a value that can be called is called for the argument."""


def build_component(
    spec: ComponentSpec[T],
    *,
    expected_type: type[T],
    spec_name: str,
    default_factory: Callable[[], T] | None = None,
    allow_none: bool = False,
    optional_defaults: OptionalDefaults | None = None,
    dict_requires_type: bool = True,
    dict_default_cls: type[T] | None = None,
    registry: Mapping[str, str] | None = None,
) -> T | None:
    """Build a component.

    Args:
        spec: An instance is returned as it is. A class is instantiated, a factory called. A string is a name of the
            registry or a dotted path to a class. A dict names the class under `type` (a name, a path or the
            class itself) or `name` (a name of the registry); the rest are its arguments.
        expected_type: What must come out.
        spec_name: What the user calls the component, for error messages.
        default_factory: Makes the component when `spec` is None.
        allow_none: Whether None without a `default_factory` is an answer.
        optional_defaults: Given to constructors that have such a parameter, unless the user gave it.
        dict_requires_type: Whether a dict must name its class.
        dict_default_cls: The class of a dict that names none, where that is allowed.
        registry: Short names and the dotted paths they stand for.

    Raises:
        ConfigurationError: The specification leads to nothing; it is a `ValueError`.
        WrongComponent: It leads to something of another type; it is a `TypeError` as well.
    """
    if isinstance(spec, expected_type):
        return cast("T", spec)
    if spec is None:
        return _default(spec_name, default_factory, allow_none)
    if inspect.isclass(spec):
        kind, arguments = cast("type[Any]", spec), dict[str, Any]()
    elif isinstance(spec, str | dict):
        default_cls = None if dict_requires_type else dict_default_cls
        kind, arguments = _class_of(cast("str | dict[str, Any]", spec), spec_name, registry or {}, default_cls)
    elif callable(spec):
        return _checked(spec(), expected_type, spec_name, spec)
    else:
        raise ConfigurationError(
            f"{spec_name} cannot be made from {spec!r}: give an instance, class, factory, string or dict"
        )
    if not issubclass(kind, expected_type):
        raise WrongComponent(f"{spec_name} must be a {expected_type.__name__}, and {spec!r} is a {kind.__name__}")
    return cast("T", instantiate_component(kind, arguments, optional_defaults))


def instantiate_component(
    cls: type[Any],
    provided_kwargs: Mapping[str, Any] | None = None,
    optional_defaults: OptionalDefaults | None = None,
) -> Any:
    """Call a class with the given arguments, and with those defaults that it has parameters for.

    Args:
        cls: The class.
        provided_kwargs: Arguments that it must take.
        optional_defaults: See `OptionalDefaults`; `provided_kwargs` win.

    Raises:
        ConfigurationError: The class has no such parameter, or needs another argument.
    """
    given, defaults = provided_kwargs or {}, optional_defaults or {}
    signature = inspect.signature(cls)
    missing = (signature.parameters.keys() & defaults.keys()) - given.keys()
    made = {key: defaults[key]() if callable(defaults[key]) else defaults[key] for key in missing}
    try:
        signature.bind(**given, **made)
    except TypeError as error:
        takes = ", ".join(signature.parameters)
        raise ConfigurationError(f"{cls.__name__}({takes}) cannot be made: {error}") from error
    return cls(**given, **made)


def instantiate_from_spec(
    spec: str | dict[str, Any],
    *,
    spec_name: str,
    optional_defaults: OptionalDefaults | None = None,
    dict_requires_type: bool = True,
    dict_default_cls: type[Any] | None = None,
    registry: Mapping[str, str] | None = None,
) -> Any:
    """Make what a string or a dict specifies; see `build_component`.

    Raises:
        ConfigurationError: There is no such class, or the dict names none.
    """
    default_cls = None if dict_requires_type else dict_default_cls
    kind, arguments = _class_of(spec, spec_name, registry or {}, default_cls)
    return instantiate_component(kind, arguments, optional_defaults)


def load_class(path: str) -> type[Any]:
    """Import a class by its dotted path.

    Raises:
        ConfigurationError: There is no such module or class.
    """
    module, _, attribute = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(f"{path!r} cannot be imported ({error}); give the dotted path of a class") from error
    if not inspect.isclass(found):
        raise ConfigurationError(f"{path!r} is not a class")
    return cast("type[Any]", found)


def _default(spec_name: str, default_factory: Callable[[], T] | None, allow_none: bool) -> T | None:
    if default_factory is not None:
        return default_factory()
    if allow_none:
        return None
    raise ConfigurationError(f"{spec_name} is needed: give an instance, class, factory, string or dict")


def _class_of(
    spec: str | dict[str, Any], spec_name: str, registry: Mapping[str, str], default_cls: type[Any] | None
) -> tuple[type[Any], dict[str, Any]]:
    """Return the class that a specification names, and the arguments that it gives."""
    if isinstance(spec, str):
        return _named_class(spec, spec_name, registry), {}
    arguments = dict(spec)
    if inspect.isclass(arguments.get("type")):
        return cast("type[Any]", arguments.pop("type")), arguments
    if isinstance(arguments.get("type"), str):
        return _named_class(arguments.pop("type"), spec_name, registry), arguments
    if arguments.get("name") in registry:
        return _named_class(arguments.pop("name"), spec_name, registry), arguments
    if default_cls is not None:
        return default_cls, arguments
    raise ConfigurationError(
        f"{spec_name} is a dict without 'type': add one of {sorted(registry)} or the dotted path of a class"
    )


def _named_class(name: str, spec_name: str, registry: Mapping[str, str]) -> type[Any]:
    try:
        return load_class(registry.get(name, name))
    except ConfigurationError as error:
        known = f"; its short names are {sorted(registry)}" if registry else ""
        raise ConfigurationError(f"{spec_name}: {error}{known}") from error


def _checked(made: Any, expected_type: type[T], spec_name: str, spec: object) -> T:
    if not isinstance(made, expected_type):
        raise WrongComponent(f"{spec_name} must be a {expected_type.__name__}; {spec!r} gave a {type(made).__name__}")
    return made
