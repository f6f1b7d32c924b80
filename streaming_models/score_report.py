"""An evaluation written down: scores as JSON, tables and charts as a folder to read (`crosstalk evaluate --report`)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from streaming_models.charts import bars, shares_below
from streaming_models.evaluate import (
    LONGEST_WORD_S,
    OVERLAP_SLICES,
    PAIR_COLLAR_MS,
    ClipResult,
    Latencies,
    percentiles,
    pooled,
    sliced,
)
from streaming_models.scoring import TCPWER_COLLAR_S, ErrorCount

MEASURES = {
    "cpwer": "cpWER",
    "orcwer": "ORC-WER",
    "tcpwer": "tcpWER",
    "der": "DER",
    "wer_overlapped": "WER overlapped",
    "wer_alone": "WER alone",
}
"""Error counts by their key in the JSON, and their headings."""

KINDS = {
    "first_shown_ms": "first shown",
    "final_ms": "final",
    "attribution_ms": "labelled",
    "first_token_ms": "turn's first",
}
"""Latencies by the field that holds them, and their headings."""

Systems = Mapping[str, Sequence[ClipResult]]
"""Results of all clips by the name of the system."""


def count_of(result: ClipResult, measure: str) -> ErrorCount:
    """One of MEASURES."""
    fields = {"wer_overlapped": "overlapped", "wer_alone": "alone"}
    count: ErrorCount = getattr(result.score, fields.get(measure, measure))
    return count


def numbers_of(result: ClipResult, *, realtime: bool, rates: bool = True) -> dict[str, Any]:
    """One result as JSON: counts (with their rates on demand), percentiles of latencies, stability, facts.

    A rate is null where there were errors against an empty reference.
    """
    numbers: dict[str, Any] = {"audio_s": round(result.audio_s, 3)}
    if result.facts is None:
        numbers["clips"] = result.clips
    for measure in MEASURES:
        count = count_of(result, measure)
        numbers[measure] = {"errors": round(count.errors, 3), "length": round(count.length, 3)}
        if rates:
            numbers[measure]["rate"] = round(count.rate, 4) if math.isfinite(count.rate) else None
    if not result.score.orcwer_is_exact:
        numbers["orcwer"]["is_upper_bound"] = True
    own, all_kinds = ("first_shown_ms", "final_ms"), tuple(KINDS)
    numbers["latency_ms"] = {
        "algorithmic": _latencies(result.algorithmic, own),
        "reference": _latencies(result.reference, all_kinds),
    }
    if realtime:
        numbers["latency_ms"]["wall_clock"] = _latencies(result.wall_clock, own)
        numbers["latency_ms"]["reference_wall_clock"] = _latencies(result.reference_wall_clock, all_kinds)
    numbers["stability"] = asdict(result.stability)
    if result.facts is not None:
        numbers["facts"] = {name: value for name, value in asdict(result.facts).items() if value is not None}
    if result.notes:
        numbers["notes"] = list(result.notes)
    return numbers


def _latencies(latencies: Latencies, kinds: Iterable[str]) -> dict[str, Any]:
    values = {kind: getattr(latencies, kind) for kind in kinds}
    return {kind: {**percentiles(found), "count": len(found)} for kind, found in values.items()}


def scores_of(systems: Systems, *, realtime: bool, rates: bool = True) -> dict[str, Any]:
    """Per system: `clips` by name, `total`, and `slices` by kind and value, each as `numbers_of`."""
    return {
        system: {
            "clips": {result.name: numbers_of(result, realtime=realtime, rates=rates) for result in results},
            "total": numbers_of(pooled("total", results), realtime=realtime, rates=rates),
            "slices": {
                kind: {value: numbers_of(part, realtime=realtime, rates=rates) for value, part in parts.items()}
                for kind, parts in sliced(results).items()
            },
        }
        for system, results in systems.items()
    }


def write_report(folder: Path, systems: Systems, card: Mapping[str, Any], *, realtime: bool) -> list[Path]:
    """Write report.md, scores.json and charts; files of the same names are replaced.

    Args:
        folder: made if need be; the one above it must exist.
        systems: what was measured.
        card: how: command, versions, seeds and the like, as JSON.
        realtime: whether the clock on the wall means anything.

    Raises:
        OSError: the folder cannot be written to.
    """
    folder.mkdir(exist_ok=True)
    charts = charts_of(systems)
    scores = {**card, "systems": scores_of(systems, realtime=realtime, rates=False)}
    files = {
        "report.md": markdown_of(systems, card, {name: title for name, (title, _) in charts.items()}),
        "scores.json": json.dumps(scores, indent=1) + "\n",
        **{name: svg for name, (_, svg) in charts.items()},
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in files]


def charts_of(systems: Systems) -> dict[str, tuple[str, str]]:
    """File name -> title and SVG: errors by overlap, and a chart for every latency that was measured."""
    charts: dict[str, tuple[str, str]] = {}
    by_overlap = {system: sliced(results).get("overlap", {}) for system, results in systems.items()}
    buckets = [value for value in OVERLAP_SLICES if any(value in parts for parts in by_overlap.values())]
    title = "cpWER by overlapped share of the speech in a clip"
    errors = {
        system: [_percent(parts[value], "cpwer") if value in parts else None for value in buckets]
        for system, parts in by_overlap.items()
    }
    charts["wer_by_overlap.svg"] = (title, bars(title, buckets, errors, "%"))
    title = "Word errors where one person talks, and where several do"
    totals = {system: pooled(system, results) for system, results in systems.items()}
    errors = {
        system: [_percent(whole, measure) for measure in ("wer_alone", "wer_overlapped")]
        for system, whole in totals.items()
    }
    charts["wer_in_overlap.svg"] = (title, bars(title, ["alone", "overlapped"], errors, "%"))
    for kind, heading in KINDS.items():
        seconds = {name: [ms / 1000 for ms in getattr(whole.reference, kind)] for name, whole in totals.items()}
        against = "the turn's start" if kind == "first_token_ms" else "the word's end in the reference"
        if not any(seconds.values()):
            seconds = {name: [ms / 1000 for ms in getattr(whole.algorithmic, kind)] for name, whole in totals.items()}
            against = "the word's end as recognised"
        if any(seconds.values()):
            title = f"{heading[0].upper()}{heading[1:]}, seconds from {against} (audio clock)"
            charts[f"latency_{kind.removesuffix('_ms')}.svg"] = (title, shares_below(title, seconds, "s"))
    return charts


def _percent(result: ClipResult, measure: str) -> float | None:
    rate = count_of(result, measure).rate
    return rate * 100 if math.isfinite(rate) and count_of(result, measure).length else None


def rate_text(result: ClipResult, measure: str) -> str:
    """A rate to read: `<=` before an upper bound, `-` where there is nothing to measure against."""
    count = count_of(result, measure)
    bound = "<=" if measure == "orcwer" and not result.score.orcwer_is_exact else ""
    return f"{bound}{count.rate:.3f}" if count.length else "-"


def seconds_text(values_ms: Sequence[float], points: Sequence[str] = ("p50", "p90", "p99")) -> str:
    """Percentiles in seconds to read: `0.42/0.81/1.20`."""
    found = percentiles(values_ms)
    return "/".join("-" if (ms := found[point]) is None else f"{ms / 1000:.2f}" for point in points)


def error_cells(result: ClipResult) -> list[str]:
    """Length and every one of MEASURES, as text."""
    return [
        str(result.clips),
        f"{result.audio_s:.0f}",
        f"{result.score.cpwer.length:.0f}",
        *(rate_text(result, measure) for measure in MEASURES),
    ]


ERROR_HEADINGS = ("clips", "audio s", "words", *MEASURES.values())


def latency_cells(result: ClipResult) -> list[str]:
    """Every one of KINDS and stability, as text."""
    stability = result.stability
    revised = f"{stability.revised / stability.shown:.3f}" if stability.shown else "-"
    flips = f"{stability.label_flips / stability.turns * 100:.0f}" if stability.turns else "-"
    spans = [seconds_text(getattr(result.reference, kind)) for kind in KINDS]
    return [str(len(result.reference.final_ms)), *spans, revised, flips, str(stability.unlabelled)]


LATENCY_HEADINGS = (
    "words timed",
    *KINDS.values(),
    "revised",
    "flips",
    "unlabelled",
)


def markdown_of(systems: Systems, card: Mapping[str, Any], charts: Mapping[str, str]) -> str:
    """The report to read: errors and latencies per condition, then per slice, then how it was measured."""
    totals = {system: pooled("all", results) for system, results in systems.items()}
    slices = {system: sliced(results) for system, results in systems.items()}
    kinds = list(dict.fromkeys(kind for parts in slices.values() for kind in parts))
    lines = ["# Scores", "", f"`{card.get('command', '')}`", "", "## Errors", ""]
    lines += _table(("system", *ERROR_HEADINGS), [[system, *error_cells(all_)] for system, all_ in totals.items()])
    lines += ["", *(f"![{title}]({name})" for name, title in charts.items() if name.startswith("wer_"))]
    for kind in kinds:
        lines += ["", f"### By {kind}", ""]
        values = dict.fromkeys(value for parts in slices.values() for value in parts.get(kind, {}))
        rows = [
            [value, system, *error_cells(parts[kind][value])]
            for value in values
            for system, parts in slices.items()
            if value in parts.get(kind, {})
        ]
        lines += _table((kind, "system", *ERROR_HEADINGS), rows)
    lines += ["", "## Latency and stability", "", "Seconds, p50/p90/p99, on the audio clock.", ""]
    rows = [[system, *latency_cells(all_)] for system, all_ in totals.items()]
    lines += _table(("system", *LATENCY_HEADINGS), rows)
    lines += ["", "From the recogniser's own word ends, of all words:", ""]
    rows = [
        [name, str(len(all_.algorithmic.final_ms))]
        + [seconds_text(getattr(all_.algorithmic, kind)) for kind in ("first_shown_ms", "final_ms", "attribution_ms")]
        for name, all_ in totals.items()
    ]
    lines += _table(("system", "words", "first shown", "final", "labelled"), rows)
    lines += ["", *(f"![{title}]({name})" for name, title in charts.items() if name.startswith("latency_"))]
    lines += ["", "## How it was measured", "", *HOW.splitlines(), "", "```json"]
    lines += [json.dumps(card, indent=1), "```", ""]
    return "\n".join(lines)


HOW = f"""\
- Both sides are lower-cased; letters, digits and apostrophes make words. Counts of all clips are summed before any
  rate is taken; `scores.json` holds the counts.
