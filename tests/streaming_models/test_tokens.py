"""The token table: the wheel's own file, and files that are cut off."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming_models.tokens import END_ID, FIRST_BYTE_ID, START_ID, WORD_START, TokenTable
from tests import real


def packed(pieces: list[bytes]) -> bytes:
    data = b""
    for piece in pieces:
        size = len(piece)
        data += (bytes([size]) if size < 128 else bytes([128 + size % 128, size // 128])) + piece
    return data


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_any_table_is_read_back(pieces: list[bytes]) -> None:
    assert TokenTable.from_bytes(packed(pieces)).pieces == tuple(pieces)


def test_table_that_ends_inside_an_entry_is_refused() -> None:
    with pytest.raises(ValueError, match="ends inside token 1: 3 bytes wanted"):
        TokenTable.from_bytes(packed([b"ab", b"cde"])[:-1])
    with pytest.raises(ValueError, match="ends inside a length at byte 1"):
        TokenTable.from_bytes(b"\x81")


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_a_table_or_a_value_error(data: bytes) -> None:
    try:
        table = TokenTable.from_bytes(data)
    except ValueError:
        return
    assert sum(map(len, table.pieces)) <= len(data)


def test_wheels_table_has_the_decoders_vocabulary() -> None:
    table = real.graphs().table
    assert len(table.pieces) == 32_768
    assert (table.pieces[START_ID], table.pieces[END_ID]) == (b"<s>", b"</s>")


def test_words_are_told_by_their_mark() -> None:
    table = TokenTable((b"", b"", b"", b"x", WORD_START + b"he", b"llo", WORD_START + b"you", b"."))
    assert [table.starts_word(t) for t in range(4, 8)] == [True, False, True, False]
    assert table.text([START_ID, 4, 5, 6, 7, END_ID]) == "hello you."
    assert table.text([]) == ""


def test_byte_tokens_join_to_characters_and_broken_ones_are_marked() -> None:
    pieces = [b"", b"", b""] + [bytes([k]) for k in range(256)]
    table = TokenTable(tuple(pieces))
    tokens = [FIRST_BYTE_ID + b for b in "é".encode()]
    assert table.text(tokens) == "é"
    assert table.text(tokens[:1]) == "\ufffd"
