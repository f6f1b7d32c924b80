"""Numbers as bytes: what is lost, and that ranges come from what was seen."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from onnx_export.graph import Graph
from onnx_export.quantize import LEVELS, FloatArray, Rounding, Tapped, byte_matrix, evening, rounding


def back(values: FloatArray, how: Rounding) -> FloatArray:
    divisor = 1.0 if how.divisor is None else how.divisor
    levels = np.clip(np.round(values / divisor / how.scale) + how.zero, 0, LEVELS)
    restored: FloatArray = (levels - how.zero) * how.scale * divisor
    return restored


@pytest.mark.parametrize(("bits", "worst"), [(7, 1 / 63), (8, 1 / 127)])
def test_a_matrix_in_bytes_is_off_by_half_a_step_of_its_column(bits: int, worst: float) -> None:
    weight = np.random.default_rng(0).normal(size=(96, 40)).astype(np.float32) * np.linspace(
        0.01, 3, 40, dtype=np.float32
    )
    matrix = byte_matrix(weight, bits)
    assert matrix.values.dtype == np.int8
    assert np.abs(matrix.values).max() <= 2 ** (bits - 1) - 1
    error = np.abs(matrix.values * matrix.scale - weight).max(0)
    assert (error <= 0.51 * worst * np.abs(weight).max(0) * 1.002).all()


def test_scales_survive_being_stored_in_half_precision() -> None:
    matrix = byte_matrix(np.random.default_rng(1).normal(size=(30, 20)).astype(np.float32), 7)
    np.testing.assert_array_equal(matrix.scale.astype(np.float16).astype(np.float32), matrix.scale)


def test_a_column_of_zeros_stays_zero() -> None:
    weight = np.ones((4, 2), np.float32)
    weight[:, 1] = 0
    assert not byte_matrix(weight, 7).values[:, 1].any()


def test_rounding_covers_what_was_seen_and_knows_zero() -> None:
    values = np.random.default_rng(2).uniform(-0.2, 5, (500, 8)).astype(np.float32)
    how = rounding(values)
    assert np.abs(back(values, how) - values).max() <= 1.01 * how.scale
    assert back(np.zeros(1, np.float32), how) == 0


def test_a_lone_outlier_does_not_cost_all_others_their_precision() -> None:
    values = np.random.default_rng(3).uniform(-1, 1, (400_000, 1)).astype(np.float32)
    values[7] = 2.0
    how = rounding(values)
    assert LEVELS * how.scale < 2.6
    inside = np.abs(values) <= 1
    assert np.abs(back(values, how) - values)[inside].max() < 0.02


def test_evening_lessens_the_error_of_a_product_whose_columns_differ() -> None:
    random = np.random.default_rng(4)
    spread = np.geomspace(0.05, 20, 64).astype(np.float32)
    values = (random.normal(size=(400, 64)) * spread).astype(np.float32)
    weight = (random.normal(size=(64, 30)) / np.sqrt(spread)[:, None]).astype(np.float32)
    exact = values @ weight

    def error(how: Rounding) -> float:
        divisor = np.ones(64, np.float32) if how.divisor is None else how.divisor
        matrix = byte_matrix(weight * divisor[:, None], 7)
        found = back(values, how) / divisor @ (matrix.values * matrix.scale)
        return float(np.abs(found - exact).std())

    assert error(rounding(values, evening(values, weight))) < 0.6 * error(rounding(values))


def doubling() -> Graph:
    graph = Graph()
    graph.node("Add", ["x", "x"], "twice")
    graph.node("Relu", ["twice"], "y")
    return graph


def test_a_tapped_graph_keeps_the_values_between_its_nodes() -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])
    tapped = Tapped(doubling().model("doubling", [value], [result]), ["twice"])
    with pytest.raises(ValueError, match="expected values of twice"):
        tapped.roundings(lambda _: None)
    x = np.linspace(-1, 3, 120, dtype=np.float32).reshape(30, 4)
    outputs = tapped.run({"x": x * 100}, keep=False)
    assert set(outputs) == {"y"}
    tapped.run({"x": x})
    found = tapped.roundings(lambda _: None)
    assert LEVELS * found["twice"].scale == pytest.approx(8, rel=0.1)
