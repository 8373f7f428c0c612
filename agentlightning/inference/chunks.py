"""The OpenAI-shaped chunks of an answer that is streamed: put together, they are the reply of `ReplyWriter`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from agentlightning.inference.message import MessageStream
from agentlightning.inference.protocol import ChatRequest, CompletionRequest
from agentlightning.inference.replies import chat_finish_reason, reply_head, usage
from agentlightning.inference.sampler import CompletionPart
from agentlightning.inference.text_stream import TextStream
from agentlightning.inference.token_report import TokenReport
from agentlightning.inference.tokenizer import Tokenizer
from agentlightning.inference.tool_calls import ToolParser

Json = dict[str, Any]
Parts = AsyncGenerator[tuple[int, CompletionPart]]
"""What is sampled for a request, with the number of the answer that it is part of."""


class ChunkWriter:
    """Writes the streams of one model.

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

    def chat(self, request: ChatRequest, prompt: Sequence[int], parts: Parts) -> AsyncGenerator[Json]:
        """Yield the chunks of the answer to a chat request."""
        head = reply_head("chat.completion.chunk", "chatcmpl", request.model)
        choices = [self._chat_choice(request, index) for index in range(request.n)]
        return _chunks(head, request, prompt, parts, choices)

    def completion(self, request: CompletionRequest, prompt: Sequence[int], parts: Parts) -> AsyncGenerator[Json]:
        """Yield the chunks of the answer to a completion request."""
        head = reply_head("text_completion", "cmpl", request.model)
        choices = [self._text_choice(request, index) for index in range(request.n)]
        return _chunks(head, request, prompt, parts, choices)

    def _chat_choice(self, request: ChatRequest, index: int) -> _Choice:
        parser = self._make_parser() if request.offered_tools() else None
        return _ChatChoice(request, index, self._text(request), self._report, MessageStream(parser))

    def _text_choice(self, request: CompletionRequest, index: int) -> _Choice:
        return _TextChoice(request, index, self._text(request), self._report)

    def _text(self, request: ChatRequest | CompletionRequest) -> TextStream:
        return TextStream(self._tokenizer, self._end_token_ids, request.stop_strings())


class _ChatChoice:
    """One answer to a chat request."""

    def __init__(
        self, request: ChatRequest, index: int, text: TextStream, report: TokenReport, message: MessageStream
    ) -> None:
        self._request = request
        self._index = index
        self._text = text
        self._report = report
        self._message = message
        self._role: Json = {"role": "assistant"}

    def write(self, part: CompletionPart) -> list[Json]:
        last = part.finish_reason is not None
        first, *others = self._message.feed(self._text.feed(part.token_ids, last=last), last=last) or [{}]
        choices = [self._choice(self._role | first), *map(self._choice, others)]
        self._role = {}
        if self._request.logprobs:
            choices[0]["logprobs"] = self._report.chat(part.token_ids, part.logprobs)
        if self._request.return_token_ids:
            for choice, token_ids in zip(choices, [part.token_ids, *[[]] * len(others)], strict=True):
                choice["token_ids"] = token_ids
        if part.finish_reason is not None:
            choices[-1]["finish_reason"] = chat_finish_reason(part.finish_reason, called=self._message.calls > 0)
        return [choice for choice in choices if _says_something(choice)]

    def _choice(self, delta: Json) -> Json:
        return {"index": self._index, "delta": delta, "logprobs": None, "finish_reason": None}


class _TextChoice:
    """One answer to a completion request."""

    def __init__(self, request: CompletionRequest, index: int, text: TextStream, report: TokenReport) -> None:
        self._request = request
        self._index = index
        self._text = text
        self._report = report
        self._offset = 0

    def write(self, part: CompletionPart) -> list[Json]:
        text = self._text.feed(part.token_ids, last=part.finish_reason is not None)
        choice: Json = {"index": self._index, "text": text, "logprobs": None, "finish_reason": part.finish_reason}
        if self._request.logprobs is not None:
            choice["logprobs"] = self._report.completion(part.token_ids, part.logprobs, self._offset)
            self._offset += self._report.length(part.token_ids)
        if self._request.return_token_ids:
            choice["token_ids"] = part.token_ids
        return [choice] if _says_something(choice) else []


def _says_something(choice: Json) -> bool:
    """Whether a client learns anything from it: text that is held back may leave nothing else to say."""
    return any(value for key, value in choice.items() if key != "index")


_Choice = _ChatChoice | _TextChoice


async def _chunks(
    head: Json, request: ChatRequest | CompletionRequest, prompt: Sequence[int], parts: Parts, choices: list[_Choice]
) -> AsyncGenerator[Json]:
    first: Json = {"prompt_token_ids": list(prompt)} if request.return_token_ids else {}
    sampled = 0
    async with aclosing(parts):
        async for index, part in parts:
            if sampled == 0:
                first["weights_version"] = part.weights_versions[0]
            sampled += len(part.token_ids)
            for choice in choices[index].write(part):
                yield {**head, **first, "choices": [choice]}
                first = {}
    if request.wants_usage():
        yield {**head, "choices": [], "usage": usage(prompt, sampled)}
