"""What the commands share: a server to talk to, and one media file streamed through it.

Files take the same WebSocket path as live audio; nothing here reads a whole file or asks for a whole-file result.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from client.media import MediaFile
from client.sdk import CaptionClient, base_url
from server.errors import BadMessage, CrosstalkError, SessionError
from server.local import LocalServer
from server.protocol import (
    SESSION_ID,
    AnyServerMessage,
    AudioFormat,
    Ended,
    Layout,
    Warning,  # noqa: A004
    check_vocabulary,
)
from server.transcript import Transcript

FAILED = 2
"""Exit code of a command that could not do all it was asked to."""

LAYOUTS: tuple[Layout, ...] = get_args(Layout)


def complain(message: object) -> None:
    """One line on stderr, under the command's name."""
    print(f"crosstalk: {message}", file=sys.stderr, flush=True)


def add_server_option(parser: argparse.ArgumentParser) -> None:
    """`--server URL`; without it the command runs a server of its own."""
    parser.add_argument("--server", metavar="URL", help="a running server (default: one for this command alone)")


def add_vocabulary_option(parser: argparse.ArgumentParser) -> None:
    """`--vocabulary FILE`, see `read_vocabulary`."""
    parser.add_argument(
        "--vocabulary", type=Path, metavar="FILE.txt", help="names and terms to be favoured, one a line, 200 at most"
    )


def read_vocabulary(path: Path | None) -> tuple[str, ...]:
    """Names and terms, one a line; empty lines don't count. None gives none.

    Raises:
        BadMessage: no such file, not UTF-8 text, or more or longer ones than a session takes.
    """
    if path is None:
        return ()
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise BadMessage(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadMessage(f"{path}: not text", expected="UTF-8, one name or term a line", received=str(error)) from error
    return check_vocabulary([line.strip() for line in lines if line.strip()])


@contextlib.contextmanager
def server_at(url: str | None, environment: dict[str, str] | None = None) -> Iterator[str]:
    """Base URL of the given server, or of a child server that lives as long as the block.

    Raises:
        ServerUnreachable: `url` is not an address.
        RuntimeError: the child did not start.
    """
    if url is not None:
        yield base_url(url)
        return
    with LocalServer(environment) as server:
        yield server.url


def new_session_id(stem: str) -> str:
    """A session id that shows the file's name and is not taken."""
    shown = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-_")[:48]
    session_id = f"{shown or 'file'}-{secrets.token_hex(4)}"
    assert SESSION_ID.fullmatch(session_id), session_id
    return session_id


@dataclass
class StreamedFile:
    """What came of one file: the session that holds its transcript, and what is to be known about it."""

    session_id: str
    transcript: Transcript = field(default_factory=Transcript)
    audio_s: float = 0.0
    channels: int = 0
    notes: list[str] = field(default_factory=list)


async def stream_file(
    url: str,
    path: Path,
    *,
    realtime: bool = False,
    layout: Layout = "auto",
    system: str = "",
    vocabulary: tuple[str, ...] = (),
    channels: int | None = None,
    on_message: Callable[[AnyServerMessage, float], None] | None = None,
    on_open: Callable[[float | None], None] | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> StreamedFile:
    """Send a file and take its captions until the server's `end`.

    Args:
        url: base URL of the server.
        path: any file that `client.media` reads.
        realtime: each block is sent when its last sample would have been spoken; else as fast as the server takes it.
        vocabulary: names and terms to be favoured.
        channels: send only the first so many of a file that has more.
        on_message: called with every message and the ms since the first sample's moment.
        on_open: called once with the length in s if known.
        on_progress: called with the seconds that the server has acknowledged.

    Raises:
        CrosstalkError: the file cannot be read, the server is not there, or it refused.
    """
    with await asyncio.to_thread(MediaFile, path) as media:
        if on_open is not None:
            on_open(media.duration_s)
        audio = AudioFormat(
            media.sample_rate_hz, min(media.channels, channels or media.channels), media.encoding, layout
        )
        result = StreamedFile(new_session_id(path.stem), channels=audio.channels)
        async with CaptionClient(
            url,
            audio=audio,
            session_id=result.session_id,
            title=_title(path),
            system=system,
            vocabulary=vocabulary,
        ) as stream:
            begun = time.perf_counter()
            feeder = asyncio.create_task(_feed(stream, media, begun if realtime else None), name=f"feed {path.name}")
            ended: Ended | None = None
            try:
                async for message in stream:
                    result.transcript.apply(message)
                    if on_message is not None:
                        on_message(message, (time.perf_counter() - begun) * 1000)
                    if on_progress is not None:
                        on_progress(stream.acked_samples / media.sample_rate_hz)
                    if isinstance(message, Warning):
                        result.notes.append(message.message or message.code)
                    elif isinstance(message, Ended):
                        ended = message
            except BaseException:
                feeder.cancel()
                await asyncio.gather(feeder, return_exceptions=True)
                raise
            if ended is not None and ended.reason != "finished":
                feeder.cancel()
                await asyncio.gather(feeder, return_exceptions=True)
                raise SessionError(f"{path}: the server ended the session early ({ended.reason})")
            await feeder
            result.audio_s = stream.sent_samples / media.sample_rate_hz
    result.notes += [f"{g.start_ms / 1000:.1f}-{g.end_ms / 1000:.1f} s: {g.reason}" for g in result.transcript.gaps]
    if media.damaged_packets:
        result.notes.append(f"{media.damaged_packets} damaged packets were left out")
    return result


async def _feed(stream: CaptionClient, media: MediaFile, begun: float | None) -> None:
    """Send all blocks, decoded on a worker thread, then finish; also after a failure, so that the reader ends."""
    blocks = media.blocks()
    try:
        while (block := await asyncio.to_thread(next, blocks, None)) is not None:
            if begun is not None:
                due = begun + (stream.sent_samples + len(block)) / media.sample_rate_hz
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
            await stream.send(block[:, : stream.audio.channels])
    finally:
        with contextlib.suppress(CrosstalkError):
            await stream.finish()


def _title(path: Path) -> str:
    return "".join(c for c in path.stem if c.isprintable())[:64].strip()
