"""Two people before one microphone: first the one talks, then the other, then both at once, then the first again."""

from __future__ import annotations

from functools import cache

import numpy as np
import soxr
from numpy.typing import NDArray

from tests import real

FloatArray = NDArray[np.float32]

RATE_HZ = 16_000
SECONDS = 32
ALONE, BOTH, AFTER = ((0, 7), (7, 14)), (15, 23), (24, 28)
"""Seconds in which each of the two talks alone, in which both do, and in which the first does once more."""
LOWER, HIGHER = 0.85, 1.15
"""The wheel's two readers sound alike: one is made lower and slower, the other higher and faster."""


@cache
def images() -> FloatArray:
    """(2, S) what each of the two says."""
    heard = np.zeros((2, SECONDS * RATE_HZ), np.float32)
    for talker, (name, pitch) in enumerate((("two_cities", LOWER), ("beckett", HIGHER))):
        said, at = np.asarray(soxr.resample(real.speech(name, 40), RATE_HZ * pitch, RATE_HZ), np.float32), 0
        for start_s, end_s in (ALONE[talker], BOTH, *((AFTER,) if talker == 0 else ())):
            size = (end_s - start_s) * RATE_HZ
            heard[talker, start_s * RATE_HZ : end_s * RATE_HZ] = np.resize(np.roll(said, -at), size)
            at += size
        heard[talker] *= np.float32(0.02 / np.sqrt(np.square(heard[talker]).mean()))
    return heard


@cache
def mono() -> FloatArray:
    """(S,) both, with a little noise."""
    hiss = 1e-3 * np.random.default_rng(9).standard_normal(SECONDS * RATE_HZ)
    return np.asarray(images().sum(axis=0) + hiss, np.float32)
