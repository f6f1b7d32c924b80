"""What an evaluation measures: systems by name, facts of a clip, and what captions were worth against a reference.

Pure: rows, words and numbers in, counts and times out; whoever drives a server brings them (`crosstalk evaluate`).
Nothing here averages percentages: results of clips add up (`ClipResult.__add__`), rates come last.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from streaming_models.scoring import (
    Alignment,
    ClipScore,
    ScoreError,
    SegLstRow,
    TimedWord,
    align_clip,
    normalise,
    overlap_ratio,
    score_clip,
    timed_words,
)

CHANNEL_COUNTS = (1, 2, 4, 8)
"""What `@channels=` takes."""
UNKNOWN_SPEAKER = "unknown"
"""A row's speaker where a word has no label; SegLST wants one."""
PAIR_COLLAR_MS = 2_000
"""A recognised word further from the reference word it stands for says nothing about latency."""
LONGEST_WORD_S = 1.0
"""A reference word that lasts longer is a word and a pause: alignments like AMI's end a word where the next begins."""
ORACLE_COLLAR_S = 1.0
"""Within this a reference speaker who says the very word gets it, whoever else is talking."""
LONG_ECHO_S = 0.6

OVERLAP_SLICES = ("0 %", "0-20 %", "20-40 %", "40 % +")

Sum = TypeVar("Sum", "Latencies", "Stability")


# Systems


@dataclass(frozen=True)
class SystemSpec:
    """One system to compare. `text` is how it was asked for and is its name in every table.

    name: a recogniser of the server, "" for the server's own choice. channels: only the first so many of a file.
    space: False for the recogniser that hears the mix alone, called `NAME-mono`. oracle: words get the reference's
    speaker by time, about what perfect attribution would bring. live: words as they first became final, before any
    second pass revised them.
    """

    text: str
    name: str
    channels: int | None = None
    space: bool = True
    oracle: bool = False
    live: bool = False

    @property
    def recogniser(self) -> str:
        """The name that the server knows."""
        return self.name if self.space else f"{self.name}-mono"


def parse_system(text: str) -> SystemSpec:
    """`NAME[@channels=1|2|4|8][@space=off][@labels=oracle][@text=live]`, modifiers in any order.

    Raises:
        ScoreError: an unknown or repeated modifier, or `@space=off` without a name.
    """
    name, *modifiers = text.split("@")
    given: dict[str, str] = {}
    for modifier in modifiers:
        key, _, value = modifier.partition("=")
        if key in given:
            raise ScoreError(f"{text}: @{key} is given twice")
        given[key] = value
    known = {
        "channels": [str(count) for count in CHANNEL_COUNTS],
        "space": ["off"],
        "labels": ["oracle"],
        "text": ["live"],
    }
    for key, value in given.items():
        if value not in known.get(key, []):
            expected = ", ".join(f"@{k}={'|'.join(v)}" for k, v in known.items())
            raise ScoreError(f"{text}: expected modifiers among {expected}, got @{key}={value}")
    if "space" in given and not name:
        raise ScoreError(f"{text}: @space=off needs the name of a recogniser")
    channels = int(given["channels"]) if "channels" in given else None
    return SystemSpec(text or "default", name, channels, "space" not in given, "labels" in given, "text" in given)


# Clips


@dataclass(frozen=True)
class ClipFacts:
    """What is known of a clip, for slices. None where nobody said.

    condition: the folder's name. overlap_ratio: time with two or more talking over time with anyone talking.
    channels: as many as the system was given.
    """

    condition: str
    talkers: int
    overlap_ratio: float
    duration_s: float
    channels: int
    array: str | None = None
    t60_s: float | None = None
    snr_db: float | None = None
    lost_microphone: bool | None = None
    seed: int | None = None


