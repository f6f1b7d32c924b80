"""Moonshine Tiny's weights as plain float arrays: what the nets start from.

The wheel carries int8 ORT files; `weight = (quantised - zero point) * scale`, one scale a matrix. Names are ours:
`layers.0.self.q` is (in, out), so a layer computes `x @ w`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_export.moonshine import read_ort_as_onnx
from onnx_export.moonshine_decoder import LAYERS, Weights

FloatArray = NDArray[np.float32]


def pretrained_encoder(assets: Path) -> dict[str, FloatArray]:
    """The encoder's weights, under the names that `nets.encoder.Encoder.load_pretrained` takes.

    Args:
        assets: folder with `encoder_model.ort`.

    Raises:
        FileNotFoundError: no such file.
        KeyError: another model.
    """
    graph = read_ort_as_onnx(assets / "encoder_model.ort").graph
    raw = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = {name: value for name, value in raw.items() if value.dtype == np.float32 and value.ndim}
    for node in graph.node:
        if node.op_type == "MatMulIntegerToFloat":
            weight, scale, zero = node.input[1], node.input[3], node.input[5]
        elif node.op_type == "DynamicQuantizeMatMul":
            weight, scale, zero = node.input[1], node.input[2], node.input[3]
        else:
            continue
        name = node.name.replace("/MatMul_quant", "").strip("/")
        found[name] = _dequantised(raw[weight], raw[scale], raw[zero])
        if node.op_type == "DynamicQuantizeMatMul" and len(node.input) > 4 and node.input[4]:
            found[f"{name}.bias"] = raw[node.input[4]]
    weights = {f"conv{k}": found[f"conv{k}.weight_add_tensor"] for k in (1, 2, 3)}
    weights |= {"bias2": found["conv2.bias"], "bias3": found["conv3.bias"], "norm": found["layer_norm.weight"]}
    weights |= {"gain": found["onnx::Mul_2080"], "shift": found["onnx::Add_2081"]}
    for k in range(LAYERS):
        layer = f"layers.{k}"
        weights[f"{layer}.norm1"] = found[f"{layer}.input_layernorm.weight"]
        weights[f"{layer}.norm2"] = found[f"{layer}.post_attention_layernorm.weight"]
        for kind in "qkvo":
            weights[f"{layer}.{kind}"] = found[f"{layer}/self_attn/{kind}_proj"]
        for ours, theirs in (("w1", "fc1"), ("w2", "fc2")):
            weights[f"{layer}.{ours}"] = found[f"{layer}/mlp/{theirs}"]
            weights[f"{layer}.b{ours[1]}"] = found[f"{layer}/mlp/{theirs}.bias"]
    return weights


def pretrained_decoder(assets: Path) -> dict[str, FloatArray]:
    """The decoder's weights, under the names that `nets.sot_decoder.SotDecoder.load_pretrained` takes.

    Args:
        assets: folder with `decoder_model_merged.ort`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another model.
    """
    merged = read_ort_as_onnx(assets / "decoder_model_merged.ort")
    return decoder_weights(Weights.of_merged(merged))


def decoder_weights(source: Weights) -> dict[str, FloatArray]:
    """The same from a branch of the decoder that is at hand."""
    embedding = [
        *source.inputs_of("embed_tokens/Gather"),
        *source.inputs_of("embed_tokens/Gather_output_0_DequantizeLinear"),
    ]
    weights = {"embedding": _dequantised(*embedding)}
    weights["frequencies"] = np.asarray(source.inputs_of("rotary_emb/Expand")[0], np.float32).reshape(-1)
    weights["norm"] = _norm(source, "norm")
    weights["output"], _ = _linear(source, "proj_out")
    for k in range(LAYERS):
        layer = f"layers.{k}"
        names = ("input_layernorm", "post_attention_layernorm", "final_layernorm")
        for number, name in enumerate(names, start=1):
            weights[f"{layer}.norm{number}"] = _norm(source, f"{layer}/{name}")
        for ours, theirs in (("self", "self_attn"), ("cross", "encoder_attn")):
            for kind in "qkvo":
                weights[f"{layer}.{ours}.{kind}"], _ = _linear(source, f"{layer}/{theirs}/{kind}_proj")
        for number in (1, 2):
            weight, bias = _linear(source, f"{layer}/mlp/fc{number}")
            weights[f"{layer}.w{number}"] = weight
            weights[f"{layer}.b{number}"] = bias if bias is not None else np.zeros(weight.shape[1], np.float32)
    return weights


def _dequantised(weight: NDArray[np.generic], scale: NDArray[np.generic], zero: NDArray[np.generic]) -> FloatArray:
    values: FloatArray = (weight.astype(np.float32) - zero.astype(np.float32)) * scale.astype(np.float32)
    return values


def _linear(source: Weights, name: str) -> tuple[FloatArray, FloatArray | None]:
    weight, scale, zero, *bias = source.inputs_of(f"{name}/MatMul_quant")
    return _dequantised(weight, scale, zero), np.asarray(bias[0], np.float32) if bias else None


def _norm(source: Weights, name: str) -> FloatArray:
    return np.asarray(source.inputs_of(f"{name}/LayerNormalization")[0], np.float32)
