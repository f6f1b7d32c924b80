"""Spectra and back: what is cut into frames and put together again is the same sound."""

from __future__ import annotations

import numpy as np

from streaming_models.short_time import (
    BINS,
    FRAME_SAMPLES,
    HOP_SAMPLES,
    frames_in,
    sound_of,
    spectra_of,
    whole_spectra_of,
)

SOUND = np.random.default_rng(1).standard_normal((2, 20 * HOP_SAMPLES)).astype(np.float32)


def test_sound_that_lies_in_two_frames_comes_back_as_it_was() -> None:
    spectra = whole_spectra_of(SOUND)
    assert spectra.shape == (2, 21, BINS)
    for row, spectrum in zip(SOUND, spectra, strict=True):
        assert np.allclose(sound_of(spectrum)[HOP_SAMPLES:], row, atol=1e-5)


def test_a_frame_comes_every_hop_as_long_as_it_is_whole() -> None:
    assert spectra_of(SOUND[0, : FRAME_SAMPLES - 1 + HOP_SAMPLES]).shape == (1, BINS)
    assert np.array_equal(spectra_of(SOUND)[:, 3:5], spectra_of(SOUND[:, 3 * HOP_SAMPLES :][:, : 3 * HOP_SAMPLES]))


def test_seconds_are_counted_in_hops_of_16_ms() -> None:
    assert [frames_in(seconds) for seconds in (0.016, 0.5, 2)] == [1, 31, 125]
