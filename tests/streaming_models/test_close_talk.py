"""Recognising a microphone per person, and keeping each to its owner; on synthesised meetings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streaming_models import close_talk
from streaming_models.close_talk import (
    BLOCK_SAMPLES,
    FRAME_SAMPLES,
    LOOKAHEAD_BLOCKS,
    BleedSuppressor,
    FloatArray,
    LayoutDetector,
)

SAMPLE_RATE_HZ = 16_000
Turns = list[tuple[int, float, float]]
"""(talker, start in seconds, end in seconds)."""


def voices(turns: Turns, talkers: int, seconds: float, seed: int = 0) -> FloatArray:
    """(talkers, S): noise with the slope of speech in syllables of 4 to 5 a second, -26 dBFS."""
    rng = np.random.default_rng(seed)
    count = round(seconds * SAMPLE_RATE_HZ)
    out = np.zeros((talkers, count), np.float32)
    for talker, start_s, end_s in turns:
        first, last = round(start_s * SAMPLE_RATE_HZ), round(end_s * SAMPLE_RATE_HZ)
        time_s = np.arange(last - first) / SAMPLE_RATE_HZ
        noise = rng.standard_normal(last - first)
        # 6 dB an octave down from about 500 Hz, differently coloured for each talker.
        spectrum = np.fft.rfft(noise)
        hz = np.fft.rfftfreq(noise.size, 1 / SAMPLE_RATE_HZ)
        spectrum *= (hz > 120) / (1 + hz / 500) * (1.3 + np.sin(hz / (200 + 40 * talker)))
        syllables = 0.05 + np.maximum(0, np.sin(2 * np.pi * (4 + 0.3 * talker) * time_s)) ** 2
        sound = np.fft.irfft(spectrum, noise.size) * syllables
        out[talker, first:last] += (0.05 * sound / np.sqrt(np.mean(sound**2))).astype(np.float32)
    return out


def room_tails(channels: int, talkers: int, direct_db: NDArray[np.float64], seed: int = 1) -> NDArray[np.float64]:
    """(channels, talkers, taps): a direct impulse of the given level and a tail (T60 0.3 s) 12 dB
    under a voice at 25 cm, whatever the distance, as in a small room."""
    rng = np.random.default_rng(seed)
    taps = 3_200
    decay = 10 ** (-3 * np.arange(taps) / (0.3 * SAMPLE_RATE_HZ))
    tail = rng.standard_normal((channels, talkers, taps)) * decay
    tail *= 10 ** (-14 / 20) / np.sqrt(np.sum(tail**2, axis=2, keepdims=True))
    tail[:, :, :60] = 0
    tail[:, :, 20] = 10 ** (direct_db / 20)
    return tail


def recorded(
    dry: FloatArray, paths: NDArray[np.float64], gains_db: list[float] | None = None, hiss: float = 1e-4, seed: int = 2
) -> tuple[FloatArray, FloatArray]:
    """(C, S) recording and (C, talkers, S) what each talker contributes to it."""
    C, _, taps = paths.shape
    size = dry.shape[1] + taps
    spectra = np.fft.rfft(paths, size) * np.fft.rfft(dry, size)[None]
    images = np.fft.irfft(spectra, size)[:, :, : dry.shape[1]]
    if gains_db is not None:
        images *= 10 ** (np.array(gains_db)[:, None, None] / 20)
    noise = hiss * np.random.default_rng(seed).standard_normal((C, dry.shape[1]))
    return (images.sum(axis=1) + noise).astype(np.float32), images.astype(np.float32)


def lapel_levels_db(people: int, tables: int = 0) -> NDArray[np.float64]:
    """(people + tables, people) direct levels: 0 dB at the own lapel, -15 at others', -11 at a table."""
    levels = np.full((people + tables, people), -15.0)
    levels[np.arange(people), np.arange(people)] = 0.0
    levels[people:] = -11.0
    return levels


def taking_turns(talkers: int, seconds: float, turn_s: float = 1.8) -> Turns:
    """One after the other, with pauses of 0.3 s."""
    starts = np.arange(0.5, seconds - turn_s, turn_s + 0.3)
    return [(index % talkers, float(start), float(start) + turn_s) for index, start in enumerate(starts)]


def energy_db(signal: FloatArray, start_s: float, end_s: float) -> float:
    """Mean power of a stretch in dB of full scale."""
    part = signal[round(start_s * SAMPLE_RATE_HZ) : round(end_s * SAMPLE_RATE_HZ)]
    return float(10 * np.log10(np.mean(part.astype(np.float64) ** 2) + 1e-12))


def detected(pcm: FloatArray) -> LayoutDetector:
    """A detector that has heard everything."""
    detector = LayoutDetector(pcm.shape[0])
    for end in range(FRAME_SAMPLES, pcm.shape[1], BLOCK_SAMPLES):
        detector.step(close_talk.analyse(pcm[:, end - FRAME_SAMPLES : end])[1])
    return detector


def suppressed(pcm: FloatArray) -> FloatArray:
    """(C, S) all lanes, on the time of the input."""
    C, S = pcm.shape
    detector = LayoutDetector(C)
    suppressor = BleedSuppressor(C, detector)
    padded = np.pad(pcm, ((0, 0), (BLOCK_SAMPLES, (LOOKAHEAD_BLOCKS + 1) * BLOCK_SAMPLES)))
    blocks = []
    for end in range(FRAME_SAMPLES, padded.shape[1] + 1, BLOCK_SAMPLES):
        spectrum, powers = close_talk.analyse(padded[:, end - FRAME_SAMPLES : end])
        detector.step(powers)
        done = suppressor.push(spectrum, powers)
        if done is not None:
            blocks.append(done[0])
    return np.concatenate(blocks, axis=1)[:, :S]


