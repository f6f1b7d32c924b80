"""Word times from attention: the vectorised search against brute force, and against attention made to measure."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from streaming_models.alignment import FloatArray, _cheapest_path, token_ends

sizes = st.tuples(st.integers(1, 5), st.integers(1, 7))
costs = sizes.flatmap(lambda shape: arrays.arrays(np.float32, shape, elements=st.floats(-4, 4, width=16)))


def brute_force_cost(cost: FloatArray) -> float:
    """Least cost over every monotonic path, by trying them all."""
    tokens, frames = cost.shape

    @cache
    def best(u: int, t: int) -> float:
        here = float(cost[u, t])
        if (u, t) == (0, 0):
            return here
        before = [best(u - du, t - dt) for du, dt in ((1, 1), (1, 0), (0, 1)) if u >= du and t >= dt]
        return here + min(before)

    return best(tokens - 1, frames - 1)


def cheapest_with_bounds(cost: FloatArray, bounds: NDArray[np.int64]) -> float:
    """Least cost of a path in which each token first appears at its bound."""
    tokens, frames = cost.shape

    @cache
    def best(u: int, t: int) -> float:
        if t < bounds[u] or (u + 1 < tokens and t > bounds[u + 1]):
            return np.inf
        here = float(cost[u, t])
        if (u, t) == (0, 0):
            return here
        before = [np.inf]
        if t > 0 and t > bounds[u]:
            before.append(best(u, t - 1))
        if t == bounds[u] and u > 0:
            before.append(best(u - 1, t))
            if t > 0:
                before.append(best(u - 1, t - 1))
        return here + min(before)

    return best(tokens - 1, frames - 1)


@given(costs)
def test_search_equals_brute_force_on_small_lattices(cost: FloatArray) -> None:
    bounds = _cheapest_path(cost)
    assert bounds[0] == 0
    assert cheapest_with_bounds(cost, bounds) == pytest.approx(brute_force_cost(cost), abs=1e-4)


@given(costs)
def test_bounds_never_decrease_and_end_with_the_frames(cost: FloatArray) -> None:
    tokens, frames = cost.shape
    bounds = _cheapest_path(cost)
    assert bounds.shape == (tokens + 1,)
    assert (np.diff(bounds) >= 0).all()
    assert bounds[-1] == frames


def attention_at(spans: list[tuple[int, int]], frames: int, heads: int = 3) -> FloatArray:
    weights = np.full((heads, len(spans), frames), 0.01, np.float32)
    for u, (start, end) in enumerate(spans):
        weights[:, u, start:end] = 1
    weights /= weights.sum(axis=2, keepdims=True)
    return weights


def test_token_times_are_where_the_attention_is() -> None:
    spans = [(0, 20), (20, 32), (32, 60), (60, 75)]
    bounds = token_ends(attention_at(spans, 75))
    assert np.abs(bounds - [0, 20, 32, 60, 75]).max() <= 2


def test_one_wild_frame_moves_nothing() -> None:
    attention = attention_at([(0, 30), (30, 60)], 60)
    expected = token_ends(attention)
    attention[:, 0, 50] = attention.max()
    np.testing.assert_array_equal(token_ends(attention), expected)


def test_smallest_lattices_hold() -> None:
    assert token_ends(np.zeros((2, 0, 9), np.float32)).tolist() == [9]
    assert token_ends(np.ones((2, 1, 9), np.float32)).tolist() == [0, 9]
    bounds = token_ends(np.ones((1, 6, 2), np.float32))  # more tokens than frames
    assert (np.diff(bounds) >= 0).all()
    assert bounds[-1] == 2


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 0), (1, 2, 3, 4)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected attention of shape"):
        token_ends(np.zeros(shape, np.float32))
