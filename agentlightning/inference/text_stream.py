"""The text of an answer while it is sampled: only what is certain is passed on, in whole characters."""

from __future__ import annotations

from collections.abc import Sequence

from agentlightning.inference.tokenizer import Tokenizer, decode_exactly

_PART_OF_A_CHARACTER = "\N{REPLACEMENT CHARACTER}"


class TextStream:
    """Turns the tokens of one answer, as they come, into the text that `answer_text` returns of all of them.

    For tokenizers that fall back to bytes (Llama 2) this holds while the bytes are text: there a byte that is none
    takes back the characters before it, and those have been passed on.

    Args:
        tokenizer: Decodes the tokens.
        end_token_ids: Tokens that are not part of the text.
        stop: The strings that the text ends before.
    """

    def __init__(self, tokenizer: Tokenizer, end_token_ids: frozenset[int], stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._end_token_ids = end_token_ids
        # Those whose text was returned last, for some tokenizers' text of a token depends on the token before it;
        # then those whose text is not complete.
        self._token_ids: list[int] = []
        self._returned = 0
        self._cutter = _StopCutter(stop)

    def feed(self, token_ids: Sequence[int], *, last: bool) -> str:
        """Return the text that is certain by now and was not returned before; with the `last` tokens all of it."""
        self._token_ids += [token_id for token_id in token_ids if token_id not in self._end_token_ids]
        text = self._cutter.feed(self._new_text(last))
        return text + self._cutter.close() if last else text

    def _new_text(self, last: bool) -> str:
        before = decode_exactly(self._tokenizer, self._token_ids[: self._returned])
        text = decode_exactly(self._tokenizer, self._token_ids)
        if len(text) <= len(before) or (text.endswith(_PART_OF_A_CHARACTER) and not last):
            return ""
        del self._token_ids[: self._returned]
        self._returned = len(self._token_ids)
        return text[len(before) :]


class _StopCutter:
    """Passes text on up to the first stop string, and holds back what may be the beginning of one."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = stop
        self._held: str = ""
        self._cut = False

    def feed(self, text: str) -> str:
        if self._cut:
            return ""
        text = self._held + text
        end = stop_position(text, self._stop)
        self._cut = end is not None
        if end is None:
            end = len(text) - held_length(text, self._stop)
        self._held = text[end:]
        return text[:end]

    def close(self) -> str:
        return "" if self._cut else self._held


def stop_position(text: str, stop: Sequence[str]) -> int | None:
    """Return where the first of the stop strings begins, or None."""
    return min((position for word in stop if (position := text.find(word)) >= 0), default=None)


def held_length(text: str, words: Sequence[str]) -> int:
    """Return how much of a text's end may be the beginning of one of the words."""
    longest = min(len(text), max(map(len, words), default=0))
    return next((length for length in range(longest, 0, -1) if _begins(text[-length:], words)), 0)


def _begins(text: str, words: Sequence[str]) -> bool:
    return any(word.startswith(text) for word in words)
