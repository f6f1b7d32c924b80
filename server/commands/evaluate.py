"""`crosstalk evaluate`: clips with references through the real server, errors and latencies out."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.table import Table

from client.media import MediaFile
from server.commands.latency import LatencyMeter, percentiles
from server.commands.streaming import (
    FAILED,
    LAYOUTS,
    StreamedFile,
    add_server_option,
    complain,
    server_at,
    stream_file,
)
from server.errors import CrosstalkError
from server.protocol import AnyServerMessage, Final, Partial
from streaming_models.scoring import ClipScore, ErrorCount, ScoreError, SegLstRow, read_seglst, score_clip, total

REFERENCE_SUFFIX = ".seglst.json"
MEASURES = ("cpwer", "orcwer", "tcpwer", "der")


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "evaluate",
        help="score captions of a folder of clips against references",
        description="Stream each clip of DIR that has STEM.seglst.json beside it through a server and score the"
        " captions. Latencies are from a word's end: algorithmic ones on the session's audio clock (they do not"
        " depend on the machine), and with --realtime also on the wall clock.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="audio or video files with STEM.seglst.json")
    parser.add_argument(
        "--system", action="append", default=[], metavar="NAME", help="recogniser; may be given several times"
    )
    parser.add_argument("--realtime", action="store_true", help="send the audio at the speed of speech")
    parser.add_argument("--layout", choices=LAYOUTS, default="auto", help="what the channels are; default: auto")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="clips at once; default: 1")
    parser.add_argument("--json", type=Path, metavar="OUT.json", help="where to write all numbers")
    add_server_option(parser)
    parser.set_defaults(run=run)


@dataclass(frozen=True)
class Clip:
    """A clip to score."""

    stem: str
    audio: Path
    reference: list[SegLstRow]


@dataclass
class Latencies:
    """Latencies in ms of any number of clips, pooled: first shown as it finally read, and final."""

    first_shown_ms: list[float] = field(default_factory=list)
    final_ms: list[float] = field(default_factory=list)

    def add(self, other: Latencies | LatencyMeter) -> None:
        """Pool the words of another one."""
        if isinstance(other, LatencyMeter):
            self.first_shown_ms += other.first_ms
        else:
            self.first_shown_ms += other.first_shown_ms
        self.final_ms += other.final_ms

    def report(self) -> dict[str, Any]:
        """Percentiles of both."""
        return {"first_shown_ms": percentiles(self.first_shown_ms), "final_ms": percentiles(self.final_ms)}


@dataclass
class ClipResult:
    """One clip's captions, scored."""

    stem: str
    audio_s: float
    score: ClipScore
    algorithmic: Latencies
    wall_clock: Latencies
    notes: list[str]


def run(args: argparse.Namespace) -> int:
    """The command; 0 when all clips of all systems were scored, else 2."""
    systems: list[str] = args.system or [""]
    try:
        clips = find_clips(args.folder)
        if args.jobs < 1:
            raise ScoreError(f"--jobs must be at least 1, got {args.jobs}")
        if args.json is not None and not args.json.parent.is_dir():
            raise ScoreError(f"{args.json}: no such folder to write to")
        reports = {}
        console = Console()
        complete = True
        with server_at(args.server) as url:
            for system in systems:
                results = asyncio.run(_evaluate(clips, url, system, args))
                complete = complete and len(results) == len(clips)
                report = report_of(results, realtime=args.realtime)
                reports[system or "default"] = report
                if results:
                    console.print(table_of(system or "default", report), soft_wrap=not console.is_terminal)
        if args.json is not None:
            text = json.dumps({"folder": str(args.folder), "realtime": args.realtime, "systems": reports}, indent=1)
            args.json.write_text(text + "\n", encoding="utf-8")
    except ModuleNotFoundError as error:
        complain(f"scoring needs {error.name}: pip install 'crosstalk-captions[evaluate]'")
        return FAILED
    except (CrosstalkError, ScoreError, RuntimeError, OSError) as error:
        complain(error)
        return FAILED
    return 0 if complete else FAILED


def find_clips(folder: Path) -> list[Clip]:
    """The clips of a folder: each STEM.seglst.json with the one media file STEM.* beside it, sorted.

    Raises:
        ScoreError: no such folder, nothing in it, or a reference that is unreadable or has no or several audio files.
    """
    if not folder.is_dir():
        raise ScoreError(f"{folder}: no such folder")
    clips = []
    for reference in sorted(folder.glob(f"*{REFERENCE_SUFFIX}")):
        stem = reference.name.removesuffix(REFERENCE_SUFFIX)
        media = [p for p in sorted(folder.iterdir()) if p.stem == stem and p.is_file() and _is_media(p)]
        if len(media) != 1:
            found = ", ".join(p.name for p in media) or "none"
            raise ScoreError(f"{reference}: expected one audio file {stem}.* beside it, found {found}")
        clips.append(Clip(stem, media[0], read_seglst(reference)))
    if not clips:
        raise ScoreError(f"{folder}: no STEM{REFERENCE_SUFFIX} in it")
    return clips


def _is_media(path: Path) -> bool:
    if path.suffix in (".json", ".jsonl", ".txt", ".rttm", ".md"):
        return False
    try:
        with MediaFile(path):
            return True
    except CrosstalkError:
        return False


