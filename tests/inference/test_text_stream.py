from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from agentlightning.inference import Completion
from agentlightning.inference.chat import answer_text
from agentlightning.inference.text_stream import TextStream, held_length, stop_position

# Few letters, so that stop strings and their beginnings are frequent, and characters of two to four bytes.
letters = st.text("ab é你😀\N{REPLACEMENT CHARACTER}", max_size=40)
stops = st.lists(st.text("ab é你😀", min_size=1, max_size=4), max_size=3)
seeds = st.integers(0, 2**32)


@pytest.fixture(scope="module")
def byte_fallback() -> PreTrainedTokenizerFast:
    """In the manner of Llama 2: a space begins the text and is not shown, and unknown characters are bytes."""
    pieces = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "!", "▁a"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[("▁", "a")], byte_fallback=True, unk_token="<unk>"))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>")


def sampled(tokenizer: PreTrainedTokenizerFast, token_ids: list[int], stop: list[str]) -> list[int]:
    """The tokens up to the one that completes a stop string, where the engine ends an answer."""
    for length in range(1, len(token_ids)):
        if stop_position(tokenizer.decode(token_ids[:length]), stop) is not None:
            return token_ids[:length]
    return token_ids


def in_parts(token_ids: list[int], seed: int) -> list[list[int]]:
    draw = random.Random(seed)
    cuts = sorted({0, len(token_ids), *(draw.randint(0, len(token_ids)) for _ in range(draw.randint(0, 40)))})
    return [token_ids[start:stop] for start, stop in pairwise(cuts)]


def assert_streamed(
    tokenizer: PreTrainedTokenizerFast, token_ids: list[int], stop: list[str], seed: int, end: frozenset[int]
) -> None:
    completion = Completion(
        token_ids=token_ids, logprobs=[0.0] * len(token_ids), finish_reason="stop", weights_versions=[0]
    )
    whole = answer_text(tokenizer, completion, end, stop)
    stream = TextStream(tokenizer, end, stop)
    parts = in_parts(token_ids, seed)
    seen = ""
    for number, part in enumerate(parts, 1):
        seen += stream.feed(part, last=number == len(parts))
        assert whole.startswith(seen)
    assert seen == whole


@given(letters, stops, seeds)
def test_streamed_text_is_the_whole_answers_text_however_it_comes(
    tokenizer: PreTrainedTokenizerFast, text: str, stop: list[str], seed: int
) -> None:
    token_ids = sampled(tokenizer, tokenizer.encode(text + "!"), stop)
    assert_streamed(tokenizer, token_ids, stop, seed, frozenset())


@given(letters, stops, seeds)
def test_so_it_is_where_characters_are_bytes_and_the_first_space_is_hidden(
    byte_fallback: PreTrainedTokenizerFast, text: str, stop: list[str], seed: int
) -> None:
    token_ids = sampled(byte_fallback, byte_fallback.encode(text + "!"), stop)
    assert_streamed(byte_fallback, [*token_ids, 1], stop, seed, frozenset({1}))


@given(st.lists(st.integers(3, 319), min_size=1, max_size=40), stops, seeds)
def test_bytes_that_are_no_text_change_nothing_about_that(
    tokenizer: PreTrainedTokenizerFast, token_ids: list[int], stop: list[str], seed: int
) -> None:
    assert_streamed(tokenizer, [*sampled(tokenizer, token_ids, stop), 2], stop, seed, frozenset({2}))


def test_a_character_is_never_split(tokenizer: PreTrainedTokenizerFast) -> None:
    stream = TextStream(tokenizer, frozenset(), ())
    token_ids = tokenizer.encode("a😀b")
    assert len(token_ids) == 6
    assert [stream.feed([token_id], last=False) for token_id in token_ids] == ["a", "", "", "", "😀", "b"]


def test_what_may_become_a_stop_string_is_held_back(tokenizer: PreTrainedTokenizerFast) -> None:
    stream = TextStream(tokenizer, frozenset(), ("stop",))
    seen = [stream.feed(tokenizer.encode(text), last=False) for text in ("a st", "o", "mp", " sto", "p it")]
    assert seen == ["a ", "", "stomp", " ", ""]


def test_at_the_end_nothing_is_held_back(tokenizer: PreTrainedTokenizerFast) -> None:
    stream = TextStream(tokenizer, frozenset(), ("stop",))
    assert stream.feed(tokenizer.encode("a sto"), last=False) == "a "
    assert stream.feed(tokenizer.encode("r st"), last=True) == "stor st"


@given(letters, stops)
def test_the_longest_possible_beginning_is_held(text: str, words: list[str]) -> None:
    length = held_length(text, words)
    beginnings = {word[:size] for word in words for size in range(1, len(word) + 1)}
    fitting = [size for size in range(1, len(text) + 1) if text[-size:] in beginnings]
    assert length == max(fitting, default=0)
