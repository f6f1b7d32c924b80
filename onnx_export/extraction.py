"""The network that takes one voice out of several as an ONNX graph: one mixture, one wanted voice, any length.

Run: python -m onnx_export.extraction MODEL.pt --out DIR [--card FIELDS.json]

Written node by node from the weights; held to the torch net before anything is written. Its matrices and LSTMs run in
int8 by ONNX Runtime's own dynamic quantisation, in 7 bits: on processors without VNNI 8 would overflow.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from onnx_export.card import card, read_fields
from onnx_export.graph import Graph, open_graph
from onnx_export.metadata import PREFIX, sha256, write_properties
from onnx_export.parity import TOLERANCE, ParityError
from streaming_models.nets.extraction import ExtractionNet
from streaming_models.short_time import BINS, frames_in

FloatArray = NDArray[np.float32]

MODEL_FILE, CARD_FILE = "extraction.onnx", "CARD.md"
MEASURED_S = 8.0
HEAD = (
    "# One voice out of several",
    "",
    "Takes the voice of somebody who is also heard alone out of what one microphone hears of several people, for",
    "the second reading of overlapped speech (`streaming_models/overlap_hearing.py`). Not causal. Written by",
    "`python -m onnx_export.extraction`.",
)


class ExtractionGraph(Graph):
    """The float32 graph of `nets.extraction.ExtractionNet`.

    Args:
        weights: the net's state.
    """

    def __init__(self, weights: Mapping[str, FloatArray]) -> None:
        super().__init__()
        self._weights = weights

    def build(self) -> onnx.ModelProto:
        """The model, without metadata: magnitude (1, T, BINS), own and others (1, T) -> mask (1, T, BINS)."""
        h = self._linear(self._features(), "enter")
        h = self._recurrent(self._convolution(h, "shared.0"), "shared.1")
        v = self._linear(self._norm(h, "voice.0"), "voice.1")
        voices = self._linear(self._silu(v), "voice.3")
        whom = self.node(
            "Concat", [self._mean_where("own", voices), self._mean_where("others", voices)], "whom", axis=2
        )
        columns = [self.node("Unsqueeze", [name, self.ints(2)], f"{name}.column") for name in ("own", "others")]
        marks = self._linear(self.node("Concat", columns, "marked", axis=2), "marks")
        h = self.node("Add", [h, marks], "asked")
        for k in range(2):
            scale, shift = self._halves(self._linear(whom, f"modulation.{k}"), 2)
            scaled = self.node("Mul", [h, self.node("Add", [scale, self.number(1.0)], f"scale.{k}")], f"scaled.{k}")
            h = self._recurrent(self.node("Add", [scaled, shift], f"shifted.{k}"), f"own.{k}")
        self.node("Sigmoid", [self._linear(self._norm(h, "norm"), "out")], "mask")
        shapes: dict[str, list[int | str]] = {
            "magnitude": [1, "frames", BINS],
            "own": [1, "frames"],
            "others": [1, "frames"],
            "mask": [1, "frames", BINS],
        }
        values = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in shapes.items()}
        mask = values.pop("mask")
        return self.model("extraction", list(values.values()), [mask])

    def _weight(self, name: str) -> str:
        return self.constant(name, self._weights[name])

    def _features(self) -> str:
        axes = self.ints(1, 2)
        mean = self.node("ReduceMean", ["magnitude", axes], "loudness", keepdims=1)
        quiet = self.node("Mul", [mean, self.number(1e-3)], "quiet")
        heard = self.node("Add", [self.node("Add", ["magnitude", quiet], "raised"), self.number(1e-8)], "positive")
        log = self.node("Log", [heard], "log")
        centred = self.node("Sub", [log, self.node("ReduceMean", [log, axes], "log.mean", keepdims=1)], "centred")
        return self.node("Add", [centred, self._weight("bias")], "features")

    def _linear(self, x: str, name: str) -> str:
        weight = self.constant(f"{name}.matrix", np.ascontiguousarray(self._weights[f"{name}.weight"].T))
        product = self.node("MatMul", [x, weight], f"{name}.product")
        return self.node("Add", [product, self._weight(f"{name}.bias")], f"{name}.sum")

    def _norm(self, x: str, name: str) -> str:
        inputs = [x, self._weight(f"{name}.weight"), self._weight(f"{name}.bias")]
        return self.node("LayerNormalization", inputs, f"{name}.normal", axis=-1, epsilon=1e-5)

    def _silu(self, x: str) -> str:
        return self.node("Mul", [x, self.node("Sigmoid", [x], f"{x}.gate")], f"{x}.silu")

    def _halves(self, x: str, axis: int) -> tuple[str, str]:
        halves = [f"{x}.first", f"{x}.second"]
        self.node("Split", [x], halves, axis=axis, num_outputs=2)
        return halves[0], halves[1]

    def _convolution(self, x: str, name: str) -> str:
        first, second = self._halves(self._linear(self._norm(x, f"{name}.norm"), f"{name}.gated"), 2)
        gated = self.node("Mul", [first, self.node("Sigmoid", [second], f"{name}.open")], f"{name}.glu")
        across = self.node("Transpose", [gated], f"{name}.across", perm=[0, 2, 1])
        kernel = self._weights[f"{name}.over_time.weight"]
        inputs = [across, self._weight(f"{name}.over_time.weight"), self._weight(f"{name}.over_time.bias")]
        reach = kernel.shape[2] // 2
        spread = self.node("Conv", inputs, f"{name}.spread", group=len(kernel), pads=[reach, reach])
        back = self.node("Transpose", [spread], f"{name}.back", perm=[0, 2, 1])
        inner = self._silu(self._norm(back, f"{name}.inner_norm"))
        return self.node("Add", [x, self._linear(inner, f"{name}.out")], f"{name}.result")

    def _recurrent(self, x: str, name: str) -> str:
        frames = self.node("Transpose", [self._norm(x, f"{name}.norm")], f"{name}.frames", perm=[1, 0, 2])
        inputs = [frames, *(self.constant(f"{name}.{kind}", self._lstm(name, kind)) for kind in ("w", "r", "b"))]
        width = self._weights[f"{name}.norm.weight"].shape[0]
        self.node("LSTM", inputs, f"{name}.both", hidden_size=width, direction="bidirectional")
        turned = self.node("Transpose", [f"{name}.both"], f"{name}.turned", perm=[2, 0, 1, 3])
        joined = self.node("Reshape", [turned, self.ints(0, 0, 2 * width)], f"{name}.joined")
        return self.node("Add", [x, self._linear(joined, f"{name}.out")], f"{name}.result")

    def _lstm(self, name: str, kind: str) -> FloatArray:
        """Both directions of W, R or the biases, with torch's gates (i, f, g, o) in ONNX's order (i, o, f, g)."""

        def of(part: str, direction: str) -> FloatArray:
            i, f, g, o = np.split(self._weights[f"{name}.lstm.{part}_l0{direction}"], 4)
            return np.concatenate((i, o, f, g))

        rows: list[FloatArray] = []
        for direction in ("", "_reverse"):
            if kind == "b":
                rows.append(np.concatenate((of("bias_ih", direction), of("bias_hh", direction))))
            else:
                rows.append(of("weight_ih" if kind == "w" else "weight_hh", direction))
        return np.stack(rows)

    def _mean_where(self, marks: str, voices: str) -> str:
        row = self.node("Unsqueeze", [marks, self.ints(1)], f"{marks}.row")
        count = self.node("ReduceSum", [row, self.ints(2)], f"{marks}.count", keepdims=1)
        more = self.node("Add", [count, self.number(1.0)], f"{marks}.more")
        return self.node("Div", [self.node("MatMul", [row, voices], f"{marks}.voices"), more], f"{marks}.mean")


def example(seed: int = 0) -> dict[str, FloatArray]:
    """Inputs of `MEASURED_S`: noise that is loud and soft, with one voice alone, then the other."""
    rng = np.random.default_rng(seed)
    frames = frames_in(MEASURED_S)
    loud = np.abs(np.sin(np.linspace(0, 40, frames)))[None, :, None]
    marks = np.arange(frames)[None]
    return {
        "magnitude": (np.abs(rng.standard_normal((1, frames, BINS))) * loud).astype(np.float32),
        "own": (marks < frames // 3).astype(np.float32),
        "others": (marks > 2 * frames // 3).astype(np.float32),
    }


def net_mask(net: ExtractionNet, feed: Mapping[str, FloatArray]) -> FloatArray:
    """(1, T, BINS) by torch."""
    magnitude, own, others = (torch.from_numpy(feed[name]) for name in ("magnitude", "own", "others"))
    with torch.no_grad():
        mask: FloatArray = net(magnitude, own[:, None], others[:, None])[:, 0].numpy()
    return mask


def in_int8(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with int8 matrices and LSTMs."""
    with tempfile.TemporaryDirectory() as folder:
        exact, small = Path(folder) / "exact.onnx", Path(folder) / "small.onnx"
        onnx.save(model, str(exact))
        quantize_dynamic(exact, small, weight_type=QuantType.QInt8, reduce_range=True, per_channel=True)
        return onnx.load(str(small))


