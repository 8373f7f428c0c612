"""Streams of Chat Completions and Completions: what in them is not the client's, and the answer they amount to."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, cast

from agentlightning.llm_proxy.sse import read_stream, split_events

_NO_CHOICES: Final = re.compile(rb'"choices"\s*:\s*\[\s*\]')
_DONE: Final = b"[DONE]"
_LAST: Final = re.compile(rb"^data:\s*\[DONE\]", re.MULTILINE)
_ROLE: Final = re.compile(rb'"role"\s*:')
_SAYS: Final = re.compile(
    rb'"(?:content|reasoning_content|reasoning|refusal|name|arguments|finish_reason)"\s*:\s*"[^"]|"token_ids"\s*:\s*\[\s*\d'
)
"""Found outside of texts only, in which quotation marks are escaped; so is the role."""
_NEVER_IN_PIECES: Final = frozenset({"role", "id", "type", "finish_reason", "stop_reason"})
"""Texts that each chunk holds whole, if at all; all others are continued by the next chunk's."""

Json = dict[str, Any]


def holds_end(events: bytes) -> bool:
    """Whether the last event, behind which a client waits for nothing, is among these."""
    return _DONE in events and _LAST.search(events) is not None


def says_nothing(events: bytes) -> bool:
    """Whether these events give the role and nothing of the answer."""
    return _ROLE.search(events) is not None and _SAYS.search(events) is None


def without_usage_chunk(events: bytes) -> bytes:
    """Return the events without the chunk that holds only the usage: it is there because the gateway asked for it."""
    if not _NO_CHOICES.search(events):
        return events
    return b"".join(event for event in split_events(events) if not _is_usage_chunk(event))


def begins_another(piece: Json, known_id: Any) -> bool:
    """Whether a piece of a tool call goes on with none, though its index is that of the call with this id.

    Some backends give all calls the index 0; others name a call again, or the id alone anew, in each of its pieces.
    """
    function: Json = piece.get("function") or {}
    return bool(function.get("name") and known_id and piece.get("id") and piece["id"] != known_id)


def merge_chunks(chunks: Iterable[Json]) -> Json:
    """Return the answer that the same request would have got without streaming.

    Raises:
        TypeError: The chunks do not fit together; so say the errors below.
        KeyError: See there.
        AttributeError: See there.
    """
    merged = MergedChunks()
    merged.add(chunks)
    return merged.whole()


class MergedChunks:
    """The answer that a stream amounts to, as far as it has been added."""

    def __init__(self) -> None:
        self._reply: Json = {}
        self._choices: dict[int, Json] = {}
        self._texts: list[tuple[Json, str]] = []

    def add(self, chunks: Iterable[Json]) -> None:
        """Go on with the next chunks; raises what `merge_chunks` raises."""
        reply = self._reply
        for chunk in chunks:
            for key, value in chunk.items():
                if key != "choices" and value is not None and (key == "usage" or key not in reply):
                    reply[key] = value
            for piece in chunk.get("choices") or ():
                self._merge(self._choices.setdefault(piece["index"], {}), piece)

    def whole(self) -> Json:
        """Return the answer; nothing can be added any more."""
        for holder, key in self._texts:
            if isinstance(text := holder[key], _Text):
                holder[key] = "".join(text.pieces)
        return self._reply | {"choices": [_whole(self._choices[index]) for index in sorted(self._choices)]}

    def _merge(self, target: Json, piece: Json) -> None:
        """Continue texts and lists, merge objects, and let all else replace what was there."""
        for key, value in piece.items():
            if value is None:
                target.setdefault(key, None)
            elif isinstance(value, str) and key not in _NEVER_IN_PIECES:
                self._continue_text(target, key, value)
            elif isinstance(value, dict):
                target[key] = target.get(key) or {}
                self._merge(target[key], cast("Json", value))
            elif isinstance(value, list):
                target[key] = target.get(key) or []
                self._continue_list(target[key], cast("list[Any]", value))
            else:
                target[key] = value

    def _continue_text(self, target: Json, key: str, more: str) -> None:
        if text := target.get(key):
            text.pieces.append(more)
        else:
            target[key] = _Text([more])
            self._texts.append((target, key))

    def _continue_list(self, items: list[Any], more: list[Any]) -> None:
        """Append items, but for those whose index says that they go on with an earlier one, as tool calls do."""
        for item in more:
            piece = cast("Json", item) if isinstance(item, dict) else None
            index = None if piece is None else piece.get("index")
            if piece is None or index is None:
                items.append(item)
                continue
            earlier = next((each for each in reversed(items) if each.get("index") == index), None)
            if earlier is None or begins_another(piece, earlier.get("id")):
                items.append(earlier := dict[str, Any]())
            self._merge(earlier, piece)


@dataclass(slots=True)
class _Text:
    """A text whose pieces are put together once, at the end."""

    pieces: list[str]


def _is_usage_chunk(event: bytes) -> bool:
    try:
        chunks = read_stream(event)
    except ValueError:
        return False  # not ours to judge: it goes on to the client
    return any(chunk.get("choices") == [] and chunk.get("usage") for chunk in chunks)


def _whole(choice: Json) -> Json:
    """Return a choice as it looks in an answer that is not streamed."""
    if "delta" not in choice:
        return choice
    message: Json = {"role": "assistant", "content": None} | choice.pop("delta")
    for call in message.get("tool_calls") or ():
        call.pop("index", None)
    return choice | {"message": message}
