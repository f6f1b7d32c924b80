"""Runs of frames in which something holds without a break."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def runs(frames: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(first, after the last) of each run in (T,) frames, in order."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], frames.astype(np.int8), [0]))))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
