"""When the voices of a lane speak: what is remembered, and which stretches overlap."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streaming_models.recogniser import Recognition, Word
from streaming_models.voices import (
    JOIN_SAMPLES,
    LONGEST_OVERLAP_SAMPLES,
    REMEMBERED_SAMPLES,
    Overlap,
    VoiceWords,
)

MS = 16


def word(start_ms: int, end_ms: int, text: str = "w") -> Word:
    return Word(text, start_ms * MS, end_ms * MS, 0.9)


def said(voice: int, *words: Word, tail: tuple[Word, ...] = (), ended: bool = False) -> Recognition:
    newest = max((w.end_sample for w in (*words, *tail)), default=0)
    return Recognition(newest, words, tail, ended, voice)


def heard(*recognitions: Recognition) -> VoiceWords:
    words = VoiceWords()
    for recognition in recognitions:
        words.hear(recognition)
    return words


def ms(overlap: Overlap) -> tuple[int, int]:
    return overlap.start_sample // MS, overlap.end_sample // MS


def test_one_voice_never_overlaps_itself() -> None:
    words = heard(said(0, word(0, 500), word(400, 900)), said(0, word(700, 1_200), ended=True))
    assert words.overlaps() == []
    assert words.voices == {0}


def test_words_of_two_voices_at_once_are_an_overlap_from_the_first_to_the_last() -> None:
    words = heard(
        said(0, word(0, 400), word(400, 900), word(900, 1_300), word(1_300, 1_600)),
        said(1, word(500, 800), word(800, 1_000), ended=True),
    )
    assert [ms(o) for o in words.overlaps()] == [(400, 1_300)]


def test_words_that_only_touch_do_not_overlap() -> None:
    assert heard(said(0, word(0, 500)), said(1, word(500, 900))).overlaps() == []


def test_tail_counts_until_it_is_replaced() -> None:
    words = heard(said(0, word(0, 500)), said(1, tail=(word(300, 700),)))
    assert len(words.overlaps()) == 1
    words.hear(said(1))
    assert words.overlaps() == []
    assert words.between(0, 10_000 * MS) == heard(said(0, word(0, 500))).between(0, 10_000 * MS)


def test_overlaps_of_the_same_utterances_are_joined_over_a_short_pause_only() -> None:
    gap_ms = JOIN_SAMPLES // MS
    far_ms = 600 + gap_ms + 1
    near = heard(said(0, word(0, 5_000)), said(1, word(100, 600), word(600 + gap_ms, 2_000)))
    assert len(near.overlaps()) == 1
    apart = heard(said(0, word(0, 600), word(far_ms, far_ms + 400)), said(1, word(0, 600), word(far_ms, far_ms + 400)))
    assert [ms(o) for o in apart.overlaps()] == [(0, 600), (far_ms, far_ms + 400)]


def test_each_utterance_has_overlaps_of_its_own() -> None:
    words = heard(
        said(0, word(0, 500), ended=True), said(0, word(600, 1_100)), said(1, word(300, 800), word(800, 1_000))
    )
    first, second = words.overlaps()
    assert (ms(first), ms(second)) == ((0, 800), (300, 1_100))
    assert first.utterances != second.utterances


def test_endless_overlap_is_cut() -> None:
    each_ms = 400
    count = 3 * LONGEST_OVERLAP_SAMPLES // MS // each_ms
    rows = [tuple(word(k * each_ms + shift, (k + 1) * each_ms + shift) for k in range(count)) for shift in (0, 200)]
    overlaps = heard(said(0, *rows[0]), said(1, *rows[1])).overlaps()
    assert len(overlaps) >= 3
    assert all(o.end_sample - o.start_sample <= LONGEST_OVERLAP_SAMPLES for o in overlaps)


def test_what_is_long_ago_is_forgotten() -> None:
    words = heard(said(0, word(0, 500)), said(1, word(0, 500)))
    late_ms = 501 + REMEMBERED_SAMPLES // MS
    words.hear(said(0, word(late_ms - 100, late_ms)))
    assert words.overlaps() == []
    assert len(words.between(0, 2 * late_ms * MS)) == 1


spoken = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 20_000), st.integers(50, 900), st.booleans()), max_size=25
)


@given(spoken)
def test_exactly_the_words_that_share_time_with_another_voice_lie_in_overlaps(
    rows: list[tuple[int, int, int, bool]],
) -> None:
    words = heard(*(said(voice, word(at, at + length), ended=ended) for voice, at, length, ended in rows))
    everything = words.between(0, 100_000 * MS)
    assert len(everything) == len(rows)
    inside = [o for o in words.overlaps() if o.end_sample - o.start_sample <= LONGEST_OVERLAP_SAMPLES]
    for one in everything:
        shared = any(o.voice != one.voice and o.overlap(one.start_sample, one.end_sample) > 0 for o in everything)
        covered = [o for o in inside if one.utterance in o.utterances]
        if shared:
            assert any(o.start_sample <= one.start_sample and one.end_sample <= o.end_sample for o in covered)
        if not covered:
            assert not shared
