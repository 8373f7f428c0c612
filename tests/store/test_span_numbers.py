"""Packed numbers: what a span's attributes read back as, and what they take."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from pydantic_core import from_json, to_json

from agentlightning.store import SqliteLightningStore
from agentlightning.store.sql.packing import pack, unpack
from agentlightning.types import AttemptedRollout, Span

INT32, INT64 = 2**31, 2**63


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteLightningStore]:
    made = SqliteLightningStore(tmp_path / "store.db")
    yield made
    await made.close()


def long_lists(numbers: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(numbers, min_size=14, max_size=40)


ints = st.one_of(st.integers(-INT32, INT32 - 1), st.integers(-INT64, INT64 - 1), st.integers(-(10**30), 10**30))
floats = st.floats(allow_nan=False, allow_infinity=False)
plain = st.none() | st.booleans() | ints | floats | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
json_values = st.recursive(
    plain, lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
)
lists = st.one_of(long_lists(ints), long_lists(floats), long_lists(ints | floats), long_lists(st.booleans() | ints))
attributes = st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), lists | json_values)


def exactly(value: Any) -> Any:
    """What a value is compared by: types, order of keys and the sign of zero count."""
    if isinstance(value, dict):
        return [(key, exactly(item)) for key, item in value.items()]
    if isinstance(value, list):
        return [exactly(item) for item in value]
    return type(value), value, math.copysign(1, value) if isinstance(value, float) else None


@settings(max_examples=100, deadline=None)
@given(attributes)
def test_any_attributes_come_back_exactly(given_attributes: dict[str, Any]) -> None:
    before = exactly(given_attributes)
    rest, numbers = pack(given_attributes)
    read = from_json(to_json(rest))
    if numbers is not None:
        read.update(unpack(numbers))
    assert exactly(read) == before
    assert exactly(given_attributes) == before


@pytest.mark.parametrize(
    ("values", "size"),
    [
        ([7] * 1000, 4_000),
        ([-INT32, INT32 - 1] * 500, 4_000),
        ([INT32] * 1000, 8_000),
        ([-INT64, INT64 - 1] * 500, 8_000),
        ([0.1] * 1000, 8_000),
        ([-0.0, 5e-324, 1.7976931348623157e308, 1e-9] * 250, 8_000),
    ],
    ids=["int32", "ends of int32", "int64", "ends of int64", "float64", "ends of float64"],
)
def test_uniform_numbers_take_their_own_size(values: list[Any], size: int) -> None:
    rest, numbers = pack({"a": "text", "numbers": values, "z": 1})
    assert rest == {"a": "text", "numbers": None, "z": 1}
    assert numbers is not None
    assert size < len(numbers) < size + 40
    assert exactly(unpack(numbers)) == exactly({"numbers": values})


@pytest.mark.parametrize(
    "values",
    [[1] * 15, [1, 2.0] * 10, [True] * 20, [1, True] * 10, [INT64] * 20, ["1"] * 20, (1,) * 20, [[1] * 20]],
    ids=["short", "mixed", "booleans", "boolean among them", "beyond 64 bits", "texts", "tuple", "nested"],
)
def test_other_lists_stay_as_they_are(values: Any) -> None:
    assert pack({"numbers": values}) == ({"numbers": values}, None)


def test_key_that_json_turns_into_a_text_keeps_its_list() -> None:
    no_text: Any = {1: [7] * 20}
    assert pack(no_text) == (no_text, None)


def model_call(claim: AttemptedRollout, tokens: int) -> Span:
    return Span.from_attributes(
        attributes={"response_token_ids": list(range(tokens)), "logprobs": [-0.1 * i for i in range(tokens)], "n": 1},
        rollout_id=claim.rollout_id,
        attempt_id=claim.attempt.attempt_id,
    )


async def test_rows_are_small_and_read_back_by_every_way(store: SqliteLightningStore) -> None:
    span = model_call(await store.start_rollout(1), 640)
    await store.add_span(span)
    with sqlite3.connect(store.path) as rows:
        ((size,),) = rows.execute("SELECT length(body) + length(numbers) FROM spans")
    rows.close()
    assert size < 640 * 12 + 1_000
    for read in (
        (await store.query_spans(span.rollout_id))[0],
        (await store.read_spans()).items[0],
        (await store.read_spans(rollout_id=span.rollout_id)).items[0],
    ):
        assert read == span
        assert exactly(read.attributes) == exactly(span.attributes)


async def test_rows_of_older_programs_read_as_before(store: SqliteLightningStore) -> None:
    span = model_call(await store.start_rollout(1), 20)
    await store.add_span(span)
    with sqlite3.connect(store.path) as rows:
        rows.execute("UPDATE spans SET body = ?, numbers = NULL", (to_json(span.__dict__),))
    rows.close()
    assert list(await store.query_spans(span.rollout_id)) == [span]
