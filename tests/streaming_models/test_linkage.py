"""Which voices become one person, on made-up similarities."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from streaming_models.linkage import COHERENCE_SHARE, COHERENT_S, linked

Array = npt.NDArray[np.float64]


def groups(similarity: Array, solo_s: float = 1.0, apart: tuple[tuple[int, int], ...] = ()) -> list[list[int]]:
    """Clusters of nodes that weigh alike, at a limit of 0.25."""
    nodes = len(similarity)
    forbidden = np.zeros((nodes, nodes), np.bool_)
    for one, two in apart:
        forbidden[one, two] = forbidden[two, one] = True
    limit = np.full((nodes, nodes), 0.25)
    found = linked(similarity, np.ones_like(similarity), limit, forbidden, np.full(nodes, solo_s))
    return [sorted(group) for group in found]


def two_people(inside: float, between: float, pieces: int = 4) -> Array:
    """Pieces 0 to `pieces` - 1 are one's, the others another's; a piece is alike to itself in any case."""
    similarity = np.full((2 * pieces, 2 * pieces), between)
    similarity[:pieces, :pieces] = similarity[pieces:, pieces:] = inside
    np.fill_diagonal(similarity, 2.5)
    return similarity


def test_nothing_gives_no_cluster() -> None:
    assert groups(np.zeros((0, 0))) == []


def test_pieces_above_the_limit_meet_and_others_do_not() -> None:
    assert groups(two_people(inside=0.8, between=0.1)) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert groups(np.array([[1.0, 0.2], [0.2, 1.0]])) == [[0], [1]]
    assert groups(np.array([[1.0, 0.3], [0.3, 1.0]])) == [[0, 1]]


def test_pairs_that_are_certainly_two_never_meet_even_by_way_of_others() -> None:
    alike = np.full((4, 4), 0.9)
    found = groups(alike, apart=((0, 1),))
    assert not any({0, 1} <= set(group) for group in found)
    assert sorted(node for group in found for node in group) == [0, 1, 2, 3]


def test_two_coherent_clusters_that_are_less_alike_than_their_own_pieces_stay_two() -> None:
    assert groups(two_people(inside=0.8, between=0.8 * COHERENCE_SHARE - 0.02), solo_s=COHERENT_S) == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
    ]
    assert len(groups(two_people(inside=0.8, between=0.8 * COHERENCE_SHARE + 0.02), solo_s=COHERENT_S)) == 1


def test_clusters_too_short_to_be_judged_meet_at_the_limit() -> None:
    assert len(groups(two_people(inside=0.8, between=0.3), solo_s=0.99 * COHERENT_S / 8)) == 1


def test_how_alike_a_piece_is_to_itself_does_not_matter() -> None:
    similarity = two_people(inside=0.8, between=0.45)
    expected = groups(similarity, solo_s=2.0)
    np.fill_diagonal(similarity, 100.0)
    assert groups(similarity, solo_s=2.0) == expected == [[0, 1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_the_pieces_does_not_matter(seed: int) -> None:
    similarity = two_people(inside=0.7, between=0.3) + np.random.default_rng(7).uniform(0, 0.01, (8, 8))
    similarity = (similarity + similarity.T) / 2
    order = np.random.default_rng(seed).permutation(8)
    back = [sorted(int(order[node]) for node in group) for group in groups(similarity[np.ix_(order, order)], 2.0)]
    assert sorted(back) == sorted(groups(similarity, 2.0))


def test_the_inputs_are_left_as_they_are() -> None:
    similarity = two_people(inside=0.8, between=0.1)
    before = similarity.copy()
    groups(similarity)
    np.testing.assert_array_equal(similarity, before)
