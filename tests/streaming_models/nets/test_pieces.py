"""A vocabulary made from texts, and its encoding against SentencePiece's own."""

from __future__ import annotations

import random

import pytest

sentencepiece = pytest.importorskip("sentencepiece")

from streaming_models.nets.pieces import train_pieces  # noqa: E402
from streaming_models.pieces import SPECIAL_PIECES  # noqa: E402

SYLLABLES = ["ba", "ko", "mi", "tha", "ser", "ling", "on", "est", "pre", "qua"]


def texts(seed: int, count: int) -> list[str]:
    rng = random.Random(seed)
    words = ["".join(rng.choices(SYLLABLES, weights=range(1, 11), k=rng.randint(1, 4))) for _ in range(400)]
    return [" ".join(rng.choices(words, k=8)) + rng.choice([".", "?", ""]) for _ in range(count)]


@pytest.mark.filterwarnings("ignore")  # SentencePiece's own bindings
def test_encoding_without_the_library_equals_the_librarys(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[bytes] = []
    processor = sentencepiece.SentencePieceProcessor

    def remember(model_proto: bytes) -> object:
        made.append(model_proto)
        return processor(model_proto=model_proto)

    monkeypatch.setattr(sentencepiece, "SentencePieceProcessor", remember)
    pieces = train_pieces(texts(0, 500), 120)
    assert len(pieces.pieces) == 120
    library = processor(model_proto=made[0])
    for text in texts(1, 300):
        expected = [library.id_to_piece(token) for token in library.encode(text)]
        assert [pieces.pieces[token] for token in pieces.encode(text)] == expected
        assert pieces.decode(pieces.encode(text)) == text


@pytest.mark.filterwarnings("ignore")
def test_the_same_texts_give_the_same_pieces() -> None:
    first = train_pieces(texts(0, 200), 80)
    assert first == train_pieces(texts(0, 200), 80)
    assert first.pieces[:3] == SPECIAL_PIECES
