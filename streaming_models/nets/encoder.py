"""Moonshine Tiny's encoder made to stream: chunk-causal attention, bounded left context, statistics of a window.

Source: Moonshine (2410.15608) for the layers and weights; the chunk-causal mask with random chunk and left context is
that of streaming Zipformer and NeMo's cache-aware encoders. Moonshine's group norm takes its mean and variance over
the whole clip, which cannot stream: here they are those of the chunk and its left context, with a prior, so that they
too are bounded.

Frame t covers samples 384 t to 384 t + 894: a chunk of M frames needs LOOKAHEAD_SAMPLES more than its own. The
convolutions run chunk by chunk, in training too, so that streaming equals the masked whole to rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

WIDTH, HEADS, HEAD_SIZE, ROTARY_SIZE, LAYERS = 288, 8, 36, 32, 6
INNER_WIDTH = 4 * WIDTH
FRAME_SAMPLES = 384
LOOKAHEAD_SAMPLES = 511
"""895 samples under the last frame, less its own 384."""
STEPS_PER_FRAME = 6
"""Outputs of the first convolution (stride 64) in a frame."""
PRIOR_STEPS, PRIOR_VARIANCE = 250.0, 0.0015
"""What the statistics start from: a second of typical speech."""


@dataclass
class EncoderState:
    """Everything a stream carries from chunk to chunk; zeros are the start.

    key, value: (LAYERS, B, L, WIDTH), keys before rotation; norm: (B, 2, STEPS_PER_FRAME * L), the first
    convolution's sums and sums of squares over its channels; frames: (B,) frames so far.
    """

    key: Tensor
    value: Tensor
    norm: Tensor
    frames: Tensor

    @classmethod
    def start(cls, streams: int, left_frames: int) -> EncoderState:
        """The state before the first sample."""
        cache = torch.zeros(LAYERS, streams, left_frames, WIDTH)
        norm = torch.zeros(streams, 2, STEPS_PER_FRAME * left_frames)
        return cls(cache, cache.clone(), norm, torch.zeros(streams, dtype=torch.int64))


class Layer(nn.Module):
    """Pre-norm attention and MLP with interleaved partial rotary embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.Parameter(torch.ones(WIDTH)), nn.Parameter(torch.ones(WIDTH))
        self.q, self.k, self.v, self.o = (nn.Parameter(0.02 * torch.randn(WIDTH, WIDTH)) for _ in range(4))
        self.w1, self.b1 = nn.Parameter(0.02 * torch.randn(WIDTH, INNER_WIDTH)), nn.Parameter(torch.zeros(INNER_WIDTH))
        self.w2, self.b2 = nn.Parameter(0.02 * torch.randn(INNER_WIDTH, WIDTH)), nn.Parameter(torch.zeros(WIDTH))

    def forward(
        self, h: Tensor, past_key: Tensor | None, past_value: Tensor | None, tables: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, WIDTH) after (B, L, WIDTH) of keys and values -> the same, and the keys and values of L + T frames.

        tables: (2, L + T, ROTARY_SIZE) cosine and sine; mask: broadcasts to (B, HEADS, T, L + T), True = seen.
        """
        normed = F.layer_norm(h, (WIDTH,), self.norm1)
        query, key, value = normed @ self.q, normed @ self.k, normed @ self.v
        if past_key is not None and past_value is not None:
            key, value = torch.cat((past_key, key), 1), torch.cat((past_value, value), 1)
        frames = h.shape[1]
        q = rotate(by_heads(query), tables[:, -frames:])
        k = rotate(by_heads(key), tables)
        read = F.scaled_dot_product_attention(q, k, by_heads(value), attn_mask=mask)
        h = h + read.transpose(1, 2).flatten(2) @ self.o
        normed = F.layer_norm(h, (WIDTH,), self.norm2)
        h = h + F.gelu(normed @ self.w1 + self.b1) @ self.w2 + self.b2
        return h, key, value


class Encoder(nn.Module):
    """Waveform to 24 ms frames. `forward` is the masked whole (training), `step` one chunk with caches (live).

    Satisfies `nets.streaming.StreamingEncoder`.
    """

    FRAME_SAMPLES: ClassVar[int] = FRAME_SAMPLES
    LOOKAHEAD_SAMPLES: ClassVar[int] = LOOKAHEAD_SAMPLES
    width: int = WIDTH
    added_width: int = WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Parameter(0.02 * torch.randn(WIDTH, 1, 127))
        self.conv2 = nn.Parameter(0.02 * torch.randn(2 * WIDTH, WIDTH, 7))
        self.conv3 = nn.Parameter(0.02 * torch.randn(WIDTH, 2 * WIDTH, 3))
        self.bias2, self.bias3 = nn.Parameter(torch.zeros(2 * WIDTH)), nn.Parameter(torch.zeros(WIDTH))
        self.gain, self.shift = nn.Parameter(torch.ones(WIDTH, 1)), nn.Parameter(torch.zeros(WIDTH, 1))
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = nn.Parameter(torch.ones(WIDTH))

    def load_pretrained(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        """Take the weights of `onnx_export.pretrained.pretrained_encoder`.

        Raises:
            RuntimeError: a weight is missing or has another shape.
        """
        self.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})

    def start(self, streams: int, left_frames: int) -> EncoderState:
        """The state before the first sample."""
        return EncoderState.start(streams, left_frames)

    def whole(self, samples: Tensor) -> Tensor:
        """(B, S) -> (B, T, WIDTH) with full context and whole-clip statistics: the teacher."""
        h = torch.tanh(F.conv1d(samples[:, None], self.conv1, stride=64))
        mean, variance = h.mean((1, 2), keepdim=True), h.var((1, 2), unbiased=False, keepdim=True)
        h = self._convolved(h, mean, variance)
        frames = h.shape[1]
        mask = torch.ones(frames, frames, dtype=torch.bool, device=h.device)
        return self._attended(h, rotary_tables(frames, h.device), mask)

    def forward(self, samples: Tensor, chunk_frames: int, left_frames: int, added: Tensor | None = None) -> Tensor:
        """The masked whole: what `step` gives chunk by chunk.

        Args:
            samples: (B, K * chunk_frames * FRAME_SAMPLES + LOOKAHEAD_SAMPLES) float32 at 16 kHz.
            chunk_frames: frames a chunk (M).
            left_frames: frames before the chunk that its frames see, in every layer (L).
            added: (B, K * chunk_frames, WIDTH) put on the input of the first layer (the spatial embedding).

        Returns:
            (B, K * chunk_frames, WIDTH).

        Raises:
            ValueError: not a whole number of chunks.
        """
        streams = samples.shape[0]
        hop = chunk_frames * FRAME_SAMPLES
        chunks, rest = divmod(samples.shape[1] - LOOKAHEAD_SAMPLES, hop)
        if rest or chunks < 1:
            raise ValueError(
                f"expected k * {hop} + {LOOKAHEAD_SAMPLES} samples for chunks of {chunk_frames}, got {samples.shape[1]}"
            )
        pieces = samples.unfold(1, hop + LOOKAHEAD_SAMPLES, hop).reshape(streams * chunks, 1, -1)
        h = torch.tanh(F.conv1d(pieces, self.conv1, stride=64))
        own = h[:, :, : STEPS_PER_FRAME * chunk_frames]
        sums = torch.stack((own.sum(1), own.square().sum(1)), 1)  # (B K, 2, 6 M)
        sums = sums.view(streams, chunks, 2, -1).transpose(1, 2).flatten(2)  # (B, 2, 6 M K)
        left = STEPS_PER_FRAME * left_frames
        running = F.pad(sums.double().cumsum(-1), (1, 0))
        ends = torch.arange(1, chunks + 1, device=h.device) * STEPS_PER_FRAME * chunk_frames
        starts = (ends - STEPS_PER_FRAME * chunk_frames - left).clamp(min=0)
        total = (running[..., ends] - running[..., starts]).to(h.dtype)  # (B, 2, K)
        mean, variance = _statistics(total[:, 0], total[:, 1], (ends - starts).to(h.dtype))
        h = self._convolved(h, mean.view(-1, 1, 1), variance.view(-1, 1, 1))
        h = h.reshape(streams, chunks * chunk_frames, WIDTH)
        if added is not None:
            h = h + added
        return self._attended(
            h, rotary_tables(h.shape[1], h.device), chunk_mask(h.shape[1], chunk_frames, left_frames, h.device)
        )

    def step(self, samples: Tensor, state: EncoderState, added: Tensor | None = None) -> tuple[Tensor, EncoderState]:
        """One chunk: (B, M * FRAME_SAMPLES + LOOKAHEAD_SAMPLES) -> (B, M, WIDTH) and the state after it.

        The look-ahead samples are fed again as the first of the next chunk.
        """
        left = state.key.shape[2]
        h = torch.tanh(F.conv1d(samples[:, None], self.conv1, stride=64))
        frames = (samples.shape[1] - LOOKAHEAD_SAMPLES) // FRAME_SAMPLES
        own = h[:, :, : STEPS_PER_FRAME * frames]
        norm = torch.cat((state.norm, torch.stack((own.sum(1), own.square().sum(1)), 1)), -1)
        known = state.frames.clamp(max=left)
        count = (STEPS_PER_FRAME * (known + frames)).to(h.dtype)
        total = norm.sum(-1)
        mean, variance = _statistics(total[:, 0], total[:, 1], count)
        h = self._convolved(h, mean.view(-1, 1, 1), variance.view(-1, 1, 1))
        if added is not None:
            h = h + added
        position = torch.arange(left + frames, device=h.device)
        mask = (position[None] >= left - known[:, None])[:, None, None]  # (B, 1, 1, L + M)
        tables = rotary_tables(left + frames, h.device)
        keys, values = [], []
        for number, layer in enumerate(self.layers):
            h, key, value = layer(h, state.key[number], state.value[number], tables, mask)
            keys.append(key[:, frames:])
            values.append(value[:, frames:])
        after = EncoderState(
            torch.stack(keys), torch.stack(values), norm[..., STEPS_PER_FRAME * frames :], state.frames + frames
        )
        return F.layer_norm(h, (WIDTH,), self.norm), after

    def _convolved(self, h: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """(N, WIDTH, steps) -> (N, frames, WIDTH)."""
        h = (h - mean) / (variance + 1e-5).sqrt() * self.gain + self.shift
        h = F.gelu(F.conv1d(h, self.conv2, self.bias2, stride=3))
        return F.gelu(F.conv1d(h, self.conv3, self.bias3, stride=2)).transpose(1, 2)

    def _attended(self, h: Tensor, tables: Tensor, mask: Tensor) -> Tensor:
        for layer in self.layers:
            h, _, _ = layer(h, None, None, tables, mask)
        return F.layer_norm(h, (WIDTH,), self.norm)


def _statistics(total: Tensor, square: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of a window of the first convolution, drawn towards the prior while it is short."""
    count, prior = steps * WIDTH, PRIOR_STEPS * WIDTH
    mean = total / (count + prior)
    variance = (square - total**2 / count + PRIOR_VARIANCE * prior) / (count + prior)
    return mean, variance


