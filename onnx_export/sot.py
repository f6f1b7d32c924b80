"""The streaming encoder as an ONNX graph: one chunk of B streams with C channels each, and explicit caches.

Written node by node from the weights instead of traced from `streaming_models.nets`: torch 2.13's older exporter fails
on the encoder's `cat`, and its newer one drops the 1e-12 that keeps silence from dividing by zero; besides, what is
written here is what runs (convolutions as one matrix product over cut windows, attention and rotation as ORT's own
kernels, int8 where `onnx_export.quantize` says so). `onnx_export.parity` holds it to the torch nets.

This file imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnx_export.graph import MICROSOFT, Graph
from onnx_export.quantize import Rounding, byte_matrix
from streaming_models.contract import (
    CHUNK_FRAMES,
    CHUNK_INPUT_SAMPLES,
    ENCODER_INPUTS,
    ENCODER_OUTPUTS,
    FRAME_SAMPLES,
    HEADS,
    LAYERS,
    LEFT_FRAMES,
    STEPS_PER_FRAME,
    WIDTH,
    TensorSpec,
)

FloatArray = NDArray[np.float32]

ROTARY_SIZE = 32
"""Only the first dimensions of a head are turned."""
SEEN_FRAMES = LEFT_FRAMES + CHUNK_FRAMES
HOP_SAMPLES, KERNEL_SAMPLES = 64, 127
"""Of the first convolution."""
STEPS = (CHUNK_INPUT_SAMPLES - KERNEL_SAMPLES) // HOP_SAMPLES + 1
OWN_STEPS = STEPS_PER_FRAME * CHUNK_FRAMES
PRIOR_STEPS, PRIOR_VARIANCE = 250.0, 0.0015
"""As in `streaming_models.nets.encoder`, which this file must not import (torch); parity compares."""
FFT_SIZE, FFT_OFFSET, BANDS, BINS_PER_BAND, SILENT = 512, 192, 64, 2, 1e-7
"""As in `streaming_models.nets.spatial`."""
SMALL = 4_096
"""Weights of fewer values stay float32 in the file."""
BLOCK, FINE_BLOCK = 96, 32
"""Weights that run in float32 are stored in bytes with one scale for so many rows of a column.

