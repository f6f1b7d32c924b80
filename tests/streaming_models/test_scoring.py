from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streaming_models.scoring import (
    ClipScore,
    ErrorCount,
    ScoreError,
    SegLstRow,
    align_clip,
    normalise,
    overlap_ratio,
    overlapped_spans,
    read_seglst,
    score_clip,
    timed_words,
    total,
    write_seglst,
)


def row(speaker: str, start_s: float, end_s: float, words: str, session: str = "s") -> SegLstRow:
    return SegLstRow(session_id=session, speaker=speaker, start_time=start_s, end_time=end_s, words=words)


REFERENCE = [
    row("A", 0.0, 2.0, "Hello there, everyone!"),
    row("B", 1.5, 3.0, "good morning"),
    row("A", 3.2, 4.0, "shall we start"),
]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("  Well, it's 25% -- OK?", "well it's 25 ok"),
        ("uh-huh", "uh huh"),
        ("don\N{RIGHT SINGLE QUOTATION MARK}t", "don't"),
        ("Caf\u00e9_au\tlait\n", "caf\u00e9 au lait"),
        ("...", ""),
    ],
)
def test_normalised_text_is_lower_case_words_of_letters_digits_and_apostrophes(text: str, words: str) -> None:
    assert normalise(text) == words
    assert normalise(words) == words


def test_a_perfect_transcript_has_no_errors_whatever_its_spelling_and_order() -> None:
    shouted = [row(each["speaker"], each["start_time"], each["end_time"], each["words"].upper(), "other")
               for each in reversed(REFERENCE)]  # fmt: skip
    score = score_clip(REFERENCE, shouted, duration_s=4.5)
    assert score.cpwer == score.orcwer == score.tcpwer == ErrorCount(0, 8)
    assert score.der.errors == 0
    assert score.der.length == pytest.approx(2.0 + 1.5 + 0.8)


def test_speaker_labels_may_be_any_names() -> None:
    renamed = [{**each, "speaker": {"A": "x", "B": "y"}[each["speaker"]]} for each in REFERENCE]
    score = score_clip(REFERENCE, [SegLstRow(**each) for each in renamed])  # type: ignore[typeddict-item]
    assert (score.cpwer.errors, score.der.errors) == (0, 0)


def test_a_turn_under_the_wrong_speaker_costs_cpwer_and_der_but_not_orcwer() -> None:
    swapped = [*REFERENCE[:2], row("B", 3.2, 4.0, "shall we start")]
    score = score_clip(REFERENCE, swapped)
    assert score.orcwer.errors == 0
    assert score.cpwer.errors == 6  # three words missing under A, three too many under B
    assert score.der.errors == pytest.approx(0.8)


def test_a_wrong_word_counts_once_in_every_word_measure() -> None:
    misheard = [REFERENCE[0], row("B", 1.5, 3.0, "good warning"), REFERENCE[2]]
    score = score_clip(REFERENCE, misheard)
    assert score.cpwer == score.orcwer == score.tcpwer == ErrorCount(1, 8)


def test_words_at_the_wrong_time_cost_tcpwer_alone() -> None:
    truth = [row("A", 0.0, 1.0, "yes"), row("A", 60.0, 61.0, "certainly")]
    late = [row("A", 30.0, 31.0, "yes"), row("A", 60.0, 61.0, "certainly")]
    score = score_clip(truth, late)
    assert (score.cpwer.errors, score.orcwer.errors) == (0, 0)
    assert score.tcpwer.errors == 2  # missed where it was said, inserted where it was not


def test_overlapped_speech_that_is_given_to_one_person_is_missed_speech() -> None:
    one_voice = [row("A", 0.0, 3.0, "hello there everyone")]
    score = score_clip(REFERENCE[:2], one_voice, duration_s=3.0)
    assert score.der.length == pytest.approx(3.5)
    assert score.der.errors == pytest.approx(1.5)  # 0.5 s missed, 1 s under the wrong name


