"""What devices and networks do to sound on its way: noise, hum, poor microphones, gain, codecs, lost packets.

Every function takes (C, S) float32 audio in [-1, 1] at 16 kHz and a generator, and returns new audio of the same shape
with every sound at its old time, so that labels stay true. The same generator state gives the same audio. A channel
that is zero throughout is a microphone that is not there: it stays zero. `degrade` is all of it, drawn at random.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from streaming_models.data.corpus import SAMPLE_RATE_HZ, FloatArray
from streaming_models.data.lossy_codecs import opus, telephone
from streaming_models.data.noise import coloured_noise, hum

Degradation: TypeAlias = Callable[[FloatArray, np.random.Generator], FloatArray]

PACKET_SAMPLES = SAMPLE_RATE_HZ // 50
"""20 ms, what nearly every voice codec packs."""
RAMP_SAMPLES = SAMPLE_RATE_HZ // 100
NOISE_SNR_DB = (5.0, 30.0)
HUM_SNR_DB = (10.0, 35.0)
GAIN_JUMP_DB = 12.0
OPUS_BIT_RATES = (10_000, 14_000, 20_000, 28_000)
REPEAT_FADE = 0.5
"""Every repetition of the last packet is so much quieter than the one before."""


def degrade(audio: FloatArray, rng: np.random.Generator, strength: float = 1.0) -> FloatArray:
    """Some of what may happen to audio between mouth and recogniser, in the order in which it happens.

    Args:
        audio: (C, S).
        rng: decides what happens and how.
        strength: 0 leaves everything as it is; 1 leaves about a third untouched.
    """
    for chance, degradation in CHAIN:
        if rng.random() < chance * strength:
            audio = degradation(audio, rng)
    return audio


def add_noise(audio: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Noise of some colour, white to brown, 5-30 dB below the sound; different at every microphone."""
    channels, length_samples = audio.shape
    noise = coloured_noise(channels, length_samples, rng, slope=float(rng.uniform(0.0, 2.0)))
    return _added(audio, noise * _rms(audio) * 10 ** (-rng.uniform(*NOISE_SNR_DB) / 20))


