"""When each voice (virtual channel) of one lane speaks, by the times of its words, and where two of them overlap.

Two parts of the line need it: whose an overlapping word is (`attribution.py`), and which turns may be read again
because nobody else spoke in them (`polish.py`). It refuses to know people or texts.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import count

from streaming_models.recogniser import Recognition

REMEMBERED_SAMPLES = 60 * 16_000
"""As far back as the diarizer remembers (`speakers.HISTORY_S`)."""
JOIN_SAMPLES = 16_000
"""Overlaps of the same two utterances with less than a second between them are one stretch."""
LONGEST_OVERLAP_SAMPLES = 15 * 16_000
"""A longer overlap is cut, so that what depends on its end is settled at some time."""


@dataclass(frozen=True)
class SpokenWord:
    """Where a word lies on the lane's clock; `utterance` numbers what one voice says between two ends."""

    voice: int
    utterance: int
    start_sample: int
    end_sample: int

    def overlap(self, start_sample: int, end_sample: int) -> int:
        """Samples shared with a span; not above 0 when there are none."""
        return min(self.end_sample, end_sample) - max(self.start_sample, start_sample)


@dataclass(frozen=True)
class Overlap:
    """A stretch in which two utterances, of different voices, have words at the same time."""

    start_sample: int
    end_sample: int
    utterances: tuple[int, int]


class VoiceWords:
    """The words of one lane's voices, tails included: the last `REMEMBERED_SAMPLES`, older ones are forgotten."""

    def __init__(self) -> None:
        self._committed: deque[SpokenWord] = deque()
        self._tails: dict[int, tuple[SpokenWord, ...]] = {}
        self._utterances: dict[int, int] = {}  # voice -> number of its open utterance
        self._numbers = count()
        self._newest_sample = 0
        self._overlaps: list[Overlap] | None = []
        self.voices: set[int] = set()
        """Every voice that has been heard."""

    def hear(self, recognition: Recognition) -> None:
        """Take what one voice newly said, on the clock that is then asked about."""
        voice = recognition.voice
        if recognition.committed or recognition.tail:
            self.voices.add(voice)
            if voice not in self._utterances:
                self._utterances[voice] = next(self._numbers)
        number = self._utterances.get(voice, -1)
        tail = tuple(SpokenWord(voice, number, w.start_sample, w.end_sample) for w in recognition.tail)
        if recognition.committed or tail != self._tails.get(voice, ()):
            self._overlaps = None
        self._committed.extend(SpokenWord(voice, number, w.start_sample, w.end_sample) for w in recognition.committed)
        self._tails[voice] = tail
        if recognition.ended:
            self._utterances.pop(voice, None)
        self._newest_sample = max(self._newest_sample, recognition.decided_sample)
        while self._committed and self._committed[0].end_sample < self._newest_sample - REMEMBERED_SAMPLES:
            self._committed.popleft()
            self._overlaps = None

    def between(self, start_sample: int, end_sample: int) -> list[SpokenWord]:
        """All words that touch a span, in order of their starts."""
        words = [*self._committed, *(word for tail in self._tails.values() for word in tail)]
        touching = [word for word in words if word.overlap(start_sample, end_sample) > 0]
        return sorted(touching, key=lambda word: (word.start_sample, word.voice))

    def overlaps(self) -> list[Overlap]:
        """Where two voices have words at the same time, in order of time; what two utterances share is joined."""
        if self._overlaps is None:
            self._overlaps = self._found() if len(self.voices) > 1 else []
        return self._overlaps

    def _found(self) -> list[Overlap]:
        shared: dict[tuple[int, int], list[tuple[int, int]]] = {}
        sounding: list[SpokenWord] = []
        for word in self.between(0, self._newest_sample + REMEMBERED_SAMPLES):
            sounding = [other for other in sounding if other.end_sample > word.start_sample]
            for other in sounding:
                if other.voice != word.voice:
                    pair = (min(word.utterance, other.utterance), max(word.utterance, other.utterance))
                    span = (other.start_sample, max(word.end_sample, other.end_sample))
                    shared.setdefault(pair, []).append(span)
            sounding.append(word)
        overlaps: list[Overlap] = []
        for pair, spans in shared.items():
            spans.sort()
            begin, end = spans[0]
            for start, stop in spans[1:]:
                if start > end + JOIN_SAMPLES or stop > begin + LONGEST_OVERLAP_SAMPLES:
                    overlaps.append(Overlap(begin, end, pair))
                    begin, end = start, stop
                end = max(end, stop)
            overlaps.append(Overlap(begin, end, pair))
        return sorted(overlaps, key=lambda overlap: (overlap.start_sample, overlap.utterances))
