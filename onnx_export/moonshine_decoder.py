"""Moonshine's decoder, of Tiny or Base, written anew, with the exported weights and few nodes.

The exported graph works out rotary slices, padded heads and masks with dynamic dimensions, in nine hundred small
nodes. Those shapes are known here, so about 200 nodes remain: a token costs two thirds of the time. The int8 weights
stay those of the export, and with them the numbers, up to the rounding of the activations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_export.graph import MICROSOFT, Array, Graph

LAYERS = 6
HEADS = 8
HEAD_SIZE = 36
"""Of Tiny."""
ROTARY_SIZE = 32
"""Only the first dimensions of a head are turned."""
WIDTH = HEADS * HEAD_SIZE
POSITIONS = 512
"""Length of the rotary tables; Moonshine itself was trained on at most 194 tokens."""
CROSS_ATTENTION = "cross_attention"
LOGITS_FROM = "logits_from"
"""Extra input of the prefix graph: (1,) int64, the first token position whose logits are wanted."""

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


@dataclass(frozen=True)
class Size:
    """What the decoders of Tiny and Base differ in."""

    layers: int
    head_size: int
    heads: int = HEADS

    @property
    def width(self) -> int:
        """Of the hidden states."""
        return self.heads * self.head_size


TINY = Size(LAYERS, HEAD_SIZE)
BASE = Size(8, 52)


class Weights:
    """The initialisers of an exported decoder branch, found through the nodes that use them."""

    size = TINY

    def __init__(self, merged: onnx.GraphProto, branch: onnx.GraphProto) -> None:
        self._nodes = {node.name: node for node in (*merged.node, *branch.node)}
        self._tensors = {tensor.name: tensor for tensor in (*merged.initializer, *branch.initializer)}

    @classmethod
    def of_merged(cls, merged: onnx.ModelProto) -> Weights:
        """Those of Moonshine's merged decoder, of either size.

        Raises:
            ValueError: the model is not a merged decoder (no single `If` with two branches).
        """
        ifs = [node for node in merged.graph.node if node.op_type == "If"]
        if len(ifs) != 1:
            raise ValueError(f"expected a merged decoder with one If node, got {len(ifs)} in {merged.graph.name!r}")
        branches = {attribute.name: attribute.g for attribute in ifs[0].attribute}
        # The branch without a cache uses every weight; the other one lacks the encoder's keys and values.
        found = cls(merged.graph, branches["else_branch"])
        if "/model/decoder/layers.0/mlp/up_proj/MatMul" in found._nodes:
            return BaseWeights(merged.graph, branches["else_branch"])
        return found

    def inputs_of(self, node: str) -> list[Array]:
        """The constant inputs of the node called `/model/decoder/{node}`, in its order.

        Raises:
            ValueError: there is no such node, so this is another model.
        """
        found = self._nodes.get(f"/model/decoder/{node}") or self._nodes.get(f"/{node}")
        if found is None:
            raise ValueError(f"expected Moonshine's decoder with a node {node!r}, got {len(self._nodes)} others")
        return [numpy_helper.to_array(self._tensors[name]) for name in found.input if name in self._tensors]

    def linear(self, name: str) -> list[Array]:
        """(K, N) int8 weight, its scale and zero point, and the bias (N,) where there is one."""
        return self.inputs_of(f"{name}/MatMul_quant")

    def norm(self, name: str) -> list[Array]:
        """(D,) scale of a layer norm, and what else the export has."""
        return self.inputs_of(f"{name}/LayerNormalization")

    def embedding(self) -> list[Array]:
        """(V, D) int8, its scale and zero point."""
        return [
            *self.inputs_of("embed_tokens/Gather"),
            *self.inputs_of("embed_tokens/Gather_output_0_DequantizeLinear"),
        ]

    def frequencies(self) -> Array:
        """(ROTARY_SIZE / 2,) of the rotary embedding."""
        return np.asarray(self.inputs_of("rotary_emb/Expand")[0], np.float32).ravel()


class BaseWeights(Weights):
    """Those of Base's export: older names, and int8 weights that the graph turns into float before every use."""

    size = BASE
    _names: ClassVar = {"o_proj": "dense", "fc1": "up_proj", "fc2": "down_proj"}

    def linear(self, name: str) -> list[Array]:
        """See `Weights.linear`."""
        if name == "proj_out":  # tied to the embedding
            table, scale, zero = self.embedding()
            return [np.ascontiguousarray(table.T), scale, zero]
        *path, last = name.split("/")
        exported = "/".join((*path, self._names.get(last, last)))
        node = self._nodes.get(f"/model/decoder/{exported}/MatMul")
        if node is None:
            raise ValueError(f"expected Moonshine's decoder with {exported!r}, got {len(self._nodes)} other nodes")
        bias = self.inputs_of(f"{exported}/Add") if f"/model/decoder/{exported}/Add" in self._nodes else []
        return [*self._quantised(node.input[1]), *bias]

    def norm(self, name: str) -> list[Array]:
        """See `Weights.norm`."""
        return self.inputs_of(f"{name}/Mul")

    def embedding(self) -> list[Array]:
        """See `Weights.embedding`."""
        return self._quantised(self._nodes["/model/decoder/embed_tokens/Gather"].input[0])

    def frequencies(self) -> Array:
        """See `Weights.frequencies`."""
        return np.asarray(self.inputs_of("rotary_emb/MatMul")[0], np.float32).ravel()

    def _quantised(self, turned: str) -> list[Array]:
        """Weight, scale and zero point behind a value that is `weight * scale + offset`."""
        stem = turned.removesuffix("_add_tensor")
        parts = [self._tensors.get(f"{stem}_{part}") for part in ("quantized", "scale", "zero_point")]
        weight, scale, offset = (numpy_helper.to_array(part) for part in parts if part is not None)
        zero = np.rint(-offset / scale)
        if not np.allclose(-offset / scale, zero, atol=1e-3) or not (zero >= -128).all() or not (zero <= 127).all():
            raise ValueError(f"expected {stem!r} to have a whole zero point in -128..127, got {-offset / scale}")
        return [weight, scale.reshape(()), zero.astype(np.int8).reshape(())]


