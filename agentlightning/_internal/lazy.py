"""Public names imported when they are first used."""

from __future__ import annotations

import ast
from pathlib import Path


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
