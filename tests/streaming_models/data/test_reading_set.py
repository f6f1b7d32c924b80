from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from streaming_models.data import held_out_voices, reading_set
from streaming_models.data.reading_set import TWO_CITIES, joined, spread, two_cities, write_people, write_recordings
from streaming_models.data.simulate import SpeechClip
from streaming_models.scoring import normalise, read_seglst
from tests.streaming_models.data.tiny_speech import clips, syllables, write_corpus


@pytest.fixture(scope="module")
def corpus_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, "ann", [1.0, 1.5, 2.0, 1.2])
    return folder


def test_each_speaker_is_one_file_of_utterances_with_pauses_between(tmp_path: Path, corpus_dir: Path) -> None:
    (path,) = write_people(tmp_path, corpus_dir, per_speaker=2)
    audio, rate_hz = soundfile.read(path)
    rows = read_seglst(tmp_path / "ann.seglst.json")
    assert path == tmp_path / "ann.flac"
    assert rate_hz == 16_000
    assert len(audio) / rate_hz == pytest.approx(1.0 + 2.0 + 3 * 1.0, abs=0.05)  # the first and the third
    assert [row["words"] for row in rows] == ["some words"] * 2
    assert {row["session_id"] for row in rows} == {"ann"}
    assert [row["start_time"] for row in rows] == pytest.approx([1.0, 3.0], abs=0.06)
    assert [row["end_time"] for row in rows] == pytest.approx([2.0, 5.0], abs=0.06)


def test_utterances_are_left_as_they_are_and_pauses_have_their_background() -> None:
    loud = clips("a", [1.0])[0].audio
    recorded = np.concatenate([0.001 * syllables(1.0, 5), loud])
    audio, (row,) = joined([SpeechClip("x", "a", "Hello.", recorded)])
    assert np.array_equal(audio[16_000:48_000], recorded)
    assert row["start_time"] == pytest.approx(2.0 - 0.05, abs=0.02)
    pause = audio[:16_000]
    assert 0 < np.std(pause) < 0.02 * np.std(loud)


def test_chosen_utterances_are_spread_over_all() -> None:
    numbers = list(range(10))
    assert spread(numbers, 3) == [0, 3, 6]  # type: ignore[arg-type, comparison-overlap]
    assert spread(numbers, None) == spread(numbers, 99) == numbers  # type: ignore[arg-type, comparison-overlap]


def test_the_wheels_reading_comes_with_the_first_sentence_of_the_book(tmp_path: Path) -> None:
    ((audio, text),) = two_cities()
    assert text == TWO_CITIES
    (path,) = write_recordings(tmp_path, [(audio, text)])
    (row,) = read_seglst(tmp_path / "two_cities.seglst.json")
    assert len(row["words"].split()) == 119
    assert row["words"].endswith("the superlative degree of comparison only")
    assert soundfile.info(path).duration == pytest.approx(46.4, abs=0.1)


def test_the_command_writes_people_named_recordings_and_synthetic_voices(
    tmp_path: Path, corpus_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(held_out_voices, "speak", lambda voice, text: syllables(0.5, len(text)))
    text = tmp_path / "mine.txt"
    text.write_text("One, two.\n")
    soundfile.write(tmp_path / "mine.wav", syllables(1.0, 0), 16_000)
    out = tmp_path / "out"
    arguments = ["--out", str(out), "--corpus", str(corpus_dir), "--per-speaker", "1", "--sentences", "2"]
    assert reading_set.main([*arguments, "--recording", str(tmp_path / "mine.wav"), str(text)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 + 1 + len(held_out_voices.VOICES)
    assert {folder.name for folder in out.iterdir()} == {"people", "recordings", "flite", "espeak"}
    (row,) = read_seglst(out / "recordings" / "mine.seglst.json")
    assert row["words"] == normalise("One, two.") == "one two"
    assert len(read_seglst(out / "flite" / "flite-slt.seglst.json")) == 2


def test_a_corpus_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    arguments = ["--out", str(tmp_path / "out"), "--corpus", str(tmp_path / "empty"), "--sentences", "0"]
    assert reading_set.main(arguments) == 1
    assert "found 0 manifests" in capsys.readouterr().err
