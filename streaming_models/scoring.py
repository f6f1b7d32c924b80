"""Word and diarization errors of a transcript, as counts that add up.

Words are compared after one normaliser on both sides; word errors come from meeteval, diarization errors from
pyannote.metrics (both in the extra `evaluate`, imported where they are called). Nothing here averages
percentages: sum the counts of many clips with `total`, then read `rate`.

`align_clip` says which word stands for which, and so where in time the errors lie: with two or more people talking
(`ClipScore.overlapped`) or with one or none (`ClipScore.alone`).
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

import numpy as np

TCPWER_COLLAR_S = 5.0
"""Words further apart in time than this never match in tcpWER (the CHiME-7/8 value)."""

ORCWER_EXACT_CELLS = 20_000_000
"""Above this many lattice cells (product of the hypothesis streams' lengths) exact ORC-WER is not tried."""

FARTHEST_MS = 10_000
"""Words further apart than this are equally far when `align_clip` chooses among alignments with as many errors."""

_NOT_A_WORD = re.compile(r"[^\w']|_")


class ScoreError(ValueError):
    """Rows that cannot be scored: a missing field, an end before its start, several sessions in one clip."""


class SegLstRow(TypedDict):
    """One segment of meeteval's SegLST format; times in seconds from the start of the clip.

    Two fields are ours. `text`: the same words with case and punctuation, for people to read; scoring ignores it.
    `word_times`: start and end of every word of `normalise(words)`, in seconds; where it is missing or of another
    length, words share the row's time by their letters.
    """

    session_id: str
    speaker: str
    start_time: float
    end_time: float
    words: str
    text: NotRequired[str]
    word_times: NotRequired[list[tuple[float, float]]]


@dataclass(frozen=True)
class TimedWord:
    """One normalised word of a row: the row's index, the word's place in it, and its time in seconds."""

    row: int
    place: int
    text: str
    start_s: float
    end_s: float

    @property
    def middle_s(self) -> float:
        """Where in time the word counts."""
        return (self.start_s + self.end_s) / 2


WordPair = tuple[TimedWord | None, TimedWord | None]
"""A reference word and the hypothesis word that stands for it; None for one that is missing or too many."""


@dataclass(frozen=True)
class Alignment:
    """ORC-WER of a clip and the word pairs behind it: as many of them differ as `orcwer` counts errors."""

    orcwer: ErrorCount
    is_exact: bool
    pairs: tuple[WordPair, ...]


@dataclass(frozen=True)
class ErrorCount:
    """Errors against a reference length, both in words (WER) or both in seconds (DER); sums with `+`."""

    errors: float
    length: float

    def __post_init__(self) -> None:
        for name, value in (("errors", self.errors), ("length", self.length)):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be finite and not negative, got {value}")

    @classmethod
    def zero(cls) -> ErrorCount:
        """Nothing scored yet: the neutral element of `+`."""
        return cls(0, 0)

    def __add__(self, other: ErrorCount) -> ErrorCount:
        return ErrorCount(self.errors + other.errors, self.length + other.length)

    @property
    def rate(self) -> float:
        """Errors per reference unit: 0.25 is 25 %, above 1 is possible; inf for errors against nothing."""
        if self.length:
            return self.errors / self.length
        return math.inf if self.errors else 0.0


@dataclass(frozen=True)
class ClipScore:
    """All measures of one clip, or of many clips together.

    cpwer: every speaker's words must stand under one hypothesis label. orcwer: labels may be swapped freely
    between utterances, so only the words count. tcpwer: cpwer with a time collar of 5 s. der: diarization
    errors and reference speech in seconds, collar 0, overlapped speech counted once per talker.
    orcwer_is_exact is False where a clip was so large that the greedy upper bound stands in for ORC-WER.

    overlapped, alone: orcwer by time, together exactly orcwer. A reference word, with its substitution or deletion,
    is overlapped if two or more people are talking (rows of two speakers) at its middle; an inserted word likewise
    by its own middle.
    """

    cpwer: ErrorCount
    orcwer: ErrorCount
    tcpwer: ErrorCount
    der: ErrorCount
    orcwer_is_exact: bool = True
    overlapped: ErrorCount = ErrorCount(0, 0)
    alone: ErrorCount = ErrorCount(0, 0)

    @classmethod
    def zero(cls) -> ClipScore:
        """Nothing scored yet: the neutral element of `+`."""
        nothing = ErrorCount.zero()
        return cls(nothing, nothing, nothing, nothing)

    def __add__(self, other: ClipScore) -> ClipScore:
        return ClipScore(
            self.cpwer + other.cpwer,
            self.orcwer + other.orcwer,
            self.tcpwer + other.tcpwer,
            self.der + other.der,
            self.orcwer_is_exact and other.orcwer_is_exact,
            self.overlapped + other.overlapped,
            self.alone + other.alone,
        )


def normalise(text: str) -> str:
    """Lower-case words of letters, digits and apostrophes, one space between; all else parts words."""
    spoken = text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    return " ".join(_NOT_A_WORD.sub(" ", spoken).split())


def read_seglst(path: Path) -> list[SegLstRow]:
    """The rows of a SegLST file (a JSON list).

    Raises:
        ScoreError: not a JSON list of rows with the five fields; the message names the file.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ScoreError(f"{path}: not JSON: {error}") from error
    if not isinstance(rows, list):
        raise ScoreError(f"{path}: expected a list of segments, found {type(rows).__name__}")
    try:
        return [_row(row) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise ScoreError(f"{path}: not a SegLST segment: {error!r}") from error


def write_seglst(path: Path, rows: Sequence[SegLstRow]) -> None:
    """Write rows as a JSON list, one segment a line so that differences read well."""
    lines = ",\n".join(" " + json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text(f"[\n{lines}\n]\n" if rows else "[]\n", encoding="utf-8")


def score_clip(
    reference: Sequence[SegLstRow],
    hypothesis: Sequence[SegLstRow],
    duration_s: float | None = None,
    alignment: Alignment | None = None,
) -> ClipScore:
    """Every measure of one clip.

    Rows may come in any order, hold no words (they then count for the diarization error alone), and either
    side may be empty. The hypothesis' session_id is not looked at.

    Args:
        reference: what was said, by whom, when; all rows of one session.
        hypothesis: what the captions say.
        duration_s: length of the clip; diarization is scored from 0 to here, or to the last end if None.
        alignment: of the same rows, if it is known already.

    Raises:
        ScoreError: more than one session in the reference, or a row that ends before it starts.
    """
    _check(reference, hypothesis)
    if alignment is None:
        alignment = align_clip(reference, hypothesis)
    overlapped, alone = _errors_by_time(alignment, overlapped_spans(reference))
    truth, guess = _spoken(reference), _spoken(hypothesis)
    return ClipScore(
        cpwer=_word_errors("cpwer", truth, guess),
        orcwer=alignment.orcwer,
        tcpwer=_word_errors("tcpwer", truth, guess, collar=TCPWER_COLLAR_S),
        der=_diarization_errors(reference, hypothesis, duration_s),
        orcwer_is_exact=alignment.is_exact,
        overlapped=overlapped,
        alone=alone,
    )


def align_clip(reference: Sequence[SegLstRow], hypothesis: Sequence[SegLstRow]) -> Alignment:
    """Which hypothesis word stands for which reference word, with as few errors as ORC-WER counts.

    meeteval says which label each reference row is best compared with. Under each label words are then aligned with
    the fewest errors; among such alignments the one whose pairs are closest in time is taken.

    Raises:
        ScoreError: as `score_clip`.
    """
    _check(reference, hypothesis)
    truth, guess = _spoken(reference), _spoken(hypothesis)
    exact = _orc_cells(guess) <= ORCWER_EXACT_CELLS
    streams: dict[str, tuple[list[TimedWord], list[TimedWord]]] = {row["speaker"]: ([], []) for row in guess}
    if truth and guess:
        counted, labels = _orc(truth, guess, exact)
    else:
        counted = ErrorCount(_word_count(truth) + _word_count(guess), _word_count(truth))
        labels = [""] * len(truth)
    for row, label in zip(truth, labels, strict=True):
        streams.setdefault(label, ([], []))[0].extend(_timed_words(row["row"], reference[row["row"]]))
    for row in guess:
        streams[row["speaker"]][1].extend(_timed_words(row["row"], hypothesis[row["row"]]))
    pairs = [pair for said, heard in streams.values() for pair in _align(said, heard)]
    return Alignment(counted, exact, tuple(pairs))


def timed_words(rows: Sequence[SegLstRow]) -> list[TimedWord]:
    """Every normalised word of the rows with its time, in the rows' order."""
    return [word for index, row in enumerate(rows) for word in _timed_words(index, row)]


def overlapped_spans(rows: Sequence[SegLstRow]) -> list[tuple[float, float]]:
    """Where rows of two or more speakers run at once: (start, end) in seconds, in order, none touching."""
    return _spans(rows, 2)


def overlap_ratio(rows: Sequence[SegLstRow]) -> float:
    """Time with two or more people talking over time with anyone talking; 0 where nobody is."""
    talking_s, overlapped_s = (sum(end - start for start, end in _spans(rows, least)) for least in (1, 2))
    return overlapped_s / talking_s if talking_s else 0.0


def total(scores: Iterable[ClipScore]) -> ClipScore:
    """The counts of all clips summed; rates then weigh every word (or second) alike."""
    return sum(scores, start=ClipScore.zero())


def _check(reference: Sequence[SegLstRow], hypothesis: Sequence[SegLstRow]) -> None:
    sessions = {row["session_id"] for row in reference}
    if len(sessions) > 1:
        raise ScoreError(f"expected the rows of one session, found {sorted(sessions)}")
    for row in (*reference, *hypothesis):
        if not 0 <= row["end_time"] - row["start_time"] < math.inf:
            raise ScoreError(f"segment from {row['start_time']} s to {row['end_time']} s by {row['speaker']}")


def _row(row: Any) -> SegLstRow:
    """`row` with its fields checked and its numbers as floats; further fields are kept."""
    checked = dict(row)
    for field in ("session_id", "speaker", "words"):
        if not isinstance(checked[field], str):
            raise TypeError(f"{field} must be text, found {checked[field]!r}")
    checked["start_time"], checked["end_time"] = float(row["start_time"]), float(row["end_time"])
    return cast(SegLstRow, checked)


def _spoken(rows: Sequence[SegLstRow]) -> list[dict[str, Any]]:
    """Rows that hold words, normalised, in time order, all of one nameless session; `row` is their index."""
    spoken = [
        {
            "row": index,
            "session_id": "clip",
            "speaker": row["speaker"],
            "start_time": float(row["start_time"]),
            "end_time": float(row["end_time"]),
            "words": normalise(row["words"]),
        }
        for index, row in enumerate(rows)
    ]
    return sorted((row for row in spoken if row["words"]), key=lambda row: (row["start_time"], row["end_time"]))


def _word_count(rows: Sequence[dict[str, Any]]) -> int:
    return sum(len(row["words"].split()) for row in rows)


def _orc_cells(hypothesis: Sequence[dict[str, Any]]) -> int:
    """Cells of the exact ORC alignment per reference utterance; it is exponential in the speakers."""
    words: Counter[str] = Counter()
    for row in hypothesis:
        words[row["speaker"]] += len(row["words"].split())
    return math.prod(count + 1 for count in words.values())


def _word_errors(
    measure: str, reference: Sequence[dict[str, Any]], hypothesis: Sequence[dict[str, Any]], **options: float
) -> ErrorCount:
    """One of meeteval's word error measures; empty sides, which meeteval refuses, are counted here."""
    if not reference or not hypothesis:
        return ErrorCount(_word_count(reference) + _word_count(hypothesis), _word_count(reference))
    import meeteval

    call: Callable[..., Any] = getattr(meeteval.wer, measure)
    segments = [meeteval.io.SegLST(list(rows)) for rows in (reference, hypothesis)]
    counted = meeteval.wer.combine_error_rates(call(*segments, **options))
    return ErrorCount(int(counted.errors), int(counted.length))


def _orc(truth: Sequence[dict[str, Any]], guess: Sequence[dict[str, Any]], exact: bool) -> tuple[ErrorCount, list[str]]:
    """ORC-WER, or its greedy upper bound, and the hypothesis label that each reference row is compared with."""
    import meeteval

    call = meeteval.wer.orcwer if exact else meeteval.wer.greedy_orcwer
    (counted,) = call(*(meeteval.io.SegLST(list(rows)) for rows in (truth, guess))).values()
    return ErrorCount(int(counted.errors), int(counted.length)), list(counted.assignment)


def _timed_words(index: int, row: SegLstRow) -> list[TimedWord]:
    texts = normalise(row["words"]).split()
    times = row.get("word_times", [])
    if len(times) != len(texts):
        ends = np.cumsum([len(text) for text in texts]) / max(1, sum(map(len, texts)))
        edges = row["start_time"] + (row["end_time"] - row["start_time"]) * np.concatenate(([0.0], ends))
        times = [(float(start), float(end)) for start, end in itertools.pairwise(edges)]
    return [TimedWord(index, place, text, *times[place]) for place, text in enumerate(texts)]


def _align(said: Sequence[TimedWord], heard: Sequence[TimedWord]) -> list[WordPair]:
    """The alignment of two lines of words with the fewest errors; of several, the one closest in time."""
    error = 1_000_000_000  # outweighs the distances of 100 000 words; whole numbers, so that ties are exact
    numbers = {text: number for number, text in enumerate({word.text for word in (*said, *heard)})}
    texts = np.array([numbers[word.text] for word in heard], np.int64)
    middles_ms = np.array([round(word.middle_s * 1000) for word in heard], np.int64)
    columns = np.arange(len(heard) + 1, dtype=np.int64) * error
    cost = columns.copy()  # (N + 1,): of the words said so far against the first n heard
    pair, missing, extra = 0, 1, 2
    steps = np.full((len(said) + 1, len(heard) + 1), extra, np.uint8)
    for index, word in enumerate(said, start=1):
        apart_ms = np.minimum(np.abs(middles_ms - round(word.middle_s * 1000)), FARTHEST_MS)
        paired = cost[:-1] + (texts != numbers[word.text]) * error + apart_ms
        best = np.concatenate(([index * error], np.minimum(paired, cost[1:] + error)))
        steps[index, 0] = missing
        steps[index, 1:] = np.where(paired <= cost[1:] + error, pair, missing)
        cost = np.minimum.accumulate(best - columns) + columns  # or a word too many, after the best before it
        steps[index, cost < best] = extra
    pairs: list[WordPair] = []
    row, column = len(said), len(heard)
    while row or column:
        step = steps[row, column]
        row -= step != extra
        column -= step != missing
        pairs.append((None if step == extra else said[row], None if step == missing else heard[column]))
    return pairs[::-1]


def _spans(rows: Sequence[SegLstRow], least: int) -> list[tuple[float, float]]:
    """Where `least` or more speakers talk; one person's own overlapping rows count once."""
    talking: Counter[str] = Counter()
    spans: list[tuple[float, float]] = []
    edges = [(row["start_time"], 1, row["speaker"]) for row in rows if row["end_time"] > row["start_time"]]
    edges += [(row["end_time"], -1, row["speaker"]) for row in rows if row["end_time"] > row["start_time"]]
    since_s = None
    for at_s, step, speaker in sorted(edges, key=lambda edge: (edge[0], -edge[1])):
        talking[speaker] += step
        enough = sum(count > 0 for count in talking.values()) >= least
        if enough and since_s is None:
            since_s = at_s
        elif not enough and since_s is not None:
            if at_s > since_s:
                spans.append((since_s, at_s))
            since_s = None
    return spans


def _errors_by_time(alignment: Alignment, spans: Sequence[tuple[float, float]]) -> tuple[ErrorCount, ErrorCount]:
    """The alignment's errors and reference words inside the spans and outside of them."""
    errors, lengths = [0, 0], [0, 0]
    for said, heard in alignment.pairs:
        word = said or heard
        assert word is not None, "a pair of nothing"
        outside = not any(start_s <= word.middle_s < end_s for start_s, end_s in spans)
        lengths[outside] += said is not None
        errors[outside] += said is None or heard is None or said.text != heard.text
    inside, outside_count = (ErrorCount(*counts) for counts in zip(errors, lengths, strict=True))
    return inside, outside_count


def _diarization_errors(
    reference: Sequence[SegLstRow], hypothesis: Sequence[SegLstRow], duration_s: float | None
) -> ErrorCount:
    """Missed, false and confused speech of pyannote.metrics, in seconds (collar 0, overlap counted)."""
    from pyannote.core import Annotation, Segment, Timeline
    from pyannote.metrics.diarization import DiarizationErrorRate

    def annotation(rows: Sequence[SegLstRow]) -> Any:
        marked = Annotation()
        for track, row in enumerate(rows):
            if row["end_time"] > row["start_time"]:
                marked[Segment(row["start_time"], row["end_time"]), track] = row["speaker"]
        return marked.support()  # one person's own overlapping rows are one stretch, not two people

    end_s = duration_s
    if end_s is None:
        end_s = max((row["end_time"] for row in (*reference, *hypothesis)), default=0.0)
    if end_s <= 0:
        return ErrorCount.zero()
    measure = DiarizationErrorRate(collar=0.0, skip_overlap=False)
    scored = Timeline([Segment(0.0, end_s)])
    parts = measure(annotation(reference), annotation(hypothesis), uem=scored, detailed=True)
    errors_s = parts["missed detection"] + parts["false alarm"] + parts["confusion"]
    return ErrorCount(float(errors_s), float(parts["total"]))
