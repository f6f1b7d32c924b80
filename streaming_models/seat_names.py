"""Who sits where: the label of each seat that the separator has found, and of each passage said there.

Voice and place tell people apart independently. The diarizer hears the voices of the mix, errs where two speak at once,
and may split, mix up or lump people together; a seat hardly ever changes its person. So a seat first has the label that
was heard most while somebody spoke there alone. As soon as passages have been heard by themselves (`note`), they are
grouped into people: by voice where they come from one seat, so that two at one place, one beside or behind the other,
are told apart; and passages from two seats are one person's only if they sound it clearly and are never said at once.
The people keep their labels; new ones take the diarizer's where it heard them, or one of their own. It refuses to know
audio.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from streaming_models.attribution import UNNAMED
from streaming_models.speakers import (
    LOCAL_NAMES,
    MAX_PEOPLE,
    Diarizer,
    FloatArray,
    LabelState,
    SpeakerRegistry,
    Voice,
    best_assignment,
    label_number,
    voice_of,
)

SETTLED_S = 8.0
"""Speech on a seat from which on its labels are believed. Those of the first few seconds are often wrong."""
PERSON_S = 1.5
"""Speech of a passage that can be another person's than the rest of what was said on its seat."""
SAME_SEAT_SCORE = 0.12
"""Passages of one seat that are as much alike are one person's."""
MOVED_SCORE = 0.75
"""The same for two seats: that person has moved. Two voices that are hard to tell apart reach 0.65, one person's mostly
more than 0.8 (four microphones)."""
FOUND_ANEW_SCORE = 0.4
"""The same if one of the seats was given up: often the other is the same place, found anew."""
AT_ONCE_SAMPLES = 11_200
"""Unless so much (0.7 s) was said on both seats at once."""
KNOWN_BONUS, SETTLED_BONUS = 1.0, 3.0
"""In favour of the label that a person has, against how much of what was heard there was somebody else's (0 to 1) and
sounds alike (about 0 to 1); the second once `SETTLED_S` are known."""
LEAST_SCORE = 0.4
"""Somebody with less in favour of every label has a new one."""
MOST_PASSAGES = 200
"""Passages that are remembered, of all seats together; the oldest are forgotten, their words have their labels."""


@dataclass(eq=False)
class _Passage:
    seat: int
    start_sample: int
    end_sample: int
    embedding: FloatArray
    seconds: float
    label: str = ""


@dataclass(eq=False)
class _Person:
    """Passages that sound like one person's. `main`: the seats on which nobody said more."""

    passages: list[_Passage]
    voice: Voice
    main: set[int] = field(default_factory=set)

    @property
    def seconds(self) -> float:
        return sum(passage.seconds for passage in self.passages)

    @property
    def seats(self) -> set[int]:
        return {passage.seat for passage in self.passages}

    def join(self, other: _Person) -> None:
        self.passages += other.passages
        self.voice.join(other.voice)
        self.main |= other.main


