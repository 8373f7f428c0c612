"""Whether a prompt that a model wrote can be filled like the one that it shall replace."""

from __future__ import annotations

import string
from collections.abc import Iterator
from typing import Final

from agentlightning.errors import InvalidPrompt
from agentlightning.types import PromptTemplate

_DOUBLE: Final = "write braces that shall stay as {{ and }}"


def placeholders(prompt: PromptTemplate) -> frozenset[str]:
    """Return the names that a prompt is filled with; none for `poml`, which only its own library reads.

    Raises:
        InvalidPrompt: The template is malformed.
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
        for _, name, spec, _ in string.Formatter().parse(template):
            if name is not None:
                yield name
                yield from _fields(spec or "")
    except ValueError as error:
        raise InvalidPrompt(f"{error}; {_DOUBLE}") from error


def _variables(template: str) -> frozenset[str]:
    from jinja2 import TemplateError, meta
    from jinja2.sandbox import SandboxedEnvironment

    try:
        return frozenset(meta.find_undeclared_variables(SandboxedEnvironment().parse(template)))
    except TemplateError as error:
        raise InvalidPrompt(f"{type(error).__name__}: {error}") from error
