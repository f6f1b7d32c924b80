from __future__ import annotations

import numpy as np
import pytest

from streaming_models.data.noise import SPEED_OF_SOUND_M_S, FloatArray64, coloured_noise, diffuse_noise, hum

RATE_HZ = 16_000


def _power(wave: FloatArray64, low_hz: float, high_hz: float) -> float:
    """Mean power of a band."""
    spectrum = np.abs(np.fft.rfft(wave)) ** 2
    frequency_hz = np.fft.rfftfreq(len(wave), 1 / RATE_HZ)
    return float(spectrum[(frequency_hz >= low_hz) & (frequency_hz < high_hz)].mean())


@pytest.mark.parametrize("slope", [0.0, 1.0, 2.0])
def test_colour_is_the_fall_of_power_with_frequency(slope: float) -> None:
    (wave,) = coloured_noise(1, 10 * RATE_HZ, np.random.default_rng(0), slope)
    fall = _power(wave, 450, 550) / _power(wave, 3_600, 4_400)
    assert np.log2(fall) / 3 == pytest.approx(slope, abs=0.1)
    assert np.mean(wave**2) == pytest.approx(1.0)


def test_independent_noise_differs_between_channels() -> None:
    first, second = coloured_noise(2, RATE_HZ, np.random.default_rng(0))
    assert abs(np.mean(first * second)) < 0.1


def test_diffuse_noise_is_as_alike_as_distance_and_frequency_say() -> None:
    distance_m = 0.10
    places_m = [(1.0, 1.0, 0.75), (1.0 + distance_m, 1.0, 0.75)]
    noise = diffuse_noise(places_m, 30 * RATE_HZ + 7, np.random.default_rng(0), slope=0.0)
    assert noise.shape == (2, 30 * RATE_HZ + 7)
    assert np.mean(noise**2, axis=1) == pytest.approx([1.0, 1.0], abs=0.05)
    blocks = np.fft.rfft(noise[:, : 30 * RATE_HZ].reshape(2, -1, 1_000), axis=2)  # (2, blocks, 16 Hz bins)
    cross = np.mean(blocks[0] * blocks[1].conj(), axis=0).real
    found = cross / np.sqrt(np.mean(np.abs(blocks[0]) ** 2, axis=0) * np.mean(np.abs(blocks[1]) ** 2, axis=0))
    for frequency_hz in (160, 800, 1_600, 4_000):
        expected = np.sinc(2 * frequency_hz * distance_m / SPEED_OF_SOUND_M_S)
        at = frequency_hz // 16
        assert np.mean(found[at - 3 : at + 4]) == pytest.approx(expected, abs=0.12)


def test_diffuse_noise_does_not_swell_between_blocks() -> None:
    (wave,) = diffuse_noise([(1.0, 1.0, 0.75)], 60 * RATE_HZ, np.random.default_rng(0), slope=0.0)
    by_phase = np.mean(wave[: len(wave) // 512 * 512].reshape(-1, 512) ** 2, axis=0)
    assert by_phase.reshape(8, 64).mean(axis=1) == pytest.approx(np.ones(8), abs=0.05)


def test_hum_is_mains_and_its_overtones() -> None:
    wave = hum(2 * RATE_HZ, np.random.default_rng(0), mains_hz=50.0)
    assert np.mean(wave**2) == pytest.approx(1.0)
    spectrum = np.abs(np.fft.rfft(wave)) ** 2  # half a Hz a bin
    on = spectrum[100:2_100:100].sum()
    assert on / spectrum.sum() > 0.999
    assert hum(100, np.random.default_rng(1)).shape == (100,)
