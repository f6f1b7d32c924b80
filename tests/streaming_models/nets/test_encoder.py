"""The streaming encoder against its masked whole, and against the pretrained original."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from onnx_export.pretrained import pretrained_encoder
from server.inference import MoonshineGraphs, moonshine_assets
from streaming_models.nets.encoder import (
    FRAME_SAMPLES,
    LOOKAHEAD_SAMPLES,
    WIDTH,
    Encoder,
    EncoderState,
    chunk_mask,
)
from tests.real import speech as real_speech

CHUNK, LEFT = 9, 24
HOP = CHUNK * FRAME_SAMPLES


@cache
def encoder() -> Encoder:
    net = Encoder().eval().requires_grad_(False)
    net.load_pretrained(pretrained_encoder(moonshine_assets()))
    return net


def speech(chunks: int, streams: int = 1) -> torch.Tensor:
    audio = torch.tensor(real_speech(seconds=40.0))
    length = chunks * HOP + LOOKAHEAD_SAMPLES
    return torch.stack([audio[k * 20_000 : k * 20_000 + length] for k in range(streams)])


def stream(samples: torch.Tensor, left: int = LEFT, added: torch.Tensor | None = None) -> torch.Tensor:
    state = EncoderState.start(samples.shape[0], left)
    rows = []
    for k in range((samples.shape[1] - LOOKAHEAD_SAMPLES) // HOP):
        piece = samples[:, k * HOP : (k + 1) * HOP + LOOKAHEAD_SAMPLES]
        extra = None if added is None else added[:, k * CHUNK : (k + 1) * CHUNK]
        hidden, state = encoder().step(piece, state, extra)
        rows.append(hidden)
    return torch.cat(rows, 1)


def test_chunk_by_chunk_equals_the_masked_whole() -> None:
    samples = speech(9, streams=2)
    assert torch.allclose(stream(samples), encoder()(samples, CHUNK, LEFT), atol=1e-4)


def test_an_addition_to_the_first_layer_streams_as_well() -> None:
    samples = speech(5)
    added = torch.randn(1, 5 * CHUNK, WIDTH, generator=torch.Generator().manual_seed(0))
    whole = encoder()(samples, CHUNK, LEFT, added)
    assert torch.allclose(stream(samples, added=added), whole, atol=1e-4)
    assert not torch.allclose(whole, encoder()(samples, CHUNK, LEFT), atol=1e-2)


def test_another_left_context_is_another_encoder() -> None:
    samples = speech(9)
    assert not torch.allclose(stream(samples), encoder()(samples, CHUNK, 2 * LEFT), atol=1e-2)


def test_later_samples_change_nothing_earlier() -> None:
    samples = speech(8)
    other = samples.clone()
    other[:, 5 * HOP + LOOKAHEAD_SAMPLES :] = 0.3
    before, after = (encoder()(x, CHUNK, LEFT) for x in (samples, other))
    assert torch.equal(before[:, : 5 * CHUNK], after[:, : 5 * CHUNK])
    assert not torch.allclose(before[:, 5 * CHUNK :], after[:, 5 * CHUNK :], atol=1e-2)


def test_replaying_the_bounded_context_rebuilds_the_state() -> None:
    """Six layers see LEFT frames back each: what lies further back has no influence."""
    reach = -(-6 * LEFT // CHUNK) + 1
    samples = speech(reach + 8)
    other = samples.clone()
    other[:, : 4 * HOP] = 0.1 * torch.randn(1, 4 * HOP, generator=torch.Generator().manual_seed(1))
    last = slice((reach + 5) * CHUNK, None)
    assert torch.allclose(stream(samples)[:, last], stream(other)[:, last], atol=1e-5)


def test_streams_of_a_batch_do_not_hear_each_other() -> None:
    samples = speech(4, streams=3)
    together = stream(samples)
    for k in range(3):
        assert torch.allclose(together[k], stream(samples[k : k + 1])[0], atol=1e-4)


def test_the_whole_equals_moonshine_up_to_its_quantisation() -> None:
    audio = real_speech(seconds=4.0)
    expected = MoonshineGraphs(moonshine_assets()).encode(audio)
    found = encoder().whole(torch.tensor(audio)[None])[0].numpy()
    assert np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(expected)


def test_the_mask_shows_a_frame_its_chunk_and_the_left_context() -> None:
    mask = chunk_mask(6, 2, 1, torch.device("cpu")).int().tolist()
    assert mask == [
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 0, 0, 1, 1, 1],
        [0, 0, 0, 1, 1, 1],
    ]


def test_half_a_chunk_is_refused_with_both_lengths() -> None:
    with pytest.raises(ValueError, match=rf"k \* {HOP} \+ 511 samples for chunks of 9, got 4000"):
        encoder()(torch.zeros(1, 4_000), CHUNK, LEFT)
