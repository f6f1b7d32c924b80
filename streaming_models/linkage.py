"""Agglomerative clustering of voices by mean linkage, with pairs that may not meet and a bar that rises with evidence.

Two voices alike enough are one person. How alike one person's pieces are depends on the room: in echo less, and what is
far from every other piece in a quiet room may be nobody new in a loud one. So as soon as two clusters are long enough
to say how alike the pieces inside each are, they become one only if they are nearly so alike to each other.

Everything is O(N^2) a merge over at most a hundred-odd nodes. It refuses to know what a voice is.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

COHERENT_S = 4.0
"""Solo speech of a cluster from which on it is known how alike its own pieces are."""
COHERENCE_SHARE = 0.6
"""Two such clusters are one person only if they are at least so alike, as a share of how alike the pieces inside the
looser one are. Confusion of 37 meetings by share, 0 and 0.5 to 0.8: 0.077, 0.072, 0.066, 0.066, 0.079."""
_TINY = 1e-9


def linked(
    evidence: Array, weight: Array, limit: Array, forbidden: npt.NDArray[np.bool_], solo_s: Array
) -> list[list[int]]:
    """Merge the best pair while one is above its limit.

    Args:
        evidence, weight: (N, N) symmetric; evidence over weight is the similarity of two nodes, and of two clusters if
            both are summed over their pairs. The diagonals are those of a node with itself.
        limit: (N, N) similarity above which two nodes are one; of two clusters the largest of their pairs'.
        forbidden: (N, N) pairs that are certainly two.
        solo_s: (N,) seconds of speech behind each node.

    Returns:
        Clusters as lists of nodes, in order of their first.
    """
    nodes = len(solo_s)
    evidence, weight, limit, solo_s = evidence.copy(), weight.copy(), limit.copy(), solo_s.copy()
    forbidden = forbidden | np.eye(nodes, dtype=np.bool_)
    # What the pairs of a node with itself add to its cluster: those say nothing of how alike the pieces are.
    own_evidence, own_weight = evidence.diagonal().copy(), weight.diagonal().copy()
    members = [[index] for index in range(nodes)]
    alive = np.ones(nodes, np.bool_)
    margin = np.where(forbidden, -np.inf, evidence / weight - limit)
    while nodes:
        one, two = sorted(divmod(int(np.argmax(margin)), nodes))
        if not margin[one, two] > 0.0:
            break
        members[one] += members[two]
        for matrix in (evidence, weight):
            matrix[one] += matrix[two]
            matrix[:, one] += matrix[:, two]
        for row in (own_evidence, own_weight, solo_s):
            row[one] += row[two]
        forbidden[one] |= forbidden[two]
        forbidden[:, one] |= forbidden[:, two]
        limit[one] = np.maximum(limit[one], limit[two])
        limit[:, one] = limit[one]
        alive[two] = False
        margin[two] = margin[:, two] = -np.inf
        inside = (evidence.diagonal() - own_evidence) / np.maximum(weight.diagonal() - own_weight, _TINY)
        coherent = solo_s >= COHERENT_S
        bar = np.where(coherent & coherent[one], COHERENCE_SHARE * np.minimum(inside, inside[one]), -np.inf)
        row = np.where(alive & ~forbidden[one], evidence[one] / weight[one] - np.maximum(limit[one], bar), -np.inf)
        margin[one] = row
        margin[:, one] = row
    return [members[index] for index in np.flatnonzero(alive)]