def read_meetings(folder: Path) -> dict[str, Mapping[str, Any]]:
    """What `meetings.json` says of a folder's clips, by session; empty where there is none.

    In the folder itself it is a list of objects with `session_id`. One folder up it is what
    `streaming_models.data.meeting_set` writes, if it names the folder among its `arrangements`: `seed`, and
    `meetings` with `name`.

    Raises:
        ScoreError: the file is neither.
    """
    for path in (folder / "meetings.json", folder.resolve().parent / "meetings.json"):
        if not path.is_file():
            continue
        try:
            card = json.loads(path.read_text(encoding="utf-8"))
            if path.parent == folder and isinstance(card, list):
                return {str(row["session_id"]): row for row in card if "session_id" in row}
            arrangement = folder.resolve().name
            if arrangement not in card["arrangements"]:
                continue
            told = {"seed": card.get("seed"), "array": arrangement, "lost_microphone": arrangement == "lost"}
            return {str(row["name"]): {**row, **told} for row in card["meetings"]}
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise ScoreError(f"{path}: not a list of meetings: {error!r}") from error
    return {}


def facts_of(
    reference: Sequence[SegLstRow],
    condition: str,
    duration_s: float,
    channels: int,
    meeting: Mapping[str, Any] | None = None,
) -> ClipFacts:
    """A clip's facts: from its row of meetings.json as far as that goes, else from the reference.

    Args:
        reference: the clip's rows.
        condition: name of its folder.
        duration_s: length of the audio.
        channels: as many as were sent.
        meeting: fields `talkers` (number or list), `overlap_ratio`, `array`, `t60_s`, `snr_db`, `lost_microphone`
            and `seed`; all may be missing, others are not looked at.
    """
    row = meeting or {}
    talkers = row.get("talkers")
    if not isinstance(talkers, int):
        talkers = len(talkers) if isinstance(talkers, Sequence | Mapping) else len({r["speaker"] for r in reference})
    overlap = _number(row, "overlap_ratio")
    seed = row.get("seed")
    return ClipFacts(
        condition=condition,
        talkers=talkers,
        overlap_ratio=overlap_ratio(reference) if overlap is None else overlap,
        duration_s=duration_s,
        channels=channels,
        array=str(row["array"]) if row.get("array") else None,
        t60_s=_number(row, "t60_s"),
        snr_db=_number(row, "snr_db"),
        lost_microphone=bool(row["lost_microphone"]) if "lost_microphone" in row else None,
        seed=seed if isinstance(seed, int) else None,
    )


def _number(row: Mapping[str, Any], name: str) -> float | None:
    value = row.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def slices_of(facts: ClipFacts) -> dict[str, str]:
    """The slice of every kind that a clip belongs to; kinds that nothing is known about are left out."""
    percent = facts.overlap_ratio * 100
    overlap = OVERLAP_SLICES[(percent >= 0.05) + (percent >= 20) + (percent >= 40)]
    length = "under 1 min" if facts.duration_s < 60 else "1-10 min" if facts.duration_s < 600 else "10 min and more"
    slices = {
        "condition": facts.condition,
        "overlap": overlap,
        "speakers": str(facts.talkers),
        "channels": str(facts.channels),
        "length": length,
    }
    if facts.array is not None:
        slices["array"] = facts.array
    if facts.t60_s is not None:
        slices["T60"] = f"over {LONG_ECHO_S} s" if facts.t60_s > LONG_ECHO_S else f"up to {LONG_ECHO_S} s"
    if facts.lost_microphone is not None:
        slices["microphone lost"] = "yes" if facts.lost_microphone else "no"
    return slices


def with_word_times(rows: Sequence[SegLstRow], path: Path) -> list[SegLstRow]:
    """Reference rows with the times of their words as `path` (STEM.words.json) has them.

    The file is a list of {start, end, speaker, word}, in seconds. A row whose words are not all found within it,
    by its speaker, stays as it is.

    Raises:
        ScoreError: the file is not such a list.
    """
    if not path.is_file():
        return list(rows)
    try:
        spoken = sorted(
            (float(word["start"]), float(word["end"]), str(word["speaker"]), str(word["word"]))
            for word in json.loads(path.read_text(encoding="utf-8"))
        )
    except (ValueError, TypeError, KeyError) as error:
        raise ScoreError(f"{path}: not a list of words: {error!r}") from error
    timed = []
    for row in rows:
        first_s, last_s = row["start_time"] - 0.011, row["end_time"] + 0.011  # both sides are rounded to 10 ms
        inside = [
            SegLstRow(session_id="", speaker=speaker, start_time=start, end_time=end, words=word)
            for start, end, speaker, word in spoken
            if speaker == row["speaker"] and first_s <= start <= end <= last_s
        ]
        words = timed_words(inside)
        if words and [word.text for word in words] == normalise(row["words"]).split():
            row = cast(SegLstRow, {**row, "word_times": [(word.start_s, word.end_s) for word in words]})
        timed.append(row)
    return timed


