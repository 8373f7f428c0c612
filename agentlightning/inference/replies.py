"""The OpenAI-shaped replies that the server writes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache
from typing import Any

from agentlightning._internal.ids import generate_id
from agentlightning.inference.chat import answer_text, assistant_message
from agentlightning.inference.protocol import ChatRequest, CompletionRequest, GenerationRequest
from agentlightning.inference.sampler import Completion
from agentlightning.inference.tokenizer import Tokenizer, decode_exactly
from agentlightning.inference.tool_calls import ToolParser

Json = dict[str, Any]


class ReplyWriter:
    """Writes the replies of one model.

    Args:
        tokenizer: Decodes answers.
        end_token_ids: The tokens that end an answer and are not part of its text.
        parse_tool_calls: Finds the tool calls in an answer.
    """

    def __init__(self, tokenizer: Tokenizer, end_token_ids: frozenset[int], parse_tool_calls: ToolParser) -> None:
        self._tokenizer = tokenizer
        self._end_token_ids = end_token_ids
        self._parse_tool_calls = parse_tool_calls

        @cache  # at most the vocabulary: every captured call asks for the text of each of its tokens
        def token_text(token_id: int) -> str:
            return decode_exactly(tokenizer, [token_id])

        self._token_text = token_text

    def chat(self, request: ChatRequest, prompt: Sequence[int], completions: Sequence[Completion]) -> Json:
        """Return the reply to a chat request."""
        choices = [self._chat_choice(request, index, completion) for index, completion in enumerate(completions)]
        return _reply("chat.completion", "chatcmpl", request, prompt, completions, choices)

    def completion(self, request: CompletionRequest, prompt: Sequence[int], completions: Sequence[Completion]) -> Json:
        """Return the reply to a completion request."""
        choices = [self._text_choice(request, index, completion) for index, completion in enumerate(completions)]
        return _reply("text_completion", "cmpl", request, prompt, completions, choices)

    def _chat_choice(self, request: ChatRequest, index: int, completion: Completion) -> Json:
        text = self._text(request, completion)
        message = assistant_message(text, self._parse_tool_calls if request.offered_tools() else None)
        finish_reason: str = completion.finish_reason
        if "tool_calls" in message and finish_reason == "stop":
            finish_reason = "tool_calls"
        choice: Json = {"index": index, "message": message, "logprobs": None, "finish_reason": finish_reason}
        if request.logprobs:
            choice["logprobs"] = {"content": self._chat_logprobs(completion), "refusal": None}
        return choice

    def _text_choice(self, request: CompletionRequest, index: int, completion: Completion) -> Json:
        text = self._text(request, completion)
        choice: Json = {"index": index, "text": text, "logprobs": None, "finish_reason": completion.finish_reason}
        if request.logprobs is not None:
            tokens = self._token_texts(completion)
            choice["logprobs"] = {
                "tokens": tokens,
                "token_logprobs": completion.logprobs,
                "top_logprobs": None,
                "text_offset": _offsets(tokens),
            }
        return choice

    def _text(self, request: GenerationRequest, completion: Completion) -> str:
        return answer_text(self._tokenizer, completion, self._end_token_ids, request.stop_strings())

    def _chat_logprobs(self, completion: Completion) -> list[Json]:
        return [
            {"token": text, "logprob": logprob, "bytes": _utf8(text), "top_logprobs": []}
            for text, logprob in zip(self._token_texts(completion), completion.logprobs, strict=True)
        ]

    def _token_texts(self, completion: Completion) -> list[str]:
        return [self._token_text(token_id) for token_id in completion.token_ids]


def _reply(
    kind: str,
    id_prefix: str,
    request: GenerationRequest,
    prompt: Sequence[int],
    completions: Sequence[Completion],
    choices: list[Json],
) -> Json:
    sampled = sum(len(completion.token_ids) for completion in completions)
    reply: Json = {
        "id": f"{id_prefix}-{generate_id(24)}",
        "object": kind,
        "created": int(time.time()),
        "model": request.model,
        "choices": choices,
        "usage": {
            "prompt_tokens": len(prompt),
            "completion_tokens": sampled,
            "total_tokens": len(prompt) + sampled,
        },
        # The oldest, should an update have come between the answers of one request.
        "weights_version": min(completion.weights_version for completion in completions),
    }
    if request.return_token_ids:
        reply["prompt_token_ids"] = list(prompt)
        for choice, completion in zip(choices, completions, strict=True):
            choice["token_ids"] = completion.token_ids
    return reply


def _utf8(text: str) -> list[int] | None:
    """The bytes of a token's text; None for part of a character, which has no text."""
    return None if "\N{REPLACEMENT CHARACTER}" in text else list(text.encode())


def _offsets(texts: Sequence[str]) -> list[int]:
    """Where each text starts when they are put together."""
    offsets = [0]
    for text in texts[:-1]:
        offsets.append(offsets[-1] + len(text))
    return offsets
