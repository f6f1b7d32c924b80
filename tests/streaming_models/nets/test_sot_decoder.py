"""The two-channel decoder against the pretrained one that it starts from."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from onnx_export.pretrained import pretrained_decoder
from server.inference import MoonshineGraphs, moonshine_assets
from streaming_models.nets.encoder import WIDTH
from streaming_models.nets.sot_decoder import VOCABULARY, SotDecoder
from tests.real import speech

ROW = [1, 350, 4021, 12, 777, 9000]


@cache
def decoder() -> SotDecoder:
    net = SotDecoder().eval().requires_grad_(False)
    net.load_pretrained(pretrained_decoder(moonshine_assets()))
    return net


def hidden(frames: int = 60, streams: int = 1) -> torch.Tensor:
    return torch.randn(streams, frames, WIDTH, generator=torch.Generator().manual_seed(3))


def logits(
    net: SotDecoder, tokens: list[int], frames: torch.Tensor, voice: float = 0.0, seen: slice = slice(None)
) -> torch.Tensor:
    mask = torch.zeros(1, 1, frames.shape[1], dtype=torch.bool)
    mask[..., seen] = True
    return net.logits(net(torch.tensor([[tokens]]), torch.tensor([[voice]]), frames, mask))[0, 0]


def test_the_first_channel_reads_as_the_pretrained_decoder() -> None:
    graphs = MoonshineGraphs(moonshine_assets())
    frames = graphs.encode(speech(seconds=6.0))
    expected, _, _ = graphs.read_prefix(ROW, frames, 96_000, 0)
    found = logits(decoder(), ROW, torch.tensor(frames)[None]).numpy()
    assert found.shape == (len(ROW), VOCABULARY)
    correlation = [np.corrcoef(a, b)[0, 1] for a, b in zip(found, expected, strict=True)]
    assert min(correlation) > 0.98  # its activations are quantised to 8 bits


def test_the_second_channel_differs_by_the_learnt_vector_only() -> None:
    net = SotDecoder().requires_grad_(False)
    net.load_state_dict(decoder().state_dict())
    frames = hidden()
    assert torch.allclose(logits(net, ROW, frames, voice=1.0), logits(net, ROW, frames), atol=1e-4)
    net.second.add_(torch.randn(WIDTH, generator=torch.Generator().manual_seed(4)))
    assert not torch.allclose(logits(net, ROW, frames, voice=1.0), logits(net, ROW, frames), atol=1e-2)


def test_a_token_does_not_see_later_tokens() -> None:
    frames = hidden()
    whole = logits(decoder(), ROW, frames)
    assert torch.allclose(logits(decoder(), ROW[:3], frames), whole[:3], atol=1e-2)


def test_a_row_sees_only_its_window() -> None:
    frames = hidden()
    cut = logits(decoder(), ROW, frames, seen=slice(10, 40))
    assert torch.allclose(cut, logits(decoder(), ROW, frames[:, 10:40]), atol=1e-2)


def test_rows_about_one_recording_do_not_see_each_other() -> None:
    frames = hidden()
    tokens = torch.tensor([[ROW, ROW[::-1]]])
    seen = torch.ones(1, 2, 60, dtype=torch.bool)
    both = decoder().logits(decoder()(tokens, torch.zeros(1, 2), frames, seen))[0]
    assert torch.allclose(both[0], logits(decoder(), ROW, frames), atol=1e-2)
    assert torch.allclose(both[1], logits(decoder(), ROW[::-1], frames), atol=1e-2)


def test_what_is_trained_is_the_cross_attention_the_norms_and_the_vector() -> None:
    names = [name for name, _ in decoder().tuned()]
    assert len(names) == 1 + 1 + 6 * (4 + 3)
    assert sum(parameter.numel() for _, parameter in decoder().tuned()) < 2_100_000


def test_another_model_is_refused() -> None:
    weights = dict(pretrained_decoder(moonshine_assets()))
    with pytest.raises(ValueError, match="one embedding for input and output"):
        SotDecoder().load_pretrained(weights | {"output": weights["output"] + 1})
    del weights["norm"]
    with pytest.raises(RuntimeError, match="norm"):
        SotDecoder().load_pretrained(weights)