def release(checkpoint: Path, out: Path, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Write the graph and its card into `out`; what was measured.

    Args:
        checkpoint: `model.pt` of `streaming_models.train_extraction`.
        out: made if it is not there.
        fields: see `card`.

    Raises:
        ParityError: graph and net differ; nothing is written.
    """
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    net = ExtractionNet()
    net.load_state_dict(saved["net"])
    net.eval()
    feed = example()
    exact = ExtractionGraph({name: value.numpy() for name, value in saved["net"].items()}).build()
    expected = net_mask(net, feed)
    parity = float(np.abs(open_graph(exact).run(None, feed)[0] - expected).max())
    if parity > TOLERANCE:
        raise ParityError(f"expected the graph to say what the net says, within {TOLERANCE}; it differs by {parity}")
    small = in_int8(exact)
    properties = {"checkpoint_sha256": sha256(checkpoint), "step": str(saved["step"])}
    properties["config"] = json.dumps(saved["config"], sort_keys=True)
    write_properties(small, {f"{PREFIX}{name}": value for name, value in properties.items()})
    session = open_graph(small)
    started = time.process_time()
    rounded = session.run(None, feed)[0]
    measured = {
        "parity": parity,
        "int8_error": float(np.abs(rounded - expected).mean()),
        "cpu_s": time.process_time() - started,
    }
    out.mkdir(parents=True, exist_ok=True)
    onnx.save(small, str(out / MODEL_FILE))
    measured["bytes"] = (out / MODEL_FILE).stat().st_size
    training = f"step {properties['step']}, {properties['config']}"
    text = card(HEAD, training, properties["checkpoint_sha256"], fields, summary(measured))
    (out / CARD_FILE).write_text(text, encoding="utf-8")
    return measured


def summary(measured: Mapping[str, Any]) -> list[str]:
    """What was measured, a line each."""
    return [
        f"- Float32 graph against the net: largest difference {measured['parity']:.1e}.",
        f"- int8: masks differ by {measured['int8_error']:.4f} on average.",
        f"- {MODEL_FILE}: {measured['bytes']:,} bytes; {MEASURED_S:.0f} s take {measured['cpu_s']:.2f} s of one core.",
    ]


def main(arguments: list[str] | None = None) -> int:
    """Export from the command line; returns the exit status of the process."""
    parser = argparse.ArgumentParser(prog="python -m onnx_export.extraction", description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path, help="model.pt of a training run")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--card", type=Path, help="JSON with data, licence and scores for the card")
    options = parser.parse_args(arguments)
    try:
        fields = read_fields(options.card)
        measured = release(options.checkpoint, options.out, fields)
    except (ParityError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(summary(measured)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
