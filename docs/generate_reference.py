"""Writes docs/reference.md from the sources of the public names and from the commands.

Run `python docs/generate_reference.py > docs/reference.md`. The sources are read, not imported, so that annotations
look as they were written, under every version of Python and pydantic.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TypeAlias

import typer

import agentlightning
from agentlightning._internal.lazy import names_for_type_checkers
from agentlightning.cli.app import app

_Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

_SOURCE: Final = Path(agentlightning.__file__)
_HEAD: Final = """\
<!-- Written by docs/generate_reference.py from the sources; do not edit. -->
# Reference

Every public name of `import agentlightning as agl`, by the module it is imported from: its signature and what it is.
Arguments, units and errors stand in the docstrings, as in `help(agl.GRPO)`. [Concepts](concepts.md) says how the parts
fit together. The commands come last.

"""


def page() -> str:
    """Return the page."""
    homes = names_for_type_checkers(_SOURCE)
    modules = [_module(home, sorted(n for n in homes if homes[n] == home)) for home in dict.fromkeys(homes.values())]
    return _HEAD + "\n".join([*modules, _commands()])


def _module(home: str, names: list[str]) -> str:
    definitions = dict(_definitions(home))
    return f"## {home}\n\n" + "\n".join(f"### {name}\n\n{definitions[name]}\n" for name in names)


def _definitions(home: str) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of whatever a module, or the modules of a package, define."""
    path = _SOURCE.parent.joinpath(*home.split(".")[1:])
    for source in sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]:
        body = ast.parse(source.read_text("utf-8")).body
        for node, following in zip(body, [*body[1:], None], strict=True):
            if isinstance(node, ast.ClassDef):
                yield node.name, _class(node)
            elif isinstance(node, _Function):
                yield node.name, f"`{_signature(node)}`\n\n{_summary(node)}"
            elif isinstance(node, ast.AnnAssign) and node.value:
                yield ast.unparse(node.target), f"`{ast.unparse(node.value)}`{_string(following)}"


def _class(node: ast.ClassDef) -> str:
    """Its bases, what it is, its constructor or else its fields, its methods."""
    functions = {child.name: child for child in node.body if isinstance(child, _Function)}
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    lines = [f"`class {node.name}{f'({bases})' if bases else ''}`", "", _summary(node)]
    members = [f"- `{_signature(functions['__init__'], node.name)}`"] if "__init__" in functions else _fields(node)
    members += [f"- `{_signature(f)}`: {_summary(f)}" for name, f in functions.items() if not name.startswith("_")]
    return "\n".join([*lines, *(["", *members] if members else [])])


def _fields(node: ast.ClassDef) -> list[str]:
    fields = (child for child in node.body if isinstance(child, ast.AnnAssign))
    return [f"- `{ast.unparse(field)}`" for field in fields if not ast.unparse(field.target).startswith("_")]


def _signature(node: _Function, name: str | None = None) -> str:
    """The call; of a property the attribute."""
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns and name is None else ""
    if "property" in decorators:
        return node.name + returns
    for positional in (node.args.posonlyargs, node.args.args):
        positional[:] = [argument for argument in positional if argument.arg not in ("self", "cls")]
    prefix = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
    return f"{prefix}{name or node.name}({ast.unparse(node.args)}){returns}"


def _summary(node: _Function | ast.ClassDef) -> str:
    return (ast.get_docstring(node) or "").partition("\n")[0]


def _string(node: ast.stmt | None) -> str:
    """The first line of the string that describes the name above it, as a paragraph."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return "\n\n" + str(node.value.value).partition("\n")[0]
    return ""


def _commands() -> str:
    """The commands of `agl`, with their options."""
    commands = _named("agl", typer.main.get_command(app))
    return "## Commands\n\n" + "\n".join(_command(name, command) for name, command in commands)


def _named(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Yield a command and those below it, with their whole names."""
    yield name, command
    for below, inner in getattr(command, "commands", {}).items():
        yield from _named(f"{name} {below}", inner)


def _command(name: str, command: Any) -> str:
    lines = [f"### {name}", "", inspect.cleandoc(command.help), ""]
    shown = [option for option in command.params if not getattr(option, "hidden", False)]
    if shown:
        lines += ["| option | default | meaning |", "|---|---|---|"]
        lines += [f"| `{', '.join(option.opts)}` | `{option.default}` | {option.help} |" for option in shown]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(page())
