"""Delays, aligned sums and directions from synthesised microphones."""

from __future__ import annotations

import numpy as np
import pytest

from streaming_models.spatial import (
    ALIGN_MARGIN_SAMPLES,
    BLOCK_SAMPLES,
    DELAY_HOP_SAMPLES,
    DELAY_WINDOW_SAMPLES,
    DelayAndSum,
    DelayTracker,
    DirectionFinder,
    FloatArray,
    median_direction_deg,
)

SAMPLE_RATE_HZ = 16_000


def delayed(signal: FloatArray, delay_samples: float) -> FloatArray:
    """`signal` later by any fraction of a sample, through the phase of its whole spectrum."""
    spectrum = np.fft.rfft(signal)
    turn = np.exp(-2j * np.pi * np.arange(spectrum.size) / signal.size * delay_samples)
    return np.fft.irfft(spectrum * turn, signal.size).astype(np.float32)


def bursts(seconds: float, seed: int = 0) -> FloatArray:
    """Noise that comes and goes four times a second, as syllables do."""
    rng = np.random.default_rng(seed)
    count = int(seconds * SAMPLE_RATE_HZ)
    envelope = np.maximum(0, np.sin(2 * np.pi * 4 * np.arange(count) / SAMPLE_RATE_HZ)) ** 2
    return (0.1 * envelope * rng.standard_normal(count)).astype(np.float32)


def array_recording(geometry_m: FloatArray, azimuth_deg: float, seconds: float = 2.0, seed: int = 0) -> FloatArray:
    """(C, S) of a far talker in a quiet room, every microphone with its own hiss."""
    toward = np.array([np.cos(np.radians(azimuth_deg)), np.sin(np.radians(azimuth_deg)), 0.0])
    delays = -(geometry_m @ toward) / 343.0 * SAMPLE_RATE_HZ
    voice = bursts(seconds, seed)
    hiss = np.random.default_rng(seed + 1).standard_normal((len(geometry_m), voice.size)) * 1e-3
    return (np.stack([delayed(voice, d) for d in delays]) + hiss).astype(np.float32)


def track(tracker: DelayTracker, pcm: FloatArray, finder: DirectionFinder | None = None) -> list[float]:
    """Run the tracker over everything; directions where there are some."""
    angles: list[float] = []
    for end in range(DELAY_WINDOW_SAMPLES, pcm.shape[1], DELAY_HOP_SAMPLES):
        estimate = tracker.step(pcm[:, end - DELAY_WINDOW_SAMPLES : end])
        angle = finder.azimuth_deg(estimate, tracker.reference) if finder else None
        if angle is not None:
            angles.append(angle)
    return angles


def wrapped(angle_deg: float) -> float:
    return (angle_deg + 180) % 360 - 180


SQUARE_M = np.array([[0.05, 0.05, 0], [-0.05, 0.05, 0], [-0.05, -0.05, 0], [0.05, -0.05, 0]], np.float32)


@pytest.mark.parametrize("delay", [-140.0, -7.3, 0.0, 0.4, 23.0, 101.6])
def test_known_delay_of_a_pair_is_found_to_a_fraction_of_a_sample(delay: float) -> None:
    voice = bursts(2.0)
    hiss = np.random.default_rng(9).standard_normal((2, voice.size)) * 1e-3
    pcm = (np.stack([voice, delayed(voice, delay)]) + hiss).astype(np.float32)
    tracker = DelayTracker(2)
    track(tracker, pcm)
    estimate = tracker.step(pcm[:, -DELAY_WINDOW_SAMPLES:])
    assert estimate.delays_samples[0] == 0
    assert abs(float(estimate.delays_samples[1]) - delay) < 0.15


def test_silence_has_no_voice_and_no_direction() -> None:
    tracker = DelayTracker(4, SQUARE_M)
    assert track(tracker, np.zeros((4, 16_000), np.float32), DirectionFinder(SQUARE_M)) == []
    assert tracker.voiced_steps == 0


