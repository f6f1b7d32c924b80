"""`crosstalk mic`: this machine's microphones, captioned in the terminal."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from client.capture import Capture, InputDevice, choose_device, list_devices
from client.sdk import CaptionClient, fetch_transcript
from client.terminal import CaptionTerminal
from server.commands.streaming import (
    FAILED,
    LAYOUTS,
    add_server_option,
    add_vocabulary_option,
    complain,
    new_session_id,
    read_vocabulary,
    server_at,
)
from server.errors import BadMessage, CrosstalkError
from server.protocol import AudioFormat, Ended

Geometry = tuple[tuple[float, float, float], ...]


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "mic",
        help="caption the microphone",
        description="Caption this machine's microphones, all channels of a device. Ctrl-C finishes.",
    )
    parser.add_argument("--list-devices", action="store_true", help="list the microphones and stop")
    parser.add_argument("--device", metavar="N|NAME", help="number or part of the name; default: the system's")
    parser.add_argument("--channels", type=int, metavar="N", help="the device's first N channels; default: all")
    parser.add_argument("--layout", choices=LAYOUTS, default="auto", help="what the channels are; default: auto")
    parser.add_argument(
        "--geometry", type=Path, metavar="FILE.json", help="positions in metres, one [x, y, z] for each channel"
    )
    parser.add_argument("--system", default="", metavar="NAME", help="recogniser; default: the server's")
    add_vocabulary_option(parser)
    parser.add_argument("--title", default="", help="name of the meeting")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="OUT.txt",
        help="where to write the transcript; default: a new file here, none when --server keeps it",
    )  # fmt: skip
    add_server_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """The command; 0 after Ctrl-C, 2 when there is no device, no server, or the session ended early."""
    try:
        devices = list_devices()
        if args.list_devices:
            print("\n".join(map(_described, devices)) or "no microphone found")
            return 0
        device = choose_device(devices, args.device)
        capture = Capture(device, channels=args.channels)
        geometry = None if args.geometry is None else read_geometry(args.geometry)
        audio = AudioFormat(capture.sample_rate_hz, capture.channels, "s16le", args.layout, geometry)
        vocabulary = read_vocabulary(args.vocabulary)
        with server_at(args.server) as url:
            return asyncio.run(_caption(capture, audio, vocabulary, url, args))
    except (CrosstalkError, RuntimeError, OSError) as error:
        complain(error)
        return FAILED


def read_geometry(path: Path) -> Geometry:
    """Microphone positions from a JSON file; their number and range are checked with the rest of `start`.

    Raises:
        BadMessage: no such file, or not rows of three numbers.
    """
    expected = "a JSON list with [x, y, z] in metres for each channel"
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return tuple((float(x), float(y), float(z)) for x, y, z in rows)
    except OSError as error:
        raise BadMessage(f"{path}: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise BadMessage(f"{path}: not microphone positions", expected=expected, received=str(error)) from error


def _described(device: InputDevice) -> str:
    mark = "*" if device.is_default else " "
    return f"{mark}{device.index:3d}  {device.name}  ({device.channels} channels, {device.sample_rate_hz} Hz)"


async def _caption(
    capture: Capture, audio: AudioFormat, vocabulary: tuple[str, ...], url: str, args: argparse.Namespace
) -> int:
    started = datetime.now().astimezone()
    session_id = new_session_id(f"mic-{started:%Y%m%d-%H%M%S}")
    ended: Ended | None = None
    async with (
        CaptionClient(
            url, audio=audio, session_id=session_id, title=args.title, system=args.system, vocabulary=vocabulary
        ) as stream,
        capture,
    ):
        # The first Ctrl-C stops the microphone and lets the captions come to their end; the second one is not caught.
        loop = asyncio.get_running_loop()

        def stop() -> None:
            loop.remove_signal_handler(signal.SIGINT)
            capture.stop()

        loop.add_signal_handler(signal.SIGINT, stop)
        print(f"listening to {capture.device.name}, session {session_id}; Ctrl-C finishes", file=sys.stderr)
        feeder = asyncio.create_task(_feed(stream, capture), name="feed microphone")
        try:
            with CaptionTerminal() as terminal:
                async for message in stream:
                    terminal.show(message)
                    if isinstance(message, Ended):
                        ended = message
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            capture.stop()
            await asyncio.gather(feeder, return_exceptions=True)
    for what, count in (
        ("blocks were dropped because this machine was too slow", capture.dropped_blocks),
        ("times the device lost audio", capture.overflows),
        ("samples were dropped because the server was away for too long", stream.dropped_samples),
    ):
        if count:
            complain(f"{count} {what}")
    await _keep(url, session_id, args, started)
    return 0 if ended is not None and ended.reason == "finished" else FAILED


async def _feed(stream: CaptionClient, capture: Capture) -> None:
    async for block in capture:
        stream.send_nowait(block.pcm, first_sample=block.first_sample)
    await stream.finish()


async def _keep(url: str, session_id: str, args: argparse.Namespace, started: datetime) -> None:
    """Write the transcript unless the server keeps it, and say where it is."""
    output: Path | None = args.output
    if output is None and args.server is None:
        output = Path(f"crosstalk-{started:%Y%m%d-%H%M%S}.txt")
    if output is None:
        where = f"{url}/v1/sessions/{session_id}/transcript?format=txt"
    else:
        await asyncio.to_thread(output.write_text, await fetch_transcript(url, session_id, "txt"), encoding="utf-8")
        where = str(output)
    print(f"transcript: {where}", file=sys.stderr)
