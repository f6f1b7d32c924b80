"""What somebody said while others spoke, through one microphone: heard again by how they sound alone.

Where two people speak at once, one microphone's recogniser writes whoever is louder, and stumbles over the words
around it. But the diarizer knows before long who spoke when, and nearly everybody in an overlap is also heard alone,
shortly before or after. A network listens to those stretches to learn the voice, and takes it out of the overlap (a
mask over the spectrum). Each passage in which somebody overlaps with somebody else is heard so, once, as soon as it is
settled who spoke; it is then read a second time, see `second_hearing.Passage`.

The diarizer notices a third of the overlap that one far microphone hears. So people are also held to speak where it is
in doubt and the network finds part of the sound to be theirs, and where it finds most of it theirs. Such passages may
be imagined: whoever reads them is told (`OverlappedPassage.noticed`) and can leave out what makes no sense.

It refuses to read, to name people and to guess: whoever was not heard alone for `LEAST_SOLO_HOPS` stays as they are.

Source: that a solo segment enrols a speaker is the idea of Solo-SF; guiding a mask by a voice is Wang et al.,
"VoiceFilter", Interspeech 2019. The network is this project's, see its card.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streaming_models.frame_runs import within
from streaming_models.second_hearing import PAUSE_HOPS, Passage, passages
from streaming_models.short_time import HOP_SAMPLES, ComplexArray, frames_in, sound_of, whole_spectra_of
from streaming_models.speakers import Diarizer, label_number

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

Extract = Callable[[FloatArray, FloatArray, FloatArray], FloatArray]
"""Magnitudes (T, BINS), and (T,) 1 where the wanted voice is known to be alone, and where others are without it
-> (T, BINS) the part of each point that is the wanted voice, 0 to 1."""

KEPT_HOPS = frames_in(30)
"""Settled audio that is remembered, 1.9 MB: the longest passage, and what surrounds it."""
CONTEXT_HOPS = frames_in(6)
"""Heard before and after a passage: there its talker and the others are alone."""
LEAST_SOLO_HOPS = frames_in(0.5)
LEAST_OVERLAP_HOPS = frames_in(0.25)
"""A shorter overlap is left to the live reading."""
MARGIN_HOPS = frames_in(0.2)
"""Heard before and after a passage: soft beginnings and ends."""
NEWS_HOPS = frames_in(4)
"""Who is heard how much is judged whenever so much more is settled: seldomer costs less, and comes later."""
PART_OF_IT, MOST_OF_IT = 0.2, 0.7
"""Whoever has more than this part of a moment speaks, where the diarizer is in doubt, and whatever it says."""
LOUDNESS = np.float32(0.6)
"""Power of the magnitudes by which the points of a moment count in that part."""
SMOOTH_HOPS = 13
SOFTNESS = np.float32(0.7)
"""Power of the mask for what is to be read: a hard one takes away from the voice too. WER of 64 pairs by power, 1 to
0.4: 0.390, 0.360, 0.357 (0.7), 0.369, 0.375, 0.388."""


@dataclass(frozen=True, eq=False)
class OverlappedPassage(Passage):
    """`seat` is the number in the speaker's label; `noticed`: the diarizer, too, is sure that somebody else spoke."""

    noticed: bool


