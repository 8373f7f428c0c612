"""What this package needs of a tokenizer."""

from __future__ import annotations

from typing import Any, Protocol


class Tokenizer(Protocol):
    """The part of transformers' `PreTrainedTokenizerBase` that is used here."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the tokens of `text`."""
        ...

    def decode(self, token_ids: list[int], *, clean_up_tokenization_spaces: bool | None = None) -> Any:
        """Return the text of the tokens, special ones included."""
        ...

    def apply_chat_template(
        self,
        conversation: Any,
        tools: Any = None,
        *,
        add_generation_prompt: bool = False,
        tokenize: bool = True,
    ) -> Any:
        """Return the text, or with `tokenize` the tokens, that the model sees for a conversation."""
        ...


def decode_exactly(tokenizer: Tokenizer, token_ids: list[int]) -> str:
    """Return the text of the tokens as the model said it: special tokens shown, spaces untouched."""
    return tokenizer.decode(token_ids, clean_up_tokenization_spaces=False)
