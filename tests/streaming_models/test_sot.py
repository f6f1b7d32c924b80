"""Virtual channels: who takes which, the one row of words, and back."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming_models.sot import (
    Assignment,
    Change,
    TimedUtterance,
    TimedWord,
    assign,
    clip_to_window,
    deserialise,
    labels,
    serialise,
)

Utterance = TimedUtterance[TimedWord]


def utterance(speaker: str, *words: tuple[str, int, int]) -> Utterance:
    timed = tuple(TimedWord(*word) for word in words)
    return TimedUtterance(speaker, timed[0].start_sample, timed[-1].end_sample, timed)


A = utterance("A", ("hello", 0, 50), ("there", 60, 110), ("everyone", 120, 200))
B = utterance("B", ("good", 100, 130), ("morning", 140, 190), ("all", 220, 260))
A2 = utterance("A", ("ok", 210, 250))
C = utterance("C", ("yes", 105, 125))


def texts(row: list[TimedWord | Change]) -> str:
    return " ".join(item.value if isinstance(item, Change) else item.text for item in row)


@st.composite
def real_utterance(draw: st.DrawFn) -> Utterance:
    """Words one after the other, at times that fit the utterance."""
    bounds = sorted(draw(st.lists(st.integers(0, 400), min_size=2, max_size=10)))
    words = [TimedWord(f"w{a}", a, b) for a, b in list(pairwise(bounds))[::2]]
    end = draw(st.integers(bounds[-1], bounds[-1] + 30))
    return TimedUtterance(draw(st.sampled_from("ABCD")), max(0, bounds[0] - 5), end, tuple(words))


@st.composite
def any_utterance(draw: st.DrawFn) -> Utterance:
    """Times as wrong as annotations get: words out of order, outside, of no length, or none at all."""
    start = draw(st.integers(0, 400))
    pairs = draw(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), max_size=5))
    words = tuple(TimedWord(f"{a}-{b}", a, b) for a, b in pairs)
    return TimedUtterance("A", start, start + draw(st.integers(0, 100)), words)


MEETINGS = st.lists(st.one_of(real_utterance(), any_utterance()), max_size=8)
TOLERANCES = st.integers(0, 60)


def test_words_come_in_the_order_in_which_they_end() -> None:
    row = serialise(assign([B, A2, A], 0).words)
    assert texts(row) == "hello there <cc> good morning <cc> everyone ok <cc> all"
    channels = deserialise(row)
    assert [[word.text for word in channel] for channel in channels] == [
        ["hello", "there", "everyone", "ok"],
        ["good", "morning", "all"],
    ]


def test_one_talker_at_a_time_needs_no_change() -> None:
    assert texts(serialise(assign([A, A2]).words)) == "hello there everyone ok"
    after = utterance("B", ("later", 300, 320))
    assert texts(serialise(assign([A, after]).words)) == "hello there everyone later"


def test_a_third_voice_is_left_out_and_counted() -> None:
    assignment = assign([A, B, C, A2], 0)
    assert assignment.left_out == (C,)
    assert assignment.channels == ((A, A2), (B,))


def test_an_overlap_within_the_tolerance_is_none() -> None:
    late = utterance("B", ("late", 190, 300))
    assert assign([A, late], 9).channels == ((A,), (late,))
    assert assign([A, late], 10).channels == ((A, late), ())


def test_words_that_end_together_come_in_order_of_channel() -> None:
    both = [utterance("A", ("one", 0, 10)), utterance("B", ("two", 0, 10))]
    assert texts(serialise(assign(both, 0).words)) == "one <cc> two"


@given(MEETINGS, TOLERANCES)
def test_any_meeting_goes_there_and_back(meeting: list[Utterance], tolerance: int) -> None:
    assignment = assign(meeting, tolerance)
    first, second = assignment.words
    row = serialise(assignment.words)
    assert deserialise(row) == (list(first), list(second))
    assert not any(isinstance(a, Change) and isinstance(b, Change) for a, b in pairwise(row))
    assert not row or not isinstance(row[-1], Change)


@given(MEETINGS, TOLERANCES)
def test_every_utterance_is_on_one_channel_or_counted(meeting: list[Utterance], tolerance: int) -> None:
    assignment = assign(meeting, tolerance)
    found = [*assignment.channels[0], *assignment.channels[1], *assignment.left_out]
    assert sorted(map(repr, found)) == sorted(map(repr, meeting))
    for channel in assignment.channels:
        for place, later in enumerate(channel):
            assert all(earlier.end_sample <= later.start_sample + tolerance for earlier in channel[:place])


@given(st.lists(real_utterance(), max_size=8))
def test_a_row_of_well_timed_words_is_sorted(meeting: list[Utterance]) -> None:
    row = serialise(assign(meeting, 0).words)
    ends = [item.end_sample for item in row if not isinstance(item, Change)]
    assert ends == sorted(ends)


def window_words(assignment: Assignment[TimedWord]) -> tuple[list[str], list[str]]:
    first, second = assignment.words
    return [w.text for w in first], [w.text for w in second]


def test_a_window_holds_the_words_wholly_inside() -> None:
    assert window_words(clip_to_window([A, B, A2], 55, 240, 0)) == (["there", "everyone"], ["good", "morning"])


def test_the_channels_of_a_window_do_not_depend_on_what_was_before() -> None:
    assert window_words(clip_to_window([A, B, A2], 0, 300, 0))[1] == ["good", "morning", "all"]
    # Nothing of A's first utterance is left to hear: B is alone, so B is on channel 0.
    assert window_words(clip_to_window([A, B, A2], 130, 300, 0)) == (["morning", "all"], ["ok"])


def test_who_was_talking_first_keeps_channel_0_at_the_start_of_a_window() -> None:
    assert window_words(clip_to_window([B, A], 115, 300, 0)) == (["everyone"], ["morning", "all"])


@given(MEETINGS, TOLERANCES, st.integers(0, 300), st.integers(0, 300), st.integers(0, 100))
def test_a_growing_window_moves_no_word_to_another_channel(
    meeting: list[Utterance], tolerance: int, start: int, length: int, more: int
) -> None:
    short = clip_to_window(meeting, start, start + length, tolerance)
    grown = clip_to_window(meeting, start, start + length + more, tolerance)
    for before, after in zip((*short.channels, short.left_out), (*grown.channels, grown.left_out), strict=True):
        kept = [w for u in after for w in u.words if w.end_sample <= start + length]
        inside = [w for u in before for w in u.words]
        # A word in an utterance that starts at the old end or later was not there to be assigned.
        late = [w for u in after if u.start_sample >= start + length for w in u.words]
        assert [w for w in kept if w not in late] == [w for w in inside if w not in late]


def test_labels_carry_tokens_channels_and_times() -> None:
    row = serialise(assign([A, B], 0).words)
    made = labels(row, lambda word: [len(word.text), 0], change_id=1)
    assert made.tokens == (5, 0, 5, 0, 1, 4, 0, 7, 0, 1, 8, 0, 1, 3, 0)
    assert made.channels == (0, 0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1)
    assert made.end_samples[3:7] == (110, 130, 130, 130)


def test_what_cannot_be_meant_is_refused() -> None:
    with pytest.raises(ValueError, match="tolerance"):
        assign([A], -1)
    with pytest.raises(ValueError, match="ends before it starts"):
        assign([TimedUtterance[TimedWord]("A", 5, 4, ())])
    with pytest.raises(ValueError, match="expected a window, got samples 5 to 4"):
        clip_to_window([A], 5, 4)
    with pytest.raises(ValueError, match="expected 2 virtual channels, got 3"):
        serialise([A.words, B.words, C.words])
