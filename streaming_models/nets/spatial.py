"""What an array hears beyond the mix, as something to add to the encoder's input.

Follows SpatialEmb (2601.18037): spatial information goes into the recogniser itself instead of into a separation stage
before it. Per 24 ms frame and channel: coherence with the mix in 64 bands (real and imaginary part, so phase
difference and how much it can be trusted) and level difference. A small network shared by the channels, then mean and
maximum over channels, so neither their number, their order nor the array's shape matters. The mix itself is the
reference: one channel gives zeros through the same graph.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streaming_models.nets.encoder import FRAME_SAMPLES, LOOKAHEAD_SAMPLES, WIDTH

FFT_SIZE = 512
FFT_OFFSET = 192
"""The 32 ms window lies in the middle of what the encoder's frame covers."""
BANDS = 64
BINS_PER_BAND = 2
"""64 bands of 62.5 Hz: up to 4 kHz."""
FEATURES = 3 * BANDS
INNER = 96
SILENT = 1e-7
"""Mean power of a frame below which a channel says nothing: a dead microphone counts as absent."""


class SpatialEmbedding(nn.Module):
    """(B, C, S) channels beside their mix (B, S) -> (B, T, WIDTH), zeros before training."""

    dft: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(FEATURES, INNER)
        self.deeper = nn.Linear(INNER, INNER)
        self.out = nn.Linear(2 * INNER, WIDTH, bias=False)
        nn.init.zeros_(self.out.weight)
        self.register_buffer("dft", _dft(), persistent=False)

    def forward(self, mix: Tensor, channels: Tensor) -> Tensor:
        """Add-on for the encoder's first layer.

        Args:
            mix: (B, T * FRAME_SAMPLES + LOOKAHEAD_SAMPLES).
            channels: (B, C, the same), in time with the mix.
        """
        reference = self._spectrum(mix[:, None])  # (B, 1, T, 2, bins)
        each = self._spectrum(channels)
        features, present = coherence(reference, each)
        inner = F.relu(self.deeper(F.relu(self.inner(features))))  # (B, C, T, INNER)
        # What the network says to all-zero features is taken away, so that one channel adds nothing.
        silent = F.relu(self.deeper(F.relu(self.inner(torch.zeros_like(features[:, :1, :1])))))
        inner = (inner - silent) * present
        mean = inner.sum(1) / present.sum(1).clamp(min=1.0)
        heard = present.amax(1)
        highest = (inner - 1e4 * (1 - present)).amax(1) * heard  # of those present
        added: Tensor = self.out(torch.cat((mean, highest), -1))
        return added

    def _spectrum(self, samples: Tensor) -> Tensor:
        """(B, C, S) -> (B, C, T, 2, BANDS * BINS_PER_BAND): real and imaginary parts."""
        streams, count, length = samples.shape
        frames = (length - LOOKAHEAD_SAMPLES) // FRAME_SAMPLES
        last = FFT_OFFSET + (frames - 1) * FRAME_SAMPLES + FFT_SIZE
        rows = samples[..., FFT_OFFSET:last].reshape(streams * count, 1, -1)
        spectrum = F.conv1d(rows, self.dft, stride=FRAME_SAMPLES)  # (B C, 2 bins, T)
        return spectrum.transpose(1, 2).reshape(streams, count, frames, 2, BANDS * BINS_PER_BAND)


def coherence(reference: Tensor, channels: Tensor) -> tuple[Tensor, Tensor]:
    """Features (B, C, T, FEATURES), 0 where a channel equals the reference, and presence (B, C, T, 1), 0 or 1.

    Args:
        reference: (B, 1, T, 2, bins) spectrum of the mix.
        channels: (B, C, T, 2, bins).
    """
    a, b, c, d = channels[..., 0, :], channels[..., 1, :], reference[..., 0, :], reference[..., 1, :]
    real, imaginary = _banded(a * c + b * d), _banded(b * c - a * d)
    power, power_of_mix = _banded(a**2 + b**2), _banded(c**2 + d**2)
    scale = (power * power_of_mix + 1e-12).rsqrt()
    level = torch.log((power + 1e-6) / (power_of_mix + 1e-6)).clamp(-4.0, 4.0) / 4.0
    trusted = power_of_mix * scale.square() * power  # 1 where there is sound, 0 in silence
    features = torch.cat((trusted - real * scale, imaginary * scale, level), -1)
    present = (power.mean(-1, keepdim=True) > SILENT * FFT_SIZE).to(features.dtype)
    return features, present


def _banded(x: Tensor) -> Tensor:
    bands: Tensor = x.unflatten(-1, (BANDS, BINS_PER_BAND))
    return bands.sum(-1)


def _dft() -> Tensor:
    """(2 * bins, 1, FFT_SIZE): windowed cosines, then sines, of the bins from 1 upwards."""
    n = torch.arange(FFT_SIZE).double()
    window = 0.5 - 0.5 * torch.cos(2 * math.pi * n / FFT_SIZE)
    bins = torch.arange(1, BANDS * BINS_PER_BAND + 1).double()
    angle = 2 * math.pi * torch.outer(bins, n) / FFT_SIZE
    return torch.cat((angle.cos() * window, -angle.sin() * window)).float()[:, None]
