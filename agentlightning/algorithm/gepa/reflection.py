"""New texts from a reflection model, each of which can be filled like the text that it replaces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from gepa.proposer.reflective_mutation.reflection_lm import ReflectionProposal
from gepa.strategies.instruction_proposal import InstructionProposalSignature

from agentlightning.algorithm.gepa.bridge import Bridge
from agentlightning.algorithm.gepa.history import History
from agentlightning.algorithm.prompt_search import (
    Answer,
    Journal,
    Reply,
    Writer,
    complaint,
    placeholders,
    together,
    written,
)
from agentlightning.errors import ModelError
from agentlightning.types import PromptTemplate

Told: TypeAlias = Sequence[Mapping[str, Any]]
"""What the reflection model is shown of some rollouts."""
Job: TypeAlias = tuple[dict[str, str], Mapping[str, Told], list[str]]
"""A candidate, what is shown for each of its prompts, and the names of the prompts to rewrite."""

_FAILURES: Final = 3
"""So many iterations in a row without an answer end the run: rollouts would only be wasted."""


class Reflector:
    """GEPA's `ReflectionLM`: asks for all the new texts of an iteration at once.

    Args:
        bridge: To the loop where the model is awaited.
        journal: Where it is written down what came of each reflection.
        writer: Asks the model.
        model: Its name.
        seed: The prompts to begin with, whose placeholders a new text needs.
        template: The question, with `<curr_param>` and `<side_info>`; None for GEPA's own.
        history: Gets the texts that cannot be tried.
    """

    def __init__(
        self,
        bridge: Bridge,
        journal: Journal,
        writer: Writer,
        *,
        model: str,
        seed: Mapping[str, PromptTemplate],
        template: str | None,
        history: History,
    ) -> None:
        self._bridge = bridge
        self._journal = journal
        self._writer = writer
        self._model = model
        self._seed = seed
        self._template = template
        self._history = history
        self._jobs = 0
        self._failures = _FAILURES - 1  # a model that never answered is not waited for

    def reflect(
        self, candidate: dict[str, str], reflective_dataset: Mapping[str, Told], components_to_update: list[str]
    ) -> tuple[ReflectionProposal, Reflector]:
        """Rewrite some prompts of one candidate."""
        return self.reflect_many([(candidate, reflective_dataset, components_to_update)])[0]

    def reflect_many(self, jobs: Sequence[Job]) -> list[tuple[ReflectionProposal, Reflector]]:
        """Rewrite prompts of several candidates; a proposal without texts says that there is none."""
        keys = [str(self._jobs + number) for number in range(len(jobs))]
        self._jobs += len(jobs)
        found = self._bridge.wait(self._reflect_all(keys, jobs))
        return [(ReflectionProposal(new_texts=texts), self) for texts in found]

    async def _reflect_all(self, keys: Sequence[str], jobs: Sequence[Job]) -> list[dict[str, str]]:
        asked = [
            (number, f"{key}-{name}", name)
            for number, (key, (_, _, names)) in enumerate(zip(keys, jobs, strict=True))
            for name in names
        ]
        answers = await together(self._rewrite(key, name, *jobs[number][:2]) for number, key, name in asked)
        self._count_failures(answers)
        found: list[dict[str, str]] = [{} for _ in jobs]
        for (number, key, name), answer in zip(asked, answers, strict=True):
            texts, told, _ = jobs[number]
            question = self._asked(name, texts, told)
            if self._journal.find("reflection", key, question) is None:
                self._journal.write("reflection", key, question, answer)
            if answer["reason"] is None:
                found[number][name] = answer["text"]
            else:
                self._history.drop(texts, name, answer["text"], answer["reason"])
        return found

    def _count_failures(self, answers: Sequence[Answer]) -> None:
        failed = [answer["reason"] for answer in answers if answer["text"] is None]
        self._failures = self._failures + 1 if len(failed) == len(answers) else 0
        if self._failures >= _FAILURES:
            raise ModelError(failed[0])

    async def _rewrite(self, key: str, name: str, texts: Mapping[str, str], told: Mapping[str, Told]) -> Answer:
        """Return a new text for a prompt, or the reason why there is none.

        It is written down also where the model did not answer: a run that goes on takes the same way.
        """
        known = self._journal.find("reflection", key, self._asked(name, texts, told))
        if known is not None:
            return known
        try:
            return await self._proposal(key, name, texts[name], told[name])
        except ModelError as error:
            return {"text": None, "reason": str(error)}

    async def _proposal(self, key: str, name: str, text: str, told: Told) -> Answer:
        """Ask for a text; one that cannot stand in for the present one goes back once."""
        messages = [{"role": "user", "content": self._question(self._seed[name], text, told)}]
        reply = await self._writer.ask(key, self._model, messages)
        proposed, wrong = self._read(name, text, reply)
        if wrong is not None:
            messages += [
                {"role": "assistant", "content": reply.text},
                {"role": "user", "content": f"This cannot be used: {wrong}. Write the whole text once more."},
            ]
            reply = await self._writer.ask(f"{key}-again", self._model, messages)
            proposed, wrong = self._read(name, text, reply)
        return {"text": proposed, "reason": wrong}

    def _read(self, name: str, present: str, reply: Reply) -> tuple[str, str | None]:
        """Return the text in an answer, and what is wrong with it."""
        text = InstructionProposalSignature.output_extractor(reply.text.strip())["new_instruction"]
        if not reply.whole:
            return text, "the answer was cut off"
        if text == present:
            return text, "it is what it shall replace"
        prompt = self._seed[name]
        return text, complaint(prompt.model_copy(update={"template": text}), placeholders(prompt))

    def _question(self, prompt: PromptTemplate, text: str, told: Told) -> str:
        asked = InstructionProposalSignature.prompt_renderer(
            {"current_instruction_doc": text, "dataset_with_feedback": told, "prompt_template": self._template}
        )
        needed = placeholders(prompt)
        if not needed:
            return str(asked)
        return (
            f"{asked}\n\nThe text is a template ({prompt.engine}) that is filled in for each task. "
            f"Keep every placeholder, written as it is, and add none: {written(needed, prompt)}"
        )

    def _asked(self, name: str, texts: Mapping[str, str], told: Mapping[str, Told]) -> dict[str, Any]:
        """Return all that decides what the model is asked, as JSON."""
        return {
            "prompt": name,
            "of": dict(texts),
            "told": told[name],
            "model": self._model,
            "template": self._template,
        }
