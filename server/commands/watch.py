"""`crosstalk watch`: somebody else's session, captioned in this terminal."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from typing import Any

from client.sdk import watch
from client.terminal import CaptionTerminal
from server.commands.streaming import FAILED, complain
from server.config import Settings
from server.errors import CrosstalkError

DEFAULT_SERVER = f"http://127.0.0.1:{Settings.port}"


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "watch", help="show a session's captions", description="Show a session's captions: its history, then live."
    )
    parser.add_argument("session", metavar="SESSION", help="id of the session")
    parser.add_argument("--server", metavar="URL", default=DEFAULT_SERVER, help=f"default: {DEFAULT_SERVER}")
    parser.add_argument(
        "--since", type=int, default=0, metavar="SEQ", help="leave out history up to this message; default: 0, all"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """The command; 0 when the session ended or Ctrl-C was pressed, 2 when it could not be watched."""
    try:
        asyncio.run(_watch(args.server, args.session, args.since))
    except KeyboardInterrupt:
        return 0
    except CrosstalkError as error:
        complain(error)
        return FAILED
    return 0


async def _watch(url: str, session_id: str, since: int) -> None:
    with CaptionTerminal() as terminal:
        async with contextlib.aclosing(watch(url, session_id, since)) as messages:
            async for message in messages:
                terminal.show(message)