Fine for the third convolution: it meets the largest differences between channels.
"""
_ELEMENTS = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}


class EncoderGraph(Graph):
    """The graph of one precision.

    Args:
        weights: state of `nets.encoder.Encoder`, and those of the spatial embedding and the activity head under
            `spatial.` and `activity.`.
        roundings: how to round the inputs of the matrix products that run in int8, by the names of these inputs; all
            other weights are stored in bytes or float16 and run in float32. None: a float32 graph.
    """

    def __init__(self, weights: Mapping[str, FloatArray], roundings: Mapping[str, Rounding] | None = None) -> None:
        super().__init__()
        self._weights = weights
        self._roundings = roundings or {}
        self._small = roundings is not None
        self._rounded: dict[str, list[str]] = {}

    def build(self) -> onnx.ModelProto:
        """The model, without metadata."""
        added = self._spatial()
        h = self._convolutions()
        h = self.node("Add", [h, added], "embedded")
        self._caches()
        for k in range(LAYERS):
            h = self._layer(h, k)
        self.norm(h, "norm", "hidden")
        logits = self.linear("hidden", "activity.weight", "activity.logits", "activity.bias")
        self.node("Sigmoid", [logits], "activity")
        for kind in ("key", "value"):
            fresh = [
                self.node("Unsqueeze", [f"layers.{k}.{kind}", self.ints(0)], f"layers.{k}.{kind}.1")
                for k in range(LAYERS)
            ]
            self.node("Concat", fresh, f"fresh_{kind}", axis=0)
            self.cut(f"cached_{kind}", f"kept_{kind}", 2, CHUNK_FRAMES, LEFT_FRAMES)
            self.node("Concat", [f"kept_{kind}", f"fresh_{kind}"], f"new_cached_{kind}", axis=2)
        self.node("Add", ["processed_frames", self.ints(CHUNK_FRAMES)], "new_processed_frames")
        return self.model("encoder", [_value(s) for s in ENCODER_INPUTS], [_value(s) for s in ENCODER_OUTPUTS])

    def weight(self, name: str) -> str:
        """A vector or small array as it is."""
        return self.constant(name, np.asarray(self._weights[name], np.float32))

    def matrix(self, name: str) -> FloatArray:
        """A weight as (in, out)."""
        return matrix_of(name, self._weights[name])

    def linear(self, x: str, name: str, output: str, bias: str = "") -> str:
        """(..., K) -> (..., N)."""
        rounding = self._roundings.get(x)
        if rounding is None:
            product = self.node("MatMul", [x, self.stored(name)], f"{output}.product" if bias else output)
            return self.node("Add", [product, self.weight(bias)], output) if bias else product
        if x not in self._rounded:
            scale = self.constant(f"{x}.scale", np.array(rounding.scale, np.float32))
            zero = self.constant(f"{x}.zero", np.array(rounding.zero, np.uint8))
            self._rounded[x] = [self.node("QuantizeLinear", [x, scale, zero], f"{x}.q"), scale, zero]
        rounded, scale, zero = self._rounded[x]
        weight = self.matrix(name)
        if rounding.divisor is not None:
            weight = weight * rounding.divisor[:, None]
        matrix = byte_matrix(weight, rounding.moments)
        values = self.constant(f"{name}.q", matrix.values)
        columns = self._expanded(f"{name}.scale", matrix.scale.astype(np.float16))
        inputs = [rounded, values, scale, columns, zero, "", *([self.weight(bias)] if bias else [])]
        return self.node("MatMulIntegerToFloat", inputs, output, MICROSOFT)

    def stored(self, name: str) -> str:
        """A float32 matrix; ORT expands it at load from the bytes or halves of a small file."""
        matrix = self.matrix(name)
        block = FINE_BLOCK if name == "conv3" else BLOCK
        if not self._small or matrix.size < SMALL:
            return self.constant(name, matrix)
        if len(matrix) % block:
            return self._expanded(name, matrix.astype(np.float16))
        blocks = matrix.reshape(-1, block, matrix.shape[1])
        scale = np.maximum(np.abs(blocks).max(1, keepdims=True) / 127, 1e-7).astype(np.float16)
        values = np.round(blocks / scale.astype(np.float32)).clip(-127, 127).astype(np.int8)
        parts = [self._expanded(f"{name}.bytes", values), self._expanded(f"{name}.scale", scale)]
        return self.node("Reshape", [self.node("Mul", parts, f"{name}.blocks"), self.ints(*matrix.shape)], name)

    def _expanded(self, name: str, value: NDArray[np.generic]) -> str:
        return self.node("Cast", [self.constant(f"{name}.stored", value)], name, to=TensorProto.FLOAT)

    def norm(self, x: str, weight: str, output: str) -> str:
        """Layer norm over the last axis."""
        rounding = self._roundings.get(output)
        value = np.asarray(self._weights[weight], np.float32)
        if rounding is not None and rounding.divisor is not None:
            value = value / rounding.divisor
        return self.node("LayerNormalization", [x, self.constant(weight, value)], output, axis=-1, epsilon=1e-5)

    def _convolutions(self) -> str:
        """mix -> (B, CHUNK_FRAMES, WIDTH), and new_cached_norm."""
        rows = [
            self.node("Reshape", [part, self.ints(0, STEPS, HOP_SAMPLES)], f"{part}.rows")
            for part in (
                self.cut("mix", "conv1.first", 1, 0, STEPS * HOP_SAMPLES),
                self._padded(self.cut("mix", "conv1.later", 1, HOP_SAMPLES, CHUNK_INPUT_SAMPLES), "conv1.second", 1),
            )
        ]
        pieces = self.node("Concat", rows, "pieces", axis=2)
        product = self.node("MatMul", [pieces, self.stored("conv1")], "conv1.product")
        steps = self.node("Tanh", [product], "steps")  # (B, STEPS, WIDTH)
        gain, shift = self._normalisation(steps)
        x = self.node("Mul", [steps, gain], "steps.scaled")
        x = self.node("Add", [x, shift], "steps.normed")
        x = self._windows(x, "conv2", steps=STEPS, kernel=7, stride=3)
        x = self.linear(x, "conv2", "conv2.out", "bias2")
        x = self.node("Gelu", [x], "conv2.gelu", MICROSOFT)
        x = self._windows(x, "conv3", steps=2 * CHUNK_FRAMES + 1, kernel=3, stride=2)
        return self.node("Gelu", [self.linear(x, "conv3", "conv3.out", "bias3")], "conv3.gelu", MICROSOFT)

    def _padded(self, x: str, name: str, count: int) -> str:
        """Zeros after the last axis of a 2-axis value."""
        return self.node("Pad", [x, self.ints(0, count), "", self.ints(1)], name)

    def _windows(self, x: str, name: str, steps: int, kernel: int, stride: int) -> str:
        """(B, steps, D) -> (B, windows, kernel * D): what a convolution's kernel sees at each of its places.

        Cut from rows of `stride` steps: whole rows first, and the one step that is left.
        """
        width = 2 * WIDTH if name == "conv3" else WIDTH
        windows = (steps - kernel) // stride + 1
        whole, rest = divmod(kernel, stride)
        rows = self.cut(x, f"{name}.whole", 1, 0, (windows + whole - 1) * stride)
        rows = self.node("Reshape", [rows, self.ints(0, -1, stride * width)], f"{name}.rows")
        parts = [self.cut(rows, f"{name}.part{k}", 1, k, k + windows) for k in range(whole)] if whole > 1 else [rows]
        assert rest == 1
        parts.append(self.cut(x, f"{name}.last", 1, whole * stride, steps, stride))
        return self.node("Concat", parts, f"{name}.windows", axis=2)

    def _normalisation(self, steps: str) -> tuple[str, str]:
        """Gain and shift (B, 1, WIDTH) from the statistics of the chunk and its left context."""
        own = self.cut(steps, "steps.own", 1, 0, OWN_STEPS)
        sums = [
            self.node("ReduceSum", [own, self.ints(2)], "own.sum", keepdims=0),
            self.node("ReduceSumSquare", [own, self.ints(2)], "own.square", keepdims=0),
        ]
        both = [self.node("Unsqueeze", [x, self.ints(1)], f"{x}.row") for x in sums]
        fresh = self.node("Concat", both, "own.sums", axis=1)
        every = self.node("Concat", ["cached_norm", fresh], "every.sums", axis=2)
        self.cut(every, "new_cached_norm", 2, OWN_STEPS, OWN_STEPS + STEPS_PER_FRAME * LEFT_FRAMES)
        total = self.node("ReduceSum", [every, self.ints(2)], "total", keepdims=0)
        first, square = "total.first", "total.square"
        self.node("Split", [total], [first, square], axis=1, num_outputs=2)
        known = self.node("Min", ["processed_frames", self.ints(LEFT_FRAMES)], "known_frames")
        frames = self.node("Add", [known, self.ints(CHUNK_FRAMES)], "counted_frames")
        frames = self.node("Cast", [frames], "counted_frames.float", to=TensorProto.FLOAT)
        frames = self.node("Unsqueeze", [frames, self.ints(1)], "counted_frames.row")  # (B, 1)
        count = self.node("Mul", [frames, self.number(float(STEPS_PER_FRAME * WIDTH))], "count")
        with_prior = self.node("Add", [count, self.number(PRIOR_STEPS * WIDTH)], "count.prior")
        mean = self.node("Div", [first, with_prior], "mean")
        squared = self.node("Mul", [first, first], "total.squared")
        squared = self.node("Div", [squared, count], "total.squared.mean")
        variance = self.node("Sub", [square, squared], "variance.sum")
        variance = self.node("Add", [variance, self.number(PRIOR_VARIANCE * PRIOR_STEPS * WIDTH)], "variance.prior")
        variance = self.node("Div", [variance, with_prior], "variance")
        deviation = self.node("Sqrt", [self.node("Add", [variance, self.number(1e-5)], "variance.safe")], "deviation")
        gain = self.node("Div", [self.constant("gain", self._row("gain")), deviation], "steps.gain")  # (B, WIDTH)
        moved = self.node("Mul", [mean, gain], "mean.scaled")
        shift = self.node("Sub", [self.constant("shift", self._row("shift")), moved], "steps.shift")
        gain, shift = (self.node("Unsqueeze", [x, self.ints(1)], f"{x}.row") for x in (gain, shift))
        return gain, shift

    def _row(self, name: str) -> FloatArray:
        return np.asarray(self._weights[name], np.float32).reshape(1, WIDTH)

    def _caches(self) -> None:
        """Each layer's cached keys and values, which frames of them are real, and the rotary tables."""
        for kind in ("key", "value"):
            parts = [f"layers.{k}.past_{kind}.1" for k in range(LAYERS)]
            self.node("Split", [f"cached_{kind}"], parts, axis=0, num_outputs=LAYERS)
            for k, part in enumerate(parts):
                self.node("Squeeze", [part, self.ints(0)], f"layers.{k}.past_{kind}")
        needed = np.maximum(LEFT_FRAMES - np.arange(SEEN_FRAMES), 0)[None]
        known = self.node("Unsqueeze", ["processed_frames", self.ints(1)], "processed_frames.row")
        real = self.node("GreaterOrEqual", [known, self.constant("needed_frames", needed)], "seen")
        self.node("Cast", [real], "seen.mask", to=TensorProto.INT32)
        exponents = 10_000.0 ** -(np.arange(0, ROTARY_SIZE, 2) / ROTARY_SIZE)
        places = self.constant("rotary.places", np.arange(SEEN_FRAMES, dtype=np.float32)[:, None])
        angle = self.node("Mul", [places, self.constant("rotary.pace", exponents.astype(np.float32))], "rotary.angle")
        for op in ("Cos", "Sin"):
            self.node(op, [angle], f"rotary.{op}")

    def _layer(self, h: str, k: int) -> str:
        """(B, CHUNK_FRAMES, WIDTH) -> the same; leaves the chunk's keys and values in layers.{k}.key and .value."""
        layer = f"layers.{k}"
        x = self.norm(h, f"{layer}.norm1", f"{layer}.normed1")
        query, *_ = [self.linear(x, f"{layer}.{kind[0]}", f"{layer}.{kind}") for kind in ("query", "key", "value")]
        every = {
            kind: self.node("Concat", [f"{layer}.past_{kind}", f"{layer}.{kind}"], f"{layer}.every_{kind}", axis=1)
            for kind in ("key", "value")
        }
        query = self._turned(query, LEFT_FRAMES)
        key = self._turned(every["key"], 0)
        read = self.node(
            "MultiHeadAttention",
            [query, key, every["value"], "", "seen.mask"],
            f"{layer}.read",
            MICROSOFT,
            num_heads=HEADS,
        )
        h = self.node("Add", [h, self.linear(read, f"{layer}.o", f"{layer}.attended")], f"{layer}.after_attention")
        x = self.norm(h, f"{layer}.norm2", f"{layer}.normed2")
        x = self.node(
            "Gelu", [self.linear(x, f"{layer}.w1", f"{layer}.wide", f"{layer}.b1")], f"{layer}.gelu", MICROSOFT
        )
        return self.node("Add", [h, self.linear(x, f"{layer}.w2", f"{layer}.fed", f"{layer}.b2")], f"{layer}.out")

    def _turned(self, x: str, first: int) -> str:
        """Rotary embedding of (B, T, WIDTH) from position `first` on."""
        return self.node(
            "RotaryEmbedding",
            [x, self.ints(first), "rotary.Cos", "rotary.Sin"],
            f"{x}.turned",
            MICROSOFT,
            interleaved=1,
            num_heads=HEADS,
            rotary_embedding_dim=ROTARY_SIZE,
        )

    def _spatial(self) -> str:
        """mix and channels -> (B, CHUNK_FRAMES, WIDTH) to be added to the first layer's input."""
        self._fourier()
        mix = self.node("Unsqueeze", ["mix", self.ints(1)], "mix.channel")
        c, d, power_of_mix = self._spectrum(mix, "mix")
        a, b, power = self._spectrum("channels", "channels")

        def product(x: str, y: str) -> str:
            return self.node("Mul", [x, y], f"{x}*{y}")

        real = self._banded(self.node("Add", [product(a, c), product(b, d)], "cross.real"))
        imaginary = self._banded(self.node("Sub", [product(a, d), product(b, c)], "cross.imaginary"))
        powers = self.node("Mul", [power, power_of_mix], "powers")
        safe = self.node("Add", [powers, self.number(1e-12)], "powers.safe")
        scale = self.node("Reciprocal", [self.node("Sqrt", [safe], "powers.root")], "coherence.scale")
        trusted = self.node("Div", [powers, safe], "trusted")
        ratio = [self.node("Add", [x, self.number(1e-6)], f"{x}.safe") for x in (power, power_of_mix)]
        level = self.node("Log", [self.node("Div", ratio, "level.ratio")], "level.log")
        level = self.node("Clip", [level, self.number(-4.0), self.number(4.0)], "level.clipped")
        level = self.node("Mul", [level, self.number(0.25)], "level")
        unlike = self.node("Sub", [trusted, product(real, scale)], "unlike")
        features = self.node("Concat", [unlike, product(imaginary, scale), level], "features", axis=-1)
        x = features
        silent = np.zeros((1, 3 * BANDS), np.float32)
        for name in ("inner", "deeper"):
            bias = f"spatial.{name}.bias"
            x = self.node(
                "Relu", [self.linear(x, f"spatial.{name}.weight", f"spatial.{name}", bias)], f"spatial.{name}.relu"
            )
            silent = np.maximum(silent @ self.matrix(f"spatial.{name}.weight") + self._weights[bias], 0)
        mean_power = self.node("ReduceMean", [power, self.ints(3)], "power.mean", keepdims=1)
        present = self.node("Greater", [mean_power, self.number(SILENT * FFT_SIZE)], "present.bool")
        present = self.node("Cast", [present], "present", to=TensorProto.FLOAT)
        x = self.node("Sub", [x, self.constant("spatial.silent", silent)], "spatial.heard")
        x = self.node("Mul", [x, present], "spatial.present")
        total = self.node("ReduceSum", [x, self.ints(1)], "spatial.total", keepdims=0)
        count = self.node("ReduceSum", [present, self.ints(1)], "present.sum", keepdims=0)
        count = self.node("Max", [count, self.number(1.0)], "present.count")
        mean = self.node("Div", [total, count], "spatial.mean")
        highest = self.node("ReduceMax", [x, self.ints(1)], "spatial.highest", keepdims=0)
        pooled = self.node("Concat", [mean, highest], "spatial.pooled", axis=-1)
        return self.linear(pooled, "spatial.out.weight", "spatial.added")

    def _fourier(self) -> None:
        """Windowed cosines and sines (FFT_SIZE, bins), worked out by ORT as it loads: the file need not carry them."""
        n = np.arange(FFT_SIZE)
        window = 0.5 - 0.5 * np.cos(2 * np.pi * n / FFT_SIZE)
        # The first bin of every band, then the second: a band is then the sum of two halves.
        order = np.arange(1, BANDS * BINS_PER_BAND + 1, dtype=np.int64).reshape(BANDS, BINS_PER_BAND).T
        bins = self.constant("bins", order.reshape(1, -1))
        turns = self.node("Mul", [self.constant("window.places", n[:, None]), bins], "turns")
        turns = self.node("Mod", [turns, self.ints(FFT_SIZE)], "turns.rest")
        turns = self.node("Cast", [turns], "turns.float", to=TensorProto.FLOAT)
        angle = self.node("Mul", [turns, self.number(2 * np.pi / FFT_SIZE)], "angle")
        weight = self.constant("window", window.astype(np.float32)[:, None])
        for op in ("Cos", "Sin"):
            self.node("Mul", [self.node(op, [angle], f"angle.{op}"), weight], f"fourier.{op}")

    def _spectrum(self, samples: str, name: str) -> tuple[str, str, str]:
        """(B, C, S) -> real and minus imaginary parts (B, C, T, bins), power (B, C, T, BANDS).

        The sign is of no account: only products of two spectra are used, with their order chosen for it.
        """
        rest = FFT_SIZE - FRAME_SAMPLES
        end = FFT_OFFSET + CHUNK_FRAMES * FRAME_SAMPLES
        first = self.cut(samples, f"{name}.own", 2, FFT_OFFSET, end)
        later = self.cut(samples, f"{name}.later", 2, FFT_OFFSET + FRAME_SAMPLES, CHUNK_INPUT_SAMPLES)
        missing = end + FRAME_SAMPLES - CHUNK_INPUT_SAMPLES
        later = self.node("Pad", [later, self.ints(0, missing), "", self.ints(2)], f"{name}.later.padded")
        rows = [
            self.node("Reshape", [x, self.ints(0, 0, CHUNK_FRAMES, FRAME_SAMPLES)], f"{x}.frames")
            for x in (first, later)
        ]
        rows[1] = self.cut(rows[1], f"{name}.beginnings", 3, 0, rest)
        frames = self.node("Concat", rows, f"{name}.frames", axis=3)
        parts = [self.node("MatMul", [frames, f"fourier.{op}"], f"{name}.{op}") for op in ("Cos", "Sin")]
        squares = [self.node("Mul", [x, x], f"{x}.square") for x in parts]
        power = self._banded(self.node("Add", squares, f"{name}.power.bins"))
        return parts[0], parts[1], power

    def _banded(self, x: str) -> str:
        """(..., bins) -> (..., BANDS): the sum of each band's bins."""
        halves = [f"{x}.half{k}" for k in range(BINS_PER_BAND)]
        self.node("Split", [x], halves, axis=-1, num_outputs=BINS_PER_BAND)
        return self.node("Add", halves, f"{x}.bands")


