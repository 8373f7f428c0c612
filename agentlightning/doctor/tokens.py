"""The scripted model's tokenizer and chat template: exact, stateless, and the same everywhere.

A token is two ASCII characters or one of any kind, so every token has a text, and a conversation that an agent gives
back unchanged starts with exactly the tokens that it was answered with.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from typing import Any, Final, cast

START: Final = 1
END: Final = 2
_CHARACTER: Final = 16
"""Where single characters begin, in the order of Unicode."""
_PAIR: Final = _CHARACTER + 0x110000
"""Where pairs of ASCII characters begin."""
_MARKS: Final = {START: "<|im_start|>", END: "<|im_end|>"}

Json = dict[str, Any]


def encode(text: str, *, pairs: bool = True) -> list[int]:
    """Return the tokens of a text.

    Args:
        text: The text.
        pairs: Whether pairs of ASCII characters become one token; other tokens of the same text otherwise.
    """
    tokens: list[int] = []
    index = 0
    while index < len(text):
        two = text[index : index + 2]
        if pairs and len(two) == 2 and two.isascii():
            tokens.append(_PAIR + ord(two[0]) * 128 + ord(two[1]))
            index += 2
        else:
            tokens.append(_CHARACTER + ord(two[0]))
            index += 1
    return tokens


def text_of(token: int) -> str:
    """Return the text of one token."""
    if token in _MARKS:
        return _MARKS[token]
    if token < _PAIR:
        return chr(token - _CHARACTER)
    return "".join(map(chr, divmod(token - _PAIR, 128)))


def decode(tokens: Iterable[int]) -> str:
    """Return the text of tokens."""
    return "".join(map(text_of, tokens))


def render_prompt(messages: Sequence[Json], tools: Sequence[Json] | None, *, retokenise: bool = False) -> list[int]:
    """Return the tokens of a conversation, up to where the model begins to write.

    Args:
        messages: The messages, in OpenAI's form.
        tools: The offered tools.
        retokenise: Whether the model's earlier answers get other tokens than it wrote.
    """
    tokens: list[int] = _turn("system", [json.dumps(tools)]) if tools else []
    for message in messages:
        role = message["role"]
        tokens += _turn(role, segments(message), pairs=not (retokenise and role == "assistant"))
    return [*tokens, START, *encode("assistant\n")]


def segments(message: Json) -> list[str]:
    """Return a message's text in pieces, each of which has tokens of its own; the arguments of a tool call are one."""
    pieces = [_content_text(message.get("content"))]
    for call in message.get("tool_calls") or ():
        function = call["function"]
        opening = f'<tool_call>{{"name": "{function["name"]}", "arguments": '
        pieces += [opening, function["arguments"], "}</tool_call>"]
    return [piece for piece in pieces if piece]


def _turn(role: str, pieces: Sequence[str], *, pairs: bool = True) -> list[int]:
    body = itertools.chain.from_iterable(encode(piece, pairs=pairs) for piece in pieces)
    return [START, *encode(f"{role}\n"), *body, END]


def _content_text(content: Any) -> str:
    if isinstance(content, list):
        parts = cast("list[Json]", content)
        return "".join(part["text"] if part.get("type") == "text" else json.dumps(part) for part in parts)
    return content or ""