class DecoderGraph(Graph):
    """A graph made of an exported decoder's weights."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.weights = weights

    def linear(self, x: str | list[str], exported: str, name: str) -> str:
        """(1, U, D), quantised or not -> (1, U, N); the bias, where there is one, is the fourth constant."""
        parts = self.weights.linear(exported)
        names = [self.constant(f"{exported}.{k}", part) for k, part in enumerate(parts)]
        if isinstance(x, str):
            return self.node("DynamicQuantizeMatMul", [x, *names], name, MICROSOFT)
        weight, scale, zero, *bias = names
        inputs = [x[0], weight, x[1], scale, x[2], zero, *bias]
        return self.node("MatMulIntegerToFloat", inputs, name, MICROSOFT)

    def norm(self, x: str, exported: str) -> str:
        """Layer norm of (1, U, D). ORT's fused sum and norm takes longer than the two nodes."""
        parts = self.weights.norm(exported)
        names = [self.constant(f"{exported}.{k}", part) for k, part in enumerate(parts)]
        return self.node("LayerNormalization", [x, *names], f"{exported}.normed", axis=-1, epsilon=1e-5)


def build(weights: Weights, ir_version: int, *, whole_prefix: bool) -> bytes:
    """One of the two models of `onnx_export.moonshine.DecoderGraphs`, serialised.

    Raises:
        ValueError: the weights are not those of Moonshine's decoder.
    """
    graph = DecoderGraph(weights)
    embedding = [graph.constant(f"embedding.{k}", part) for k, part in enumerate(weights.embedding())]
    graph.node("Gather", [embedding[0], "input_ids"], "embedded.q", axis=0)
    x = graph.node("DequantizeLinear", ["embedded.q", *embedding[1:]], "embedded")
    if whole_prefix:
        position = graph.ints(0)
        _encoder_caches(graph)
    else:
        position = graph.node("Shape", ["past_key_values.0.decoder.key"], "position", start=2, end=3)
    for k in range(graph.weights.size.layers):
        layer = f"layers.{k}"
        normed = graph.norm(x, f"{layer}/input_layernorm")
        attended = _self_attention(graph, normed, k, position, whole_prefix=whole_prefix)
        x = graph.node("Add", [x, attended], f"{layer}.after_self")
        normed = graph.norm(x, f"{layer}/post_attention_layernorm")
        read = _cross_attention(graph, normed, k, whole_prefix=whole_prefix)
        x = graph.node("Add", [x, read], f"{layer}.after_cross")
        fed = _feed_forward(graph, graph.norm(x, f"{layer}/final_layernorm"), k)
        x = graph.node("Add", [x, fed], f"{layer}.after_mlp")
    normed = graph.norm(x, "norm")
    if whole_prefix:
        # Before the vocabulary projection, which is half of the decoder's work.
        normed = graph.node("Slice", [normed, LOGITS_FROM, graph.ints(2**31 - 1), graph.ints(1)], "wanted")
    graph.linear(normed, "proj_out", "logits")
    graph.node("Concat", [f"layers.{k}.cross.p" for k in range(graph.weights.size.layers)], "cross.p", axis=0)
    graph.node("Unsqueeze", ["cross.p", graph.ints(1)], CROSS_ATTENTION)
    inputs, outputs = _interface(graph, whole_prefix=whole_prefix)
    model = graph.model("prefix" if whole_prefix else "step", inputs, outputs, ir_version)
    return bytes(model.SerializeToString())


