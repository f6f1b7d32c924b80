"""The speech that training draws from: audio decoded once, and words with tokens and times.

Corpora spell their texts in their own ways (upper case, no punctuation, none at all) and have no word times. The
teacher's reading of an utterance has both, and errors. `label` joins the two: the corpus says which words were said,
the reading says how they are written and when. The bank is two files: `NAME.npy` with all samples (int16, 16 kHz) and
`NAME.jsonl` with one utterance a line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from streaming_models.data.corpus import SAMPLE_RATE_HZ, FloatArray, Utterance
from streaming_models.scoring import normalise
from streaming_models.stable_prefix import ReadWord
from streaming_models.tokens import TokenTable

LONGEST_S = 20.0
"""Longer utterances are left out: the teacher was not made for them."""
MOST_ERRORS = 0.34
"""Readings that differ from the corpus in more than this share of words: the text or the audio is wrong."""
LEAST_CONFIDENCE = 0.5
"""Without a corpus text: utterances with a word less sure than this are left out."""


Read = Callable[[FloatArray], Sequence[ReadWord]]
"""The teacher: (S,) float32 at 16 kHz -> its words, with samples from the start."""


@dataclass(frozen=True)
class BankWord:
    """A word to learn: its tokens, and where it lies in samples from the utterance's start."""

    tokens: tuple[int, ...]
    start_sample: int
    end_sample: int


@dataclass(frozen=True)
class BankUtterance:
    """One utterance of the bank; `offset` is its first sample in the bank's audio."""

    id: str
    speaker: str
    offset: int
    samples: int
    words: tuple[BankWord, ...]


@dataclass(frozen=True, eq=False)
class SpeechBank:
    """Audio (S,) int16 at 16 kHz, and the utterances in it."""

    audio: npt.NDArray[np.int16]
    utterances: tuple[BankUtterance, ...]

    @classmethod
    def load(cls, stems: Iterable[Path]) -> SpeechBank:
        """Join banks written by `write_bank`; `stems` are their paths without suffix.

        Raises:
            FileNotFoundError: a bank's file is missing.
            ValueError: no bank, or one whose audio is shorter than its utterances say.
        """
        parts: list[npt.NDArray[np.int16]] = []
        utterances: list[BankUtterance] = []
        at = 0
        for stem in stems:
            audio = np.load(stem.with_suffix(".npy"))
            for line in stem.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                if row["offset"] + row["samples"] > len(audio):
                    raise ValueError(f"{stem}: expected {row['id']} within {len(audio)} samples, got {row['offset']}")
                words = tuple(BankWord(tuple(w["tokens"]), w["start_sample"], w["end_sample"]) for w in row["words"])
                offset = at + row["offset"]
                utterances.append(BankUtterance(row["id"], row["speaker"], offset, row["samples"], words))
            parts.append(audio)
            at += len(audio)
        if not parts:
            raise ValueError("expected one bank or more, got none")
        return cls(np.concatenate(parts), tuple(utterances))

    def samples_of(self, utterance: BankUtterance) -> FloatArray:
        """(S,) float32 in [-1, 1]."""
        pcm = self.audio[utterance.offset : utterance.offset + utterance.samples]
        return pcm.astype(np.float32) / np.float32(32768)


