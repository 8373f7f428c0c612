from __future__ import annotations

from hypothesis import given, strategies as st

from agentlightning.litagent.command.output import KeptOutput

LIMIT = 64
CHUNKS = st.lists(st.binary(max_size=3 * LIMIT), max_size=12)


def kept(chunks: list[bytes]) -> KeptOutput:
    output = KeptOutput(LIMIT)
    for chunk in chunks:
        output.add(chunk)
    return output


@given(CHUNKS)
def test_what_came_is_kept_or_counted(chunks: list[bytes]) -> None:
    output, whole = kept(chunks), b"".join(chunks)
    assert output.size == len(whole)
    assert output.omitted == max(0, len(whole) - LIMIT)


@given(st.lists(st.binary(max_size=3 * LIMIT).map(lambda data: data.hex().encode()), max_size=12))
def test_the_beginning_and_the_end_are_kept(chunks: list[bytes]) -> None:
    output, whole = kept(chunks), b"".join(chunks).decode()
    if len(whole) <= LIMIT:
        assert output.text() == whole
    else:
        head, marker, tail = output.text().split("\n")
        assert (head, tail) == (whole[: LIMIT // 2], whole[-LIMIT // 2 :])
        assert marker == f"[… {len(whole) - LIMIT} bytes left out …]"
    for size in (1, LIMIT // 2):
        assert output.end(size) == whole[-size:]


@given(CHUNKS)
def test_any_bytes_become_text_that_a_store_takes(chunks: list[bytes]) -> None:
    text = kept(chunks).text()
    assert "\0" not in text
    assert text.encode("utf-8").decode("utf-8") == text


def test_a_flood_takes_no_more_memory_than_a_little() -> None:
    output = KeptOutput(LIMIT)
    for _ in range(1000):
        output.add(b"x" * LIMIT)
        assert sum(len(part) for part in vars(output).values() if isinstance(part, bytearray)) <= 2 * LIMIT
