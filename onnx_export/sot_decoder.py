"""Moonshine's decoder with the tensors that SOT training changed, for many streams and two virtual channels at once.

A release carries only what changed (`Tuned`: cross-attention, norms, the second channel's vector; 2 MB); the rest is
in the wheel `moonshine-voice`. From both, two graphs are built when a server starts:

- `memory`: the encoder's frames as the keys and values that every layer reads. They depend on the frame alone, so each
  is worked out once and not anew for every reading of a window that it lies in.
- `tokens`: any number of tokens after any number of earlier ones, for B rows of different lengths: a prefix, a guess
  and a single next token are all the same graph.

Activations are rounded to bytes by fixed ranges measured on speech (`onnx_export.quantize`), unlike in Moonshine's own
graphs: so what a row gives depends neither on the rows beside it nor on how many tokens are read at once.

This file imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnx_export.graph import MICROSOFT, Array, Graph
from onnx_export.moonshine_decoder import HEAD_SIZE, HEADS, LAYERS, POSITIONS, ROTARY_SIZE, WIDTH, Weights
from onnx_export.quantize import ByteMatrix, Rounding, byte_matrix
from streaming_models.contract import MEMORY_WIDTH

FloatArray = NDArray[np.float32]

HIDDEN, OUTPUTS = "hidden", "outputs"
INT64 = TensorProto.INT64
_UNSEEN = -1e9
_BIAS = re.compile(r"(?<=\.)w([12])$")
"""`layers.0.w1` has the bias `layers.0.b1`."""


@dataclass(frozen=True)
class Tuned:
    """What training changed, under the names of `nets.sot_decoder.SotDecoder`.

    `matrices`: `layers.{k}.cross.{q,k,v,o}`, their rows already multiplied with the divisors of their inputs;
    `vectors`: `layers.{k}.norm{1,2,3}`, `norm`, `second`; `roundings`: of the graphs' activations.
    """

    matrices: Mapping[str, ByteMatrix]
    vectors: Mapping[str, FloatArray]
    roundings: Mapping[str, Rounding]

    @classmethod
    def of(cls, weights: Mapping[str, FloatArray], roundings: Mapping[str, Rounding]) -> Tuned:
        """Quantise float weights (in, out)."""
        matrices = {}
        for name, weight in weights.items():
            if ".cross." in name:
                divisor = next((r.divisor for a, r in roundings.items() if name in tuned_matrices_of(a)), None)
                even = 1.0 if divisor is None else divisor[:, None]
                matrices[name] = byte_matrix(np.asarray(weight, np.float32) * even)
        vectors = {name: np.asarray(w, np.float32) for name, w in weights.items() if ".cross." not in name}
        return cls(matrices, vectors, roundings)

    def to_model(self, metadata: Mapping[str, str]) -> onnx.ModelProto:
        """The tensors as the initialisers of a graph without nodes."""
        arrays: dict[str, NDArray[np.generic]] = dict(self.vectors)
        for name, matrix in self.matrices.items():
            arrays |= {f"{name}.values": matrix.values, f"{name}.scale": matrix.scale}
        for name, rounding in self.roundings.items():
            arrays[f"rounding.{name}"] = np.array([rounding.scale, rounding.zero], np.float32)
            if rounding.divisor is not None:
                arrays[f"divisor.{name}"] = rounding.divisor
        tensors = [numpy_helper.from_array(value, name) for name, value in arrays.items()]
        model = helper.make_model(helper.make_graph([], "decoder_tuned", [], [], initializer=tensors))
        helper.set_model_props(model, dict(metadata))
        return model

    @classmethod
    def from_model(cls, model: onnx.ModelProto) -> Tuned:
        """What `to_model` wrote."""
        arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        matrices = {
            name.removesuffix(".values"): ByteMatrix(value, arrays[name.replace(".values", ".scale")])
            for name, value in arrays.items()
            if name.endswith(".values")
        }
        roundings = {
            name.removeprefix("rounding."): Rounding(
                float(value[0]), int(value[1]), arrays.get(name.replace("rounding.", "divisor."))
            )
            for name, value in arrays.items()
            if name.startswith("rounding.")
        }
        vectors = {
            name: value
            for name, value in arrays.items()
            if not name.startswith(("rounding.", "divisor.")) and not name.endswith((".values", ".scale"))
        }
        return cls(matrices, vectors, roundings)


@dataclass(frozen=True)
class SotDecoderGraphs:
    """Serialised ONNX models.

    `memory`: hidden (B, T, WIDTH) -> memory (B, T, MEMORY_WIDTH).

    `tokens`: tokens (B, U) int64; voice (B,) float32, 0 or 1; past_tokens (B,) int64, how many of the P earlier tokens
    are the row's own; frames (B,) int64, how many of the T frames; wanted (N, 2) int64, row and token of each row of
    logits; per layer past_key.{k}, past_value.{k} (B, HEADS, P, HEAD_SIZE) and memory_key.{k}, memory_value.{k}
    (B, HEADS, T, HEAD_SIZE) -> logits (N, V); per layer present_key.{k}, present_value.{k} (B, HEADS, P + U,
    HEAD_SIZE); cross_attention (LAYERS, B, HEADS, U, T). A row shorter than U is filled up at its end, with any tokens.
    """

    memory: bytes
    tokens: bytes


def sot_decoder(merged: onnx.ModelProto, tuned: Tuned) -> SotDecoderGraphs:
    """The int8 graphs from Moonshine's merged decoder and the tuned tensors.

    Raises:
        ValueError: the model is not Moonshine Tiny's merged decoder, or a tuned tensor is missing.
    """
    try:
        return SotDecoderGraphs(
            memory=_serialised(_memory_model(_ByteProducts(None, tuned))),
            tokens=_serialised(_TokensModel(_ByteProducts(Weights.of_merged(merged), tuned)).model()),
        )
    except KeyError as error:
        raise ValueError(f"expected the tuned tensors of a decoder, found no {error}") from error


def float_decoder(weights: Mapping[str, FloatArray]) -> SotDecoderGraphs:
    """The same graphs in float32, for parity and to measure the ranges of activations.

    Args:
        weights: of `onnx_export.pretrained.pretrained_decoder`, the tuned ones in their place, and `second`.
    """
    return SotDecoderGraphs(
        memory=_serialised(_memory_model(_FloatProducts(weights))),
        tokens=_serialised(_TokensModel(_FloatProducts(weights)).model()),
    )


class _Products(Protocol):
    """How a precision multiplies: the part of the graphs in which they differ."""

    graph: Graph

    def matrices(self, x: str, names: Sequence[str], output: str) -> str:
        """(..., K) times matrices beside each other -> (..., sum of N)."""

    def norm_weight(self, name: str) -> FloatArray:
        """Of the layer norm whose output is `{name}.out`."""

    def vector(self, name: str) -> FloatArray:
        """A tuned vector."""

    def embedded(self) -> str:
        """tokens (B, U) -> (B, U, WIDTH)."""

    def frequencies(self) -> FloatArray:
        """Angle a position, of each turned pair of dimensions."""

    def vocabulary(self) -> int:
        """How many tokens there are."""


class _FloatProducts:
    def __init__(self, weights: Mapping[str, FloatArray]) -> None:
        self.graph = Graph()
        self._weights = weights

    def matrices(self, x: str, names: Sequence[str], output: str) -> str:
        weight = np.concatenate([self._weights[name] for name in names], axis=1)
        factor = self.graph.constant(f"{output}.weight", weight)
        bias = self._weights.get(_BIAS.sub(r"b\1", names[0])) if _BIAS.search(names[0]) else None
        if bias is None:
            return self.graph.node("MatMul", [x, factor], output)
        product = self.graph.node("MatMul", [x, factor], f"{output}.product")
        return self.graph.node("Add", [product, self.graph.constant(f"{output}.bias", bias)], output)

    def norm_weight(self, name: str) -> FloatArray:
        return self.vector(name)

    def vector(self, name: str) -> FloatArray:
        return self._weights[name]

    def embedded(self) -> str:
        return self.graph.node(
            "Gather", [self.graph.constant("table", self._weights["embedding"]), "tokens"], "embedded"
        )

    def frequencies(self) -> FloatArray:
        return self._weights["frequencies"]

    def vocabulary(self) -> int:
        return len(self._weights["embedding"])


class _ByteProducts:
    """Untouched matrices as the wheel has them, tuned ones as the release has them, activations by fixed ranges."""

    def __init__(self, exported: Weights | None, tuned: Tuned) -> None:
        self.graph = Graph()
        self._exported = exported
        self._tuned = tuned
        self._rounded: dict[str, list[str]] = {}

    def matrices(self, x: str, names: Sequence[str], output: str) -> str:
        rounded, scale, zero = self._rounded.get(x) or self._round(x)
        if names[0] in self._tuned.matrices:
            found = [self._tuned.matrices[name] for name in names]
            parts: list[Array] = [
                np.concatenate([m.values for m in found], 1),
                np.concatenate([m.scale for m in found]),
            ]
        else:
            [name] = names
            parts = self._weights.inputs_of(f"{_exported_name(name)}/MatMul_quant")
        weight, weight_scale, *rest = [self.graph.constant(f"{output}.{k}", part) for k, part in enumerate(parts)]
        inputs = [rounded, weight, scale, weight_scale, zero, *rest]
        return self.graph.node("MatMulIntegerToFloat", inputs, output, MICROSOFT)

    def _round(self, x: str) -> list[str]:
        graph, rounding = self.graph, self._tuned.roundings[x]
        value = x
        if x == HIDDEN and rounding.divisor is not None:
            inverse = graph.constant(f"{x}.inverse", (1 / rounding.divisor).astype(np.float32))
            value = graph.node("Mul", [x, inverse], f"{x}.even")
        scale = graph.constant(f"{x}.q_scale", np.array(rounding.scale, np.float32))
        zero = graph.constant(f"{x}.q_zero", np.array(rounding.zero, np.uint8))
        names = [graph.node("QuantizeLinear", [value, scale, zero], f"{x}.q"), scale, zero]
        self._rounded[x] = names
        return names

    @property
    def _weights(self) -> Weights:
        assert self._exported is not None, "only the memory graph does without"
        return self._exported

    def norm_weight(self, name: str) -> FloatArray:
        rounding = self._tuned.roundings.get(f"{name}.out")
        divisor = 1.0 if rounding is None or rounding.divisor is None else rounding.divisor
        weight: FloatArray = self.vector(name) / divisor
        return weight

    def vector(self, name: str) -> FloatArray:
        return self._tuned.vectors[name]

    def embedded(self) -> str:
        table, *scales = [self.graph.constant(f"embedding.{k}", part) for k, part in enumerate(self._embedding())]
        rows = self.graph.node("Gather", [table, "tokens"], "embedded.q", axis=0)
        return self.graph.node("DequantizeLinear", [rows, *scales], "embedded")

    def _embedding(self) -> list[Array]:
        names = ("embed_tokens/Gather", "embed_tokens/Gather_output_0_DequantizeLinear")
        return [part for name in names for part in self._weights.inputs_of(name)]

    def frequencies(self) -> FloatArray:
        return np.asarray(self._weights.inputs_of("rotary_emb/Expand")[0], np.float32).reshape(-1)

    def vocabulary(self) -> int:
        return len(self._embedding()[0])


def _serialised(model: onnx.ModelProto) -> bytes:
    return bytes(model.SerializeToString())


def _memory_model(products: _Products) -> onnx.ModelProto:
    names = [f"layers.{k}.cross.{kind}" for k in range(LAYERS) for kind in "kv"]
    products.matrices(HIDDEN, names, "memory")
    return products.graph.model("memory", [_value(HIDDEN, "B", "T", WIDTH)], [_value("memory", "B", "T", MEMORY_WIDTH)])


class _TokensModel:
    """The `tokens` graph of `SotDecoderGraphs`."""

    def __init__(self, products: _Products) -> None:
        self._products = products
        self._graph = products.graph

    def model(self) -> onnx.ModelProto:
        """The whole of it."""
        graph = self._graph
        x = self._embedded()
        self._masks()
        for k in range(LAYERS):
            layer = f"layers.{k}"
            normed = self._norm(x, f"{layer}.norm1")
            x = graph.node("Add", [x, self._self_attention(normed, k)], f"{layer}.after_self")
            normed = self._norm(x, f"{layer}.norm2")
            x = graph.node("Add", [x, self._cross_attention(normed, k)], f"{layer}.after_cross")
            normed = self._norm(x, f"{layer}.norm3")
            x = graph.node("Add", [x, self._feed_forward(normed, k)], f"{layer}.after_mlp")
        # Before the vocabulary projection, which is half of the decoder's work.
        wanted = graph.node("GatherND", [self._norm(x, "norm"), "wanted"], OUTPUTS)
        self._products.matrices(wanted, ["output"], "logits")
        for k in range(LAYERS):
            graph.node("Unsqueeze", [f"layers.{k}.cross.p", graph.ints(0)], f"layers.{k}.cross.p.1")
        graph.node("Concat", [f"layers.{k}.cross.p.1" for k in range(LAYERS)], "cross_attention", axis=0)
        return graph.model("tokens", *self._interface())

    def _embedded(self) -> str:
        graph = self._graph
        rows = self._products.embedded()
        voice = graph.node("Reshape", ["voice", graph.ints(-1, 1, 1)], "voice.rows")
        added = graph.node("Mul", [voice, graph.constant("second", self._products.vector("second"))], "voice.added")
        return graph.node("Add", [rows, added], "spoken")

    def _masks(self) -> None:
        """Positions of the tokens; what each of them must not see, as something to add to scores."""
        graph = self._graph
        past = graph.node("Shape", ["past_key.0"], "past_slots", start=2, end=3)
        own = graph.node("Shape", ["tokens"], "own_slots", start=1, end=2)
        zero, one = (graph.constant(f"int.{k}", np.array(k, np.int64)) for k in (0, 1))
        scalar = {
            name: graph.node("Squeeze", [length, graph.ints(0)], f"{name}.count")
            for name, length in (("past", past), ("own", own))
        }
        scalar["every"] = graph.node("Add", [scalar["past"], scalar["own"]], "every.count")
        frames = graph.node("Shape", ["memory_key.0"], "frame_slots", start=2, end=3)
        scalar["frame"] = graph.node("Squeeze", [frames, graph.ints(0)], "frame.count")
        token = graph.node("Range", [zero, scalar["own"], one], "token.number")
        slot = graph.node("Range", [zero, scalar["every"], one], "slot.number")
        frame = graph.node("Range", [zero, scalar["frame"], one], "frame.number")
        row = graph.node("Unsqueeze", ["past_tokens", graph.ints(1)], "past_tokens.row")
        graph.node("Add", [row, token], "positions")  # (B, U)
        # Slots of earlier tokens, up to the row's own number of them; then its new tokens, up to itself.
        limit = graph.node("Reshape", ["past_tokens", graph.ints(-1, 1, 1, 1)], "past_tokens.limit")
        earlier = graph.node("Less", [slot, limit], "slot.earlier")  # (B, 1, 1, P + U)
        place = graph.node("Sub", [slot, scalar["past"]], "slot.place")
        column = graph.node("Unsqueeze", [token, graph.ints(1)], "token.column")
        begun = graph.node("GreaterOrEqual", [place, zero], "slot.is_new")
        causal = graph.node("LessOrEqual", [place, column], "slot.is_causal")  # (U, P + U)
        fresh = graph.node("And", [begun, causal], "slot.new")
        seen = graph.node("Or", [earlier, fresh], "slot.seen")
        graph.node("Where", [seen, graph.number(0.0), graph.number(_UNSEEN)], "slot.bias")
        limit = graph.node("Reshape", ["frames", graph.ints(-1, 1, 1, 1)], "frames.limit")
        seen = graph.node("Less", [frame, limit], "frame.seen")
        graph.node("Where", [seen, graph.number(0.0), graph.number(_UNSEEN)], "frame.bias")  # (B, 1, 1, T)

    def _norm(self, x: str, name: str) -> str:
        """Layer norm by a tuned vector."""
        weight = self._graph.constant(name, self._products.norm_weight(name))
        return self._graph.node("LayerNormalization", [x, weight], f"{name}.out", axis=-1, epsilon=1e-5)

    def _self_attention(self, x: str, k: int) -> str:
        """(B, U, D) -> (B, U, D); writes present_key.{k} and present_value.{k}."""
        graph, name = self._graph, f"layers.{k}.self"
        query, key, value = (self._products.matrices(x, [f"{name}.{kind}"], f"{name}.{kind}.of") for kind in "qkv")
        query, key = (self._turned(vector) for vector in (query, key))
        inputs = [query, key, value, "", "", "slot.bias", f"past_key.{k}", f"past_value.{k}"]
        outputs = [f"{name}.read", f"present_key.{k}", f"present_value.{k}"]
        graph.node("MultiHeadAttention", inputs, outputs, MICROSOFT, num_heads=HEADS)
        return self._products.matrices(f"{name}.read", [f"{name}.o"], f"{name}.out")

    def _turned(self, x: str) -> str:
        angles = np.arange(POSITIONS, dtype=np.float32)[:, None] * self._products.frequencies()
        tables = [self._graph.constant(f"rotary.{f.__name__}", f(angles)) for f in (np.cos, np.sin)]
        return self._graph.node(
            "RotaryEmbedding",
            [x, "positions", *tables],
            f"{x}.turned",
            MICROSOFT,
            interleaved=1,
            num_heads=HEADS,
            rotary_embedding_dim=ROTARY_SIZE,
        )

    def _cross_attention(self, x: str, k: int) -> str:
        """(B, U, D) -> (B, U, D); leaves the weights (B, heads, U, T) in layers.{k}.cross.p."""
        graph, name = self._graph, f"layers.{k}.cross"
        query = self._products.matrices(x, [f"{name}.q"], f"{name}.query")
        query = graph.node("Reshape", [query, graph.ints(0, 0, HEADS, HEAD_SIZE)], f"{name}.q_rows")
        query = graph.transposed(query, f"{name}.q_heads")
        scores = graph.node(
            "FusedMatMul", [query, f"memory_key.{k}"], f"{name}.qk", MICROSOFT, transB=1, alpha=HEAD_SIZE**-0.5
        )
        scores = graph.node("Add", [scores, "frame.bias"], f"{name}.scores")
        graph.node("Softmax", [scores], f"{name}.p", axis=-1)
        read = graph.node("MatMul", [f"{name}.p", f"memory_value.{k}"], f"{name}.read_heads")
        read = graph.transposed(read, f"{name}.read_rows")
        read = graph.node("Reshape", [read, graph.ints(0, 0, WIDTH)], f"{name}.read")
        return self._products.matrices(read, [f"{name}.o"], f"{name}.out")

    def _feed_forward(self, x: str, k: int) -> str:
        """(B, U, D) -> (B, U, D)."""
        graph, name = self._graph, f"layers.{k}.mlp"
        wide = self._products.matrices(x, [f"layers.{k}.w1"], f"{name}.wide")
        half = 4 * WIDTH
        graph.node("Split", [wide, graph.ints(half, half)], [f"{name}.value", f"{name}.gate"], axis=2)
        gate = graph.node("QuickGelu", [f"{name}.gate"], f"{name}.silu", MICROSOFT, alpha=1.0)
        gated = graph.node("Mul", [gate, f"{name}.value"], f"{name}.gated")
        return self._products.matrices(gated, [f"layers.{k}.w2"], f"{name}.out")

    def _interface(self) -> tuple[list[onnx.ValueInfoProto], list[onnx.ValueInfoProto]]:
        def caches(name: str, length: str) -> list[onnx.ValueInfoProto]:
            return [
                _value(f"{name}_{kind}.{k}", "B", HEADS, length, HEAD_SIZE)
                for k in range(LAYERS)
                for kind in ("key", "value")
            ]

        inputs = [
            _value("tokens", "B", "U", element=INT64),
            _value("voice", "B"),
            _value("past_tokens", "B", element=INT64),
            _value("frames", "B", element=INT64),
            _value("wanted", "N", 2, element=INT64),
            *caches("past", "P"),
            *caches("memory", "T"),
        ]
        outputs = [
            _value("logits", "N", self._products.vocabulary()),
            *caches("present", "every"),
            _value("cross_attention", LAYERS, "B", HEADS, "U", "T"),
        ]
        return inputs, outputs


def activations() -> list[str]:
    """The values of both graphs that are rounded to bytes, apart from HIDDEN."""
    names = [OUTPUTS]
    for k in range(LAYERS):
        layer = f"layers.{k}"
        names += [f"{layer}.norm{n}.out" for n in (1, 2, 3)]
        names += [f"{layer}.self.read", f"{layer}.cross.read", f"{layer}.mlp.gated"]
    return names


def tuned_matrices_of(activation: str) -> list[str]:
    """The tuned matrices that an activation with a divisor is multiplied with; none: it can have no divisor."""
    if activation == HIDDEN:
        return [f"layers.{k}.cross.{kind}" for k in range(LAYERS) for kind in "kv"]
    if activation.endswith(".norm2.out"):
        return [activation.replace(".norm2.out", ".cross.q")]
    return []


def _exported_name(name: str) -> str:
    """Our name of an untouched matrix -> the node of the export."""
    if name == "output":
        return "proj_out"
    layer, _, kind = name.rpartition(".")
    return f"{layer}/mlp/fc{kind[1]}" if kind[0] == "w" else f"{layer.removesuffix('.self')}/self_attn/{kind}_proj"


def _value(name: str, *shape: int | str, element: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element, shape)