def add_hum(audio: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Mains hum 10-35 dB below the sound, alike at all microphones."""
    wave = hum(audio.shape[1], rng)[None] * _rms(audio) * 10 ** (-rng.uniform(*HUM_SNR_DB) / 20)
    return _added(audio, wave)


def poor_microphone(audio: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Bass cut below 50-400 Hz, treble cut above 3-8 kHz, and a tilt between; no change of phase."""
    frequency_hz = np.maximum(np.fft.rfftfreq(audio.shape[1], 1 / SAMPLE_RATE_HZ), 1.0)
    bass_hz, treble_hz = rng.uniform(50, 400), rng.uniform(3_000, 8_000)
    response = 1 / np.sqrt(1 + (bass_hz / frequency_hz) ** 4) / np.sqrt(1 + (frequency_hz / treble_hz) ** 8)
    response *= (frequency_hz / 1_000) ** rng.uniform(-0.3, 0.3)
    heard: FloatArray = np.fft.irfft(np.fft.rfft(audio, axis=1) * response, audio.shape[1], axis=1).astype(np.float32)
    return heard


def clip(audio: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Recorded too loud: the loudest 0.05 to 1 % of the samples are cut off."""
    live = np.abs(audio[audio.any(axis=1)])
    if not live.size:
        return audio
    ceiling = float(np.quantile(live, 1 - 10 ** rng.uniform(np.log10(5e-4), -2)))
    return np.clip(audio, -ceiling, ceiling)


def gain_jumps(audio: FloatArray, rng: np.random.Generator) -> FloatArray:
    """One to three changes of level by up to 12 dB each way (a hand on a knob, gain control), all channels alike."""
    steps_db = rng.uniform(-GAIN_JUMP_DB, GAIN_JUMP_DB, 1 + int(rng.integers(1, 4)))
    places = np.sort(rng.integers(0, audio.shape[1], len(steps_db) - 1))
    at = np.concatenate([[0.0], np.repeat(places, 2)]) + np.array([0, *[0, RAMP_SAMPLES] * len(places)])
    levels_db = np.repeat(steps_db, 2)[:-1]  # each level holds until the next place, and a ramp leads on
    gain = 10 ** (np.interp(np.arange(audio.shape[1]), np.maximum.accumulate(at), levels_db) / 20)
    changed = audio * gain
    # Never louder than before: a jump shall not clip by itself.
    changed *= min(1.0, float(np.max(np.abs(audio), initial=1e-9)) / float(np.max(np.abs(changed), initial=1e-9)))
    return changed.astype(np.float32)


def over_telephone(audio: FloatArray, rng: np.random.Generator) -> FloatArray:
    """8 kHz and mu-law; draws nothing."""
    del rng
    return _live_channels(audio, telephone)


def over_opus(audio: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Opus at 10 to 28 kbit/s a channel."""
    bit_rate = int(rng.choice(OPUS_BIT_RATES))
    return _live_channels(audio, lambda live: opus(live, bit_rate))


def lose_packets(audio: FloatArray, rng: np.random.Generator) -> FloatArray:
    """1 to 10 % of the 20 ms packets never come, in bursts of 1 to 5; all channels travel in one packet.

    At random the receiver puts silence in their place, or repeats the last packet ever more quietly.
    """
    rate, burst, repeats = 10 ** rng.uniform(-2, -1), rng.uniform(1.0, 5.0), rng.random() < 0.5
    count = audio.shape[1] // PACKET_SAMPLES
    # Gilbert's two states: P(lost after lost) gives the bursts, P(lost after heard) the rate.
    stays, begins = 1 - 1 / burst, rate / (1 - rate) / burst
    changed = audio.copy()
    draws = rng.random(count)
    lost = False
    for packet in range(count):
        lost = bool(draws[packet] < (stays if lost else begins))
        if lost:
            span = slice(packet * PACKET_SAMPLES, (packet + 1) * PACKET_SAMPLES)
            before = changed[:, span.start - PACKET_SAMPLES : span.start]
            changed[:, span] = REPEAT_FADE * before if repeats and packet else 0.0
    return changed


def lose_channel(audio: FloatArray, rng: np.random.Generator) -> FloatArray:
    """One of several microphones goes dead for good at some moment; the last one never does."""
    live = np.flatnonzero(audio.any(axis=1))
    if len(live) < 2:
        return audio
    changed = audio.copy()
    changed[int(rng.choice(live)), int(rng.integers(audio.shape[1])) :] = 0.0
    return changed


CHAIN: tuple[tuple[float, Degradation], ...] = (
    (0.15, add_noise),
    (0.07, add_hum),
    (0.15, poor_microphone),
    (0.10, lose_channel),
    (0.12, gain_jumps),
    (0.07, clip),
    (0.10, over_opus),
    (0.07, over_telephone),
    (0.10, lose_packets),
)
"""How often each happens; the order is that of the way from room to recogniser."""


def _rms(audio: FloatArray) -> float:
    """Of all channels that are there, together."""
    live = audio[audio.any(axis=1)]
    return float(np.sqrt(np.mean(live**2))) if live.size else 0.0


def _added(audio: FloatArray, disturbance: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> FloatArray:
    """The sum, in channels that are there."""
    there = audio.any(axis=1, keepdims=True)
    summed: FloatArray = (audio + there * disturbance).astype(np.float32)
    return summed


def _live_channels(audio: FloatArray, codec: Callable[[FloatArray], FloatArray]) -> FloatArray:
    """The codec applied to the channels that are there."""
    there = audio.any(axis=1)
    changed = audio.copy()
    if there.any():
        changed[there] = codec(audio[there])
    return changed
