"""Echo goes, the talker stays, and nothing depends on what comes later."""

from __future__ import annotations

import numpy as np
import pytest

from streaming_models.dereverberation import DELAY_FRAMES, FIRST_FRAMES, MOST_INPUTS, ComplexArray, Dereverberator

BINS = 9
GROUP = 4


def talking(frames: int, seed: int = 1) -> ComplexArray:
    """(F, T) spectra that cannot be foretold: loud and quiet syllables of noise."""
    rng = np.random.default_rng(seed)
    loudness = np.repeat(rng.uniform(0.05, 1.0, frames // 8 + 1), 8)[:frames]
    noise = rng.standard_normal((BINS, frames)) + 1j * rng.standard_normal((BINS, frames))
    return np.asarray(noise * loudness, np.complex64)


def echoing(dry: ComplexArray, channels: int, seed: int = 2) -> ComplexArray:
    """(C, T, F): each microphone hears the talker, and ever weaker echoes from `DELAY_FRAMES` frames back on."""
    rng = np.random.default_rng(seed)
    heard = np.repeat(dry[None], channels, axis=0).astype(np.complex64)
    for back in range(DELAY_FRAMES, DELAY_FRAMES + 4):
        phase = np.exp(2j * np.pi * rng.uniform(size=(channels, BINS, 1)))
        heard[:, :, back:] += (0.6 ** (back - DELAY_FRAMES + 1) * phase * dry[None, :, :-back]).astype(np.complex64)
    return np.ascontiguousarray(heard.transpose(0, 2, 1))


def run(dereverberator: Dereverberator, spectra: ComplexArray) -> ComplexArray:
    parts = [dereverberator.step(spectra[:, t : t + GROUP]) for t in range(0, spectra.shape[1], GROUP)]
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("channels", [2, 4, 6])
def test_most_of_the_echo_is_gone_once_it_is_known(channels: int) -> None:
    dry = talking(1_200)
    spectra = echoing(dry, channels)
    clean = run(Dereverberator(channels, BINS), spectra)
    assert clean.shape == spectra.shape
    late = slice(600, None)
    echo = np.square(np.abs(spectra[0, late] - dry.T[late])).sum()
    left = np.square(np.abs(clean[0, late] - dry.T[late])).sum()
    assert left < 0.15 * echo


def test_nothing_is_taken_away_before_the_room_is_known() -> None:
    spectra = echoing(talking(200), 2)
    clean = run(Dereverberator(2, BINS), spectra)
    first = -(-FIRST_FRAMES // GROUP) * GROUP
    assert np.array_equal(clean[:, :first], spectra[:, :first])
    assert not np.array_equal(clean[:, first + 32 :], spectra[:, first + 32 :])


def test_what_comes_later_changes_nothing_earlier() -> None:
    spectra = echoing(talking(400), 2)
    other = spectra.copy()
    other[:, 300:] *= -3
    assert np.array_equal(run(Dereverberator(2, BINS), spectra)[:, :300], run(Dereverberator(2, BINS), other)[:, :300])


def test_reset_equals_a_new_one() -> None:
    spectra = echoing(talking(400), 2)
    used = Dereverberator(2, BINS)
    run(used, echoing(talking(400, seed=5), 2))
    used.reset()
    assert np.array_equal(run(used, spectra), run(Dereverberator(2, BINS), spectra))


def test_when_a_microphone_dies_the_others_foretell_the_echo_without_it() -> None:
    dry, died = talking(1_000), 900
    spectra = echoing(dry, 3)
    spectra[2, died:] = 0

    def left(told: bool) -> float:
        dereverberator = Dereverberator(3, BINS)
        run(dereverberator, spectra[:, :died])
        usable = np.array([True, True, not told])
        clean = dereverberator.step(spectra[:, died : died + GROUP], usable)
        clean = np.concatenate(
            [clean, dereverberator.step(spectra[:, died + GROUP : died + 2 * GROUP], usable)], axis=1
        )
        return float(np.square(np.abs(clean[0] - dry.T[died : died + 2 * GROUP])).sum())

    echo = float(np.square(np.abs(spectra[0, died : died + 2 * GROUP] - dry.T[died : died + 2 * GROUP])).sum())
    assert left(told=True) < left(told=False)
    assert left(told=True) < 0.3 * echo


def test_without_any_microphone_nothing_is_foretold() -> None:
    dereverberator = Dereverberator(2, BINS)
    spectra = echoing(talking(200), 2)
    run(dereverberator, spectra)
    assert np.array_equal(dereverberator.step(spectra[:, :GROUP], np.zeros(2, np.bool_)), spectra[:, :GROUP])


def test_silence_stays_silence() -> None:
    clean = run(Dereverberator(2, BINS), np.zeros((2, 400, BINS), np.complex64))
    assert not clean.any()


def test_work_is_bounded_however_many_microphones_there_are() -> None:
    for channels in range(1, 17):
        dereverberator = Dereverberator(channels, BINS)
        assert dereverberator.taps >= 1
        assert dereverberator.taps * channels <= max(MOST_INPUTS, channels)
