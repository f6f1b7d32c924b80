from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from streaming_models.data.corpus import SAMPLE_RATE_HZ, CorpusError, read_corpus, read_manifest
from tests.streaming_models.data.tiny_speech import write_corpus


def _tones(folder: Path, rate_hz: int, header: str = "") -> Path:
    """A shard of half a second at 400 Hz, then half a second at 1200 Hz, and its manifest."""
    time_s = np.arange(rate_hz // 2) / rate_hz
    audio = np.concatenate([0.3 * np.sin(2 * np.pi * tone_hz * time_s) for tone_hz in (400, 1200)])
    soundfile.write(folder / "tones.opus", audio, rate_hz, format="OGG", subtype="OPUS")
    rows = [
        {"id": name, "shard": "tones.opus", "offset_s": at_s, "duration_s": 0.5, "text": "a", "speaker": "t"}
        for name, at_s in (("low", 0.0), ("high", 0.5))
    ]
    manifest = folder / "tones.jsonl"
    manifest.write_text(header + "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return manifest


@pytest.mark.parametrize("rate_hz", [16_000, 24_000, 48_000])
def test_each_utterance_is_its_own_stretch_of_the_shard_at_16_khz(tmp_path: Path, rate_hz: int) -> None:
    loudest_hz = []
    for utterance in read_manifest(_tones(tmp_path, rate_hz)):
        audio = utterance.audio()
        assert audio.dtype == np.float32
        assert abs(len(audio) - SAMPLE_RATE_HZ // 2) <= 1
        spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio))))
        loudest_hz.append(spectrum.argmax() * SAMPLE_RATE_HZ / len(audio))
    assert loudest_hz == pytest.approx([400, 1200], abs=4)


def test_a_voice_header_is_no_utterance_and_script_times_are_read(tmp_path: Path) -> None:
    row = {"id": "m.A.000", "shard": "m.A.opus", "offset_s": 0, "duration_s": 2.0, "text": "Hi.", "speaker": "m.A"}
    scripted = {**row, "script_start_s": 85.99, "script_end_s": 88.71}
    manifest = tmp_path / "m.A.jsonl"
    manifest.write_text('{"voice_mix": {"bm_lewis": 1.0}, "speed": 1.1}\n' + json.dumps(scripted) + "\n")
    (utterance,) = read_manifest(manifest)
    assert (utterance.id, utterance.script_start_s, utterance.script_end_s) == ("m.A.000", 85.99, 88.71)
    assert utterance.shard == tmp_path / "m.A.opus"


def test_speakers_are_grouped_over_all_folders(tmp_path: Path) -> None:
    for folder, speaker in (("one", "zoe"), ("two", "amy")):
        (tmp_path / folder).mkdir()
        write_corpus(tmp_path / folder, speaker, [0.5, 0.6])
    speakers = read_corpus(tmp_path)
    assert list(speakers) == ["amy", "zoe"]
    assert [utterance.id for utterance in speakers["zoe"]] == ["zoe-0", "zoe-1"]


def test_a_broken_row_is_named_by_file_and_line(tmp_path: Path) -> None:
    manifest = _tones(tmp_path, 16_000)
    manifest.write_text(manifest.read_text() + '{"id": "no shard"}\n')
    with pytest.raises(CorpusError, match=r"tones\.jsonl, line 3"):
        read_manifest(manifest)


def test_an_utterance_beyond_the_end_of_its_shard_is_an_error(tmp_path: Path) -> None:
    manifest = _tones(tmp_path, 16_000)
    manifest.write_text(manifest.read_text().replace('"duration_s": 0.5', '"duration_s": 5.0'))
    with pytest.raises(CorpusError, match="needs 80000 samples"):
        read_manifest(manifest)[0].audio()


def test_a_missing_shard_is_an_error_of_the_corpus(tmp_path: Path) -> None:
    manifest = _tones(tmp_path, 16_000)
    (tmp_path / "tones.opus").unlink()
    with pytest.raises(CorpusError, match="low"):
        read_manifest(manifest)[0].audio()


def test_a_folder_without_manifests_is_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="found 0 manifests"):
        read_corpus(tmp_path)
