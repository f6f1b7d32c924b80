"""Shapes of microphone arrays: where each microphone lies, seen from the array's middle.

Offsets only, in metres, (C, 3), flat on the table unless said otherwise; `placed` turns and moves them. Nothing here
knows rooms.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Offsets = npt.NDArray[np.float64]


def linear(count: int, spacing_m: float) -> Offsets:
    """(count, 3): a line with equal distances."""
    along = (np.arange(count) - (count - 1) / 2) * spacing_m
    return np.stack([along, np.zeros(count), np.zeros(count)], axis=1)


def circular(count: int, radius_m: float) -> Offsets:
    """(count, 3): equal angles on a circle, in order around it."""
    angles_rad = 2 * np.pi * np.arange(count) / count
    ring: Offsets = radius_m * np.stack([np.cos(angles_rad), np.sin(angles_rad), np.zeros(count)], axis=1)
    return ring


def planar(count: int, spacing_m: float) -> Offsets:
    """(count, 3): rows of a grid as square as it can be, filled row by row."""
    columns = int(np.ceil(np.sqrt(count)))
    at = np.arange(count)
    grid = np.stack([at % columns, at // columns, np.zeros(count)], axis=1).astype(np.float64)
    middle: Offsets = spacing_m * (grid - grid.mean(axis=0))
    return middle


def l_shape() -> Offsets:
    """(4, 3): two arms at a right angle, every distance different.

    Kept for tests: no set to train on may use it, so that scores on it say what an unknown array costs.
    """
    arms = np.array([[0.0, 0.0, 0.0], [0.031, 0.0, 0.0], [0.097, 0.0, 0.0], [0.0, 0.063, 0.0]])
    middle: Offsets = arms - arms.mean(axis=0)
    return middle


def placed(offsets: Offsets, centre_m: npt.ArrayLike, turn_rad: float = 0.0) -> tuple[tuple[float, float, float], ...]:
    """The array at a place in a room, turned about the vertical; one position a microphone."""
    cos, sin = np.cos(turn_rad), np.sin(turn_rad)
    turned = offsets @ np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])
    return tuple((float(x), float(y), float(z)) for x, y, z in turned + np.asarray(centre_m, np.float64))
