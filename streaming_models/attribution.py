"""Whose a word is: the person of each word of one lane, also while two voices speak at once.

A word that nobody overlaps is the person's who speaks most around its time. Where two voices overlap that would give
both words to whoever is louder. So each stretch of overlap is decided as a whole: each of the two utterances is held
against each person by how long that person speaks during the utterance's words, words that nobody overlaps counting
most, and the best assignment of two different people wins (cannot-link). It knows of voices only what the diarizer
says; it refuses to change what is final.
"""

from __future__ import annotations

import numpy as np

from streaming_models.fbank import SAMPLE_RATE_HZ
from streaming_models.speakers import Diarizer, LabelState, best_assignment, label_number, label_text
from streaming_models.voices import LONGEST_OVERLAP_SAMPLES, Overlap, VoiceWords

UNNAMED = label_text(0)
"""What the diarizer calls a voice that it cannot name; here that is ""."""
NEIGHBOURHOOD_SAMPLES = tuple(ms * SAMPLE_RATE_HZ // 1_000 for ms in (0, 300, 1_000, 3_000))
"""How far around a word a speaker is looked for: the word's own times are off by 150 ms on average."""
EVIDENCE_SAMPLES = 3 * SAMPLE_RATE_HZ
"""How far from an overlap the two utterances' other words count: one voice may go on with another person's words."""
SOLO_WEIGHT = 1.0
OVERLAPPED_WEIGHT = 0.2
"""While both speak, a second of activity says little about which of the two it is. From 0.15 to 0.3 the labels of AMI's
words and of mixed LibriSpeech utterances hardly differ."""
RECENT_SAMPLES = 30 * SAMPLE_RATE_HZ
RECENT_WEIGHT = 0.001
"""For whoever spoke lately, or at all, around the overlap: decides when an utterance has nothing else to go by."""


class Attribution:
    """Labels of one lane's words. Words and diarizer are on the lane's own clock, which starts at `start_sample`."""

    def __init__(self, diarizer: Diarizer, words: VoiceWords, start_sample: int = 0) -> None:
        """Args: words: on the session's clock; start_sample: the lane's first sample on it."""
        self._diarizer = diarizer
        self._words = words
        self._start_sample = start_sample
        self._people: dict[Overlap, dict[int, str]] = {}  # by overlap: voice -> label, as known at `_known`
        self._known: tuple[list[Overlap], int, int] = ([], 0, 0)

    @property
    def revisable_from_sample(self) -> int:
        """Words that end before this, on the session's clock, keep their labels."""
        reach = NEIGHBOURHOOD_SAMPLES[-1] + (LONGEST_OVERLAP_SAMPLES if len(self._words.voices) > 1 else 0)
        return self._diarizer.revised_from_sample + self._start_sample - reach

    @property
    def decided_until_sample(self) -> int:
        """Words that begin after this, on the session's clock, are labelled by a guess at most."""
        return self._diarizer.decided_until_sample + self._start_sample + NEIGHBOURHOOD_SAMPLES[-1]

    def speaker_of(self, start_sample: int, end_sample: int, voice: int) -> tuple[str, LabelState]:
        """The label of a word, "" while nobody can be named, and whether it may still change.

        Args:
            start_sample, end_sample: the word's place on the session's clock.
            voice: its virtual channel.
        """
        middle = (start_sample + end_sample) // 2
        for overlap in self._words.overlaps():
            if overlap.start_sample <= middle < overlap.end_sample:
                label = self._assigned(overlap).get(voice)
                if label is not None:
                    end = overlap.end_sample - self._start_sample + EVIDENCE_SAMPLES
                    return label, "final" if end <= self._diarizer.final_until_sample else "provisional"
        return self._speaker_around(start_sample - self._start_sample, end_sample - self._start_sample)

    def _speaker_around(self, start: int, end: int) -> tuple[str, LabelState]:
        state: LabelState = "provisional"
        for around in NEIGHBOURHOOD_SAMPLES:
            label, state, _ = self._diarizer.speaker_at(max(0, start - around), end + around)
            if label and label != UNNAMED:
                return label, state
        return "", state

    def _assigned(self, overlap: Overlap) -> dict[int, str]:
        """Voice -> label for the two utterances of an overlap; remembered until something new is known."""
        known = (self._words.overlaps(), self._diarizer.decided_until_sample, self._diarizer.final_until_sample)
        if known[0] is not self._known[0] or known[1:] != self._known[1:]:
            self._known, self._people = known, {}
        if overlap not in self._people:
            self._people[overlap] = self._assign(overlap)
        return self._people[overlap]

    def _assign(self, overlap: Overlap) -> dict[int, str]:
        near = self._words.between(overlap.start_sample - EVIDENCE_SAMPLES, overlap.end_sample + EVIDENCE_SAMPLES)
        said = [[word for word in near if word.utterance == utterance] for utterance in overlap.utterances]
        evidence: list[dict[str, float]] = [{}, {}]
        for row, words in enumerate(said):
            for word in words:
                alone = all(o.voice == word.voice or o.overlap(word.start_sample, word.end_sample) <= 0 for o in near)
                weight = SOLO_WEIGHT if alone else OVERLAPPED_WEIGHT
                self._add(evidence[row], weight, word.start_sample, word.end_sample)
            recent = overlap.start_sample - RECENT_SAMPLES
            self._add(evidence[row], RECENT_WEIGHT, recent, overlap.end_sample + EVIDENCE_SAMPLES)
        people = sorted({*evidence[0], *evidence[1]}, key=label_number)
        if not people:
            return {}
        scores = np.array([[row.get(person, 0.0) for person in people] for row in evidence])
        columns = best_assignment(scores)
        return {
            words[0].voice: people[column] if column >= 0 else ""
            for words, column in zip(said, columns, strict=True)
            if words
        }

    def _add(self, evidence: dict[str, float], weight: float, start_sample: int, end_sample: int) -> None:
        start, end = max(0, start_sample - self._start_sample), max(0, end_sample - self._start_sample)
        for label, seconds in self._diarizer.activity_s(start, end).items():
            evidence[label] = evidence.get(label, 0.0) + weight * seconds