class SeatNames:
    """Labels of one separator's seats; seats and diarizer are on the same clock."""

    def __init__(self, diarizer: Diarizer, registry: SpeakerRegistry) -> None:
        self._diarizer = diarizer
        self._registry = registry
        self._labels: dict[int, str] = {}
        self._ended = False
        self._heard: dict[int, dict[str, float]] = {}
        self._passages: deque[_Passage] = deque(maxlen=MOST_PASSAGES)

    def hear(self, heard: Mapping[int, Mapping[str, float]], recent: Collection[int], *, last: bool = False) -> None:
        """Decide anew by what the diarizer heard.

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

    def note(self, seat: int, start_sample: int, end_sample: int, embedding: FloatArray, seconds: float) -> None:
        """A passage was heard by itself; if it was before, this counts. `listen` decides whose it is.

        Args:
            seat: where.
            start_sample, end_sample: of the passage.
            embedding: (256,) its voice.
            seconds: of speech behind that.
        """
        new = _Passage(seat, start_sample, end_sample, embedding, seconds)
        for known in self._passages:
            if known.seat == seat and _shared(known, new) > (known.end_sample - known.start_sample) / 2:
                new.label = known.label
                self._passages.remove(known)
                break
        self._passages.append(new)

    def listen(self) -> None:
        """Decide anew whose the passages are."""
        people = self._people()
        if not people:
            return
        labels = sorted({*self._registry.labels, *(p.label for p in self._passages if p.label)}, key=label_number)
        known = self._registry.people()
        scores = np.zeros((len(people), len(labels)))
        for row, person in enumerate(people):
            had = _seconds_by_label(person.passages)
            bonus = SETTLED_BONUS if person.seconds >= SETTLED_S else KNOWN_BONUS
            for column, label in enumerate(labels):
                alike = person.voice.similarity(known[label]) if label in known else 0.0
                scores[row, column] = min(max(alike, 0.0), 1.0)
                scores[row, column] += bonus * had.get(label, 0.0) / max(sum(had.values()), 1.0)
                scores[row, column] += sum(self._part_heard(seat, label) for seat in person.main)
        taken = best_assignment(scores) if labels else [-1] * len(people)
        for row, person in enumerate(people):
            column = taken[row]
            if column >= 0 and scores[row, column] >= LEAST_SCORE:
                label = labels[column]
            elif len(self._registry.labels) < MAX_PEOPLE:
                label = self._registry.new_label()
            else:
                label = labels[int(np.argmax(scores[row]))]
            # From now on it means this person, whatever becomes of the voices of the mix.
            self._registry.mark_final(label)
            for passage in person.passages:
                passage.label = label

    def _people(self) -> list[_Person]:
        """Whoever has said something, by the length of it."""
        people: list[_Person] = []
        for seat in sorted({passage.seat for passage in self._passages}):
            people += self._people_on(seat)
        while True:
            margins = [
                (one.voice.similarity(other.voice) - self._needed(one, other), i, j)
                for i, one in enumerate(people)
                for j, other in enumerate(people[:i])
                if not one.seats & other.seats and not _at_once(one, other)
            ]
            margin, i, j = max(margins, default=(-1.0, 0, 0))
            if margin < 0.0:
                break
            people[j].join(people.pop(i))
        return sorted(people, key=lambda person: -person.seconds)

    def _needed(self, one: _Person, other: _Person) -> float:
        both_are = bool(one.seats & self._heard.keys() and other.seats & self._heard.keys())
        return MOVED_SCORE if both_are else FOUND_ANEW_SCORE

    def _people_on(self, seat: int) -> list[_Person]:
        """The people of one seat; the first has all the passages that are too short to tell."""
        here = sorted((p for p in self._passages if p.seat == seat), key=lambda passage: -passage.seconds)
        people: list[_Person] = []
        for passage in here:
            alone = _Person([passage], voice_of([(passage.embedding, passage.seconds)]))
            alike = [person.voice.similarity(alone.voice) for person in people]
            if people and max(alike) >= SAME_SEAT_SCORE:
                people[int(np.argmax(alike))].join(alone)
            elif not people or passage.seconds >= PERSON_S:
                people.append(alone)
            else:
                people[0].passages.append(passage)
        max(people, key=lambda person: person.seconds).main = {seat}
        return people

    def _part_heard(self, seat: int, label: str) -> float:
        heard = self._heard.get(seat, {})
        return heard.get(label, 0.0) / sum(heard.values()) if heard else 0.0

    def speaker_of(self, seat: int, start_sample: int, end_sample: int) -> tuple[str, LabelState]:
        """The label of a word said on a seat, "" while nobody can be named, and whether it may still change."""
        label, heard_s = self._labels.get(seat, ""), sum(self._heard.get(seat, {}).values())
        label = self._registry.merged_into.get(label, label)
        said = _seconds_by_label([passage for passage in self._passages if passage.seat == seat])
        if said:
            label, heard_s = max(said, key=lambda own: said[own]), sum(said.values())
        middle = (start_sample + end_sample) // 2
        for passage in self._passages:
            if passage.seat == seat and passage.label and passage.start_sample <= middle < passage.end_sample:
                label = passage.label
        is_final = (heard_s >= SETTLED_S or self._ended) and end_sample <= self._diarizer.final_until_sample
        return label, "final" if is_final and label else "provisional"


def _seconds_by_label(passages: Iterable[_Passage]) -> dict[str, float]:
    said: dict[str, float] = {}
    for passage in passages:
        if passage.label:
            said[passage.label] = said.get(passage.label, 0.0) + passage.seconds
    return said


def _shared(one: _Passage, other: _Passage) -> int:
    return min(one.end_sample, other.end_sample) - max(one.start_sample, other.start_sample)


def _at_once(one: _Person, other: _Person) -> bool:
    return any(_shared(mine, yours) >= AT_ONCE_SAMPLES for mine in one.passages for yours in other.passages)
