"""A small vocabulary of word pieces for the transducer: text to tokens and back.

Byte pair encoding: a text's characters are joined in pairs, always the pair that comes first in the vocabulary, until
none is left. Vocabularies are made by `streaming_models.nets.pieces`; here nothing but the list of pieces is needed.
Spaces become U+2581 before a word, and so do those that the caller left out at the text's beginning.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from streaming_models.tokens import WORD_START

BLANK, CHANGE, UNKNOWN = "<blank>", "<cc>", "<unk>"
SPECIAL_PIECES = (BLANK, CHANGE, UNKNOWN)
"""Tokens 0, 1 and 2 of every vocabulary."""
_START = WORD_START.decode()


@dataclass(frozen=True)
class Pieces:
    """`pieces[token]` is the token's text; pieces that are joined earlier come first.

    Raises:
        ValueError: not the special pieces first, or a piece twice.
    """

    pieces: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.pieces[: len(SPECIAL_PIECES)] != SPECIAL_PIECES:
            raise ValueError(f"expected pieces to begin with {SPECIAL_PIECES}, got {self.pieces[:3]}")
        if len(set(self.pieces)) < len(self.pieces):
            raise ValueError("expected every piece once")

    @cached_property
    def _tokens(self) -> dict[str, int]:
        return {piece: token for token, piece in enumerate(self.pieces) if token >= len(SPECIAL_PIECES)}

    def encode(self, text: str) -> list[int]:
        """Tokens of a text; what no piece spells becomes `<unk>`, adjacent such characters one."""
        words = text.split()
        tokens = [token for word in words for token in self._word(word)]
        unknown = self.pieces.index(UNKNOWN)
        return [t for at, t in enumerate(tokens) if t != unknown or at == 0 or tokens[at - 1] != unknown]

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of one virtual channel's tokens; special tokens vanish."""
        text = "".join(self.pieces[token] for token in tokens if token >= len(SPECIAL_PIECES))
        return text.replace(_START, " ").strip()

    def starts_word(self, token: int) -> bool:
        """Whether this token begins a new word."""
        return self.pieces[token].startswith(_START)

    def _word(self, word: str) -> Sequence[int]:
        parts = list(_START + word)
        never = len(self.pieces)
        while len(parts) > 1:
            ranks = [self._tokens.get(a + b, never) for a, b in pairwise(parts)]
            best = min(ranks)
            if best == never:
                break
            at = ranks.index(best)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        unknown = self.pieces.index(UNKNOWN)
        return [self._tokens.get(part, unknown) for part in parts]
