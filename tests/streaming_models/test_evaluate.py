"""Systems by name, facts and slices of clips, and the arithmetic of latencies."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from streaming_models.evaluate import (
    ClipFacts,
    Heard,
    HeardWord,
    Latencies,
    Stability,
    facts_of,
    measure_clip,
    oracle_speakers,
    parse_system,
    percentiles,
    pooled,
    read_meetings,
    rows_of,
    sliced,
    slices_of,
    with_word_times,
)
from streaming_models.scoring import ErrorCount, ScoreError, SegLstRow

FACTS = ClipFacts(condition="here", talkers=2, overlap_ratio=0.0, duration_s=10.0, channels=1)


def row(speaker: str, start: float, end: float, words: str) -> SegLstRow:
    return SegLstRow(session_id="c", speaker=speaker, start_time=start, end_time=end, words=words)


def timed(speaker: str, *words: tuple[str, float, float]) -> SegLstRow:
    """A row whose words have times."""
    said = row(speaker, words[0][1], words[-1][2], " ".join(text for text, _, _ in words))
    return SegLstRow(**said, word_times=[(start, end) for _, start, end in words])


def heard(text: str, start_s: float, end_s: float, turn: int = 0, speaker: str = "S1", **life: Any) -> HeardWord:
    """A word that was shown 100 ms after its end, read 300 ms, was final 500 ms and labelled 900 ms after it."""
    end_ms = end_s * 1000
    times = {"shown_ms": end_ms + 100, "read_ms": end_ms + 300, "final_ms": end_ms + 500, "labelled_ms": end_ms + 900}
    return HeardWord(text, turn, speaker, start_s * 1000, end_ms, **{**times, **life})


# Systems


@pytest.mark.parametrize(
    ("text", "recogniser", "channels", "oracle"),
    [
        ("moonshine", "moonshine", None, False),
        ("sot@channels=4", "sot", 4, False),
        ("sot@space=off", "sot-mono", None, False),
        ("sot@labels=oracle@space=off@channels=8", "sot-mono", 8, True),
        ("@channels=1", "", 1, False),
        ("", "", None, False),
    ],
)
def test_a_system_is_a_recogniser_with_modifiers(
    text: str, recogniser: str, channels: int | None, oracle: bool
) -> None:
    spec = parse_system(text)
    assert (spec.recogniser, spec.channels, spec.oracle) == (recogniser, channels, oracle)
    assert spec.text == (text or "default")
    assert not spec.live
    assert parse_system(f"{text}@text=live").live


@pytest.mark.parametrize(
    "text",
    ["sot@", "sot@channels", "sot@channels=3", "sot@space=on", "sot@labels=", "sot@beam=4", "@space=off",
     "sot@channels=1@channels=1"],
)  # fmt: skip
def test_a_modifier_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(ScoreError, match=re.escape(text)):
        parse_system(text)


# Clips


def test_facts_come_from_the_reference_where_nobody_told_them() -> None:
    reference = [row("A", 0, 4, "a"), row("B", 3, 5, "b")]
    facts = facts_of(reference, "ami", 30.0, 1)
    assert facts == ClipFacts("ami", 2, 0.2, 30.0, 1)
    assert slices_of(facts) == {
        "condition": "ami", "overlap": "20-40 %", "speakers": "2", "channels": "1", "length": "under 1 min",
    }  # fmt: skip


def test_told_facts_come_first_and_those_of_no_use_are_passed_over() -> None:
    meeting = {
        "talkers": ["A", "B", "C"], "overlap_ratio": 0.0, "t60_s": 0.7, "snr_db": 20, "array": "linear",
        "lost_microphone": False, "seed": 7, "duration_s": 99, "channels": None, "words": "x",
    }  # fmt: skip
    facts = facts_of([row("A", 0, 1, "a")], "far", 700.0, 4, meeting)
    assert facts == ClipFacts("far", 3, 0.0, 700.0, 4, "linear", 0.7, 20.0, False, 7)
    assert slices_of(facts) == {
        "condition": "far", "overlap": "0 %", "speakers": "3", "channels": "4", "length": "10 min and more",
        "array": "linear", "T60": "over 0.6 s", "microphone lost": "no",
    }  # fmt: skip


def test_meetings_are_told_in_the_folder_or_by_the_set_around_it(tmp_path: Path) -> None:
    for name in ("four", "lost", "else"):
        (tmp_path / name).mkdir()
    assert read_meetings(tmp_path / "four") == {}
    card = {"seed": 5, "arrangements": ["four", "lost"], "meetings": [{"name": "meeting-00", "t60_s": 0.4}]}
    (tmp_path / "meetings.json").write_text(json.dumps(card))
    assert read_meetings(tmp_path / "lost")["meeting-00"] == {
        "name": "meeting-00", "t60_s": 0.4, "seed": 5, "array": "lost", "lost_microphone": True,
    }  # fmt: skip
    assert read_meetings(tmp_path / "four")["meeting-00"]["lost_microphone"] is False
    assert read_meetings(tmp_path / "else") == {}
    (tmp_path / "else" / "meetings.json").write_text('[{"session_id": "m", "talkers": 2}, {"talkers": 3}]')
    assert read_meetings(tmp_path / "else") == {"m": {"session_id": "m", "talkers": 2}}


@pytest.mark.parametrize("content", ["{", "[1]", '{"meetings": 3}', "7"])
def test_a_broken_meetings_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "meetings.json").write_text(content)
    with pytest.raises(ScoreError, match=r"meetings\.json"):
        read_meetings(tmp_path)


def test_rows_take_the_times_of_their_words_where_all_are_found(tmp_path: Path) -> None:
    words = [("A", "Uh-huh", 0.0, 0.6), ("A", "yes", 0.6, 1.0), ("B", "no", 0.5, 0.9), ("A", "well", 2.0, 2.4)]
    path = tmp_path / "a.words.json"
    path.write_text(json.dumps([dict(zip(("speaker", "word", "start", "end"), w, strict=True)) for w in words]))
    rows = [row("A", 0.0, 1.0, "uh huh yes"), row("B", 0.5, 0.9, "nope"), row("A", 2.0, 2.4, "Well!")]
    first, second, third = with_word_times(rows, path)
    assert first["word_times"] == [(0.0, pytest.approx(0.24)), (pytest.approx(0.24), 0.6), (0.6, 1.0)]
    assert second == rows[1]
    assert third["word_times"] == [(2.0, 2.4)]
    assert with_word_times(rows, tmp_path / "none.json") == rows
    path.write_text('[{"word": "a"}]')
    with pytest.raises(ScoreError, match=r"a\.words\.json"):
        with_word_times(rows, path)


# Captions


def test_rows_begin_anew_with_every_turn_and_label_and_know_the_words_behind_theirs() -> None:
    words = [
        heard("Later", 5.0, 5.5, turn=0),
        heard("uh-huh,", 1.0, 1.4, turn=1),
        heard("--", 1.4, 1.5, turn=1),
        heard("no", 1.5, 1.8, turn=1, speaker=""),
    ]
    rows, behind = rows_of("c", words)
    assert [(r["speaker"], r["words"], r["start_time"], r["end_time"]) for r in rows] == [
        ("S1", "uh-huh, --", 1.0, 1.5),
        ("unknown", "no", 1.5, 1.8),
        ("S1", "Later", 5.0, 5.5),
    ]
    assert [[w.text for w in part] for part in behind] == [["uh-huh,", "uh-huh,"], ["no"], ["Later"]]
    assert [len(r["word_times"]) for r in rows] == [2, 1, 1]


def test_the_oracle_gives_a_word_to_whoever_says_it_then_else_to_whoever_talks() -> None:
    reference = [
        timed("A", ("good", 0.0, 0.5), ("morning", 0.5, 1.0), ("everyone", 1.0, 2.0)),
        timed("B", ("yes", 0.8, 1.2)),
    ]
    words = [heard("yes", 0.7, 1.0), heard("Morning", 0.9, 1.1), heard("warning", 0.9, 1.1), heard("hm", 7.0, 7.1)]
    assert oracle_speakers(reference, words) == ["B", "A", "A", "A"]
    assert oracle_speakers([], words) == ["", "", "", ""]


def test_latencies_are_of_words_that_were_recognised_near_where_they_were_said() -> None:
    reference = [
        timed("A", ("one", 0.0, 0.4), ("two", 0.4, 1.8), ("three", 2.0, 2.5), ("four", 3.0, 3.4)),
        row("B", 6.0, 7.0, "five"),
        timed("B", ("six", 8.0, 8.4)),
    ]
    words = [
        heard("one", 0.1, 0.5),
        heard("two", 0.5, 1.8),  # too long in the reference to end where it says
        heard("tree", 2.1, 2.5),  # misheard, counts for nothing but the turn's first
        heard("four", 3.0, 3.2),  # shown before its end in the reference
        heard("five", 6.0, 7.0, turn=1, speaker="S2"),  # no word times
        heard("six", 12.0, 12.4, turn=2, speaker="S2"),  # elsewhere
    ]
    result = measure_clip("c", reference, Heard(words), FACTS)
    assert result.reference.first_shown_ms == pytest.approx((400, 100))
    assert result.reference.final_ms == pytest.approx((600, 300))
    assert result.reference.attribution_ms == pytest.approx((1000, 700))
    assert result.reference.first_token_ms == pytest.approx((600, 1100))
    assert len(result.algorithmic.final_ms) == 6
    assert set(result.algorithmic.first_shown_ms) == {300}


def test_the_clock_on_the_wall_is_measured_for_the_same_words() -> None:
    reference = [timed("A", ("one", 0.0, 0.4))]
    result = measure_clip(
        "c", reference, Heard([heard("one", 0.0, 0.4)], [heard("one", 0.0, 0.4, read_ms=1400)]), FACTS
    )
    assert result.reference.first_shown_ms == (300,)
    assert result.reference_wall_clock.first_shown_ms == (1000,)
    assert result.wall_clock.first_shown_ms == (1000,)


def test_oracle_labels_mend_attribution_and_leave_no_time_or_flip_of_labels() -> None:
    reference = [row("A", 0.0, 1.0, "one two"), row("B", 2.0, 3.0, "three four")]
    words = [heard("one", 0.0, 0.5), heard("two", 0.5, 1.0), heard("three", 2.0, 2.5), heard("four", 2.5, 3.0)]
    caught = Heard(words, stability=Stability(10, 4, 1, label_flips=3, unlabelled=1))
    plain = measure_clip("c", reference, caught, FACTS)
    mended = measure_clip("c", reference, caught, FACTS, oracle=True)
    assert (plain.score.cpwer.errors, mended.score.cpwer.errors) == (4, 0)
    assert mended.reference.attribution_ms == mended.algorithmic.attribution_ms == ()
    assert mended.stability == Stability(10, 4, 1)
    assert [word.speaker for word in words] == ["S1"] * 4


def test_captions_of_nothing_and_nothing_captioned_are_counted() -> None:
    silent = measure_clip("c", [row("A", 0, 1, "one")], Heard([]), FACTS)
    ghost = measure_clip("c", [], Heard([heard("one", 0, 1)]), FACTS, oracle=True)
    assert (silent.score.cpwer, ghost.score.cpwer) == (ErrorCount(1, 1), ErrorCount(1, 0))
    assert silent.reference == ghost.reference == Latencies()


# Sums


def test_results_add_up_in_all_and_by_slice() -> None:
    reference = [timed("A", ("one", 0.0, 0.4))]
    results = [
        measure_clip(str(n), reference, Heard([heard(text, 0.0, 0.4)], stability=Stability(1, 0, 1)), facts)
        for n, (text, facts) in enumerate(
            [("one", FACTS), ("won", FACTS), ("one", ClipFacts("there", 10, 0.5, 10.0, 1, t60_s=0.3))]
        )
    ]
    whole = pooled("all", results)
    assert (whole.clips, whole.audio_s, whole.score.orcwer) == (3, 30.0, ErrorCount(1, 3))
    assert (len(whole.reference.first_shown_ms), whole.stability.shown) == (2, 3)
    parts = sliced(results)
    assert {value: part.score.orcwer for value, part in parts["condition"].items()} == {
        "here": ErrorCount(1, 2),
        "there": ErrorCount(0, 1),
    }
    assert list(parts["speakers"]) == ["2", "10"]
    assert list(parts["overlap"]) == ["0 %", "40 % +"]
    assert parts["T60"]["up to 0.6 s"].clips == 1
    assert pooled("none", []).clips == 0


def test_percentiles_lie_between_neighbours_and_nothing_has_none() -> None:
    assert percentiles([float(i) for i in range(101)]) == {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0}
    assert set(percentiles([]).values()) == {None}
