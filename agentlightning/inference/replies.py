"""The OpenAI-shaped replies that the server writes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from agentlightning._internal.ids import generate_id
from agentlightning.inference.chat import answer_text
from agentlightning.inference.message import assistant_message
from agentlightning.inference.protocol import ChatRequest, CompletionRequest, GenerationRequest
from agentlightning.inference.sampler import Completion
from agentlightning.inference.token_report import TokenReport
from agentlightning.inference.tokenizer import Tokenizer
from agentlightning.inference.tool_calls import ToolParser

Json = dict[str, Any]


class ReplyWriter:
    """Writes the replies of one model.

    Args:
        tokenizer: Decodes answers.
        end_token_ids: The tokens that end an answer and are not part of its text.
        make_parser: Makes what finds the tool calls in an answer.
    """

    def __init__(
        self, tokenizer: Tokenizer, end_token_ids: frozenset[int], make_parser: Callable[[], ToolParser]
    ) -> None:
        self._tokenizer = tokenizer
        self._end_token_ids = end_token_ids
        self._make_parser = make_parser
        self._report = TokenReport(tokenizer)

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
        message = assistant_message(text, self._make_parser() if request.offered_tools() else None)
        reason = chat_finish_reason(completion.finish_reason, called="tool_calls" in message)
        choice: Json = {"index": index, "message": message, "logprobs": None, "finish_reason": reason}
        if request.logprobs:
            choice["logprobs"] = self._report.chat(completion.token_ids, completion.logprobs)
        return choice

    def _text_choice(self, request: CompletionRequest, index: int, completion: Completion) -> Json:
        text = self._text(request, completion)
        choice: Json = {"index": index, "text": text, "logprobs": None, "finish_reason": completion.finish_reason}
        if request.logprobs is not None:
            choice["logprobs"] = self._report.completion(completion.token_ids, completion.logprobs)
        return choice

    def _text(self, request: GenerationRequest, completion: Completion) -> str:
        return answer_text(self._tokenizer, completion, self._end_token_ids, request.stop_strings())


def reply_head(kind: str, id_prefix: str, model: str) -> Json:
    """Return the fields with which every reply, and every chunk of a stream, begins."""
    return {"id": f"{id_prefix}-{generate_id(24)}", "object": kind, "created": int(time.time()), "model": model}


def usage(prompt: Sequence[int], sampled: int) -> Json:
    """Return how many tokens were read and sampled."""
    return {"prompt_tokens": len(prompt), "completion_tokens": sampled, "total_tokens": len(prompt) + sampled}


def chat_finish_reason(reason: str, *, called: bool) -> str:
    """Return a chat choice's finish reason: an answer that ends by itself with calls in it ends for them."""
    return "tool_calls" if called and reason == "stop" else reason


def _reply(
    kind: str,
    id_prefix: str,
    request: GenerationRequest,
    prompt: Sequence[int],
    completions: Sequence[Completion],
    choices: list[Json],
) -> Json:
    reply: Json = {
        **reply_head(kind, id_prefix, request.model),
        "choices": choices,
        "usage": usage(prompt, sum(len(completion.token_ids) for completion in completions)),
        # The oldest, should an update have come between the answers of one request.
        "weights_version": min(completion.weights_version for completion in completions),
    }
    if request.return_token_ids:
        reply["prompt_token_ids"] = list(prompt)
        for choice, completion in zip(choices, completions, strict=True):
            choice["token_ids"] = completion.token_ids
    return reply