def activations() -> list[str]:
    """The inputs of matrix products that are worth rounding to bytes.

    Those of the convolutions are not: single channels reach a hundred times the others, and a rounded second
    convolution doubles the error of the whole and saves little.
    """
    return [f"layers.{k}.{kind}" for k in range(LAYERS) for kind in ("normed1", "read", "normed2", "gelu")]


def even_matrices(activation: str) -> list[str]:
    """The matrices that an activation meets, if it comes out of a norm: that can divide it at no cost."""
    layer, _, kind = activation.rpartition(".")
    if kind == "normed1":
        return [f"{layer}.{part}" for part in "qkv"]
    return [f"{layer}.w1"] if kind == "normed2" else []


def matrix_of(name: str, weight: FloatArray) -> FloatArray:
    """A net's weight as the (in, out) of a matrix product over the cut windows of this graph."""
    array = np.asarray(weight, np.float32)
    if name == "conv1":
        return np.pad(array[:, 0].T, ((0, 2 * HOP_SAMPLES - KERNEL_SAMPLES), (0, 0)))
    if array.ndim == 3:  # (out, in, kernel)
        return np.ascontiguousarray(array.transpose(2, 1, 0).reshape(-1, len(array)))
    if name.endswith(".weight"):  # torch's Linear is (out, in)
        return np.ascontiguousarray(array.T)
    return array


def _value(spec: TensorSpec) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(spec.name, _ELEMENTS[spec.dtype], spec.shape)
