"""Training the extraction network at the smallest scale: the same code as a real run, on made-up speech."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import torch

from streaming_models.data.extraction_windows import ExtractionSampler
from streaming_models.data.windows import RoomBank
from streaming_models.nets.encoder import Encoder
from streaming_models.nets.extraction import ExtractionNet
from streaming_models.short_time import BINS
from streaming_models.train_extraction import (
    LISTENED,
    WANTED,
    ExtractionBatches,
    ExtractionSettings,
    collate,
    losses_of,
    split_rooms,
    train,
)
from tests.streaming_models.data.test_extraction_windows import speech, windows
from tests.streaming_models.data.test_windows import rooms


@cache
def sampler() -> ExtractionSampler:
    return ExtractionSampler(speech(), rooms())


def net() -> ExtractionNet:
    torch.manual_seed(0)
    return ExtractionNet(width=16)


@cache
def ear() -> Encoder:
    torch.manual_seed(1)
    encoder = Encoder().requires_grad_(False)
    encoder.layers = encoder.layers[:1]  # a sixth of the time
    return encoder


def run(out: Path, steps: int, resume: bool = False, until: int | None = None) -> None:
    settings = ExtractionSettings(steps=steps, windows=2, rate=3e-3, warmup=1, seed=4)
    data = ExtractionBatches(sampler(), settings)
    if until is not None:
        data.settings = ExtractionSettings(steps=until, windows=2, rate=3e-3, warmup=1, seed=4)
    train(net(), ear(), data, sampler(), out, resume, workers=0)


def test_a_batch_asks_for_two_voices_of_each_window() -> None:
    batch = collate(list(windows()[:6]))
    frames = batch["mix"].shape[1]
    assert batch["mix"].shape == (6, frames, BINS)
    assert batch["voices"].shape == (6, WANTED, frames, BINS)
    assert batch["wanted"].shape == batch["others"].shape == (6, WANTED, frames)
    for row, window in enumerate(windows()[:6]):
        assert np.array_equal(batch["wanted"][row, 0].numpy(), window.alone[0])
        if len(window.voices) == 1:
            assert float(batch["weights"][row, 1]) == 0
        else:
            assert np.array_equal(batch["wanted"][row, 1].numpy(), window.alone[1])


def test_voices_are_listened_to_where_people_overlap_one_of_every_window_first() -> None:
    batch = collate(list(windows()[:6]))
    listened = batch["listened"].tolist()
    assert 1 <= len(listened) <= LISTENED
    assert all(windows()[b].overlap.any() and float(batch["weights"][b, k]) for b, k in listened)
    assert listened == sorted(listened, key=lambda place: (place[1], place[0]))


def test_loss_is_none_for_the_voices_themselves_and_counts_only_the_weighted() -> None:
    batch = collate(list(windows()[:4]))
    silent = net()
    with torch.no_grad():
        silent.out.bias.fill_(-40.0)

    def loss() -> float:
        return float(losses_of(silent, ear(), batch).seen.detach())

    lost = loss()
    assert lost > 0
    batch["weights"][1:] = 0
    batch["voices"][1:] = 1e3
    assert loss() < 10 * lost
    batch["voices"][:] = 0
    assert loss() < 1e-5


def test_what_is_heard_is_compared_where_the_voice_speaks_and_leads_the_network() -> None:
    batch = collate(list(windows()[:4]))
    through = net()
    with torch.no_grad():
        through.out.bias.fill_(40.0)  # everything passes
    apart = losses_of(through, ear(), batch).heard
    assert float(apart.detach()) > 0.01
    for b in range(4):  # if the mixture is what was wanted, nothing is heard wrong
        mix = torch.istft(batch["mix"][b].T, 512, 256, window=torch.hann_window(512).sqrt())
        batch["sounds"][b, :, : len(mix)] = mix
    assert float(losses_of(through, ear(), batch).heard.detach()) < 0.02 * float(apart.detach())
    apart.backward()
    assert all(parameter.grad is None for parameter in ear().parameters())
    assert through.enter.weight.grad is not None
    batch["listened"] = batch["listened"][:0]
    assert float(losses_of(through, ear(), batch).heard.detach()) == 0


def test_training_learns_and_a_resumed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    run(tmp_path / "whole", 3)
    run(tmp_path / "parts", 3, until=2)
    first = torch.load(tmp_path / "parts" / "model.pt", weights_only=True)
    run(tmp_path / "parts", 3, resume=True)
    whole, parts = (torch.load(tmp_path / n / "model.pt", weights_only=True) for n in ("whole", "parts"))
    assert first["step"] == 2
    assert whole["step"] == parts["step"] == 3
    assert parts["config"]["seed"] == 4
    for name, value in whole["net"].items():
        # Its schedule was as long as itself: the rates of its two steps differ a little.
        assert torch.allclose(value, parts["net"][name], atol=2e-2), name
    assert any(not torch.equal(value, dict(net().state_dict())[name]) for name, value in parts["net"].items())
    rows = [json.loads(line) for line in (tmp_path / "parts" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 3]
    assert all(row["held_seen"] > 0 and row["held_heard"] > 0 for row in rows)


def test_a_twentieth_of_the_rooms_is_for_validation() -> None:
    many = RoomBank(np.zeros((40, 3, 4, 8), np.float16), np.zeros((40, 3, 8), np.float16))
    kept, held = split_rooms(many)
    assert (len(kept.far), len(held.far), len(kept.near), len(held.near)) == (38, 2, 38, 2)
    kept, held = split_rooms(RoomBank(many.far[:1], many.near[:1]))
    assert (len(kept.far), len(held.far)) == (1, 1)
