"""`crosstalk bench`: how many people may speak at once before captions come late.

A real server child, real sockets, audio paced in real time in frames of FRAME_MS. Each session begins at a place in
the audio and a phase within the frame of its own (seeded), so that they do not tick together. The load comes from one
event loop that packs slices of audio encoded beforehand; it reports its own share of a CPU.

A latency is from the moment a word's last sample was due, t0 + end_ms, to the arrival of the message that showed it.
A frame is sent when its last sample is due, as a microphone would, so up to FRAME_MS of each latency is framing.
Everything is bounded: seconds by `--seconds` and a grace for the end, runs by MAX_RUNS, sessions by MAX_SESSIONS.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.resources
import json
import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from client.media import MediaFile
from client.sdk import base_url
from server.commands.latency import LatencyMeter, Percentiles, percentiles
from server.commands.streaming import FAILED, complain, new_session_id
from server.errors import CrosstalkError
from server.local import LocalServer
from server.protocol import (
    AudioFormat,
    AudioFrame,
    Ended,
    Error,
    Gap,
    Start,
    Started,
    decode,
    end_message,
    pack_frame,
    start_message,
)

FRAME_MS = 100
MAX_SESSIONS = 64
MAX_RUNS = 10
DOUBLED_UP_TO = 8
"""From here on the search bisects: doubling up to MAX_SESSIONS first would take more than MAX_RUNS to the end."""
FLUSH_GRACE_S = 30.0
"""How long after its last audio a session may take to its `end`; later counts as not held."""


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "bench",
        help="measure sessions held, latency, CPU and memory",
        description="Stream N sessions of continuous speech in real time into a server and measure the captions.",
    )
    parser.add_argument("--sessions", type=int, default=10, metavar="N", help="sessions at once; default: 10")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="audio per session; default: 60")
    parser.add_argument("--json", type=Path, metavar="OUT.json", help="where to write the numbers")
    parser.add_argument("--system", default="", metavar="NAME", help="recogniser; default: the server's")
    parser.add_argument("--find-max", action="store_true", help="search the largest N that is held, from --sessions up")
    parser.add_argument(
        "--bound-ms", type=float, default=2000.0, metavar="MS", help="p95 of final that counts as held; default: 2000"
    )
    parser.add_argument("--server", metavar="URL", help="a running server; memory and CPU are then unknown")
    parser.add_argument("--file", type=Path, metavar="AUDIO", help="speech to send; default: a story read aloud")
    parser.add_argument("--seed", type=int, default=1, help="of the sessions' places and phases; default: 1")
    parser.set_defaults(run=run)


@dataclass(frozen=True)
class Speech:
    """Audio encoded once, repeated without end."""

    audio: AudioFormat
    pcm: bytes

    def frame(self, offset_samples: int, first_sample: int, samples: int) -> bytes:
        """Payload of the session whose sample 0 is at `offset_samples`."""
        size = self.audio.frame_bytes
        begin = (offset_samples + first_sample) * size % len(self.pcm)
        payload = self.pcm[begin : begin + samples * size]
        while len(payload) < samples * size:
            payload += self.pcm[: samples * size - len(payload)]
        return payload


@dataclass
class SessionRun:
    """What one session of the load saw."""

    latency: LatencyMeter = field(default_factory=LatencyMeter)
    sent_ms: int = 0
    captioned_ms: int = 0
    gaps: int = 0
    ended: str = ""
    problem: str = ""
    send_lag_ms: float = 0.0

    @property
    def is_whole(self) -> bool:
        """Whether all audio was taken and captioned to the end."""
        covered = self.captioned_ms >= self.sent_ms - 1  # ms round down
        return not self.problem and not self.gaps and self.ended == "finished" and covered


@dataclass(frozen=True)
class Usage:
    """Memory and CPU time of a process and all below it."""

    rss_mb: float
    cpu_s: float


def run(args: argparse.Namespace) -> int:
    """The command; 0 when it measured, 2 when it could not."""
    try:
        if not 1 <= args.sessions <= MAX_SESSIONS:
            raise CrosstalkError("too many sessions", expected=f"1-{MAX_SESSIONS}", received=str(args.sessions))
        if not 1 <= args.seconds <= 3600:
            raise CrosstalkError("no such length", expected="1-3600 s", received=f"{args.seconds} s")
        if args.json is not None and not args.json.parent.is_dir():
            raise CrosstalkError(f"{args.json}: no such folder to write to")
        speech = load_speech(args.file)
        report = find_max(speech, args) if args.find_max else measure(speech, args.sessions, args)
        Console().print(table_of(report))
        if args.json is not None:
            args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    except (CrosstalkError, RuntimeError, OSError) as error:
        complain(error)
        return FAILED
    return 0


def load_speech(path: Path | None) -> Speech:
    """The file's audio, whole, as int16; by default the story that comes with the moonshine-voice wheel."""
    if path is None:
        story = importlib.resources.files("moonshine_voice") / "assets" / "two_cities.wav"
        with importlib.resources.as_file(story) as local:
            return load_speech(local)
    with MediaFile(path) as media:
        limit = 600 * media.sample_rate_hz  # ten minutes are plenty, and bound the memory
        blocks, samples = [], 0
        for block in media.blocks():
            blocks.append(block if block.dtype == np.int16 else np.clip(block * 32768, -32768, 32767))
            samples += len(block)
            if samples >= limit:
                break
        if not samples:
            raise CrosstalkError(f"{path}: no audio in it")
        pcm = np.concatenate(blocks).astype("<i2").tobytes()
        return Speech(AudioFormat(media.sample_rate_hz, media.channels), pcm)


