"""Which words of a window that is read again and again may be shown for good.

A reading gives tokens with frames; `StablePrefix` groups what is new in them into words with times and commits words
in order, each once: when two readings in a row agree on it and on everything before it, or when it lies far enough
behind the window's end. It also says where a window may be cut so that no word is lost. It reads nothing itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from streaming_models.moonshine import FRAME_SAMPLES, SAMPLE_RATE_HZ, Reading
from streaming_models.tokens import TokenTable

GRAZED_SAMPLES = 1_000
"""Times of words are no more exact than this (62 ms), so a cut this far inside a word may lie beside it."""


@dataclass(frozen=True)
class Word:
    """One word with its place on the lane's sample clock; `confidence` is its least certain token's probability."""

    text: str
    start_sample: int
    end_sample: int
    confidence: float


@dataclass(frozen=True)
class ReadWord:
    """A word as read from a window: its tokens, and its letters as compared between readings."""

    tokens: tuple[int, ...]
    key: str
    word: Word

    @property
    def start_sample(self) -> int:
        """Of the word."""
        return self.word.start_sample

    @property
    def end_sample(self) -> int:
        """Of the word."""
        return self.word.end_sample

    def is_mostly_after(self, sample: int) -> bool:
        """Whether more than half of the word lies after this sample."""
        return self.start_sample + self.end_sample > 2 * sample


def words_in(reads: Iterable[ReadWord]) -> tuple[Word, ...]:
    """The words as viewers get them."""
    return tuple(read.word for read in reads)


@dataclass(frozen=True)
class CommitRule:
    """When a word that another word follows is believed."""

    hold_samples: int
    """A word that ends closer than this to the window's end may still be half a word."""
    believe_after_samples: int
    """A word this far behind the window's end is committed even if two readings differ."""


