"""Train the network that takes one voice out of several (`nets.extraction`), from corpora to a checkpoint.

Run: python -m streaming_models.train_extraction --corpus DIR [DIR ...] --rooms ROOMS.npz --encoder ENCODER.npz
--out DIR [--steps N] [--start MODEL.pt] [--resume]. Corpora are folders of Opus shards with manifests; no texts are
needed. `--rooms` and `--encoder` are what `crosstalk train prepare` writes, `--start` what another run or
`onnx_export.restore_extraction` wrote. Needs torch (extra `train`); the same on a CPU and a GPU, in bfloat16 where that
is faster.

Two losses are summed. One is the squared difference of magnitudes to the power of 0.5, masked mixture against the
voice with its early echo: soft sounds count more than their energy. The other is how differently a recogniser hears
the two: the squared difference of the frames of Moonshine Tiny's encoder, which stays as it is. A mask that looks right
may still blur what words are told apart by. Frames in which people overlap count most. A twentieth of the speakers and
of the rooms is kept for validation. A step's windows depend on the seed and the step alone, so a resumed run sees what
a whole one would.

Source: comparing by the activations of a recogniser is Germain et al., "Speech Denoising with Deep Feature Losses",
Interspeech 2019.
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

from streaming_models.data.corpus import read_corpus
from streaming_models.data.extraction_windows import (
    WINDOW_HOPS,
    WINDOW_SAMPLES,
    ExtractionSampler,
    ExtractionWindow,
    SpeechOf,
)
from streaming_models.data.windows import RoomBank
from streaming_models.nets.encoder import FRAME_SAMPLES as HEARD_SAMPLES
from streaming_models.nets.encoder import LOOKAHEAD_SAMPLES, Encoder
from streaming_models.nets.extraction import ExtractionNet
from streaming_models.short_time import FRAME_SAMPLES, HOP_SAMPLES, WINDOW, whole_spectra_of
from streaming_models.train import write

WANTED = 2
"""Voices of each window that are asked for."""
LEAST_ALONE_HOPS = 20
"""Whoever is known to be alone for less is not asked for."""
POWER = 0.5
PLAIN_WEIGHT = 0.15
"""Of frames without overlap, which are easy and most of all."""
FLOOR = 1e-6
HEARD_WEIGHT = 0.15
LISTENED = 4
"""Voices of a batch that are compared as a recogniser hears them; it takes as long as all the rest of a step."""
LEAST_OVERLAP_HOPS = 40
"""They are such whose window has so much overlap."""
HEARD_SPAN = HEARD_SAMPLES + LOOKAHEAD_SAMPLES
"""What a frame of the encoder is made from."""
SPOKEN_SHARE = 0.1
"""Frames below this share of a voice's loudness are no speech: what a recogniser hears there is no matter."""
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
    """Spectra of mixtures (B, T, BINS) and magnitudes of wanted voices (B, K, T, BINS), these as sounds (B, K, S),
    marks (B, K, T), weights of voices (B, K) and frames (B, T); the places of those to be listened to (N, 2)."""
    size = len(windows)
    sounds = np.zeros((size, WANTED, WINDOW_SAMPLES), np.float32)
    wanted = np.zeros((size, WANTED, WINDOW_HOPS), np.float32)
    others, weights = np.zeros_like(wanted), np.zeros((size, WANTED), np.float32)
    for b, window in enumerate(windows):
        count = min(WANTED, len(window.voices))
        sounds[b, :count] = window.voices[:count]
        for k in range(count):
            wanted[b, k] = window.alone[k]
            others[b, k] = np.delete(window.alone, k, axis=0).any(axis=0)
            weights[b, k] = window.alone[k].sum() >= LEAST_ALONE_HOPS
    overlap = np.stack([window.overlap for window in windows])
    listened = np.argwhere((weights > 0) & (overlap.sum(axis=1) >= LEAST_OVERLAP_HOPS)[:, None])
    arrays = {
        "mix": whole_spectra_of(np.stack([window.mix for window in windows]))[:, :WINDOW_HOPS],
        "voices": np.abs(whole_spectra_of(sounds))[:, :, :WINDOW_HOPS],
        "sounds": sounds,
        "wanted": wanted,
        "others": others,
        "weights": weights,
        "frames": np.where(overlap, 1.0, PLAIN_WEIGHT).astype(np.float32),
        # One voice of every window before the second of any: spread over the batch.
        "listened": listened[np.argsort(listened[:, 1], kind="stable")][:LISTENED],
    }
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


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


@dataclass(frozen=True)
class Losses:
    """Means over the voices that are wanted, and over those that were listened to (0 where there are none)."""

    seen: Tensor
    heard: Tensor

    @property
    def total(self) -> Tensor:
        """What is minimised."""
        return self.seen + HEARD_WEIGHT * self.heard


