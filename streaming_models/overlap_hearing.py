"""What somebody said while others spoke, through one microphone: heard again by how they sound alone.

Where two people speak at once, one microphone's recogniser writes whoever is louder, and stumbles over the words
around it. But the diarizer knows before long who spoke when, and nearly everybody in an overlap is also heard alone,
shortly before or after. A network listens to those stretches to learn the voice, and takes it out of the overlap (a
mask over the spectrum). Each passage in which somebody overlaps with somebody else is heard so, once, as soon as it is
settled who spoke; it is then read a second time, see `second_hearing.Passage`.

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
from streaming_models.short_time import HOP_SAMPLES, frames_in, sound_of, whole_spectra_of
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


class OverlapHearing:
    """One mono lane's passages with overlap, each once. Results depend on the audio alone, not on how it was cut."""

    def __init__(self, extract: Extract, diarizer: Diarizer) -> None:
        """Args: diarizer: of the same lane; it is asked, never stepped."""
        self._extract = extract
        self._diarizer = diarizer
        self._sound = np.zeros(0, np.float32)  # from the oldest hop on
        self._new: list[FloatArray] = []  # after it, joined when it is needed
        self._oldest = 0
        self._reviewed = 0  # hop
        self._heard_until: dict[str, int] = {}  # label -> hop

    @property
    def kept_samples(self) -> int:
        """Audio that is remembered just now."""
        return len(self._sound) + sum(map(len, self._new))

    def step(self, pcm: FloatArray) -> None:
        """Keep the lane's next audio, (S,) float32 at 16 kHz."""
        self._new.append(pcm)

    def review(self, *, last: bool = False) -> list[Passage]:
        """The passages that are settled by now and were not heard before, in order of time.

        `Passage.seat` is the number in the speaker's label.

        Args:
            last: nothing follows, so what is not over is.
        """
        settled = min(self._diarizer.final_until_sample, self._oldest * HOP_SAMPLES + self.kept_samples) // HOP_SAMPLES
        if settled <= self._reviewed:
            return []
        self._sound, self._new = np.concatenate((self._sound, *self._new)), []
        self._forget(settled)
        self._reviewed = settled
        scene = _Scene.of(self._diarizer, self._oldest, len(self._sound) // HOP_SAMPLES)
        if not scene.overlap.any():
            return []
        over = settled - self._oldest - (0 if last else PAUSE_HOPS)
        sound = self._sound[: scene.hops * HOP_SAMPLES].reshape(-1, HOP_SAMPLES)
        loudness = np.square(sound).mean(axis=1)
        found: list[Passage] = []
        for label, talks in scene.talks.items():
            done = self._heard_until.get(label, 0) - self._oldest
            for first, after in passages(talks, loudness):
                first = max(first, done)
                if after <= over and (talks & scene.overlap)[first:after].sum() >= LEAST_OVERLAP_HOPS:
                    self._heard_until[label] = self._oldest + after
                    first, after = max(0, first - MARGIN_HOPS), min(scene.hops, after + MARGIN_HOPS)
                    found += self._hear(scene, label, first, after)
        return sorted(found, key=lambda passage: (passage.start_sample, passage.seat))

    def _forget(self, settled: int) -> None:
        """Keep `KEPT_HOPS` of what is settled, and all that was not reviewed."""
        extra = min(settled - KEPT_HOPS, self._reviewed) - self._oldest
        if extra > 0:
            self._sound = self._sound[extra * HOP_SAMPLES :]
            self._oldest += extra

    def _hear(self, scene: _Scene, label: str, first: int, after: int) -> list[Passage]:
        """What a voice says in the hops from `first` to before `after`; nothing if it is not known how it sounds."""
        around = slice(max(0, first - CONTEXT_HOPS), min(scene.hops, after + CONTEXT_HOPS))
        own, others = (marks[around] for marks in scene.alone(label))
        if own.sum() < LEAST_SOLO_HOPS:
            return []
        spectra = whole_spectra_of(self._sound[around.start * HOP_SAMPLES : around.stop * HOP_SAMPLES])
        own_marks, other_marks = (np.append(marks, False).astype(np.float32) for marks in (own, others))
        mask = self._extract(np.abs(spectra), own_marks, other_marks)
        inside = slice(first - around.start, after - around.start + 1)
        pcm = sound_of(spectra[inside] * mask[inside])[HOP_SAMPLES:]
        start = (self._oldest + first) * HOP_SAMPLES
        return [Passage(label_number(label), start, start + len(pcm), pcm)]


@dataclass(frozen=True, eq=False)
class _Scene:
    """Who talks in each of the hops that are remembered.

    talks: label -> (T,). perhaps: the same, and whoever may be a second one. overlap: (T,) where two talk.
    """

    talks: Mapping[str, BoolArray]
    perhaps: Mapping[str, BoolArray]
    overlap: BoolArray

    @classmethod
    def of(cls, diarizer: Diarizer, first_hop: int, hops: int) -> _Scene:
        since = first_hop * HOP_SAMPLES
        middles = since + np.arange(hops) * HOP_SAMPLES + HOP_SAMPLES // 2
        talks, perhaps = (
            {label: within(middles, stretches) for label, stretches in talking.items()}
            for talking in (diarizer.talking(since), diarizer.talking(since, perhaps=True))
        )
        return cls(talks, perhaps, _how_many(talks, hops) > 1)

    @property
    def hops(self) -> int:
        return len(self.overlap)

    def alone(self, label: str) -> tuple[BoolArray, BoolArray]:
        """(T,) where one talks alone for certain, and where somebody else does."""
        alone = _how_many(self.perhaps, self.hops) == 1
        return self.talks[label] & alone, ~self.talks[label] & alone


def _how_many(talks: Mapping[str, BoolArray], hops: int) -> NDArray[np.int64]:
    return sum((row.astype(np.int64) for row in talks.values()), np.zeros(hops, np.int64))