def test_errors_lie_where_their_words_are_in_time() -> None:
    # 1.5-2.0 s is overlapped: "everyone" (letters share the row's time) and "good".
    heard = [
        row("x", 0.0, 1.5, "hello there"),
        row("y", 1.5, 3.0, "bad morning"),
        row("x", 1.6, 1.7, "oh"),
        row("x", 3.2, 4.0, "shall we begin"),
    ]
    score = score_clip(REFERENCE, heard)
    assert score.overlapped == ErrorCount(2, 2)  # "everyone" heard as "oh", "good" as "bad"
    assert score.alone == ErrorCount(1, 6)
    assert score.orcwer == score.overlapped + score.alone


def test_word_times_decide_where_a_word_lies_if_there_is_one_for_each() -> None:
    early = SegLstRow(**REFERENCE[0], word_times=[(0.0, 0.2), (0.2, 0.4), (0.4, 0.6)])
    assert score_clip([early, *REFERENCE[1:]], []).overlapped == ErrorCount(1, 1)
    assert [(word.start_s, word.end_s) for word in timed_words([early])] == early["word_times"]
    short = SegLstRow(**REFERENCE[0], word_times=[(0.0, 0.2)])
    assert timed_words([short]) == timed_words(REFERENCE[:1])
    assert timed_words(REFERENCE)[1].end_s == pytest.approx(2.0 * 10 / 18)


def test_of_alignments_with_as_few_errors_the_one_closest_in_time_is_taken() -> None:
    said = [row("A", 0.0, 1.0, "yes"), row("A", 10.0, 11.0, "yes"), row("A", 20.0, 21.0, "yes")]
    (pair,) = [pair for pair in align_clip(said, [row("x", 10.2, 10.9, "yes")]).pairs if None not in pair]
    assert pair[0] is not None
    assert pair[0].row == 1


def test_every_word_is_in_one_pair_and_the_pairs_that_differ_are_the_errors() -> None:
    heard = [row("x", 0.0, 3.0, "hello everyone good good morning"), row("y", 3.0, 4.0, "shall start")]
    alignment = align_clip(REFERENCE, heard)
    assert sorted((w.row, w.place) for w, _ in alignment.pairs if w) == sorted(
        (w.row, w.place) for w in timed_words(REFERENCE)
    )
    assert sorted((w.row, w.place) for _, w in alignment.pairs if w) == sorted(
        (w.row, w.place) for w in timed_words(heard)
    )
    different = sum(a is None or b is None or a.text != b.text for a, b in alignment.pairs)
    assert different == alignment.orcwer.errors == 3


def test_people_overlap_where_two_of_them_talk_and_nobody_overlaps_themselves() -> None:
    rows = [row("A", 0.0, 2.0, "a"), row("A", 1.0, 3.0, "b"), row("B", 2.5, 4.0, "c"), row("C", 4.0, 5.0, "d")]
    assert overlapped_spans(rows) == [(2.5, 3.0)]
    assert overlap_ratio(rows) == pytest.approx(0.1)
    assert overlap_ratio([]) == 0


def test_speech_after_the_end_of_the_clip_is_not_scored() -> None:
    late = [*REFERENCE, row("A", 4.0, 9.0, "")]
    assert score_clip(REFERENCE, late, duration_s=4.0).der.errors == 0
    assert score_clip(REFERENCE, late).der.errors == pytest.approx(5.0)


def test_one_persons_own_overlapping_rows_count_once() -> None:
    doubled = [row("A", 0.0, 2.0, "hello there"), row("A", 1.0, 3.0, "everyone")]
    assert score_clip(doubled, doubled).der.length == pytest.approx(3.0)


def test_an_empty_transcript_misses_everything() -> None:
    score = score_clip(REFERENCE, [])
    assert score.cpwer == score.orcwer == score.tcpwer == ErrorCount(8, 8)
    assert score.der.rate == pytest.approx(1.0)


def test_words_where_nobody_spoke_are_errors_against_nothing() -> None:
    score = score_clip([], REFERENCE)
    assert score.cpwer == score.orcwer == score.tcpwer == ErrorCount(8, 0)
    assert score.cpwer.rate == math.inf
    assert score.der.errors == pytest.approx(4.3)


