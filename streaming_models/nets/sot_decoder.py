"""Moonshine Tiny's decoder, asked twice: once for each of two virtual channels.

Serialised output training with a prompt instead of a change token: channel 1 adds a learned vector to every token's
embedding, channel 0 adds nothing. So a single talker is read exactly as by the pretrained decoder, each channel's text
stays fluent for the pretrained language model, and both are append-only. `streaming_models.sot` joins the two by time.
Only the cross-attention, the norms and that vector are trained; the rest stays the pretrained decoder's, so what ships
is small.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from streaming_models.nets.encoder import LAYERS, WIDTH, by_heads, rotary_tables, rotate

INNER_WIDTH = 4 * WIDTH
VOCABULARY = 32_768


class DecoderLayer(nn.Module):
    """Causal self-attention, cross-attention, gated MLP; pre-norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.Parameter(torch.ones(WIDTH)) for _ in range(3))
        for name in ("self", "cross"):
            matrices = {kind: nn.Parameter(0.02 * torch.randn(WIDTH, WIDTH)) for kind in "qkvo"}
            self.register_module(name, nn.ParameterDict(matrices))
        self.w1 = nn.Parameter(0.02 * torch.randn(WIDTH, 2 * INNER_WIDTH))
        self.b1 = nn.Parameter(torch.zeros(2 * INNER_WIDTH))
        self.w2, self.b2 = nn.Parameter(0.02 * torch.randn(INNER_WIDTH, WIDTH)), nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x: Tensor, hidden: Tensor, seen: Tensor, tables: Tensor) -> Tensor:
        """(B, R, U, WIDTH) reading hidden (B, T, WIDTH) -> the same; seen: (B, R, T), True = may be attended to."""
        own: Mapping[str, Tensor] = self.get_submodule("self")  # type: ignore[assignment]
        cross: Mapping[str, Tensor] = self.get_submodule("cross")  # type: ignore[assignment]
        rows, count = x.shape[1:3]
        normed = F.layer_norm(x, (WIDTH,), self.norm1).flatten(0, 1)
        q, k = rotate(by_heads(normed @ own["q"]), tables), rotate(by_heads(normed @ own["k"]), tables)
        read = F.scaled_dot_product_attention(q, k, by_heads(normed @ own["v"]), is_causal=True)
        x = x + (read.transpose(1, 2).flatten(2) @ own["o"]).unflatten(0, (-1, rows))
        # All rows of a recording ask the same keys and values.
        normed = F.layer_norm(x, (WIDTH,), self.norm2).flatten(1, 2)
        q, k, v = by_heads(normed @ cross["q"]), by_heads(hidden @ cross["k"]), by_heads(hidden @ cross["v"])
        mask = seen.repeat_interleave(count, 1)[:, None]
        read = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + (read.transpose(1, 2).flatten(2) @ cross["o"]).unflatten(1, (rows, count))
        value, gate = (F.layer_norm(x, (WIDTH,), self.norm3) @ self.w1 + self.b1).chunk(2, -1)
        return x + (F.silu(gate) * value) @ self.w2 + self.b2


class SotDecoder(nn.Module):
    """Tokens of one virtual channel from a window of the encoder's frames."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Parameter(0.02 * torch.randn(VOCABULARY, WIDTH))
        self.second = nn.Parameter(torch.zeros(WIDTH))
        self.layers = nn.ModuleList(DecoderLayer() for _ in range(LAYERS))
        self.norm = nn.Parameter(torch.ones(WIDTH))

    def load_pretrained(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        """Take the weights of `onnx_export.pretrained.pretrained_decoder`; the second channel starts as the first.

        Raises:
            RuntimeError: a weight is missing or has another shape.
            ValueError: input and output embedding differ, so this is another model.
        """
        tied = np.abs(weights["embedding"] - weights["output"].T).max() if "output" in weights else 0.0
        if tied > 1e-6:
            raise ValueError(f"expected one embedding for input and output, got two that differ by {tied}")
        state = {k: torch.tensor(v) for k, v in weights.items() if k not in ("output", "frequencies")}
        self.load_state_dict({"second": torch.zeros(WIDTH)} | state)

    def tuned(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What training changes and a release carries."""
        for name, parameter in self.named_parameters():
            if name == "second" or ".cross." in name or "norm" in name:
                yield name, parameter

    def forward(self, tokens: Tensor, voice: Tensor, hidden: Tensor, seen: Tensor) -> Tensor:
        """Teacher-forced outputs of R rows of text about each of B recordings.

        Args:
            tokens: (B, R, U) from the start token on.
            voice: (B, R) virtual channel, 0 or 1.
            hidden: (B, T, WIDTH).
            seen: (B, R, T), True for the frames of the row's window.

        Returns:
            (B, R, U, WIDTH) before the vocabulary projection (see `logits`): most positions are padding.
        """
        x = F.embedding(tokens, self.embedding) + voice[..., None, None].to(hidden.dtype) * self.second
        tables = rotary_tables(tokens.shape[-1], tokens.device)
        for layer in self.layers:
            x = layer(x, hidden, seen, tables)
        return F.layer_norm(x, (WIDTH,), self.norm)

    def logits(self, outputs: Tensor) -> Tensor:
        """(..., WIDTH) -> (..., VOCABULARY)."""
        return outputs @ self.embedding.T