@pytest.mark.parametrize("azimuth", [-170.0, -90.0, -35.0, 0.0, 60.0, 135.0])
def test_square_array_points_at_the_talker(azimuth: float) -> None:
    tracker = DelayTracker(4, SQUARE_M)
    angles = track(tracker, array_recording(SQUARE_M, azimuth), DirectionFinder(SQUARE_M))
    found = median_direction_deg(angles)
    assert found is not None
    assert abs(wrapped(found - azimuth)) < 4


@pytest.mark.parametrize("azimuth", [40.0, -40.0, 120.0, -120.0])
def test_line_of_microphones_reports_the_left_side_for_either_side(azimuth: float) -> None:
    line_m = np.array([[0.0, 0, 0], [0.05, 0, 0], [0.1, 0, 0]], np.float32)
    found = median_direction_deg(
        track(DelayTracker(3, line_m), array_recording(line_m, azimuth), DirectionFinder(line_m))
    )
    assert found is not None
    assert abs(found - abs(azimuth)) < 6


def test_microphones_at_one_place_have_no_direction() -> None:
    same_m = np.zeros((3, 3), np.float32)
    assert track(DelayTracker(3, same_m), array_recording(same_m, 0.0), DirectionFinder(same_m)) == []


def test_median_direction_crosses_the_seam_at_180_degrees() -> None:
    found = median_direction_deg([178.0, -178.0, 179.0])
    assert found is not None
    assert abs(wrapped(found - 179.0)) < 1e-6
    assert median_direction_deg([]) is None


def test_aligned_sum_restores_the_reference_and_lowers_the_noise() -> None:
    voice = bursts(1.0)
    delays = np.array([0.0, 12.3, -40.5, 3.7], np.float32)
    clean = np.stack([delayed(voice, float(d)) for d in delays])
    noise = (np.random.default_rng(3).standard_normal(clean.shape) * 0.02).astype(np.float32)
    beam = DelayAndSum(4)
    beam.steer(delays, np.full(4, 0.25, np.float32))
    margin, errors = ALIGN_MARGIN_SAMPLES, []
    for start in range(margin, voice.size - BLOCK_SAMPLES - margin, BLOCK_SAMPLES):
        out = beam.step((clean + noise)[:, start - margin : start + BLOCK_SAMPLES + margin])
        errors.append(out - voice[start : start + BLOCK_SAMPLES])
    # The first block fades in. Four microphones: a quarter of the noise power, with some room.
    assert float(np.mean(np.square(errors[1:]))) < 0.35 * float(np.mean(noise**2))


def test_filters_fade_into_each_other_without_a_step() -> None:
    tone = np.sin(2 * np.pi * 200 * np.arange(4_000) / SAMPLE_RATE_HZ).astype(np.float32)
    pcm = np.stack([tone, tone])
    beam, margin = DelayAndSum(2), ALIGN_MARGIN_SAMPLES
    first = beam.step(pcm[:, : BLOCK_SAMPLES + 2 * margin])
    beam.steer(np.array([0.0, 20.0], np.float32), np.array([0.5, 0.5], np.float32))
    second = beam.step(pcm[:, BLOCK_SAMPLES : 2 * BLOCK_SAMPLES + 2 * margin])
    assert np.abs(np.diff(np.concatenate((first, second)))).max() < 0.1


def test_tracker_reset_equals_new() -> None:
    pcm = array_recording(SQUARE_M, 20.0)
    tracker = DelayTracker(4, SQUARE_M)
    tracker.set_reference(2)
    track(tracker, pcm)
    tracker.reset()
    fresh = DelayTracker(4, SQUARE_M)
    track(tracker, pcm)
    track(fresh, pcm)
    window = pcm[:, -DELAY_WINDOW_SAMPLES:]
    assert np.array_equal(tracker.step(window).delays_samples, fresh.step(window).delays_samples)