class StablePrefix:
    """One row of words read from a window whose end grows and whose beginning is cut off now and then.

    words: committed words whose audio is still in the window.
    pending: uncommitted words of the last reading.
    committed_to: sample up to which everything is committed.
    """

    def __init__(self, start_sample: int) -> None:
        self.words: tuple[ReadWord, ...] = ()
        self.pending: tuple[ReadWord, ...] = ()
        self.committed_to = start_sample

    @property
    def tokens(self) -> tuple[int, ...]:
        """Of the committed words: what the next reading must begin with."""
        return tuple(token for read in self.words for token in read.tokens)

    @property
    def guess(self) -> tuple[int, ...]:
        """Tokens that the next reading probably finds after `tokens`."""
        return tuple(token for read in self.pending for token in read.tokens)

    @property
    def read_to(self) -> int:
        """Sample at which its last word ends, committed or not."""
        return self.pending[-1].end_sample if self.pending else self.committed_to

    def end_frame(self, window_start: int) -> int:
        """Frame of a window at which what is committed ends, 0 if no committed word is in it."""
        return max(0, self.committed_to - window_start) // FRAME_SAMPLES if self.words else 0

    def words_of(self, reading: Reading, table: TokenTable, window_start: int, window_end: int) -> tuple[ReadWord, ...]:
        """The words of a reading after the committed ones, with times on the lane's clock.

        Args:
            reading: its tokens begin with `tokens`.
            table: spells the tokens.
            window_start: sample of the reading's frame 0.
            window_end: sample at which the window ends: no word ends later.
        """
        groups: list[list[int]] = []
        for index in range(len(self.tokens), len(reading.tokens)):
            if groups and not table.starts_word(reading.tokens[index]):
                groups[-1].append(index)
            else:
                groups.append([index])
        earliest = self.committed_to
        words: list[ReadWord] = []
        for group in groups:
            tokens = tuple(reading.tokens[i] for i in group)
            text = table.text(list(tokens))
            key = "".join(c for c in text.lower() if c.isalnum())
            if not key:
                if words:  # punctuation of its own belongs to the word before it
                    last = words[-1]
                    joined = replace(last.word, text=last.word.text + text)
                    words[-1] = replace(last, tokens=last.tokens + tokens, word=joined)
                continue
            spoken = [i for i in group if any(c.isalnum() for c in table.text([reading.tokens[i]]))] or group
            start = window_start + reading.bounds[spoken[0]] * FRAME_SAMPLES
            end = window_start + reading.bounds[spoken[-1] + 1] * FRAME_SAMPLES
            # The path gives silence to a neighbour: no word of n letters lasts longer than this.
            start = max(start, end - (300 + 90 * len(key)) * SAMPLE_RATE_HZ // 1000, earliest)
            end = min(max(end, start + FRAME_SAMPLES), max(window_end, start + FRAME_SAMPLES))
            earliest = end
            confidence = min(reading.confidence[i] for i in group)
            words.append(ReadWord(tokens, key, Word(text, start, end, confidence)))
        return tuple(words)

    def advance(
        self, words: tuple[ReadWord, ...], window_end: int, rule: CommitRule, agreed: bool = False
    ) -> tuple[ReadWord, ...]:
        """Commit what may be believed after a reading; the rest of its words is pending from then on.

        The last word stays pending whatever its age: only what follows shows that it has been heard to its end.

        Args:
            words: of the new reading (`words_of`).
            window_end: sample at which its window ended.
            rule: when to believe a word.
            agreed: take the reading as if the one before had said the same.
        """
        same = len(words) if agreed else 0
        while same < min(len(words), len(self.pending)) and words[same].key == self.pending[same].key:
            same += 1
        held, old = window_end - rule.hold_samples, window_end - rule.believe_after_samples
        ready = 0
        while ready < len(words) - 1 and words[ready].word.end_sample <= (held if ready < same else old):
            ready += 1
        self.pending = words
        return self.commit(ready)

    def commit(self, count: int) -> tuple[ReadWord, ...]:
        """Commit the first so many pending words."""
        ready, self.pending = self.pending[:count], self.pending[count:]
        self.words += ready
        if ready:
            self.committed_to = ready[-1].word.end_sample
        return ready

    def finish(self, lone_confidence: float) -> tuple[ReadWord, ...]:
        """Commit everything pending, but for one word alone that is less likely than this.

        One unlikely word alone is what the decoder makes of a cough or a click.
        """
        if not self.words and len(self.pending) == 1 and self.pending[0].word.confidence < lone_confidence:
            self.pending = ()
        return self.commit(len(self.pending))

    def cut(self, sample: int) -> None:
        """The window now begins here: forget the committed words that lie mostly before."""
        self.words = tuple(read for read in self.words if read.is_mostly_after(sample))

    def pause_at(self, sample: int) -> int | None:
        """Samples between the words around this one; inside a word minus the way out; None if not between words."""
        words = [read.word for read in (*self.words, *self.pending)]
        inside = [word for word in words if word.start_sample < sample < word.end_sample]
        if inside:
            return max(-min(sample - word.start_sample, word.end_sample - sample) for word in inside)
        before = max((word.end_sample for word in words if word.end_sample <= sample), default=None)
        after = min((word.start_sample for word in words if word.start_sample >= sample), default=None)
        return None if before is None or after is None else after - before


def widest_pause(rows: Sequence[StablePrefix], latest_sample: int, inside_words: bool = False) -> int | None:
    """Where to cut a window: in the widest pause between two committed words of one row, in which the others pause too.

    Args:
        rows: everything read from the window.
        latest_sample: only after words that end up to here.
        inside_words: rather through another row's word than nowhere.

    Returns:
        A sample before every pending word, or None if there is no such pause.
    """
    best: tuple[int, int] | None = None
    for row in rows:
        others = [other for other in rows if other is not row]
        for word, after in pairwise(read.word for read in row.words):
            cut = (word.end_sample + after.start_sample) // 2
            if word.end_sample > latest_sample:
                continue
            if any(other.pending and other.pending[0].word.start_sample < cut for other in others):
                continue
            pauses = [after.start_sample - word.end_sample]
            pauses += [pause for other in others if (pause := other.pause_at(cut)) is not None]
            if min(pauses) < -GRAZED_SAMPLES and not inside_words:
                continue
            # A later cut frees more; half a second of it is worth ten milliseconds of pause.
            score = min(pauses) + word.end_sample // 50
            if best is None or score >= best[0]:
                best = (score, cut)
    return None if best is None else best[1]
