"""What two readings must share before a word is shown for good, and where a window may be cut."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming_models.moonshine import FRAME_SAMPLES, Reading
from streaming_models.stable_prefix import CommitRule, ReadWord, StablePrefix, Word, widest_pause, words_in
from streaming_models.tokens import LAST_BYTE_ID, TokenTable

PIECES = ["\u2581the", "\u2581be", "st", "\u2581of", "\u2581times", ".", "\u2581-"]
TABLE = TokenTable((b"",) * (LAST_BYTE_ID + 1) + tuple(piece.encode() for piece in PIECES))
THE, BE, ST, OF, TIMES, STOP, DASH = range(LAST_BYTE_ID + 1, LAST_BYTE_ID + 1 + len(PIECES))
RULE = CommitRule(hold_samples=2_000, believe_after_samples=16_000)


def reading(*tokens: int, bounds: tuple[int, ...] | None = None) -> Reading:
    """Ten frames a token unless said otherwise."""
    ends = bounds or tuple(10 * k for k in range(len(tokens) + 1))
    return Reading(tokens, tuple(0.9 - 0.01 * k for k in range(len(tokens))), ends)


def read(text: str, start: int, end: int, confidence: float = 0.9) -> ReadWord:
    return ReadWord((hash(text) % 1_000,), text.lower(), Word(text, start, end, confidence))


def row(*words: tuple[str, int, int]) -> tuple[ReadWord, ...]:
    return tuple(read(*word) for word in words)


def texts(reads: tuple[ReadWord, ...]) -> list[str]:
    return [word.text for word in words_in(reads)]


# --- words of a reading ---------------------------------------------------------------------------------------------


def test_tokens_become_words_with_times_on_the_lanes_clock() -> None:
    words = StablePrefix(1_000).words_of(reading(THE, BE, ST, OF), TABLE, 1_000, 100_000)
    assert texts(words) == ["the", "best", "of"]
    assert [word.tokens for word in words] == [(THE,), (BE, ST), (OF,)]
    assert words[1].word.start_sample == 1_000 + 10 * FRAME_SAMPLES
    assert words[1].word.end_sample == 1_000 + 30 * FRAME_SAMPLES
    assert words[1].word.confidence == pytest.approx(0.88)


def test_punctuation_belongs_to_the_word_before_it() -> None:
    words = StablePrefix(0).words_of(reading(DASH, TIMES, STOP, DASH), TABLE, 0, 100_000)
    assert texts(words) == ["times.-"]
    assert words[0].tokens == (TIMES, STOP, DASH)
    assert words[0].word.end_sample == 20 * FRAME_SAMPLES


def test_only_what_follows_the_committed_words_is_new() -> None:
    prefix = StablePrefix(0)
    prefix.pending = prefix.words_of(reading(THE, BE, ST, OF), TABLE, 0, 100_000)
    prefix.commit(2)
    assert prefix.tokens == (THE, BE, ST)
    assert prefix.guess == (OF,)
    assert prefix.end_frame(0) == 30
    assert prefix.end_frame(5 * FRAME_SAMPLES) == 25
    words = prefix.words_of(reading(THE, BE, ST, TIMES, bounds=(30, 30, 30, 30, 44)), TABLE, 0, 100_000)
    assert texts(words) == ["times"]
    assert words[0].word.start_sample == prefix.committed_to


def test_silence_before_a_word_is_not_all_its_own() -> None:
    (word,) = StablePrefix(0).words_of(reading(OF, bounds=(0, 100)), TABLE, 0, 100_000)
    assert word.end_sample - word.start_sample == 480 * 16


def test_no_word_ends_after_its_window() -> None:
    (word,) = StablePrefix(0).words_of(reading(OF, bounds=(0, 10)), TABLE, 0, 3_000)
    assert word.end_sample == 3_000


# --- commits --------------------------------------------------------------------------------------------------------


def test_word_is_committed_when_two_readings_agree_and_another_follows() -> None:
    prefix = StablePrefix(0)
    heard = row(("a", 0, 4_000), ("b", 4_000, 8_000), ("c", 8_000, 12_000))
    assert prefix.advance(heard, 14_000, RULE) == ()
    assert texts(prefix.advance(heard, 14_500, RULE)) == ["a", "b"]
    assert texts(prefix.pending) == ["c"]
    assert prefix.committed_to == 8_000
    assert prefix.read_to == 12_000


def test_words_after_a_difference_wait() -> None:
    prefix = StablePrefix(0)
    prefix.advance(row(("a", 0, 3_000), ("b", 3_000, 6_000), ("c", 6_000, 9_000), ("d", 9_000, 12_000)), 14_000, RULE)
    other = row(("a", 0, 3_000), ("x", 3_000, 6_000), ("c", 6_000, 9_000), ("d", 9_000, 12_000))
    assert texts(prefix.advance(other, 15_000, RULE)) == ["a"]


def test_word_near_the_windows_end_is_held_back() -> None:
    prefix = StablePrefix(0)
    heard = row(("a", 0, 4_000), ("b", 4_000, 8_000), ("c", 8_000, 12_000))
    prefix.advance(heard, 9_000, RULE)
    assert texts(prefix.advance(heard, 9_999, RULE)) == ["a"]


def test_old_word_is_believed_at_once() -> None:
    heard = row(("a", 0, 4_000), ("b", 4_000, 8_000), ("c", 8_000, 12_000))
    assert texts(StablePrefix(0).advance(heard, 20_000, RULE)) == ["a"]
    assert texts(StablePrefix(0).advance(heard, 40_000, RULE)) == ["a", "b"]


def test_reading_taken_as_agreed_needs_no_second() -> None:
    heard = row(("a", 0, 4_000), ("b", 4_000, 8_000), ("c", 8_000, 12_000))
    assert texts(StablePrefix(0).advance(heard, 14_000, RULE, agreed=True)) == ["a", "b"]


def test_end_commits_all_but_an_unlikely_word_alone() -> None:
    for words, kept in (
        ((read("uh", 0, 9, 0.4),), []),
        ((read("uh", 0, 9, 0.5),), ["uh"]),
        ((read("uh", 0, 9, 0.4), read("oh", 9, 20, 0.4)), ["uh", "oh"]),
    ):
        prefix = StablePrefix(0)
        prefix.pending = words
        assert texts(prefix.finish(0.5)) == kept
        assert not prefix.pending
    prefix = StablePrefix(0)
    prefix.pending = (read("well", 0, 9), read("uh", 9, 20, 0.1))
    prefix.commit(1)
    assert texts(prefix.finish(0.5)) == ["uh"]


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=8), max_size=8))
def test_what_is_committed_is_only_appended_to_and_was_read(readings: list[list[str]]) -> None:
    prefix = StablePrefix(0)
    shown: list[str] = []
    for number, letters in enumerate(readings):
        heard = row(*((c, 1_000 * k, 1_000 * (k + 1)) for k, c in enumerate(letters) if k >= len(shown)))
        shown += texts(prefix.advance(heard, 2_000 * (number + 1), RULE))
        assert texts(prefix.words) == shown
        assert texts(prefix.pending) == [word.word.text for word in heard][len(heard) - len(prefix.pending) :]


# --- cuts -----------------------------------------------------------------------------------------------------------


def prefix_of(*words: tuple[str, int, int], pending: int = 0) -> StablePrefix:
    prefix = StablePrefix(0)
    prefix.pending = row(*words)
    prefix.commit(len(words) - pending)
    return prefix


def test_window_is_cut_in_the_widest_pause() -> None:
    one = prefix_of(("a", 0, 1_000), ("b", 2_000, 3_000), ("c", 3_100, 4_000), ("d", 4_000, 5_000))
    assert widest_pause([one], 5_000) == 1_500
    assert widest_pause([one], 900) is None
    one.cut(1_500)
    assert texts(one.words) == ["b", "c", "d"]
    assert one.committed_to == 5_000


def test_of_equal_pauses_the_later_one_is_taken() -> None:
    assert widest_pause([prefix_of(("a", 0, 1_000), ("b", 1_000, 2_000), ("c", 2_000, 3_000))], 9_000) == 2_000


def test_pause_of_one_in_a_word_of_the_other_is_none() -> None:
    one = prefix_of(("a", 0, 4_000), ("b", 8_000, 12_000), ("c", 12_100, 16_000), ("d", 16_000, 20_000))
    other = prefix_of(("x", 0, 4_000), ("y", 4_000, 9_000), ("z", 14_000, 17_000))
    assert widest_pause([one], 20_000) == 6_000
    assert widest_pause([one, other], 20_000) == 12_050
    everywhere = prefix_of(("x", 0, 10_000), ("y", 10_000, 14_000), ("z", 14_000, 20_000))
    assert widest_pause([one, everywhere], 15_000) is None
    assert widest_pause([one, everywhere], 15_000, inside_words=True) is not None


def test_cut_never_lies_behind_a_pending_word_of_either() -> None:
    one = prefix_of(("a", 0, 1_000), ("b", 2_000, 3_000), ("c", 9_000, 9_500))
    other = prefix_of(("x", 2_500, 4_000), ("y", 4_000, 5_000), pending=1)
    assert widest_pause([one], 5_000) == 6_000
    assert widest_pause([one, other], 5_000) == 1_500


def test_word_that_lies_mostly_behind_a_cut_stays() -> None:
    one = prefix_of(("a", 0, 1_000), ("b", 1_000, 3_000), ("c", 3_000, 4_000))
    one.cut(1_900)
    assert texts(one.words) == ["b", "c"]
    one.cut(2_100)
    assert texts(one.words) == ["c"]
    assert one.tokens == one.words[0].tokens


def test_pause_is_measured_between_the_words_around() -> None:
    one = prefix_of(("a", 0, 1_000), ("b", 3_000, 5_000), pending=1)
    assert one.pause_at(2_000) == 2_000
    assert one.pause_at(3_300) == -300
    assert one.pause_at(6_000) is None
    assert replace(one.pending[0], key="b").start_sample == 3_000
