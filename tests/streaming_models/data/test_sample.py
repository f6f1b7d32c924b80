from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streaming_models.data import sample
from streaming_models.data.audio_files import read_audio
from streaming_models.data.corpus import SAMPLE_RATE_HZ, CorpusError, FloatArray
from streaming_models.data.simulate import overlap_ratio
from streaming_models.scoring import SegLstRow, normalise, read_seglst

FILES = sample.sample_files()


@pytest.fixture(scope="module")
def audio() -> FloatArray:
    return read_audio(FILES.audio)


@pytest.fixture(scope="module")
def card() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(FILES.card.read_text(encoding="utf-8"))
    return read


@pytest.fixture(scope="module")
def rows() -> list[SegLstRow]:
    return read_seglst(FILES.reference)


def test_the_sample_decodes_to_four_channels_of_the_cards_duration(audio: FloatArray, card: dict[str, Any]) -> None:
    assert audio.shape[0] == 4 == len(card["channels"])
    assert audio.shape[1] / SAMPLE_RATE_HZ == pytest.approx(card["duration_s"], abs=0.02)
    assert 60 <= card["duration_s"] <= 90
    assert FILES.audio.stat().st_size <= 2_000_000
    assert np.all(np.max(np.abs(audio), axis=1) < 0.99)


def test_the_reference_fits_the_audio_and_the_card(rows: list[SegLstRow], card: dict[str, Any]) -> None:
    assert {row["speaker"] for row in rows} == {talker["speaker"] for talker in card["talkers"]}
    assert len({row["speaker"] for row in rows}) == 3
    for row in rows:
        assert 0 <= row["start_time"] < row["end_time"] < card["duration_s"]
        assert row["words"] == normalise(row["text"]) != ""
    found = overlap_ratio((row["start_time"], row["end_time"]) for row in rows)
    assert found == pytest.approx(card["overlap_ratio"], abs=0.001)
    assert 0.15 <= found <= 0.25


def test_each_lapel_is_loudest_while_its_wearer_talks_and_hears_the_others_too(
    audio: FloatArray, rows: list[SegLstRow], card: dict[str, Any]
) -> None:
    wearers = [talker["speaker"] for talker in card["talkers"]]
    talking = np.zeros((3, audio.shape[1]), np.bool_)
    for row in rows:
        span = slice(*(round(row[edge] * SAMPLE_RATE_HZ) for edge in ("start_time", "end_time")))
        talking[wearers.index(row["speaker"]), span] = True
    silent_power = np.mean(audio[:, ~talking.any(0)] ** 2, axis=1)
    for wearer in range(3):
        alone = talking[wearer] & (talking.sum(0) == 1)
        power = np.mean(audio[:, alone] ** 2, axis=1)
        assert int(np.argmax(power[:3])) == wearer
        assert np.all(power > 2 * silent_power)  # bleed and the table microphone stand above the noise


def test_sound_reaches_the_table_as_late_as_the_geometry_says(
    audio: FloatArray, rows: list[SegLstRow], card: dict[str, Any]
) -> None:
    wearers = [talker["speaker"] for talker in card["talkers"]]
    places_m = [np.array(channel["position_m"]) for channel in card["channels"]]
    for wearer, talker in enumerate(card["talkers"]):
        mouth_m = np.array(talker["mouth_m"])
        way_m = np.linalg.norm(places_m[3] - mouth_m) - np.linalg.norm(places_m[wearer] - mouth_m)
        row = max(
            (row for row in rows if row["speaker"] == wearers[wearer]),
            key=lambda row: row["end_time"] - row["start_time"],
        )
        first, last = (round(row[edge] * SAMPLE_RATE_HZ) for edge in ("start_time", "end_time"))
        lapel, table = (np.fft.rfft(audio[at, first:last], 2 * (last - first)) for at in (wearer, 3))
        cross = table * lapel.conj()
        match = np.fft.irfft(cross / (np.abs(cross) + 1e-9))[:200]
        assert int(np.argmax(match)) == pytest.approx(way_m / 343 * SAMPLE_RATE_HZ, abs=2)


def test_the_card_names_sources_licences_and_how_easy_its_words_are(card: dict[str, Any]) -> None:
    licences = json.dumps(card["licences"])
    assert "CC BY 4.0" in licences
    assert "Apache-2.0" in licences
    assert [entry["id"] for entry in card["utterances"]].count("ES2012a.C.005") == 1
    assert card["clean_word_errors"]["word_error_rate"] <= 0.08


def test_rebuilding_without_the_synthesised_turns_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sample.main(["--tts", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "ES2012a.B.jsonl" in capsys.readouterr().err
    with pytest.raises(CorpusError):
        sample.build_sample(tmp_path)
