"""What a functional agent asks for by its parameters, and what it gets.

`rollout` and `resources` get the rollout and all resources. Any other parameter gets the resource of the same name, or
else the only one of its type, which follows from the names `llm` and `prompt_template` or from the annotation.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from agentlightning.errors import InvalidAgent, MissingResource
from agentlightning.types import LLM, NamedResources, PromptTemplate, ProxyLLM, Resource, Rollout

_BY_NAME: Final[dict[str, type[Resource]]] = {"llm": LLM, "prompt_template": PromptTemplate}
_BY_ANNOTATION: Final[dict[str, type[Resource]]] = {kind.__name__: kind for kind in (LLM, ProxyLLM, PromptTemplate)}
_CONTEXT_NAMES: Final = ("rollout", "resources")
_UNIONS: Final = (types.UnionType, typing.Union)  # noqa: TID251  # what `X | Y` and older spellings evaluate to
_VARIADIC: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True)
class Wanted:
    """One parameter that is filled for the agent.

    Attributes:
        name: Its name.
        kind: The type of resource it takes; None for `rollout`, `resources` or only a resource of its name.
        required: Whether the agent cannot be called without it.
    """

    name: str
    kind: type[Resource] | None
    required: bool


def wanted_parameters(function: Callable[..., Any], strip_proxy: bool) -> list[Wanted]:
    """Read what an agent function asks for besides the task, its first parameter.

    Args:
        function: The agent.
        strip_proxy: Whether it gets each `ProxyLLM` as a plain `LLM`, also where it is annotated as `ProxyLLM`.

    Raises:
        InvalidAgent: The signature cannot be filled; the message quotes it.
    """
    parameters, where = _parameters(function), describe(function)
    if not parameters or parameters[0].name != "task" or parameters[0].kind in _VARIADIC:
        raise InvalidAgent(f"the first parameter of an agent must be `task`: {where}")
    hints = _annotations(function)
    wanted = [
        _wanted(parameter, hints.get(parameter.name), where)
        for parameter in parameters[1:]
        if parameter.kind not in _VARIADIC
    ]
    return [replace(each, kind=LLM) if strip_proxy and each.kind is ProxyLLM else each for each in wanted]


def is_unbound_method(function: Callable[..., Any]) -> bool:
    """Whether the function is a method as its class's body sees it: `self` stands before the task."""
    names = list(signature_of(function).parameters)[:2]
    return inspect.isfunction(function) and names in (["self", "task"], ["cls", "task"])


def describe(function: Callable[..., Any]) -> str:
    """Return a function's name and signature, for messages about it."""
    return f"{getattr(function, '__qualname__', function)!s}{signature_of(function)}"


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    parameters = list(signature_of(function).parameters.values())
    return parameters[1:] if is_unbound_method(function) else parameters


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """Return a function's signature.

    Raises:
        InvalidAgent: It has none that can be read, as some built-in functions.
    """
    try:
        return inspect.signature(function)
    except ValueError as error:
        raise InvalidAgent(f"the parameters of {function!r} cannot be read: write a function around it") from error


def _wanted(parameter: inspect.Parameter, annotation: Any, where: str) -> Wanted:
    name, required = parameter.name, parameter.default is inspect.Parameter.empty
    named, annotated = _BY_NAME.get(name), _resource_type(annotation)
    if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
        raise InvalidAgent(f"parameter `{name}` is positional-only, so it cannot be filled by name: {where}")
    kind = annotated or named
    if named and annotated and not issubclass(annotated, named):
        kind = named
        if not issubclass(named, annotated):
            raise InvalidAgent(
                f"parameter `{name}` takes {_a(named)} by its name and {_a(annotated)} by its annotation: {where}"
            )
    if required and kind is None and name not in _CONTEXT_NAMES:
        raise InvalidAgent(
            f"nobody fills parameter `{name}`: {where}. Name it llm, prompt_template, rollout or resources, "
            "annotate it as LLM or PromptTemplate, or give it a default"
        )
    return Wanted(name, kind, required)


def _annotations(function: Callable[..., Any]) -> dict[str, Any]:
    target = function.func if isinstance(function, functools.partial) else function
    target = target if inspect.isroutine(target) else type(target).__call__
    try:
        return typing.get_type_hints(target)
    except Exception:  # noqa: BLE001  # a name for type checkers only, or any nonsense: the text must do
        return dict(inspect.get_annotations(target))


def _resource_type(annotation: Any) -> type[Resource] | None:
    if isinstance(annotation, str):
        first = annotation.split("|")[0].strip()
        return _BY_ANNOTATION.get(first.rsplit(".", 1)[-1])
    if typing.get_origin(annotation) in _UNIONS:
        return next((kind for option in typing.get_args(annotation) if (kind := _resource_type(option))), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, Resource) else None


def fill(wanted: list[Wanted], resources: NamedResources, rollout: Rollout) -> dict[str, Any]:
    """Return the arguments for the parameters.

    Raises:
        MissingResource: A required resource is not there, the one of the name has another type, or several of the type
            are there and none has the name.
    """
    arguments: dict[str, Any] = {}
    for parameter in wanted:
        if parameter.name in _CONTEXT_NAMES:
            arguments[parameter.name] = rollout if parameter.name == "rollout" else resources
        elif parameter.name in resources:
            arguments[parameter.name] = _by_name(parameter, resources)
        elif parameter.kind is not None:
            arguments.update(_by_type(parameter, parameter.kind, resources))
    return arguments


def _by_name(parameter: Wanted, resources: NamedResources) -> Resource:
    resource = resources[parameter.name]
    if parameter.kind is not None and not isinstance(resource, parameter.kind):
        raise MissingResource(
            f"parameter `{parameter.name}` takes {_a(parameter.kind)}, but the resource of that name is "
            f"{_a(type(resource))}: rename one of them"
        )
    return resource


def _by_type(parameter: Wanted, kind: type[Resource], resources: NamedResources) -> dict[str, Any]:
    keys = [key for key, resource in resources.items() if isinstance(resource, kind)]
    if len(keys) == 1:
        return {parameter.name: resources[keys[0]]}
    if keys:
        raise MissingResource(
            f"parameter `{parameter.name}` takes {_a(kind)} and there are several, {keys}: "
            f"name one of them {parameter.name!r}, or name the parameter like the one that it should get"
        )
    if not parameter.required:
        return {}
    raise MissingResource(
        f"the agent asks for {_a(kind)} as `{parameter.name}`, but the rollout's resources are {list(resources)}: "
        f"add one with store.add_resources, runner.step(resources=…) or Trainer(initial_resources=…)"
    )


def _a(kind: type[Resource]) -> str:
    return f"{'an' if kind is LLM else 'a'} {kind.__name__}"
