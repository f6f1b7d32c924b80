from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from streaming_models.data import close_talk_set
from streaming_models.data.close_talk_set import write_close_talk_set
from streaming_models.data.corpus import CorpusError
from streaming_models.data.simulate import overlap_ratio
from streaming_models.scoring import read_seglst
from tests.streaming_models.data.tiny_speech import write_four_talkers


@pytest.fixture(scope="module")
def corpus_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_four_talkers(tmp_path_factory.mktemp("corpus"))


def test_meetings_have_one_channel_a_talker_and_a_reference_beside_them(tmp_path: Path, corpus_dir: Path) -> None:
    near, far = tmp_path / "near", tmp_path / "far"
    (path,) = write_close_talk_set(near, corpus_dir, count=1, seed=3, far_field_dir=far)
    worn, rate_hz = soundfile.read(path)
    table, _ = soundfile.read(far / "far-field-00.flac")
    rows = read_seglst(near / "close-talk-00.seglst.json")
    assert path == near / "close-talk-00.flac"
    assert rate_hz == 16_000
    assert worn.shape == (len(table), 2)
    assert 45 <= len(worn) / rate_hz <= 60
    assert np.max(np.abs(worn)) < 0.99
    assert {row["session_id"] for row in rows} == {"close-talk-00"}
    assert len({row["speaker"] for row in rows}) == 2
    assert 0.2 <= overlap_ratio((row["start_time"], row["end_time"]) for row in rows) <= 0.4


def test_a_corpus_with_too_few_speakers_is_refused(
    tmp_path: Path, corpus_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for speaker in ("ann", "bob", "cat"):
        shutil.copy(corpus_dir / f"{speaker}.jsonl", tmp_path)
    with pytest.raises(CorpusError, match="expected four speakers"):
        write_close_talk_set(tmp_path / "out", tmp_path, count=1, seed=0)
    assert close_talk_set.main(["--corpus", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "expected four speakers" in capsys.readouterr().err
