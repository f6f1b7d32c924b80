"""The second pass: what it reads, what it takes over, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming_models.polish import (
    KEPT_SAMPLES,
    LONGEST_SAMPLES,
    MARGIN_SAMPLES,
    FloatArray,
    FullContext,
    Polisher,
    aligned,
    changed_words,
)
from streaming_models.recogniser import Recognition, Word
from streaming_models.voices import VoiceWords
from tests import real

RATE_HZ = 16_000
EACH_SAMPLES = 4_800


def words(text: str, first_sample: int = 0) -> tuple[Word, ...]:
    """Words of 300 ms, one after the other."""
    return tuple(
        Word(w, first_sample + k * EACH_SAMPLES, first_sample + (k + 1) * EACH_SAMPLES, 0.9)
        for k, w in enumerate(text.split())
    )


def texts(reading: Sequence[Word] | None) -> str | None:
    return None if reading is None else " ".join(word.text for word in reading)


class Scripted:
    """A reader that always reads the same, and remembers what it was given."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.heard: list[FloatArray] = []

    def __call__(self, samples: FloatArray) -> Sequence[Word]:
        self.heard.append(samples)
        return words(self.text)


def ramp(samples: int, first: int = 0) -> FloatArray:
    """Audio whose every sample says where it is."""
    return np.arange(first, first + samples, dtype=np.float32)


def after(
    live: tuple[Word, ...], read: Callable[[FloatArray], Sequence[Word]], *others: Recognition, start_sample: int = 0
) -> Polisher:
    """A lane that heard the words of a turn, then the others, and all audio to a second after the turn."""
    spoken = VoiceWords()
    spoken.hear(Recognition(live[-1].end_sample, live, (), ended=True))
    for other in others:
        spoken.hear(other)
    polisher = Polisher(read, spoken, start_sample)
    for at in range(start_sample, live[-1].end_sample + RATE_HZ, 1_024):
        polisher.step(ramp(1_024, at))
    return polisher


def reread(live: str, read: str, *others: Recognition) -> str | None:
    turn = words(live, 2 * RATE_HZ)
    return texts(after(turn, Scripted(read), *others).reread(turn, voice=0))


def test_better_reading_takes_the_place_of_the_live_one() -> None:
    assert reread("we should by gin now", "We should begin now.") == "We should begin now."


def test_same_text_is_no_revision() -> None:
    assert reread("We should begin.", "We should begin.") is None


def test_punctuation_and_case_alone_are_one() -> None:
    assert reread("we should begin now", "We should begin now.") == "We should begin now."


@pytest.mark.parametrize(
    "read",
    ["", "We", "We should begin now and then and then and then", "Thank you for watching"],
    ids=["nothing", "most is lost", "much is added", "something else"],
)
def test_reading_that_differs_wildly_leaves_the_live_text(read: str) -> None:
    assert reread("we should begin now", read) is None


def test_half_of_the_words_may_change_and_no_more() -> None:
    assert reread("a b c d", "a b x y") == "a b x y"
    assert reread("a b c d", "a x y z") is None


def test_turn_is_read_with_a_margin_and_its_words_are_on_the_sessions_clock() -> None:
    turn, reader = words("well hello", 5 * RATE_HZ), Scripted("Well, hello.")
    reading = after(turn, reader, start_sample=3 * RATE_HZ).reread(turn, voice=0)
    (heard,) = reader.heard
    assert (heard[0], heard[-1]) == (5 * RATE_HZ - MARGIN_SAMPLES, turn[-1].end_sample + MARGIN_SAMPLES - 1)
    assert reading is not None
    assert reading[0].start_sample == 5 * RATE_HZ - MARGIN_SAMPLES


def test_words_before_and_after_the_turn_are_not_read() -> None:
    turn, reader = words("in between", 2 * RATE_HZ), Scripted("In between.")
    before = Recognition(0, (Word("x", turn[0].start_sample - 900, turn[0].start_sample - 400, 0.9),), (), ended=True)
    tail = (Word("y", turn[-1].end_sample + 100, turn[-1].end_sample + 900, 0.9),)
    after(turn, reader, before, Recognition(0, (), tail, ended=False)).reread(turn, voice=0)
    assert (reader.heard[0][0], reader.heard[0][-1]) == (turn[0].start_sample - 400, turn[-1].end_sample + 99)


@pytest.mark.parametrize("kind", ["committed", "tail"])
def test_turn_in_which_another_voice_speaks_is_left_alone(kind: str) -> None:
    word = (Word("yes", 2 * RATE_HZ + 1_000, 2 * RATE_HZ + 4_000, 0.9),)
    committed, tail = (word, ()) if kind == "committed" else ((), word)
    assert reread("we should begin now", "We should begin now.", Recognition(0, committed, tail, False, 1)) is None


