"""Word and diarization errors of a transcript, as counts that add up.

Words are compared after one normaliser on both sides; word errors come from meeteval, diarization errors from
pyannote.metrics (both in the extra `evaluate`, imported where they are called). Nothing here averages
percentages: sum the counts of many clips with `total`, then read `rate`.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

TCPWER_COLLAR_S = 5.0
"""Words further apart in time than this never match in tcpWER (the CHiME-7/8 value)."""

ORCWER_EXACT_CELLS = 20_000_000
"""Above this many lattice cells (product of the hypothesis streams' lengths) exact ORC-WER is not tried."""

_NOT_A_WORD = re.compile(r"[^\w']|_")


class ScoreError(ValueError):
    """Rows that cannot be scored: a missing field, an end before its start, several sessions in one clip."""


class SegLstRow(TypedDict):
    """One segment of meeteval's SegLST format; times in seconds from the start of the clip.

    `text` is ours: the same words with case and punctuation, for people to read; scoring ignores it.
    """

    session_id: str
    speaker: str
    start_time: float
    end_time: float
    words: str
    text: NotRequired[str]


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
    """

    cpwer: ErrorCount
    orcwer: ErrorCount
    tcpwer: ErrorCount
    der: ErrorCount
    orcwer_is_exact: bool = True

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
    reference: Sequence[SegLstRow], hypothesis: Sequence[SegLstRow], duration_s: float | None = None
) -> ClipScore:
    """Every measure of one clip.

    Rows may come in any order, hold no words (they then count for the diarization error alone), and either
    side may be empty. The hypothesis' session_id is not looked at.

    Args:
        reference: what was said, by whom, when; all rows of one session.
        hypothesis: what the captions say.
        duration_s: length of the clip; diarization is scored from 0 to here, or to the last end if None.

    Raises:
        ScoreError: more than one session in the reference, or a row that ends before it starts.
    """
    sessions = {row["session_id"] for row in reference}
    if len(sessions) > 1:
        raise ScoreError(f"expected the rows of one session, found {sorted(sessions)}")
    for row in (*reference, *hypothesis):
        if not 0 <= row["end_time"] - row["start_time"] < math.inf:
            raise ScoreError(f"segment from {row['start_time']} s to {row['end_time']} s by {row['speaker']}")
    truth, guess = _spoken(reference), _spoken(hypothesis)
    exact = _orc_cells(guess) <= ORCWER_EXACT_CELLS
    return ClipScore(
        cpwer=_word_errors("cpwer", truth, guess),
        orcwer=_word_errors("orcwer" if exact else "greedy_orcwer", truth, guess),
        tcpwer=_word_errors("tcpwer", truth, guess, collar=TCPWER_COLLAR_S),
        der=_diarization_errors(reference, hypothesis, duration_s),
        orcwer_is_exact=exact,
    )


def total(scores: Iterable[ClipScore]) -> ClipScore:
    """The counts of all clips summed; rates then weigh every word (or second) alike."""
    return sum(scores, start=ClipScore.zero())


def _row(row: Any) -> SegLstRow:
    """`row` with its fields checked and its numbers as floats; further fields are kept."""
    checked = dict(row)
    for field in ("session_id", "speaker", "words"):
        if not isinstance(checked[field], str):
            raise TypeError(f"{field} must be text, found {checked[field]!r}")
    checked["start_time"], checked["end_time"] = float(row["start_time"]), float(row["end_time"])
    return cast(SegLstRow, checked)


def _spoken(rows: Sequence[SegLstRow]) -> list[dict[str, Any]]:
    """Rows that hold words, normalised, in time order, all of one nameless session."""
    spoken = [
        {
            "session_id": "clip",
            "speaker": row["speaker"],
            "start_time": float(row["start_time"]),
            "end_time": float(row["end_time"]),
            "words": normalise(row["words"]),
        }
        for row in rows
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
