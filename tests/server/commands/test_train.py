"""`crosstalk train`: from corpora to what training takes, on real graphs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from server.cli import main
from streaming_models.data.speech_bank import SpeechBank
from streaming_models.data.windows import RoomBank
from tests import real

SAID = "IT WAS THE BEST OF TIMES IT WAS THE WORST OF TIMES IT WAS THE AGE OF WISDOM IT WAS THE AGE OF"


def write_corpus(folder: Path) -> None:
    """Two manifests over one recording of the installed wheel."""
    audio = real.speech("two_cities", 8.0)
    soundfile.write(folder / "talk.opus", audio, 16_000, format="OGG", subtype="OPUS")
    for name in ("near", "kept-apart"):
        row = {"id": name, "speaker": name, "shard": "talk.opus", "offset_s": 0.0, "duration_s": 7.5, "text": SAID}
        (folder / f"{name}.jsonl").write_text(json.dumps(row) + "\n")


def test_prepare_writes_speech_rooms_and_pretrained_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_corpus(tmp_path)
    out = tmp_path / "out"
    arguments = ["train", "prepare", str(tmp_path), "--out", str(out), "--hold-out", "kept-*", "--rooms", "1"]
    assert main(arguments) == 0
    train, held = (SpeechBank.load([out / name]) for name in ("train", "held"))
    assert [u.speaker for u in train.utterances] == ["near"]
    assert [u.speaker for u in held.utterances] == ["kept-apart"]
    assert len(train.utterances[0].words) > 8
    assert len(RoomBank.load(out / "rooms.npz").far) == 1
    voices = np.load(out / "voices.npz")
    assert voices["speakers"].tolist() == ["kept-apart", "near"]
    assert np.allclose(np.linalg.norm(voices["voices"], axis=1), 1.0, atol=1e-4)
    assert float(voices["voices"][0] @ voices["voices"][1]) > 0.99, "one recording under two names"
    assert {"conv1", "layers.5.o"} <= set(np.load(out / "encoder.npz"))
    assert {"embedding", "layers.5.cross.o"} <= set(np.load(out / "decoder.npz"))
    assert "train: 1 manifests, 1 utterances kept, 0 left out" in capsys.readouterr().out


def test_a_corpus_that_cannot_be_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.jsonl").write_text('{"id": 1}\n')
    assert main(["train", "prepare", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "broken.jsonl, line 1" in capsys.readouterr().err


def test_run_hands_its_arguments_to_the_training_process(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "run", "--steps", "many"]) == 2
    assert "--bank" in capfd.readouterr().err
