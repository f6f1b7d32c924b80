"""Training the voice head at the smallest scale: the same code as a real run, on made-up voices."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from streaming_models import train_voice
from streaming_models.nets.encoder import Encoder
from streaming_models.nets.heads import VoiceHead
from streaming_models.train_voice import (
    VoiceBatches,
    VoiceSettings,
    equal_error_rate,
    excerpt,
    in_a_room,
    pair_scores,
    read_voices,
    train,
    validate,
    voices_of,
)
from tests.streaming_models.data.test_extraction_windows import speech
from tests.streaming_models.data.test_windows import rooms

SETTINGS = VoiceSettings(steps=12, excerpts=4, chunks=1, rate=3e-3, seed=5)


@cache
def encoder() -> Encoder:
    torch.manual_seed(1)
    made = Encoder().requires_grad_(False)
    made.layers = made.layers[:1]  # a sixth of the time
    return made


def head() -> VoiceHead:
    torch.manual_seed(2)
    return VoiceHead()


def batches(settings: VoiceSettings = SETTINGS) -> VoiceBatches:
    return VoiceBatches(speech(), sorted(speech()), rooms(), settings)


@cache
def teacher() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    vectors = np.random.default_rng(3).standard_normal((len(speech()), 256)).astype(np.float32)
    made: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return made


def run(out: Path, settings: VoiceSettings = SETTINGS, resume: bool = False) -> list[dict[str, float]]:
    held = batches(VoiceSettings(steps=1, excerpts=6, chunks=1, seed=0))
    train(head(), encoder(), batches(settings), teacher(), held, out, resume, workers=0)
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_a_step_s_excerpts_depend_on_the_seed_and_the_step_alone() -> None:
    later = batches()
    later.first = 3
    assert torch.equal(batches()[5]["sounds"], later[2]["sounds"])
    assert not torch.equal(batches()[5]["sounds"], batches()[6]["sounds"])
    assert len(later) == SETTINGS.steps - 3


def test_an_excerpt_is_one_person_s_at_a_common_level() -> None:
    rng = np.random.default_rng(1)
    for name in speech():
        sound = excerpt(speech(), name, 30_000, rng)
        assert sound.shape == (30_000,)
        assert np.sqrt(np.square(sound).mean()) == pytest.approx(0.05, rel=0.01)
        heard = in_a_room(sound, rooms(), rng)
        assert heard.shape == sound.shape
        assert np.isfinite(heard).all()


def test_voices_are_unit_vectors_and_silence_says_nothing_of_them() -> None:
    sounds = batches()[0]["sounds"]
    voices = voices_of(encoder(), head(), sounds)
    assert voices.shape == (4, 256)
    assert torch.allclose(voices.norm(dim=1), torch.ones(4), atol=1e-5)
    assert torch.equal(voices_of(encoder(), head(), torch.zeros_like(sounds)), torch.zeros(4, 256))


def test_training_lowers_both_losses_and_is_logged(tmp_path: Path) -> None:
    rows = run(tmp_path, VoiceSettings(steps=60, excerpts=4, chunks=1, rate=3e-3, seed=5))
    first, last = rows[0], rows[-1]
    assert last["far"] < first["far"]
    assert last["other"] < first["other"]
    assert 0.0 <= last["held_equal_error_rate"] <= 1.0
    saved = torch.load(tmp_path / "model.pt", weights_only=True)
    assert saved["step"] == 60
    assert saved["config"]["seed"] == 5


class FirstHalf(VoiceBatches):
    """A run that is stopped after 6 steps."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if index >= 6:
            raise IndexError(index)
        return super().__getitem__(index)


def test_a_resumed_run_ends_where_a_whole_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_voice, "SAVE_STEPS", 6)
    run(tmp_path / "whole")
    held = batches(VoiceSettings(steps=1, excerpts=6, chunks=1, seed=0))
    stopped = FirstHalf(speech(), sorted(speech()), rooms(), SETTINGS)
    train(head(), encoder(), stopped, teacher(), held, tmp_path / "parts", workers=0)
    assert torch.load(tmp_path / "parts" / "model.pt", weights_only=True)["step"] == 6
    run(tmp_path / "parts", resume=True)
    whole, parts = (torch.load(tmp_path / name / "model.pt", weights_only=True)["head"] for name in ("whole", "parts"))
    assert all(torch.allclose(whole[name], parts[name], atol=1e-6) for name in whole)


def test_the_encoder_stays_as_it_is(tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in encoder().state_dict().items()}
    run(tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in encoder().state_dict().items())


def test_equal_error_rate_of_scores_that_part_is_nothing_and_of_equal_ones_a_half() -> None:
    assert equal_error_rate(np.array([0.8, 0.9]), np.array([0.1, 0.2, 0.3])) == 0.0
    assert equal_error_rate(np.array([0.5, 0.5]), np.array([0.5, 0.5])) == pytest.approx(0.5)
    assert equal_error_rate(np.array([0.1, 0.2]), np.array([0.8, 0.9])) == 1.0
    assert equal_error_rate(np.array([0.2, 0.6, 0.7, 0.8]), np.array([0.1, 0.3, 0.05, 0.0])) == pytest.approx(0.25)


def test_equal_error_rate_wants_scores_of_both_kinds() -> None:
    with pytest.raises(ValueError, match="got 0 and 1"):
        equal_error_rate(np.zeros(0), np.zeros(1))


def test_pairs_are_counted_once_and_not_with_themselves() -> None:
    voices = np.eye(3, dtype=np.float32)[[0, 0, 1, 2]]
    same, different = pair_scores(voices, np.array([0, 0, 1, 2]))
    assert same.tolist() == [1.0]
    assert different.tolist() == [0.0] * 5


def test_validation_is_a_rate() -> None:
    assert 0.0 <= validate(head(), encoder(), batches(VoiceSettings(steps=1, excerpts=8, chunks=1, seed=0))) <= 1.0


def test_only_speakers_with_a_known_voice_are_trained_on(tmp_path: Path) -> None:
    path = tmp_path / "voices.npz"
    np.savez(path, speakers=["a", "b", "x"], voices=2 * np.eye(3, 256, dtype=np.float32))
    names, voices = read_voices(path, {"b": [], "a": [], "c": []})
    assert names == ["a", "b"]
    assert np.allclose(voices, np.eye(2, 256))
    with pytest.raises(ValueError, match="got 1 of 2"):
        read_voices(path, {"a": [], "d": []})
