"""The spatial embedding: any number of microphones in any order, and nothing for one."""

from __future__ import annotations

import torch

from streaming_models.nets.encoder import FRAME_SAMPLES, LOOKAHEAD_SAMPLES, WIDTH
from streaming_models.nets.spatial import SpatialEmbedding

FRAMES = 6
LENGTH = FRAMES * FRAME_SAMPLES + LOOKAHEAD_SAMPLES


def net() -> SpatialEmbedding:
    torch.manual_seed(0)
    made = SpatialEmbedding().requires_grad_(False)
    torch.nn.init.normal_(made.out.weight, std=0.1)  # as trained: it starts at zero
    torch.nn.init.normal_(made.inner.bias)
    return made


def array(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A wave that reaches each microphone some samples later, and the mix."""
    torch.manual_seed(1)
    wave = 0.1 * torch.randn(1, LENGTH + 64)
    channels = torch.stack([wave[0, 7 * k : 7 * k + LENGTH] for k in range(count)])[None]
    return channels.mean(1), channels


def test_an_untrained_embedding_adds_nothing() -> None:
    mix, channels = array(4)
    assert not SpatialEmbedding()(mix, channels).any()


def test_one_channel_adds_nothing() -> None:
    mix, channels = array(1)
    assert net()(mix, channels).abs().max() < 1e-4


def test_several_channels_give_a_vector_a_frame() -> None:
    mix, channels = array(4)
    added = net()(mix, channels)
    assert added.shape == (1, FRAMES, WIDTH)
    assert added.abs().max() > 0.1


def test_the_order_of_the_channels_does_not_matter() -> None:
    mix, channels = array(4)
    shuffled = channels[:, [2, 0, 3, 1]]
    assert torch.allclose(net()(mix, channels), net()(mix, shuffled), atol=1e-5)


def test_a_dead_channel_is_as_good_as_none() -> None:
    mix, channels = array(3)
    dead = torch.cat((channels, torch.zeros_like(channels[:, :1])), 1)
    assert torch.allclose(net()(mix, channels), net()(mix, dead), atol=1e-5)


def test_loudness_does_not_matter_but_where_the_sound_comes_from_does() -> None:
    mix, channels = array(2)
    assert torch.allclose(net()(mix, channels), net()(3 * mix, 3 * channels), atol=1e-2)
    late = torch.stack((channels[0, 0], channels[0, 1].roll(5)))[None]
    assert not torch.allclose(net()(mix, channels), net()(mix, late), atol=1e-2)


def test_frames_are_independent_of_later_samples() -> None:
    mix, channels = array(2)
    until = 3 * FRAME_SAMPLES + LOOKAHEAD_SAMPLES
    short = net()(mix[:, :until], channels[..., :until])
    assert torch.allclose(short, net()(mix, channels)[:, :3], atol=1e-5)
