from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from streaming_models.data import meeting_set
from streaming_models.data.corpus import CorpusError, FloatArray
from streaming_models.data.meeting_set import (
    ARRANGEMENTS,
    meeting_talkers,
    plan_meeting,
    record_meeting,
    write_meeting_set,
)
from streaming_models.data.simulate import overlap_ratio
from streaming_models.scoring import SegLstRow, read_seglst
from tests.streaming_models.data.tiny_speech import write_four_talkers


@pytest.fixture(scope="module")
def corpus_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_four_talkers(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module", autouse=True)
def short_meetings() -> Iterator[None]:
    """Ten seconds in a dry room are worked out in a fifth of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meeting_set, "PLANNED_S", (10.0, 12.0))
        patch.setattr(meeting_set, "DURATION_S", (8.0, 13.0))
        patch.setattr(meeting_set, "T60_S", (0.2, 0.25))
        yield


@pytest.fixture(scope="module")
def out_dir(tmp_path_factory: pytest.TempPathFactory, corpus_dir: Path) -> Path:
    """A set of one meeting."""
    folder = tmp_path_factory.mktemp("set")
    assert meeting_set.main(["--corpus", str(corpus_dir), "--out", str(folder), "--count", "1", "--seed", "3"]) == 0
    return folder


@pytest.fixture(scope="module")
def audio(out_dir: Path) -> dict[str, FloatArray]:
    """(C, S) of every arrangement."""
    read: dict[str, FloatArray] = {}
    for name in ARRANGEMENTS:
        samples, rate_hz = soundfile.read(out_dir / name / "meeting-00.flac", dtype="float32", always_2d=True)
        assert rate_hz == 16_000
        read[name] = samples.T
    return read


@pytest.fixture(scope="module")
def rows(out_dir: Path) -> list[SegLstRow]:
    return read_seglst(out_dir / "one" / "meeting-00.seglst.json")


@pytest.fixture(scope="module")
def facts(out_dir: Path) -> dict[str, Any]:
    (meeting,) = json.loads((out_dir / "meetings.json").read_text(encoding="utf-8"))["meetings"]
    read: dict[str, Any] = meeting
    return read


def test_one_meeting_is_recorded_by_every_arrangement(
    out_dir: Path, audio: dict[str, FloatArray], rows: list[SegLstRow]
) -> None:
    assert [(name, len(samples)) for name, samples in audio.items()] == [
        ("one", 1),
        ("two", 2),
        ("four", 4),
        ("eight", 8),
        ("unseen", 4),
        ("permuted", 4),
        ("lost", 4),
        ("headset-mix", 1),
    ]
    assert len({samples.shape[1] for samples in audio.values()}) == 1
    for name, samples in audio.items():
        assert read_seglst(out_dir / name / "meeting-00.seglst.json") == rows
        assert 0.5 < np.max(np.abs(samples)) < 0.75


def test_the_card_tells_length_overlap_and_room(
    audio: dict[str, FloatArray], rows: list[SegLstRow], facts: dict[str, Any]
) -> None:
    duration_s = audio["one"].shape[1] / 16_000
    overlap = overlap_ratio((row["start_time"], row["end_time"]) for row in rows)
    assert facts["duration_s"] == pytest.approx(duration_s, abs=0.001)
    assert facts["overlap_ratio"] == pytest.approx(overlap, abs=0.001)
    assert {talker["speaker"] for talker in facts["talkers"]} == {row["speaker"] for row in rows}
    assert 0.2 <= facts["t60_s"] <= 0.25
    assert 15 <= facts["snr_db"] <= 30


def test_meetings_are_as_long_and_as_overlapped_as_promised(corpus_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting_set, "PLANNED_S", (52.0, 59.0))
    monkeypatch.setattr(meeting_set, "DURATION_S", (45.0, 60.0))
    for people, seed in ((2, 0), (3, 1), (4, 2)):
        turns = plan_meeting(
            meeting_talkers(corpus_dir), people, np.random.default_rng(seed), np.random.default_rng(10 + seed)
        )
        assert len({turn.clip.speaker for turn in turns}) == people
        assert 45 <= max(turn.end_samples for turn in turns) / 16_000 + 0.5 <= 60
        assert 0.2 <= overlap_ratio((turn.start_samples, turn.end_samples) for turn in turns) <= 0.4


def test_a_longer_meeting_is_asked_of_people_who_have_enough_to_say(
    corpus_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meeting_set, "PLANNED_S", (52.0, 59.0))
    monkeypatch.setattr(meeting_set, "DURATION_S", (45.0, 60.0))
    turns = plan_meeting(meeting_talkers(corpus_dir), 4, np.random.default_rng(0), np.random.default_rng(1), 75.0)
    assert 45 <= (max(turn.end_samples for turn in turns) / 16_000 + 0.5) * 55 / 75 <= 60
    with pytest.raises(CorpusError, match="2 people of 3600 s"):
        plan_meeting(meeting_talkers(corpus_dir), 2, np.random.default_rng(0), np.random.default_rng(1), 3_600.0)


def test_all_arrays_lie_at_one_place(facts: dict[str, Any]) -> None:
    places_m = {name: np.array(at) for name, at in facts["microphones_m"].items() if name != "headset-mix"}
    for at in places_m.values():
        assert at.mean(axis=0) == pytest.approx(places_m["one"][0], abs=0.001)
    radius_m = np.linalg.norm(places_m["four"] - places_m["one"], axis=1)
    assert radius_m == pytest.approx([0.05] * 4, abs=0.002)


def test_permuted_and_lost_are_the_audio_of_four(audio: dict[str, FloatArray], facts: dict[str, Any]) -> None:
    order = facts["permuted"]["order"]
    assert sorted(order) == [0, 1, 2, 3] != order
    assert np.array_equal(audio["permuted"], audio["four"][order])
    lost, gone = facts["lost"]["channel"], round(facts["lost"]["from_s"] * 16_000)
    assert 0.4 <= gone / audio["four"].shape[1] <= 0.6
    assert not audio["lost"][lost, gone + 16 :].any()
    assert audio["lost"][lost, : gone - 16].any()
    others = [channel for channel in range(4) if channel != lost]
    assert np.array_equal(audio["lost"][others], audio["four"][others])


def test_headsets_hear_less_of_the_room_and_its_noise(
    audio: dict[str, FloatArray], rows: list[SegLstRow], facts: dict[str, Any]
) -> None:
    talking = np.zeros(audio["one"].shape[1], np.bool_)
    for row in rows:
        talking[round(row["start_time"] * 16_000) : round(row["end_time"] * 16_000) + 3_200] = True
    silent = ~talking
    silent[-3_200:] = False
    contrast_db = {
        name: 10 * np.log10(np.mean(audio[name][0, talking] ** 2) / np.mean(audio[name][0, silent] ** 2))
        for name in ("one", "four", "headset-mix")
    }
    assert contrast_db["one"] == pytest.approx(facts["snr_db"], abs=3)
    assert contrast_db["four"] == pytest.approx(contrast_db["one"], abs=1.5)
    assert contrast_db["headset-mix"] > contrast_db["one"] + 3


def test_a_meeting_depends_on_its_seed_and_number_only(
    corpus_dir: Path, audio: dict[str, FloatArray], rows: list[SegLstRow]
) -> None:
    talkers = meeting_talkers(corpus_dir)
    again = record_meeting("meeting-00", talkers, 2, np.random.SeedSequence([3, 0]))
    assert again.reference == rows
    for name in ARRANGEMENTS:
        assert np.max(np.abs(again.audio[name] - audio[name])) < 1e-4
    other = record_meeting("meeting-00", talkers, 2, np.random.SeedSequence([4, 0]))
    assert other.reference != rows


def test_a_corpus_with_too_few_speakers_is_refused(
    tmp_path: Path, corpus_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for speaker in ("ann", "bob", "cat"):
        shutil.copy(corpus_dir / f"{speaker}.jsonl", tmp_path)
    assert meeting_set.main(["--corpus", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "expected four speakers" in capsys.readouterr().err
    with pytest.raises(CorpusError, match="found 0 manifests"):
        write_meeting_set(tmp_path / "none", tmp_path / "out", count=1, seed=0)
