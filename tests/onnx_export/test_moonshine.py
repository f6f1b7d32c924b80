"""The split decoder: both graphs say the same, token by token, and the attention handed out is one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnx_export.moonshine import CROSS_ATTENTION, LOGITS_FROM, read_ort_as_onnx, split_decoder
from server.inference import moonshine_assets
from streaming_models.moonshine import FloatArray
from streaming_models.tokens import START_ID
from tests import real


def read_row(seconds: float) -> tuple[FloatArray, int, list[int]]:
    pcm = real.speech("two_cities", seconds)
    return real.graphs().encode(pcm), len(pcm), [START_ID, *real.moonshine().read(pcm).tokens]


@pytest.mark.parametrize("seconds", [3.0, 7.0])
def test_prefix_graph_equals_step_graph_token_by_token(seconds: float) -> None:
    graphs = real.graphs()
    hidden, samples, row = read_row(seconds)
    assert len(row) > 6
    at_once, _, _ = graphs.read_prefix(row, hidden, samples, 0)
    first, caches, _ = graphs.read_prefix(row[:1], hidden, samples, 0)
    stepped = [first[0]]
    for token in row[1:]:
        latest, caches, _ = graphs.add_token(token, hidden, samples, caches)
        stepped.append(latest)
    assert at_once.shape == (len(row), 32_768)
    assert [int(r.argmax()) for r in at_once] == [int(r.argmax()) for r in stepped]
    for one, other in zip(at_once, stepped, strict=True):
        assert np.corrcoef(one, other)[0, 1] > 0.99  # int8: the scale of a row depends on all of its tokens


def test_logits_from_gives_the_last_rows_of_the_same_logits() -> None:
    hidden, samples, row = read_row(4.0)
    every, _, _ = real.graphs().read_prefix(row, hidden, samples, 0)
    for start in (1, len(row) // 2, len(row) - 1):
        some, _, _ = real.graphs().read_prefix(row, hidden, samples, start)
        assert some.shape == (len(row) - start, every.shape[1])
        assert (some.argmax(axis=1) == every[start:].argmax(axis=1)).all()
    none, _, _ = real.graphs().read_prefix(row, hidden, samples, len(row))
    assert none.shape[0] == 0


def test_caches_of_both_graphs_have_the_same_names_and_grow_alike() -> None:
    graphs = real.graphs()
    hidden, samples, row = read_row(3.0)
    _, whole, attention = graphs.read_prefix(row, hidden, samples, 0)
    _, caches, _ = graphs.read_prefix(row[:-1], hidden, samples, 0)
    _, grown, row_attention = graphs.add_token(row[-1], hidden, samples, caches)
    assert {k: v.shape for k, v in grown.items()} == {k: v.shape for k, v in whole.items()}
    assert row_attention.shape == attention[:, :, -1:].shape
    np.testing.assert_allclose(row_attention.sum(axis=-1), 1, atol=1e-5)
    assert np.corrcoef(row_attention.ravel(), attention[:, :, -1:].ravel())[0, 1] > 0.99


def test_cross_attention_rows_sum_to_one() -> None:
    hidden, samples, row = read_row(3.0)
    _, _, attention = real.graphs().read_prefix(row, hidden, samples, 0)
    assert attention.shape == (6, 8, len(row), hidden.shape[0])
    assert (attention >= 0).all()
    np.testing.assert_allclose(attention.sum(axis=-1), 1, atol=1e-5)


def test_graphs_are_valid_onnx_without_a_branch() -> None:
    merged = read_ort_as_onnx(moonshine_assets() / "decoder_model_merged.ort")
    split = split_decoder(merged)
    for data, whole_prefix in ((split.prefix, True), (split.step, False)):
        model = onnx.load_from_string(data)
        names = {value.name for value in (*model.graph.input, *model.graph.output)}
        assert not any(node.op_type == "If" for node in model.graph.node)
        assert (LOGITS_FROM in names, CROSS_ATTENTION in names) == (whole_prefix, True)
        produced = {name for node in model.graph.node for name in node.output}
        assert {value.name for value in model.graph.output} <= produced


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected an ORT model file, got .*nothing\.ort"):
        read_ort_as_onnx(tmp_path / "nothing.ort")


def test_model_without_a_branch_is_refused() -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "plain", [value], [value])
    with pytest.raises(ValueError, match="expected a merged decoder with one If node, got 0 in 'plain'"):
        split_decoder(helper.make_model(graph))
