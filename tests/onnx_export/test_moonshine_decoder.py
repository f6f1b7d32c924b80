"""The rebuilt decoder against the one it is rebuilt from: the merged ORT file of the wheel, on real speech."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnx_export.moonshine import read_ort_as_onnx, split_decoder
from onnx_export.moonshine_decoder import POSITIONS, Weights
from server.inference import moonshine_assets
from streaming_models.tokens import START_ID
from tests import real
from tests.real import FloatArray

Caches = dict[str, FloatArray]
MERGED = moonshine_assets() / "decoder_model_merged.ort"
WINDOWS = [(0.0, 2.0), (3.0, 3.0), (7.0, 4.0), (12.0, 5.0)]
"""Start and length in seconds of cuts of two_cities.wav."""


class Reference:
    """The merged decoder itself, its branch chosen by `use_cache_branch`."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(MERGED), options, providers=["CPUExecutionProvider"])
        self._outputs = [value.name for value in self._session.get_outputs()]
        self._past = [v.name for v in self._session.get_inputs() if v.name.startswith("past_key_values")]

    def run(self, tokens: list[int], hidden: FloatArray, samples: int, caches: Caches | None) -> Caches:
        """Logits (U, V) under "logits", and the caches, those of the encoder taken over from before."""
        feed: dict[str, NDArray[np.generic]] = {
            "input_ids": np.array([tokens], np.int64),
            "encoder_hidden_states": hidden[None],
            "encoder_attention_mask": np.ones((1, samples), np.int64),
            "use_cache_branch": np.array([caches is not None]),
        }
        empty = np.zeros((1, 8, 0, 36), np.float32)
        feed |= {name: caches[name.replace("past_key_values", "present")] if caches else empty for name in self._past}
        found: Caches = dict(zip(self._outputs, self._session.run(None, feed), strict=True))
        kept = {k: v for k, v in (caches or {}).items() if ".encoder." in k}
        return found | kept | {"logits": found["logits"][0]}


@cache
def reference() -> Reference:
    return Reference()


@cache
def read_window(start_s: float, seconds: float) -> tuple[FloatArray, int, tuple[int, ...]]:
    pcm = real.speech("two_cities", start_s + seconds)[int(start_s * real.RATE_HZ) :]
    return real.graphs().encode(pcm), len(pcm), (START_ID, *real.moonshine().read(pcm).tokens)


def assert_close(expected: FloatArray, got: FloatArray) -> None:
    """Equal in shape and nearly in value.

    Activations are rounded to 8 bits: where one lies on an edge, the last bit of a float moves it by a whole step and
    logits by up to 1. The merged decoder differs as much from itself when its input changes by one part in a million.
    """
    assert expected.shape == got.shape
    assert np.corrcoef(expected.ravel(), got.ravel())[0, 1] > 0.99


@pytest.mark.parametrize(("start_s", "seconds"), WINDOWS)
def test_prefix_says_what_the_merged_decoder_says(start_s: float, seconds: float) -> None:
    hidden, samples, row = read_window(start_s, seconds)
    assert len(row) > 4
    expected = reference().run(list(row), hidden, samples, None)
    logits, caches, _ = real.graphs().read_prefix(list(row), hidden, samples, 0)
    assert (logits.argmax(axis=1) == expected["logits"].argmax(axis=1)).all()
    assert_close(expected["logits"], logits)
    assert set(caches) == set(expected) - {"logits"}
    for name, cached in caches.items():
        assert_close(expected[name], cached)


@pytest.mark.parametrize(("start_s", "seconds"), WINDOWS)
def test_step_says_what_the_merged_decoder_says(start_s: float, seconds: float) -> None:
    hidden, samples, row = read_window(start_s, seconds)
    expected = reference().run([row[0]], hidden, samples, None)
    _, caches, _ = real.graphs().read_prefix([row[0]], hidden, samples, 0)
    for token in row[1:]:
        expected = reference().run([token], hidden, samples, expected)
        logits, caches, _ = real.graphs().add_token(token, hidden, samples, caches)
        assert logits.argmax() == expected["logits"][0].argmax()
        assert_close(expected["logits"][0], logits)
    for name, cached in caches.items():
        assert_close(expected[name], cached)


def test_without_a_rounding_edge_only_the_last_bits_differ() -> None:
    largest = []
    for start_s, seconds in WINDOWS:
        hidden, samples, row = read_window(start_s, seconds)
        expected = reference().run(list(row), hidden, samples, None)["logits"]
        logits, _, _ = real.graphs().read_prefix(list(row), hidden, samples, 0)
        largest.append(float(np.abs(expected - logits).max()))
    assert min(largest) < 1e-3, largest


def test_audio_mask_changes_nothing() -> None:
    hidden, samples, row = read_window(*WINDOWS[0])
    one, _, _ = real.graphs().read_prefix(list(row), hidden, samples, 0)
    other, _, _ = real.graphs().read_prefix(list(row), hidden, 1, 0)
    np.testing.assert_array_equal(one, other)


def test_more_tokens_than_the_rotary_table_are_refused() -> None:
    hidden, samples, _ = read_window(*WINDOWS[0])
    _, caches, _ = real.graphs().read_prefix([START_ID] * POSITIONS, hidden, samples, POSITIONS)
    with pytest.raises(Exception, match="RotaryEmbedding"):
        real.graphs().read_prefix([START_ID] * (POSITIONS + 1), hidden, samples, POSITIONS)
    with pytest.raises(Exception, match="RotaryEmbedding"):
        real.graphs().add_token(START_ID, hidden, samples, caches)


def test_graphs_stay_small() -> None:
    split = split_decoder(read_ort_as_onnx(MERGED))
    for data in (split.prefix, split.step):
        model = onnx.load_from_string(data)
        assert len(model.graph.node) < 250  # the export has about 900 in each branch
        names = [node.name for node in model.graph.node]
        assert len(set(names)) == len(names)


def test_weights_of_another_model_are_refused() -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"], "only")], "other", [value], [value])
    with pytest.raises(ValueError, match="expected Moonshine's decoder with a node 'norm', got 1 others"):
        Weights(graph, helper.make_graph([], "branch", [], [])).inputs_of("norm")
