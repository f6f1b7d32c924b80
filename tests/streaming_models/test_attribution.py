"""Whose a word is when two voices speak at once: the real diarizer over two made-up people, a low and a high tone."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming_models import speakers as sp
from streaming_models.attribution import EVIDENCE_SAMPLES, Attribution
from streaming_models.recogniser import Recognition, Word
from streaming_models.voices import LONGEST_OVERLAP_SAMPLES, VoiceWords

FloatArray = npt.NDArray[np.float32]
RATE_HZ = 16_000
LETTER_SAMPLES = RATE_HZ // 2
TONES_HZ = {"A": 400.0, "B": 3_000.0}
WAVER_HZ = {"A": 4.0, "B": 12.0}


def audio(pattern: str) -> FloatArray:
    """Half a second a letter: A low and wavering slowly, B high and wavering fast, X both at once, - silent."""
    time_s = np.arange(len(pattern) * LETTER_SAMPLES) / RATE_HZ
    total = np.zeros(len(time_s))
    for person, tone_hz in TONES_HZ.items():
        on = np.repeat([letter in (person, "X") for letter in pattern], LETTER_SAMPLES)
        loud = 1.0 + 0.8 * np.sin(2 * np.pi * WAVER_HZ[person] * time_s)
        total += 0.2 * on * loud * np.sin(2 * np.pi * tone_hz * time_s)
    return total.astype(np.float32)


def segment(window: FloatArray) -> FloatArray:
    """Local speaker 0 where the low tone sounds, 1 where the high one does."""
    frames = np.resize(window, 593 * 270)[: 589 * 270].reshape(589, 270)
    active = np.zeros((589, 3), np.float32)
    for slot, tone_hz in enumerate(TONES_HZ.values()):
        wave = np.exp(-2j * np.pi * tone_hz * np.arange(270) / RATE_HZ)
        active[:, slot] = np.abs(frames @ wave) / 270 > 0.005
    return active


def embed(features: FloatArray, weights: FloatArray) -> FloatArray:
    """The voice by how fast it wavers; centred features keep nothing else of a tone."""
    level = features.mean(axis=1) > 0
    crossings_per_s = np.count_nonzero(level[1:] != level[:-1]) / (len(level) / 100)
    vector = np.zeros(256, np.float32)
    vector[0 if crossings_per_s < 14 else 1] = 1.0
    return vector


def words_in(pattern: str, people: str, word_samples: int = LETTER_SAMPLES) -> tuple[Word, ...]:
    """A word for every letter of `people`."""
    return tuple(
        Word(letter, k * LETTER_SAMPLES, k * LETTER_SAMPLES + word_samples, 0.9)
        for k, letter in enumerate(pattern)
        if letter in people
    )


class Meeting:
    """Somebody's words on two voices over a tone pattern."""

    def __init__(self, start_sample: int = 0) -> None:
        self.diarizer = sp.Diarizer(segment, embed, sp.SpeakerRegistry())
        self.words = VoiceWords()
        self.attribution = Attribution(self.diarizer, self.words, start_sample)
        self.said: list[tuple[int, Word]] = []

    def say(self, voice: int, *words: Word, ended: bool = False) -> None:
        newest = max((w.end_sample for w in words), default=0)
        self.words.hear(Recognition(newest, words, (), ended, voice))
        self.said += [(voice, word) for word in words]

    def labels(self, voice: int) -> list[str]:
        """Of all that a voice said, in order."""
        own = [word for v, word in self.said if v == voice]
        return [self.attribution.speaker_of(w.start_sample, w.end_sample, voice)[0] for w in own]


def met(pattern: str, *, flush: bool = True) -> Meeting:
    meeting = Meeting()
    meeting.diarizer.step(audio(pattern))
    if flush:
        meeting.diarizer.flush()
    return meeting


BOTH_KNOWN = "AAAAAAAA--BBBBBBBB--AAAAXXXBBBB--"


def test_made_up_people_are_told_apart() -> None:
    meeting = met(BOTH_KNOWN)
    spans = {span.speaker for span in meeting.diarizer._spans_from(0)}
    assert spans == {"S1", "S2"}
    both_s = meeting.diarizer.activity_s(24 * LETTER_SAMPLES, 27 * LETTER_SAMPLES)
    assert both_s == pytest.approx({"S1": 1.5, "S2": 1.5}, abs=0.2)


def test_words_on_one_voice_are_whoever_speaks_most_around_them() -> None:
    meeting = met(BOTH_KNOWN)
    for k, letter in enumerate(BOTH_KNOWN):
        if letter in "AB":
            start, end = k * LETTER_SAMPLES, (k + 1) * LETTER_SAMPLES
            expected = {"A": "S1", "B": "S2"}[letter]
            assert meeting.attribution.speaker_of(start, end, 0) == (expected, "final")


def test_overlapping_words_take_the_people_of_their_utterances() -> None:
    pattern = BOTH_KNOWN
    for low, high in ((0, 1), (1, 0)):
        meeting = met(pattern)
        meeting.say(low, *words_in(pattern[:27], "AX")[8:], ended=True)
        meeting.say(high, *words_in(pattern, "XB")[8:], ended=True)
        assert set(meeting.labels(low)) == {"S1"}
        assert set(meeting.labels(high)) == {"S2"}


