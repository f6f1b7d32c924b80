"""Moonshine's merged decoder as two plain graphs: one that reads a whole prefix, one that adds a token.

The wheel `moonshine-voice` carries the decoder as one ORT file with an `If` over "is there a cache". Two plain
graphs cost less per call and hand out what the merged one hides: the cross-attention of every layer, from which word
times are read. The weights stay as they are (int8); `onnx_export.moonshine_decoder` writes the nodes around them.

This file imports no torch, so the server may build the graphs at its start instead of shipping 30 MB twice.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime

from onnx_export.moonshine_decoder import CROSS_ATTENTION, LOGITS_FROM, Weights, build

__all__ = ["CROSS_ATTENTION", "LOGITS_FROM", "DecoderGraphs", "read_ort_as_onnx", "split_decoder"]


@dataclass(frozen=True)
class DecoderGraphs:
    """Serialised ONNX models for one window at a time, without padding.

    `prefix`: input_ids (1, U), logits_from (1,), encoder_hidden_states (1, T, D), encoder_attention_mask (1, S; unread)
    -> logits (1, U - logits_from, V), present.* caches (1, heads, U or T, head size),
    cross_attention (layers, 1, heads, U, T).
    `step`: the same for one token after past_key_values.*, without logits_from and without the encoder's caches among
    its outputs: the caller still has them.
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
        ValueError: the model is not a merged decoder (no single `If` with two branches), or not Moonshine Tiny's.
    """
    weights = Weights.of_merged(merged)
    return DecoderGraphs(
        prefix=build(weights, merged.ir_version, whole_prefix=True),
        step=build(weights, merged.ir_version, whole_prefix=False),
    )
