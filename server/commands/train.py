"""`crosstalk train`: what training needs, made from corpora and the installed wheel; and the training itself.

`prepare` runs on the server's own graphs. `run` starts `python -m streaming_models.train`, which needs torch (extra
`train`); its arguments are passed on.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from onnx_export.pretrained import pretrained_decoder, pretrained_encoder
from server.inference import MoonshineGraphs, load_voices, moonshine_assets
from streaming_models.data.corpus import CorpusError, FloatArray, Utterance, read_manifest
from streaming_models.data.speech_bank import write_bank
from streaming_models.data.windows import build_rooms
from streaming_models.fbank import SAMPLE_RATE_HZ, centred, fbank
from streaming_models.moonshine import Moonshine
from streaming_models.speakers import Embed, unit_embedding
from streaming_models.stable_prefix import ReadWord, StablePrefix

VOICE_S = 12.0
"""Of each speaker is embedded so much: 0.6 s of one core."""
LEAST_VOICE_S = 1.0


def add_parser(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser("train", help="prepare speech and train the recogniser")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    prepare = actions.add_parser("prepare", help="label corpora, simulate rooms, unpack the pretrained weights")
    prepare.add_argument("corpus", type=Path, nargs="+", help="folders with Opus shards and manifests")
    prepare.add_argument("--out", type=Path, required=True, help="folder for the results")
    prepare.add_argument(
        "--hold-out", action="append", default=[], metavar="GLOB", help="manifests kept for validation, by name"
    )
    prepare.add_argument("--rooms", type=int, default=160, help="rooms to simulate")
    prepare.add_argument("--seed", type=int, default=1, help="decides the rooms")
    prepare.set_defaults(run=run_prepare)
    # No character marks an option here: all of them are the training's own.
    training = actions.add_parser(
        "run", help="train; all arguments go to streaming_models.train", add_help=False, prefix_chars="\0"
    )
    training.add_argument("arguments", nargs=argparse.REMAINDER)
    training.set_defaults(run=run_training)


def run_prepare(args: argparse.Namespace) -> int:
    """Write `train.*`, `held.*`, `voices.npz`, `rooms.npz`, `encoder.npz` and `decoder.npz`."""
    assets = moonshine_assets()
    graphs = MoonshineGraphs(assets)
    moonshine = Moonshine(graphs, graphs.table)

    def read(samples: FloatArray) -> tuple[ReadWord, ...]:
        reading = moonshine.read(samples)
        return StablePrefix(0).words_of(reading, graphs.table, 0, len(samples))

    args.out.mkdir(parents=True, exist_ok=True)
    try:
        manifests = sorted(path for folder in args.corpus for path in folder.rglob("*.jsonl"))
        held = [path for path in manifests if any(fnmatch(path.name, glob) for glob in args.hold_out)]
        for name, chosen in (("train", [p for p in manifests if p not in held]), ("held", held)):
            kept, dropped = write_bank(args.out / name, _utterances(chosen), read, graphs.table)
            print(f"{name}: {len(chosen)} manifests, {kept} utterances kept, {dropped} left out")
        speakers, vectors = speaker_voices(_utterances(manifests), load_voices().embed)
    except CorpusError as error:
        print(error, file=sys.stderr)
        return 1
    np.savez(args.out / "voices.npz", speakers=speakers, voices=vectors)
    print(f"voices: {len(speakers)} speakers")
    build_rooms(args.rooms, args.seed).save(args.out / "rooms.npz")
    np.savez(args.out / "encoder.npz", **pretrained_encoder(assets))  # type: ignore[arg-type]
    np.savez(args.out / "decoder.npz", **pretrained_decoder(assets))  # type: ignore[arg-type]
    return 0


def speaker_voices(utterances: Iterable[Utterance], embed: Embed) -> tuple[list[str], FloatArray]:
    """Every speaker's voice, from `VOICE_S` of their first utterances: names (K) and unit vectors (K, 256).

    Raises:
        CorpusError: a shard cannot be read.
    """
    heard_s: dict[str, float] = {}
    sums: dict[str, FloatArray] = {}
    for utterance in utterances:
        left_s = VOICE_S - heard_s.get(utterance.speaker, 0.0)
        if left_s < LEAST_VOICE_S or utterance.duration_s < LEAST_VOICE_S:
            continue
        rows = centred(fbank(utterance.audio()[: round(left_s * SAMPLE_RATE_HZ)]))
        seconds = np.float32(min(left_s, utterance.duration_s))
        voice = seconds * unit_embedding(embed(rows, np.ones(len(rows), np.float32)))
        sums[utterance.speaker] = sums.get(utterance.speaker, np.zeros_like(voice)) + voice
        heard_s[utterance.speaker] = heard_s.get(utterance.speaker, 0.0) + float(seconds)
    names = sorted(sums)
    vectors = np.stack([unit_embedding(sums[name]) for name in names]) if names else np.zeros((0, 256), np.float32)
    return names, vectors


def run_training(args: argparse.Namespace) -> int:
    """Train in a process of its own: the server's packages never import torch."""
    if importlib.util.find_spec("torch") is None:
        print("training needs torch: pip install 'crosstalk-captions[train]'", file=sys.stderr)
        return 1
    return subprocess.run([sys.executable, "-m", "streaming_models.train", *args.arguments], check=False).returncode


def _utterances(manifests: Iterable[Path]) -> Iterable[Utterance]:
    return (utterance for path in manifests for utterance in read_manifest(path))
