"""Runs of frames in which something holds without a break."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def runs(frames: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(first, after the last) of each run in (T,) frames, in order."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], frames.astype(np.int8), [0]))))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def within(samples: NDArray[np.int64], stretches: Sequence[tuple[int, int]]) -> NDArray[np.bool_]:
    """(T,) which of these samples lie in one of the stretches (first sample, sample after the last)."""
    inside = np.zeros(len(samples), np.bool_)
    for start, end in stretches:
        inside |= (samples >= start) & (samples < end)
    return inside
