"""A chat's stream as the events of OpenAI's Responses API."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from agentlightning.llm_proxy.dialects.blocks import Block, BlockReader, Step
from agentlightning.llm_proxy.dialects.responses_reply import item, part, response, whole_response

Json = dict[str, Any]

_TEXT_EVENTS: Final = {
    "thinking": "response.reasoning_text",
    "text": "response.output_text",
    "refusal": "response.refusal",
    "tool": "response.function_call_arguments",
}
_WHOLE: Final = {"thinking": "text", "text": "text", "refusal": "refusal", "tool": "arguments"}


class ResponseStream:
    """The events of one response, made from a chat's chunks as they come.

    Args:
        payload: The client's request.

    Attributes:
        reader: What was read.
        head: The first chunk; empty before it came.
    """

    def __init__(self, payload: Json) -> None:
        self.reader = BlockReader()
        self.head: Json = {}
        self._payload = payload
        self._finish_reason: str | None = None
        self._usage: Json = {}
        self._sent = 0

    @property
    def finished(self) -> bool:
        """Whether the model ended its answer."""
        return self._finish_reason is not None

    def feed(self, chunk: Json) -> list[Json]:
        """Return the events that a chunk makes; it raises what `responses_reply.from_chat` raises."""
        events = [] if self.head else self._start(chunk)
        self._usage = chunk.get("usage") or self._usage
        for choice in chunk.get("choices") or ():
            if choice.get("index", 0) == 0:
                steps = self.reader.feed(choice.get("delta") or {})
                events += [event for step in steps for event in self._step(step, "completed")]
                self._finish_reason = choice.get("finish_reason") or self._finish_reason
        return self._numbered(events)

    def finish(self) -> list[Json]:
        """Return the events that end the response."""
        steps = self.reader.finish()
        whole = whole_response(self._payload, self.head, self.reader.blocks, self._finish_reason, self._usage)
        events = [event for step in steps for event in self._step(step, whole["output"][step.index]["status"])]
        return self._numbered([*events, {"type": f"response.{whole['status']}", "response": whole}])

    def error(self, message: str, code: str) -> list[Json]:
        """Return the event that says that the response failed."""
        # OpenAI's clients raise for what stands under `error`, and read the rest.
        error = {"message": message, "type": "server_error", "param": None, "code": code}
        return self._numbered([{"type": "error", "code": code, "message": message, "param": None, "error": error}])

    def _start(self, chunk: Json) -> list[Json]:
        begun = response(self._payload, chunk, [])
        self.head = chunk
        return [{"type": f"response.{state}", "response": begun} for state in ("created", "in_progress")]

    def _step(self, step: Step, status: str) -> Iterator[Json]:
        block = self.reader.blocks[step.index]
        whole = item(block, step.index, self.head["id"], status)
        place: Json = {"output_index": step.index, "item_id": whole["id"]}
        if block.kind != "tool":
            place["content_index"] = 0
        if step.action == "open":
            yield from self._opened(block, step.index, place)
        elif step.action == "grow":
            yield {"type": f"{_TEXT_EVENTS[block.kind]}.delta", **place, "delta": step.text, **_extra(block)}
        else:
            yield from _closed(block, place, whole)

    def _opened(self, block: Block, index: int, place: Json) -> Iterator[Json]:
        empty = item(replace(block, text=""), index, self.head["id"], "in_progress")
        empty |= {} if block.kind == "tool" else {"content": []}
        yield {"type": "response.output_item.added", "output_index": index, "item": empty}
        if block.kind != "tool":
            yield {"type": "response.content_part.added", **place, "part": part(replace(block, text=""))}

    def _numbered(self, events: Sequence[Json]) -> list[Json]:
        numbered = [{**event, "sequence_number": self._sent + number} for number, event in enumerate(events)]
        self._sent += len(events)
        return numbered


def _closed(block: Block, place: Json, whole: Json) -> Iterator[Json]:
    if block.kind in _TEXT_EVENTS:
        name = {"name": block.name} if block.kind == "tool" else {}
        done = {_WHOLE[block.kind]: block.text} | name | _extra(block)
        yield {"type": f"{_TEXT_EVENTS[block.kind]}.done", **place, **done}
    if block.kind != "tool":
        yield {"type": "response.content_part.done", **place, "part": part(block)}
    yield {"type": "response.output_item.done", "output_index": place["output_index"], "item": whole}


def _extra(block: Block) -> Json:
    return {"logprobs": []} if block.kind == "text" else {}