# Captions


@dataclass
class HeardWord:
    """A final word as a reader saw it come; times in ms of the session's clock.

    shown_ms: since when its place in the turn showed a word. read_ms: since when it read as it finally did, case and
    punctuation aside. final_ms: when it became final. labelled_ms: since when it had the label that it kept; None
    for a word without any.
    """

    text: str
    turn: int
    speaker: str
    start_ms: float
    end_ms: float
    shown_ms: float
    read_ms: float
    final_ms: float
    labelled_ms: float | None


@dataclass(frozen=True)
class Stability:
    """How much of what readers saw did not stay.

    shown: words put on the screen, one that replaces another counts anew. revised: those of them that were replaced
    or taken back later. turns: turns with final words. label_flips: corrections that took a turn's final words from
    one label to another, each counted once per turn. unlabelled: final words that never got a label.
    """

    shown: int = 0
    revised: int = 0
    turns: int = 0
    label_flips: int = 0
    unlabelled: int = 0

    def __add__(self, other: Stability) -> Stability:
        return _sum(self, other)


@dataclass(frozen=True)
class Latencies:
    """Latencies in ms, one a word or a turn; negative where something was shown before it was over.

    first_shown: from a word's end until it was shown as it finally read. final: until it was final. attribution:
    until it had its final label. first_token: from the start of a reference row until the first of its words.
    """

    first_shown_ms: tuple[float, ...] = ()
    final_ms: tuple[float, ...] = ()
    attribution_ms: tuple[float, ...] = ()
    first_token_ms: tuple[float, ...] = ()

    def __add__(self, other: Latencies) -> Latencies:
        return _sum(self, other)


def _sum(left: Sum, right: Sum) -> Sum:
    return type(left)(*(getattr(left, f.name) + getattr(right, f.name) for f in fields(left)))


def percentiles(values_ms: Sequence[float]) -> dict[str, float | None]:
    """p50, p90, p95 and p99, linear between neighbours, in tenths of a ms; None where nothing was measured."""
    points = (50, 90, 95, 99)
    if not values_ms:
        return {f"p{point}": None for point in points}
    found = np.percentile(np.asarray(values_ms, dtype=float), points)
    return {f"p{point}": round(float(value), 1) for point, value in zip(points, found, strict=True)}


def rows_of(session_id: str, words: Sequence[HeardWord]) -> tuple[list[SegLstRow], list[list[HeardWord]]]:
    """Words as SegLST rows, a new one with every turn and change of label, in order of time.

    Returns:
        The rows, and for each the words behind its normalised ones, one for one: a word that normalises to two
        ("uh-huh") stands there twice, one that normalises to nothing not at all.
    """
    groups: dict[int, list[list[HeardWord]]] = {}
    for word in words:
        turn = groups.setdefault(word.turn, [])
        if turn and turn[-1][-1].speaker == word.speaker:
            turn[-1].append(word)
        else:
            turn.append([word])
    rows = []
    for group in (group for turn in groups.values() for group in turn):
        start_s, end_s = min(w.start_ms for w in group) / 1000, max(w.end_ms for w in group) / 1000
        row = SegLstRow(
            session_id=session_id,
            speaker=group[0].speaker or UNKNOWN_SPEAKER,
            start_time=start_s,
            end_time=end_s,
            words=" ".join(word.text for word in group),
        )
        singles = [SegLstRow({**row, "start_time": w.start_ms / 1000, "end_time": w.end_ms / 1000, "words": w.text})
                   for w in group]  # fmt: skip
        parts = timed_words(singles)
        row["word_times"] = [(part.start_s, part.end_s) for part in parts]
        rows.append((row, [group[part.row] for part in parts]))
    rows.sort(key=lambda pair: (pair[0]["start_time"], pair[0]["end_time"]))
    return [row for row, _ in rows], [behind for _, behind in rows]


