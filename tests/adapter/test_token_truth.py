"""Token truth from spans to rows: whoever saw the calls, in whatever order spans come, every sampled token is trained
on once, behind the context it was sampled in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from hypothesis import given, settings, strategies as st

from agentlightning import semconv
from agentlightning.adapter import TraceToTrajectories, Trajectories
from agentlightning.types import Attributes, Span, TraceStatus
from agentlightning.types.llm_call_span import CapturedCall, CapturedChoice, encode_call

Json = dict[str, Any]
Seen = Literal["gateway", "sdk", "both", "wrapped"]

# Few different tokens, so that prefixes meet by chance too.
tokens = st.lists(st.integers(0, 2), min_size=1, max_size=4)


@dataclass
class Request:
    """A request as it happened: its tokens, its conversation, and who saw it."""

    prompt: list[int]
    answers: list[list[int]]
    messages: list[Json]
    seen: Seen
    failed: bool
    attempt: str
    agent: str

    def spans(self, number: int) -> list[Span]:
        """The spans of those who saw it; all begin at places of their own."""
        spans: list[Span] = [self._span(number, 0, self.agent, None, {"agent.name": self.agent})]
        parent = spans[0].span_id
        if self.seen == "wrapped":
            wrapper: Attributes = {"openinference.span.kind": "LLM"} | self._output(exact=False, response_id=None)
            spans.append(self._span(number, 1, "wrapper", parent, wrapper))
            parent = spans[1].span_id
        if self.seen != "gateway":
            exact = self.seen in ("sdk", "wrapped")
            sdk: Attributes = {"openinference.span.kind": "LLM"} | self._output(exact, f"id{number}")
            spans.append(self._span(number, 2, "ChatCompletion", parent, sdk))
        if self.seen in ("gateway", "both"):
            spans.append(self._span(number, 3, semconv.AGL_LLM_CALL, None, self._captured(number)))
        return spans

    def _output(self, exact: bool, response_id: str | None) -> Attributes:
        request = {"model": "m", "messages": self.messages}
        choices = [
            {"message": said(answer), "finish_reason": "stop", "token_ids": answer if exact else None}
            for answer in self.answers
        ]
        reply = {"id": response_id, "choices": choices, "prompt_token_ids": self.prompt if exact else None}
        output: Attributes = {} if self.failed else {"output.value": json.dumps(reply)}
        return {"input.value": json.dumps(request)} | output

    def _captured(self, number: int) -> Attributes:
        choices = [
            CapturedChoice(token_ids=answer, logprobs=None, finish_reason="stop", message=said(answer))
            for answer in self.answers
        ]
        call = CapturedCall(
            request=json.dumps({"model": "m", "messages": self.messages}),
            prompt_token_ids=self.prompt,
            choices=[] if self.failed else choices,
            response_id=f"id{number}",
        )
        return encode_call(call)

    def _span(self, number: int, place: int, name: str, parent: str | None, attributes: Attributes) -> Span:
        failed = self.failed and place > 0
        return Span.from_attributes(
            attributes=attributes,
            rollout_id="r",
            attempt_id=self.attempt,
            sequence_id=4 * number + place,
            name=name,
            span_id=f"{4 * number + place:016x}",
            parent_id=parent,
            start_time=float(number) + place / 10,
            end_time=number + 0.9 - place / 10,
            status=TraceStatus(status_code="ERROR", description="HTTP 500") if failed else None,
        )


def said(answer: list[int]) -> Json:
    return {"role": "assistant", "content": " ".join(map(str, answer))}


@st.composite
def requests(draw: st.DrawFn) -> list[Request]:
    """Requests of agents that go on, start anew, branch, retry, fail, re-render their history and take turns."""
    made: list[Request] = []
    for number in range(draw(st.integers(1, 6))):
        attempt, messages = draw(st.sampled_from("ab")), [{"role": "user", "content": str(number)}]
        kinds = st.sampled_from(["go on", "new", "retry", "break"])
        if not made or (kind := draw(kinds)) == "new":
            prompt = draw(tokens)
        else:
            parent = draw(st.sampled_from(made))
            answer = draw(st.sampled_from(parent.answers))
            attempt, history = parent.attempt, parent.prompt + answer
            if kind == "break":
                history = [*history[:-1], history[-1] + 1]
            prompt = parent.prompt if kind == "retry" else history + draw(tokens)
            messages = parent.messages if kind == "retry" else [*parent.messages, said(answer), *messages]
        made.append(
            Request(
                prompt,
                draw(st.lists(tokens, min_size=1, max_size=2)),
                messages,
                draw(st.sampled_from(["gateway", "sdk", "both", "wrapped"])),
                draw(st.booleans()),
                attempt,
                draw(st.sampled_from(["planner", "critic"])),
            )
        )
    return made


def spans_of(made: list[Request]) -> list[Span]:
    return [span for number, request in enumerate(made) for span in request.spans(number)]


def sampled(made: list[Request]) -> Counter[tuple[str, tuple[int, ...], int]]:
    return Counter(
        (request.attempt, tuple(request.prompt + answer[:position]), token)
        for request in made
        if not request.failed
        for answer in request.answers
        for position, token in enumerate(answer)
    )


def trained_on(merged: Trajectories) -> Counter[tuple[str, tuple[int, ...], int]]:
    return Counter(
        (row.attempt_id, tuple(row.token_ids[:position]), row.token_ids[position])
        for row in merged.rows
        for position, masked in enumerate(row.mask)
        if masked
    )


@settings(deadline=None)
@given(requests())
def test_every_sampled_token_is_trained_on_once_whoever_saw_it(made: list[Request]) -> None:
    merged = TraceToTrajectories().read(spans_of(made))
    assert trained_on(merged) == sampled(made)
    counters = merged.counters
    assert counters.merged + counters.rows + counters.calls_without_tokens == counters.calls
    assert counters.calls == sum(len(request.answers) for request in made if not request.failed)
    assert counters.broken_by_kind.total() == counters.broken_prefixes == len(merged.breaks) <= counters.rows


@settings(deadline=None)
@given(st.data(), requests())
def test_the_order_in_which_spans_come_is_of_no_matter(data: st.DataObject, made: list[Request]) -> None:
    spans = spans_of(made)
    shuffled = data.draw(st.permutations(spans))
    assert repr(TraceToTrajectories().read(shuffled)) == repr(TraceToTrajectories().read(spans))


@settings(deadline=None)
@given(requests())
def test_a_failed_request_leaves_no_trace_in_the_rows(made: list[Request]) -> None:
    answered = [request.spans(number) for number, request in enumerate(made) if not request.failed]
    without = TraceToTrajectories().read([span for spans in answered for span in spans])
    assert repr(TraceToTrajectories().read(spans_of(made)).rows) == repr(without.rows)


@settings(deadline=None)
@given(requests(), st.sampled_from(["planner", "critic", "planner|critic", "nobody"]))
def test_only_the_agents_that_match_are_trained(made: list[Request], match: str) -> None:
    chosen = [request for request in made if request.agent in match.split("|")]
    merged = TraceToTrajectories(agent_match=match).read(spans_of(made))
    assert trained_on(merged) == sampled(chosen)


def test_no_spans_make_no_rows() -> None:
    assert TraceToTrajectories(agent_match="planner")([]) == TraceToTrajectories()([]) == []


PROGRAM = """
import sys
from agentlightning.adapter import TraceToTrajectories
from agentlightning.types import Span
spans = [Span.model_validate_json(line) for line in sys.stdin]
print(TraceToTrajectories().read(spans), TraceToTrajectories(agent_match="planner").read(spans))
"""


@pytest.mark.parametrize("seeds", [("1", "2")])
def test_nothing_depends_on_the_hash_seed(seeds: tuple[str, str]) -> None:
    first = Request([1], [[2], [1]], [{"role": "user", "content": "0"}], "wrapped", False, "a", "planner")
    history = [*first.messages, said([2]), {"role": "user", "content": "1"}]
    others = [
        Request([1, 2, seen], [[1]], history, kind, failed, "a", agent)
        for seen, (kind, failed, agent) in enumerate(
            [
                ("both", False, "planner"),
                ("sdk", True, "critic"),
                ("wrapped", False, "critic"),
                ("sdk", False, "planner"),
            ]
        )
    ]
    lines = "\n".join(span.model_dump_json() for span in spans_of([first, *others]))
    said_by_seed = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            input=lines,
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        for seed in seeds
    }
    assert len(said_by_seed) == 1
    assert "TrainingRow" in said_by_seed.pop()
