"""People who walk while they talk: places along a path, and when each is reached.

A walk is a row of places; sound comes from one place until the next is reached, with a short cross-fade between.
Doppler shift and turning heads are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streaming_models.data.corpus import SAMPLE_RATE_HZ, FloatArray

WALL_MARGIN_M = 0.3
STEP_M = 0.25
SPEED_M_S = (0.5, 1.2)
CROSS_FADE_SAMPLES = SAMPLE_RATE_HZ // 20
"""50 ms: long enough not to click, short enough not to sound like two places at once."""


@dataclass(frozen=True)
class Walk:
    """positions_m: places in order; starts_s: when the talker comes to each, rising from 0.0."""

    positions_m: tuple[tuple[float, float, float], ...]
    starts_s: tuple[float, ...]

    def __post_init__(self) -> None:
        rising = all(before < after for before, after in zip(self.starts_s, self.starts_s[1:], strict=False))
        if len(self.positions_m) != len(self.starts_s) or not rising or self.starts_s[:1] != (0.0,):
            raise ValueError(f"a walk needs one time a place, rising from 0.0, got {self}")


@dataclass(frozen=True, eq=False)
class WalkResponses:
    """What microphones hear of a click from each place of a walk: responses (P, C, L) float32."""

    responses: FloatArray
    starts_s: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """(P, C, L)."""
        return self.responses.shape

    def shares(self, length_samples: int) -> npt.NDArray[np.float64]:
        """(P, length_samples): how much of the talker's voice comes from each place; sums to 1 everywhere."""
        at = np.arange(length_samples)
        starts = [round(start_s * SAMPLE_RATE_HZ) for start_s in self.starts_s[1:]]
        # (P + 1, S): the share of everything from a place on; the first is all, after the last comes nothing.
        arrived = np.ones((len(starts) + 2, length_samples))
        for row, start in enumerate(starts, start=1):
            arrived[row] = np.clip((at - start) / CROSS_FADE_SAMPLES, 0.0, 1.0)
        arrived[-1] = 0.0
        return arrived[:-1] - arrived[1:]


def draw_walk(
    room_m: Sequence[float], seat_m: tuple[float, float, float], duration_s: float, rng: np.random.Generator
) -> Walk:
    """Somebody who sits, gets up once and walks in a straight line to another place of the room.

    The walk begins in the middle half of the time; mouths stay at their height, 0.3 m or more from walls.
    """
    room, seat = np.asarray(room_m, np.float64), np.asarray(seat_m, np.float64)
    goal = np.append(rng.uniform(WALL_MARGIN_M, room[:2] - WALL_MARGIN_M), seat[2])
    way = goal - seat
    steps = max(1, int(np.ceil(np.linalg.norm(way) / STEP_M)))
    begin_s = rng.uniform(0.25, 0.75) * duration_s
    step_s = float(np.linalg.norm(way)) / steps / rng.uniform(*SPEED_M_S)
    # Steps of no length (a goal on the seat) must still follow each other in time.
    times_s = [0.0, *(begin_s + max(step_s, 0.1) * np.arange(steps))]
    places = seat + way * np.linspace(0, 1, steps + 1)[:, None]
    return Walk(
        tuple((float(x), float(y), float(z)) for x, y, z in places),
        tuple(float(time_s) for time_s in times_s),
    )