def oracle_speakers(reference: Sequence[SegLstRow], words: Sequence[HeardWord]) -> list[str]:
    """The reference speaker of every word: what perfect attribution would be, as far as times tell.

    Whoever says the very word within ORACLE_COLLAR_S, the nearest first; else whoever is talking at the word's
    middle or nearest to it; of several who talk at once the speaker of the word before, else whose word is nearest.
    """
    spoken = timed_words(reference)
    chosen: list[str] = []
    for index, word in enumerate(words):
        middle_s = (word.start_ms + word.end_ms) / 2000
        texts = normalise(word.text).split()
        by_distance = sorted(spoken, key=lambda said: abs(said.middle_s - middle_s))
        close = (said for said in by_distance if abs(said.middle_s - middle_s) <= ORACLE_COLLAR_S)
        same = next((said for said in close if said.text in texts), None)
        if same is not None:
            chosen.append(reference[same.row]["speaker"])
            continue
        away_s = [max(0.0, row["start_time"] - middle_s, middle_s - row["end_time"]) for row in reference]
        talking = {row["speaker"] for row, s in zip(reference, away_s, strict=True) if s == min(away_s)}
        if index and words[index - 1].turn == word.turn and chosen[-1] in talking:
            chosen.append(chosen[-1])
            continue
        nearest = (reference[said.row]["speaker"] for said in by_distance)
        chosen.append(next((speaker for speaker in nearest if speaker in talking), min(talking, default="")))
    return chosen


# Results


@dataclass(frozen=True)
class ClipResult:
    """What one clip, or the sum of many, was worth under one system.

    algorithmic: latencies from the recogniser's own word ends, on the audio clock. reference: the same from the
    reference's word ends (only of clips that have them) and from its turns' starts. wall_clock,
    reference_wall_clock: both by the clock on the wall, for audio sent at the speed of speech.
    """

    name: str
    audio_s: float
    score: ClipScore
    facts: ClipFacts | None = None
    clips: int = 1
    algorithmic: Latencies = Latencies()
    reference: Latencies = Latencies()
    wall_clock: Latencies = Latencies()
    reference_wall_clock: Latencies = Latencies()
    stability: Stability = Stability()
    notes: tuple[str, ...] = ()

    def __add__(self, other: ClipResult) -> ClipResult:
        return ClipResult(
            self.name,
            self.audio_s + other.audio_s,
            self.score + other.score,
            None,
            self.clips + other.clips,
            self.algorithmic + other.algorithmic,
            self.reference + other.reference,
            self.wall_clock + other.wall_clock,
            self.reference_wall_clock + other.reference_wall_clock,
            self.stability + other.stability,
        )


@dataclass(frozen=True)
class Heard:
    """The captions of one clip: its final words on the audio clock and on the wall's (the same words), and the rest."""

    words: Sequence[HeardWord]
    on_wall_clock: Sequence[HeardWord] = ()
    stability: Stability = field(default_factory=Stability)
    notes: tuple[str, ...] = ()


def measure_clip(
    name: str, reference: Sequence[SegLstRow], heard: Heard, facts: ClipFacts, *, oracle: bool = False
) -> ClipResult:
    """Everything that is counted of one clip.

    Args:
        name: what the clip is called in reports.
        reference: rows of one session; latencies from word ends need their `word_times`.
        heard: what came of it.
        facts: of the clip.
        oracle: replace the labels by the reference's; there is then no time of attribution, and no label flips.

    Raises:
        ScoreError: rows that cannot be scored.
    """
    words, on_wall = list(heard.words), list(heard.on_wall_clock)
    stability = heard.stability
    if oracle:
        speakers = oracle_speakers(reference, words)
        words, on_wall = _relabelled(words, speakers), _relabelled(on_wall, speakers)
        stability = Stability(stability.shown, stability.revised, stability.turns)
    rows, behind = rows_of(name, words)
    alignment = align_clip(reference, rows)
    wall_of = {id(word): there for word, there in zip(words, on_wall, strict=False)}
    behind_on_wall = [[wall_of[id(word)] for word in row if id(word) in wall_of] for row in behind]
    return ClipResult(
        name=name,
        audio_s=facts.duration_s,
        score=score_clip(reference, rows, facts.duration_s, alignment),
        facts=facts,
        algorithmic=own_latencies(words),
        reference=reference_latencies(reference, alignment, behind),
        wall_clock=own_latencies(on_wall),
        reference_wall_clock=reference_latencies(reference, alignment, behind_on_wall) if on_wall else Latencies(),
        stability=stability,
        notes=heard.notes,
    )


