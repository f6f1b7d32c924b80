"""Dead, recovered and clipping microphones."""

from __future__ import annotations

import numpy as np

from streaming_models.channel_health import HEALTH_BLOCK_SAMPLES, ChannelHealth, FloatArray, HealthEvent


def speech(channels: int, seconds: float, level: float = 0.05, seed: int = 0) -> FloatArray:
    rng = np.random.default_rng(seed)
    count = round(seconds * 16_000)
    envelope = 0.05 + np.maximum(0, np.sin(2 * np.pi * 2 * np.arange(count) / 16_000))
    common = envelope * rng.standard_normal(count)
    return (level * (common + 0.05 * rng.standard_normal((channels, count)))).astype(np.float32)


def run(health: ChannelHealth, pcm: FloatArray, silence_is_normal: bool = False, first: int = 0) -> list[HealthEvent]:
    events: list[HealthEvent] = []
    for end in range(HEALTH_BLOCK_SAMPLES, pcm.shape[1] + 1, HEALTH_BLOCK_SAMPLES):
        events += health.step(pcm[:, end - HEALTH_BLOCK_SAMPLES : end], first + end, silence_is_normal)
    return events


def test_healthy_channels_raise_nothing() -> None:
    assert run(ChannelHealth(3), speech(3, 5)) == []


def test_digitally_silent_channel_dies_after_a_second_of_speech_elsewhere() -> None:
    pcm = speech(3, 4)
    pcm[1, 16_000:] = 0
    events = run(ChannelHealth(3), pcm)
    assert [(e.kind, e.channel) for e in events] == [("dead", 1)]
    assert 32_000 <= events[0].sample <= 48_000


def test_channel_more_than_40_db_down_dies() -> None:
    pcm = speech(3, 4)
    pcm[2] *= 0.005
    health = ChannelHealth(3)
    assert [(e.kind, e.channel) for e in run(health, pcm)] == [("dead", 2)]
    assert health.dead.tolist() == [False, False, True]


def test_channel_20_db_down_lives() -> None:
    pcm = speech(3, 4)
    pcm[2] *= 0.1
    assert run(ChannelHealth(3), pcm) == []


def test_silence_while_nobody_speaks_kills_nothing() -> None:
    pcm = (1e-4 * np.random.default_rng(0).standard_normal((2, 64_000))).astype(np.float32)
    pcm[1] = 0
    assert run(ChannelHealth(2), pcm) == []


def test_dead_channel_recovers() -> None:
    pcm = speech(2, 8)
    pcm[0, :48_000] = 0
    events = run(ChannelHealth(2), pcm)
    assert [(e.kind, e.channel) for e in events] == [("dead", 0), ("recovered", 0)]
    assert 48_000 < events[1].sample <= 64_000


def test_quiet_track_of_a_listener_is_not_dead() -> None:
    pcm = speech(2, 12)
    pcm[0, 32_000:96_000] = 0
    pcm[1, :32_000] = 0
    assert run(ChannelHealth(2), pcm, silence_is_normal=True) == []


def test_headset_that_goes_silent_for_the_first_time_is_dead() -> None:
    pcm = speech(2, 12)
    pcm[0, 80_000:] = 0
    events = run(ChannelHealth(2), pcm, silence_is_normal=True)
    assert [(e.kind, e.channel) for e in events] == [("dead", 0)]


def test_clipping_is_reported_once_until_it_was_gone_for_five_seconds() -> None:
    pcm = speech(1, 16, level=0.05)
    for start in (16_000, 48_000, 192_000):
        pcm[0, start : start + 200] = 1.0
    events = run(ChannelHealth(1), pcm)
    assert [(e.kind, e.sample // 16_000) for e in events] == [("clipping", 1), ("clipping", 12)]


def test_levels_peaks_and_clipping_share_are_of_the_last_second() -> None:
    health = ChannelHealth(2)
    pcm = np.zeros((2, 16_000), np.float32)
    pcm[0] = 0.5
    pcm[1, ::10] = 1.0
    run(health, pcm)
    assert np.allclose(health.levels_db(), [-6.02, -10.0], atol=0.01)
    assert np.allclose(health.peaks(), [0.5, 1.0])
    assert np.allclose(health.clipping_share(), [0.0, 0.1], atol=1e-6)


def test_reset_equals_new() -> None:
    pcm = speech(2, 4)
    pcm[1, 8_000:] = 0
    health = ChannelHealth(2)
    first = run(health, pcm)
    health.reset()
    assert run(health, pcm) == first
