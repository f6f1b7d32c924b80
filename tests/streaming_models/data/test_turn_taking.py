from __future__ import annotations

import gzip
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from streaming_models.data.corpus import SAMPLE_RATE_HZ, CorpusError
from streaming_models.data.simulate import SimulationError, SpeechClip, TimedWord, overlap_ratio
from streaming_models.data.turn_taking import RealTurn, cut_stretch, draw_stretch, plan_like, read_turns
from tests.streaming_models.data.tiny_speech import clips

Row = tuple[str, str, float, float, str, list[float]]
ROWS: list[Row] = [
    ("m1", "B", 4.0, 6.0, "Yes, I do.", [4.0, 4.8, 5.2]),
    ("m1", "A", 1.0, 5.0, "Shall we begin then?", [1.0, 2.0, 3.0, 4.5]),
    ("m1", "A", 10.0, 10.5, "Good.", [10.0]),
    ("m2", "C", 0.5, 90.0, "So.", [0.5]),
]


def _write(path: Path, rows: list[Row]) -> Path:
    names = ("meeting", "speaker", "start_s", "end_s", "text", "word_starts_s")
    text = "".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def _meetings(tmp_path: Path) -> dict[str, tuple[RealTurn, ...]]:
    return read_turns(_write(tmp_path / "turns.jsonl", ROWS))


def _lively(minutes: int, seed: int) -> dict[str, tuple[RealTurn, ...]]:
    """A made-up meeting of three with many overlaps."""
    rng = np.random.default_rng(seed)
    turns = []
    for speaker in "ABC":
        at_s = float(rng.uniform(0, 5))
        while at_s < 60 * minutes:
            length_s = float(rng.uniform(0.4, 8.0))
            turns.append(RealTurn(speaker, at_s, at_s + length_s, (TimedWord("So.", at_s, at_s + length_s),)))
            at_s += length_s + float(rng.uniform(2, 15))
    return {"lively": tuple(sorted(turns, key=lambda turn: turn.start_s))}


def _pool(speaker: str) -> list[SpeechClip]:
    return clips(speaker, [0.5, 0.8, 1.2, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0] * 4)


@pytest.mark.parametrize("name", ["turns.jsonl", "turns.jsonl.gz"])
def test_turns_are_read_by_meeting_in_order_with_word_times(tmp_path: Path, name: str) -> None:
    meetings = read_turns(_write(tmp_path / name, ROWS))
    assert list(meetings) == ["m1", "m2"]
    assert [turn.speaker for turn in meetings["m1"]] == ["A", "B", "A"]
    yes = meetings["m1"][1]
    assert yes.text == "Yes, I do."
    assert yes.words == (("Yes,", 4.0, 4.8), ("I", 4.8, 5.2), ("do.", 5.2, 6.0))


def test_a_line_that_is_no_turn_is_named_by_file_and_line(tmp_path: Path) -> None:
    broken: Row = ("m1", "A", 1.0, 2.0, "Two words", [1.0])
    path = _write(tmp_path / "turns.jsonl", [*ROWS, broken])
    with pytest.raises(CorpusError, match=r"turns\.jsonl, line 5.*2 words, 1 times"):
        read_turns(path)


def test_an_excerpt_keeps_the_words_inside_it_and_counts_from_its_beginning(tmp_path: Path) -> None:
    stretch = cut_stretch("m1", _meetings(tmp_path)["m1"], 2.5, 3.0)
    assert [(turn.speaker, turn.text) for turn in stretch.turns] == [("A", "begin then?"), ("B", "Yes, I")]
    assert stretch.turns[0].start_s == 0.5
    assert stretch.turns[1].end_s == pytest.approx(2.7)
    assert stretch.speakers == ("A", "B")
    assert stretch.overlap_ratio == pytest.approx(1.0 / 2.2)


def test_drawn_excerpts_are_of_all_moments_and_have_the_talkers_asked_for() -> None:
    meetings = _lively(10, 0)
    starts_s = []
    for seed in range(40):
        stretch = draw_stretch(meetings, 30.0, np.random.default_rng(seed), least_talkers=2)
        assert stretch.meeting == "lively"
        assert len(stretch.speakers) >= 2
        assert all(0 <= turn.start_s < turn.end_s <= 30.0 for turn in stretch.turns)
        starts_s.append(stretch.start_s)
    assert min(starts_s) < 120
    assert max(starts_s) > 450


def test_excerpts_that_cannot_be_are_refused(tmp_path: Path) -> None:
    meetings = _meetings(tmp_path)
    with pytest.raises(SimulationError, match="no meeting is longer than 100"):
        draw_stretch(meetings, 100.0, np.random.default_rng(0))
    with pytest.raises(SimulationError, match="with 3 talkers"):
        draw_stretch(meetings, 5.0, np.random.default_rng(0), least_talkers=3)


def test_other_peoples_clips_take_turns_as_the_real_ones_did() -> None:
    meetings = _lively(20, 1)
    speech = {speaker: _pool(speaker) for speaker in ("x", "y", "z")}
    real, planned, spoken = [], [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        stretch = draw_stretch(meetings, 60.0, rng, least_talkers=3)
        turns = plan_like(stretch, speech, rng)
        assert [turn.start_samples for turn in turns] == sorted(turn.start_samples for turn in turns)
        assert max(turn.end_samples for turn in turns) <= 60 * SAMPLE_RATE_HZ
        for speaker in speech:
            own = [turn for turn in turns if turn.clip.speaker == speaker]
            assert all(one.end_samples <= two.start_samples for one, two in pairwise(own))
            assert len({turn.clip.id for turn in own}) == len(own)
        real.append(stretch.overlap_ratio)
        planned.append(overlap_ratio((turn.start_samples, turn.end_samples) for turn in turns))
        talked = sum(len(turn.clip.audio) for turn in turns) / SAMPLE_RATE_HZ
        spoken.append(talked / sum(turn.end_s - turn.start_s for turn in stretch.turns))
    assert np.mean(planned) == pytest.approx(np.mean(real), abs=0.03)
    assert np.mean(spoken) == pytest.approx(1.0, abs=0.1)


def test_where_players_are_missing_those_who_say_least_stay_silent(tmp_path: Path) -> None:
    stretch = cut_stretch("m1", _meetings(tmp_path)["m1"], 0.0, 20.0)
    turns = plan_like(stretch, {"x": _pool("x")}, np.random.default_rng(0))
    assert {turn.clip.speaker for turn in turns} == {"x"}
    assert turns[0].start_samples == SAMPLE_RATE_HZ  # A says more than B
