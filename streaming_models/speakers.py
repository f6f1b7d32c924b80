"""Online linking of voices to people: who speaks when in one mono lane, and who a turn belongs to.

`SpeakerRegistry` knows the session's people by their voices; `Diarizer` turns one lane's audio into spans of
speakers, provisional first and final a bounded time later. Both depend on the audio clock alone: any chunking of
the same audio gives the same spans. The networks are handed in as callables.

This file refuses to run networks, to name people (labels are S1, S2, ...), and to change what it has called final.

How it works, in one paragraph. Every `HOP_FRAMES` a 10 s window is segmented into at most three local speakers
(pyannote, overlap-aware). New stretches in which one local speaker is alone become *pieces*, each with one voice
embedding and a weight, how surely nobody else is heard in it; a budget bounds the embedded seconds. All recent pieces
and the people's older evidence are clustered anew at every hop (`linkage.py`), so an early mistake is repaired as soon
as there is evidence; clusters inherit the labels they mostly had. A frame takes the label of its piece, or of the
nearest piece of the same local speaker; windows that cover a frame vote. Frames older than `FINAL_AFTER_S` do not
change any more.

Sources: local segmentation then global clustering is pyannote.audio's pipeline (Bredin, Interspeech 2023); rolling
windows with cannot-link and provisional output are diart's (Coria et al., ASRU 2021). Clustering whole pieces rather
than window-local speakers, the duration-normalised similarity and the budget are this project's, and were chosen by
measurement (see weights/voice/CARD.md).
"""

from __future__ import annotations

import base64
import itertools
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from streaming_models.fbank import SAMPLE_RATE_HZ, SHIFT_SAMPLES, FbankStream, VoiceInputError, check_pcm
from streaming_models.frame_runs import runs
from streaming_models.linkage import linked

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
LabelState = Literal["provisional", "final"]

Segment = Callable[[FloatArray], FloatArray]
"""(160000,) audio, 10 s at 16 kHz -> (589, 3) probability that each local speaker is active."""
Embed = Callable[[FloatArray, FloatArray], FloatArray]
"""(T, 80) centred features and (T,) weights -> (256,) voice embedding of any length."""

EMBEDDING_SIZE = 256

# ---- segmentation grid (fixed by the network) ----------------------------------------------------------------

WINDOW_SAMPLES = 160_000
WINDOW_FRAMES = 589
LOCAL_SPEAKERS = 3
LOCAL_NAMES = tuple(f"voice {slot}" for slot in range(LOCAL_SPEAKERS))
FRAME_SAMPLES = 270
"""One segmentation frame: the product of the network's strides (10 x 3 x 3 x 3 samples), 16.9 ms."""
FIRST_FRAME_CENTRE_SAMPLES = 495
"""Centre of the first frame: half of the network's 991-sample field of view."""

# ---- voices (origin: 1 s and 2 s excerpts of LibriSpeech dev-clean voices, this embedding) --------------------

STRANGER_COS = 0.08
"""Mean cosine of two different people; it hardly depends on duration (0.075 at 0.5 s, 0.093 at 2 s)."""
SAME_VOICE_COS_AT_1S = 0.40
"""Mean cosine of two 1 s pieces of one person; it grows as duration to the power below (0.24, 0.39, 0.57)."""
SAME_VOICE_COS_POWER = 0.6
MIN_VOICE_S, MAX_VOICE_S = 0.3, 3.0
"""Durations between which the growth above is trusted."""

SAME_PERSON_SCORE = 0.25
"""Clusters whose normalised similarity is above this are one person. See CARD.md for the scores around it."""
SAME_PERSON_SETTLED_SCORE = 0.6
"""What it takes to merge two people who both have older evidence: their labels were shown as final."""
LOCAL_BONUS = 0.1
"""Added to the cosine of two pieces when one window calls them one local speaker, subtracted when it calls them two."""
NEW_PERSON_S = 1.0
"""Solo speech needed for a new person (design.md); less than that takes the nearest person, provisionally."""
NEW_CLUSTER_S = 1.5
"""The same where pieces are clustered: one far microphone makes strangers of short ones."""
FIRST_PERSON_S = 0.5
"""While nobody is known, this much suffices: there is no nearest person to take."""

MAX_PEOPLE = 32
MAX_PIECES = 96
"""Pieces kept apart for re-clustering, about four minutes of talk; older ones are summed into their person."""
MAX_MERGES = 64
"""Remembered merges of two labels."""

# ---- turns on close-talk microphones --------------------------------------------------------------------------

CHANNEL_BONUS = 0.35
"""Score in favour of the person who last used the microphone."""
MOVED_SCORE = 0.6
FIRST_MICROPHONE_SCORE = 0.4
"""A known voice this clear, on a microphone new to it, keeps its label."""
FINAL_TURN_S = 1.5
"""Solo speech after which a turn's label is final (models.md 3.6)."""

# ---- the lane ---------------------------------------------------------------------------------------------------

HOP_FRAMES = 118
"""Frames between windows: 1.99 s. One segmentation costs about 50 ms of one core."""
FINAL_AFTER_S = 8.0
"""Frames this far behind the newest window's end are final."""
PIECE_MIN_S, PIECE_MAX_S = 0.8, 2.0
"""Solo speech of one piece. Below, an embedding says little (equal error rate 21 % at 0.5 s, 7 % at 1 s)."""
PIECE_GAP_FRAMES = 18
"""Silence inside one piece, at most 0.3 s."""
PIECE_OPEN_S = 1.0
"""A piece that touches the window's end waits for more until it is this long."""
IMPURE_ON = 0.5
"""Half of what one far microphone hears of an overlap is held to be one talker's. The surer the segmentation is of a
second one after all, on average over a piece, the less the piece counts; from here on next to nothing."""
LEAST_WEIGHT = 0.02
EDGE_FRAMES = 12
"""The last 0.2 s of a window have no right context: no pieces end there."""
EMBED_RATE = 0.7
"""Seconds embedded per second of audio, on average: enough for nearly all solo speech of a meeting. One embedded second
costs about 50 ms of one core."""
EMBED_ALONE_SHARE = 0.5
"""Of that rate while no second person is known: there is nobody to be confused with."""
EMBED_BANK_S = 16.0
"""Unused budget that can be saved, and what a lane starts with."""
LOCAL_ON = 0.5
"""A local speaker is active above this probability when pieces are cut."""
SPEECH_ON = 0.45
"""A frame is speech above this probability, averaged over its windows."""
SECOND_ON = 0.5
"""A second simultaneous person needs this much, averaged over the windows."""
PERHAPS_ON = 0.2
"""From here on a second person may be talking: three of four overlaps, and a fifth of what is found so is none."""
FILL_S = 0.8
"""Pauses of one person up to this length belong to the turn, unless somebody else speaks in them."""
HISTORY_S = 60.0
"""How far back `speaker_at` answers."""
GUESS_S = 3.0
"""How far beyond the decided audio `speaker_at` guesses that the last speaker goes on."""
GUESS_CONFIDENCE = 0.3

QUIET_DB = -66.0
"""Below this level (dB of full scale, 50 ms) nothing is segmented."""
ABOVE_FLOOR_DB = 4.0
"""Nor when the loudest 50 ms of a hop are within this of the noise floor."""
FLOOR_S = 30.0
"""The floor is the quietest tenth of this much audio."""
FLOOR_KNOWN_S = 10.0
"""Before this much audio the floor is not trusted: a meeting may open with one long sentence."""
LEVEL_SAMPLES = 800

