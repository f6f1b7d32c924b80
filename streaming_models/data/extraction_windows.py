"""Training windows for taking one voice out of several: eight seconds in which one to three people talk.

Most of the time two overlap, and each is alone for a while too. They are heard by one microphone: in a simulated room,
by headsets summed into one signal, or without a room; with noise. Wanted is every voice with its early echo only, and
known is, as a diarizer would know it, where each is alone: some stretches are missing, some ends are wrong, and
overlaps that it did not notice are held to be one talker's. The same seed gives the same window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import fft

from streaming_models.data.corpus import SAMPLE_RATE_HZ, FloatArray
from streaming_models.data.windows import RESPONSE_SAMPLES, ROOM_MICROPHONES, ROOM_TALKERS, RoomBank, coloured
from streaming_models.frame_runs import runs
from streaming_models.short_time import HOP_SAMPLES

BoolArray: TypeAlias = npt.NDArray[np.bool_]
SpeechOf = Mapping[str, Sequence[npt.NDArray[np.int16]]]
"""Speaker -> their utterances, int16 at 16 kHz."""

WINDOW_SAMPLES = 8 * SAMPLE_RATE_HZ
WINDOW_HOPS = WINDOW_SAMPLES // HOP_SAMPLES
EARLY_SAMPLES = 800
"""Echo that comes within 50 ms of the direct sound belongs to the voice."""
PAUSE_HOPS = 16
"""A shorter pause (0.26 s) is part of the talk."""
SPOKEN_SHARE = 0.064
"""A hop is speech from this share of the loudness of a talker's speech on."""
LEAST_MARKED_HOPS = 40
MOST_UNNOTICED = 0.9
"""Of a window's overlaps, up to this share is held to be one talker's, mostly the louder one's."""
ONE_TALKER, THREE_TALKERS = 0.03, 0.08
"""Shares of the windows; in the others there are two."""
NO_ROOM, HEADSETS = 0.3, 0.12
LEVEL = 0.05


@dataclass(frozen=True, eq=False)
class ExtractionWindow:
    """mix: (S,) float32; voices: (K, S) each talker's; alone: (K, T) where each is held to be alone; overlap: (T,)
    where two or more talk."""

    mix: FloatArray
    voices: FloatArray
    alone: BoolArray
    overlap: BoolArray


