"""The t-SOT transducer: both virtual channels' words as one row, written frame by frame.

Stateless predictor (2109.07513) that sees the last two tokens of the channel that is written on, tanh joiner, and a
CTC head that helps the encoder to learn. It reads the encoder's frames three at a time: 72 ms are fine enough for
tokens, divide a chunk of 27, and make loss and search three times cheaper. `FrameReader`, `Predictor` and `Joiner`
are exported each as a graph of its own; `streaming_models.search` runs them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from streaming_models.nets.heads import HIDDEN_WIDTH
from streaming_models.nets.losses import check_lengths, lattice_loss, node_log_probs, transducer_loss
from streaming_models.search import PLACES, FloatArray, IntArray, Symbols

WIDTH = 256
FRAMES_READ = 3
"""Encoder frames in one frame of the transducer."""
SLAB_FRAMES = 16
"""Frames whose logits are held at once in training."""


class FrameReader(nn.Module):
    """Encoder frames -> frames of the transducer; `reads` of them make one."""

    def __init__(self, hidden_width: int = HIDDEN_WIDTH, width: int = WIDTH, reads: int = FRAMES_READ) -> None:
        super().__init__()
        self.reads = reads
        self.norm = nn.LayerNorm(hidden_width)
        self.project = nn.Linear(reads * hidden_width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, hidden_width), T a multiple of `reads` -> (B, T / reads, width)."""
        batch, frames, width = hidden.shape
        together = self.norm(hidden).reshape(batch, frames // self.reads, self.reads * width)
        read: Tensor = self.project(together)
        return read


class Predictor(nn.Module):
    """What the last two tokens and the place in the row (`search.History`) say about the next one."""

    def __init__(self, vocabulary: int, width: int = WIDTH) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.place = nn.Embedding(PLACES, width)
        self.join = nn.Linear(2 * width, width)
        self.out = nn.Linear(width, width)

    def forward(self, context: Tensor, place: Tensor) -> Tensor:
        """(..., 2) int64 tokens, older first, and (...) int64 of 0 to 3 -> (..., width)."""
        inner = self.join(self.token(context).flatten(-2)) + self.place(place)
        predicted: Tensor = self.out(F.relu(inner))
        return predicted


class Joiner(nn.Module):
    """A frame and a prediction -> the next token."""

    def __init__(self, vocabulary: int, width: int = WIDTH) -> None:
        super().__init__()
        self.out = nn.Linear(width, vocabulary)

    def forward(self, frames: Tensor, predicted: Tensor) -> Tensor:
        """(..., width) each, shapes that broadcast -> (..., vocabulary) logits."""
        logits: Tensor = self.out(torch.tanh(frames + predicted))
        return logits


@dataclass(frozen=True)
class TransducerLosses:
    """Scalars, per token: a row counts as its tokens and its end."""

    transducer: Tensor
    ctc: Tensor


class Transducer(nn.Module):
    """The decoder of an encoder's frames, with its losses."""

    def __init__(
        self,
        vocabulary: int,
        hidden_width: int = HIDDEN_WIDTH,
        width: int = WIDTH,
        reads: int = FRAMES_READ,
        symbols: Symbols | None = None,
    ) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.symbols = symbols or Symbols()
        self.reader = FrameReader(hidden_width, width, reads)
        self.predictor = Predictor(vocabulary, width)
        self.joiner = Joiner(vocabulary, width)
        self.ctc = nn.Sequential(nn.LayerNorm(hidden_width), nn.Linear(hidden_width, vocabulary))

    def frames(self, hidden: Tensor) -> Tensor:
        """(B, T, hidden_width) -> (B, ceil(T / reads), width); an unfinished last frame is filled up with zeros."""
        missing = -hidden.shape[1] % self.reader.reads
        read: Tensor = self.reader(F.pad(hidden, (0, 0, 0, missing)))
        return read

    def loss(
        self,
        hidden: Tensor,
        hidden_lengths: Tensor,
        tokens: Tensor,
        channels: Tensor,
        token_lengths: Tensor,
        delay_lambda: float = 0.0,
        slab_frames: int | None = SLAB_FRAMES,
    ) -> TransducerLosses:
        """Transducer and CTC loss of a batch.

        Args:
            hidden: (B, T, hidden_width). hidden_lengths: (B,) int64, 1 to T.
            tokens, channels: (B, U) int64 of `sot.Labels`, filled up with blank and with anything.
            token_lengths: (B,) int64, 0 to U.
            delay_lambda: see `transducer_loss`; per frame of the transducer.
            slab_frames: frames whose logits are held at once; the rest is computed anew for the gradient. None: all
                at once, which is faster where memory allows and lets torchaudio's kernel do it on a CUDA device.

        Raises:
            ValueError: shapes or lengths that do not fit, or channels that contradict the tokens.
        """
        blank = self.symbols.blank
        check_lengths(hidden.shape[1], self.vocabulary, tokens, hidden_lengths, token_lengths, blank)
        context, place = contexts(tokens, channels, token_lengths, self.symbols)
        real = torch.arange(hidden.shape[1], device=hidden.device) < hidden_lengths[:, None]
        hidden = torch.where(real[..., None], hidden, 0.0)
        frames, predicted = self.frames(hidden), self.predictor(context, place)
        frame_lengths = (hidden_lengths + self.reader.reads - 1) // self.reader.reads
        if slab_frames is None:
            logits = self.joiner(frames[:, :, None], predicted[:, None])
            each = transducer_loss(logits, tokens, frame_lengths, token_lengths, blank, delay_lambda)
        else:
            slabs = [
                checkpoint(self._nodes, slab, predicted, tokens, use_reentrant=False)
                for slab in frames.split(slab_frames, 1)
            ]
            blanks, emitted = (torch.cat(parts, 1) for parts in zip(*slabs, strict=True))
            each = lattice_loss(blanks, emitted, frame_lengths, token_lengths, delay_lambda)
        counted = (token_lengths + 1).sum()
        # At the encoder's own rate: two fast talkers at once can have more tokens than the transducer has frames.
        log_probs = self.ctc(hidden).float().log_softmax(-1).transpose(0, 1)  # (T, B, V)
        ctc = F.ctc_loss(
            log_probs, tokens, hidden_lengths, token_lengths, blank=blank, reduction="sum", zero_infinity=True
        )
        return TransducerLosses(each.sum() / counted, ctc / counted)

    def _nodes(self, slab: Tensor, predicted: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return node_log_probs(self.joiner(slab[:, :, None], predicted[:, None]), tokens, self.symbols.blank)

    def predict(self, context: IntArray, place: IntArray) -> FloatArray:
        """`search.Networks.predict`."""
        device = self.joiner.out.weight.device
        with torch.no_grad():
            return _array(self.predictor(torch.from_numpy(context).to(device), torch.from_numpy(place).to(device)))

    def joint(self, frames: FloatArray, predicted: FloatArray) -> FloatArray:
        """`search.Networks.joint`."""
        device = self.joiner.out.weight.device
        with torch.no_grad():
            return _array(self.joiner(torch.from_numpy(frames).to(device), torch.from_numpy(predicted).to(device)))


def _array(tensor: Tensor) -> FloatArray:
    array: FloatArray = tensor.float().cpu().numpy().astype(np.float32, copy=False)
    return array


def contexts(tokens: Tensor, channels: Tensor, token_lengths: Tensor, symbols: Symbols) -> tuple[Tensor, Tensor]:
    """What `search.History` gives after every number of tokens, for a whole batch.

    Args:
        tokens, channels: (B, U) int64. token_lengths: (B,).

    Returns:
        (B, U + 1, 2) tokens, older first, and (B, U + 1) places; anything beyond a row's length.

    Raises:
        ValueError: shapes that do not fit, or channels that are not those that the changes lead to.
    """
    if channels.shape != tokens.shape:
        raise ValueError(f"expected channels {tuple(tokens.shape)} like tokens, got {tuple(channels.shape)}")
    changed = tokens == symbols.change
    expected = changed.cumsum(1) % 2
    real = torch.arange(tokens.shape[1], device=tokens.device) < token_lengths[:, None]
    if bool(((channels != expected) & real).any()):
        raise ValueError("channels contradict the change tokens: a row begins on 0 and every change leads to the other")
    written = F.pad(tokens, (1, 0), value=symbols.blank)  # (B, U + 1): [u] is the u-th token, [0] nothing
    if not symbols.own_history:
        older = F.pad(written[:, :-1], (1, 0), value=symbols.blank)
        return torch.stack((older, written), -1), torch.zeros_like(written)
    on = F.pad(expected, (1, 0))  # (B, U + 1): the channel after u tokens
    numbers = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
    newer, older = torch.zeros_like(on), torch.zeros_like(on)
    for channel in (0, 1):
        own = torch.where(~changed & (expected == channel), numbers, 0)
        last = F.pad(own.cummax(1).values if own.shape[1] else own, (1, 0))  # (B, U + 1): 0 where there is none
        before = last.gather(1, (last - 1).clamp(min=0))  # the last of this channel before `last`
        newer, older = torch.where(on == channel, last, newer), torch.where(on == channel, before, older)
    context = torch.stack((written.gather(1, older), written.gather(1, newer)), -1)
    return context, 2 * on + F.pad(changed.long(), (1, 0))
