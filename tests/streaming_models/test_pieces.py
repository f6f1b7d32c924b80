"""Word pieces without the library that made them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming_models.pieces import SPECIAL_PIECES, Pieces

PIECES = Pieces((*SPECIAL_PIECES, "th", "▁th", "▁the", "er", "▁a", "▁", "t", "h", "e", "r", "a"))


def spelt(text: str) -> list[str]:
    return [PIECES.pieces[token] for token in PIECES.encode(text)]


def test_the_pair_that_comes_first_is_joined_first() -> None:
    assert spelt("the ether a") == ["▁the", "▁", "e", "th", "er", "▁a"]
    assert PIECES.decode(PIECES.encode(" the  ether a ")) == "the ether a"


def test_what_no_piece_spells_is_unknown() -> None:
    assert spelt("thxyat") == ["▁th", "<unk>", "a", "t"]
    assert PIECES.decode(PIECES.encode("thxyat")) == "that"
    assert PIECES.encode("") == PIECES.encode("  ") == []


@given(st.lists(st.text("thera", min_size=1, max_size=8), max_size=6))
def test_texts_go_there_and_back(words: list[str]) -> None:
    text = " ".join(words)
    tokens = PIECES.encode(text)
    assert PIECES.decode(tokens) == text
    assert sum(map(PIECES.starts_word, tokens)) == len(words)


def test_vocabularies_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="expected pieces to begin with"):
        Pieces(("a", "b"))
    with pytest.raises(ValueError, match="every piece once"):
        Pieces((*SPECIAL_PIECES, "a", "a"))
