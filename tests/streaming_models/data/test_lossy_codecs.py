from __future__ import annotations

import numpy as np
import pytest

from streaming_models.data.corpus import FloatArray
from streaming_models.data.lossy_codecs import mu_law, opus, telephone
from tests.streaming_models.data.tiny_speech import syllables


def _voice(duration_s: float, pitch_hz: float) -> FloatArray:
    """(S,) float32: overtones up to 3 kHz that glide and swell, as vowels do."""
    time_s = np.arange(round(duration_s * 16_000)) / 16_000
    glide_s = time_s + 0.01 * np.sin(2 * np.pi * 2 * time_s)
    overtones = range(1, int(3_000 / pitch_hz))
    wave = np.sum([np.sin(2 * np.pi * pitch_hz * k * glide_s + k * k) / k for k in overtones], axis=0)
    voice: FloatArray = (0.15 * wave * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * time_s))).astype(np.float32)
    return voice


def _lag_samples(before: FloatArray, after: FloatArray) -> int:
    """How much later the sound comes."""
    match = [float(np.dot(np.roll(before, shift)[100:-100], after[100:-100])) for shift in range(-30, 31)]
    return int(np.argmax(match)) - 30


@pytest.mark.parametrize("samples", [16_000, 15_999, 7_001])
def test_codecs_keep_length_and_timing(samples: int) -> None:
    audio = np.stack([_voice(1.0, 120.0)[:samples], _voice(1.0, 190.0)[:samples]])
    for coded in (opus(audio, 20_000), telephone(audio), mu_law(audio)):
        assert coded.shape == audio.shape
        assert coded.dtype == np.float32
        assert not np.array_equal(coded, audio)
        for channel in range(2):
            assert abs(_lag_samples(audio[channel], coded[channel])) <= 2
            assert np.corrcoef(audio[channel], coded[channel])[0, 1] > 0.7


def test_a_telephone_line_carries_nothing_above_4_khz() -> None:
    audio = syllables(1.0, 0)[None]
    high = np.abs(np.fft.rfft(telephone(audio)[0]))[4_100:]
    assert np.mean(high**2) < 1e-3 * np.mean(np.abs(np.fft.rfft(audio[0]))[4_100:] ** 2)


def test_companding_has_fine_steps_for_quiet_and_coarse_ones_for_loud_sound() -> None:
    quiet, loud = np.linspace(0.001, 0.002, 500, dtype=np.float32), np.linspace(0.8, 0.9, 500, dtype=np.float32)
    assert np.max(np.abs(mu_law(quiet) - quiet)) < 2e-4 < np.max(np.abs(mu_law(loud) - loud)) < 0.03
    assert mu_law(np.array([2.0, -2.0, 0.0], np.float32)).tolist() == [1.0, -1.0, 0.0]
    assert len(np.unique(mu_law(np.linspace(-1, 1, 100_000, dtype=np.float32)))) == 255


def test_an_empty_channel_comes_back_empty() -> None:
    assert opus(np.zeros((1, 0), np.float32), 20_000).shape == (1, 0)
