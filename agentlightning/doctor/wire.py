"""The scripted model's answers in OpenAI's form, whole and as a stream, with vLLM's exact tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agentlightning.doctor.script import Reply
from agentlightning.doctor.tokens import END, encode, segments, text_of

_CREATED: Final = 1_700_000_000
"""When every answer was made: nothing here depends on the time."""
_CHUNK_TOKENS: Final = 4

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """All choices of one answer.

    Attributes:
        label: Names this answer of all that are given by all servers of a test.
        request: What is answered.
        prompt: The prompt's tokens.
        replies: One for each choice.
        token_ids: Whether the tokens are named when the request asks for them.
    """

    label: str
    request: Json
    prompt: Sequence[int]
    replies: Sequence[Reply]
    token_ids: bool

    @property
    def names_tokens(self) -> bool:
        """Whether the tokens are part of the answer."""
        return self.token_ids and bool(self.request.get("return_token_ids"))

    def message(self, choice: int) -> Json:
        """Return a choice as a message."""
        reply = self.replies[choice]
        if not reply.tool_calls:
            return {"role": "assistant", "content": reply.content}
        calls = [
            {
                "id": f"call_{self.label}_{choice}_{index}",
                "type": "function",
                "function": {"name": call.name, "arguments": call.text},
            }
            for index, call in enumerate(reply.tool_calls)
        ]
        return {"role": "assistant", "content": reply.content or None, "tool_calls": calls}

    def sampled(self, choice: int) -> list[int]:
        """Return the tokens of a choice, the end of its turn included."""
        return [token for piece in segments(self.message(choice)) for token in encode(piece)] + [END]

    def usage(self) -> Json:
        """Return the counts of tokens."""
        completion = sum(len(self.sampled(choice)) for choice in range(len(self.replies)))
        return {
            "prompt_tokens": len(self.prompt),
            "completion_tokens": completion,
            "total_tokens": len(self.prompt) + completion,
        }


def logprob_of(token: int) -> float:
    """Return the log-probability with which the scripted model samples a token."""
    return -(token % 8 + 1) / 8


def chat_completion(answer: Answer) -> Json:
    """Return the answer to a chat request that does not stream."""
    return _whole(answer, "chat.completion", "chatcmpl", [_chat_choice(answer, i) for i in range(len(answer.replies))])


def text_completion(answer: Answer) -> Json:
    """Return the answer to a completion request."""
    return _whole(answer, "text_completion", "cmpl", [_text_choice(answer, i) for i in range(len(answer.replies))])


def chat_stream(answer: Answer) -> Iterator[str]:
    """Yield the events of a streamed answer to a chat request."""
    for index in range(len(answer.replies)):
        head = _chunk(answer, [_piece(index, {"role": "assistant", "content": ""})])
        if index == 0 and answer.names_tokens:
            head["prompt_token_ids"] = list(answer.prompt)
        yield _event(head)
        for delta, tokens in _deltas(answer, index):
            yield _event(_chunk(answer, [_piece(index, delta) | _exact(answer, tokens)]))
        last = _piece(index, {}) | {"finish_reason": _finish_reason(answer, index)} | _exact(answer, [END])
        yield _event(_chunk(answer, [last]))
    options: Json = answer.request.get("stream_options") or {}
    if options.get("include_usage"):
        yield _event(_chunk(answer, []) | {"usage": answer.usage()})
    yield "data: [DONE]\n\n"


def _whole(answer: Answer, kind: str, prefix: str, choices: list[Json]) -> Json:
    reply: Json = {
        "id": f"{prefix}-{answer.label}",
        "object": kind,
        "created": _CREATED,
        "model": answer.request.get("model"),
        "choices": choices,
        "usage": answer.usage(),
    }
    return reply | ({"prompt_token_ids": list(answer.prompt)} if answer.names_tokens else {})


def _chat_choice(answer: Answer, index: int) -> Json:
    choice: Json = {
        "index": index,
        "message": answer.message(index),
        "finish_reason": _finish_reason(answer, index),
    }
    return choice | {"logprobs": None} | _exact(answer, answer.sampled(index))


def _text_choice(answer: Answer, index: int) -> Json:
    sampled = answer.sampled(index)
    choice: Json = {"index": index, "text": answer.replies[index].content, "finish_reason": "stop", "logprobs": None}
    if answer.request.get("logprobs") is not None:
        choice["logprobs"] = {
            "tokens": [text_of(token) for token in sampled],
            "token_logprobs": [logprob_of(token) for token in sampled],
        }
    return choice | ({"token_ids": sampled} if answer.names_tokens else {})


def _exact(answer: Answer, tokens: Sequence[int]) -> Json:
    """What a choice says of its tokens: only what the request asks for."""
    exact: Json = {}
    if answer.request.get("logprobs"):
        exact["logprobs"] = {"content": [_token_logprob(token) for token in tokens], "refusal": None}
    if answer.names_tokens:
        exact["token_ids"] = list(tokens)
    return exact


def _token_logprob(token: int) -> Json:
    text = text_of(token)
    return {
        "token": text,
        "logprob": logprob_of(token),
        "bytes": list(text.encode(errors="replace")),
        "top_logprobs": [],
    }


def _deltas(answer: Answer, index: int) -> Iterator[tuple[Json, list[int]]]:
    """Yield what a choice's chunks add, each with its tokens; the end of the turn is left to the last chunk."""
    message = answer.message(index)
    for text, tokens in _slices(message["content"] or ""):
        yield {"content": text}, tokens
    for number, call in enumerate(message.get("tool_calls") or ()):
        function = call["function"]
        opening, arguments, closing = segments({"tool_calls": [call]})
        head = {"name": function["name"], "arguments": ""}
        yield {"tool_calls": [{**call, "index": number, "function": head}]}, encode(opening)
        for text, tokens in _slices(arguments):
            yield {"tool_calls": [{"index": number, "function": {"arguments": text}}]}, tokens
        yield {}, encode(closing)


def _slices(text: str) -> Iterator[tuple[str, list[int]]]:
    tokens = encode(text)
    for start in range(0, len(tokens), _CHUNK_TOKENS):
        part = tokens[start : start + _CHUNK_TOKENS]
        yield "".join(map(text_of, part)), part


def _chunk(answer: Answer, choices: list[Json]) -> Json:
    return {
        "id": f"chatcmpl-{answer.label}",
        "object": "chat.completion.chunk",
        "created": _CREATED,
        "model": answer.request.get("model"),
        "choices": choices,
    }


def _piece(index: int, delta: Json) -> Json:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


def _finish_reason(answer: Answer, index: int) -> str:
    return "tool_calls" if answer.replies[index].tool_calls else "stop"


def _event(chunk: Json) -> str:
    return f"data: {json.dumps(chunk)}\n\n"
