"""Runs of frames."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streaming_models.frame_runs import runs


@given(st.lists(st.booleans(), max_size=40))
def test_runs_hold_every_frame_that_is_on_and_part_at_every_frame_that_is_not(on: list[bool]) -> None:
    found = runs(np.array(on, np.bool_))
    inside = [frame for first, after in found for frame in range(first, after)]
    assert inside == [frame for frame, is_on in enumerate(on) if is_on]
    assert all(first < after for first, after in found)
    assert all(before[1] < following[0] for before, following in pairwise(found))
