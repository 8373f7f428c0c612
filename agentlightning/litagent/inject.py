"""What a functional agent asks for by its parameters, and what it gets.

`rollout` and `resources` get the rollout and all resources. Any other parameter gets the resource of the same name, or
else the only one of its type, which follows from the names `llm` and `prompt_template` or from the annotation. One that
is annotated as something else altogether is none of our business.
"""

from __future__ import annotations

import ast
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from agentlightning.errors import InvalidAgent, MissingResource
from agentlightning.types import LLM, NamedResources, PromptTemplate, ProxyLLM, Resource, Rollout

_BY_NAME: Final[dict[str, type[Resource]]] = {"llm": LLM, "prompt_template": PromptTemplate}
_BY_ANNOTATION: Final[dict[str, type[Resource]]] = {kind.__name__: kind for kind in (LLM, ProxyLLM, PromptTemplate)}
_ANYTHING: Final = ("Any", "object")
_CONTEXT_NAMES: Final = ("rollout", "resources")
_UNIONS: Final = (types.UnionType, typing.Union)  # noqa: TID251  # what `X | Y` and older spellings evaluate to
_KEYWORD_ONLY: Final = inspect.Parameter.KEYWORD_ONLY
_VARIADIC: Final = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True)
class Wanted:
    """One parameter that is filled for the agent.

    Attributes:
        name: Its name.
        kinds: The types of resources it takes; none for `rollout`, `resources` or only a resource of its name.
        required: Whether the agent cannot be called without it.
    """

    name: str
    kinds: tuple[type[Resource], ...]
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
    if not parameters or parameters[0].name != "task" or parameters[0].kind in (*_VARIADIC, _KEYWORD_ONLY):
        raise InvalidAgent(f"the first parameter of an agent must be `task`, and not by keyword only: {where}")
    hints = _annotations(function)
    others = [parameter for parameter in parameters[1:] if parameter.kind not in _VARIADIC]
    read = (_wanted(parameter, hints.get(parameter.name, Any), where) for parameter in others)
    wanted = [each for each in read if each is not None]
    return [replace(each, kinds=_stripped(each.kinds)) for each in wanted] if strip_proxy else wanted


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


def _wanted(parameter: inspect.Parameter, annotation: Any, where: str) -> Wanted | None:
    name, required = parameter.name, parameter.default is inspect.Parameter.empty
    named, annotated = _BY_NAME.get(name), _resource_types(annotation)
    if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
        raise InvalidAgent(f"parameter `{name}` is positional-only, so it cannot be filled by name: {where}")
    if name in _CONTEXT_NAMES:
        return Wanted(name, (), required)
    if named:
        return Wanted(name, _narrowed(named, annotated, f"parameter `{name}`", where), required)
    if required and not annotated:
        raise InvalidAgent(
            f"nobody fills parameter `{name}`: {where}. Name it llm, prompt_template, rollout or resources, "
            "annotate it as LLM or PromptTemplate, or give it a default"
        )
    return Wanted(name, annotated, required) if annotated or _takes_anything(annotation) else None


def _narrowed(
    named: type[Resource], annotated: tuple[type[Resource], ...], parameter: str, where: str
) -> tuple[type[Resource], ...]:
    """What a parameter takes by its name and its annotation, which may say less or more than the name."""
    if not annotated or any(issubclass(named, kind) for kind in annotated):
        return (named,)
    narrower = tuple(kind for kind in annotated if issubclass(kind, named))
    if not narrower:
        raise InvalidAgent(f"{parameter} takes {_a(named)} by its name and {_a(*annotated)} by its annotation: {where}")
    return narrower


def _stripped(kinds: tuple[type[Resource], ...]) -> tuple[type[Resource], ...]:
    return tuple(LLM if kind is ProxyLLM else kind for kind in kinds)


def _annotations(function: Callable[..., Any]) -> dict[str, Any]:
    target = function.func if isinstance(function, functools.partial) else function
    target = target if inspect.isroutine(target) else type(target).__call__
    try:
        return typing.get_type_hints(target)
    except Exception:  # noqa: BLE001  # a name for type checkers only, or any nonsense: the text must do
        return dict(inspect.get_annotations(target))


def _resource_types(annotation: Any) -> tuple[type[Resource], ...]:
    kinds = (_BY_ANNOTATION.get(each) if isinstance(each, str) else each for each in _options(annotation))
    return tuple(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Resource))


def _takes_anything(annotation: Any) -> bool:
    return any(getattr(each, "__name__", each) in _ANYTHING for each in _options(annotation))


def _options(annotation: Any) -> Iterator[Any]:
    """What a union may be, and anything else as it is; of a text that could not be evaluated the names."""
    if isinstance(annotation, str):
        with suppress(SyntaxError):
            yield from _named_options(ast.parse(annotation.strip(), mode="eval").body)
    elif typing.get_origin(annotation) in _UNIONS:
        for option in typing.get_args(annotation):
            yield from _options(option)
    else:
        yield annotation


def _named_options(node: ast.expr) -> Iterator[str]:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            yield name
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            yield from _named_options(left)
            yield from _named_options(right)
        case ast.Subscript(value=ast.Name(id="Optional" | "Union") | ast.Attribute(attr="Optional" | "Union")):
            yield from _named_options(node.slice)
        case ast.Tuple(elts=options):
            for option in options:
                yield from _named_options(option)
        case _:
            pass


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
        elif parameter.kinds:
            arguments.update(_by_type(parameter, resources))
    return arguments


def _by_name(parameter: Wanted, resources: NamedResources) -> Resource:
    resource = resources[parameter.name]
    if parameter.kinds and not isinstance(resource, parameter.kinds):
        raise MissingResource(
            f"parameter `{parameter.name}` takes {_a(*parameter.kinds)}, but the resource of that name is "
            f"{_a(type(resource))}: rename one of them"
        )
    return resource


def _by_type(parameter: Wanted, resources: NamedResources) -> dict[str, Any]:
    keys = [key for key, resource in resources.items() if isinstance(resource, parameter.kinds)]
    if len(keys) == 1:
        return {parameter.name: resources[keys[0]]}
    if keys:
        raise MissingResource(
            f"parameter `{parameter.name}` takes {_a(*parameter.kinds)} and there are several, {keys}: "
            f"name one of them {parameter.name!r}, or name the parameter like the one that it should get"
        )
    if not parameter.required:
        return {}
    raise MissingResource(
        f"the agent asks for {_a(*parameter.kinds)} as `{parameter.name}`, but the rollout's resources are "
        f"{list(resources)}: add one with store.add_resources, runner.step(resources=…) or Trainer(initial_resources=…)"
    )


def _a(*kinds: type[Resource]) -> str:
    return " or ".join(f"{'an' if kind is LLM else 'a'} {kind.__name__}" for kind in dict.fromkeys(kinds))
