"""The critic and the editor: a prompt and what came of it become a better prompt."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from agentlightning.algorithm.apo.candidate import Candidate
from agentlightning.algorithm.apo.prompt_files import PromptFile
from agentlightning.algorithm.apo.settings import Settings
from agentlightning.algorithm.prompt_search import Reply, Writer, complaint, written
from agentlightning.errors import ModelError
from agentlightning.types import PromptTemplate

_INTRODUCED: Final = r"(?:(?:here|sure|certainly|below)\b[^\n]*\n\s*)?"
_FENCED: Final = re.compile(_INTRODUCED + r"```\w*\n((?:(?!```).)*)\n```", re.DOTALL | re.IGNORECASE)
"""A single fence: of two blocks, or of one in the other, each belongs to the prompt."""
_TAGGED: Final = re.compile(_INTRODUCED + r"<prompt>((?:(?!</?prompt>).)*)</prompt>", re.DOTALL | re.IGNORECASE)
_REPAIR: Final = (
    "This prompt cannot be used: {complaint}. The placeholders must be exactly these: {placeholders}. {braces} "
    "Answer with the corrected prompt alone."
)
_BRACES: Final = "Other braces, as in JSON, are written doubled: {{ and }}."


@dataclass(frozen=True, slots=True)
class Proposal:
    """What came of asking for a better prompt.

    Attributes:
        key: Names it within the run.
        parent: What shall be bettered.
        critique: What is wrong with the parent; empty if that failed.
        prompt_template: The new prompt; None if there is none.
        dropped: Why there is none, or why it is not tried; None if it is.
        unanswered: Whether that is because a model did not answer.
    """

    key: str
    parent: Candidate
    critique: str = ""
    prompt_template: PromptTemplate | None = None
    dropped: str | None = None
    unanswered: bool = False


class Proposer:
    """Asks for critiques and edits.

    Args:
        writer: Asks models.
        settings: Which models, and how.
        needed: The placeholders that every prompt has.
        critiques: The ways to ask for a critique, of which each proposal uses one.
        edits: The ways to ask for an edit, likewise.
    """

    def __init__(
        self,
        writer: Writer,
        settings: Settings,
        needed: frozenset[str],
        critiques: Sequence[PromptFile],
        edits: Sequence[PromptFile],
    ) -> None:
        self._writer = writer
        self._settings = settings
        self._needed = needed
        self._critiques = critiques
        self._edits = edits

    def choose(self, rng: random.Random) -> tuple[PromptFile, PromptFile]:
        """Return a way to ask for a critique, and one to ask for an edit."""
        return rng.choice(self._critiques), rng.choice(self._edits)

    def asked(
        self, parent: Candidate, experiments: Sequence[Any], ways: tuple[PromptFile, PromptFile]
    ) -> dict[str, Any]:
        """Return all that decides what models are asked for a proposal, as JSON."""
        settings = self._settings
        return {
            "prompt": parent.prompt_template.template,
            "experiments": experiments,
            "texts": [way.text for way in ways],
            "models": [settings.gradient_model, settings.apply_edit_model],
            "temperature": settings.diversity_temperature,
        }

    async def propose(
        self, key: str, parent: Candidate, experiments: Sequence[Any], ways: tuple[PromptFile, PromptFile]
    ) -> Proposal:
        """Return a prompt that is hoped to be better, or why there is none.

        Args:
            key: Names the proposal within the run.
            parent: What shall be bettered.
            experiments: What came of it.
            ways: How to ask for a critique, and how for an edit.
        """
        critique = ""
        values = self._values(parent.prompt_template)
        try:
            asked = [ways[0].ask(values | {"experiments": experiments})]
            critique = (await self._ask(f"{key}/critique", self._settings.gradient_model, asked)).text.strip()
            if not critique:
                return Proposal(key, parent, dropped="the critique is empty")
            prompt, wrong = await self._edit(key, parent, [ways[1].ask(values | {"critique": critique})])
        except ModelError as error:
            return Proposal(key, parent, critique, dropped=str(error), unanswered=True)
        return Proposal(key, parent, critique, prompt, wrong)

    async def _edit(self, key: str, parent: Candidate, messages: list[Any]) -> tuple[PromptTemplate, str | None]:
        """Return a prompt, and what is wrong with it although it was sent back once; None if nothing is."""
        prompt, wrong = await self._try(f"{key}/edit", parent, messages)
        if wrong is not None:
            repair = _REPAIR.format(complaint=wrong, **self._values(prompt))
            messages = [
                *messages,
                {"role": "assistant", "content": prompt.template},
                {"role": "user", "content": repair},
            ]
            prompt, wrong = await self._try(f"{key}/repair", parent, messages)
        return prompt, wrong

    async def _try(self, key: str, parent: Candidate, messages: list[Any]) -> tuple[PromptTemplate, str | None]:
        reply = await self._ask(key, self._settings.apply_edit_model, messages)
        prompt = PromptTemplate(template=_unwrapped(reply.text), engine=parent.prompt_template.engine)
        return prompt, complaint(prompt, self._needed) if reply.whole else "it was cut off before its end; be shorter"

    async def _ask(self, key: str, model: str, messages: list[Any]) -> Reply:
        return await self._writer.ask(key, model, messages, temperature=self._settings.diversity_temperature)

    def _values(self, prompt: PromptTemplate) -> dict[str, Any]:
        return {
            "prompt_template": prompt.template,
            "placeholders": written(self._needed, prompt) or "none",
            "braces": _BRACES if prompt.engine == "f-string" else "",
        }


def _unwrapped(text: str) -> str:
    """Return a prompt without the fence and the tags that a model puts around it although it was told not to."""
    for around in (_FENCED, _TAGGED, _FENCED):
        found = around.fullmatch(text.strip())
        text = found.group(1) if found else text
    return text.strip()
