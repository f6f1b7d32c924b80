"""Moonshine's token table: ids to text and back to words.

The file `tokenizer.bin` is a row of entries, each a length (one byte, or two when the first is >= 128:
`first - 128 + 128 * second`) and that many UTF-8 bytes. A token that begins a word begins with U+2581; the byte
tokens 3..258 stand for single bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

WORD_START = "\u2581".encode()
START_ID, END_ID = 1, 2
FIRST_BYTE_ID, LAST_BYTE_ID = 3, 258


@dataclass(frozen=True)
class TokenTable:
    """`pieces[id]` is the token's bytes."""

    pieces: tuple[bytes, ...]

    @classmethod
    def from_bytes(cls, data: bytes) -> TokenTable:
        """Read `tokenizer.bin`.

        Raises:
            ValueError: the data end inside an entry.
        """
        pieces: list[bytes] = []
        at = 0
        while at < len(data):
            length = data[at]
            at += 1
            if length >= 128:
                if at >= len(data):
                    raise ValueError(f"token table ends inside a length at byte {at}")
                length += 128 * data[at] - 128
                at += 1
            if at + length > len(data):
                raise ValueError(f"token table ends inside token {len(pieces)}: {length} bytes wanted")
            pieces.append(data[at : at + length])
            at += length
        return cls(tuple(pieces))

    @cached_property
    def ids(self) -> dict[bytes, int]:
        """Ids of the pieces that spell text: the special tokens and the byte tokens are left out."""
        return {piece: token for token, piece in enumerate(self.pieces) if token > LAST_BYTE_ID}

    @cached_property
    def longest(self) -> int:
        """Bytes of the longest piece."""
        return max(map(len, self.ids), default=0)

    def encode_word(self, written: str) -> tuple[int, ...]:
        """Tokens of one word, longest piece first.

        The tokeniser's own merges are not in its file; for single words the longest pieces are nearly always the same.
        """
        ids = self.ids
        rest = WORD_START + written.encode()
        tokens: list[int] = []
        while rest:
            for length in range(min(len(rest), self.longest), 0, -1):
                if (token := ids.get(rest[:length])) is not None:
                    tokens.append(token)
                    rest = rest[length:]
                    break
            else:
                tokens.append(FIRST_BYTE_ID + rest[0])
                rest = rest[1:]
        return tuple(tokens)

    def starts_word(self, token: int) -> bool:
        """Whether this token begins a new word."""
        return self.pieces[token].startswith(WORD_START)

    def text(self, tokens: list[int]) -> str:
        """Plain text of a row of tokens; special tokens vanish, broken UTF-8 becomes U+FFFD."""
        raw = b"".join(self.pieces[t] for t in tokens if t > END_ID)
        return raw.replace(WORD_START, b" ").decode("utf-8", errors="replace").strip()
