"""What this package needs of a transformers tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Tokenizer(Protocol):
    """The part of `PreTrainedTokenizerBase` that is used here, typed."""

    eos_token_id: int | None

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the tokens of `text`."""
        ...

    def decode(self, token_ids: Sequence[int], *, clean_up_tokenization_spaces: bool = ...) -> str:
        """Return the text of the tokens, special ones included."""
        ...

    def apply_chat_template(
        self,
        conversation: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None,
        add_generation_prompt: bool,
        tokenize: bool,
    ) -> str:
        """Return the text that the model sees for a conversation."""
        ...
