from __future__ import annotations

import json
from typing import Any

import pytest

from agentlightning.adapter.records import RecordKind, records_of
from agentlightning.types import Rollout, Span
from tests.adapter.spans import make_call, make_reward

KINDS: tuple[RecordKind, ...] = ("messages", "triplets", "rows", "spans")
ROLLOUT = Rollout(rollout_id="r", input=None, start_time=0.0, mode="train", status="succeeded")
SPANS = [make_call("first", 0), make_reward(0.5, 1), make_call("second", 2), make_reward(0.75, 3)]


def records(kind: RecordKind, spans: list[Span] = SPANS) -> list[dict[str, Any]]:
    return list(records_of(ROLLOUT, spans, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_every_record_says_whose_it_is_and_is_json(kind: RecordKind) -> None:
    found = records(kind)
    assert found
    for record in found:
        whose = {key: record[key] for key in ("rollout_id", "attempt_id", "mode", "final_reward")}
        assert whose == {"rollout_id": "r", "attempt_id": "a", "mode": "train", "final_reward": 0.75}
        assert record["rollout_status"] == "succeeded"
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("kind", KINDS)
def test_attempt_without_spans_has_no_records(kind: RecordKind) -> None:
    assert records(kind, []) == []


def test_messages_are_each_call_s_conversation() -> None:
    assert [record["messages"] for record in records("messages")] == [
        [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "first"}],
        [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "second"}],
    ]


def test_triplets_are_each_call_s_tokens_and_reward() -> None:
    found = [
        (record["prompt"]["token_ids"], record["response"]["token_ids"], record["reward"])
        for record in records("triplets")
    ]
    assert found == [([1, 2], [1], 0.5), ([1, 2], [3], 0.75)]


def test_rows_are_what_is_trained_on() -> None:
    found = [(record["token_ids"], record["mask"], record["logprobs"]) for record in records("rows")]
    assert found == [
        ([1, 2, 1], [False, False, True], [0.0, 0.0, -0.5]),
        ([1, 2, 3], [False, False, True], [0.0, 0.0, -0.5]),
    ]


def test_spans_are_everything() -> None:
    assert [record["span_id"] for record in records("spans")] == [span.span_id for span in SPANS]
