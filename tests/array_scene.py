"""Two real voices around an array in a room with an echo: first the one talks, then the other, then both at once."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from tests import real

FloatArray = NDArray[np.float32]

RATE_HZ = 16_000
SECONDS = 30
FIRST_ALONE, SECOND_ALONE, BOTH = (0, 6), (6, 12), (16, 30)
"""Seconds of the scene in which the one talks, the other, and both; from 12 to 16 nobody does."""


def room(channels: int, talkers: int, seed: int = 3) -> FloatArray:
    """(C, talkers, taps): a direct path of another delay for every pair, and a tail that dies away (T60 0.3 s)."""
    rng = np.random.default_rng(seed)
    taps = 2_400
    tail = rng.standard_normal((channels, talkers, taps)) * 10 ** (-3 * np.arange(taps) / (0.3 * RATE_HZ)) * 0.02
    tail[:, :, :40] = 0
    for talker in range(talkers):
        angle = 2 * np.pi * talker / talkers + 0.4
        for channel in range(channels):
            around = 2 * np.pi * channel / channels
            tail[channel, talker, 20 + round(4 * np.cos(angle - around))] += 1.0
    return tail.astype(np.float32)


@cache
def images(channels: int = 4) -> FloatArray:
    """(talkers, C, S): what the microphones hear of each of the two."""
    size = SECONDS * RATE_HZ
    dry = np.zeros((2, size), np.float32)
    one = real.speech("two_cities", 40)
    other = real.speech("beckett", 40)
    other = np.concatenate((other, other, other))
    for talker, voice, spans in ((0, one, (FIRST_ALONE, BOTH)), (1, other, (SECOND_ALONE, BOTH))):
        for start_s, end_s in spans:
            part = voice[start_s * RATE_HZ : end_s * RATE_HZ]
            dry[talker, start_s * RATE_HZ : start_s * RATE_HZ + len(part)] = part / (np.abs(part).max() + 1e-9) * 0.3
    paths = room(channels, 2)
    length = size + paths.shape[2]
    spectra = np.fft.rfft(paths.transpose(1, 0, 2), length) * np.fft.rfft(dry, length)[:, None]
    return np.asarray(np.fft.irfft(spectra, length)[:, :, :size], np.float32)


@cache
def scene(channels: int = 4) -> FloatArray:
    hiss = 1e-3 * np.random.default_rng(9).standard_normal((channels, SECONDS * RATE_HZ))
    return np.asarray(images(channels).sum(axis=0) + hiss, np.float32)