STATE_VERSION = 1


class SpeakerStateError(ValueError):
    """A saved state that cannot be restored; says what was expected and received."""


def voice_gain(solo_s: float) -> float:
    """How much of a person's voice a piece of this length shows: the product of two gains is the expected cosine."""
    length_s = min(max(solo_s, MIN_VOICE_S), MAX_VOICE_S)
    return math.sqrt(SAME_VOICE_COS_AT_1S * length_s**SAME_VOICE_COS_POWER)


def label_text(number: int) -> str:
    """`S3` for 3; `S?` for 0."""
    return f"S{number}" if number > 0 else "S?"


def label_number(label: str) -> int:
    """3 for `S3`; 0 for `S?`.

    Raises:
        VoiceInputError: not such a label.
    """
    if label == "S?":
        return 0
    if label[:1] != "S" or not label[1:].isdecimal() or int(label[1:]) < 1:
        raise VoiceInputError(f"expected a label such as S1, received {label!r}")
    return int(label[1:])


def best_assignment(scores: npt.NDArray[np.float64]) -> list[int]:
    """Assign each row its own column so that the sum of scores is largest.

    Args:
        scores: (N, K) finite; where N > K some rows stay without a column.

    Returns:
        N column indices, -1 where a row has none.

    Source: Kuhn-Munkres with potentials, O(N^2 K).
    """
    rows, columns = scores.shape
    if rows > columns:
        padded = np.concatenate([scores, np.full((rows, rows - columns), scores.min(initial=0.0) - 1.0)], 1)
        return [column if column < columns else -1 for column in best_assignment(padded)]
    cost = -scores
    row_potential, column_potential = np.zeros(rows + 1), np.zeros(columns + 1)
    row_of = np.zeros(columns + 1, dtype=np.int64)  # row_of[k]: 1-based row that owns 1-based column k
    for row in range(1, rows + 1):
        row_of[0] = row
        column = 0
        least = np.full(columns + 1, np.inf)
        came_from = np.zeros(columns + 1, dtype=np.int64)
        seen = np.zeros(columns + 1, dtype=bool)
        while True:
            seen[column] = True
            current = int(row_of[column])
            reduced = cost[current - 1] - row_potential[current] - column_potential[1:]
            better = ~seen[1:] & (reduced < least[1:])
            least[1:][better] = reduced[better]
            came_from[1:][better] = column
            following = int(np.argmin(np.where(seen[1:], np.inf, least[1:]))) + 1
            delta = least[following]
            row_potential[row_of[seen]] += delta
            column_potential[seen] -= delta
            least[~seen] -= delta
            column = following
            if row_of[column] == 0:
                break
        while column:
            previous = int(came_from[column])
            row_of[column] = row_of[previous]
            column = previous
    result = [-1] * rows
    for column in range(1, columns + 1):
        if row_of[column]:
            result[int(row_of[column]) - 1] = column - 1
    return result


@dataclass
class Voice:
    """Summed evidence of one person or cluster: enough for mean linkage with any other.

    `direction` is the weighted sum of gain x unit embedding, `gain` and `gain_squared` those of the gains and their
    squares, `solo_s` that of the solo seconds behind them.
    """

    direction: FloatArray = field(default_factory=lambda: np.zeros(EMBEDDING_SIZE, np.float32))
    gain: float = 0.0
    gain_squared: float = 0.0
    solo_s: float = 0.0

    def add(self, unit: FloatArray, solo_s: float, weight: float = 1.0) -> None:
        """Take in a piece; `weight`: how much it counts, 0 to 1."""
        gain = voice_gain(solo_s)
        self.direction = np.asarray(self.direction + np.float32(weight * gain) * unit, np.float32)
        self.gain += weight * gain
        self.gain_squared += weight * gain * gain
        self.solo_s += weight * solo_s

    def join(self, other: Voice) -> None:
        """Take in all evidence of the same person."""
        self.direction = np.asarray(self.direction + other.direction, np.float32)
        self.gain += other.gain
        self.gain_squared += other.gain_squared
        self.solo_s += other.solo_s

    def similarity(self, other: Voice) -> float:
        """About 1 for the same person and 0 for strangers, whatever the durations; 0 without evidence."""
        scale = self.gain_squared * other.gain_squared
        if scale <= 0.0:
            return 0.0
        return (float(self.direction @ other.direction) - STRANGER_COS * self.gain * other.gain) / scale


def voice_of(pieces: Iterable[tuple[FloatArray, float]]) -> Voice:
    """The summed evidence of (embedding (256,), solo seconds) pieces of one person."""
    voice = Voice()
    for embedding, solo_s in pieces:
        voice.add(unit_embedding(embedding), solo_s)
    return voice


@dataclass
class _Piece:
    """One stretch of solo speech with its embedding.

    `window` and `slot` say which local speaker of which window it was (-1: none); `apart` names a group of pieces
    that are certainly different people (-1: none). `weight` is how surely nobody else is heard in it, 0 to 1. `label`
    is a person's number, 0 before the first clustering; `tentative` marks a label taken from the nearest person for
    want of evidence.
    """

    key: int
    unit: FloatArray
    solo_s: float
    lane: int = -1
    window: int = -1
    slot: int = -1
    apart: int = -1
    label: int = 0
    tentative: bool = True
    confidence: float = 0.0
    weight: float = 1.0


