"""The network that takes one voice out of several: shapes, and what it listens to."""

from __future__ import annotations

import torch

from streaming_models.nets.extraction import ExtractionNet
from streaming_models.short_time import BINS

FRAMES = 60


def net() -> ExtractionNet:
    torch.manual_seed(0)
    return ExtractionNet(width=24).eval()


def inputs(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    magnitudes = torch.rand(2, FRAMES, BINS, generator=generator)
    wanted, others = torch.zeros(2, 3, FRAMES), torch.zeros(2, 3, FRAMES)
    for voice in range(3):
        wanted[:, voice, 10 * voice : 10 * voice + 10] = 1
        others[:, voice, 10 * ((voice + 1) % 3) : 10 * ((voice + 1) % 3) + 10] = 1
    return magnitudes, wanted, others


def test_every_wanted_voice_has_a_mask_of_the_mixtures_shape() -> None:
    masks = net()(*inputs())
    assert masks.shape == (2, 3, FRAMES, BINS)
    assert 0 <= float(masks.detach().min()) <= float(masks.detach().max()) <= 1


def test_voices_asked_for_together_are_what_they_are_alone() -> None:
    magnitudes, wanted, others = inputs()
    with torch.no_grad():
        together = net()(magnitudes, wanted, others)
        alone = net()(magnitudes[:1], wanted[:1, 1:2], others[:1, 1:2])
    assert torch.allclose(together[:1, 1:2], alone, atol=1e-5)


def test_loudness_of_the_whole_does_not_matter() -> None:
    magnitudes, wanted, others = inputs()
    with torch.no_grad():
        assert torch.allclose(net()(magnitudes, wanted, others), net()(7 * magnitudes, wanted, others), atol=1e-4)


def test_the_mask_depends_on_whose_solo_is_marked() -> None:
    magnitudes, wanted, others = inputs()
    with torch.no_grad():
        mine, theirs = net()(magnitudes, wanted, others), net()(magnitudes, others, wanted)
        nobody = net()(magnitudes, torch.zeros_like(wanted), torch.zeros_like(others))
    assert not torch.allclose(mine, theirs, atol=1e-4)
    assert bool(torch.isfinite(nobody).all())
