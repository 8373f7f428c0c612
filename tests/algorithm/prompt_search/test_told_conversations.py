from __future__ import annotations

from typing import Any

import pytest

from agentlightning.algorithm.prompt_search import told_once

ASKED = {"role": "user", "content": "Does it rain?"}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "look"}}]}
NO, YES = ({"role": "assistant", "content": text} for text in ("No.", "Yes."))


@pytest.mark.parametrize(
    ("earlier", "later", "told"),
    [
        ([ASKED, NO], [ASKED, NO, ASKED], 1),
        ([ASKED, CALL], [ASKED, CALL | {"content": "", "refusal": None}, ASKED], 1),
        ([ASKED, CALL | {"content": ""}], [ASKED, {k: v for k, v in CALL.items() if k != "content"}, ASKED], 1),
        ([ASKED, NO], [ASKED, YES, ASKED], 2),
        ([ASKED, NO], [ASKED, YES], 2),
        ([ASKED, NO, ASKED], [ASKED, NO], 2),
    ],
    ids=["goes on", "empty", "left out", "other sample goes on", "other sample", "shorter"],
)
def test_a_conversation_is_told_once_and_another_sample_is_told_too(
    earlier: list[dict[str, Any]], later: list[dict[str, Any]], told: int
) -> None:
    found = told_once([{"messages": earlier, "tools": None}, {"messages": later, "tools": None}])
    assert found == [earlier, later][-told:]
