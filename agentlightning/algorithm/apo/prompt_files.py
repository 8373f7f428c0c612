"""The prompts for the models that criticise and edit: text files, ours or the user's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from agentlightning.algorithm.prompt_search import placeholders
from agentlightning.errors import ConfigurationError
from agentlightning.types import PromptTemplate

PromptFiles: TypeAlias = str | Path | Sequence[str | Path]
"""A folder, of which every `.txt` file is one, or the files."""
Purpose: TypeAlias = Literal["critique", "edit"]

_OURS: Final = Path(__file__).parent / "prompts"
_SUFFIX: Final = ".txt"
GIVEN: Final[dict[Purpose, frozenset[str]]] = {
    "critique": frozenset({"prompt_template", "placeholders", "experiments"}),
    "edit": frozenset({"prompt_template", "placeholders", "braces", "critique"}),
}
"""What a text may speak of."""
_NEEDED: Final[dict[Purpose, frozenset[str]]] = {
    "critique": frozenset({"prompt_template", "experiments"}),
    "edit": frozenset({"prompt_template", "critique"}),
}


@dataclass(frozen=True, slots=True)
class PromptFile:
    """One way to ask for a critique or an edit.

    Attributes:
        name: Of the file.
        text: A jinja template.
    """

    name: str
    text: str

    def ask(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Return the message that asks, filled with what there is."""
        return {"role": "user", "content": PromptTemplate(template=self.text, engine="jinja").format(**values)}


def read_prompt_files(purpose: Purpose, files: PromptFiles | None) -> list[PromptFile]:
    """Return the ways to ask for a critique or an edit.

    Args:
        purpose: What they ask for.
        files: Where they are; None for ours.

    Raises:
        ConfigurationError: There is none, or one cannot be read or asks for something that is not given.
    """
    paths = _paths(_OURS / purpose if files is None else files)
    if not paths:
        raise ConfigurationError(
            f"{files} holds no prompt that asks for one: give files, or a folder with {_SUFFIX} files"
        )
    return [_read(purpose, path) for path in paths]


def _paths(files: PromptFiles) -> list[Path]:
    if not isinstance(files, str | Path):
        return [Path(each) for each in files]
    path = Path(files)
    return sorted(path.glob(f"*{_SUFFIX}")) if path.is_dir() else [path]


def _read(purpose: Purpose, path: Path) -> PromptFile:
    if path.suffix == ".poml":
        raise ConfigurationError(f"{path} is POML, which is not read: write it as text with {{{{ prompt_template }}}}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the prompt {path} cannot be read: {error}") from error
    names = {each.partition(".")[0] for each in placeholders(PromptTemplate(template=text, engine="jinja"))}
    unknown, missing = names - GIVEN[purpose], _NEEDED[purpose] - names
    if unknown or missing:
        said = f"asks for {sorted(unknown)}" if unknown else f"says nothing of {sorted(missing)}"
        raise ConfigurationError(f"the prompt {path} {said}: a {purpose} is given {sorted(GIVEN[purpose])}")
    return PromptFile(path.name, text)
