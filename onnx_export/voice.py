"""Convert the two voice models of pyannote.audio's community-1 pipeline into plain ONNX graphs.

    python -m onnx_export.voice --source DIR --out DIR

`DIR` of the source holds `segmentation.ort` and `embedding.ort` (CC BY 4.0). The results, `segmentation.onnx`
and `embedding.onnx`, keep their weights as uint8 with one scale and offset a tensor, expanded by Cast, Mul and Add:
ONNX Runtime folds these three when it loads an ONNX graph (and cannot for an ORT-format file, which repeats them
at every run). The segmentation graph is changed in one more place: it gives the probability of each local speaker
instead of the hard choice among the seven speaker sets.

This file refuses to train, to quantise anew, or to fetch the sources.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

FloatArray = npt.NDArray[np.float32]

GRAPH_NAMES = ("segmentation", "embedding")
OPSET_VERSION = 17
"""The sources' own operator set; every operator used here is in it."""

IR_VERSION = 8
"""What operator set 17 came with, so that any runtime since ONNX 1.12 loads the graphs."""

WINDOW_SAMPLES = 160_000
"""The segmentation window: 10 s at 16 kHz."""

EMBEDDING_TOLERANCE_COS = 1e-4
"""Largest allowed 1 - cos between source and converted embeddings (float32 rounding only)."""

SEGMENTATION_TOLERANCE_SHARE = 0.002
"""Largest share of frames whose thresholded speakers may differ from the source's hard choice.

Thresholding the marginals at one half differs from the most probable set only where no set has half of the mass;
those frames are not counted (see `check_segmentation`).
"""

_SPEAKER_SETS = "/conversions.0/Constant_2_output_0"
_LOG_PROBABILITIES = "/inner/activation/LogSoftmax_output_0"
_CONVERSION_NODES = ("ArgMax", "OneHot")


class VoiceExportError(ValueError):
    """A source graph is not the one this conversion knows, or a converted graph disagrees with it."""


@dataclass(frozen=True)
class Parity:
    """How far a converted graph is from its source over the probes.

    Attributes:
        name: graph name.
        worst: largest disagreement (embedding: 1 - cos; segmentation: share of frames).
        tolerance: what is allowed, same unit.
    """

    name: str
    worst: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """True when the disagreement is within the tolerance."""
        return self.worst <= self.tolerance


def load_ort_as_onnx(path: Path) -> onnx.ModelProto:
    """The graph inside an ORT-format file, unoptimised, as an ONNX model.

    Raises:
        VoiceExportError: the file is missing.
    """
    if not path.is_file():
        raise VoiceExportError(f"expected an ORT-format model at {path}, found none")
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "model.onnx"
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.optimized_model_filepath = str(saved)
        options.add_session_config_entry("session.save_model_format", "ONNX")
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return onnx.load(str(saved))


def inline_rank_switch(graph: onnx.GraphProto) -> None:
    """Replace the one `If` of the segmentation graph by its branch for (B, 1, S) input, in place.

    torch exported a switch for one-channel versus many-channel input; the saved subgraphs carry no name, which
    other readers refuse, and only one branch can ever be taken.

    Raises:
        VoiceExportError: there is not exactly one `If`, or its branch is not a single convolution.
    """
    switches = [node for node in graph.node if node.op_type == "If"]
    if len(switches) != 1:
        raise VoiceExportError(f"expected one If node in the segmentation graph, found {len(switches)}")
    [switch] = switches
    branch = next(item.g for item in switch.attribute if item.name == "then_branch")
    if [node.op_type for node in branch.node] != ["Conv"]:
        raise VoiceExportError(f"expected one Conv in the branch, found {[n.op_type for n in branch.node]}")
    conv = onnx.NodeProto()
    conv.CopyFrom(branch.node[0])
    conv.output[0] = switch.output[0]
    position = list(graph.node).index(switch)
    graph.node.remove(switch)
    graph.node.insert(position, conv)


def soften_segmentation(graph: onnx.GraphProto) -> None:
    """Give speaker probabilities (sums over the speaker sets that hold the speaker) instead of a choice, in place.

    Raises:
        VoiceExportError: the graph does not end in ArgMax, OneHot, Cast and MatMul over speaker sets.
    """
    produced = {name: node for node in graph.node for name in node.output}
    last = produced.get("segmentation")
    if last is None or last.op_type != "MatMul" or last.input[1] != _SPEAKER_SETS:
        raise VoiceExportError("expected the segmentation graph to end in MatMul over speaker sets")
    if _LOG_PROBABILITIES not in produced:
        raise VoiceExportError(f"expected {_LOG_PROBABILITIES} in the segmentation graph")
    exp = helper.make_node("Exp", [_LOG_PROBABILITIES], ["speaker_set_probabilities"], name="speaker_sets/Exp")
    graph.node.insert(list(graph.node).index(last), exp)
    last.input[0] = "speaker_set_probabilities"


