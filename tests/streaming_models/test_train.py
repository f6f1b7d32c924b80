"""Training at the smallest scale: the same code as a real run, on made-up speech."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from onnx_export.pretrained import pretrained_decoder, pretrained_encoder
from server.inference import moonshine_assets
from streaming_models.data.windows import WindowSampler
from streaming_models.nets.encoder import FRAME_SAMPLES
from streaming_models.train import (
    IGNORED,
    SEEN_FRAMES,
    Batches,
    SotModel,
    TrainSettings,
    collate,
    load_checkpoint,
    rate_at,
    train,
    training_vocabulary,
    window_samples,
)
from tests.streaming_models.data.test_windows import bank, rooms

SETTINGS = TrainSettings(steps=2, windows=1, warmup=1, seed=3)


@cache
def sampler() -> WindowSampler:
    return WindowSampler(bank(), rooms())


def model() -> SotModel:
    torch.manual_seed(0)  # of what starts from nothing
    net = SotModel(training_vocabulary(bank()))
    net.encoder.load_pretrained(pretrained_encoder(moonshine_assets()))
    net.decoder.load_pretrained(pretrained_decoder(moonshine_assets()))
    return net


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    saved = torch.load(path)
    parts: list[dict[str, torch.Tensor]] = [saved[n] for n in ("encoder", "decoder_tuned", "spatial", "heads")]
    return {name: value for part in parts for name, value in part.items()}


def test_a_resumed_run_gives_the_weights_of_an_uninterrupted_one(tmp_path: Path) -> None:
    train(model(), sampler(), SETTINGS, tmp_path / "whole", resume=False, workers=0)
    halfway = TrainSettings(steps=1, windows=1, warmup=1, seed=3)
    train(model(), sampler(), halfway, tmp_path / "parts", resume=False, workers=0)
    train(model(), sampler(), SETTINGS, tmp_path / "parts", resume=True, workers=0)
    whole, parts = (weights_of(tmp_path / name / "model.pt") for name in ("whole", "parts"))
    # The first run's schedule was as long as itself: at its one step the rate was the same.
    assert whole.keys() == parts.keys()
    for name in whole:
        assert torch.allclose(whole[name].float(), parts[name].float(), atol=2e-3), name
    started = model()
    moved = [n for n, p in started.encoder.state_dict().items() if not torch.equal(p.half(), whole[n])]
    assert any("layers.0.q" in name for name in moved)
    assert not any("conv" in name for name in moved), "the convolutions are frozen"


def test_a_checkpoint_is_small_and_can_be_loaded(tmp_path: Path) -> None:
    train(model(), sampler(), TrainSettings(steps=1, windows=1, warmup=1), tmp_path, resume=False, workers=0)
    path = tmp_path / "model.pt"
    assert path.stat().st_size < 25_000_000
    net = model()
    load_checkpoint(net, torch.load(path))
    saved = torch.load(path)
    assert torch.equal(net.decoder.second.half(), saved["decoder_tuned"]["second"])
    assert saved["step"] == 1
    assert saved["config"]["windows"] == 1


def test_losses_are_finite_and_tell_the_channels_apart() -> None:
    net = model()
    net.trained(SETTINGS)
    batch = Batches(sampler(), SETTINGS, [int(t) for t in net.vocabulary], 0)[0]
    losses = net.losses(batch, batch["chunk"], batch["left"], 0.0)
    assert losses.keys() == {"text", "first", "second", "activity"}
    assert all(torch.isfinite(value) for value in losses.values())


def test_batches_depend_on_seed_and_step_only() -> None:
    vocabulary = [int(t) for t in training_vocabulary(bank())]
    settings = TrainSettings(steps=4, windows=1, seed=9)
    late, resumed = Batches(sampler(), settings, vocabulary, 0)[3], Batches(sampler(), settings, vocabulary, 2)[1]
    assert late["chunk"] == resumed["chunk"]
    assert all(torch.equal(late[name], resumed[name]) for name in ("mix", "tokens", "targets", "seen"))


def test_targets_end_with_the_end_and_a_live_cut_has_no_word_that_it_cuts_off() -> None:
    place = {int(t): k for k, t in enumerate(training_vocabulary(bank()))}
    back = {k: t for t, k in place.items()}
    for seed in range(12):
        window = sampler().draw(seed, window_samples())
        batch = collate([window], 27, random.Random(seed), place)
        for row in range(4):
            targets = [back[int(t)] for t in batch["targets"][0, row] if t != IGNORED]
            assert not targets or targets[-1] == 2
            seen = np.flatnonzero(batch["seen"][0, row].numpy())
            last_sample = (seen[-1] + 1) * FRAME_SAMPLES
            words = [w for t in window.talks for w in t.words if seen[0] * FRAME_SAMPLES <= w.start_sample]
            fit = [w for w in words if w.end_sample <= last_sample]
            assert len(targets) - 1 <= len(fit)
        both = batch["targets"][0, 0].ne(IGNORED).sum() + batch["targets"][0, 1].ne(IGNORED).sum()
        assert both >= 1
        assert batch["seen"][0, 0].all()
        assert batch["seen"].shape[-1] == SEEN_FRAMES


def test_the_rate_rises_and_falls() -> None:
    settings = TrainSettings(steps=100, warmup=10)
    rates = [rate_at(step, settings) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.02, abs=1e-3)