def write_bank(stem: Path, utterances: Iterable[Utterance], read: Read, table: TokenTable) -> tuple[int, int]:
    """Read, label and store utterances.

    Returns:
        How many were kept, and how many were left out (too long, or text and audio disagree).

    Raises:
        CorpusError: a shard cannot be read.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    pieces: list[npt.NDArray[np.int16]] = []
    at, kept, dropped = 0, 0, 0
    with stem.with_suffix(".jsonl").open("w", encoding="utf-8") as manifest:
        for utterance in utterances:
            words: tuple[BankWord, ...] = ()
            if utterance.duration_s <= LONGEST_S:
                audio = utterance.audio()
                words = label(utterance.text, read(audio), table)
            if not words:
                dropped += 1
                continue
            row = BankUtterance(utterance.id, utterance.speaker, at, len(audio), words)
            manifest.write(json.dumps(asdict(row)) + "\n")
            pieces.append((np.clip(audio, -1, 1) * 32767).astype(np.int16))
            at += len(audio)
            kept += 1
    np.save(stem.with_suffix(".npy"), np.concatenate(pieces) if pieces else np.zeros(0, np.int16))
    return kept, dropped


def label(text: str, reading: Sequence[ReadWord], table: TokenTable) -> tuple[BankWord, ...]:
    """The corpus's words as the teacher would write them, with the teacher's times.

    Args:
        text: what the corpus says was said; "" to take the reading's word where it is sure of every word.
        reading: the teacher's words.
        table: for words that the teacher did not read.

    Returns:
        Words in order; none where text and reading disagree too much to be of the same speech.
    """
    heard = [word for word in reading if normalise(word.word.text)]
    if not text:
        sure = bool(heard) and min(word.word.confidence for word in heard) >= LEAST_CONFIDENCE
        return tuple(BankWord(w.tokens, w.word.start_sample, w.word.end_sample) for w in heard) if sure else ()
    said = [(written, normalise(written)) for written in text.split() if normalise(written)]
    if not said or not heard:
        return ()
    keys = [normalise(word.word.text) for word in heard]
    pairs = aligned([key for _, key in said], keys)
    errors = sum(1 for a, b in pairs if a is None or b is None or said[a][1] != keys[b])
    if errors > max(1, MOST_ERRORS * len(said)):
        return ()
    words: list[BankWord] = []
    waiting: list[str] = []  # said but not read: they share the time up to the next word that was read
    upper = text.isupper()
    for a, b in pairs:
        if a is None:
            continue
        written = said[a][0].lower() if upper else said[a][0]
        if b is None:
            waiting.append(written)
            continue
        word, tokens = heard[b].word, heard[b].tokens
        if said[a][1] != keys[b]:
            capital = upper and word.text[:1].isupper()
            tokens = table.encode_word(written.capitalize() if capital else written)
        _place(waiting, words, word.start_sample, table)
        waiting = []
        words.append(BankWord(tokens, word.start_sample, word.end_sample))
    _place(waiting, words, heard[-1].word.end_sample + SAMPLE_RATE_HZ // 4, table)
    return tuple(words)


def _place(waiting: list[str], words: list[BankWord], until_sample: int, table: TokenTable) -> None:
    """Append words without times of their own between the last word and `until_sample`."""
    start = words[-1].end_sample if words else 0
    span = max(0, until_sample - start)
    for index, written in enumerate(waiting):
        first, last = (start + span * k // len(waiting) for k in (index, index + 1))
        words.append(BankWord(table.encode_word(written), first, last))


def aligned(said: list[str], heard: list[str]) -> list[tuple[int | None, int | None]]:
    """Pairs of indices along the cheapest edit path; None where a word has no partner."""
    cost = np.zeros((len(said) + 1, len(heard) + 1), np.int32)
    cost[:, 0], cost[0] = np.arange(len(said) + 1), np.arange(len(heard) + 1)
    for i, a in enumerate(said, start=1):
        for j, b in enumerate(heard, start=1):
            cost[i, j] = min(cost[i - 1, j - 1] + (a != b), cost[i - 1, j] + 1, cost[i, j - 1] + 1)
    pairs: list[tuple[int | None, int | None]] = []
    i, j = len(said), len(heard)
    while i or j:
        if i and j and cost[i, j] == cost[i - 1, j - 1] + (said[i - 1] != heard[j - 1]):
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif i and cost[i, j] == cost[i - 1, j] + 1:
            i -= 1
            pairs.append((i, None))
        else:
            j -= 1
            pairs.append((None, j))
    return pairs[::-1]
