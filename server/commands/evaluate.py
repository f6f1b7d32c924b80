"""`crosstalk evaluate`: clips with references through the real server, by one or several systems; scores come out.

What is counted lies in `streaming_models.evaluate`, how it is written down in `streaming_models.score_report`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.metadata
import json
import platform
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.table import Table

from client.media import MediaFile
from server.commands.caption_trace import AudioClock, CaptionTrace
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
from server.protocol import AnyServerMessage
from streaming_models.evaluate import (
    ClipResult,
    Heard,
    SystemSpec,
    facts_of,
    measure_clip,
    parse_system,
    pooled,
    read_meetings,
    sliced,
    with_word_times,
)
from streaming_models.score_report import (
    ERROR_HEADINGS,
    LATENCY_HEADINGS,
    MEASURES,
    error_cells,
    latency_cells,
    rate_text,
    scores_of,
    seconds_text,
    write_report,
)
from streaming_models.scoring import ScoreError, SegLstRow, read_seglst

REFERENCE_SUFFIX = ".seglst.json"
WORDS_SUFFIX = ".words.json"
DEPENDENCIES = ("crosstalk-captions", "numpy", "onnxruntime", "moonshine-voice", "meeteval", "pyannote.metrics")
"""Distributions whose versions a report names."""


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "evaluate",
        help="score captions of folders of clips against references",
        description="Stream each clip of each DIR that has STEM.seglst.json beside it through a server and score the"
        " captions. STEM.words.json gives the times of words, meetings.json facts for slices, where they are."
        " Latencies are from a word's end: algorithmic ones on the session's audio clock (they do not"
        " depend on the machine), and with --realtime also on the wall clock.",
    )
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="DIR", help="audio or video files with STEM.seglst.json"
    )
    parser.add_argument(
        "--system", action="append", default=[], metavar="NAME",
        help="recogniser, with modifiers if wanted: NAME@channels=1 (or 2, 4, 8: only the first so many), "
        "NAME@space=off (no spatial input: the recogniser NAME-mono), NAME@labels=oracle (the reference's speakers by"
        " time: about what perfect attribution would give), NAME@text=live (before any second pass); may be given"
        " several times",
    )  # fmt: skip
    parser.add_argument("--realtime", action="store_true", help="send the audio at the speed of speech")
    parser.add_argument("--layout", choices=LAYOUTS, default="auto", help="what the channels are; default: auto")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="clips at once; default: 1")
    parser.add_argument("--json", type=Path, metavar="OUT.json", help="where to write all numbers")
    parser.add_argument("--report", type=Path, metavar="OUT", help="folder for report.md, scores.json and charts")
    add_server_option(parser)
    parser.set_defaults(run=run)


@dataclass(frozen=True)
class Clip:
    """A clip to score. `name` is its stem, with its folder before it where stems repeat.

    `reference` has the times of words where they are known, `meeting` is the clip's row of meetings.json.
    """

    name: str
    audio: Path
    reference: list[SegLstRow]
    meeting: dict[str, Any] = field(default_factory=dict)

    @property
    def condition(self) -> str:
        """Name of its folder."""
        return self.audio.resolve().parent.name


@dataclass(frozen=True)
class StreamedClip:
    """A clip and what came of it: every message, and when it arrived in ms after the first sample's moment."""

    clip: Clip
    streamed: StreamedFile
    messages: list[tuple[AnyServerMessage, float]]

    def on_audio_clock(self, *, revisions: bool) -> CaptionTrace:
        """The captions as they were decided."""
        trace = CaptionTrace(revisions=revisions)
        clock = AudioClock(trace)
        for message, _ in self.messages:
            clock.take(message)
        return trace

    def on_wall_clock(self, *, revisions: bool) -> CaptionTrace:
        """The captions as they arrived."""
        trace = CaptionTrace(revisions=revisions)
        for message, arrived_ms in self.messages:
            trace.take(message, arrived_ms)
        return trace


