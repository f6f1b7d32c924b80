from __future__ import annotations

import numpy as np
import pytest

from streaming_models.data.arrays import circular, l_shape, linear, placed, planar


def _distances_m(places: object) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """All distances between two microphones, sorted."""
    at = np.asarray(places)
    first, second = np.triu_indices(len(at), 1)
    return np.sort(np.linalg.norm(at[first] - at[second], axis=1))


def test_neighbours_lie_apart_as_asked() -> None:
    assert _distances_m(linear(3, 0.1)) == pytest.approx([0.1, 0.1, 0.2])
    assert _distances_m(circular(4, 0.05))[0] == pytest.approx(0.05 * np.sqrt(2))
    assert _distances_m(planar(4, 0.04)) == pytest.approx([0.04] * 4 + [0.04 * np.sqrt(2)] * 2)
    assert planar(5, 0.04).shape == (5, 3)


def test_the_array_kept_for_tests_has_no_two_equal_distances_and_lies_on_no_line() -> None:
    distances_m = _distances_m(l_shape())
    assert np.min(np.diff(distances_m)) > 0.002
    assert np.linalg.matrix_rank(l_shape(), tol=1e-6) == 2


@pytest.mark.parametrize("offsets", [linear(2, 0.1), circular(8, 0.1), planar(6, 0.03), l_shape()])
def test_placing_an_array_turns_and_moves_it_and_keeps_its_shape(
    offsets: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
) -> None:
    places_m = placed(offsets, (2.0, 3.0, 0.75), turn_rad=1.1)
    assert np.mean(places_m, axis=0) == pytest.approx([2.0, 3.0, 0.75])
    assert _distances_m(places_m) == pytest.approx(_distances_m(offsets))
    assert not np.allclose(np.subtract(places_m, (2.0, 3.0, 0.75)), offsets)