def _encoder_caches(graph: DecoderGraph) -> None:
    """encoder_hidden_states (1, T, D) -> present.*.encoder.* (1, heads, T, head size)."""
    size = graph.weights.size
    hidden = graph.quantised("encoder_hidden_states")
    for k in range(size.layers):
        for kind in ("key", "value"):
            name = f"layers.{k}.encoder.{kind}"
            rows = graph.linear(hidden, f"layers.{k}/encoder_attn/{kind[0]}_proj", name)
            rows = graph.node("Reshape", [rows, graph.ints(0, 0, size.heads, size.head_size)], f"{name}.rows")
            graph.transposed(rows, f"present.{k}.encoder.{kind}")


def _self_attention(graph: DecoderGraph, x: str, k: int, position: str, *, whole_prefix: bool) -> str:
    """(1, U, D) -> (1, U, D); writes present.{k}.decoder.*."""
    name = f"layers.{k}.self"
    quantised = graph.quantised(x)
    query, key, value = (
        graph.linear(quantised, f"layers.{k}/self_attn/{kind}_proj", f"{name}.{kind}") for kind in "qkv"
    )
    tables = [graph.constant(f"rotary.{kind}", table) for kind, table in _rotary(graph.weights).items()]
    query, key = (
        graph.node(
            "RotaryEmbedding",
            [vector, position, *tables],
            f"{vector}.turned",
            MICROSOFT,
            interleaved=1,
            num_heads=graph.weights.size.heads,
            rotary_embedding_dim=ROTARY_SIZE,
        )
        for vector in (query, key)
    )
    inputs = [query, key, value]
    if not whole_prefix:
        inputs += ["", "", "", *(f"past_key_values.{k}.decoder.{kind}" for kind in ("key", "value"))]
    outputs = [f"{name}.read", *(f"present.{k}.decoder.{kind}" for kind in ("key", "value"))]
    graph.node(
        "MultiHeadAttention",
        inputs,
        outputs,
        MICROSOFT,
        num_heads=graph.weights.size.heads,
        unidirectional=int(whole_prefix),
    )
    return graph.linear(f"{name}.read", f"layers.{k}/self_attn/o_proj", f"{name}.out")


def _rotary(weights: Weights) -> dict[str, Array]:
    """Tables (positions, rotary size / 2) of the angles' cosine and sine."""
    frequencies = np.asarray(weights.frequencies(), np.float32).reshape(1, -1)
    angles = np.arange(POSITIONS, dtype=np.float32)[:, None] * frequencies
    return {"cos": np.cos(angles), "sin": np.sin(angles)}


