"""Frame heads: shapes, frame by frame, and voices pooled where one person talks alone."""

from __future__ import annotations

import pytest
import torch

from streaming_models.nets.heads import ActivityHead, VoiceHead, alone_weights, pool_voices
from streaming_models.nets.losses import voice_loss


def test_heads_give_two_logits_and_a_unit_vector_a_frame() -> None:
    hidden = torch.randn(2, 27, 288)
    assert ActivityHead()(hidden).shape == (2, 27, 2)
    voices = VoiceHead()(hidden)
    assert voices.shape == (2, 27, 256)
    assert torch.allclose(voices.norm(dim=-1), torch.ones(2, 27), atol=1e-5)


@pytest.mark.parametrize("head", [ActivityHead(), VoiceHead()])
def test_a_frame_is_judged_by_itself(head: torch.nn.Module) -> None:
    hidden = torch.randn(1, 12, 288)
    pieces = torch.cat([head(hidden[:, :5]), head(hidden[:, 5:])], 1)
    assert torch.allclose(pieces, head(hidden), atol=1e-5)


def test_only_frames_of_one_talker_count() -> None:
    activity = torch.tensor([[[-9.0, -9.0], [9.0, -9.0], [9.0, 9.0]]])
    assert torch.allclose(alone_weights(activity), torch.tensor([[0.0, 1.0, 0.0]]), atol=1e-3)


def test_voices_are_pooled_by_weight() -> None:
    voices = torch.eye(3)[None]
    weights = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 2.0, 2.0], [0.0, 0.0, 0.0]]])
    pooled = pool_voices(voices, weights)
    half = 0.5**0.5
    expected = torch.tensor([[1.0, 0.0, 0.0], [0.0, half, half], [0.0, 0.0, 0.0]])
    assert torch.allclose(pooled[0], expected, atol=1e-6)


def test_a_voice_head_learns_a_teachers_voices() -> None:
    torch.manual_seed(0)
    head = VoiceHead(16, 32, 8)
    speakers, teacher = torch.randn(4, 16), torch.nn.functional.normalize(torch.randn(4, 8), dim=-1)
    optimiser = torch.optim.AdamW(head.parameters(), 1e-2)
    heard = torch.ones(1, 4, dtype=torch.bool)
    for _ in range(150):
        hidden = speakers.repeat_interleave(5, 0)[None] + 0.3 * torch.randn(1, 20, 16)
        weights = torch.eye(4).repeat_interleave(5, 1)[None]
        loss = voice_loss(pool_voices(head(hidden), weights), teacher[None], heard)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.05