def find_max(speech: Speech, args: argparse.Namespace) -> dict[str, Any]:
    """The report of the largest N found to be held, with all runs under `runs`.

    Doubles from --sessions until not held or DOUBLED_UP_TO, then bisects; at most MAX_RUNS runs and MAX_SESSIONS
    sessions. When not even one session is held, the report is that of the last run, with `max_held` 0.
    """
    runs: list[dict[str, Any]] = []
    for sessions in search_order(args.sessions, runs):
        report = measure(speech, sessions, args)
        runs.append(report)
        Console(stderr=True).print(f"{sessions} sessions: {'held' if report['held'] else 'not held'}")
    held = [report for report in runs if report["held"]]
    best = max(held, key=lambda report: report["sessions"]) if held else runs[-1]
    summary = [{key: report[key] for key in ("sessions", "held", "first_partial_ms", "final_ms")} for report in runs]
    return {**best, "max_held": best["sessions"] if held else 0, "runs": summary}


def search_order(first: int, runs: list[dict[str, Any]]) -> Iterator[int]:
    """Numbers of sessions to try; looks at the reports that the caller adds to `runs` in between."""
    low, high, sessions = 0, MAX_SESSIONS + 1, first
    while high - low > 1 and len(runs) < MAX_RUNS:
        yield sessions
        if runs[-1]["held"]:
            low = sessions
        else:
            high = sessions
        doubling = 0 < low < DOUBLED_UP_TO and high > MAX_SESSIONS
        sessions = low * 2 if doubling else (low + high) // 2


def measure(speech: Speech, sessions: int, args: argparse.Namespace) -> dict[str, Any]:
    """One run with a server of its own (unless --server), as JSON numbers."""
    if args.server is not None:
        return asyncio.run(_measure(speech, sessions, base_url(args.server, "ws"), None, args))
    with LocalServer({"CROSSTALK_MAX_SESSIONS": str(max(sessions, 32))}) as server:
        return asyncio.run(_measure(speech, sessions, base_url(server.url, "ws"), server.pid, args))