def losses_of(net: ExtractionNet, ear: Encoder, batch: dict[str, Tensor]) -> Losses:
    """Args: ear: a recogniser's encoder with its pretrained weights, which need no gradient."""
    device = next(net.parameters()).device
    batch = {name: value.to(device) for name, value in batch.items()}
    magnitudes = batch["mix"].abs()
    with torch.autocast(device.type, torch.bfloat16):
        masks = net(magnitudes, batch["wanted"], batch["others"])
    masks = masks.float()
    found = (masks * magnitudes[:, None] + FLOOR) ** POWER
    frames = batch["frames"][:, None]
    error = (found - (batch["voices"] + FLOOR) ** POWER).square().mean(3)
    error = (error * frames).sum(2) / frames.sum(2)
    seen = (error * batch["weights"]).sum() / batch["weights"].sum().clamp(min=1.0)
    window, voice = batch["listened"].T
    if not len(window):
        return Losses(seen, seen.new_zeros(()))
    sounds = _sounds(batch["mix"][window] * masks[window, voice])
    return Losses(seen, _heard(ear, sounds, batch["sounds"][window, voice], batch["frames"][window]))


def _sounds(spectra: Tensor) -> Tensor:
    """(N, T, BINS) of `whole_spectra_of` -> (N, S), the last hop left out."""
    window = torch.from_numpy(WINDOW).to(spectra.device)
    length = (spectra.shape[1] - 1) * HOP_SAMPLES
    sounds: Tensor = torch.istft(spectra.transpose(1, 2), FRAME_SAMPLES, HOP_SAMPLES, window=window, length=length)
    return sounds


def _heard(ear: Encoder, sounds: Tensor, voices: Tensor, weights: Tensor) -> Tensor:
    """How differently sounds and voices (N, S) are heard where the voices speak; weights: (N, T) of hops."""
    voices = voices[:, : sounds.shape[1]]
    with torch.autocast(sounds.device.type, torch.bfloat16):
        heard = ear.whole(sounds)
        with torch.no_grad():
            meant = ear.whole(voices)
    heard, meant = heard.float(), meant.float()
    count = heard.shape[1]
    loudness = voices.unfold(1, HEARD_SPAN, HEARD_SAMPLES)[:, :count].square().mean(2).sqrt()
    speech = loudness > SPOKEN_SHARE * voices.square().mean(1, keepdim=True).sqrt()
    hops = (torch.arange(count, device=sounds.device) * HEARD_SAMPLES + HEARD_SPAN // 2) // HOP_SAMPLES
    frames = speech * weights[:, hops.clamp(max=weights.shape[1] - 1)]
    error = (heard - meant).square().mean(2) / meant.square().mean()
    mean: Tensor = (error * frames).sum() / frames.sum().clamp(min=1.0)
    return mean


def train(
    net: ExtractionNet,
    ear: Encoder,
    data: ExtractionBatches,
    held: ExtractionSampler,
    out: Path,
    resume: bool = False,
    workers: int = 1,
) -> None:
    """Run or continue a run; writes `model.pt` (weights, to export), `resume.pt` and `log.jsonl` into `out`."""
    settings = data.settings
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net.to(device)
    ear.to(device).requires_grad_(False)
    optimiser = torch.optim.AdamW(net.parameters(), settings.rate, betas=(0.9, 0.99), weight_decay=1e-3)
    if resume and (out / "resume.pt").exists():
        saved = torch.load(out / "resume.pt", weights_only=True)
        net.load_state_dict(saved["net"])
        optimiser.load_state_dict(saved["optimiser"])
        data.first = saved["step"]
    out.mkdir(parents=True, exist_ok=True)
    validation = ExtractionBatches(held, ExtractionSettings(VALIDATION_BATCHES, settings.windows, seed=0))
    loader = DataLoader(data, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None)
    started, seen, heard = time.time(), 0.0, 0.0
    for step, batch in enumerate(loader, start=data.first + 1):
        for group in optimiser.param_groups:
            group["lr"] = settings.rate_at(step - 1)
        losses = losses_of(net, ear, batch)
        optimiser.zero_grad(set_to_none=True)
        losses.total.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        seen, heard = seen + float(losses.seen.detach()), heard + float(losses.heard.detach())
        row: dict[str, Any] = {}
        if step % LOG_STEPS == 0:
            row = {"seen": round(seen / LOG_STEPS, 6), "heard": round(heard / LOG_STEPS, 4)}
            seen = heard = 0.0
        if step % SAVE_STEPS == 0 or step == settings.steps:
            with torch.no_grad():
                held_out = [losses_of(net, ear, validation[k]) for k in range(VALIDATION_BATCHES)]
            row["held_seen"] = round(sum(float(one.seen) for one in held_out) / len(held_out), 6)
            row["held_heard"] = round(sum(float(one.heard) for one in held_out) / len(held_out), 4)
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
    parser.add_argument("--encoder", type=Path, required=True, help="encoder.npz of `crosstalk train prepare`")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="a model.pt with the weights to start from")
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
    ear = Encoder()
    ear.load_pretrained(dict(np.load(options.encoder)))
    net = ExtractionNet()
    if options.start:
        net.load_state_dict(torch.load(options.start, weights_only=True)["net"])
    train(net, ear, data, held, options.out, options.resume, options.workers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