def run(args: argparse.Namespace) -> int:
    """The command; 0 when all clips of all systems were scored, else 2."""
    try:
        specs = [parse_system(text) for text in dict.fromkeys(args.system or [""])]
        clips = find_all_clips(args.folders)
        if args.jobs < 1:
            raise ScoreError(f"--jobs must be at least 1, got {args.jobs}")
        for out in (args.json, args.report):
            if out is not None and not out.parent.is_dir():
                raise ScoreError(f"{out}: no such folder to write to")
        console = Console()
        systems: dict[str, list[ClipResult]] = {}
        with server_at(args.server) as url:
            # Systems that differ only in what is made of their captions share one pass.
            passes: dict[tuple[str, int | None], list[StreamedClip]] = {}
            for spec in specs:
                key = (spec.recogniser, spec.channels)
                if key not in passes:
                    passes[key] = asyncio.run(_stream_all(clips, url, spec, args))
                results = [result_of(one, spec, realtime=args.realtime) for one in passes[key]]
                systems[spec.text] = results
                if results:
                    console.print(
                        tables_of(spec.text, results, realtime=args.realtime), soft_wrap=not console.is_terminal
                    )
        if any(systems.values()):
            console.print(summary_of(systems), soft_wrap=not console.is_terminal)
        card = card_of(args, clips)
        if args.json is not None:
            text = json.dumps({**card, "systems": scores_of(systems, realtime=args.realtime)}, indent=1)
            args.json.write_text(text + "\n", encoding="utf-8")
        if args.report is not None:
            write_report(args.report, systems, card, realtime=args.realtime)
    except ModuleNotFoundError as error:
        complain(f"scoring needs {error.name}: pip install 'crosstalk-captions[evaluate]'")
        return FAILED
    except (CrosstalkError, ScoreError, RuntimeError, OSError) as error:
        complain(error)
        return FAILED
    return 0 if all(len(results) == len(clips) for results in systems.values()) else FAILED


def card_of(args: argparse.Namespace, clips: Sequence[Clip]) -> dict[str, Any]:
    """How it was measured: the command, versions, and the seeds of simulated clips as far as they are known."""
    words = ["crosstalk", "evaluate", *map(str, args.folders)]
    for text in args.system:
        words += ["--system", text]
    words += ["--realtime"] if args.realtime else []
    words += ["--layout", args.layout, "--jobs", str(args.jobs)]
    words += ["--server", args.server] if args.server else []
    return {
        "folder": str(args.folders[0]),
        "folders": [str(folder) for folder in args.folders],
        "realtime": args.realtime,
        "command": shlex.join(words),
        "versions": {"python": platform.python_version(), **_versions()},
        "seeds": {clip.name: clip.meeting["seed"] for clip in clips if clip.meeting.get("seed") is not None},
    }


def _versions() -> dict[str, str]:
    installed = {}
    for name in DEPENDENCIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # onnxruntime may be onnxruntime-gpu
            installed[name] = importlib.metadata.version(name)
    return installed


