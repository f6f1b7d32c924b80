"""Train the network that takes one voice out of several (`nets.extraction`), from corpora to a checkpoint.

Run: python -m streaming_models.train_extraction --corpus DIR [DIR ...] --rooms ROOMS.npz --out DIR [--steps N]
[--resume]. Corpora are folders of Opus shards with manifests; no texts are needed. `--rooms` is what `crosstalk train
prepare` writes. Needs torch (extra `train`); the same on a CPU and a GPU, in bfloat16 where that is faster.

The loss is the squared difference of magnitudes to the power of 0.5, masked mixture against the voice with its early
echo: soft sounds count more than their energy. Frames in which people overlap count most. A twentieth of the speakers
and of the rooms is kept for validation. A step's windows depend on the seed and the step alone, so a resumed run sees
what a whole one would.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from streaming_models.data.corpus import FloatArray, read_corpus
from streaming_models.data.extraction_windows import WINDOW_HOPS, ExtractionSampler, ExtractionWindow, SpeechOf
from streaming_models.data.windows import RoomBank
from streaming_models.nets.extraction import ExtractionNet
from streaming_models.short_time import BINS, whole_spectra_of
from streaming_models.train import write

WANTED = 2
"""Voices of each window that are asked for."""
LEAST_ALONE_HOPS = 20
"""Whoever is known to be alone for less is not asked for."""
POWER = 0.5
PLAIN_WEIGHT = 0.15
"""Of frames without overlap, which are easy and most of all."""
FLOOR = 1e-6
SHORTEST_S, LONGEST_S = 1.0, 30.0
HELD_OUT = 20
"""One speaker, and one room, in so many is kept for validation."""
LOG_STEPS, SAVE_STEPS = 50, 250
VALIDATION_BATCHES = 6


@dataclass(frozen=True)
class ExtractionSettings:
    """A run: steps of so many windows; the rate rises for `warmup` steps and falls along a cosine."""

    steps: int = 5_000
    windows: int = 8
    rate: float = 1e-3
    warmup: int = 100
    seed: int = 1

    def rate_at(self, step: int) -> float:
        """The rate of a step."""
        cosine = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.rate * min(1.0, (step + 1) / self.warmup) * (0.98 * cosine + 0.02)


def load_speech(folders: list[Path]) -> tuple[SpeechOf, SpeechOf]:
    """Every speaker's utterances, for training and for validation.

    Raises:
        CorpusError: a folder or shard cannot be read.
    """
    found: tuple[dict[str, list[Any]], dict[str, list[Any]]] = {}, {}
    for folder in folders:
        for utterances in read_corpus(folder).values():
            for utterance in utterances:
                if SHORTEST_S <= utterance.duration_s <= LONGEST_S:
                    digest = hashlib.sha256(utterance.speaker.encode()).digest()
                    part = found[int.from_bytes(digest[:4], "big") % HELD_OUT == 0]
                    pcm = (np.clip(utterance.audio(), -1, 1) * 32767).astype(np.int16)
                    part.setdefault(utterance.speaker, []).append(pcm)
    return found


def split_rooms(rooms: RoomBank) -> tuple[RoomBank, RoomBank]:
    """Rooms for training and for validation; a single one serves both."""
    last = max(1, len(rooms.far) // HELD_OUT)
    kept = slice(None, -last) if len(rooms.far) > 1 else slice(None)
    return RoomBank(rooms.far[kept], rooms.near[kept]), RoomBank(rooms.far[-last:], rooms.near[-last:])


def collate(windows: list[ExtractionWindow]) -> dict[str, Tensor]:
    """Magnitudes of mixtures (B, T, BINS) and wanted voices (B, K, T, BINS), marks (B, K, T), weights of voices (B, K)
    and frames (B, T)."""
    size = len(windows)
    voices = np.zeros((size, WANTED, WINDOW_HOPS, BINS), np.float32)
    wanted = np.zeros((size, WANTED, WINDOW_HOPS), np.float32)
    others, weights = np.zeros_like(wanted), np.zeros((size, WANTED), np.float32)
    for b, window in enumerate(windows):
        count = min(WANTED, len(window.voices))
        voices[b, :count] = _magnitudes(window.voices[:count])
        for k in range(count):
            wanted[b, k] = window.alone[k]
            others[b, k] = np.delete(window.alone, k, axis=0).any(axis=0)
            weights[b, k] = window.alone[k].sum() >= LEAST_ALONE_HOPS
    arrays = {
        "mix": _magnitudes(np.stack([window.mix for window in windows])),
        "voices": voices,
        "wanted": wanted,
        "others": others,
        "weights": weights,
        "frames": np.stack([np.where(window.overlap, 1.0, PLAIN_WEIGHT) for window in windows]).astype(np.float32),
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _magnitudes(sound: FloatArray) -> FloatArray:
    """(K, S) -> (K, S / HOP_SAMPLES, BINS)."""
    magnitudes: FloatArray = np.abs(whole_spectra_of(sound))[:, :WINDOW_HOPS]
    return magnitudes


@dataclass
class ExtractionBatches(Dataset[dict[str, Tensor]]):
    """The batches of a run from step `first` on."""

    sampler: ExtractionSampler
    settings: ExtractionSettings
    first: int = 0

    def __len__(self) -> int:
        return self.settings.steps - self.first

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        seed = (self.settings.seed * 1_000_003 + self.first + index) * self.settings.windows
        return collate([self.sampler.draw(seed + k) for k in range(self.settings.windows)])


def loss_of(net: ExtractionNet, batch: dict[str, Tensor]) -> Tensor:
    """Mean over the wanted voices."""
    device = next(net.parameters()).device
    batch = {name: value.to(device) for name, value in batch.items()}
    with torch.autocast(device.type, torch.bfloat16):
        masks = net(batch["mix"], batch["wanted"], batch["others"])
    found = (masks.float() * batch["mix"][:, None] + FLOOR) ** POWER
    frames = batch["frames"][:, None]
    error = (found - (batch["voices"] + FLOOR) ** POWER).square().mean(3)
    error = (error * frames).sum(2) / frames.sum(2)
    mean: Tensor = (error * batch["weights"]).sum() / batch["weights"].sum().clamp(min=1.0)
    return mean


def train(
    net: ExtractionNet,
    data: ExtractionBatches,
    held: ExtractionSampler,
    out: Path,
    resume: bool = False,
    workers: int = 1,
) -> None:
    """Run or continue a run; writes `model.pt` (weights, to export), `resume.pt` and `log.jsonl` into `out`."""
    settings = data.settings
    net.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    optimiser = torch.optim.AdamW(net.parameters(), settings.rate, betas=(0.9, 0.99), weight_decay=1e-3)
    if resume and (out / "resume.pt").exists():
        saved = torch.load(out / "resume.pt", weights_only=True)
        net.load_state_dict(saved["net"])
        optimiser.load_state_dict(saved["optimiser"])
        data.first = saved["step"]
    out.mkdir(parents=True, exist_ok=True)
    validation = ExtractionBatches(held, ExtractionSettings(VALIDATION_BATCHES, settings.windows, seed=0))
    loader = DataLoader(data, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None)
    started, total = time.time(), 0.0
    for step, batch in enumerate(loader, start=data.first + 1):
        for group in optimiser.param_groups:
            group["lr"] = settings.rate_at(step - 1)
        loss = loss_of(net, batch)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        total += float(loss.detach())
        row: dict[str, Any] = {}
        if step % LOG_STEPS == 0:
            row, total = {"loss": round(total / LOG_STEPS, 6)}, 0.0
        if step % SAVE_STEPS == 0 or step == settings.steps:
            with torch.no_grad():
                losses = [float(loss_of(net, validation[k])) for k in range(VALIDATION_BATCHES)]
            row["held"] = round(sum(losses) / len(losses), 6)
            write({"net": net.state_dict(), "step": step, "config": asdict(settings)}, out / "model.pt")
            state = {"net": net.state_dict(), "optimiser": optimiser.state_dict(), "step": step}
            write(state, out / "resume.pt")
        if row:
            row = {"step": step, "wall_s": round(time.time() - started)} | row
            print(json.dumps(row), flush=True)
            with (out / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(row) + "\n")


def main(arguments: list[str] | None = None) -> int:
    """Train from the command line; returns the exit status of the process."""
    parser = argparse.ArgumentParser(prog="python -m streaming_models.train_extraction")
    parser.add_argument("--corpus", type=Path, nargs="+", required=True, help="folders with Opus shards and manifests")
    parser.add_argument("--rooms", type=Path, required=True, help="rooms.npz of `crosstalk train prepare`")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--workers", type=int, default=1)
    for name, value in asdict(ExtractionSettings()).items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    options = parser.parse_args(arguments)
    settings = ExtractionSettings(**{name: getattr(options, name) for name in asdict(ExtractionSettings())})
    speech, held_speech = load_speech(options.corpus)
    rooms, held_rooms = split_rooms(RoomBank.load(options.rooms))
    torch.manual_seed(settings.seed)
    data = ExtractionBatches(ExtractionSampler(speech, rooms), settings)
    held = ExtractionSampler(held_speech, held_rooms)
    train(ExtractionNet(), data, held, options.out, options.resume, options.workers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
