from __future__ import annotations

import asyncio

import pytest
from prompt_landscape import SEED, Optimiser

from agentlightning.algorithm.apo import APO, Candidate
from agentlightning.algorithm.apo.prompt_files import read_prompt_files
from agentlightning.algorithm.apo.proposer import Proposer
from agentlightning.algorithm.prompt_search import Journal, Writer

BLOCKS = "```\nSolve {task}.\n```\nlike\n```\nthis\n```"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("Do {task}.", "Do {task}."),
        ("```text\nDo {task}.\n```", "Do {task}."),
        ("Here it is:\n```\nDo {task}.\n```\n", "Do {task}."),
        ("<prompt>\nDo {task}.\n</prompt>", "Do {task}."),
        ("Sure, the new prompt:\n\n<prompt>Do {task}.</prompt>", "Do {task}."),
        ("```xml\n<prompt>\nDo {task}.\n</prompt>\n```", "Do {task}."),
        ("<prompt>\n```\nDo {task}.\n```\n</prompt>", "Do {task}."),
        (BLOCKS, BLOCKS),
        ("Answer in this form:\n```\n{task}\n```", "Answer in this form:\n```\n{task}\n```"),
    ],
)
def test_what_a_model_puts_around_a_prompt_is_taken_off(answer: str, text: str) -> None:
    client = Optimiser(spoil=lambda number, said: answer)
    algorithm = APO[str](client)
    ways = read_prompt_files("critique", None), read_prompt_files("edit", None)
    proposer = Proposer(
        Writer(client, Journal(None), at_once=1),
        algorithm._settings,  # pyright: ignore[reportPrivateUsage]
        frozenset({"task"}),
        *ways,
    )
    made = asyncio.run(proposer.propose("1", Candidate("v0", SEED), [], (ways[0][0], ways[1][0])))
    assert made.prompt_template is not None
    assert made.prompt_template.template == text
