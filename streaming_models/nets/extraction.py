"""The network that takes one voice out of a mixture: it hears where the voice is alone, then where it is not.

A layer that everybody shares listens to the whole mixture. Its frames, averaged over the wanted voice's solo stretches
and over those of the others, say whom to look for; they modulate two layers more, run once for every wanted voice,
which give the part of each time-frequency point that is that voice. Nothing is causal: it hears in hindsight.

Sources: a mask guided by a voice is Wang et al., "VoiceFilter", Interspeech 2019; averaging an auxiliary network's
frames over an enrolment and modulating by it are Zmolikova et al., "SpeakerBeam", IEEE JSTSP 13(4), 2019; modulation is
Perez et al., "FiLM", AAAI 2018. That the enrolment is the mixture's own solo stretches, and that the others enrol as
well, follows Solo-SF.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from streaming_models.short_time import BINS

WIDTH = 224
_QUIET = 1e-3
"""What is this far below the mean of the magnitudes counts as silence."""


class ConvolutionLayer(nn.Module):
    """Gated, over five frames, residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.gated = nn.Linear(width, 2 * width)
        self.over_time = nn.Conv1d(width, width, 5, padding=2, groups=width)
        self.inner_norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, width)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, T, WIDTH) -> the same."""
        gated = functional.glu(self.gated(self.norm(frames)), -1)
        spread = self.over_time(gated.transpose(1, 2)).transpose(1, 2)
        out: Tensor = frames + self.out(functional.silu(self.inner_norm(spread)))
        return out


class RecurrentLayer(nn.Module):
    """An LSTM in both directions, residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.lstm = nn.LSTM(width, width, batch_first=True, bidirectional=True)
        self.out = nn.Linear(2 * width, width)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, T, WIDTH) -> the same."""
        out: Tensor = frames + self.out(self.lstm(self.norm(frames))[0])
        return out


class ExtractionNet(nn.Module):
    """Magnitudes of a mixture and who is alone when -> masks; see `streaming_models.overlap_hearing.Extract`."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(BINS))
        self.enter = nn.Linear(BINS, width)
        self.shared = nn.Sequential(ConvolutionLayer(width), RecurrentLayer(width))
        self.voice = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.marks = nn.Linear(2, width)
        self.own = nn.ModuleList([RecurrentLayer(width), RecurrentLayer(width)])
        self.modulation = nn.ModuleList([nn.Linear(2 * width, 2 * width) for _ in self.own])
        for linear in self.modulation:
            assert isinstance(linear, nn.Linear)
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, BINS)

    def forward(self, magnitudes: Tensor, wanted: Tensor, others: Tensor) -> Tensor:
        """Masks of K wanted voices.

        Args:
            magnitudes: (B, T, BINS) of the mixture.
            wanted: (B, K, T) 1 where the voice is known to be alone.
            others: (B, K, T) 1 where somebody else is.

        Returns:
            (B, K, T, BINS) from 0 to 1.
        """
        log = torch.log(magnitudes + _QUIET * magnitudes.mean((1, 2), keepdim=True) + 1e-8)
        heard = self.shared(self.enter(log - log.mean((1, 2), keepdim=True) + self.bias))
        voices = self.voice(heard)
        whom = torch.cat((_mean_where(wanted, voices), _mean_where(others, voices)), -1).flatten(0, 1)  # (B K, 2 WIDTH)
        count = wanted.shape[1]
        marks = torch.stack((wanted, others), -1).flatten(0, 1)
        frames = heard.repeat_interleave(count, 0) + self.marks(marks)
        for modulation, layer in zip(self.modulation, self.own, strict=True):
            scale, shift = modulation(whom)[:, None].chunk(2, -1)
            frames = layer(frames * (1 + scale) + shift)
        masks = torch.sigmoid(self.out(self.norm(frames)))
        return masks.view(len(magnitudes), count, *masks.shape[1:])


def _mean_where(marks: Tensor, frames: Tensor) -> Tensor:
    """(B, K, T) of (B, T, D) -> (B, K, D); next to nothing where next to nothing is marked."""
    return torch.einsum("bkt,btd->bkd", marks.to(frames.dtype), frames) / (marks.sum(-1, keepdim=True) + 1.0)
