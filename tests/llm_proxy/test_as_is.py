"""Chats and completions that pass through: a stream's client learns whether the answer is whole, as the record does."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from hypothesis import given, strategies as st
from scripted_backend import ScriptedBackend
from streams import ANSWER, DONE, HEAD, USAGE, Stream, chunk

from agentlightning.llm_proxy import LLMProxy, flush_captures
from agentlightning.llm_proxy.dialects.as_is import PlainCall, PlainView
from agentlightning.llm_proxy.sse import EventSplitter, read_stream
from agentlightning.store import InMemoryLightningStore
from agentlightning.types import AttemptedRollout

Json = dict[str, Any]

MESSAGES: list[Any] = [{"role": "user", "content": "hi"}]
SAYS_SO = chunk({"content": '"finish_reason": "stop" data: [DONE]'})


def seen(view: PlainView, *pieces: bytes) -> bytes:
    """What a client sees of a stream whose connection is closed without a word."""
    splitter, out = EventSplitter(), b""
    for piece in pieces:
        events = splitter.feed(piece)
        out += view.of(events) if events else b""
    return out + (view.of(splitter.rest) if splitter.rest else b"") + view.end()


def view_of(**request: Any) -> PlainView:
    return PlainCall("/chat/completions", {"stream": True, **request}).view()


def ends_of(events: bytes) -> list[Json]:
    return [each["error"] for each in read_stream(events) if "error" in each]


@pytest.mark.parametrize("pieces", [(), (HEAD,), ANSWER[:2], (HEAD, SAYS_SO), (HEAD, ANSWER[2][:-9])])
def test_a_stream_that_just_ends_is_no_answer(pieces: tuple[bytes, ...]) -> None:
    received = seen(view_of(), *pieces)
    (error,) = ends_of(received)
    assert error["code"] == "incomplete_answer"
    whole = [piece for piece in pieces if piece.endswith(b"\n\n")]
    assert received.startswith(b"".join([*whole, b'data: {"error"']))


@pytest.mark.parametrize("pieces", [ANSWER, (*ANSWER, DONE), (HEAD, DONE), (HEAD, DONE.strip()), (*ANSWER, USAGE)])
def test_a_stream_that_says_its_end_is_as_the_backend_sent_it(pieces: tuple[bytes, ...]) -> None:
    received = seen(view_of(stream_options={"include_usage": True}), *pieces)
    assert received.rstrip() == b"".join(pieces).rstrip()


def test_an_answer_that_is_whole_but_for_the_blank_line_behind_it_is_one() -> None:
    assert seen(view_of(), *ANSWER[:2], ANSWER[2].strip()) == b"".join(ANSWER)


@given(n=st.integers(1, 4), finished=st.integers(0, 4))
def test_each_of_several_answers_must_end(n: int, finished: int) -> None:
    pieces = [chunk({}, index, finish_reason="stop") for index in range(finished)]
    assert len(ends_of(seen(view_of(n=n), *pieces))) == (finished < n)


@given(st.lists(st.binary(max_size=9)))
def test_what_is_no_model_call_passes_as_it_is(pieces: list[bytes]) -> None:
    assert seen(PlainView(whole=True), *pieces) == b"".join(pieces)


@pytest.mark.parametrize("path", ["chat", "completions"])
async def test_a_backend_that_is_gone_in_the_middle_is_an_error_for_client_and_record(
    proxy: LLMProxy, store: InMemoryLightningStore, attempted: AttemptedRollout, backend: ScriptedBackend, path: str
) -> None:
    backend.script = lambda _: Stream(ANSWER[:2]).response()
    ids = attempted.rollout_id, attempted.attempt.attempt_id
    async with openai.AsyncOpenAI(base_url=proxy.as_resource(*ids).endpoint, api_key="key", max_retries=0) as client:
        if path == "chat":
            reply: Any = await client.chat.completions.create(model="policy", messages=MESSAGES, stream=True)
        else:
            reply = await client.completions.create(model="policy", prompt="hi", stream=True)
        with pytest.raises(openai.APIError, match="names no finish reason"):
            assert [piece async for piece in reply]
    await flush_captures({"llm": proxy.as_resource()}, *ids)
    (span,) = await store.query_spans(ids[0])
    assert span.status.status_code == "ERROR"
    assert "names no finish reason" in (span.status.description or "")
