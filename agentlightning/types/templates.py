"""Prompt templates filled in: what is wrong with one is said with its name and its cure.

Templates may come from a model that writes prompts, so they reach what they are given and nothing behind it:
attributes whose names begin with an underscore are not read.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any

from agentlightning.errors import InvalidPrompt

_DOUBLE = "write braces that shall stay as {{ and }}"


class _Filler(string.Formatter):
    """`str.format` that reads no attribute with an underscore in front."""

    def get_field(self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if "._" in field_name:
            raise InvalidPrompt(f"the placeholder {{{field_name}}} asks for what is private")
        return super().get_field(field_name, args, kwargs)

    def get_value(self, key: int | str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if key not in kwargs:
            hint = "" if str(key).isidentifier() else f"; {_DOUBLE}"
            raise InvalidPrompt(f"the placeholder {{{key}}} is not filled: given are {sorted(kwargs)}{hint}")
        return kwargs[str(key)]


def fill_fstring(template: str, values: Mapping[str, Any]) -> str:
    """Fill `{name}`; attributes, items and format specifications work as in `str.format`.

    Raises:
        InvalidPrompt: A placeholder is not given, or the braces do not match.
    """
    try:
        return _Filler().vformat(template, (), values)
    except InvalidPrompt:
        raise
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InvalidPrompt(f"the f-string template cannot be filled: {reason}; {_DOUBLE}") from error


def fill_jinja(template: str, values: Mapping[str, Any]) -> str:
    """Render a jinja template in a sandbox.

    Raises:
        InvalidPrompt: A placeholder is not given, the template is malformed, or what it computes cannot be computed.
    """
    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    # The last newline of a prompt stays, as in an f-string template.
    environment = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
    try:
        return environment.from_string(template).render(values)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise InvalidPrompt(f"the jinja template cannot be filled: {reason}; given are {sorted(values)}") from error