- cpWER: every speaker's words must stand under one label. ORC-WER: labels do not matter. tcpWER: cpWER with words at
  most {TCPWER_COLLAR_S:g} s apart. All by meeteval. DER by pyannote.metrics from the rows of final words: collar 0,
  overlap counted.
- WER overlapped and WER alone are ORC-WER by time, and together exactly ORC-WER: the reference rows keep the labels
  that ORC-WER gave them, words are aligned under each label, and every reference word with its substitution or
  deletion counts as overlapped if two or more people talk at its middle, every inserted word by its own middle. Where
  the reference has no word times, words share their row's time by their letters.
- Latencies are of words that were recognised within {PAIR_COLLAR_MS / 1000:g} s of where they are in the reference,
  and whose reference time is given and no longer than {LONGEST_WORD_S:g} s (a longer one holds a pause). First shown:
  since when the word read as it finally did. Labelled: since when it had the label that it kept; corrections count at
  most one second late. Turn's first: from the start of a reference row to the first word that stands for one of its
  words. Negative: shown before it was over.
- Words timed: how many these latencies are of. Revised: share of the words put on the screen that were replaced or
  taken back. Flips: corrections of final words from one label to another, per 100 turns. Unlabelled: final words that
  never got a label.
- `@channels=N`: the first N channels of files that have more. `@space=off`: the recogniser NAME-mono. `@labels=oracle`:
  the same captions with the reference's speakers by time: about what perfect attribution would give. `@text=live`:
  words as they first became final; else as the transcript stands at the end, revisions of a second pass included."""


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [line(headings), "|" + " --- |" * len(headings), *(line(row) for row in rows)]
