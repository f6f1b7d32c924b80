"""Training the transducer at the smallest scale: the same code as a real run, on made-up speech."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch

from server.inference import moonshine_assets
from streaming_models.data.windows import WindowSampler
from streaming_models.nets.encoder import FRAME_SAMPLES
from streaming_models.pieces import SPECIAL_PIECES, Pieces
from streaming_models.sot import Change, clip_to_window, deserialise
from streaming_models.tokens import TokenTable
from streaming_models.train import SEEN_FRAMES, Batches, TrainSettings, training_vocabulary, window_samples
from streaming_models.train_transducer import RowBatches, Speller, TransducerModel, load_checkpoint, train
from tests.streaming_models.data.test_windows import bank, rooms

SETTINGS = TrainSettings(steps=2, windows=1, warmup=1, seed=3)
VOCABULARY = [int(t) for t in training_vocabulary(bank())]


@cache
def sampler() -> WindowSampler:
    return WindowSampler(bank(), rooms())


@cache
def speller() -> Speller:
    """Letters are pieces enough for the few words of the made-up bank."""
    table = TokenTable.from_bytes((moonshine_assets() / "tokenizer.bin").read_bytes())
    letters = sorted({letter for token in VOCABULARY for letter in table.text([token])} - {" "})
    return Speller(Pieces((*SPECIAL_PIECES, "\u2581", *letters)), table)


def model() -> TransducerModel:
    torch.manual_seed(0)
    return TransducerModel(len(speller().pieces.pieces))


def run(out: Path, settings: TrainSettings, resume: bool = False) -> None:
    train(model(), RowBatches(sampler(), speller(), settings), out, resume, workers=0)


def test_a_resumed_run_gives_the_weights_of_an_uninterrupted_one(tmp_path: Path) -> None:
    run(tmp_path / "whole", SETTINGS)
    # Its schedule is as long as itself: at its one step the rate is the same.
    run(tmp_path / "parts", TrainSettings(steps=1, windows=1, warmup=1, seed=3))
    run(tmp_path / "parts", SETTINGS, resume=True)
    (whole, pieces), (parts, _) = (load_checkpoint(torch.load(tmp_path / n / "model.pt")) for n in ("whole", "parts"))
    assert pieces == speller().pieces
    started = dict(model().named_parameters())
    other = dict(parts.named_parameters())
    moved = set()
    for name, value in whole.named_parameters():
        assert torch.allclose(value, other[name], atol=2e-3), name
        if not torch.equal(value, started[name].half().float()):
            moved.add(name)
    assert {"encoder.layers.0.q", "transducer.joiner.out.weight"} <= moved
    assert not any("conv" in name for name in moved), "the convolutions are frozen"


def test_windows_chunks_and_left_contexts_are_those_of_the_other_candidate() -> None:
    settings = TrainSettings(steps=4, windows=1, seed=9)
    rows = RowBatches(sampler(), speller(), settings, 2)
    assert len(rows) == 2
    mine, other = rows[1], Batches(sampler(), settings, VOCABULARY, 0)[3]
    assert (mine["chunk"], mine["left"]) == (other["chunk"], other["left"])
    assert torch.equal(mine["mix"], other["mix"])
    assert torch.equal(mine["channels"], other["channels"])


def test_a_row_holds_both_channels_words() -> None:
    spell = speller()
    changes = 0
    for seed in range(8):
        window = sampler().draw(seed, window_samples())
        row = spell.row(window)
        found = deserialise(Change.CC if token == 1 else token for token in row.tokens)
        said = clip_to_window(window.talks, 0, SEEN_FRAMES * FRAME_SAMPLES).words
        assert found == tuple([t for word in words for t in spell.word(word)] for words in said)
        changes += row.tokens.count(1)
        assert max(row.end_samples) <= SEEN_FRAMES * FRAME_SAMPLES
    assert changes


def test_losses_count_tokens_not_windows() -> None:
    net = model()
    batch = RowBatches(sampler(), speller(), TrainSettings(steps=1, windows=2, seed=1))[0]
    with torch.no_grad():
        whole = net.losses(batch, batch["chunk"], batch["left"])
        hidden = net(batch, batch["chunk"], batch["left"])
        frames = torch.full((2,), SEEN_FRAMES)
        together = net.transducer.loss(hidden, frames, batch["tokens"], batch["row_channels"], batch["token_lengths"])
    assert np.isclose(float(whole["transducer"]), float(together.transducer), rtol=1e-4)
    assert np.isclose(float(whole["ctc"]), float(together.ctc), rtol=1e-4)
