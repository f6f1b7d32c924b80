"""The converted voice graphs: small, plain, within the declared contract; and the conversion's own steps."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from onnx_export import voice

FloatArray = npt.NDArray[np.float32]
WEIGHTS = Path(str(importlib.resources.files("streaming_models"))) / "weights" / "voice"


def session(name: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(WEIGHTS / f"{name}.onnx"), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", voice.GRAPH_NAMES)
def test_shipped_graph_is_plain_onnx_and_says_where_it_comes_from(name: str) -> None:
    model = onnx.load(str(WEIGHTS / f"{name}.onnx"))
    onnx.checker.check_model(model)
    assert {node.domain for node in model.graph.node} == {""}
    assert not [node for node in model.graph.node if node.op_type == "If"]
    properties = {item.key: item.value for item in model.metadata_props}
    assert properties["licence"] == "CC BY 4.0"
    assert "pyannote.audio" in properties["attribution"]


def test_shipped_graphs_stay_under_ten_megabytes() -> None:
    assert sum((WEIGHTS / f"{name}.onnx").stat().st_size for name in voice.GRAPH_NAMES) <= 10_000_000


def test_segmentation_gives_probabilities_of_three_speakers() -> None:
    [signal] = voice.probes(1)
    active = session("segmentation").run(None, {"waveforms": signal[None, None]})[0]
    assert active.shape == (1, 589, 3)
    assert active.min() >= 0.0
    assert active.max() <= 1.0 + 1e-5
    assert len(np.unique(active)) > 10  # not the hard choice of the source


def test_embedding_ignores_frames_of_no_weight_in_its_pooling() -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal(0, 3, (1, 120, 80)).astype(np.float32)
    graph = session("embedding")
    whole = graph.run(None, {"fbank": rows, "weights": np.ones((1, 120), np.float32)})[0]
    half = graph.run(None, {"fbank": rows, "weights": np.repeat([[1.0, 0.0]], 60, 1).astype(np.float32)})[0]
    assert whole.shape == (1, 256)
    assert not np.allclose(whole, half)


def switch_graph() -> onnx.GraphProto:
    """`If` with a one-convolution branch, as the segmentation source has it."""
    branch = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["inner"], kernel_shape=[3])],
        "then",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )
    return helper.make_graph(
        [
            helper.make_node("If", ["flag"], ["switched"], then_branch=branch, else_branch=branch),
            helper.make_node("Abs", ["switched"], ["y"]),
            helper.make_node("Neg", ["x"], ["unused"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            helper.make_tensor("w", TensorProto.FLOAT, [1, 1, 3], [1.0, 2.0, 3.0]),
            helper.make_tensor("flag", TensorProto.BOOL, [], [True]),
        ],
    )


def test_rank_switch_becomes_its_branch_and_unused_parts_go() -> None:
    graph = switch_graph()
    voice.inline_rank_switch(graph)
    voice.remove_unused(graph)
    assert [node.op_type for node in graph.node] == ["Conv", "Abs"]
    assert [item.name for item in graph.initializer] == ["w"]


def test_a_graph_without_the_switch_is_refused() -> None:
    graph = switch_graph()
    del graph.node[0]
    with pytest.raises(voice.VoiceExportError, match="found 0"):
        voice.inline_rank_switch(graph)
    with pytest.raises(voice.VoiceExportError, match="speaker sets"):
        voice.soften_segmentation(graph)


def test_missing_source_and_unknown_name_are_named(tmp_path: Path) -> None:
    with pytest.raises(voice.VoiceExportError, match=r"segmentation\.ort"):
        voice.convert(tmp_path / "segmentation.ort", "segmentation")
    with pytest.raises(voice.VoiceExportError, match="decoder"):
        voice.convert(tmp_path / "x.ort", "decoder")


def test_a_graph_agrees_with_itself(tmp_path: Path) -> None:
    model = onnx.load(str(WEIGHTS / "embedding.onnx"))
    features = [np.random.default_rng(3).normal(0, 3, (70, 80)).astype(np.float32)]
    parity = voice.check_embedding(WEIGHTS / "embedding.onnx", model, features)
    assert parity.passed
    assert parity.worst < 1e-6