async def _measure(
    speech: Speech, sessions: int, url: str, pid: int | None, args: argparse.Namespace
) -> dict[str, Any]:
    if pid is not None:
        # Models load with the first audio: without this the idle memory would lack them, and the first run pay for it.
        await _session(speech, url, SessionRun(), seconds=2.0, offset=0, delay_s=0.0, system=args.system)
        await asyncio.sleep(0.5)
    idle = None if pid is None else usage_of(pid)
    draw = random.Random(args.seed)
    length_samples = len(speech.pcm) // speech.audio.frame_bytes
    runs = [SessionRun() for _ in range(sessions)]
    peak = _Peak(pid)
    own_cpu_s, begun = time.process_time(), time.perf_counter()
    watcher = asyncio.create_task(peak.watch(), name="watch memory")
    await asyncio.gather(
        *(
            _session(
                speech,
                url,
                one,
                seconds=args.seconds,
                offset=draw.randrange(length_samples),
                delay_s=draw.uniform(0, 1),
                system=args.system,
            )
            for one in runs
        )
    )
    watcher.cancel()
    await asyncio.gather(watcher, return_exceptions=True)
    wall_s = time.perf_counter() - begun
    own_cpu_share = (time.process_time() - own_cpu_s) / wall_s
    after = None if pid is None else usage_of(pid)
    report = report_of(runs, bound_ms=args.bound_ms, idle=idle, after=after, peak_rss_mb=peak.rss_mb)
    return {**report, "generator_cpu_share": round(own_cpu_share, 3), "seconds": args.seconds}


def report_of(
    runs: list[SessionRun], *, bound_ms: float, idle: Usage | None, after: Usage | None, peak_rss_mb: float
) -> dict[str, Any]:
    """The numbers of one run. Memory and CPU are null where the server is not our child."""
    final_ms = percentiles([value for one in runs for value in one.latency.final_ms])
    audio_s = sum(one.sent_ms for one in runs) / 1000
    in_time = final_ms["p95"] is not None and final_ms["p95"] <= bound_ms
    problems = sorted({_problem_of(one) for one in runs if not one.is_whole})
    report: dict[str, Any] = {
        "sessions": len(runs),
        "held": all(one.is_whole for one in runs) and in_time,
        "bound_ms": bound_ms,
        "first_partial_ms": percentiles([value for one in runs for value in one.latency.first_ms]),
        "final_ms": final_ms,
        "words": sum(len(one.latency.final_ms) for one in runs),
        "rss_mb": None,
        "rss_mb_idle": None,
        "rss_mb_per_session": None,
        "cpu_seconds_per_audio_second": None,
        "send_lag_ms": round(max((one.send_lag_ms for one in runs), default=0.0), 1),
        "problems": problems,
    }
    if idle is not None and after is not None:
        rss_mb = max(peak_rss_mb, after.rss_mb)
        report["rss_mb"] = round(rss_mb, 1)
        report["rss_mb_idle"] = round(idle.rss_mb, 1)
        report["rss_mb_per_session"] = round((rss_mb - idle.rss_mb) / len(runs), 2)
        report["cpu_seconds_per_audio_second"] = round((after.cpu_s - idle.cpu_s) / audio_s, 4) if audio_s else None
    return report


def _problem_of(one: SessionRun) -> str:
    if one.problem:
        return one.problem
    if one.gaps:
        return f"{one.gaps} gaps"
    if one.ended != "finished":
        return f"ended: {one.ended}" if one.ended else "no end came"
    return f"captioned {one.captioned_ms} of {one.sent_ms} ms"


async def _session(
    speech: Speech, url: str, one: SessionRun, *, seconds: float, offset: int, delay_s: float, system: str
) -> None:
    """One speaking session from start to `end`; what goes wrong is noted in `one`."""
    await asyncio.sleep(delay_s)
    try:
        async with asyncio.timeout(seconds + FLUSH_GRACE_S):
            async with connect(f"{url}/v1/stream", compression=None, ping_timeout=60, proxy=None) as socket:
                await socket.send(start_message(Start(speech.audio, session_id=new_session_id("bench"), system=system)))
                first = decode(str(await socket.recv(decode=True)))
                if isinstance(first, Error):
                    one.problem = f"refused: {first.code}"
                    return
                if not isinstance(first, Started):
                    one.problem = f"expected started, got {first.type}"
                    return
                t0 = time.perf_counter()
                listener = asyncio.create_task(_listen(socket, one, t0), name="bench listen")
                try:
                    await _speak(socket, speech, one, t0, seconds, offset)
                    await listener
                finally:
                    listener.cancel()
                    await asyncio.gather(listener, return_exceptions=True)
    except TimeoutError:
        one.problem = one.problem or f"not finished {FLUSH_GRACE_S:.0f} s after its audio"
    except (OSError, WebSocketException) as error:
        one.problem = one.problem or f"connection lost: {error}"
    except CrosstalkError as error:
        one.problem = one.problem or str(error)


