"""What the gateway promises for each API: the cells that test_protocols.py checks and docs/gateway.md shows."""

from __future__ import annotations

from typing import Final

APIS: Final = ("Chat Completions", "Responses", "Messages")
FEATURES: Final = (
    "text",
    "stream",
    "tools",
    "parallel tools",
    "structured output",
    "reasoning",
    "images",
    "n > 1",
    "error",
    "disconnect",
    "cancel",
)
YES: Final = "yes"
ABSENT: Final = "not in this API; refused with 400"

_NOTES: Final = {
    ("stream", "Chat Completions"): "the backend's events as they come",
    ("stream", "Responses"): "each event made of what has come",
    ("stream", "Messages"): "each event made of what has come",
    ("tools", "Messages"): "yes; arguments go back to the model as it wrote them",
    ("structured output", "Responses"): "yes, `text.format`",
    ("structured output", "Messages"): "yes, `output_config.format`",
    ("reasoning", "Responses"): "reasoning items, and back",
    ("reasoning", "Messages"): "thinking blocks, and back",
    ("reasoning", "Chat Completions"): "`reasoning_content`, `reasoning`",
    ("n > 1", "Responses"): ABSENT,
    ("n > 1", "Messages"): ABSENT,
    ("error", "Messages"): "in Anthropic's form",
    ("error", "Responses"): "in OpenAI's form",
    ("error", "Chat Completions"): "in OpenAI's form",
    **{("disconnect", api): "the backend stops; recorded as partial" for api in APIS},
    **{("cancel", api): "the backend stops; recorded as failed" for api in APIS},
}


def note(feature: str, api: str) -> str:
    """What a cell says."""
    return _NOTES.get((feature, api), YES)


def table() -> str:
    """The matrix in Markdown."""
    head = f"| | {' | '.join(APIS)} |\n|---|{'---|' * len(APIS)}\n"
    return head + "".join(f"| {feature} | {' | '.join(note(feature, api) for api in APIS)} |\n" for feature in FEATURES)
