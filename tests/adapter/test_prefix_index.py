"""The index finds what looking at every key finds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from agentlightning.adapter.prefix_index import PrefixIndex, common_length, packed

# Few different tokens, so that prefixes meet by chance; some beyond a byte and close to the largest.
tokens = st.lists(st.sampled_from([0, 1, 255, 256, 2**32 - 1]), max_size=5)


def shared(left: list[int], right: list[int]) -> int:
    same = 0
    while same < min(len(left), len(right)) and left[same] == right[same]:
        same += 1
    return same


def index_of(keys: list[list[int]]) -> PrefixIndex[int]:
    index: PrefixIndex[int] = PrefixIndex()
    for number, key in enumerate(keys):
        index.add(packed(key), number)
    return index


@settings(deadline=None)
@given(tokens, tokens)
def test_the_common_length_is_counted_in_tokens(left: list[int], right: list[int]) -> None:
    assert common_length(packed(left), packed(right)) == shared(left, right)


@settings(deadline=None)
@given(st.lists(tokens), tokens)
def test_prefixes_are_all_and_come_longest_first(keys: list[list[int]], given_tokens: list[int]) -> None:
    expected = [number for number, key in enumerate(keys) if given_tokens[: len(key)] == key]
    found = list(index_of(keys).prefixes(packed(given_tokens), len(given_tokens)))
    assert found == sorted(expected, key=lambda number: -len(keys[number]))


@settings(deadline=None)
@given(st.lists(tokens), tokens)
def test_the_longest_common_length_is_that_of_all_keys(keys: list[list[int]], given_tokens: list[int]) -> None:
    longest = max((shared(key, given_tokens) for key in keys), default=0)
    assert index_of(keys).longest_common(packed(given_tokens)) == longest


@settings(deadline=None)
@given(st.lists(tokens), st.lists(tokens))
def test_what_is_taken_is_gone_and_everything_else_stays(keys: list[list[int]], asked: list[list[int]]) -> None:
    index, left = index_of(keys), dict(enumerate(keys))
    for each in asked:
        prefixes = [number for number, key in left.items() if each[: len(key)] == key]
        expected = max(prefixes, key=lambda number: len(left[number]), default=None)
        assert index.take_longest_prefix(packed(each)) == expected
        left.pop(-1 if expected is None else expected, None)
    everything = {number for key in keys for number in index.prefixes(packed(key), len(key))}
    assert everything == set(left)


@pytest.mark.parametrize("token", [2**32, -1])
def test_what_is_no_token_id_is_refused(token: int) -> None:
    with pytest.raises(OverflowError):
        packed([token])
