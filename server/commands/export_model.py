"""`crosstalk export-model`: a training run's checkpoint as the files that the server loads.

The export itself, `python -m onnx_export.release`, needs torch and runs in a process of its own: the server's packages
never import torch.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

from server.inference import moonshine_assets

FAILED = 2


def add_parser(subparsers: Any) -> None:
    """Register the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "export-model",
        help="write ONNX graphs from a training checkpoint",
        description="Hold the graphs to the trained nets, quantise them, report what that costs, and write"
        " encoder.onnx, decoder_tuned.onnx and CARD.md.",
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="model.pt of a training run")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write to")
    parser.add_argument("--card", type=Path, metavar="JSON", help="data, licence and scores for the card")
    parser.add_argument(
        "--speech", type=Path, nargs="+", default=[], metavar="FILE", help="recordings to measure ranges on"
    )
    parser.add_argument("--commit", default="", help="commit of the code that trained the checkpoint")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """The command; 0 when everything was written."""
    if importlib.util.find_spec("torch") is None:
        print("exporting needs torch: pip install 'crosstalk-captions[train]'", file=sys.stderr)
        return FAILED
    if not args.checkpoint.is_file():
        print(f"{args.checkpoint}: no such checkpoint", file=sys.stderr)
        return FAILED
    arguments = [str(args.checkpoint), "--assets", str(moonshine_assets()), "--out", str(args.out)]
    arguments += ["--commit", args.commit] if args.commit else []
    arguments += ["--card", str(args.card)] if args.card else []
    arguments += ["--speech", *map(str, args.speech)] if args.speech else []
    return subprocess.run([sys.executable, "-m", "onnx_export.release", *arguments], check=False).returncode
