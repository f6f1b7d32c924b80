"""`crosstalk`: arguments to commands."""

from __future__ import annotations

import argparse
import importlib
import sys
from importlib.metadata import version

COMMANDS = ("serve", "transcribe", "mic", "watch", "evaluate", "bench", "train", "export-model")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="crosstalk",
        description="Live captions for meetings that say who speaks, also when two people speak at once.",
    )
    parser.add_argument("--version", action="version", version=f"crosstalk {version('crosstalk-captions')}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        importlib.import_module(f"server.commands.{name.replace('-', '_')}").add_parser(subparsers)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `crosstalk` and `python -m server`; the exit code."""
    args = build_parser().parse_args(arguments)
    try:
        return int(args.run(args))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 141