def test_remark_that_is_never_alone_is_the_other_persons() -> None:
    pattern = "AAAAAAAA--BBBBBBBB--AAAAXAAAA--"
    meeting = met(pattern)
    meeting.say(0, *words_in(pattern, "AX")[8:], ended=True)
    meeting.say(1, *words_in(pattern, "X"), ended=True)
    assert (set(meeting.labels(0)), meeting.labels(1)) == ({"S1"}, ["S2"])


def test_remark_that_the_diarizer_missed_is_whoever_else_spoke_lately() -> None:
    pattern = "AAAAAAAA--BBBBBBBB--AAAAAAAAA--"
    meeting = met(pattern)
    meeting.say(0, *words_in(pattern, "A")[8:], ended=True)
    meeting.say(1, Word("yes", 24 * LETTER_SAMPLES, 25 * LETTER_SAMPLES, 0.9), ended=True)
    assert (set(meeting.labels(0)), meeting.labels(1)) == ({"S1"}, ["S2"])


def test_second_voice_stays_unnamed_while_only_one_person_is_known() -> None:
    meeting = met("AAAAAAAA--")
    meeting.say(0, *words_in("AAAAAAAA--", "A"), ended=True)
    meeting.say(1, Word("yes", 3 * LETTER_SAMPLES, 4 * LETTER_SAMPLES, 0.9), ended=True)
    assert meeting.labels(1) == [""]
    assert meeting.labels(0)[3] == "S1"


def test_one_voice_may_go_on_with_another_person() -> None:
    pattern = "AAAAAAAA--BBBBBBBB--AAAAXXBBBBBBBBBBXXAAAA--"
    meeting = met(pattern)
    meeting.say(0, *words_in(pattern[:26], "AX")[8:], *words_in(pattern, "XA")[-6:], ended=True)
    meeting.say(1, *words_in(pattern, "XB")[8:], ended=True)
    assert set(meeting.labels(0)) == {"S1"}
    assert set(meeting.labels(1)) == {"S2"}


def test_label_is_final_once_all_evidence_is() -> None:
    pattern = BOTH_KNOWN
    meeting = Meeting()
    meeting.say(0, *words_in(pattern[:27], "AX")[8:], ended=True)
    meeting.say(1, *words_in(pattern, "XB")[8:], ended=True)
    at = 25 * LETTER_SAMPLES
    pcm = audio(pattern + "-" * 40)
    settled: dict[int, str] = {}
    for start in range(0, len(pcm), RATE_HZ):
        meeting.diarizer.step(pcm[start : start + RATE_HZ])
        for voice in (0, 1):
            label, state = meeting.attribution.speaker_of(at, at + LETTER_SAMPLES, voice)
            assert settled.get(voice, label) == label, "a final label has changed"
            if state == "final":
                assert meeting.diarizer.final_until_sample >= at + EVIDENCE_SAMPLES
                settled[voice] = label
    assert settled == {0: "S1", 1: "S2"}


def test_words_lie_on_the_sessions_clock() -> None:
    pattern, later = BOTH_KNOWN, 7 * RATE_HZ
    meeting = Meeting(start_sample=later)
    meeting.diarizer.step(audio(pattern))
    meeting.diarizer.flush()
    moved = [Word(w.text, w.start_sample + later, w.end_sample + later, 0.9) for w in words_in(pattern[:27], "AX")[8:]]
    meeting.say(0, *moved, ended=True)
    meeting.say(1, Word("no", 25 * LETTER_SAMPLES + later, 26 * LETTER_SAMPLES + later, 0.9), ended=True)
    assert (set(meeting.labels(0)), meeting.labels(1)) == ({"S1"}, ["S2"])


def test_second_voice_widens_what_may_still_change() -> None:
    meeting = met(BOTH_KNOWN, flush=False)
    alone = meeting.attribution.revisable_from_sample
    meeting.say(0, Word("a", 0, 100, 0.9))
    assert meeting.attribution.revisable_from_sample == alone
    meeting.say(1, Word("b", 0, 100, 0.9))
    assert meeting.attribution.revisable_from_sample == alone - LONGEST_OVERLAP_SAMPLES


@cache
def decided() -> sp.Diarizer:
    return met("AAAAAAAA--BBBBBBBB--AAXXBBXXAAXAXBXBAA--").diarizer


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 19_000), st.integers(100, 900), st.booleans()),
        min_size=2,
        max_size=20,
    )
)
def test_two_utterances_never_share_a_person_within_their_overlap(rows: list[tuple[int, int, int, bool]]) -> None:
    words = VoiceWords()
    attribution = Attribution(decided(), words)
    for voice, at_ms, length_ms, ended in rows:
        word = Word("w", at_ms * 16, (at_ms + length_ms) * 16, 0.9)
        words.hear(Recognition(word.end_sample, (word,), (), ended, voice))
    for overlap in words.overlaps():
        labels = list(attribution._assigned(overlap).values())
        assert len(labels) == 2
        assert labels[0] != labels[1]
