"""The second pass: a turn in which nobody else spoke is read once more as a whole, and its words replaced at once.

The live pass knows a word's past and a little of its future; a reader of the whole turn knows all of it. The reader is
a callable, so nothing here knows ONNX Runtime. What it reads is taken over only if it is the same speech read better:
a reading that changes more than half of the words is a hallucination more often than a correction.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from streaming_models.moonshine import FRAME_SAMPLES, Moonshine
from streaming_models.recogniser import Word
from streaming_models.search import HotwordBias
from streaming_models.stable_prefix import StablePrefix, words_in
from streaming_models.voices import VoiceWords

FloatArray = NDArray[np.float32]

Reader = Callable[[FloatArray], Sequence[Word]]
"""(S,) float32 at 16 kHz -> its words in order, counted from its first sample. Threads may share it."""

LONGEST_SAMPLES = 20 * 16_000
"""A longer turn is left as it is."""
KEPT_SAMPLES = LONGEST_SAMPLES + 5 * 16_000
"""A turn's end is noticed up to this much later than its last word: the pause that ends it, and a chunk."""
MARGIN_SAMPLES = 300 * 16
"""Read before the first and after the last word: their times are off by 150 ms on average."""
MOST_CHANGED = 0.5
"""Share of a turn's words that a reading may change, drop or add; beyond that the live text stands."""


class Polisher:
    """One lane's second pass.

    It keeps the lane's last `KEPT_SAMPLES` (1.6 MB); when that is full the oldest go, and a turn whose beginning is
    gone is left as it is.
    """

    def __init__(self, read: Reader, words: VoiceWords, start_sample: int = 0) -> None:
        """Args: words: the lane's, on the session's clock; start_sample: the lane's first sample on that clock."""
        self._read = read
        self._words = words
        self._blocks: deque[FloatArray] = deque()
        self._oldest = start_sample
        self._newest = start_sample

    def step(self, pcm: FloatArray) -> None:
        """Keep the lane's next audio, (S,) float32 at 16 kHz."""
        self._blocks.append(pcm)
        self._newest += len(pcm)
        while self._newest - self._oldest - len(self._blocks[0]) >= KEPT_SAMPLES:
            self._oldest += len(self._blocks.popleft())

    def reread(self, turn: Sequence[Word], voice: int) -> tuple[Word, ...] | None:
        """The words of an ended turn as read with all of its audio.

        Args:
            turn: its words as the live pass read them, on the session's clock.
            voice: the virtual channel that they came on.

        Returns:
            All its words, on the same clock; None where the live text stands: it reads the same, somebody else
            speaks in the turn, it is too long or too long ago, or the reading differs by more than `MOST_CHANGED`.
        """
        span = self._span(turn, voice)
        if span is None:
            return None
        start, end = span
        audio = np.concatenate(self._blocks)[start - self._oldest : end - self._oldest]
        reading = placed(self._read(audio), start, end)
        if changed_words(turn, reading) > MOST_CHANGED * len(turn):
            return None
        if [word.text for word in turn] == [word.text for word in reading]:
            return None
        return reading

    def _span(self, turn: Sequence[Word], voice: int) -> tuple[int, int] | None:
        """What is to be read: the turn and a margin, up to the words before and after it; None if that can't be."""
        if not turn:
            return None
        first, last = turn[0].start_sample, turn[-1].end_sample
        start, end = max(self._oldest, first - MARGIN_SAMPLES), min(self._newest, last + MARGIN_SAMPLES)
        if start > first or last - first > LONGEST_SAMPLES:
            return None
        own = {(word.start_sample, word.end_sample) for word in turn}
        for other in self._words.between(start, end):
            if other.voice == voice and (other.start_sample, other.end_sample) in own:
                continue
            if other.end_sample <= first:
                start = max(start, other.end_sample)
            elif other.start_sample >= last:
                end = min(end, other.start_sample)
            else:
                return None
        return start, end


class FullContext:
    """A `Reader`: Moonshine over the whole audio at once."""

    def __init__(self, moonshine: Moonshine, bias: HotwordBias | None = None, *, all_speech: bool = False) -> None:
        """Args: bias: names and terms to be favoured; all_speech: what is read is known to be speech to its end.

        Base now and then takes a beginning without silence before it for nothing at all unless it is told.
        """
        self._moonshine = moonshine
        self._bias = bias
        self._all_speech = all_speech

    def __call__(self, samples: FloatArray) -> Sequence[Word]:
        """See `Reader`."""
        end_frame = len(samples) // FRAME_SAMPLES if self._all_speech else 0
        reading = self._moonshine.read(samples, bias=self._bias, speech_end_frame=end_frame)
        return words_in(StablePrefix(0).words_of(reading, self._moonshine.table, 0, len(samples)))


def placed(reading: Sequence[Word], start_sample: int, end_sample: int) -> tuple[Word, ...]:
    """A reading of the span on the clock of the span. A reader may have padded: a word never ends after the audio."""
    return tuple(
        replace(
            word,
            start_sample=min(word.start_sample + start_sample, end_sample - 1),
            end_sample=min(word.end_sample + start_sample, end_sample),
        )
        for word in reading
    )


def letters(text: str) -> str:
    """What two readings of a word are compared by: case and punctuation aside."""
    return "".join(c for c in text.lower() if c.isalnum())


_CHANGED, _UNCHANGED = 1_000, -1
"""A turn has fewer than a thousand words, so no number of unchanged ones outweighs a change."""


def aligned(before: Sequence[Word], after: Sequence[Word]) -> list[tuple[int | None, int | None]]:
    """Which word of one reading stands where in the other, with the fewest changes, and then the most words unchanged.

    Returns:
        Pairs of indices in order; None in place of the first for a word that was added, of the second for one that
        was dropped.

    Source: Wagner-Fischer, O(N M).
    """
    keys = [letters(word.text) for word in before], [letters(word.text) for word in after]
    rows, columns = len(before), len(after)
    cost = [[max(i, j) * _CHANGED for j in range(columns + 1)] for i in range(rows + 1)]  # right where i or j is 0
    for i in range(1, rows + 1):
        for j in range(1, columns + 1):
            swap = _UNCHANGED if keys[0][i - 1] == keys[1][j - 1] else _CHANGED
            cost[i][j] = min(cost[i - 1][j - 1] + swap, cost[i - 1][j] + _CHANGED, cost[i][j - 1] + _CHANGED)
    pairs: list[tuple[int | None, int | None]] = []
    i, j = rows, columns
    while i or j:
        swap = _UNCHANGED if i and j and keys[0][i - 1] == keys[1][j - 1] else _CHANGED
        if i and j and cost[i][j] == cost[i - 1][j - 1] + swap:
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif i and cost[i][j] == cost[i - 1][j] + _CHANGED:
            i -= 1
            pairs.append((i, None))
        else:
            j -= 1
            pairs.append((None, j))
    return pairs[::-1]


def changed_words(before: Sequence[Word], after: Sequence[Word]) -> int:
    """Words that one reading has to change, drop or add to become the other, case and punctuation aside."""
    return sum(
        i is None or j is None or letters(before[i].text) != letters(after[j].text) for i, j in aligned(before, after)
    )