def remove_unused(graph: onnx.GraphProto) -> None:
    """Drop nodes and weights that no output needs, in place."""
    needed = {item.name for item in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(list(graph.node)):
        if any(name in needed for name in node.output):
            kept.append(node)
            needed.update(node.input)
    kept.reverse()
    del graph.node[:]
    graph.node.extend(kept)
    weights = [item for item in graph.initializer if item.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(weights)
    del graph.value_info[:]


def convert(path: Path, name: str) -> onnx.ModelProto:
    """One converted graph.

    Args:
        path: the ORT-format source.
        name: `segmentation` or `embedding`.

    Raises:
        VoiceExportError: unknown name, missing file or unexpected graph.
    """
    if name not in GRAPH_NAMES:
        raise VoiceExportError(f"expected one of {GRAPH_NAMES}, received {name!r}")
    graph = load_ort_as_onnx(path).graph
    if name == "segmentation":
        inline_rank_switch(graph)
        soften_segmentation(graph)
    remove_unused(graph)
    graph.name = name
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET_VERSION)], producer_name="crosstalk onnx_export.voice"
    )
    model.ir_version = IR_VERSION
    helper.set_model_props(
        model,
        {
            "origin": f"pyannote.audio community-1 {name}, converted",
            "licence": "CC BY 4.0",
            "attribution": "pyannote.audio (H. Bredin and contributors); WeSpeaker (embedding)",
            "sample_rate_hz": "16000",
        },
    )
    onnx.checker.check_model(model)
    return model


def probes(count: int = 4, seed: int = 0) -> list[FloatArray]:
    """(160000,) test signals: noise bursts with moving spectra, loud enough to excite every layer."""
    generator = np.random.default_rng(seed)
    signals: list[FloatArray] = []
    time_s = np.arange(WINDOW_SAMPLES) / 16_000
    for index in range(count):
        pitch_hz = 90 + 50 * index + 10 * np.sin(2 * np.pi * 0.7 * time_s)
        phase = 2 * np.pi * np.cumsum(pitch_hz) / 16_000
        buzz = sum(np.sin(k * phase) / k for k in range(1, 25))
        gate = (np.sin(2 * np.pi * (0.2 + 0.1 * index) * time_s) > 0) * 0.1
        signals.append((buzz * gate + generator.normal(0, 0.003, WINDOW_SAMPLES)).astype(np.float32))
    return signals


def _session(model: str | bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def check_segmentation(source: Path, model: onnx.ModelProto, signals: Sequence[FloatArray]) -> Parity:
    """Share of frames where the converted graph's most probable speakers differ from the source's choice.

    Frames where a probability is within 0.1 of one half are left out: there the two definitions may differ.
    """
    before, after = _session(str(source)), _session(model.SerializeToString())
    wrong, counted = 0, 0
    for signal in signals:
        feed = {"waveforms": signal[None, None]}
        hard = before.run(None, feed)[0][0] > 0.5
        soft = after.run(None, feed)[0][0]
        clear = (np.abs(soft - 0.5) > 0.1).all(-1)
        wrong += int(((soft > 0.5) != hard).any(-1)[clear].sum())
        counted += int(clear.sum())
    if counted == 0:
        raise VoiceExportError("no clear frame among the probes: give speech")
    return Parity("segmentation", wrong / counted, SEGMENTATION_TOLERANCE_SHARE)


def check_embedding(source: Path, model: onnx.ModelProto, features: Sequence[FloatArray]) -> Parity:
    """Largest 1 - cos between source and converted embeddings of (T, 80) features, with some frames weighted out."""
    before, after = _session(str(source)), _session(model.SerializeToString())
    worst = 0.0
    for rows in features:
        weights = np.ones(len(rows), np.float32)
        weights[: len(rows) // 4] = 0.0
        feed = {"fbank": rows[None], "weights": weights[None]}
        a, b = before.run(None, feed)[0][0], after.run(None, feed)[0][0]
        worst = max(worst, 1.0 - float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b))))
    return Parity("embedding", worst, EMBEDDING_TOLERANCE_COS)


def storage_bytes(model: onnx.ModelProto) -> dict[str, int]:
    """Bytes of weights by element type, for the card."""
    sizes: dict[str, int] = {}
    for item in model.graph.initializer:
        array = numpy_helper.to_array(item)
        sizes[str(array.dtype)] = sizes.get(str(array.dtype), 0) + array.nbytes
    return sizes


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert both graphs, check them, print what was measured; 1 when a check fails."""
    parser = argparse.ArgumentParser(prog="python -m onnx_export.voice", description=__doc__.split("\n")[0])
    parser.add_argument("--source", type=Path, required=True, help="folder of segmentation.ort and embedding.ort")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the two .onnx files to")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)

    generator = np.random.default_rng(1)
    features = [generator.normal(0, 3, (frames, 80)).astype(np.float32) for frames in (60, 100, 201)]
    failed = False
    for name in GRAPH_NAMES:
        source = options.source / f"{name}.ort"
        model = convert(source, name)
        if name == "segmentation":
            parity = check_segmentation(source, model, probes())
        else:
            parity = check_embedding(source, model, features)
        target = options.out / f"{name}.onnx"
        if parity.passed:
            target.write_bytes(model.SerializeToString())
        failed |= not parity.passed
        verdict = "written" if parity.passed else "NOT written"
        print(f"{target}: {verdict}; disagreement {parity.worst:.2g} of {parity.tolerance:.2g} allowed")
        print(f"  weights in bytes: {storage_bytes(model)}")
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