def test_same_word_at_the_same_time_on_another_voice_is_somebody_else() -> None:
    copy = words("we", 2 * RATE_HZ)
    assert reread("we should begin now", "We should begin now.", Recognition(0, copy, (), False, voice=1)) is None


def test_turn_that_is_too_long_is_left_alone() -> None:
    count = LONGEST_SAMPLES // EACH_SAMPLES
    assert reread("word " * count, "Word " * count) is not None
    assert reread("word " * (count + 1), "Word " * (count + 1)) is None


def test_turn_whose_audio_is_gone_is_left_alone() -> None:
    turn, reader = words("long ago", RATE_HZ), Scripted("Long ago.")
    polisher = after(turn, reader)
    for _ in range(KEPT_SAMPLES // RATE_HZ):
        polisher.step(ramp(RATE_HZ))
    assert polisher.reread(turn, voice=0) is None
    assert reader.heard == []


def test_no_more_audio_is_kept_than_said() -> None:
    polisher = Polisher(Scripted(""), VoiceWords())
    for _ in range(100):
        polisher.step(ramp(RATE_HZ // 2))
    assert KEPT_SAMPLES <= sum(map(len, polisher._blocks)) < KEPT_SAMPLES + RATE_HZ // 2


def test_turn_without_words_is_left_alone() -> None:
    assert Polisher(Scripted("a"), VoiceWords()).reread((), voice=0) is None


# --- the comparison of two readings ----------------------------------------------------------------------------------

sentences = st.lists(st.sampled_from(["a", "b", "c", "B."]), max_size=7).map(lambda row: words(" ".join(row)))


def brute_force(before: Sequence[Word], now: Sequence[Word]) -> int:
    """Levenshtein's distance by its definition."""
    if not before or not now:
        return len(before) + len(now)
    swap = before[0].text.lower().strip(".") != now[0].text.lower().strip(".")
    return min(
        brute_force(before[1:], now[1:]) + swap,
        brute_force(before[1:], now) + 1,
        brute_force(before, now[1:]) + 1,
    )


@given(sentences, sentences)
def test_changes_are_the_fewest_there_can_be(before: tuple[Word, ...], now: tuple[Word, ...]) -> None:
    assert changed_words(before, now) == brute_force(before, now)


@given(sentences, sentences)
def test_every_word_of_both_readings_is_paired_once_and_in_order(
    before: tuple[Word, ...], now: tuple[Word, ...]
) -> None:
    pairs = aligned(before, now)
    assert [i for i, _ in pairs if i is not None] == list(range(len(before)))
    assert [j for _, j in pairs if j is not None] == list(range(len(now)))
    assert (None, None) not in pairs


# --- with the real Moonshine -----------------------------------------------------------------------------------------


@cache
def story() -> tuple[FloatArray, tuple[Word, ...]]:
    """The beginning of a novel read aloud, and its words as read at once."""
    pcm = real.speech("two_cities", 8)
    return pcm, tuple(FullContext(real.moonshine())(pcm))


def test_full_context_reads_what_was_said() -> None:
    pcm, reading = story()
    assert "best of times" in str(texts(reading)).lower()
    assert all(0 <= a.start_sample < a.end_sample <= b.start_sample for a, b in pairwise(reading))
    assert reading[-1].end_sample <= len(pcm) + 512
    assert all(0 < word.confidence <= 1 for word in reading)


def test_live_words_that_were_misheard_are_corrected() -> None:
    pcm, reading = story()
    live = tuple(
        Word("blest" if w.text.lower() == "best" else w.text, w.start_sample, w.end_sample, 0.5) for w in reading
    )
    spoken = VoiceWords()
    spoken.hear(Recognition(len(pcm), live, (), ended=True))
    polisher = Polisher(FullContext(real.moonshine()), spoken)
    polisher.step(pcm)
    assert changed_words(live, polisher.reread(live, voice=0) or ()) == changed_words(live, reading) == 1


def test_silence_is_read_as_nothing_and_takes_nothing_away() -> None:
    quiet = np.zeros(2 * RATE_HZ, np.float32)
    turn = words("hello", RATE_HZ // 2)
    spoken = VoiceWords()
    spoken.hear(Recognition(len(quiet), turn, (), ended=True))
    polisher = Polisher(FullContext(real.moonshine()), spoken)
    polisher.step(quiet)
    assert polisher.reread(turn, voice=0) is None
