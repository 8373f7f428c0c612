"""The page on prompt optimisation names every setting of APO with its default, and all that its texts are given."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import agentlightning as agl
from agentlightning.algorithm.apo.prompt_files import GIVEN

PAGE = (Path(__file__).parents[3] / "docs" / "prompt_optimisation.md").read_text("utf-8")


def rows(heading: str) -> dict[str, str]:
    """The first column of the table below a heading, and the second."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| `(\w+)` \| ([^|]*?) \|", section, re.MULTILINE))


def test_every_setting_is_listed_with_its_default() -> None:
    listed = rows("Settings")
    parameters = inspect.signature(agl.APO).parameters
    assert listed == {
        name: "needed" if parameter.default is parameter.empty else f"`{parameter.default!r}`"
        for name, parameter in parameters.items()
    }


def test_everything_that_a_text_is_given_is_listed() -> None:
    listed = rows("Your own words for critics and editors")
    given = {name: [purpose for purpose, names in GIVEN.items() if name in names] for name in listed}
    assert given.keys() == GIVEN["critique"] | GIVEN["edit"]
    assert {name: "both" if len(purposes) == 2 else purposes[0] for name, purposes in given.items()} == listed
