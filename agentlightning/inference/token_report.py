"""Log-probabilities of an answer's tokens, as OpenAI's replies and streams carry them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from typing import Any

from agentlightning.inference.tokenizer import Tokenizer, decode_exactly

Json = dict[str, Any]


class TokenReport:
    """Names tokens by their texts.

    Args:
        tokenizer: Decodes them.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        @cache  # at most the vocabulary: every captured call asks for the text of each of its tokens
        def token_text(token_id: int) -> str:
            return decode_exactly(tokenizer, [token_id])

        self._token_text = token_text

    def chat(self, token_ids: Sequence[int], logprobs: Sequence[float]) -> Json:
        """Return the `logprobs` of a chat choice."""
        content = [
            {"token": text, "logprob": logprob, "bytes": _utf8(text), "top_logprobs": []}
            for text, logprob in zip(self._texts(token_ids), logprobs, strict=True)
        ]
        return {"content": content, "refusal": None}

    def completion(self, token_ids: Sequence[int], logprobs: Sequence[float], offset: int = 0) -> Json:
        """Return the `logprobs` of a completion's choice; `offset` is the length of all earlier tokens' texts."""
        texts = self._texts(token_ids)
        return {
            "tokens": texts,
            "token_logprobs": list(logprobs),
            "top_logprobs": None,
            "text_offset": list(accumulate(map(len, texts), initial=offset))[:-1],
        }

    def length(self, token_ids: Sequence[int]) -> int:
        """Return the length of the tokens' texts."""
        return sum(map(len, self._texts(token_ids)))

    def _texts(self, token_ids: Sequence[int]) -> list[str]:
        return [self._token_text(token_id) for token_id in token_ids]


def _utf8(text: str) -> list[int] | None:
    """The bytes of a token's text; None for part of a character, which has no text."""
    return None if "\N{REPLACEMENT CHARACTER}" in text else list(text.encode())
