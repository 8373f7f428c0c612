"""What the gateway promises for each API: the cells that the tests of protocols check and docs/gateway.md shows."""

from __future__ import annotations

from typing import Final

APIS: Final = ("Chat Completions", "Responses", "Messages")
PLAIN: Final = ("Completions", "Embeddings, models")
"""Those that have few of the features."""
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

_PLAIN_NOTES: Final = {
    ("text", "Completions"): YES,
    ("stream", "Completions"): "the backend's events as they come",
    ("n > 1", "Completions"): YES,
    ("error", "Completions"): "in OpenAI's form",
    ("disconnect", "Completions"): "the backend stops; recorded as partial",
    ("cancel", "Completions"): "the backend stops; recorded as failed",
    ("text", "Embeddings, models"): "yes; not recorded",
    ("error", "Embeddings, models"): "in OpenAI's form; not recorded",
    ("cancel", "Embeddings, models"): "the backend stops; not recorded",
}
PLAIN_CELLS: Final = tuple(_PLAIN_NOTES)


def note(feature: str, api: str) -> str:
    """What a cell says."""
    return _PLAIN_NOTES.get((feature, api), "") if api in PLAIN else _NOTES.get((feature, api), YES)


def table() -> str:
    """The matrix in Markdown."""
    columns = APIS + PLAIN
    head = f"| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}\n"
    return head + "".join(f"| {' | '.join([name, *(note(name, api) for api in columns)])} |\n" for name in FEATURES)