class ExtractionSampler:
    """Draws windows; `draw(seed)` depends on the seed only."""

    def __init__(self, speech: SpeechOf, rooms: RoomBank) -> None:
        """Speakers are drawn by the root of how long they speak, of a minute at most.

        Raises:
            ValueError: fewer than three speakers.
        """
        if len(speech) < ROOM_TALKERS:
            raise ValueError(f"expected {ROOM_TALKERS} speakers or more, got {len(speech)}")
        self._speech, self._rooms = speech, rooms
        self._names = sorted(speech)
        seconds = np.array([sum(len(u) for u in speech[name]) for name in self._names]) / SAMPLE_RATE_HZ
        weight = np.sqrt(np.minimum(seconds, 60.0))
        self._likely = weight / weight.sum()

    def draw(self, seed: int) -> ExtractionWindow:
        """A window."""
        rng = np.random.default_rng(seed)
        kind = rng.random()
        count = 1 if kind < ONE_TALKER else 3 if kind > 1 - THREE_TALKERS else 2
        names = rng.choice(self._names, count, replace=False, p=self._likely)
        dry = np.zeros((count, WINDOW_SAMPLES), np.float32)
        for row, name, stretches in zip(dry, names, _turns(rng, count), strict=True):
            gain = np.float32(10 ** (rng.uniform(-4, 4) / 20))
            said: set[int] = set()
            for start, end in stretches:
                if end - start >= SAMPLE_RATE_HZ // 4:
                    sound = self._talk(rng, name, end - start, said)
                    row[start : start + len(sound)] += gain * sound
        talks = np.stack([_spoken(row) for row in dry])
        heard, early = self._in_a_room(rng, dry)
        mix = heard.sum(0)
        power = float(np.square(mix).mean()) + 1e-9
        noise = coloured(rng, mix.shape) * np.float32(np.sqrt(power / 10 ** (rng.uniform(8, 40) / 10)))
        scale = np.float32(LEVEL / np.sqrt(power))
        return ExtractionWindow((mix + noise) * scale, early * scale, _marked(rng, talks, early), talks.sum(axis=0) > 1)

    def _talk(self, rng: np.random.Generator, name: str, samples: int, said: set[int]) -> FloatArray:
        """So many samples of a speaker or fewer, each utterance once."""
        pieces: list[FloatArray] = []
        while sum(map(len, pieces)) < samples:
            left = [k for k in range(len(self._speech[name])) if k not in said]
            if not left:
                break
            chosen = left[int(rng.integers(len(left)))]
            said.add(chosen)
            pause = np.zeros(int(rng.uniform(0.05, 0.4) * SAMPLE_RATE_HZ), np.float32)
            pieces += [self._speech[name][chosen].astype(np.float32) / np.float32(32768), pause]
        sound = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
        first = int(rng.integers(max(0, len(sound) - samples) + 1))
        sound = sound[first : first + samples]
        return sound * np.float32(LEVEL / np.sqrt(np.square(sound).mean() + 1e-9)) if len(sound) else sound

    def _in_a_room(self, rng: np.random.Generator, dry: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(K, S) as the microphone hears the talkers, and with their early echo only."""
        kind = rng.random()
        if kind < NO_ROOM:
            return dry, dry
        room, seats = int(rng.integers(len(self._rooms.far))), rng.permutation(ROOM_TALKERS)[: len(dry)]
        microphone = int(rng.integers(ROOM_MICROPHONES))
        rooms = self._rooms
        near = kind < NO_ROOM + HEADSETS
        whole = (rooms.near[room, seats] if near else rooms.far[room, seats, microphone]).astype(np.float32)
        short = whole.copy()
        for row in short:
            row[int(np.abs(row).argmax()) + EARLY_SAMPLES :] = 0.0
        size = fft.next_fast_len(WINDOW_SAMPLES + RESPONSE_SAMPLES, real=True)
        spectra = fft.rfft(dry, size)
        heard, early = (
            fft.irfft(spectra * fft.rfft(response, size), size)[:, :WINDOW_SAMPLES].astype(np.float32)
            for response in (whole, short)
        )
        return heard, early


def _turns(rng: np.random.Generator, count: int) -> list[list[tuple[int, int]]]:
    """When each talks: the others begin while the first does; sometimes all of it backwards in time."""

    def samples(low: float, high: float) -> int:
        return int(rng.uniform(low, high) * SAMPLE_RATE_HZ)

    end = WINDOW_SAMPLES
    start = samples(-1.0, 1.5)
    first, after = max(0, start), min(end, start + samples(4.0, 7.5))
    turns = [[(first, after)]]
    if rng.random() < 0.35 and after + SAMPLE_RATE_HZ < end:
        turns[0].append((after + samples(0.3, 1.5), end))
    for _ in range(1, count):
        begins = samples(first / SAMPLE_RATE_HZ + 0.6, max(1.2, after / SAMPLE_RATE_HZ - 1.5))
        ends = min(end, begins + (samples(0.8, 2.0) if rng.random() < 0.15 else samples(2.5, 6.5)))
        turns.append([(begins, ends)])
        if rng.random() < 0.3 and begins > 3 * SAMPLE_RATE_HZ:
            turns[-1].append((0, begins - samples(1.0, 2.5)))
        if rng.random() < 0.35 and ends + 2 * SAMPLE_RATE_HZ < end:
            turns[-1].append((ends + samples(0.5, 1.5), end))
    backwards = rng.random() < 0.5
    return [[(end - b, end - a) if backwards else (a, b) for a, b in own] for own in turns]


def _spoken(row: FloatArray) -> BoolArray:
    """(S,) of one talker -> (T,) whether they talk."""
    loudness = np.sqrt(np.square(row.reshape(WINDOW_HOPS, HOP_SAMPLES)).mean(axis=1))
    sounding = loudness > 1e-4
    if not sounding.any():
        return np.zeros(WINDOW_HOPS, np.bool_)
    talks: BoolArray = loudness > SPOKEN_SHARE * np.sqrt(np.square(loudness[sounding]).mean())
    for first, after in runs(~talks):
        if first > 0 and after < WINDOW_HOPS and after - first < PAUSE_HOPS:
            talks[first:after] = True
    return talks


def _marked(rng: np.random.Generator, talks: BoolArray, early: FloatArray) -> BoolArray:
    """(K, T) who talks and (K, S) how loud -> where each is held to be alone, with a diarizer's errors."""
    alone: BoolArray = talks & (talks.sum(axis=0) == 1)
    for row in alone:
        if rng.random() < 0.5 and row.any():
            first = int(rng.choice(np.flatnonzero(row)))
            missed = slice(first, first + int(rng.integers(10, 120)))
            if row.sum() - row[missed].sum() >= LEAST_MARKED_HOPS:
                row[missed] = False
        if rng.random() < 0.3:
            row[:] = np.roll(row, int(rng.integers(-12, 13)))
    power = np.square(early.reshape(len(early), WINDOW_HOPS, HOP_SAMPLES)).mean(axis=2)
    unnoticed = rng.random() * MOST_UNNOTICED
    for first, after in runs(talks.sum(axis=0) > 1):
        if rng.random() > unnoticed:
            continue
        cuts = [first, after]
        if after - first >= LEAST_MARKED_HOPS and rng.random() < 0.5:
            cuts.insert(1, int(rng.integers(first + 15, after - 15)))
        for begin, end in pairwise(cuts):
            present = np.flatnonzero(talks[:, begin:end].mean(axis=1) > 0.3)
            if len(present) and (len(cuts) == 2 or rng.random() < 0.65):
                loudest = present[power[present, begin:end].sum(axis=1).argmax()]
                alone[loudest if rng.random() < 0.75 else rng.choice(present), begin:end] = True
    return alone