class SpeakerRegistry:
    """The session's people, known by their voices.

    People are called S1, S2, ... in the order in which they were first heard. At most `MAX_PEOPLE` people and
    `MAX_PIECES` separate pieces are held; older pieces are summed into their person, and when all places are taken
    a new voice gets the nearest person. Several lanes may share one registry. Not safe for several threads.

    Attributes:
        merged_into: labels found to be another person's, with that person's label; the oldest are forgotten.
    """

    def __init__(self) -> None:
        self.merged_into: dict[str, str] = {}
        self._older: dict[int, Voice] = {}  # people -> evidence no longer held as pieces
        self._pieces: list[_Piece] = []  # oldest first
        self._shown: set[int] = set()  # numbers that were part of a final label: never given to another voice
        self._channel_person: dict[int, int] = {}
        self._next_key = 0

    @property
    def labels(self) -> list[str]:
        """The people's labels, in order of their numbers."""
        return [label_text(number) for number in sorted(self._older)]

    def solo_s(self, label: str) -> float:
        """Solo seconds of evidence for a person; 0 for an unknown label."""
        number = label_number(label)
        return self._people().get(number, Voice()).solo_s

    def centroid(self, label: str) -> FloatArray:
        """(256,) unit vector of a person's voice.

        Raises:
            VoiceInputError: nobody has that label.
        """
        voice = self._people().get(label_number(label))
        if voice is None or voice.gain <= 0.0:
            raise VoiceInputError(f"expected one of {self.labels}, received {label!r}")
        return np.asarray(voice.direction / np.linalg.norm(voice.direction), np.float32)

    def people(self) -> dict[str, Voice]:
        """Label -> all evidence of that person's voice."""
        return {label_text(number): voice for number, voice in self._people().items()}

    def new_label(self) -> str:
        """A label for somebody who is known by something else than the voice: it is never given to a voice."""
        number = self._free_number()
        self._shown.add(number)
        return label_text(number)

    # ---- pieces, re-clustered ----------------------------------------------------------------------------------

    def add_piece(
        self,
        embedding: FloatArray,
        solo_s: float,
        lane: int = -1,
        window: int = -1,
        slot: int = -1,
        apart: int = -1,
        weight: float = 1.0,
    ) -> int:
        """Remember one piece of solo speech; `recluster` gives it a person.

        Args:
            embedding: (256,) finite, any length above 0.
            solo_s: seconds of solo speech that were embedded.
            lane, window, slot: local speaker `slot` of the lane's window number `window`; -1 for none.
            apart: pieces of one group (a number that is not -1) are different people.
            weight: how surely nobody else is heard in it, above 0 and up to 1.

        Returns:
            The piece's key.

        Raises:
            VoiceInputError: wrong shape, zero length, a number that is not finite, or a weight out of its bounds.
        """
        unit = unit_embedding(embedding)
        if not math.isfinite(solo_s) or solo_s < 0.0:
            raise VoiceInputError(f"expected solo_s >= 0, received {solo_s}")
        if not 0.0 < weight <= 1.0:
            raise VoiceInputError(f"expected a weight above 0 and up to 1, received {weight}")
        key = self._next_key
        self._next_key += 1
        self._pieces.append(_Piece(key, unit, solo_s, lane, window, slot, apart, weight=weight))
        return key

    def recluster(self, new_person_s: float = NEW_CLUSTER_S) -> dict[int, tuple[str, float]]:
        """Group all pieces anew, keep labels where most evidence had them, and forget the oldest pieces' borders.

        Args:
            new_person_s: solo speech that makes a cluster somebody new, where somebody is known already.

        Returns:
            For every piece still held: key -> (label, confidence in 0..1); `S?` while nobody can be named.
        """
        clusters, voices, settled = self._cluster()
        numbers = self._inherit(clusters, voices, settled, new_person_s)
        named = [index for index, number in enumerate(numbers) if number > 0]
        direction = np.array([voice.direction for voice in voices]).reshape(-1, EMBEDDING_SIZE).T  # (256, clusters)
        gain = np.array([voice.gain for voice in voices])
        squared = np.array([voice.gain_squared for voice in voices])
        for index, members in enumerate(clusters):
            for piece in members:
                own = voice_gain(piece.solo_s)
                scores = (piece.unit @ direction - STRANGER_COS * gain) / (own * squared)  # as Voice.similarity
                allowed = [other for other in named if piece.apart < 0 or not _apart(piece, clusters[other])]
                ranked = sorted(allowed, key=lambda other: -scores[other])
                chosen = index if numbers[index] > 0 else (ranked[0] if ranked else -1)
                piece.label = numbers[chosen] if chosen >= 0 else 0
                piece.tentative = chosen != index
                rival = next((other for other in ranked if other != chosen), None)
                piece.confidence = (
                    0.0
                    if chosen < 0
                    else _confidence(float(scores[chosen]), None if rival is None else float(scores[rival]), piece)
                )
        answer = {piece.key: (label_text(piece.label), piece.confidence) for piece in self._pieces}
        self._absorb_oldest()
        return answer

    def mark_final(self, label: str) -> None:
        """A final caption carries this label: it will never mean another voice."""
        number = label_number(label)
        if number > 0:
            self._shown.add(number)

    def _cluster(self) -> tuple[list[list[_Piece]], list[Voice], list[int]]:
        """Agglomerative clustering of pieces and older evidence.

        Returns:
            Per cluster: its pieces, its summed voice, and the number of the person whose older evidence is in it
            (0 for none; the one with most of it where two were merged).
        """
        people = sorted(number for number, voice in self._older.items() if voice.gain > 0.0)
        nodes = len(people) + len(self._pieces)
        if nodes == 0:
            return [], [], []
        singles = [self._older[number] for number in people]
        for piece in self._pieces:
            voice = Voice()
            voice.add(piece.unit, piece.solo_s, piece.weight)
            singles.append(voice)
        directions = np.stack([voice.direction for voice in singles]).astype(np.float64)
        gain = np.array([voice.gain for voice in singles])
        squared = np.array([voice.gain_squared for voice in singles])
        evidence = directions @ directions.T - STRANGER_COS * np.outer(gain, gain)  # (N, N)
        weight = np.outer(squared, squared)
        first = len(people)
        lane = np.array([piece.lane for piece in self._pieces])
        window = np.array([piece.window for piece in self._pieces])
        slot = np.array([piece.slot for piece in self._pieces])
        apart = np.array([piece.apart for piece in self._pieces])
        together = (window[:, None] == window) & (lane[:, None] == lane) & (window >= 0)
        hint = np.where(together, np.where(slot[:, None] == slot, LOCAL_BONUS, -LOCAL_BONUS), 0.0)
        evidence[first:, first:] += hint * np.outer(gain[first:], gain[first:])
        forbidden = np.zeros((nodes, nodes), dtype=bool)
        forbidden[first:, first:] = (apart[:, None] == apart) & (apart >= 0)
        limit = np.full((nodes, nodes), SAME_PERSON_SCORE)
        limit[:first, :first] = SAME_PERSON_SETTLED_SCORE
        solo_s = np.array([voice.solo_s for voice in singles])
        clusters: list[list[_Piece]] = []
        voices: list[Voice] = []
        settled: list[int] = []
        for group in linked(evidence, weight, limit, forbidden, solo_s):
            old = [people[node] for node in group if node < first]
            clusters.append([self._pieces[node - first] for node in sorted(group) if node >= first])
            voices.append(
                Voice(
                    directions[group].sum(0).astype(np.float32),
                    float(gain[group].sum()),
                    float(squared[group].sum()),
                    sum(singles[node].solo_s for node in group),
                )
            )
            settled.append(max(old, key=lambda number: self._older[number].solo_s, default=0))
            for number in old:
                if number != settled[-1]:
                    self._merge(number, settled[-1])
        return clusters, voices, settled

    def _inherit(
        self, clusters: list[list[_Piece]], voices: list[Voice], settled: list[int], new_person_s: float
    ) -> list[int]:
        """A person's number for each cluster; 0 where it has too little speech to be somebody new."""
        known = sorted(self._older)
        numbers = [0] * len(clusters)
        if clusters and known:
            shared = np.zeros((len(clusters), len(known)))
            for index, members in enumerate(clusters):
                if settled[index]:
                    shared[index, known.index(settled[index])] += self._older[settled[index]].solo_s + 1.0
                for piece in members:
                    if piece.label in self._older and not piece.tentative:
                        shared[index, known.index(piece.label)] += piece.solo_s
            for index, column in enumerate(best_assignment(shared)):
                if column >= 0 and shared[index, column] > 0.0:
                    numbers[index] = known[column]
        taken = set(numbers)
        for number in known:
            if number not in taken and self._older[number].gain <= 0.0:
                home = next(
                    (n for n, c in zip(numbers, clusters, strict=True) if n and any(p.label == number for p in c)), 0
                )
                if home:
                    self._merge(number, home)
                else:
                    del self._older[number]
        newcomers = [index for index, number in enumerate(numbers) if number == 0 and clusters[index]]
        for index in sorted(newcomers, key=lambda index: clusters[index][0].key):
            nobody = not self._older
            enough = FIRST_PERSON_S if nobody else new_person_s
            if voices[index].solo_s >= enough and len(self._older) < MAX_PEOPLE:
                numbers[index] = self._new_person()
        return numbers

    def _free_number(self) -> int:
        number = 1
        while number in self._older or number in self._shown:
            number += 1
        return number

    def _new_person(self) -> int:
        number = self._free_number()
        self._older[number] = Voice()
        self.merged_into.pop(label_text(number), None)
        return number

    def _merge(self, number: int, into: int) -> None:
        self._older[into].join(self._older.pop(number))
        for piece in self._pieces:
            if piece.label == number:
                piece.label = into
        for channel, person in self._channel_person.items():
            if person == number:
                self._channel_person[channel] = into
        for label, target in self.merged_into.items():
            if target == label_text(number):
                self.merged_into[label] = label_text(into)
        self.merged_into[label_text(number)] = label_text(into)
        while len(self.merged_into) > MAX_MERGES:
            del self.merged_into[next(iter(self.merged_into))]

    def _absorb_oldest(self) -> None:
        while len(self._pieces) > MAX_PIECES:
            piece = self._pieces.pop(0)
            if piece.label in self._older and not piece.tentative:
                self._older[piece.label].add(piece.unit, piece.solo_s, piece.weight)

    def _people(self) -> dict[int, Voice]:
        """Everybody's whole evidence: older sums and pieces."""
        people = {
            number: Voice(voice.direction, voice.gain, voice.gain_squared, voice.solo_s)
            for number, voice in sorted(self._older.items())
        }
        for piece in self._pieces:
            if piece.label in people and not piece.tentative:
                people[piece.label].add(piece.unit, piece.solo_s, piece.weight)
        return people

    # ---- assignment at once ------------------------------------------------------------------------------------

    def assign(
        self,
        embeddings: FloatArray,
        solo_s: Sequence[float] | FloatArray,
        apart: Sequence[int] | None = None,
        hints: Sequence[str | None] | None = None,
    ) -> list[str]:
        """People for some voices, decided now: the best sum of scores with no person twice in one group.

        Args:
            embeddings: (N, 256); N may be 0.
            solo_s: (N,) seconds of solo speech behind each.
            apart: (N,) group numbers: voices of one group are different people (simultaneous speech, or the local
                speakers of one window); -1 for none. Default: all are different people.
            hints: (N,) labels that other evidence (place, microphone) favours, or None.

        Returns:
            N labels. A voice unlike everybody becomes a new person if it has `NEW_PERSON_S` of solo speech, else it
            takes the nearest person its group leaves free; `S?` where there is none.

        Raises:
            VoiceInputError: shapes that do not fit together, or a number that is not finite.
        """
        count = len(embeddings)
        groups = [0] * count if apart is None else list(apart)
        favoured: list[str | None] = [None] * count if hints is None else list(hints)
        if not (len(solo_s) == len(groups) == len(favoured) == count):
            raise VoiceInputError(
                f"expected {count} of each, received {len(solo_s)} solo_s, {len(groups)} apart, {len(favoured)} hints"
            )
        units = [unit_embedding(row) for row in embeddings]
        lengths_s = [float(value) for value in solo_s]
        labels = [0] * count
        order: list[list[int]] = []
        for group in dict.fromkeys(groups):
            rows = [index for index in range(count) if groups[index] == group]
            order += [[row] for row in rows] if group == -1 else [rows]
        for rows in order:
            for row, number in zip(
                rows,
                self._assign_group([units[r] for r in rows], [lengths_s[r] for r in rows], [favoured[r] for r in rows]),
                strict=True,
            ):
                labels[row] = number
        self._absorb_oldest()
        return [label_text(number) for number in labels]

    def _assign_group(self, units: list[FloatArray], lengths_s: list[float], hints: list[str | None]) -> list[int]:
        people = self._people()
        known = list(people)
        scores = np.zeros((len(units), len(known)))
        for row, (unit, length_s) in enumerate(zip(units, lengths_s, strict=True)):
            voice = Voice()
            voice.add(unit, length_s)
            for column, number in enumerate(known):
                scores[row, column] = voice.similarity(people[number])
                if hints[row] == label_text(number):
                    scores[row, column] += CHANNEL_BONUS
        can_be_new = [
            length_s >= (NEW_PERSON_S if known else FIRST_PERSON_S) and len(known) < MAX_PEOPLE
            for length_s in lengths_s
        ]
        # One column of its own per row stands for "somebody new", worth the threshold where that is allowed.
        fresh = np.full((len(units), len(units)), -1e3)
        for row, allowed in enumerate(can_be_new):
            fresh[row, row] = SAME_PERSON_SCORE if allowed else -1e2
        numbers: list[int] = []
        apart = self._next_key if len(units) > 1 else -1
        for row, column in enumerate(best_assignment(np.concatenate([scores, fresh], 1))):
            if column < len(known):
                number, tentative = known[column], bool(scores[row, column] < SAME_PERSON_SCORE)
            elif can_be_new[row] and len(self._older) < MAX_PEOPLE:
                number, tentative = self._new_person(), False
            else:
                number, tentative = 0, True
            piece = _Piece(self._next_key, units[row], lengths_s[row], apart=apart, label=number, tentative=tentative)
            self._next_key += 1
            self._pieces.append(piece)
            numbers.append(number)
        return numbers

    def claim(self, channel: int, label: str) -> None:
        """Note that a microphone is a known person's, on other evidence than the voice.

        Raises:
            SpeakerStateError: nobody has this label.
        """
        if label not in self.labels:
            raise SpeakerStateError(f"expected a label among {self.labels}, received {label!r}")
        self._channel_person[channel] = label_number(label)

    def assign_turn(
        self, embedding: FloatArray, solo_s: float, channel: int | None, simultaneous_labels: Collection[str] = ()
    ) -> tuple[str, LabelState, float]:
        """The person of one turn on a microphone that is mostly one person's.

        Args:
            embedding: (256,) of the turn's solo speech.
            solo_s: seconds of solo speech behind it.
            channel: the microphone, or None when it says nothing about the person.
            simultaneous_labels: people who speak on other microphones at the same time: not this one.

        Returns:
            (label, state, confidence in 0..1). The microphone's last person is favoured; a voice that clearly is
            another known person's keeps that person's label and takes the microphone over. `final` from
            `FINAL_TURN_S` of solo speech on. `S?` while nobody can be named.

        Raises:
            VoiceInputError: wrong shape or a number that is not finite.
        """
        unit = unit_embedding(embedding)
        if not math.isfinite(solo_s) or solo_s < 0.0:
            raise VoiceInputError(f"expected solo_s >= 0, received {solo_s}")
        excluded = {label_number(label) for label in simultaneous_labels}
        usual = self._channel_person.get(channel, 0) if channel is not None else 0
        # A person on two microphones is bleed or has moved: then only the voice counts.
        bonus = CHANNEL_BONUS if list(self._channel_person.values()).count(usual) == 1 else 0.0
        voice = Voice()
        voice.add(unit, solo_s)
        scores: dict[int, float] = {}
        for number, person in self._people().items():
            if number in excluded:
                continue
            scores[number] = voice.similarity(person) + (bonus if number == usual else 0.0)
        ranked = sorted(scores, key=lambda number: -scores[number])
        best = ranked[0] if ranked else 0
        # A voice on a fresh microphone must be clear to be somebody of another microphone: most bring a new person.
        # Somebody without a microphone so far (heard in the mix, before the microphones were told apart) fits easier.
        needed = SAME_PERSON_SCORE
        if channel is not None and usual == 0:
            needed = MOVED_SCORE if best in self._channel_person.values() else FIRST_MICROPHONE_SCORE
        new_from_s = NEW_PERSON_S if self._older else FIRST_PERSON_S
        if (not best or scores[best] < needed) and solo_s >= new_from_s and len(self._older) < MAX_PEOPLE:
            number, confidence = self._new_person(), min(1.0, 0.5 + 0.25 * solo_s)
            piece = _Piece(self._next_key, unit, solo_s, label=number, tentative=False, confidence=confidence)
        else:
            number = usual if best and usual in scores and scores[best] < needed else best
            rival = next((scores[other] for other in ranked if other != number), None)
            tentative = not number or scores[number] < SAME_PERSON_SCORE
            piece = _Piece(self._next_key, unit, solo_s, label=number, tentative=tentative)
            confidence = _confidence(scores[number], rival, piece) if number else 0.0
            piece.confidence = confidence
        self._next_key += 1
        self._pieces.append(piece)
        self._absorb_oldest()
        if channel is not None and number and not piece.tentative:
            self._channel_person[channel] = number
        final = bool(number) and solo_s >= FINAL_TURN_S
        if final:
            self.mark_final(label_text(number))
        return label_text(number), "final" if final else "provisional", confidence

    # ---- state ---------------------------------------------------------------------------------------------------

    def to_state(self) -> dict[str, object]:
        """Everything, as values that JSON can carry; vectors are base64 of little-endian float32."""
        return {
            "version": STATE_VERSION,
            "people": [
                {
                    "number": number,
                    "direction": _pack(voice.direction),
                    "gain": voice.gain,
                    "gain_squared": voice.gain_squared,
                    "solo_s": voice.solo_s,
                }
                for number, voice in sorted(self._older.items())
            ],
            "pieces": [
                {
                    "key": piece.key,
                    "unit": _pack(piece.unit),
                    "solo_s": piece.solo_s,
                    "place": [piece.lane, piece.window, piece.slot, piece.apart],
                    "label": piece.label,
                    "tentative": piece.tentative,
                    "confidence": piece.confidence,
                    "weight": piece.weight,
                }
                for piece in self._pieces
            ],
            "shown": sorted(self._shown),
            "merged_into": dict(self.merged_into),
            "channels": [[channel, number] for channel, number in sorted(self._channel_person.items())],
            "next_key": self._next_key,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> SpeakerRegistry:
        """A registry that goes on where `to_state` was called.

        Raises:
            SpeakerStateError: another version, or fields that are missing or malformed.
        """
        if state.get("version") != STATE_VERSION:
            raise SpeakerStateError(
                f"expected speaker state version {STATE_VERSION}, received {state.get('version')!r}"
            )
        registry = cls()
        try:
            for row in state["people"]:
                registry._older[int(row["number"])] = Voice(
                    _unpack(row["direction"]), float(row["gain"]), float(row["gain_squared"]), float(row["solo_s"])
                )
            for row in state["pieces"]:
                lane, window, slot, apart = (int(value) for value in row["place"])
                registry._pieces.append(
                    _Piece(
                        int(row["key"]),
                        _unpack(row["unit"]),
                        float(row["solo_s"]),
                        lane,
                        window,
                        slot,
                        apart,
                        int(row["label"]),
                        bool(row["tentative"]),
                        float(row["confidence"]),
                        float(row.get("weight", 1.0)),  # states of version 0.1.0 have none
                    )
                )
            registry._shown = {int(number) for number in state["shown"]}
            registry.merged_into = {str(label): str(into) for label, into in state["merged_into"].items()}
            registry._channel_person = {int(channel): int(number) for channel, number in state["channels"]}
            registry._next_key = int(state["next_key"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SpeakerStateError(f"expected what SpeakerRegistry.to_state gives: {error!r}") from error
        return registry


def unit_embedding(embedding: FloatArray) -> FloatArray:
    """(256,) float32 of length 1.

    Raises:
        VoiceInputError: not (256,), zero or not finite.
    """
    array = np.asarray(embedding, dtype=np.float32)
    if array.shape != (EMBEDDING_SIZE,):
        raise VoiceInputError(f"expected an embedding ({EMBEDDING_SIZE},), received {array.shape}")
    length = float(np.linalg.norm(array))
    if not math.isfinite(length) or length <= 0.0:
        raise VoiceInputError(f"expected a finite embedding above zero length, received length {length}")
    return array / np.float32(length)


def _pack(vector: FloatArray) -> str:
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode("ascii")


def _unpack(text: str) -> FloatArray:
    vector = np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float32)
    if vector.shape != (EMBEDDING_SIZE,):
        raise ValueError(f"vector of {vector.shape}")
    return vector


def _apart(piece: _Piece, members: list[_Piece]) -> bool:
    return piece.apart >= 0 and any(other.apart == piece.apart and other is not piece for other in members)


def _confidence(score: float, rival: float | None, piece: _Piece) -> float:
    """0..1 from the lead over the next person and the length of the evidence; 0.5 is a coin's toss."""
    lead = score - (rival if rival is not None else 0.0)
    sure = 1.0 / (1.0 + math.exp(-4.0 * lead * voice_gain(piece.solo_s)))
    return round(sure if not piece.tentative else min(sure, 0.5), 4)


@dataclass(frozen=True)
class SpeakerSpan:
    """Somebody speaks from `start_sample` to `end_sample` (16 kHz, counted from the lane's first sample).

    Attributes:
        start_sample, end_sample: the half-open span.
        speaker: `S1`, `S2`, ...; `S?` for a voice that cannot be named yet.
        state: `final` spans never change; `provisional` ones are replaced by later calls.
        confidence: 0..1 that the speaker is right, given that somebody speaks.
    """

    start_sample: int
    end_sample: int
    speaker: str
    state: LabelState
    confidence: float


@dataclass
class _Window:
    """One segmented window: the lane's frame number of its first row, and the probabilities (589, 3)."""

    number: int
    first_frame: int
    active: FloatArray


@dataclass
class _Place:
    """Where a piece lies: its key in the registry, its frames (sorted frame numbers)."""

    key: int
    frames: IntArray


class Diarizer:
    """Who speaks when, in one lane of mono audio.

    Results depend on the audio alone, never on how it was cut into calls. A span appears, provisional, at the first
    window after it was spoken (every 2 s), may be revised for `FINAL_AFTER_S`, and is then final. Memory is bounded.

    Attributes:
        revised_from_sample: the spans of the last `step` or `flush` replace everything said from here on.
        decided_until_sample: audio up to here has been decided.
    """

    def __init__(
        self,
        segment: Segment,
        embed: Embed,
        registry: SpeakerRegistry,
        lane: int = -1,
        *,
        hop_frames: int | None = None,
        embed_rate: float | None = None,
        early: bool = False,
    ) -> None:
        """A lane that starts at sample 0.

        Args:
            segment, embed: the networks.
            registry: the session's people; lanes of one session share it.
            lane: tells this lane's pieces from other lanes'.
            hop_frames: frames between windows; default `HOP_FRAMES`. Fewer: earlier labels, more work.
            embed_rate: embedded seconds per second; default `EMBED_RATE`. Less: cheaper, more confusions.
            early: people are wanted as soon as possible, by somebody who judges by more than this lane; then all pieces
                count alike, and a second of speech is enough for somebody new.

        Raises:
            VoiceInputError: a hop that is not between 1 and 589 frames, or a rate that is not above 0.
        """
        self._segment = segment
        self._embed = embed
        self._registry = registry
        self._lane = lane
        self._hop_frames = HOP_FRAMES if hop_frames is None else hop_frames
        self._embed_rate = EMBED_RATE if embed_rate is None else embed_rate
        self._early = early
        if not 1 <= self._hop_frames <= WINDOW_FRAMES or not self._embed_rate > 0.0:
            raise VoiceInputError(
                f"expected hop_frames 1..{WINDOW_FRAMES} and embed_rate > 0, "
                f"received {self._hop_frames} and {self._embed_rate}"
            )
        self.reset()

    def reset(self) -> None:
        """Forget the lane's audio and spans; the registry keeps its people."""
        self.revised_from_sample = 0
        self.decided_until_sample = 0
        self._pending = np.zeros(0, np.float32)  # audio after the newest hop
        self._window = np.zeros(WINDOW_SAMPLES, np.float32)
        self._heard_samples = 0  # audio in complete hops
        self._fbank = FbankStream()
        self._rows = np.zeros((0, 80), np.float32)
        self._first_row = 0
        self._levels_db = np.zeros(0, np.float32)
        self._windows: list[_Window] = []
        self._window_number = 0
        self._places: list[_Place] = []
        self._bank_s = EMBED_BANK_S
        self._final_frame = 0
        self._first_kept = 0  # frame number of row 0 of the histories
        self._first_person = np.zeros(0, np.int64)
        self._second_person = np.zeros(0, np.int64)
        self._perhaps_person = np.zeros(0, np.int64)  # the second, and whoever may be it
        self._sureness = np.zeros(0, np.float32)

    def step(self, pcm: FloatArray) -> list[SpeakerSpan]:
        """Take some audio; give the spans that replace everything from `revised_from_sample` on.

        Args:
            pcm: (S,) float32 in [-1, 1] at 16 kHz; S may be 0.

        Returns:
            Spans in order of time; empty when no hop was completed or nobody speaks there.

        Raises:
            VoiceInputError: wrong rank or type, a sample that is not finite, or a network's output of wrong shape.
        """
        check_pcm(pcm)
        hop = self._hop_frames * FRAME_SAMPLES
        audio = np.concatenate([self._pending, pcm])
        begin = self._final_frame
        hops = len(audio) // hop
        for index in range(hops):
            self._advance(audio[index * hop : (index + 1) * hop], last=False)
        self._pending = audio[hops * hop :]
        if hops == 0:
            return []
        return self._spans_from(begin)

    def flush(self) -> list[SpeakerSpan]:
        """End of the audio: decide what is left and make everything final.

        The lane can go on afterwards only after `reset`.
        """
        begin = self._final_frame
        rest, self._pending = self._pending, np.zeros(0, np.float32)
        self._advance(rest, last=True)
        return self._spans_from(begin)

    def speaker_at(self, start_sample: int, end_sample: int) -> tuple[str | None, LabelState, float]:
        """The person who speaks most between two samples.

        Args:
            start_sample, end_sample: half-open span; at most `HISTORY_S` back is remembered.

        Returns:
            (label or None where nobody is known to speak, state, confidence 0..1). Just beyond the decided audio
            (`GUESS_S`) the last speaker is guessed to go on, provisionally and with low confidence.

        Raises:
            VoiceInputError: the span ends before it starts.
        """
        if end_sample < start_sample:
            raise VoiceInputError(f"expected start <= end, received {start_sample}..{end_sample}")
        first = start_sample // FRAME_SAMPLES
        after = max(first + 1, -(-end_sample // FRAME_SAMPLES))
        state: LabelState = "final" if after <= self._final_frame else "provisional"
        lo, hi = (min(max(frame - self._first_kept, 0), len(self._first_person)) for frame in (first, after))
        counts: dict[int, float] = {}
        for people, share in ((self._first_person, 1.0), (self._second_person, 0.5)):
            for number in people[lo:hi]:
                if number >= 0:
                    counts[int(number)] = counts.get(int(number), 0.0) + share
        if counts:
            number = max(counts, key=lambda who: (counts[who], -who))
            sure = self._sureness[lo:hi][(self._first_person[lo:hi] == number)]
            share = counts[number] / sum(counts.values())
            return label_text(number), state, round(float(sure.mean() if len(sure) else 0.5) * share, 4)
        beyond_s = (start_sample - self.decided_until_sample) / SAMPLE_RATE_HZ
        if hi == len(self._first_person) and beyond_s < GUESS_S and end_sample > self.decided_until_sample:
            recent = self._first_person[-int(GUESS_S * SAMPLE_RATE_HZ / FRAME_SAMPLES) :]
            spoken = recent[recent >= 0]
            if len(spoken):
                return label_text(int(spoken[-1])), "provisional", GUESS_CONFIDENCE
        return None, state, 0.0

    @property
    def final_until_sample(self) -> int:
        """What was decided before this sample never changes."""
        return self._final_frame * FRAME_SAMPLES

    def activity_s(self, start_sample: int, end_sample: int) -> dict[str, float]:
        """How long each known person speaks between two samples, also beside somebody else, as far as decided.

        Args:
            start_sample, end_sample: half-open span; at most `HISTORY_S` back is remembered.

        Returns:
            Label -> seconds above 0; whoever cannot be named is left out.
        """
        frames = (start_sample // FRAME_SAMPLES, -(-end_sample // FRAME_SAMPLES))
        lo, hi = (min(max(frame - self._first_kept, 0), len(self._first_person)) for frame in frames)
        both = np.concatenate([self._first_person[lo:hi], self._second_person[lo:hi]])
        numbers, counts = np.unique(both[both > 0], return_counts=True)
        frame_s = FRAME_SAMPLES / SAMPLE_RATE_HZ
        return {label_text(int(n)): int(c) * frame_s for n, c in zip(numbers, counts, strict=True)}

    def alone(self, since_sample: int) -> dict[str, list[tuple[int, int]]]:
        """Who speaks while nobody else does, as far as decided: hints for whoever knows the room.

        Args:
            since_sample: at most `HISTORY_S` back is remembered.

        Returns:
            Name -> stretches (first sample, sample after the last) in order of time. A name is a label, or one of the
            newest window's local speakers (`LOCAL_NAMES`), who are known sooner than the person they are.
        """
        found: dict[str, list[tuple[int, int]]] = {}
        low = min(max(0, since_sample // FRAME_SAMPLES - self._first_kept), len(self._first_person))
        people = np.where(self._second_person[low:] < 0, self._first_person[low:], -1)
        for number in np.unique(people[people > 0]):
            found[label_text(int(number))] = _stretches(people == number, self._first_kept + low, since_sample)
        if self._windows and self._windows[-1].number == self._window_number - 1:
            window = self._windows[-1]
            on = window.active > LOCAL_ON
            for slot, name in enumerate(LOCAL_NAMES):
                own = _stretches(on[:, slot] & (on.sum(1) == 1), window.first_frame, since_sample)
                if own:
                    found[name] = own
        return found

    def talking(self, since_sample: int, *, perhaps: bool = False) -> dict[str, list[tuple[int, int]]]:
        """Who speaks, also beside somebody else, as far as decided; whoever cannot be named is left out.

        Args:
            since_sample: at most `HISTORY_S` back is remembered.
            perhaps: also where a second person is not likely enough to be called one.

        Returns:
            Label -> stretches (first sample, sample after the last) in order of time.
        """
        low = min(max(0, since_sample // FRAME_SAMPLES - self._first_kept), len(self._first_person))
        first, second = self._first_person[low:], (self._perhaps_person if perhaps else self._second_person)[low:]
        numbers = np.unique(np.concatenate([first, second]))
        return {
            label_text(int(n)): _stretches((first == n) | (second == n), self._first_kept + low, since_sample)
            for n in numbers[numbers > 0]
        }

    # ---- one hop -----------------------------------------------------------------------------------------------

    def _advance(self, audio: FloatArray, last: bool) -> None:
        """Take one hop of audio (less at the end), segment, embed, cluster, label."""
        self._heard_samples += len(audio)
        end_frame = -(-self._heard_samples // FRAME_SAMPLES)
        padding = end_frame * FRAME_SAMPLES - self._heard_samples  # keeps windows on the frame grid; only at the end
        padded = np.concatenate([audio, np.zeros(padding, np.float32)])
        self._window = np.concatenate([self._window, padded])[-WINDOW_SAMPLES:]
        self._rows = np.concatenate([self._rows, self._fbank.step(audio)])
        kept_rows = WINDOW_SAMPLES // SHIFT_SAMPLES + 10
        if len(self._rows) > kept_rows:
            self._first_row += len(self._rows) - kept_rows
            self._rows = self._rows[-kept_rows:]
        rate = self._embed_rate * (1.0 if len(self._registry.labels) > 1 else EMBED_ALONE_SHARE)
        self._bank_s = min(EMBED_BANK_S, self._bank_s + rate * len(audio) / SAMPLE_RATE_HZ)
        if self._worth_segmenting(audio):
            active = np.asarray(self._segment(self._window), dtype=np.float32)
            if active.shape != (WINDOW_FRAMES, LOCAL_SPEAKERS):
                raise VoiceInputError(
                    f"expected segmentation ({WINDOW_FRAMES}, {LOCAL_SPEAKERS}), received {active.shape}"
                )
            first_sample = end_frame * FRAME_SAMPLES - WINDOW_SAMPLES
            # Row r of the window is centred at first_sample + 495 + 270 r; frame f of the lane covers 270 f on.
            first_frame = (first_sample + FIRST_FRAME_CENTRE_SAMPLES) // FRAME_SAMPLES
            window = _Window(self._window_number, first_frame, active)
            self._windows.append(window)
            self._cut_pieces(window, last)
        self._window_number += 1
        self._label(end_frame, last)

    def _worth_segmenting(self, audio: FloatArray) -> bool:
        """False when nothing in this hop stands out of silence or steady noise."""
        count = len(audio) // LEVEL_SAMPLES
        if count == 0:
            return bool(self._windows)
        power = np.square(audio[: count * LEVEL_SAMPLES]).reshape(count, LEVEL_SAMPLES).mean(1)
        levels = (10.0 * np.log10(power + 1e-12)).astype(np.float32)
        kept = int(FLOOR_S * SAMPLE_RATE_HZ / LEVEL_SAMPLES)
        self._levels_db = np.concatenate([self._levels_db, levels])[-kept:]
        needed_db = QUIET_DB
        if len(self._levels_db) * LEVEL_SAMPLES >= FLOOR_KNOWN_S * SAMPLE_RATE_HZ:
            needed_db = max(QUIET_DB, float(np.quantile(self._levels_db, 0.1)) + ABOVE_FLOOR_DB)
        return float(levels.max()) > needed_db

    def _cut_pieces(self, window: _Window, last: bool) -> None:
        """Embed new solo stretches, the longest first, as far as the budget goes."""
        on = window.active > LOCAL_ON  # (589, 3)
        alone = on & (on.sum(1, keepdims=True) == 1)
        frames = window.first_frame + np.arange(WINDOW_FRAMES)
        usable = (frames >= self._final_frame) & (frames >= 0)
        for place in self._places:
            usable &= (frames < place.frames[0]) | (frames > place.frames[-1])
        end = WINDOW_FRAMES if last else WINDOW_FRAMES - EDGE_FRAMES
        usable[end:] = False
        candidates: list[tuple[int, IntArray]] = []
        for slot in range(LOCAL_SPEAKERS):
            for run in _runs(np.flatnonzero(alone[:, slot] & usable), on, slot):
                for part in _split(run, _frames_of(PIECE_MAX_S)):
                    open_end = not last and part[-1] >= end - 2 and len(part) < _frames_of(PIECE_OPEN_S)
                    if len(part) >= _frames_of(PIECE_MIN_S) and not open_end:
                        candidates.append((slot, part))
        for slot, part in sorted(candidates, key=lambda item: (-len(item[1]), item[1][0])):
            if self._bank_s < PIECE_MIN_S:
                break
            piece_frames = frames[part]
            rows = self._rows_of(piece_frames)
            limit = int(self._bank_s * SAMPLE_RATE_HZ / SHIFT_SAMPLES)
            skip = max(0, (len(rows) - limit) // 2)
            rows = rows[skip : skip + limit]
            if len(rows) * SHIFT_SAMPLES < MIN_VOICE_S * SAMPLE_RATE_HZ:
                continue
            # The colour of their place and microphone is judged by all that they say alone in the window.
            colour = self._rows[self._rows_of(frames[alone[:, slot]])].mean(0)
            features = np.asarray(self._rows[rows] - colour, np.float32)
            vector = np.asarray(self._embed(features, np.ones(len(rows), np.float32)), dtype=np.float32)
            embedded_s = len(rows) * SHIFT_SAMPLES / SAMPLE_RATE_HZ
            self._bank_s -= embedded_s
            second = float(np.sort(window.active[part], axis=1)[:, -2].mean())
            weight = 1.0 if self._early else max(LEAST_WEIGHT, 1.0 - second / IMPURE_ON)
            key = self._registry.add_piece(vector, embedded_s, self._lane, window.number, slot, weight=weight)
            self._places.append(_Place(key, piece_frames))

    def _rows_of(self, frames: IntArray) -> IntArray:
        """Places in the kept filter-bank rows of what is heard in these frames."""
        rows = np.unique(frames * FRAME_SAMPLES // SHIFT_SAMPLES)
        rows = np.unique(np.concatenate([rows, rows + 1])) - self._first_row
        return np.asarray(rows[(rows >= 0) & (rows < len(self._rows))], np.int64)

    def _label(self, end_frame: int, last: bool) -> None:
        """Name every frame that is not final yet, and move the final border."""
        answers = self._registry.recluster(NEW_PERSON_S if self._early else NEW_CLUSTER_S)
        begin = self._final_frame
        count = max(0, end_frame - begin)
        votes, speech, sure = self._votes(begin, count, answers)
        first, second, perhaps = self._decide(votes, speech)
        for people in (first, second):
            _fill_pauses(people, first, second, _frames_of(FILL_S))
        kept = begin - self._first_kept
        self._first_person = np.concatenate([self._first_person[:kept], first])
        self._second_person = np.concatenate([self._second_person[:kept], second])
        self._perhaps_person = np.concatenate([self._perhaps_person[:kept], np.where(second >= 0, second, perhaps)])
        self._sureness = np.concatenate([self._sureness[:kept], sure])
        self.decided_until_sample = min(end_frame * FRAME_SAMPLES, self._heard_samples)
        border = end_frame if last else max(begin, end_frame - _frames_of(FINAL_AFTER_S))
        for number in np.unique(np.concatenate([first[: border - begin], second[: border - begin]])):
            self._registry.mark_final(label_text(max(0, int(number))))
        self._final_frame = border
        self._windows = [item for item in self._windows if item.first_frame + WINDOW_FRAMES > border]
        self._places = [item for item in self._places if item.frames[-1] >= border - WINDOW_FRAMES]
        extra = len(self._first_person) - int(HISTORY_S * SAMPLE_RATE_HZ / FRAME_SAMPLES)
        extra = min(extra, border - self._first_kept)
        if extra > 0:
            self._first_kept += extra
            self._first_person = self._first_person[extra:]
            self._second_person = self._second_person[extra:]
            self._perhaps_person = self._perhaps_person[extra:]
            self._sureness = self._sureness[extra:]

    def _votes(
        self, begin: int, count: int, answers: dict[int, tuple[str, float]]
    ) -> tuple[dict[int, FloatArray], FloatArray, FloatArray]:
        """What the windows say of `count` frames from `begin` on.

        Returns:
            person's number -> (count,) mean activity (0: a voice without a name); (count,) probability of speech;
            (count,) confidence of the label.
        """
        votes: dict[int, FloatArray] = {}
        speech, covered = np.zeros(count, np.float32), np.zeros(count, np.float32)
        sure_sum, sure_weight = np.zeros(count, np.float32), np.zeros(count, np.float32)
        said = [answers.get(place.key, ("S?", 0.0)) for place in self._places]
        names = np.array([label_number(label) for label, _ in said], dtype=np.int64)
        trust = np.array([confidence for _, confidence in said], dtype=np.float32)
        for window in self._windows:
            low, high = max(0, begin - window.first_frame), min(WINDOW_FRAMES, begin + count - window.first_frame)
            if low >= high:
                continue
            here = slice(window.first_frame + low - begin, window.first_frame + high - begin)
            speech[here] += 1.0 - np.prod(1.0 - window.active[low:high], axis=1)
            covered[here] += 1.0
            owner = np.full(WINDOW_FRAMES, -1, np.int64)
            for index, place in enumerate(self._places):
                if place.key in answers:
                    rows = place.frames - window.first_frame
                    owner[rows[(rows >= 0) & (rows < WINDOW_FRAMES)]] = index
            loudest = window.active.argmax(1)
            for slot in range(LOCAL_SPEAKERS):
                own = np.flatnonzero((owner >= 0) & (loudest == slot) & (window.active[:, slot] > 0.3))
                rows = low + np.flatnonzero(window.active[low:high, slot] > 0.05)
                if not len(rows):
                    continue
                activity = window.active[rows, slot]
                at = rows + window.first_frame - begin
                if not len(own):
                    votes.setdefault(0, np.zeros(count, np.float32))[at] += activity
                    continue
                pieces = owner[own[_nearest(own, rows)]]
                for number in np.unique(names[pieces]):
                    chosen = names[pieces] == number
                    votes.setdefault(int(number), np.zeros(count, np.float32))[at[chosen]] += activity[chosen]
                sure_sum[at] += activity * trust[pieces]
                sure_weight[at] += activity
        scale = np.maximum(covered, 1.0)
        mean_votes = {number: np.asarray(total / scale, np.float32) for number, total in votes.items()}
        sure = np.where(sure_weight > 0, sure_sum / np.maximum(sure_weight, 1e-6), 0.0).astype(np.float32)
        return mean_votes, np.asarray(speech / scale, np.float32), sure

    def _decide(self, votes: dict[int, FloatArray], speech: FloatArray) -> tuple[IntArray, IntArray, IntArray]:
        """The first person of each frame, the second, and who may be it; -1 for none, 0 for a voice without a name."""
        count = len(speech)
        first, second, perhaps = (np.full(count, -1, np.int64) for _ in range(3))
        numbers = sorted(number for number in votes if number > 0)
        kept = self._final_frame - self._first_kept
        before = self._first_person[:kept]
        spoken = before[before > 0]
        last = int(spoken[-1]) if len(spoken) else 0
        nameless = votes.get(0, np.zeros(count, np.float32))
        table = np.stack([votes[number] for number in numbers], 1) if numbers else np.zeros((count, 1), np.float32)
        order = np.argsort(-table, axis=1, kind="stable")
        for frame in np.flatnonzero(speech > SPEECH_ON):
            top = order[frame, 0]
            if numbers and table[frame, top] > nameless[frame]:
                last = numbers[top]
                if len(numbers) > 1 and table[frame, order[frame, 1]] > PERHAPS_ON:
                    perhaps[frame] = numbers[order[frame, 1]]
                    if table[frame, order[frame, 1]] > SECOND_ON:
                        second[frame] = perhaps[frame]
            first[frame] = last  # a voice too short to be known takes the last speaker
        return first, second, perhaps

    def _spans_from(self, begin: int) -> list[SpeakerSpan]:
        """Spans from frame `begin` on, cut at the final border."""
        self.revised_from_sample = begin * FRAME_SAMPLES
        spans: list[SpeakerSpan] = []
        parts: tuple[tuple[int, int, LabelState], ...] = (
            (begin, self._final_frame, "final"),
            (self._final_frame, self._first_kept + len(self._first_person), "provisional"),
        )
        for start, stop, state in parts:
            low, high = start - self._first_kept, stop - self._first_kept
            if low >= high:
                continue
            pair = np.stack([self._first_person[low:high], self._second_person[low:high]], 1)
            for number in np.unique(pair[pair >= 0]):
                for a, b in runs((pair == number).any(1)):
                    spans.append(
                        SpeakerSpan(
                            int(start + a) * FRAME_SAMPLES,
                            min(int(start + b) * FRAME_SAMPLES, self._heard_samples),
                            label_text(int(number)),
                            state,
                            round(float(self._sureness[low + a : low + b].mean()), 4),
                        )
                    )
        return sorted(spans, key=lambda span: (span.start_sample, span.end_sample, span.speaker))


def _stretches(on: BoolArray, first_frame: int, since_sample: int) -> list[tuple[int, int]]:
    """Samples of the runs of frames that are on, from a sample on."""
    spans = [((first_frame + a) * FRAME_SAMPLES, (first_frame + b) * FRAME_SAMPLES) for a, b in runs(on)]
    return [(max(start, since_sample), end) for start, end in spans if end > since_sample]


def _frames_of(seconds: float) -> int:
    return int(seconds * SAMPLE_RATE_HZ / FRAME_SAMPLES)


def _runs(rows: IntArray, on: BoolArray, slot: int) -> list[IntArray]:
    """Stretches of sorted frames of one local speaker, across short pauses in which nobody else speaks."""
    if not len(rows):
        return []
    others = np.delete(on, slot, axis=1).any(1)
    before = np.concatenate([[0], np.cumsum(others)])
    gap = np.diff(rows)
    breaks = (gap > PIECE_GAP_FRAMES) | (before[rows[1:]] - before[rows[:-1]] > 0)
    return np.split(rows, np.flatnonzero(breaks) + 1)


def _split(run: IntArray, longest: int) -> list[IntArray]:
    """Equal parts no longer than `longest` frames."""
    return np.array_split(run, max(1, -(-len(run) // longest)))


def _nearest(points: IntArray, queries: IntArray) -> IntArray:
    """Index of the nearest of some sorted points for each query; the earlier one at a tie."""
    right = np.searchsorted(points, queries).clip(0, len(points) - 1)
    left = (right - 1).clip(0)
    closer_left = np.abs(queries - points[left]) <= np.abs(points[right] - queries)
    return np.asarray(np.where(closer_left, left, right), dtype=np.int64)


def _fill_pauses(people: IntArray, first: IntArray, second: IntArray, longest: int) -> None:
    """Close short pauses in which nobody speaks, between two frames of one person, in place."""
    silent = (first < 0) & (second < 0)
    spoken = np.flatnonzero(people >= 0)
    for a, b in itertools.pairwise(spoken):
        if 1 < b - a <= longest and people[a] == people[b] and silent[a + 1 : b].all():
            people[a + 1 : b] = people[a]
            silent[a + 1 : b] = False
