"""Sound as short-time spectra and back: frames of 32 ms at half overlap, which sum to the sound they were cut from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
ComplexArray = NDArray[np.complex64]

SAMPLE_RATE_HZ = 16_000
FRAME_SAMPLES = 512
HOP_SAMPLES = 256
"""16 ms. Frames of 32 ms with half overlap: longer ones blur who speaks, shorter ones blur the bands."""
BINS = FRAME_SAMPLES // 2 + 1

WINDOW = np.sin(np.pi * np.arange(FRAME_SAMPLES) / FRAME_SAMPLES).astype(np.float32)
"""Square root of a periodic Hann window, for analysis and synthesis."""


def frames_in(seconds: float) -> int:
    """As many frames as a duration has."""
    return round(seconds * SAMPLE_RATE_HZ / HOP_SAMPLES)


def spectra_of(sound: FloatArray) -> ComplexArray:
    """(..., S) -> (..., T, BINS): a frame every hop, as many as fit."""
    frames = np.lib.stride_tricks.sliding_window_view(sound, FRAME_SAMPLES, axis=-1)[..., ::HOP_SAMPLES, :]
    return np.fft.rfft(frames * WINDOW, axis=-1).astype(np.complex64)


def whole_spectra_of(sound: FloatArray) -> ComplexArray:
    """(..., T * HOP_SAMPLES) -> (..., T + 1, BINS): the first frame begins a hop early, so every sample is in two."""
    aside = [(0, 0)] * (sound.ndim - 1)
    return spectra_of(np.pad(sound, (*aside, (HOP_SAMPLES, FRAME_SAMPLES - HOP_SAMPLES))))


def sound_of(spectra: ComplexArray) -> FloatArray:
    """(T, BINS) -> (T * HOP_SAMPLES,) from the first frame's first sample on; the first hop has no frame before it."""
    frames = np.fft.irfft(spectra, FRAME_SAMPLES, axis=1).astype(np.float32) * WINDOW
    sound = np.zeros((len(frames) + 1, HOP_SAMPLES), np.float32)
    sound[:-1] += frames[:, :HOP_SAMPLES]
    sound[1:] += frames[:, HOP_SAMPLES:]
    return sound[:-1].ravel()