def _relabelled(words: Iterable[HeardWord], speakers: Sequence[str]) -> list[HeardWord]:
    return [
        HeardWord(w.text, w.turn, speaker, w.start_ms, w.end_ms, w.shown_ms, w.read_ms, w.final_ms, None)
        for w, speaker in zip(words, speakers, strict=False)
    ]


def own_latencies(words: Sequence[HeardWord]) -> Latencies:
    """Latencies from the recogniser's own word ends; a guess before the word is over has none (0)."""
    return Latencies(
        tuple(max(0.0, word.read_ms - word.end_ms) for word in words),
        tuple(max(0.0, word.final_ms - word.end_ms) for word in words),
        tuple(max(0.0, word.labelled_ms - word.end_ms) for word in words if word.labelled_ms is not None),
    )


def reference_latencies(
    reference: Sequence[SegLstRow], alignment: Alignment, behind: Sequence[Sequence[HeardWord]]
) -> Latencies:
    """Latencies from the reference's times, of words that were recognised within PAIR_COLLAR_MS of where they are.

    Word ends count where the row has `word_times` and the word is not longer than LONGEST_WORD_S. A row's first
    token is the earliest shown of the words that stand for its own, right or wrong.

    Args:
        reference: the clip's rows.
        alignment: of them with the rows of the captions.
        behind: for every such row its words (see `rows_of`).
    """
    first_shown, final, attribution = [], [], []
    first_token_ms: dict[int, float] = {}
    for said, stands in alignment.pairs:
        if said is None or stands is None or abs(said.middle_s - stands.middle_s) * 1000 > PAIR_COLLAR_MS:
            continue
        word = behind[stands.row][stands.place]
        first_token_ms[said.row] = min(word.shown_ms, first_token_ms.get(said.row, word.shown_ms))
        if said.text != stands.text or not _has_end(reference, said):
            continue
        end_ms = said.end_s * 1000
        first_shown.append(word.read_ms - end_ms)
        final.append(word.final_ms - end_ms)
        if word.labelled_ms is not None:
            attribution.append(word.labelled_ms - end_ms)
    first_token = [shown_ms - reference[row]["start_time"] * 1000 for row, shown_ms in sorted(first_token_ms.items())]
    return Latencies(tuple(first_shown), tuple(final), tuple(attribution), tuple(first_token))


def _has_end(reference: Sequence[SegLstRow], word: TimedWord) -> bool:
    return "word_times" in reference[word.row] and word.end_s - word.start_s <= LONGEST_WORD_S


def pooled(name: str, results: Iterable[ClipResult]) -> ClipResult:
    """The sum of all results, under a name of its own."""
    nothing = ClipResult(name, 0.0, ClipScore.zero(), clips=0)
    return reduce(lambda left, right: left + right, results, nothing)


def sliced(results: Sequence[ClipResult]) -> dict[str, dict[str, ClipResult]]:
    """Sums per slice: kind of slice -> slice -> result; slices in order of name (numbers by size)."""
    members: dict[str, dict[str, list[ClipResult]]] = {}
    for result in results:
        if result.facts is not None:
            for kind, value in slices_of(result.facts).items():
                members.setdefault(kind, {}).setdefault(value, []).append(result)
    return {
        kind: {value: pooled(value, found) for value, found in sorted(values.items(), key=_slice_order)}
        for kind, values in members.items()
    }


def _slice_order(item: tuple[str, object]) -> tuple[float, str]:
    digits = item[0].replace("-", " ").split()[0]
    return (float(digits) if digits.isdecimal() else -1.0, item[0])