def find_all_clips(folders: Sequence[Path]) -> list[Clip]:
    """The clips of all folders, in the folders' order, each under the shortest name that no other has.

    Raises:
        ScoreError: as `find_clips`, or a folder is given twice.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ScoreError("a folder is given twice")
    found = [(folder, clip) for folder in folders for clip in find_clips(folder)]
    names = [(clip.name, f"{clip.condition}/{clip.name}", f"{folder}/{clip.name}") for folder, clip in found]
    taken = Counter(name for choice in names for name in choice[:2])
    return [
        replace(clip, name=next((name for name in choice[:2] if taken[name] == 1), choice[2]))
        for (_, clip), choice in zip(found, names, strict=True)
    ]


def find_clips(folder: Path) -> list[Clip]:
    """The clips of a folder: each STEM.seglst.json with the one media file STEM.* beside it, sorted.

    Raises:
        ScoreError: no such folder, nothing in it, or a reference that is unreadable or has no or several audio files.
    """
    if not folder.is_dir():
        raise ScoreError(f"{folder}: no such folder")
    meetings = read_meetings(folder)
    clips = []
    for reference in sorted(folder.glob(f"*{REFERENCE_SUFFIX}")):
        stem = reference.name.removesuffix(REFERENCE_SUFFIX)
        media = [p for p in sorted(folder.iterdir()) if p.stem == stem and p.is_file() and _is_media(p)]
        if len(media) != 1:
            found = ", ".join(p.name for p in media) or "none"
            raise ScoreError(f"{reference}: expected one audio file {stem}.* beside it, found {found}")
        rows = read_seglst(reference)
        timed = with_word_times(rows, folder / f"{stem}{WORDS_SUFFIX}")
        names = [stem, *(row["session_id"] for row in rows[:1])]
        clips.append(Clip(stem, media[0], timed, next((dict(meetings[n]) for n in names if n in meetings), {})))
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


async def _stream_all(clips: list[Clip], url: str, spec: SystemSpec, args: argparse.Namespace) -> list[StreamedClip]:
    """Captions of the clips that could be streamed, in their order; failures are said on stderr."""
    turnstile = asyncio.Semaphore(args.jobs)

    async def one(clip: Clip) -> StreamedClip | None:
        messages: list[tuple[AnyServerMessage, float]] = []
        async with turnstile:
            try:
                streamed = await stream_file(
                    url,
                    clip.audio,
                    realtime=args.realtime,
                    layout=args.layout,
                    system=spec.recogniser,
                    channels=spec.channels,
                    on_message=lambda message, arrived_ms: messages.append((message, arrived_ms)),
                )
            except CrosstalkError as error:
                complain(f"{clip.name}: {error}")
                return None
            for note in streamed.notes:
                complain(f"{clip.name}: {note}")
            return StreamedClip(clip, streamed, messages)

    return [each for each in await asyncio.gather(*(one(clip) for clip in clips)) if each is not None]


def result_of(one: StreamedClip, spec: SystemSpec, *, realtime: bool) -> ClipResult:
    """The clip's score against its reference, its latencies and its stability."""
    clip, streamed = one.clip, one.streamed
    facts = facts_of(clip.reference, clip.condition, streamed.audio_s, streamed.channels, clip.meeting)
    trace = one.on_audio_clock(revisions=not spec.live)
    heard = Heard(
        words=trace.words,
        on_wall_clock=one.on_wall_clock(revisions=not spec.live).words if realtime else (),
        stability=trace.stability,
        notes=tuple(streamed.notes),
    )
    return measure_clip(clip.name, clip.reference, heard, facts, oracle=spec.oracle)


def tables_of(system: str, results: Sequence[ClipResult], *, realtime: bool) -> Group:
    """One system's numbers to read: errors and latencies, a row per clip, the total last."""
    errors = Table(title=f"system {system}: errors", title_justify="left")
    latencies = Table(title=f"system {system}: seconds from a word's end, p50/p95/p99", title_justify="left")
    errors.add_column("clip")
    latencies.add_column("clip")
    for heading in ("audio s", *MEASURES.values()):
        errors.add_column(heading, justify="right")
    for shown in ("", ", wall clock") if realtime else ("",):
        latencies.add_column(f"first shown{shown}", justify="right")
        latencies.add_column(f"final{shown}", justify="right")
    for result in (*results, pooled("total", results)):
        if result.facts is None:
            errors.add_section()
            latencies.add_section()
        errors.add_row(result.name, f"{result.audio_s:.1f}", *(rate_text(result, measure) for measure in MEASURES))
        clocks = (result.algorithmic, result.wall_clock) if realtime else (result.algorithmic,)
        spans = [values for clock in clocks for values in (clock.first_shown_ms, clock.final_ms)]
        latencies.add_row(result.name, *(seconds_text(span, ("p50", "p95", "p99")) for span in spans))
    return Group(errors, latencies)


def summary_of(systems: dict[str, list[ClipResult]]) -> Group:
    """All systems side by side: a row per system and condition, and per system for all conditions together."""
    errors = Table(title="errors by system and condition", title_justify="left")
    latencies = Table(
        title="seconds from where words end in the reference (audio clock), p50/p90/p99", title_justify="left"
    )
    for table, headings in ((errors, ERROR_HEADINGS), (latencies, LATENCY_HEADINGS)):
        table.add_column("system")
        table.add_column("condition")
        for heading in headings:
            table.add_column(heading, justify="right")
    for system, results in systems.items():
        conditions = sliced(results).get("condition", {})
        parts = dict(conditions) if len(conditions) == 1 else {**conditions, "all": pooled("all", results)}
        for condition, part in parts.items():
            errors.add_row(system, condition, *error_cells(part))
            latencies.add_row(system, condition, *latency_cells(part))
        errors.add_section()
        latencies.add_section()
    return Group(errors, latencies)