def test_lapels_are_recognised_whatever_their_gains() -> None:
    dry = voices(taking_turns(3, 16), 3, 16)
    pcm, _ = recorded(dry, room_tails(4, 3, lapel_levels_db(3, tables=1)), gains_db=[0, -12, 4, 6])
    assert detected(pcm).is_close_talk


def test_separate_tracks_are_recognised() -> None:
    assert detected(voices(taking_turns(2, 10), 2, 10)).is_close_talk


def test_one_talker_alone_decides_nothing() -> None:
    dry = voices([(0, 0.5, 9.0)], 2, 10)
    pcm, _ = recorded(dry, room_tails(2, 2, lapel_levels_db(2)))
    assert not detected(pcm).is_close_talk


def test_array_with_unequal_gains_stays_an_array() -> None:
    # Talkers at 1 to 2 m of microphones up to a metre apart: path lengths differ by 6 dB at most.
    levels = np.array([[-15, -19, -17], [-17, -15, -18], [-20, -16, -16], [-16, -18, -19]], np.float64)
    pcm, _ = recorded(voices(taking_turns(3, 16), 3, 16), room_tails(4, 3, levels), gains_db=[0, -12, 6, 3])
    detector = detected(pcm)
    assert not detector.is_close_talk
    assert detector.swing_db < 11


def test_array_with_a_dead_microphone_or_a_loose_contact_stays_an_array() -> None:
    pcm, _ = recorded(voices(taking_turns(3, 16), 3, 16), room_tails(3, 3, np.full((3, 3), -16.0)))
    pcm[1] = 0
    for start_s in range(1, 16, 3):
        pcm[2, start_s * SAMPLE_RATE_HZ : (start_s + 1) * SAMPLE_RATE_HZ] = 0
    assert not detected(pcm).is_close_talk


def test_array_with_one_hissing_microphone_stays_an_array() -> None:
    pcm, _ = recorded(voices(taking_turns(3, 16), 3, 16), room_tails(3, 3, np.full((3, 3), -16.0)))
    pcm[1] += (0.01 * np.random.default_rng(5).standard_normal((pcm.shape[1],))).astype(np.float32)
    assert not detected(pcm).is_close_talk


def test_owner_passes_and_other_lanes_and_the_table_stay_silent() -> None:
    turns = taking_turns(3, 22)
    paths = room_tails(4, 3, lapel_levels_db(3, tables=1))
    pcm, images = recorded(voices(turns, 3, 22), paths, gains_db=[0, -9, 3, 6])
    lanes = suppressed(pcm)
    for talker, start_s, end_s in turns:
        if start_s < 9:
            continue  # every bleed path was heard once by then
        kept_db = energy_db(lanes[talker], start_s, end_s) - energy_db(images[talker, talker], start_s, end_s)
        assert abs(kept_db) < 1.0
        for lane in range(4):
            if lane != talker:
                # The first 0.4 s may still be the hangover of the one who spoke before.
                assert energy_db(lanes[lane], start_s + 0.4, end_s) < energy_db(pcm[lane], start_s, end_s) - 20


def test_two_people_at_once_both_pass() -> None:
    turns = [*taking_turns(2, 13), (0, 13.5, 16.0), (1, 13.5, 16.0)]
    pcm, images = recorded(voices(turns, 2, 17), room_tails(2, 2, lapel_levels_db(2)), gains_db=[0, -8])
    lanes = suppressed(pcm)
    first, last = round(13.7 * SAMPLE_RATE_HZ), round(15.8 * SAMPLE_RATE_HZ)
    for talker in range(2):
        own, lane = images[talker, talker, first:last], lanes[talker, first:last]
        assert float(own @ lane) / float(own @ own) > 0.75
        other = images[talker, 1 - talker, first:last]
        assert float(np.corrcoef(own, lane)[0, 1]) > 0.9 > 0.3 > abs(float(np.corrcoef(other, lane)[0, 1]))


def test_headset_that_is_ten_milliseconds_late_passes_and_explains_bleed() -> None:
    turns = taking_turns(2, 15)
    pcm, images = recorded(voices(turns, 2, 15), room_tails(2, 2, lapel_levels_db(2)))
    late = np.roll(pcm, 160, axis=1)[1]
    lanes = suppressed(np.stack([pcm[0], late]))
    talker, start_s, end_s = turns[-1]
    other = 1 - talker
    assert abs(energy_db(lanes[talker], start_s, end_s) - energy_db(images[talker, talker], start_s, end_s)) < 1.0
    assert energy_db(lanes[other], start_s + 0.4, end_s) < energy_db(pcm[other], start_s, end_s) - 20


def test_learned_gains_are_those_of_the_room() -> None:
    pcm, images = recorded(voices(taking_turns(2, 15), 2, 15), room_tails(2, 2, lapel_levels_db(2)), gains_db=[0, -6])
    detector = LayoutDetector(2)
    suppressor = BleedSuppressor(2, detector)
    for end in range(FRAME_SAMPLES, pcm.shape[1], BLOCK_SAMPLES):
        powers = close_talk.analyse(pcm[:, end - FRAME_SAMPLES : end])[1]
        detector.step(powers)
        suppressor.learn(powers)
    gains_db = suppressor.bleed_gains_db()
    for talker in range(2):
        true_db = 10 * np.log10(np.mean(images[1 - talker, talker] ** 2) / np.mean(images[talker, talker] ** 2))
        assert abs(float(gains_db[1 - talker, talker]) - true_db) < 4.5
