from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from agentlightning.semconv import LinkPydanticModel
from agentlightning.types import Span
from agentlightning.types.attributes import (
    check_attributes_sanity,
    extract_links_from_attributes,
    extract_rewards_from_attributes,
    extract_tags_from_attributes,
    filter_and_unflatten_attributes,
    filter_attributes,
    flatten_attributes,
    format_exception_attributes,
    make_link_attributes,
    make_tag_attributes,
    query_linked_spans,
    sanitize_attribute_value,
    sanitize_list_attribute_sanity,
    unflatten_attributes,
)

words = st.text(alphabet="abcdefgh", min_size=1, max_size=4)
leaves = st.one_of(st.text(max_size=5), st.booleans(), st.integers(-9, 9))
nested = st.dictionaries(
    words,
    st.recursive(
        leaves,
        lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(words, inner, min_size=1, max_size=3),
        max_leaves=10,
    ),
)
anything = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@settings(deadline=None)
@given(nested, st.booleans())
def test_unflatten_undoes_flatten(data: dict[str, object], expand: bool) -> None:
    assert unflatten_attributes(flatten_attributes(data, expand_leaf_lists=expand)) == data


@settings(deadline=None)
@given(st.dictionaries(st.text("ab.01", min_size=1, max_size=8), leaves))
def test_unflatten_takes_any_keys(flat: dict[str, object]) -> None:
    unflatten_attributes(flat)


def test_lists_stay_whole_only_when_their_items_are_alike() -> None:
    assert flatten_attributes({"a": [1, 2], "b": [1, "x"], "c": [], "d": {}}) == {"a": [1, 2], "b.0": 1, "b.1": "x"}
    assert flatten_attributes(["x", {"y": None}]) == {"0": "x", "1.y": None}


def test_a_value_that_is_neither_list_nor_mapping_has_the_empty_key() -> None:
    assert flatten_attributes("text") == {"": "text"}


def test_keys_of_any_depth_unflatten() -> None:
    nested: Any = unflatten_attributes({".".join(["0"] * 5000): 1})
    for _ in range(5000):
        (nested,) = nested
    assert nested == 1


def test_the_deeper_of_two_conflicting_keys_wins() -> None:
    assert unflatten_attributes({"a": 1, "a.b": 2}) == {"a": {"b": 2}}
    assert unflatten_attributes({"0": "x", "2": "z"}) == {"0": "x", "2": "z"}


def test_keys_must_be_strings() -> None:
    with pytest.raises(ValueError, match="keys must be strings"):
        flatten_attributes({"a": {1: 2}})


def test_a_prefix_matches_whole_parts_of_a_key() -> None:
    attributes = {"reward": 1, "reward.0": 2, "rewards": 3}
    assert filter_attributes(attributes, "reward") == {"reward": 1, "reward.0": 2}
    with pytest.raises(ValueError, match="is a value"):
        filter_and_unflatten_attributes(attributes, "reward")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("x", "x"),
        ([True, False], [True, False]),
        ([True, 2], [1, 2]),
        ((1, 2.5), [1.0, 2.5]),
        ([1, "x"], '[1, "x"]'),
        ({"a": None}, '{"a": null}'),
    ],
)
def test_sanitized_values(value: object, expected: object) -> None:
    assert sanitize_attribute_value(value) == expected


def test_a_list_of_several_types_is_refused_where_a_list_is_wanted() -> None:
    assert sanitize_list_attribute_sanity([True, 2.5]) == [1.0, 2.5]
    with pytest.raises(ValueError, match="not of int, str"):
        sanitize_list_attribute_sanity([1, "x"])


@settings(deadline=None)
@given(anything)
def test_every_sanitized_value_passes_the_sanity_check(value: object) -> None:
    check_attributes_sanity({"key": sanitize_attribute_value(value)})


def test_what_has_no_json_form_is_refused_unless_forced() -> None:
    with pytest.raises(ValueError, match="no JSON form"):
        sanitize_attribute_value({1j}, force=False)
    assert json.loads(str(sanitize_attribute_value({1j}))) == str({1j})
    with pytest.raises(ValueError, match="holds a set"):
        check_attributes_sanity({"a": {1}})


@settings(deadline=None)
@given(st.lists(st.text(max_size=4)))
def test_tags_round_trip(tags: list[str]) -> None:
    assert extract_tags_from_attributes(make_tag_attributes(tags)) == tags


@settings(deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=4), st.text(max_size=4)))
def test_links_round_trip(links: dict[str, str]) -> None:
    found = extract_links_from_attributes(make_link_attributes(links))
    assert {link.key_match: link.value_match for link in found} == links


@settings(deadline=None)
@given(st.dictionaries(st.text("01.xnamevlu", max_size=8).map("agentlightning.reward".__add__), anything))
def test_readers_never_raise(attributes: dict[str, object]) -> None:
    extract_rewards_from_attributes(attributes)
    moved = {key.replace("reward", "link"): value for key, value in attributes.items()}
    extract_links_from_attributes(moved)
    extract_tags_from_attributes({key.replace("reward", "tag"): value for key, value in attributes.items()})


def test_a_malformed_reward_is_logged_and_reads_as_none(caplog: pytest.LogCaptureFixture) -> None:
    assert extract_rewards_from_attributes({"agentlightning.reward": 1.0}) == []
    assert caplog.text == ""
    assert extract_rewards_from_attributes({"agentlightning.reward.0.value": "much"}) == []
    assert "malformed" in caplog.text


def test_linked_spans_match_all_links() -> None:
    spans = [Span.from_attributes(attributes={"a": "1", "b": b}) for b in "xy"]
    assert query_linked_spans(spans, []) == spans
    links = [LinkPydanticModel(key_match="a", value_match="1"), LinkPydanticModel(key_match="b", value_match="y")]
    assert query_linked_spans(spans, links) == [spans[1]]
    own = LinkPydanticModel(key_match="span_id", value_match=spans[0].span_id)
    assert query_linked_spans(spans, [own]) == [spans[0]]
    with pytest.raises(ValueError, match="must match a string"):
        make_link_attributes({"a": 1})  # type: ignore[dict-item]


def test_exception_attributes() -> None:
    attributes = format_exception_attributes(KeyError("x"))
    assert attributes["exception.type"] == "KeyError"
    assert "KeyError: 'x'" in str(attributes["exception.stacktrace"])