def test_silence_transcribed_as_silence_is_no_error() -> None:
    assert score_clip([], []) == ClipScore.zero()
    assert score_clip([], [], duration_s=30.0) == ClipScore.zero()


def test_rows_without_words_count_for_the_diarization_alone() -> None:
    wordless = [row("z", 0.0, 1.0, " ... "), row("z", 2.0, 2.0, "")]
    score = score_clip(wordless, wordless)
    assert score.cpwer == ErrorCount(0, 0)
    assert (score.der.errors, score.der.length) == pytest.approx((0.0, 1.0))
    assert score_clip(REFERENCE, [*REFERENCE, *wordless]).cpwer.errors == 0


def test_too_many_labels_fall_back_to_the_greedy_bound_and_say_so() -> None:
    crowd = [row(f"s{index}", index, index + 1.0, "a b c d e f g h i j") for index in range(10)]
    score = score_clip(crowd, crowd)
    assert not score.orcwer_is_exact
    assert score.orcwer == score.overlapped + score.alone == ErrorCount(0, 100)
    assert not total([score_clip(REFERENCE, REFERENCE), score]).orcwer_is_exact


def test_totals_sum_counts_and_weigh_every_word_alike() -> None:
    short = score_clip([row("A", 0.0, 1.0, "no")], [])
    perfect = score_clip(REFERENCE, REFERENCE)
    both = total([short, perfect])
    assert both.cpwer == ErrorCount(1, 9)
    assert both.cpwer.rate == pytest.approx(1 / 9)
    assert total([]) == ClipScore.zero()


@pytest.mark.parametrize(("errors", "length"), [(-1, 5), (1, -5), (math.nan, 1), (1, math.inf)])
def test_an_impossible_count_is_refused(errors: float, length: float) -> None:
    with pytest.raises(ValueError, match="finite and not negative"):
        ErrorCount(errors, length)


def test_a_clip_of_two_sessions_or_of_backward_rows_is_refused() -> None:
    with pytest.raises(ScoreError, match="one session"):
        score_clip([*REFERENCE, row("A", 5.0, 6.0, "hi", session="t")], [])
    with pytest.raises(ScoreError, match="from 2"):
        score_clip([row("A", 2.0, 1.0, "hi")], [])


def test_rows_survive_a_file_and_keep_further_fields(tmp_path: Path) -> None:
    rows = [SegLstRow(**REFERENCE[0], text="Hello there, every\u00f3ne!"), REFERENCE[1]]
    for written in (rows, []):
        write_seglst(tmp_path / "rows.json", written)
        assert read_seglst(tmp_path / "rows.json") == written


@pytest.mark.parametrize("content", ["{", "{}", "[1]", '[{"speaker": "A"}]', '[{"session_id": 1}]'])
def test_a_file_that_is_no_seglst_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(content)
    with pytest.raises(ScoreError, match=r"broken\.json"):
        read_seglst(path)


_rows = st.lists(
    st.builds(
        lambda speaker, start_s, length_s, words: row(speaker, start_s, start_s + length_s, " ".join(words)),
        st.sampled_from("AB"),
        st.integers(0, 20).map(float),
        st.integers(0, 4).map(float),
        st.lists(st.sampled_from(["yes", "no", "maybe"]), max_size=4),
    ),
    max_size=4,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(reference=_rows, hypothesis=_rows)
def test_measures_hold_their_bounds_for_any_rows(reference: list[SegLstRow], hypothesis: list[SegLstRow]) -> None:
    score = score_clip(reference, hypothesis)
    spoken = sum(len(each["words"].split()) for each in reference)
    written = sum(len(each["words"].split()) for each in hypothesis)
    assert score.cpwer.length == score.orcwer.length == score.tcpwer.length == spoken
    assert abs(spoken - written) <= score.cpwer.errors <= score.tcpwer.errors <= spoken + written
    assert score.orcwer.errors <= spoken + written
    assert score.overlapped + score.alone == score.orcwer
    assert sum(a is None or b is None or a.text != b.text for a, b in align_clip(reference, hypothesis).pairs) == (
        score.orcwer.errors
    )
