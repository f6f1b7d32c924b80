from __future__ import annotations

import numpy as np
import pytest

from streaming_models.data import degrade as degrading
from streaming_models.data.corpus import FloatArray
from streaming_models.data.degrade import CHAIN, PACKET_SAMPLES, Degradation, degrade
from tests.streaming_models.data.tiny_speech import syllables

EVERY = [pytest.param(degradation, id=degradation.__name__) for _, degradation in CHAIN]


def _audio(channels: int = 3) -> FloatArray:
    """(channels, S): a second of sound."""
    return np.stack([syllables(1.0, seed) for seed in range(channels)])


@pytest.mark.parametrize("degradation", EVERY)
def test_every_degradation_is_drawn_from_its_generator_and_leaves_its_input_alone(degradation: Degradation) -> None:
    audio = _audio()
    kept = audio.copy()
    changed = degradation(audio, np.random.default_rng(3))
    assert changed.shape == audio.shape
    assert changed.dtype == np.float32
    assert np.isfinite(changed).all()
    assert not np.array_equal(changed, audio)
    assert np.array_equal(audio, kept)
    assert np.array_equal(changed, degradation(audio, np.random.default_rng(3)))


@pytest.mark.parametrize("degradation", EVERY)
def test_an_absent_microphone_stays_absent_and_silence_is_no_error(degradation: Degradation) -> None:
    audio = _audio()
    audio[1] = 0.0
    assert not degradation(audio, np.random.default_rng(0))[1].any()
    assert not degradation(np.zeros((2, 16_000), np.float32), np.random.default_rng(0)).any()


def test_strength_nought_changes_nothing_and_full_strength_leaves_about_a_third() -> None:
    audio = _audio(1)[:, :3_200]
    assert degrade(audio, np.random.default_rng(0), strength=0.0) is audio
    untouched = [np.array_equal(degrade(audio, np.random.default_rng(seed)), audio) for seed in range(150)]
    assert 0.25 < np.mean(untouched) < 0.6


def test_noise_and_hum_stay_below_the_sound() -> None:
    audio = _audio(1)
    for degradation, (low_db, high_db) in (
        (degrading.add_noise, degrading.NOISE_SNR_DB),
        (degrading.add_hum, degrading.HUM_SNR_DB),
    ):
        for seed in range(5):
            added = degradation(audio, np.random.default_rng(seed)) - audio
            assert low_db - 0.1 < 10 * np.log10(np.mean(audio**2) / np.mean(added**2)) < high_db + 0.1


def test_gain_jumps_change_level_in_ramps_and_never_above_the_peak() -> None:
    steady = np.full((2, 16_000), 0.5, np.float32)
    for seed in range(10):
        changed = degrading.gain_jumps(steady, np.random.default_rng(seed))
        assert np.array_equal(changed[0], changed[1])
        assert 0.03 < changed.min() < changed.max() <= 0.5
        assert np.max(np.abs(np.diff(changed[0]))) < 0.02
        assert 10_000 < np.sum(np.diff(changed[0]) == 0) < 16_000


def test_lost_packets_are_whole_packets_of_all_channels_at_the_rate_promised() -> None:
    audio = np.full((2, PACKET_SAMPLES * 2_000 + 50), 0.5, np.float32)
    silent, repeated = 0, 0
    for seed in range(8):
        changed = degrading.lose_packets(audio, np.random.default_rng(seed))
        assert np.array_equal(changed[0], changed[1])
        packets = changed[0, : PACKET_SAMPLES * 2_000].reshape(-1, PACKET_SAMPLES)
        assert np.all(packets == packets[:, :1])
        lost = packets[:, 0] != 0.5
        assert 0.005 < lost.mean() < 0.15
        heard_of_lost = packets[1:][lost[1:]]  # before the first there is nothing to repeat
        silent += bool(np.all(heard_of_lost == 0.0))
        repeated += bool(np.all(heard_of_lost > 0.0))
    assert silent + repeated == 8
    assert silent
    assert repeated


def test_one_of_several_microphones_dies_for_good_and_an_only_one_never() -> None:
    for seed in range(5):
        changed = degrading.lose_channel(_audio(3), np.random.default_rng(seed))
        (dead,) = [c for c in range(3) if not np.array_equal(changed[c], _audio(3)[c])]
        silent = np.flatnonzero(changed[dead] == 0.0)
        assert len(silent) == 16_000 - silent[0]
    only = _audio(1)
    assert degrading.lose_channel(only, np.random.default_rng(0)) is only


def test_clipping_cuts_off_the_loudest_hundredth_at_most() -> None:
    changed = degrading.clip(_audio(), np.random.default_rng(1))
    cut = np.mean(np.abs(changed) == np.abs(changed).max())
    assert 4e-4 < cut < 0.011


def test_a_poor_microphone_delays_nothing() -> None:
    click = np.zeros((1, 4_000), np.float32)
    click[0, 2_000] = 0.5
    for seed in range(5):
        assert np.argmax(np.abs(degrading.poor_microphone(click, np.random.default_rng(seed)))) == 2_000
