"""Moonshine's merged decoder as two plain graphs: one that reads a whole prefix, one that adds a token.

The wheel `moonshine-voice` carries the decoder as one ORT file with an `If` over "is there a cache". Two plain
graphs cost less per call, and the prefix graph can hand out what the merged one hides: the cross-attention of every
layer, from which word times are read. The weights stay as they are (int8).

This file imports no torch, so the server may build the graphs at its start instead of shipping 30 MB twice.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime
from onnx import helper

CROSS_ATTENTION = "cross_attention"
LOGITS = "logits"
LOGITS_FROM = "logits_from"
"""Extra input of the prefix graph: (1,) int64, the first token position whose logits are wanted."""


@dataclass(frozen=True)
class DecoderGraphs:
    """Serialised ONNX models.

    `prefix`: input_ids (B, U), logits_from (1,), encoder_hidden_states (B, T, D), encoder_attention_mask (B, S)
    -> logits (B, U - logits_from, V), present.* caches, cross_attention (layers, B, heads, U, T).
    `step`: the same for one token after past_key_values.*, without logits_from.
    """

    prefix: bytes
    step: bytes


def read_ort_as_onnx(path: Path) -> onnx.ModelProto:
    """An ORT-format model as ONNX, unoptimised.

    Raises:
        FileNotFoundError: no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"expected an ORT model file, got {path}")
    with tempfile.TemporaryDirectory() as folder:
        target = str(Path(folder) / "model.onnx")
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.optimized_model_filepath = target
        options.log_severity_level = 3
        options.add_session_config_entry("session.save_model_format", "ONNX")
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return onnx.load(target)


def split_decoder(merged: onnx.ModelProto) -> DecoderGraphs:
    """The two branches of Moonshine's merged decoder as graphs of their own.

    Raises:
        ValueError: the model is not a merged decoder (no single `If` with two branches).
    """
    ifs = [node for node in merged.graph.node if node.op_type == "If"]
    if len(ifs) != 1:
        raise ValueError(f"expected a merged decoder with one If node, got {len(ifs)} in {merged.graph.name!r}")
    branches = {attribute.name: attribute.g for attribute in ifs[0].attribute}
    return DecoderGraphs(
        prefix=_plain_graph(merged, ifs[0], branches["else_branch"], whole_prefix=True),
        step=_plain_graph(merged, ifs[0], branches["then_branch"], whole_prefix=False),
    )


def _plain_graph(
    merged: onnx.ModelProto, branch_node: onnx.NodeProto, branch: onnx.GraphProto, *, whole_prefix: bool
) -> bytes:
    graph = merged.graph
    nodes = [node for node in graph.node if node.op_type != "If"] + list(branch.node)
    declared = {value.name: value for value in graph.output}
    produced = {name for node in nodes for name in node.output}
    outputs = []
    for inner, outer in zip(branch.output, branch_node.output, strict=True):
        if inner.name not in produced:
            continue  # the step branch passes the encoder caches through; the caller still has them
        if inner.name != outer:
            nodes.append(helper.make_node("Identity", [inner.name], [outer]))
        outputs.append(onnx.ValueInfoProto(name=outer, type=declared[outer].type))
    extra_inputs = []
    if whole_prefix:
        nodes = _logits_from_position(nodes)
        extra_inputs.append(helper.make_tensor_value_info(LOGITS_FROM, onnx.TensorProto.INT64, [1]))
    softmax = sorted((n.name, n.output[0]) for n in nodes if n.op_type == "Softmax" and "encoder_attn" in n.name)
    layers = [f"{CROSS_ATTENTION}.{k}" for k in range(len(softmax))]
    nodes += [
        helper.make_node("Unsqueeze", [name, "cross_attention_axes"], [layer])
        for (_, name), layer in zip(softmax, layers, strict=True)
    ]
    nodes.append(helper.make_node("Concat", layers, [CROSS_ATTENTION], axis=0))
    outputs.append(
        helper.make_tensor_value_info(CROSS_ATTENTION, onnx.TensorProto.FLOAT, [len(layers), None, None, None, None])
    )
    nodes = _reachable(nodes, {value.name for value in outputs})
    used = {name for node in nodes for name in node.input}
    initialisers = [t for t in (*graph.initializer, *branch.initializer) if t.name in used]
    initialisers.append(helper.make_tensor("cross_attention_axes", onnx.TensorProto.INT64, [1], [0]))
    if whole_prefix:
        initialisers += [
            helper.make_tensor("logits_end", onnx.TensorProto.INT64, [1], [2**31 - 1]),
            helper.make_tensor("logits_axis", onnx.TensorProto.INT64, [1], [1]),
        ]
    inputs = [value for value in graph.input if value.name in used] + extra_inputs
    plain = helper.make_graph(nodes, branch.name, inputs, outputs, initializer=initialisers)
    model = helper.make_model(plain, opset_imports=merged.opset_import, ir_version=merged.ir_version)
    return bytes(model.SerializeToString())


def _logits_from_position(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Cut the hidden states before the vocabulary projection, which is half of the decoder's work."""
    result = []
    for node in nodes:
        if LOGITS in node.output:
            cut = helper.make_node(
                "Slice", [node.input[0], LOGITS_FROM, "logits_end", "logits_axis"], ["hidden_from_position"]
            )
            changed = onnx.NodeProto()
            changed.CopyFrom(node)
            changed.input[0] = "hidden_from_position"
            result += [cut, changed]
        else:
            result.append(node)
    return result


def _reachable(nodes: list[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    """The nodes that the wanted outputs need, in their order; ORT warns about everything else."""
    kept: list[onnx.NodeProto] = []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted = wanted.union(node.input)
            kept.append(node)
    return kept[::-1]