def _cross_attention(graph: DecoderGraph, x: str, k: int, *, whole_prefix: bool) -> str:
    """(1, U, D) -> (1, U, D); leaves the weights (1, heads, U, T) in layers.{k}.cross.p."""
    size = graph.weights.size
    name = f"layers.{k}.cross"
    source = "present" if whole_prefix else "past_key_values"
    key, value = (f"{source}.{k}.encoder.{kind}" for kind in ("key", "value"))
    query = graph.linear(x, f"layers.{k}/encoder_attn/q_proj", f"{name}.q")
    if whole_prefix:
        query = graph.node("Reshape", [query, graph.ints(0, 0, size.heads, size.head_size)], f"{name}.q_rows")
        query = graph.transposed(query, f"{name}.q_heads")
    else:  # one token: heads and tokens need not change places
        query = graph.node("Reshape", [query, graph.ints(1, size.heads, 1, size.head_size)], f"{name}.q_heads")
    graph.node("FusedMatMul", [query, key], f"{name}.qk", MICROSOFT, transB=1, alpha=graph.weights.size.head_size**-0.5)
    graph.node("Softmax", [f"{name}.qk"], f"{name}.p", axis=-1)
    read = graph.node("MatMul", [f"{name}.p", value], f"{name}.read")
    if whole_prefix:
        read = graph.transposed(read, f"{name}.read_rows")
    read = graph.node("Reshape", [read, graph.ints(1, -1, size.width)], f"{name}.joined")
    return graph.linear(read, f"layers.{k}/encoder_attn/o_proj", f"{name}.out")


def _feed_forward(graph: DecoderGraph, x: str, k: int) -> str:
    """(1, U, D) -> (1, U, D)."""
    name = f"layers.{k}.mlp"
    wide = graph.linear(x, f"layers.{k}/mlp/fc1", f"{name}.wide")
    half = 4 * graph.weights.size.width
    graph.node("Split", [wide, graph.ints(half, half)], [f"{name}.value", f"{name}.gate"], axis=2)
    gate = graph.node("QuickGelu", [f"{name}.gate"], f"{name}.silu", MICROSOFT, alpha=1.0)
    gated = graph.node("Mul", [gate, f"{name}.value"], f"{name}.gated")
    return graph.linear(gated, f"layers.{k}/mlp/fc2", f"{name}.out")


def _interface(
    graph: DecoderGraph, *, whole_prefix: bool
) -> tuple[list[onnx.ValueInfoProto], list[onnx.ValueInfoProto]]:
    """The inputs and outputs that `onnx_export.moonshine.DecoderGraphs` describes."""
    size = graph.weights.size

    def value(name: str, element: int, *shape: int | str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, element, shape)

    def caches(prefix: str, sides: dict[str, str]) -> list[onnx.ValueInfoProto]:
        return [
            value(f"{prefix}.{k}.{side}.{kind}", FLOAT, 1, size.heads, length, size.head_size)
            for k in range(graph.weights.size.layers)
            for side, length in sides.items()
            for kind in ("key", "value")
        ]

    tokens: int | str = "tokens" if whole_prefix else 1
    vocabulary = graph.tensors["embedding.0"].dims[0]
    inputs = [
        value("input_ids", INT64, 1, tokens),
        value("encoder_hidden_states", FLOAT, 1, "frames", size.width),
        # One unpadded window needs no mask: this input is there for callers of the exported interface.
        value("encoder_attention_mask", INT64, 1, "samples"),
    ]
    if whole_prefix:
        inputs.append(value(LOGITS_FROM, INT64, 1))
        outputs = [value("logits", FLOAT, 1, "wanted_tokens", vocabulary)]
        outputs += caches("present", {"decoder": "tokens", "encoder": "frames"})
    else:
        inputs += caches("past_key_values", {"decoder": "past_tokens", "encoder": "frames"})
        outputs = [value("logits", FLOAT, 1, 1, vocabulary), *caches("present", {"decoder": "all_tokens"})]
    outputs.append(value(CROSS_ATTENTION, FLOAT, size.layers, 1, size.heads, tokens, "frames"))
    return inputs, outputs
