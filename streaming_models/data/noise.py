"""Noise of rooms and mains: coloured, alike or different between microphones, and hum.

No recordings: every function draws from a generator, and the same generator gives the same samples. Levels are the
caller's business: everything here has power 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from streaming_models.data.corpus import SAMPLE_RATE_HZ

FloatArray64: TypeAlias = npt.NDArray[np.float64]

SPEED_OF_SOUND_M_S = 343.0
CORNER_HZ = 60.0
"""Below it the spectrum is flat."""
LOWEST_HZ = 20.0
FRAME_SAMPLES = 1024
"""Block of `diffuse_noise`; 64 ms, longer than sound needs across any table."""


def coloured_noise(channels: int, length_samples: int, rng: np.random.Generator, slope: float = 1.0) -> FloatArray64:
    """(channels, length_samples) noise of power 1, nothing in common between channels.

    Args:
        channels: how many.
        length_samples: how long.
        rng: draws it.
        slope: power falls with frequency ** slope above 60 Hz: 0 is white (3 dB an octave a unit), 1 a ventilator's.
    """
    spectrum = np.fft.rfft(rng.standard_normal((channels, length_samples)), axis=1)
    spectrum *= _colour(np.fft.rfftfreq(length_samples, 1 / SAMPLE_RATE_HZ), slope)
    return _unit_power(np.fft.irfft(spectrum, length_samples, axis=1))


def diffuse_noise(
    microphones_m: Sequence[tuple[float, float, float]],
    length_samples: int,
    rng: np.random.Generator,
    slope: float = 1.0,
) -> FloatArray64:
    """(C, length_samples) noise of power 1 that comes from all directions alike, as a room's own noise does.

    Neighbouring microphones hear the same low frequencies: coherence sin(x) / x with x = 2 pi f d / c. Averaging
    them helps less than with independent noise, which no room has.

    Args:
        microphones_m: a position a channel.
        length_samples: how long.
        rng: draws it.
        slope: see `coloured_noise`.

    Source: Habets, Cohen and Gannot, "Generating nonstationary multisensor signals under a spatial coherence
    constraint", JASA 2008 (here in overlapping blocks, with the symmetric square root for the mixing matrix).
    """
    places_m = np.asarray(microphones_m, np.float64)
    count, hop = len(places_m), FRAME_SAMPLES // 2
    frequency_hz = np.fft.rfftfreq(FRAME_SAMPLES, 1 / SAMPLE_RATE_HZ)
    distance_m = np.linalg.norm(places_m[:, None] - places_m[None], axis=2)  # (C, C)
    coherence = np.sinc(2 * frequency_hz[:, None, None] * distance_m / SPEED_OF_SOUND_M_S)  # (F, C, C)
    values, vectors = np.linalg.eigh(coherence)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))[:, None]) @ vectors.transpose(0, 2, 1)
    frames = -(-length_samples // hop) + 1
    shape = (len(frequency_hz), count, frames)
    drawn = root @ (rng.standard_normal(shape) + 1j * rng.standard_normal(shape))
    drawn *= _colour(frequency_hz, slope)[:, None, None]
    blocks = np.fft.irfft(drawn, FRAME_SAMPLES, axis=0)  # (1024, C, frames)
    # Independent blocks under a sine window overlap by half: their powers add up to a constant.
    blocks *= np.sin(np.pi * (np.arange(FRAME_SAMPLES) + 0.5) / FRAME_SAMPLES)[:, None, None]
    halves = blocks.reshape(2, hop, count, frames)
    joined = halves[0][:, :, 1:] + halves[1][:, :, :-1]  # (hop, C, frames - 1)
    noise: FloatArray64 = joined.transpose(1, 2, 0).reshape(count, -1)[:, :length_samples]
    noise /= np.sqrt(np.mean(noise**2))
    return noise


def hum(length_samples: int, rng: np.random.Generator, mains_hz: float | None = None) -> FloatArray64:
    """(length_samples,) mains hum of power 1: 50 or 60 Hz and its overtones up to 1 kHz, falling in level."""
    base_hz = float(rng.choice([50.0, 60.0])) if mains_hz is None else mains_hz
    time_s = np.arange(length_samples) / SAMPLE_RATE_HZ
    wave = np.zeros(length_samples)
    for overtone in range(1, int(1_000 / base_hz) + 1):
        level = 10 ** (rng.uniform(-1.0, 0.0)) / overtone
        wave += level * np.sin(2 * np.pi * base_hz * overtone * time_s + rng.uniform(0, 2 * np.pi))
    return _unit_power(wave)


def _colour(frequency_hz: npt.NDArray[np.floating], slope: float) -> FloatArray64:
    """Amplitude at each frequency."""
    shape: FloatArray64 = (CORNER_HZ / np.maximum(frequency_hz, CORNER_HZ)) ** (slope / 2) * (frequency_hz > LOWEST_HZ)
    return shape


def _unit_power(noise: FloatArray64) -> FloatArray64:
    """The same with power 1 in every channel."""
    unit: FloatArray64 = noise / np.sqrt(np.mean(noise**2, axis=-1, keepdims=True))
    return unit