async def _speak(
    socket: ClientConnection, speech: Speech, one: SessionRun, t0: float, seconds: float, offset: int
) -> None:
    rate_hz = speech.audio.sample_rate_hz
    total_samples = round(seconds * rate_hz)
    step = rate_hz * FRAME_MS // 1000
    for frame_seq, first_sample in enumerate(range(0, total_samples, step)):
        samples = min(step, total_samples - first_sample)
        due = t0 + (first_sample + samples) / rate_hz
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        payload = speech.frame(offset, first_sample, samples)
        await socket.send(pack_frame(AudioFrame(frame_seq, first_sample, payload)))
        one.send_lag_ms = max(one.send_lag_ms, (time.perf_counter() - due) * 1000)
        one.sent_ms = (first_sample + samples) * 1000 // rate_hz
    await socket.send(end_message())


async def _listen(socket: ClientConnection, one: SessionRun, t0: float) -> None:
    async for raw in socket:
        now_ms = (time.perf_counter() - t0) * 1000
        message = decode(raw if isinstance(raw, str) else raw.decode())
        one.latency.take(message, now_ms)
        if isinstance(message, Gap):
            one.gaps += 1
        elif isinstance(message, Error):
            one.problem = f"error: {message.code}: {message.message}"
        elif isinstance(message, Ended):
            one.ended, one.captioned_ms = message.reason, message.audio_ms
            return


@dataclass
class _Peak:
    """Largest memory seen, looked at once a second."""

    pid: int | None
    rss_mb: float = 0.0

    async def watch(self) -> None:
        while self.pid is not None:
            self.rss_mb = max(self.rss_mb, usage_of(self.pid).rss_mb)
            await asyncio.sleep(1)


def usage_of(pid: int) -> Usage:
    """Resident memory and CPU time so far of a process and its descendants, from /proc (Linux).

    Raises:
        CrosstalkError: no such process, or no /proc.
    """
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    with contextlib.suppress(OSError):
        for entry in os.scandir("/proc"):
            if entry.name.isdecimal():
                with contextlib.suppress(OSError):
                    # The command's name, in brackets, may hold anything; the numbers stand after the last bracket.
                    values = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
                    parents[int(entry.name)], ticks[int(entry.name)] = int(values[1]), int(values[11]) + int(values[12])
    if pid not in parents:
        raise CrosstalkError(f"the memory of process {pid} cannot be read from /proc")
    family = {pid}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    rss_kb = 0
    for member in family:
        with contextlib.suppress(OSError, ValueError, IndexError):
            status = Path(f"/proc/{member}/status").read_text()
            rss_kb += int(status.partition("VmRSS:")[2].split()[0])
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    return Usage(rss_kb / 1024, sum(ticks[member] for member in family) / ticks_per_s)


def table_of(report: dict[str, Any]) -> Table:
    """The report to read."""
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    verdict = "held" if report["held"] else "NOT held"
    table.add_row("sessions", f"{report['sessions']} {verdict} (p95 final <= {report['bound_ms']:.0f} ms)")
    if "max_held" in report:
        table.add_row("most sessions held", str(report["max_held"]))
    for name, key in (("first partial", "first_partial_ms"), ("final", "final_ms")):
        latency: Percentiles = report[key]
        shown = "/".join("-" if value is None else f"{value:.0f}" for value in latency.values())
        table.add_row(f"{name} p50/p95/p99", f"{shown} ms")
    if report["rss_mb"] is not None:
        table.add_row("server memory", f"{report['rss_mb']:.0f} MB, {report['rss_mb_per_session']:.1f} per session")
        table.add_row("server CPU", f"{report['cpu_seconds_per_audio_second']} s per second of audio")
    table.add_row("load generator CPU", f"{report['generator_cpu_share']:.0%}, late by {report['send_lag_ms']:.0f} ms")
    for problem in report["problems"]:
        table.add_row("problem", problem)
    return table
