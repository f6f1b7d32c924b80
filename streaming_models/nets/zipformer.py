"""Zipformer of icefall's layout, streaming: parameters have icefall's names and shapes, so its checkpoints load.

Source: Yao et al., "Zipformer: A faster and better encoder for automatic speech recognition", ICLR 2024 (2310.11230);
names and shapes follow icefall `egs/librispeech/ASR/zipformer` (k2-fsa, Apache-2.0), causal variant. Features are
those of its recipes: Kaldi log-mel, 80 bins of 20 to 7600 Hz, povey window, samples in [-1, 1].

Left out, as it carries no weights: what icefall does only in training (Balancer, Whiten, ScheduledFloat, dropout,
layer skipping, feature masks, limits on single parameters). The same code runs whole and chunk by chunk: the whole is
one long chunk after an empty state, with a mask and with convolutions that know where chunks begin.

Rates: features at 10 ms, `encoder_embed` halves to 20 ms ("steps" here), each stack may run slower and comes back to
20 ms, the output is at 40 ms ("frames"). Frame t begins at sample 640 t. Features lie as Kaldi's snip_edges has them,
120 samples (7.5 ms) later than in icefall's recipes: theirs mirror the clip's edge, which a stream does not have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streaming_models.fbank import FFT_SIZE, MEL_BINS, POWER_FLOOR, PRE_EMPHASIS, SHIFT_SAMPLES, mel_matrix
from streaming_models.fbank import FRAME_SAMPLES as WINDOW_SAMPLES
from streaming_models.nets.encoder import chunk_mask

Module = TypeVar("Module", bound=nn.Module)

HIGH_HZ = 7_600.0
"""Upper edge of the highest mel bin: icefall's -400 below Nyquist."""
STEPS_PER_FRAME = 2
"""Steps of 20 ms in a frame of 40 ms: icefall's output_downsampling_factor."""
FEATURES_PER_FRAME = 4
FEATURES_AHEAD = 13
"""Features that a chunk needs after its own: 7 for the convolutions, 3 steps for ConvNeXt."""
EMBED_CHANNELS = (8, 32, 128)
EMBED_BINS = ((MEL_BINS - 1) // 2 - 1) // 2
"""Mel bins left after the convolutions (19)."""
NEXT_KERNEL = 7
QUERY_SIZE, POSITION_SIZE, VALUE_SIZE = 32, 4, 12
"""Per head: query and key, query for the position, value."""
POSITION_WIDTH = 48
"""Of a relative position's encoding."""
SWOOSH_L, SWOOSH_R = (4.0, 0.035), (1.0, 0.313261687)
"""Shift and offset of the two activations."""


@dataclass(frozen=True)
class ZipformerConfig:
    """Sizes of each stack; the defaults are icefall's (medium, 65 M). Sizes per head are the same in all its models."""

    downsampling: tuple[int, ...] = (1, 2, 4, 8, 4, 2)
    layers: tuple[int, ...] = (2, 2, 3, 4, 3, 2)
    widths: tuple[int, ...] = (192, 256, 384, 512, 384, 256)
    inner_widths: tuple[int, ...] = (512, 768, 1024, 1536, 1024, 768)
    """icefall's feedforward_dim; the first and third of a layer have 3/4 and 5/4 of it."""
    heads: tuple[int, ...] = (4, 4, 4, 8, 4, 4)
    kernels: tuple[int, ...] = (31, 31, 15, 15, 15, 31)

    @property
    def chunk_multiple(self) -> int:
        """Chunks and left context must be a multiple of this many frames, so that every stack cuts them evenly."""
        return math.lcm(STEPS_PER_FRAME, *self.downsampling) // STEPS_PER_FRAME


MEDIUM = ZipformerConfig()
SMALL = ZipformerConfig(
    layers=(2, 2, 2, 2, 2, 2), widths=(192, 256, 256, 256, 256, 256), inner_widths=(512, 768, 768, 768, 768, 768)
)


@dataclass
class LayerState:
    """What a layer carries from chunk to chunk; W its width, L its left context in its own steps.

    key: (B, L, heads * QUERY_SIZE); gated: (B, L, 3 W / 4), of the attention without softmax of its own; value1,
    value2: (B, L, heads * VALUE_SIZE); conv1, conv2: (B, W, kernel // 2), inputs of the depthwise convolutions.
    """

    key: Tensor
    gated: Tensor
    value1: Tensor
    value2: Tensor
    conv1: Tensor
    conv2: Tensor


States = list[LayerState]


@dataclass
class ZipformerState:
    """Everything a stream carries from chunk to chunk; zeros are the start.

    embed: (B, 128, 3, EMBED_BINS) last steps before ConvNeXt; layers: of every layer in turn; frames: (B,) so far;
    left_frames: the left context that the caches are cut for.
    """

    embed: Tensor
    layers: States
    frames: Tensor
    left_frames: int


def swoosh(x: Tensor, kind: tuple[float, float]) -> Tensor:
    """log(1 + exp(x - shift)) - 0.08 x - offset."""
    shift, offset = kind
    return F.softplus(x - shift) - 0.08 * x - offset


class BiasNorm(nn.Module):
    """Divides by the root mean square about a learned point; one learned gain."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.log_scale, self.bias = nn.Parameter(torch.tensor(1.0)), nn.Parameter(1e-4 * torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., W) -> the same."""
        gain = (x - self.bias).square().mean(-1, keepdim=True).rsqrt() * self.log_scale.exp()
        return x * gain


class Bypass(nn.Module):
    """Between what came in (0) and what a module made of it (1), by channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bypass_scale = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Twice (..., W) -> the same."""
        return before + (after - before) * self.bypass_scale


class ConvNeXt(nn.Module):
    """Depthwise 7 x 7 and a pointwise bottleneck turned outwards, over time and mel bins."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise_conv = nn.Conv2d(channels, channels, NEXT_KERNEL, groups=channels, padding=(0, NEXT_KERNEL // 2))
        self.pointwise_conv1 = nn.Conv2d(channels, 3 * channels, 1)
        self.pointwise_conv2 = scaled(nn.Conv2d(3 * channels, channels, 1), 0.01)

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, T + 3, bins) after (B, C, 3, bins) -> (B, C, T, bins), and the past of what follows step T."""
        steps = x.shape[2] - NEXT_KERNEL // 2
        seen = torch.cat((past, x), 2)
        y = self.pointwise_conv2(swoosh(self.pointwise_conv1(self.depthwise_conv(seen)), SWOOSH_L))
        return x[:, :, :steps] + y, seen[:, :, steps : steps + NEXT_KERNEL // 2]


class Subsampling(nn.Module):
    """icefall's Conv2dSubsampling: features at 10 ms to steps of 20 ms."""

    def __init__(self, width: int) -> None:
        super().__init__()
        first, second, third = EMBED_CHANNELS
        # Places 1 to 3, 5, 6, 8 and 9 hold icefall's activations and Balancers: its numbers are kept, without them.
        self.conv = nn.ModuleDict(
            {
                "0": nn.Conv2d(1, first, 3, padding=(0, 1)),
                "4": nn.Conv2d(first, second, 3, stride=2),
                "7": nn.Conv2d(second, third, 3, stride=(1, 2)),
            }
        )
        self.convnext = ConvNeXt(third)
        self.out = nn.Linear(third * EMBED_BINS, width)
        self.out_norm = BiasNorm(width)

    def forward(self, features: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 2 T + FEATURES_AHEAD, MEL_BINS) -> (B, T, width), and the past of the next chunk."""
        x = features[:, None]
        for conv in self.conv.values():
            x = swoosh(conv(x), SWOOSH_R)
        x, past = self.convnext(x, past)
        return self.out_norm(self.out(x.transpose(1, 2).flatten(2))), past


class AttentionWeights(nn.Module):
    """Who reads whom, for all attentions of a layer: content and relative position, each with its own query."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj = scaled(nn.Linear(width, heads * (2 * QUERY_SIZE + POSITION_SIZE)), QUERY_SIZE**-0.25)
        self.linear_pos = scaled(nn.Linear(POSITION_WIDTH, heads * POSITION_SIZE, bias=False), 0.05)

    def forward(self, x: Tensor, past: Tensor, positions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, W) after keys (B, L, heads * QUERY_SIZE) -> weights (B, heads, T, L + T), and the next chunk's past.

        positions: (L + 2 T - 1, POSITION_WIDTH) of `relative_positions`; mask: broadcasts to the weights, True = seen.
        """
        steps = x.shape[1]
        content = self.heads * QUERY_SIZE
        query, key, place = self.in_proj(x).split((content, content, self.heads * POSITION_SIZE), -1)
        key = torch.cat((past, key), 1)
        scores = by_heads(query, self.heads) @ by_heads(key, self.heads).transpose(2, 3)
        offsets = by_heads(self.linear_pos(positions)[None], self.heads)  # (1, heads, L + 2 T - 1, POSITION_SIZE)
        by_offset = by_heads(place, self.heads) @ offsets.transpose(2, 3)  # (B, heads, T, L + 2 T - 1)
        # Row t needs the offsets of its keys, s - L - t: place s - t + T - 1 of the encodings.
        t, s = (torch.arange(n, device=x.device) for n in scores.shape[2:])
        scores = scores + by_offset.gather(3, (s[None] - t[:, None] + steps - 1).expand_as(scores))
        return scores.masked_fill(~mask, -math.inf).softmax(-1), key[:, steps:]


class SelfAttention(nn.Module):
    """Reads values by given weights."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.in_proj = nn.Linear(width, heads * VALUE_SIZE)
        self.out_proj = scaled(nn.Linear(heads * VALUE_SIZE, width), 0.05)

    def forward(self, x: Tensor, weights: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, W) -> the same, and the values that the next chunk sees."""
        value = torch.cat((past, self.in_proj(x)), 1)
        read = weights @ by_heads(value, weights.shape[1])
        return self.out_proj(read.transpose(1, 2).flatten(2)), value[:, x.shape[1] :]


class NonlinAttention(nn.Module):
    """Reads gated values by the first head's weights, and gates what was read."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = 3 * width // 4
        self.in_proj, self.out_proj = nn.Linear(width, 3 * inner), scaled(nn.Linear(inner, width), 0.05)

    def forward(self, x: Tensor, weights: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, W) -> the same, and the gated values that the next chunk sees."""
        gate, value, after = self.in_proj(x).chunk(3, -1)
        value = torch.cat((past, value * gate.tanh()), 1)
        return self.out_proj((weights[:, 0] @ value) * after), value[:, x.shape[1] :]


class FeedForward(nn.Module):
    """Two linear maps with SwooshL between."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.in_proj, self.out_proj = nn.Linear(width, inner), scaled(nn.Linear(inner, width), 0.1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, W) -> the same."""
        out: Tensor = self.out_proj(swoosh(self.in_proj(x), SWOOSH_L))
        return out


class ChunkConv(nn.Module):
    """Depthwise convolution that looks back freely and ahead to the end of the chunk.

    The sum of a causal one of half the width and of a whole one within each chunk, which is scaled by how near its
    output lies to the chunk's edges, where it sees zeros.
    """

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.causal_conv = nn.Conv1d(width, width, kernel // 2 + 1, groups=width)
        self.chunkwise_conv = nn.Conv1d(width, width, kernel, groups=width, padding=kernel // 2)
        self.chunkwise_conv_scale = nn.Parameter(torch.zeros(2, width, kernel))

    def forward(self, x: Tensor, past: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
        """(B, W, K * chunk) after (B, W, kernel // 2) -> the same, and the past of the next chunk."""
        seen = torch.cat((past, x), 2)
        streams, width, steps = x.shape
        chunks = x.unflatten(2, (-1, chunk)).transpose(1, 2).flatten(0, 1)  # (B K, W, chunk)
        within = self.chunkwise_conv(chunks) * self._scale(chunk)
        within = within.view(streams, -1, width, chunk).transpose(1, 2).flatten(2)
        return self.causal_conv(seen) + within, seen[:, :, steps:]

    def _scale(self, chunk: int) -> Tensor:
        """(W, chunk): 1, corrected over a kernel's length from each edge."""
        left, right = self.chunkwise_conv_scale
        room = chunk - left.shape[1]
        # Negative padding cuts: a chunk shorter than the kernel takes the part of it that lies at its edge.
        return 1.0 + F.pad(left, (0, room)) + F.pad(right, (room, 0))


class Convolution(nn.Module):
    """Gated depthwise convolution over time."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.in_proj = nn.Linear(width, 2 * width)
        self.depthwise_conv = ChunkConv(width, kernel)
        self.out_proj = scaled(nn.Linear(width, width), 0.05)

    def forward(self, x: Tensor, past: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
        """(B, T, W) -> the same, and the past of the next chunk."""
        x, past = self.depthwise_conv(F.glu(self.in_proj(x), -1).transpose(1, 2), past, chunk)
        return self.out_proj(swoosh(x.transpose(1, 2), SWOOSH_R)), past


class Layer(nn.Module):
    """One Zipformer block: attention weights once, read by three modules, between feed-forwards and convolutions."""

    def __init__(self, width: int, inner: int, heads: int, kernel: int) -> None:
        super().__init__()
        self.bypass, self.bypass_mid = Bypass(width), Bypass(width)
        self.self_attn_weights = AttentionWeights(width, heads)
        self.self_attn1, self.self_attn2 = SelfAttention(width, heads), SelfAttention(width, heads)
        self.feed_forward1 = FeedForward(width, inner * 3 // 4)
        self.feed_forward2 = FeedForward(width, inner)
        self.feed_forward3 = FeedForward(width, inner * 5 // 4)
        self.nonlin_attention = NonlinAttention(width)
        self.conv_module1, self.conv_module2 = Convolution(width, kernel), Convolution(width, kernel)
        # Nothing reads it, in icefall neither; its checkpoints have it.
        self.bypass_scale = nn.Parameter(torch.full((width,), 0.5), requires_grad=False)
        self.norm = BiasNorm(width)

    def forward(
        self, x: Tensor, past: LayerState, positions: Tensor, mask: Tensor, chunk: int
    ) -> tuple[Tensor, LayerState]:
        """(B, T, W) -> the same, and the layer's state after it; chunk: in the layer's steps."""
        before = x
        weights, key = self.self_attn_weights(x, past.key, positions, mask)
        x = x + self.feed_forward1(x)
        read, gated = self.nonlin_attention(x, weights, past.gated)
        x = x + read
        read, value1 = self.self_attn1(x, weights, past.value1)
        x = x + read
        heard, conv1 = self.conv_module1(x, past.conv1, chunk)
        x = x + heard
        x = self.bypass_mid(before, x + self.feed_forward2(x))
        read, value2 = self.self_attn2(x, weights, past.value2)
        x = x + read
        heard, conv2 = self.conv_module2(x, past.conv2, chunk)
        x = x + heard
        x = self.bypass(before, self.norm(x + self.feed_forward3(x)))
        return x, LayerState(key, gated, value1, value2, conv1, conv2)


class Stack(nn.Module):
    """Layers of one width at one rate."""

    def __init__(self, layers: int, width: int, inner: int, heads: int, kernel: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(width, inner, heads, kernel) for _ in range(layers))

    def forward(self, x: Tensor, states: list[LayerState], mask: Tensor, chunk: int) -> tuple[Tensor, list[LayerState]]:
        """(B, T, W) -> the same, and its layers' states; mask: broadcasts to (B, heads, T, L + T)."""
        positions = relative_positions(states[0].key.shape[1], x.shape[1], x.device)
        after = []
        for layer, state in zip(self.layers, states, strict=True):
            x, new = layer(x, state, positions, mask, chunk)
            after.append(new)
        return x, after


class Downsample(nn.Module):
    """Weighted mean of every few steps."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(factor))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T * factor, W) -> (B, T, W)."""
        steps: Tensor = x.unflatten(1, (-1, len(self.bias)))
        return self.bias.softmax(0) @ steps


class SlowerStack(nn.Module):
    """A stack at a fraction of the rate, its output held for each of the faster steps."""

    def __init__(self, factor: int, stack: Stack, width: int) -> None:
        super().__init__()
        self.factor = factor
        self.downsample, self.encoder, self.out_combiner = Downsample(factor), stack, Bypass(width)

    def forward(self, x: Tensor, states: list[LayerState], mask: Tensor, chunk: int) -> tuple[Tensor, list[LayerState]]:
        """As `Stack`, in the faster steps; mask and chunk too."""
        slow = mask[..., :: self.factor, :: self.factor]
        y, after = self.encoder(self.downsample(x), states, slow, chunk // self.factor)
        return self.out_combiner(x, y.repeat_interleave(self.factor, 1)), after


class Stacks(nn.Module):
    """icefall's Zipformer2: the stacks in turn, each channel from the last that has it, at half the rate."""

    def __init__(self, config: ZipformerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoders = nn.ModuleList()
        sizes = zip(config.layers, config.widths, config.inner_widths, config.heads, config.kernels, strict=True)
        for factor, size in zip(config.downsampling, sizes, strict=True):
            stack = Stack(*size)
            self.encoders.append(stack if factor == 1 else SlowerStack(factor, stack, size[1]))
        self.downsample_output = Downsample(STEPS_PER_FRAME)

    def forward(self, x: Tensor, states: list[LayerState], mask: Tensor, chunk: int) -> tuple[Tensor, list[LayerState]]:
        """(B, 2 T, widths[0]) -> (B, T, max(widths)), and all layers' states; mask and chunk in steps of 20 ms."""
        whole, after = x[..., :0], States()
        for stack, count, width in zip(self.encoders, self.config.layers, self.config.widths, strict=True):
            x = F.pad(x, (0, width - x.shape[-1]))  # negative padding cuts
            x, new = stack(x, states[len(after) : len(after) + count], mask, chunk)
            whole = torch.cat((x, whole[..., width:]), -1)
            after += new
        return self.downsample_output(whole), after


class Zipformer(nn.Module):
    """Waveform to 40 ms frames; satisfies `nets.streaming.StreamingEncoder`."""

    FRAME_SAMPLES: ClassVar[int] = FEATURES_PER_FRAME * SHIFT_SAMPLES
    LOOKAHEAD_SAMPLES: ClassVar[int] = (FEATURES_AHEAD - 1) * SHIFT_SAMPLES + WINDOW_SAMPLES
    mel: Tensor
    window: Tensor

    def __init__(self, config: ZipformerConfig = MEDIUM) -> None:
        super().__init__()
        self.config = config
        self.width, self.added_width = max(config.widths), config.widths[0]
        self.encoder_embed, self.encoder = Subsampling(config.widths[0]), Stacks(config)
        povey = torch.hann_window(WINDOW_SAMPLES, periodic=False) ** 0.85
        self.register_buffer("window", povey, persistent=False)
        self.register_buffer("mel", torch.tensor(mel_matrix(HIGH_HZ)), persistent=False)

    def load_pretrained(self, weights: Mapping[str, Tensor]) -> None:
        """Take the `model` of an icefall checkpoint: `encoder_embed.*` and `encoder.*`, whatever else it has aside.

        Raises:
            RuntimeError: a weight is missing, unknown or has another shape; says which names were expected.
        """
        found = {n: v for n, v in weights.items() if n.startswith(("encoder_embed.", "encoder."))}
        wanted = self.state_dict()
        wrong = [
            f"expected {name} {tuple(value.shape)}, found {tuple(found[name].shape) if name in found else 'none'}"
            for name, value in wanted.items()
            if name not in found or found[name].shape != value.shape
        ]
        wrong += [f"found {name}, expected no such name" for name in found if name not in wanted]
        if wrong:
            raise RuntimeError(f"not the weights of this Zipformer ({len(wrong)} differ): " + "; ".join(wrong[:8]))
        self.load_state_dict(found)

    def start(self, streams: int, left_frames: int) -> ZipformerState:
        """The state before the first sample, on the encoder's device.

        Raises:
            ValueError: a left context that not every stack can have.
        """
        self._check_multiple("left context", left_frames)
        config, zeros = self.config, self.encoder_embed.out.weight.new_zeros
        layers = []
        for factor, count, width, heads, kernel in zip(
            config.downsampling, config.layers, config.widths, config.heads, config.kernels, strict=True
        ):
            left, back = STEPS_PER_FRAME * left_frames // factor, kernel // 2
            sizes = {"key": heads * QUERY_SIZE, "gated": 3 * width // 4}
            sizes |= {"value1": heads * VALUE_SIZE, "value2": heads * VALUE_SIZE}
            for _ in range(count):
                seen = {name: zeros(streams, left, size) for name, size in sizes.items()}
                heard = {name: zeros(streams, width, back) for name in ("conv1", "conv2")}
                layers.append(LayerState(**seen, **heard))
        embed = zeros(streams, EMBED_CHANNELS[-1], NEXT_KERNEL // 2, EMBED_BINS)
        return ZipformerState(embed, layers, zeros(streams, dtype=torch.int64), left_frames)

    def features(self, samples: Tensor) -> Tensor:
        """(B, S) float32 in [-1, 1] at 16 kHz -> (B, T, MEL_BINS) natural-log mel energies, one row per 10 ms.

        Row t covers samples [160 t, 160 t + 400), as `streaming_models.fbank`, but with icefall's window, scale and
        highest bin.
        """
        with torch.autocast(samples.device.type, enabled=False):  # bfloat16 has too few digits for powers
            frames = samples.float().unfold(1, WINDOW_SAMPLES, SHIFT_SAMPLES)
            frames = frames - frames.mean(2, keepdim=True)
            previous = torch.cat((frames[..., :1], frames[..., :-1]), 2)
            spectrum = torch.fft.rfft((frames - PRE_EMPHASIS * previous) * self.window, FFT_SIZE)
            power = spectrum.real.square() + spectrum.imag.square()
            energies: Tensor = (power @ self.mel).clamp(min=POWER_FLOOR).log()
        return energies

    def forward(self, samples: Tensor, chunk_frames: int, left_frames: int, added: Tensor | None = None) -> Tensor:
        """The masked whole: what `step` gives chunk by chunk.

        Args:
            samples: (B, K * chunk_frames * FRAME_SAMPLES + LOOKAHEAD_SAMPLES) float32 in [-1, 1] at 16 kHz.
            chunk_frames: frames a chunk (M), a multiple of `config.chunk_multiple`; icefall's chunk_size is 2 M.
            left_frames: frames before the chunk that its frames see, in every layer, also such a multiple.
            added: (B, K * chunk_frames, added_width) put on the input of the first layer (the spatial embedding).

        Returns:
            (B, K * chunk_frames, width).

        Raises:
            ValueError: not a whole number of chunks, or sizes that not every stack can have.
        """
        self._check_multiple("left context", left_frames)
        frames = self._frames(samples, chunk_frames)
        steps, chunk = STEPS_PER_FRAME * frames, STEPS_PER_FRAME * chunk_frames
        mask = chunk_mask(steps, chunk, STEPS_PER_FRAME * left_frames, samples.device)
        hidden, _ = self._encoded(samples, self.start(samples.shape[0], 0), mask, chunk, added)
        return hidden

    def step(
        self, samples: Tensor, state: ZipformerState, added: Tensor | None = None
    ) -> tuple[Tensor, ZipformerState]:
        """One chunk: (B, M * FRAME_SAMPLES + LOOKAHEAD_SAMPLES) -> (B, M, width) and the state after it.

        The look-ahead samples are fed again as the first of the next chunk. added: (B, M, added_width).

        Raises:
            ValueError: a chunk that not every stack can have.
        """
        hop = samples.shape[1] - self.LOOKAHEAD_SAMPLES
        frames = self._frames(samples, max(1, hop // self.FRAME_SAMPLES))
        steps, left = STEPS_PER_FRAME * frames, STEPS_PER_FRAME * state.left_frames
        known = (STEPS_PER_FRAME * state.frames).clamp(max=left)
        seen = torch.arange(left + steps, device=samples.device)[None] >= left - known[:, None]
        return self._encoded(samples, state, seen[:, None, None], steps, added)

    def _encoded(
        self, samples: Tensor, state: ZipformerState, mask: Tensor, chunk: int, added: Tensor | None
    ) -> tuple[Tensor, ZipformerState]:
        h, embed = self.encoder_embed(self.features(samples), state.embed)
        if added is not None:
            h = h + added.repeat_interleave(STEPS_PER_FRAME, 1)
        h, layers = self.encoder(h, state.layers, mask, chunk)
        return h, ZipformerState(embed, layers, state.frames + h.shape[1], state.left_frames)

    def _frames(self, samples: Tensor, chunk_frames: int) -> int:
        """How many frames the samples hold, which must be whole chunks."""
        self._check_multiple("chunk", chunk_frames)
        hop = chunk_frames * self.FRAME_SAMPLES
        chunks, rest = divmod(samples.shape[1] - self.LOOKAHEAD_SAMPLES, hop)
        if rest or chunks < 1:
            raise ValueError(
                f"expected k * {hop} + {self.LOOKAHEAD_SAMPLES} samples for chunks of {chunk_frames}, "
                f"got {samples.shape[1]}"
            )
        return chunks * chunk_frames

    def _check_multiple(self, what: str, frames: int) -> None:
        if frames % self.config.chunk_multiple:
            raise ValueError(f"expected a {what} of a multiple of {self.config.chunk_multiple} frames, got {frames}")


def relative_positions(left: int, steps: int, device: torch.device) -> Tensor:
    """(L + 2 T - 1, POSITION_WIDTH): offsets from a key to the query that reads it, -(L + T - 1) to T - 1.

    Distances are squeezed twice, so that near ones differ much and far ones little; the last entry is always 1.
    """
    offset = torch.arange(1 - left - steps, steps, device=device).float()[:, None]
    squeeze = POSITION_WIDTH**0.5
    angle = squeeze * offset.sign() * (offset.abs() / squeeze).log1p() * 2 * math.pi / POSITION_WIDTH
    angle = angle.atan() * torch.arange(1, POSITION_WIDTH // 2 + 1, device=device)
    waves = torch.stack((angle.cos(), angle.sin()), -1).flatten(1)
    return torch.cat((waves[:, :-1], torch.ones_like(offset)), 1)


def by_heads(x: Tensor, heads: int) -> Tensor:
    """(B, T, heads * size) -> (B, heads, T, size)."""
    split: Tensor = x.unflatten(-1, (heads, -1))
    return split.transpose(1, 2)


def scaled(module: Module, factor: float) -> Module:
    """Start a map small, as icefall does: a fresh block then changes little of what passes it."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(factor)
    return module