def chunk_mask(frames: int, chunk_frames: int, left_frames: int, device: torch.device) -> Tensor:
    """(T, T), True where a frame sees another: its own chunk and `left_frames` before it."""
    position = torch.arange(frames, device=device)
    start = position // chunk_frames * chunk_frames
    return (position[None] < start[:, None] + chunk_frames) & (position[None] >= start[:, None] - left_frames)


def rotary_tables(positions: int, device: torch.device) -> Tensor:
    """(2, positions, ROTARY_SIZE): cosine and sine, each angle twice in a row."""
    exponent = torch.arange(0, ROTARY_SIZE, 2, device=device).float() / ROTARY_SIZE
    angle = torch.outer(torch.arange(positions, device=device).float(), 10_000.0**-exponent)
    return torch.stack((angle.cos(), angle.sin())).repeat_interleave(2, -1)


def rotate(x: Tensor, tables: Tensor) -> Tensor:
    """Turn the first ROTARY_SIZE dimensions of (B, HEADS, T, HEAD_SIZE) by their positions."""
    head, tail = x[..., :ROTARY_SIZE], x[..., ROTARY_SIZE:]
    turned = torch.stack((-head[..., 1::2], head[..., 0::2]), -1).flatten(-2)
    return torch.cat((head * tables[0] + turned * tables[1], tail), -1)


def by_heads(x: Tensor) -> Tensor:
    """(B, T, WIDTH) -> (B, HEADS, T, HEAD_SIZE)."""
    split: Tensor = x.unflatten(-1, (HEADS, HEAD_SIZE))
    return split.transpose(1, 2)
