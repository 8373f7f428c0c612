"""What the docstring of an operation says: the descriptions of the interface are read from it."""

from __future__ import annotations

import re


def parts_of(docstring: str) -> tuple[str, dict[str, str], dict[str, str]]:
    """Split a docstring into its text, its arguments and its errors."""
    text, _, raises = docstring.partition("\nRaises:\n")
    text, _, arguments = text.partition("\nArgs:\n")
    return text.strip(), _entries(arguments), _entries(raises)


def _entries(section: str) -> dict[str, str]:
    found: list[tuple[str, str]] = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
    return {name: re.sub(r"\s+", " ", text) for name, text in found}
