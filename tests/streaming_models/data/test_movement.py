from __future__ import annotations

import numpy as np
import pytest

from streaming_models.data.movement import CROSS_FADE_SAMPLES, STEP_M, Walk, WalkResponses, draw_walk

ROOM_M = (5.0, 4.0, 2.6)
SEAT_M = (2.0, 1.5, 1.2)


def test_a_walk_starts_at_the_seat_and_goes_on_in_small_steps_inside_the_room() -> None:
    for seed in range(20):
        walk = draw_walk(ROOM_M, SEAT_M, 60.0, np.random.default_rng(seed))
        places_m = np.array(walk.positions_m)
        assert walk.positions_m[0] == SEAT_M
        assert np.all(places_m[:, 2] == SEAT_M[2])
        assert np.all((places_m[:, :2] >= 0.3) & (places_m[:, :2] <= np.array(ROOM_M[:2]) - 0.3))
        assert np.max(np.linalg.norm(np.diff(places_m, axis=0), axis=1)) <= STEP_M + 1e-9
        assert walk.starts_s[1] >= 15.0


def test_the_voice_comes_from_one_place_after_the_other_and_loses_nothing() -> None:
    walked = WalkResponses(np.zeros((3, 2, 10), np.float32), (0.0, 0.25, 0.5))
    shares = walked.shares(16_000)
    assert shares.shape == (3, 16_000)
    assert np.allclose(shares.sum(axis=0), 1.0)
    assert np.all(shares >= 0)
    assert np.all(shares[0, :4_000] == 1)
    assert np.all(shares[1, 4_000 + CROSS_FADE_SAMPLES : 8_000] == 1)
    assert np.all(shares[2, 8_000 + CROSS_FADE_SAMPLES :] == 1)


def test_steps_faster_than_the_cross_fade_still_sum_to_the_whole_voice() -> None:
    shares = WalkResponses(np.zeros((3, 1, 1), np.float32), (0.0, 0.01, 0.02)).shares(2_000)
    assert np.allclose(shares.sum(axis=0), 1.0)
    assert np.all(shares >= -1e-12)


def test_a_walk_whose_times_do_not_rise_is_refused() -> None:
    with pytest.raises(ValueError, match="rising from 0"):
        Walk((SEAT_M, SEAT_M), (0.0, 0.0))
    with pytest.raises(ValueError, match="rising from 0"):
        Walk((SEAT_M,), (1.0,))
