"""Public names imported when they are first used."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def getter_of(module: str, source: Path) -> Callable[[str], Any]:
    """Return a module's `__getattr__`: it imports what the `if TYPE_CHECKING:` block of its file names."""
    homes = names_for_type_checkers(source)

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        value = getattr(import_module(homes[name]), name)
        setattr(sys.modules[module], name, value)
        return value

    return get


def names_for_type_checkers(source: Path) -> dict[str, str]:
    """Read the `if TYPE_CHECKING:` block of a module: each name it imports, and the module it comes from."""
    blocks = [node for node in ast.parse(source.read_text("utf-8")).body if isinstance(node, ast.If)]
    imports = [
        node
        for block in blocks
        if isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
    ]
    return {alias.name: node.module or "" for node in imports for alias in node.names}
