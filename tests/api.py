"""Prints the public names and signatures: `python -m tests.api > api.txt`, compared by tests/test_public_names.py."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import agentlightning as agl
from agentlightning._internal.lazy import names_for_type_checkers

_ADDRESS = re.compile(r"<function (\w+) at 0x[0-9a-f]+>")


def describe(name: str, value: Any) -> list[str]:
    if inspect.isclass(value):
        lines = [f"class {name}{_signature(value)}"]
        for member, function in sorted(vars(value).items()):
            if not member.startswith("_") and callable(inspect.unwrap(getattr(value, member))):
                target = function.__func__ if isinstance(function, (classmethod, staticmethod)) else function
                lines.append(f"    {member}{_signature(target)}")
        return lines
    if inspect.isfunction(value):
        return [f"def {name}{_signature(value)}"]
    return [f"{name}: {getattr(value, '__name__', None) or str(value).replace('typing.', '')}"]


def _signature(value: Any) -> str:
    try:
        signature = str(inspect.signature(value)).replace("<factory>", "...")
    except (TypeError, ValueError):
        return ""
    return _ADDRESS.sub(r"\1", signature)


def public_api() -> str:
    homes = names_for_type_checkers(Path(agl.__file__))
    return "\n".join(line for name in sorted(homes) for line in describe(name, getattr(agl, name))) + "\n"


if __name__ == "__main__":
    print(public_api(), end="")  # noqa: T201
