"""What the encoder's frames also tell: how many talk, and whose voice it is.

Both heads see one frame at a time, so they stream as they are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HIDDEN_WIDTH = 288
VOICE_WIDTH = 256
"""As the embedding that it is taught by, see `train_voice`."""


class ActivityHead(nn.Module):
    """Frames -> (B, T, 2) logits of "at least one talks" and "at least two talk"."""

    def __init__(self, hidden_width: int = HIDDEN_WIDTH, inner_width: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(hidden_width), nn.Linear(hidden_width, inner_width), nn.GELU(), nn.Linear(inner_width, 2)
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, hidden_width) -> (B, T, 2)."""
        logits: Tensor = self.layers(hidden)
        return logits


class VoiceHead(nn.Module):
    """Frames -> (B, T, 256) unit vectors that are near for one voice; a frame of two voices means nothing."""

    def __init__(
        self, hidden_width: int = HIDDEN_WIDTH, inner_width: int = 256, voice_width: int = VOICE_WIDTH
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(hidden_width),
            nn.Linear(hidden_width, inner_width),
            nn.GELU(),
            nn.Linear(inner_width, voice_width),
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, hidden_width) -> (B, T, voice_width), each of length 1."""
        return F.normalize(self.layers(hidden), dim=-1)


def alone_weights(activity: Tensor) -> Tensor:
    """How surely exactly one talks.

    Args:
        activity: (B, T, 2) logits of `ActivityHead`.

    Returns:
        (B, T) of 0 to 1: frames of silence and of overlap say nothing about a voice.
    """
    probability = torch.sigmoid(activity)
    return probability[..., 0] * (1 - probability[..., 1])


def pool_voices(voices: Tensor, weights: Tensor) -> Tensor:
    """Every talker's voice over the frames that are theirs.

    Args:
        voices: (B, T, E) of `VoiceHead`. weights: (B, K, T), 0 or more: `alone_weights` where talker k talks, else 0.

    Returns:
        (B, K, E) of length 1; zeros for a talker without weight.
    """
    return F.normalize(torch.einsum("bkt,bte->bke", weights.to(voices.dtype), voices), dim=-1)
