"""`crosstalk transcribe`: files in, transcripts out, through the same path as live audio."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from client.sdk import fetch_transcript
from server.commands.streaming import (
    FAILED,
    LAYOUTS,
    add_server_option,
    add_vocabulary_option,
    complain,
    read_vocabulary,
    server_at,
    stream_file,
)
from server.errors import CrosstalkError
from server.transcript import SegLstRow

FORMATS = ("txt", "srt", "vtt", "json", "rttm")


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "transcribe",
        help="caption audio or video files",
        description="Caption audio or video files: who said what, when. All channels of a file are used.",
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="audio or video, up to 16 channels")
    parser.add_argument("--format", choices=FORMATS, default="txt", help="default: txt")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="OUT",
        help="file to write, or with several files a folder (json: one file with all rows); default: stdout",
    )  # fmt: skip
    parser.add_argument("--realtime", action="store_true", help="send the audio at the speed of speech")
    parser.add_argument("--layout", choices=LAYOUTS, default="auto", help="what the channels are; default: auto")
    parser.add_argument("--system", default="", metavar="NAME", help="recogniser; default: the server's")
    add_vocabulary_option(parser)
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="files at once; default: 2")
    add_server_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """The command; 0 when every file was captioned and written, else 2."""
    files: list[Path] = args.files
    if problem := _problem(args):
        complain(problem)
        return FAILED
    readable = []
    for path in files:
        if path.is_file():
            readable.append(path)
        else:
            complain(f"{path}: {'not a file' if path.exists() else 'no such file'}")
    if not readable:
        return FAILED
    try:
        vocabulary = read_vocabulary(args.vocabulary)
        with server_at(args.server) as url:
            bodies = asyncio.run(_transcribe(readable, url, vocabulary, args))
    except (CrosstalkError, RuntimeError) as error:
        complain(error)
        return FAILED
    written = _write(bodies, args)
    return 0 if written and len(bodies) == len(files) else FAILED


def _problem(args: argparse.Namespace) -> str:
    """What is wrong with the arguments; empty when nothing is."""
    files: list[Path] = args.files
    output: Path | None = args.output
    if args.jobs < 1:
        return f"--jobs must be at least 1, got {args.jobs}"
    if len(files) > 1 and output is None and args.format not in ("txt", "json"):
        return f"several files as {args.format} need -o FOLDER"
    if len(files) > 1 and (output is not None or args.format == "json"):
        twice = [stem for stem, count in Counter(path.stem for path in files).items() if count > 1]
        if twice:
            return f"several files are called {twice[0]!r}; their results could not be told apart"
    if output is not None and _is_folder(args):
        if output.exists() and not output.is_dir():
            return f"{output}: several files need a folder to write to"
    elif output is not None and not output.parent.is_dir():
        return f"{output}: no such folder to write to"
    return ""


def _is_folder(args: argparse.Namespace) -> bool:
    several = len(args.files) > 1 and args.format != "json"
    return several or (args.output is not None and args.output.is_dir())


async def _transcribe(
    files: list[Path], url: str, vocabulary: tuple[str, ...], args: argparse.Namespace
) -> dict[Path, str]:
    """The transcript of each file that could be captioned, in the files' order; failures are said on stderr."""
    turnstile = asyncio.Semaphore(args.jobs)
    bodies: dict[Path, str] = {}
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[at]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as progress:

        async def one(path: Path) -> None:
            async with turnstile:
                task = progress.add_task(path.name, total=None, at="")
                try:
                    streamed = await stream_file(
                        url,
                        path,
                        realtime=args.realtime,
                        layout=args.layout,
                        system=args.system,
                        vocabulary=vocabulary,
                        on_open=lambda length_s: progress.update(task, total=length_s),
                        on_progress=lambda at_s: progress.update(task, completed=at_s, at=f"{at_s:.0f} s"),
                    )
                    body = await fetch_transcript(url, streamed.session_id, args.format)
                except CrosstalkError as error:
                    complain(error if str(path) in str(error) else f"{path}: {error}")
                    return
                progress.update(task, total=streamed.audio_s, completed=streamed.audio_s)
                for note in streamed.notes:
                    complain(f"{path}: {note}")
                bodies[path] = body.replace(streamed.session_id, _name(path, args.format))

        await asyncio.gather(*(one(path) for path in files))
    return {path: bodies[path] for path in files if path in bodies}


def _name(path: Path, format_name: str) -> str:
    """What stands for the file in its transcript: the stem, as far as the format can hold it."""
    if format_name == "json":
        return json.dumps(path.stem)[1:-1]
    if format_name == "rttm":  # fields are parted by blanks
        return "_".join(path.stem.split())
    return path.stem


def _write(bodies: dict[Path, str], args: argparse.Namespace) -> bool:
    """Put the transcripts where they belong; False when that failed."""
    output: Path | None = args.output
    try:
        if args.format == "json" and not (output is not None and output.is_dir()):
            rows: list[SegLstRow] = [row for body in bodies.values() for row in json.loads(body)]
            text = json.dumps(rows, ensure_ascii=False, indent=1) + "\n"
            if output is None:
                sys.stdout.write(text)
            else:
                output.write_text(text, encoding="utf-8")
        elif output is None:
            for path, body in bodies.items():
                heading = f"# {path}\n" if len(args.files) > 1 else ""
                sys.stdout.write(f"{heading}{body.rstrip()}\n" if body.strip() else heading)
        elif _is_folder(args):
            output.mkdir(parents=True, exist_ok=True)
            for path, body in bodies.items():
                (output / f"{path.stem}.{args.format}").write_text(body, encoding="utf-8")
        else:
            for body in bodies.values():
                output.write_text(body, encoding="utf-8")
    except OSError as error:
        complain(f"{output}: {error.strerror or error}")
        return False
    sys.stdout.flush()
    return True
