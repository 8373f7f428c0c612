"""Whether a prompt that a model wrote can be filled like the one that it shall replace."""

from __future__ import annotations

import string
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from agentlightning.errors import InvalidPrompt
from agentlightning.types import PromptTemplate

if TYPE_CHECKING:
    from jinja2.nodes import Node

_DOUBLE: Final = "write braces that shall stay as {{ and }}"


def placeholders(prompt: PromptTemplate) -> frozenset[str]:
    """Return what a prompt is filled with; none for `poml`, which only its own library reads.

    Each stands as it is written, with its format or its attributes: another one of the same name may never be filled.

    Raises:
        InvalidPrompt: The template is malformed, or needs another one.
    """
    if prompt.engine == "f-string":
        return frozenset(_fields(prompt.template))
    return _variables(prompt.template) if prompt.engine == "jinja" else frozenset()


def complaint(prompt: PromptTemplate, needed: frozenset[str]) -> str | None:
    """Say what is wrong with a prompt that shall be filled with the names that are needed; None if nothing is."""
    if not prompt.template.strip():
        return "it is empty"
    try:
        found = placeholders(prompt)
    except InvalidPrompt as error:
        return f"it cannot be filled: {error}"
    lost, invented = needed - found, found - needed
    said = [f"it lost {written(lost, prompt)}"] if lost else []
    said += [f"nobody fills {written(invented, prompt)}, which it invented"] if invented else []
    said += [_DOUBLE] if prompt.engine == "f-string" and not all(name.isidentifier() for name in invented) else []
    return "; ".join(said) or None


def written(names: frozenset[str], prompt: PromptTemplate) -> str:
    """Return names the way they stand in a prompt of this engine."""
    left, right = ("{{ ", " }}") if prompt.engine == "jinja" else ("{", "}")
    return ", ".join(f"{left}{name}{right}" for name in sorted(names))


def _fields(template: str) -> Iterator[str]:
    try:
        for _, name, spec, conversion in string.Formatter().parse(template):
            if name is not None:
                yield name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
    except ValueError as error:
        raise InvalidPrompt(f"{error}; {_DOUBLE}") from error


def _variables(template: str) -> frozenset[str]:
    from jinja2 import TemplateError, meta
    from jinja2.sandbox import SandboxedEnvironment

    environment = SandboxedEnvironment()
    try:
        tree = environment.parse(template)
        names = meta.find_undeclared_variables(tree)
        others = list(meta.find_referenced_templates(tree))
        environment.compile(template)  # finds filters that there are not
    except TemplateError as error:
        raise InvalidPrompt(f"{type(error).__name__}: {error}") from error
    if others:
        raise InvalidPrompt("it needs another template, and there is none beside it")
    return frozenset(path for path in _paths(tree) if path.partition(".")[0] in names)


def _paths(node: Node) -> Iterator[str]:
    """Yield the variables in a template, each with the attributes that are taken of it."""
    path = _path(node)
    if path is not None:
        yield path
    else:
        for child in node.iter_child_nodes():
            yield from _paths(child)


def _path(node: Node) -> str | None:
    from jinja2.nodes import Getattr, Name

    if isinstance(node, Name):
        return node.name
    inner = _path(node.node) if isinstance(node, Getattr) else None
    return f"{inner}.{node.attr}" if isinstance(node, Getattr) and inner is not None else None
