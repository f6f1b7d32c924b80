"""The weights of an exported extraction graph, as a checkpoint to go on training from.

Run: python -m onnx_export.restore_extraction EXTRACTION.onnx --out MODEL.pt

Checkpoints are too large to keep and get lost; what ships is in the repository. Its matrices come back as int8 left
them, which changes the masks as little as int8 does (see the card); `train_extraction --start` goes on from there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from streaming_models.nets.extraction import ExtractionNet
from streaming_models.train import write

FloatArray = NDArray[np.float32]


def weights_of(model: onnx.ModelProto) -> dict[str, FloatArray]:
    """The state of the net that `onnx_export.extraction` exported, in float32 or int8.

    Raises:
        ValueError: a weight is missing or has another shape, so the graph is of another net.
    """
    stored = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    state: dict[str, FloatArray] = {}
    for name, wanted in ExtractionNet().state_dict().items():
        try:
            value = _weight(stored, name)
        except KeyError as error:
            raise ValueError(f"expected a graph of the extraction net, got one without {error}") from error
        if value.shape != tuple(wanted.shape):
            raise ValueError(f"expected {name} of shape {tuple(wanted.shape)}, got {value.shape}")
        state[name] = value
    return state


def _weight(stored: Mapping[str, NDArray[np.generic]], name: str) -> FloatArray:
    """One weight under the net's name, in the net's layout."""
    layer, _, part = name.rpartition(".")
    if layer.endswith(".lstm"):
        return _of_lstm(stored, layer.removesuffix(".lstm"), part)
    if f"{name}_quantized" not in stored and name not in stored:
        return np.ascontiguousarray(_exact(stored, f"{layer}.matrix").T)
    return _exact(stored, name)


def _of_lstm(stored: Mapping[str, NDArray[np.generic]], layer: str, part: str) -> FloatArray:
    """ONNX has both directions in one tensor and gates (i, o, f, g); torch has (i, f, g, o)."""
    kind = {"weight_ih": "w", "weight_hh": "r", "bias_ih": "b", "bias_hh": "b"}[part.split("_l0")[0]]
    both = _exact(stored, f"{layer}.{kind}")
    if f"{layer}.{kind}_quantized" in stored:
        both = both.swapaxes(1, 2)
    rows = both[1 if part.endswith("_reverse") else 0]
    if kind == "b":
        rows = np.split(rows, 2)[part.startswith("bias_hh")]
    i, o, f, g = np.split(rows, 4)
    return np.concatenate((i, f, g, o))


def _exact(stored: Mapping[str, NDArray[np.generic]], name: str) -> FloatArray:
    """A tensor as it stands, or its int8 numbers times their scales, which go along the last axis."""
    if name in stored:
        return stored[name].astype(np.float32)
    numbers, scale = stored[f"{name}_quantized"].astype(np.float32), stored[f"{name}_scale"].astype(np.float32)
    zero = stored[f"{name}_zero_point"].astype(np.float32)
    if scale.ndim == 2:
        scale, zero = scale[:, None], zero[:, None]
    return (numbers - zero) * scale


def main(arguments: list[str] | None = None) -> int:
    """Restore from the command line; returns the exit status of the process."""
    parser = argparse.ArgumentParser(
        prog="python -m onnx_export.restore_extraction", description=__doc__.split("\n")[0]
    )
    parser.add_argument("graph", type=Path, help="extraction.onnx")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write")
    options = parser.parse_args(arguments)
    try:
        state = weights_of(onnx.load(str(options.graph)))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    write({"net": {name: torch.from_numpy(value) for name, value in state.items()}}, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