async def _evaluate(clips: list[Clip], url: str, system: str, args: argparse.Namespace) -> list[ClipResult]:
    """Results of the clips that could be streamed, in their order; failures are said on stderr."""
    turnstile = asyncio.Semaphore(args.jobs)

    async def one(clip: Clip) -> ClipResult | None:
        algorithmic, wall_clock = LatencyMeter(same_text=True), LatencyMeter(same_text=True)

        def measure(message: AnyServerMessage, arrived_ms: float) -> None:
            if isinstance(message, Partial | Final):
                algorithmic.take(message, message.decided_ms)
                wall_clock.take(message, arrived_ms)

        async with turnstile:
            try:
                streamed = await stream_file(
                    url, clip.audio, realtime=args.realtime, layout=args.layout, system=system, on_message=measure
                )
            except CrosstalkError as error:
                complain(f"{clip.stem}: {error}")
                return None
            for note in streamed.notes:
                complain(f"{clip.stem}: {note}")
            return await asyncio.to_thread(result_of, clip, streamed, algorithmic, wall_clock)

    return [result for result in await asyncio.gather(*(one(clip) for clip in clips)) if result is not None]


def result_of(clip: Clip, streamed: StreamedFile, algorithmic: LatencyMeter, wall_clock: LatencyMeter) -> ClipResult:
    """The clip's score against its reference, and its latencies."""
    hypothesis = [
        SegLstRow(
            session_id=row["session_id"],
            speaker=row["speaker"],
            start_time=row["start_time"],
            end_time=row["end_time"],
            words=row["words"],
        )
        for row in streamed.transcript.rows(clip.stem)
    ]
    score = score_clip(clip.reference, hypothesis, streamed.audio_s)
    result = ClipResult(clip.stem, streamed.audio_s, score, Latencies(), Latencies(), streamed.notes)
    result.algorithmic.add(algorithmic)
    result.wall_clock.add(wall_clock)
    return result


def report_of(results: list[ClipResult], *, realtime: bool) -> dict[str, Any]:
    """All numbers as JSON: `clips` by stem, and `total` with counts summed and latencies pooled."""
    together = ClipResult(
        "total", sum(r.audio_s for r in results), total(r.score for r in results), Latencies(), Latencies(), []
    )
    for result in results:
        together.algorithmic.add(result.algorithmic)
        together.wall_clock.add(result.wall_clock)
    return {
        "clips": {result.stem: _numbers(result, realtime=realtime) for result in results},
        "total": _numbers(together, realtime=realtime),
    }


def _numbers(result: ClipResult, *, realtime: bool) -> dict[str, Any]:
    numbers: dict[str, Any] = {"audio_s": round(result.audio_s, 3)}
    for measure in MEASURES:
        numbers[measure] = _count(getattr(result.score, measure))
    if not result.score.orcwer_is_exact:
        numbers["orcwer"]["is_upper_bound"] = True
    numbers["latency_ms"] = {"algorithmic": result.algorithmic.report()}
    if realtime:
        numbers["latency_ms"]["wall_clock"] = result.wall_clock.report()
    if result.notes:
        numbers["notes"] = result.notes
    return numbers


def _count(count: ErrorCount) -> dict[str, Any]:
    """`rate` is null where there were errors against an empty reference."""
    rate = count.rate
    return {
        "errors": round(count.errors, 3),
        "length": round(count.length, 3),
        "rate": round(rate, 4) if math.isfinite(rate) else None,
    }


def table_of(system: str, report: dict[str, Any]) -> Group:
    """One system's numbers to read: errors and latencies, a row per clip, the total last."""
    errors = Table(title=f"system {system}: errors", title_justify="left")
    latencies = Table(title=f"system {system}: seconds from a word's end, p50/p95/p99", title_justify="left")
    kinds = list(report["total"]["latency_ms"])
    errors.add_column("clip")
    latencies.add_column("clip")
    for heading in ("audio s", "cpWER", "ORC-WER", "tcpWER", "DER"):
        errors.add_column(heading, justify="right")
    for kind in kinds:
        shown = "" if kind == "algorithmic" else ", wall clock"
        latencies.add_column(f"first shown{shown}", justify="right")
        latencies.add_column(f"final{shown}", justify="right")
    for stem, numbers in [*report["clips"].items(), ("total", report["total"])]:
        if stem == "total":
            errors.add_section()
            latencies.add_section()
        errors.add_row(stem, f"{numbers['audio_s']:.1f}", *(_rate_text(numbers[measure]) for measure in MEASURES))
        spans = [numbers["latency_ms"][kind][what] for kind in kinds for what in ("first_shown_ms", "final_ms")]
        latencies.add_row(stem, *(_latency_text(span) for span in spans))
    return Group(errors, latencies)


def _rate_text(count: dict[str, Any]) -> str:
    bound = "<=" if count.get("is_upper_bound") else ""
    return "-" if count["rate"] is None else f"{bound}{count['rate']:.3f}"


def _latency_text(latency: dict[str, float | None]) -> str:
    return "/".join("-" if value is None else f"{value / 1000:.2f}" for value in latency.values())
