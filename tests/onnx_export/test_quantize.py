"""Numbers as bytes: what is lost, and that ranges come from what was seen."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from onnx_export.graph import Graph
from onnx_export.quantize import LEVELS, ByteMatrix, FloatArray, Rounding, Seen, Tapped, byte_matrix


def back(values: FloatArray, how: Rounding) -> FloatArray:
    divisor = 1.0 if how.divisor is None else how.divisor
    levels = np.clip(np.round(values / divisor / how.scale) + how.zero, 0, LEVELS)
    restored: FloatArray = (levels - how.zero) * how.scale * divisor
    return restored


def test_a_matrix_in_bytes_is_off_by_half_a_step_of_its_column() -> None:
    spread = np.linspace(0.01, 3, 40)
    weight = (np.random.default_rng(0).normal(size=(96, 40)) * spread).astype(np.float32)
    matrix = byte_matrix(weight)
    assert matrix.values.dtype == np.int8
    assert np.abs(matrix.values).max() <= 63
    error = np.abs(matrix.values * matrix.scale - weight).max(0)
    assert (error <= 0.501 * np.abs(weight).max(0) * 1.002 / 63).all()


def test_rounding_by_the_input_s_moments_lessens_the_error_of_the_product() -> None:
    random = np.random.default_rng(7)
    values = (random.normal(size=(600, 24)) @ random.normal(size=(24, 96))).astype(np.float32)
    values += random.normal(0, 0.1, values.shape).astype(np.float32)
    weight = random.normal(size=(96, 30)).astype(np.float32)
    moments = (values.T @ values / len(values)).astype(np.float32)

    def error(matrix: ByteMatrix) -> float:
        return float(np.square(values @ (matrix.values * matrix.scale - weight)).mean())

    assert error(byte_matrix(weight, moments)) < 0.25 * error(byte_matrix(weight))


def test_scales_survive_being_stored_in_half_precision() -> None:
    matrix = byte_matrix(np.random.default_rng(1).normal(size=(30, 20)).astype(np.float32))
    np.testing.assert_array_equal(matrix.scale.astype(np.float16).astype(np.float32), matrix.scale)


def test_a_column_of_zeros_stays_zero() -> None:
    weight = np.ones((4, 2), np.float32)
    weight[:, 1] = 0
    assert not byte_matrix(weight).values[:, 1].any()


def rounded(values: FloatArray, weights: FloatArray | None = None, cut: bool = False) -> Rounding:
    seen = Seen()
    seen.add(values[: len(values) // 3])
    seen.add(values[len(values) // 3 :])
    return seen.rounding(weights, cut)


def test_rounding_covers_all_that_was_seen_and_knows_zero() -> None:
    values = np.random.default_rng(2).uniform(-0.2, 5, (500, 8)).astype(np.float32)
    how = rounded(values)
    assert np.abs(back(values, how) - values).max() <= 1.01 * how.scale
    assert back(np.zeros(1, np.float32), how) == 0
    assert how.moments is not None
    np.testing.assert_allclose(how.moments, values.T @ values / len(values), rtol=1e-4)


def test_a_lone_outlier_may_be_cut_off_for_the_precision_of_all_others() -> None:
    values = np.random.default_rng(3).uniform(-1, 1, (400_000, 1)).astype(np.float32)
    values[5] = 2.0
    how = rounded(values, cut=True)
    assert LEVELS * how.scale < 2.75
    assert LEVELS * rounded(values).scale == pytest.approx(3, abs=0.01)
    inside = np.abs(values) <= 1
    assert np.abs(back(values, how) - values)[inside].max() < 0.02


def test_what_was_never_seen_has_no_rounding() -> None:
    with pytest.raises(ValueError, match="run the graph on speech first"):
        Seen().rounding(None)


def test_evening_lessens_the_error_of_a_product_whose_columns_differ() -> None:
    random = np.random.default_rng(4)
    spread = np.geomspace(0.05, 20, 64).astype(np.float32)
    values = (random.normal(size=(400, 64)) * spread).astype(np.float32)
    weight = (random.normal(size=(64, 30)) / np.sqrt(spread)[:, None]).astype(np.float32)
    exact = values @ weight

    def error(how: Rounding) -> float:
        divisor = np.ones(64, np.float32) if how.divisor is None else how.divisor
        matrix = byte_matrix(weight * divisor[:, None])
        found = back(values, how) / divisor @ (matrix.values * matrix.scale)
        return float(np.abs(found - exact).std())

    assert error(rounded(values, weight)) < 0.6 * error(rounded(values))


def doubling() -> Graph:
    graph = Graph()
    graph.node("Add", ["x", "x"], "twice")
    graph.node("Relu", ["twice"], "y")
    return graph


def test_a_tapped_graph_sees_the_values_between_its_nodes() -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])
    tapped = Tapped(doubling().model("doubling", [value], [result]), ["twice"])
    with pytest.raises(ValueError, match="expected values of the activation"):
        tapped.roundings(lambda _: None)
    x = np.linspace(-1, 3, 120, dtype=np.float32).reshape(30, 4)
    outputs = tapped.run({"x": x * 100}, look=False)
    assert set(outputs) == {"y"}
    tapped.run({"x": x})
    found = tapped.roundings(lambda _: None)
    assert LEVELS * found["twice"].scale == pytest.approx(8, rel=1e-3)
