"""Who sits where: the diarizer's label of each seat that the separator has found.

Voice and place tell people apart independently. The diarizer hears voices, errs where two speak at once, and may split
or mix up people within seconds; a seat hardly ever changes its person. So a seat has the one label that was heard most
while somebody spoke there alone, and until enough was heard a new label counts for everything that was said there. It
refuses to know audio.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from streaming_models.attribution import UNNAMED
from streaming_models.speakers import LOCAL_NAMES, Diarizer, LabelState, SpeakerRegistry, best_assignment, label_number

SETTLED_S = 8.0
"""Speech on a seat from which on its labels are believed. Those of the first few seconds are often wrong."""
ONE_PERSON_SHARE = 0.6
"""Below this part of what was heard on it a seat has more than one person: one beside or behind the other."""
SHARER_SHARE = 0.3
"""Whoever spoke for so much of it is one of them."""


class SeatNames:
    """Labels of one separator's seats; seats and diarizer are on the same clock."""

    def __init__(self, diarizer: Diarizer, registry: SpeakerRegistry) -> None:
        self._diarizer = diarizer
        self._registry = registry
        self._labels: dict[int, str] = {}
        self._ended = False
        self._heard: dict[int, dict[str, float]] = {}

    def hear(self, heard: Mapping[int, Mapping[str, float]], recent: Collection[int], *, last: bool = False) -> None:
        """Decide anew.

        Args:
            heard: for every seat the seconds that each name spoke there alone; names that are no labels do not count.
            recent: the seats at which somebody spoke lately. The others keep their label, and whoever has moved may
                have it on a new seat as well.
            last: nothing follows: what is known must do.
        """
        self._ended = last
        # A seat that has just been given up may still have last words.
        kept = {*self._heard, *heard}
        self._labels = {seat: label for seat, label in self._labels.items() if seat in kept}
        self._heard = {seat: self._by_label(names) for seat, names in heard.items()}
        rows = [seat for seat in sorted(self._heard) if seat in recent and self._heard[seat]]
        labels = sorted({label for seat in rows for label in self._heard[seat]}, key=label_number)
        if not labels:
            return
        scores = np.array([[self._heard[seat].get(label, 0.0) for label in labels] for seat in rows])
        for seat, column in zip(rows, best_assignment(scores), strict=True):
            if column >= 0 and self._heard[seat].get(labels[column], 0.0) > 0:
                self._labels[seat] = labels[column]
            else:  # more places than voices: somebody has two
                self._labels[seat] = max(self._heard[seat], key=lambda label: self._heard[seat][label])

    def _by_label(self, names: Mapping[str, float]) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, seconds in names.items():
            if name not in LOCAL_NAMES and name != UNNAMED:
                label = self._registry.merged_into.get(name, name)
                found[label] = found.get(label, 0.0) + seconds
        return found

    def speaker_of(self, seat: int, start_sample: int, end_sample: int) -> tuple[str, LabelState]:
        """The label of a word said on a seat, "" while nobody can be named, and whether it may still change."""
        label = self._labels.get(seat, "")
        label = self._registry.merged_into.get(label, label)
        heard = self._heard.get(seat, {})
        total = sum(heard.values())
        settled = total >= SETTLED_S
        is_final = (settled or self._ended) and end_sample <= self._diarizer.final_until_sample
        state: LabelState = "final" if is_final else "provisional"
        if settled and heard.get(label, 0.0) < ONE_PERSON_SHARE * total:
            voice, _, _ = self._diarizer.speaker_at(max(0, start_sample), end_sample)
            elsewhere = {other for number, other in self._labels.items() if number != seat}
            if voice is not None and voice not in elsewhere and heard.get(voice, 0.0) >= SHARER_SHARE * total:
                label = voice
        return label, state if label else "provisional"