class OverlapHearing:
    """One mono lane's passages with overlap, each once. Results depend on the audio alone, not on how it was cut."""

    def __init__(self, extract: Extract, diarizer: Diarizer) -> None:
        """Args: diarizer: of the same lane; it is asked, never stepped."""
        self._extract = extract
        self._diarizer = diarizer
        self._sound = np.zeros(0, np.float32)  # from the oldest hop on
        self._new: list[FloatArray] = []  # after it, joined when it is needed
        self._oldest = 0
        self._judged = 0  # hop
        self._shares: dict[str, FloatArray] = {}  # label -> of the hops from the oldest to those that are judged
        self._heard_until: dict[str, int] = {}  # label -> hop

    @property
    def kept_samples(self) -> int:
        """Audio that is remembered just now."""
        return len(self._sound) + sum(map(len, self._new))

    def step(self, pcm: FloatArray) -> None:
        """Keep the lane's next audio, (S,) float32 at 16 kHz."""
        self._new.append(pcm)

    def review(self, *, last: bool = False) -> list[OverlappedPassage]:
        """The passages that are settled by now and were not heard before, in order of time.

        Args:
            last: nothing follows, so what is not over is.
        """
        settled = min(self._diarizer.final_until_sample, self._oldest * HOP_SAMPLES + self.kept_samples) // HOP_SAMPLES
        if settled - self._judged < (1 if last else NEWS_HOPS):
            return []
        self._sound, self._new = np.concatenate((self._sound, *self._new)), []
        self._forget(settled)
        scene = _Scene.of(self._diarizer, self._oldest, len(self._sound) // HOP_SAMPLES)
        self._judge(scene, settled)
        judged = settled - self._oldest
        talks = {
            label: scene.talks_of(label)[:judged]
            | (scene.perhaps[label][:judged] & (share > PART_OF_IT))
            | (share > MOST_OF_IT)
            for label, share in self._shares.items()
            if label in scene.perhaps
        }
        overlap = _how_many(talks, judged) > 1
        over = judged - (0 if last else PAUSE_HOPS)
        found: list[OverlappedPassage] = []
        for label, own in talks.items():
            done = self._heard_until.get(label, 0) - self._oldest
            for first, after in passages(own, self._shares[label]):
                first = max(first, done)
                if after <= over and (own & overlap)[first:after].sum() >= LEAST_OVERLAP_HOPS:
                    self._heard_until[label] = self._oldest + after
                    found += self._hear(scene, label, first, after)
        return sorted(found, key=lambda passage: (passage.start_sample, passage.seat))

    def _forget(self, settled: int) -> None:
        """Keep `KEPT_HOPS` of what is settled, and all that was not judged."""
        extra = min(settled - KEPT_HOPS, self._judged) - self._oldest
        if extra > 0:
            self._sound = self._sound[extra * HOP_SAMPLES :]
            self._shares = {label: share[extra:] for label, share in self._shares.items()}
            self._oldest += extra

    def _judge(self, scene: _Scene, settled: int) -> None:
        """Learn who is heard how much in what is newly settled; whose voice is not known there is not."""
        begin, end = self._judged - self._oldest, settled - self._oldest
        self._judged = settled
        for label in {**self._shares, **scene.perhaps}:
            before = self._shares.get(label, np.zeros(begin, np.float32))
            self._shares[label] = np.pad(before, (0, end - begin))
        around = slice(max(0, begin - CONTEXT_HOPS), min(scene.hops, end + CONTEXT_HOPS))
        near = [label for label, talks in scene.perhaps.items() if talks[around].any()]
        if len(near) < 2:
            return
        spectra = self._spectra(around)
        weight = np.abs(spectra) ** LOUDNESS
        weight /= weight.sum(axis=1, keepdims=True) + np.float32(1e-10)
        for label in near:
            mask = self._mask(scene, label, spectra, around)
            if mask is not None:
                share = np.convolve((mask * weight).sum(axis=1), np.full(SMOOTH_HOPS, 1 / SMOOTH_HOPS), "same")
                self._shares[label][begin:end] = share[begin - around.start : end - around.start]

    def _hear(self, scene: _Scene, label: str, first: int, after: int) -> list[OverlappedPassage]:
        """What a voice says in the hops from `first` to before `after`; nothing if it is not known how it sounds."""
        noticed = (scene.talks_of(label) & scene.overlap)[first:after].sum() >= LEAST_OVERLAP_HOPS
        first, after = max(0, first - MARGIN_HOPS), min(self._judged - self._oldest, after + MARGIN_HOPS)
        around = slice(max(0, first - CONTEXT_HOPS), min(scene.hops, after + CONTEXT_HOPS))
        spectra = self._spectra(around)
        mask = self._mask(scene, label, spectra, around)
        if mask is None:
            return []
        inside = slice(first - around.start, after - around.start + 1)
        pcm = sound_of(spectra[inside] * mask[inside] ** SOFTNESS)[HOP_SAMPLES:]
        start = (self._oldest + first) * HOP_SAMPLES
        return [OverlappedPassage(label_number(label), start, start + len(pcm), pcm, bool(noticed))]

    def _spectra(self, around: slice) -> ComplexArray:
        """(T + 1, BINS) of T hops."""
        return whole_spectra_of(self._sound[around.start * HOP_SAMPLES : around.stop * HOP_SAMPLES])

    def _mask(self, scene: _Scene, label: str, spectra: ComplexArray, around: slice) -> FloatArray | None:
        """(T + 1, BINS), the part of each point that is a voice; None if it is not known how it sounds."""
        alone, talks = scene.alone[around], scene.perhaps[label][around]
        own, others = alone & talks, alone & ~talks
        if own.sum() < LEAST_SOLO_HOPS:
            return None
        own_marks, other_marks = (np.append(marks, False).astype(np.float32) for marks in (own, others))
        return self._extract(np.abs(spectra), own_marks, other_marks)


@dataclass(frozen=True, eq=False)
class _Scene:
    """Who talks in each of the hops that are remembered.

    talks: label -> (T,). perhaps: the same, and whoever may be a second one. overlap: (T,) where two talk for certain.
    alone: (T,) where one does, and nobody else perhaps.
    """

    talks: Mapping[str, BoolArray]
    perhaps: Mapping[str, BoolArray]
    overlap: BoolArray
    alone: BoolArray

    @classmethod
    def of(cls, diarizer: Diarizer, first_hop: int, hops: int) -> _Scene:
        since = first_hop * HOP_SAMPLES
        middles = since + np.arange(hops) * HOP_SAMPLES + HOP_SAMPLES // 2
        talks, perhaps = (
            {label: within(middles, stretches) for label, stretches in talking.items()}
            for talking in (diarizer.talking(since), diarizer.talking(since, perhaps=True))
        )
        return cls(talks, perhaps, _how_many(talks, hops) > 1, _how_many(perhaps, hops) == 1)

    @property
    def hops(self) -> int:
        return len(self.alone)

    def talks_of(self, label: str) -> BoolArray:
        """(T,) where one talks for certain."""
        return self.talks.get(label, np.zeros(self.hops, np.bool_))


def _how_many(talks: Mapping[str, BoolArray], hops: int) -> NDArray[np.int64]:
    return sum((row.astype(np.int64) for row in talks.values()), np.zeros(hops, np.int64))
