"""Train the streaming SOT recogniser: the same code on two CPU cores and on a GPU.

Run: python -m streaming_models.train --bank STEM [STEM ...] --rooms ROOMS.npz --encoder E.npz --decoder D.npz
--out DIR --steps N [--resume]. `crosstalk train prepare` writes the inputs.

Encoder first (EFIN): it starts from Moonshine Tiny's encoder, made causal by distillation (`--start`), and is trained
with the decoder's cross-attention on windows of simulated meetings; convolutions, vocabulary and the decoder's
language model stay as pretrained. Every window gives up to four rows of text: the whole window and a live cut of it
(ending at a chunk's end, words cut off left out), each for both virtual channels. Step k draws the windows of seed k,
so a resumed run sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from streaming_models.data.speech_bank import SpeechBank
from streaming_models.data.turn_taking import read_turns
from streaming_models.data.windows import DEGRADED, RoomBank, Window, WindowSampler
from streaming_models.nets.encoder import FRAME_SAMPLES, LOOKAHEAD_SAMPLES, WIDTH, Encoder
from streaming_models.nets.sot_decoder import SotDecoder
from streaming_models.nets.spatial import SpatialEmbedding
from streaming_models.sot import clip_to_window
from streaming_models.tokens import END_ID, START_ID

IGNORED = -100
ROWS = 4
SEEN_FRAMES = 432
"""10.4 s: a whole number of chunks of every size below."""
CHUNKS = ((27, 0.7), (54, 0.15), (18, 0.15))
"""Frames a chunk, and how often."""
LEFT_FRAMES = (96, 128, 128, 192)
SILENT_ROW_SHARE = 0.35
"""Windows without overlap in which the second channel is asked all the same."""


@dataclass(frozen=True)
class TrainSettings:
    """What a run is; all of it is in the checkpoint."""

    steps: int = 1500
    windows: int = 6
    """Windows a step."""
    seed: int = 0
    encoder_rate: float = 2e-4
    decoder_rate: float = 2e-4
    new_rate: float = 1e-3
    """For what starts from nothing: spatial embedding, heads, the second channel's vector."""
    warmup: int = 40
    activity_weight: float = 0.3
    smoothing: float = 0.05
    decay: float = 0.99
    """Of the exponential average of the weights that a release is made of."""
    single_share: float = 0.45
    degraded: float = DEGRADED
    """What devices and networks do to the windows, see `data.degrade`; 0: nothing."""


class SotModel(nn.Module):
    """Spatial embedding, encoder, activity head and decoder."""

    vocabulary: Tensor

    def __init__(self, vocabulary: np.ndarray[Any, np.dtype[np.int64]]) -> None:
        super().__init__()
        self.encoder, self.spatial, self.decoder = Encoder(), SpatialEmbedding(), SotDecoder()
        self.activity = nn.Linear(WIDTH, 2)
        # The softmax runs over the tokens that occur in training: half of the decoder's work is the vocabulary.
        self.register_buffer("vocabulary", torch.tensor(vocabulary), persistent=False)

    def trained(self, settings: TrainSettings) -> list[dict[str, Any]]:
        """Parameter groups with their rates; everything else is frozen."""
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        encoder = [*self.encoder.layers.parameters(), self.encoder.norm]
        tuned = dict(self.decoder.tuned())
        new = [*self.spatial.parameters(), *self.activity.parameters(), tuned.pop("second")]
        groups = [
            {"params": encoder, "rate": settings.encoder_rate},
            {"params": list(tuned.values()), "rate": settings.decoder_rate},
            {"params": new, "rate": settings.new_rate},
        ]
        for group in groups:
            for parameter in group["params"]:  # type: ignore[attr-defined]
                parameter.requires_grad_(True)
        return groups

    def forward(self, batch: dict[str, Tensor], chunk: int, left: int) -> tuple[Tensor, Tensor]:
        """Outputs of the text rows (B, ROWS, U, WIDTH) and logits of the activity (B, T, 2)."""
        added = self.spatial(batch["mix"], batch["channels"])
        hidden = self.encoder(batch["mix"], chunk, left, added)
        return self.decoder(batch["tokens"], batch["voice"], hidden, batch["seen"]), self.activity(hidden)

    def losses(self, batch: dict[str, Tensor], chunk: int, left: int, smoothing: float) -> dict[str, Tensor]:
        """Text loss a token of both channels, activity loss a frame."""
        outputs, activity = self(batch, chunk, left)
        wanted = batch["targets"] != IGNORED
        logits = outputs[wanted] @ self.decoder.embedding[self.vocabulary].T
        text = F.cross_entropy(logits, batch["targets"][wanted], label_smoothing=smoothing, reduction="none")
        voices = batch["voice"][..., None].expand_as(batch["targets"])[wanted]
        heard = F.binary_cross_entropy_with_logits(activity, batch["activity"])
        zero = text.new_zeros(())
        return {
            "text": text.mean(),
            "first": text[voices == 0].mean().detach() if (voices == 0).any() else zero,
            "second": text[voices == 1].mean().detach() if (voices == 1).any() else zero,
            "activity": heard,
        }


class Batches(Dataset[dict[str, Any]]):
    """Batch k is that of step k; the dictionary also says its chunk and left context."""

    def __init__(self, sampler: WindowSampler, settings: TrainSettings, vocabulary: list[int], first: int) -> None:
        self._sampler, self._settings, self._first = sampler, settings, first
        self._place = {token: k for k, token in enumerate(vocabulary)}

    def __len__(self) -> int:
        return self._settings.steps - self._first

    def __getitem__(self, index: int) -> dict[str, Any]:
        step = self._first + index
        choice = random.Random(self._settings.seed * 1_000_003 + step)
        chunk = choice.choices([c for c, _ in CHUNKS], [w for _, w in CHUNKS])[0]
        windows = [
            self._sampler.draw((self._settings.seed * 1_000_003 + step) * 64 + k, window_samples())
            for k in range(self._settings.windows)
        ]
        return collate(windows, chunk, choice, self._place) | {"left": choice.choice(LEFT_FRAMES)}


def window_samples() -> int:
    """Samples of a training window."""
    return SEEN_FRAMES * FRAME_SAMPLES + LOOKAHEAD_SAMPLES


def collate(windows: list[Window], chunk: int, choice: random.Random, place: dict[int, int]) -> dict[str, Any]:
    """Tensors of a step; targets are places in the training vocabulary."""
    rows: list[list[tuple[int, list[int], int, int]]] = []
    for window in windows:
        mine: list[tuple[int, list[int], int, int]] = []
        for first, last in ((0, SEEN_FRAMES), _live_cut(window, chunk, choice)):
            clipped = clip_to_window(window.talks, first * FRAME_SAMPLES, last * FRAME_SAMPLES)
            for voice, words in enumerate(clipped.words):
                asked = voice == 0 or bool(words) or choice.random() < SILENT_ROW_SHARE
                tokens = [t for word in words for t in word.tokens] if asked else [-1]
                mine.append((voice, tokens, first, last))
        rows.append(mine)
    longest = max(len(tokens) for mine in rows for _, tokens, _, _ in mine) + 1
    count = len(windows)
    tokens_in = torch.full((count, ROWS, longest), START_ID)
    targets = torch.full((count, ROWS, longest), IGNORED)
    voice_in = torch.zeros(count, ROWS)
    seen = torch.zeros(count, ROWS, SEEN_FRAMES, dtype=torch.bool)
    for b, mine in enumerate(rows):
        for r, (voice, tokens, first, last) in enumerate(mine):
            voice_in[b, r] = voice
            seen[b, r, first:last] = True
            if tokens[:1] == [-1]:
                continue
            tokens_in[b, r, 1 : len(tokens) + 1] = torch.tensor(tokens, dtype=torch.int64)
            targets[b, r, : len(tokens) + 1] = torch.tensor([place[t] for t in (*tokens, END_ID)])
    return {
        "mix": torch.tensor(np.stack([w.mix for w in windows])),
        "channels": torch.tensor(np.stack([w.channels for w in windows])),
        "activity": torch.tensor(np.stack([w.activity(FRAME_SAMPLES, SEEN_FRAMES) for w in windows])),
        "tokens": tokens_in,
        "targets": targets,
        "voice": voice_in,
        "seen": seen,
        "chunk": chunk,
    }


def _live_cut(window: Window, chunk: int, choice: random.Random) -> tuple[int, int]:
    """A window as it is live: ends at a chunk's end, begins where at most one talker is in mid-speech."""
    last = choice.randrange(2, SEEN_FRAMES // chunk + 1) * chunk
    for _ in range(6):
        first = choice.randrange(0, max(1, last - 2 * chunk))
        at = first * FRAME_SAMPLES
        if sum(talk.start_sample < at < talk.end_sample for talk in window.talks) <= 1:
            return first, last
    return 0, last


class Average:
    """Exponential average of the trained weights, kept beside them."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self.weights = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}

    def update(self, model: nn.Module, step: int) -> None:
        """After a step; the average follows faster at the beginning."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, parameter in model.named_parameters():
            if name in self.weights:
                self.weights[name].lerp_(parameter.detach(), 1 - decay)


def checkpoint(model: SotModel, average: Average, step: int, settings: TrainSettings) -> dict[str, Any]:
    """What a release is made of: averaged weights in float16, about 22 MB."""
    state = {name: value.detach() for name, value in model.state_dict().items()} | average.weights

    def part(prefix: str) -> dict[str, Tensor]:
        return {n.removeprefix(prefix): v.half().cpu() for n, v in state.items() if n.startswith(prefix)}

    tuned = {name: state[f"decoder.{name}"].half().cpu() for name, _ in model.decoder.tuned()}
    return {
        "encoder": part("encoder."),
        "spatial": part("spatial."),
        "heads": part("activity."),
        "decoder_tuned": tuned,
        "step": step,
        "seed": settings.seed,
        "config": asdict(settings),
    }


def load_checkpoint(model: SotModel, saved: dict[str, Any]) -> None:
    """Start from a checkpoint's averaged weights.

    Raises:
        RuntimeError: its weights are those of another model.
    """
    model.encoder.load_state_dict({n: v.float() for n, v in saved["encoder"].items()})
    model.spatial.load_state_dict({n: v.float() for n, v in saved["spatial"].items()})
    model.activity.load_state_dict({n: v.float() for n, v in saved["heads"].items()})
    unknown = model.decoder.load_state_dict({n: v.float() for n, v in saved["decoder_tuned"].items()}, strict=False)
    if unknown.unexpected_keys:
        raise RuntimeError(f"expected the decoder's tuned weights, got also {unknown.unexpected_keys}")


def rate_at(step: int, settings: TrainSettings) -> float:
    """Warm-up, then half a cosine down to a fiftieth."""
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    done = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def batches(loader: DataLoader[dict[str, Any]], device: torch.device) -> Iterator[dict[str, Any]]:
    """The loader's dictionaries with their tensors on the device."""
    for batch in loader:
        yield {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}


def train(
    model: SotModel, sampler: WindowSampler, settings: TrainSettings, out: Path, resume: bool, workers: int = 1
) -> None:
    """Run or continue a run; writes `model.pt` (a release's weights), `resume.pt` and `log.jsonl` into `out`."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(settings.seed)
    groups = model.to(device).trained(settings)
    optimiser = torch.optim.AdamW(groups, lr=settings.encoder_rate, weight_decay=0.0, betas=(0.9, 0.98))
    average = Average(model, settings.decay)
    first = 0
    if resume and (out / "resume.pt").exists():
        saved = torch.load(out / "resume.pt", map_location=device)
        model.load_state_dict(saved["model"], strict=False)
        optimiser.load_state_dict(saved["optimiser"])
        average.weights = {n: v.float() for n, v in saved["average"].items()}
        first = saved["step"]
    out.mkdir(parents=True, exist_ok=True)
    vocabulary = [int(t) for t in model.vocabulary]
    data = Batches(sampler, settings, vocabulary, first)
    loader = DataLoader(data, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None)
    started, spoken_s = time.time(), 0.0
    sums: dict[str, float] = {}
    for step, batch in enumerate(batches(loader, device), start=first):
        for group in optimiser.param_groups:
            group["lr"] = group["rate"] * rate_at(step, settings)
        model.train()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            losses = model.losses(batch, batch["chunk"], batch["left"], settings.smoothing)
            loss = losses["text"] + settings.activity_weight * losses["activity"]
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_([p for g in groups for p in g["params"]], 1.0)
        optimiser.step()
        average.update(model, step)
        spoken_s += settings.windows * SEEN_FRAMES * FRAME_SAMPLES / 16_000
        for name, value in (*losses.items(), ("norm", norm)):
            sums[name] = sums.get(name, 0.0) + float(value.detach()) / 20
        if (step + 1) % 20 == 0:
            row = {"step": step + 1, "hours": round(spoken_s / 3600, 3), "wall_s": round(time.time() - started)}
            row |= {name: round(value, 4) for name, value in sums.items()}
            sums = {}
            print(json.dumps(row), flush=True)
            with (out / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(row) + "\n")
        if (step + 1) % 100 == 0 or step + 1 == settings.steps:
            save(model, average, optimiser, step + 1, settings, out)


def save(
    model: SotModel, average: Average, optimiser: torch.optim.Optimizer, step: int, settings: TrainSettings, out: Path
) -> None:
    """Write `model.pt` and `resume.pt`, each first beside its place."""
    whole = {
        "model": {n: p.detach() for n, p in model.named_parameters() if p.requires_grad},
        "average": average.weights,
        "optimiser": optimiser.state_dict(),
        "step": step,
    }
    for name, content in (("model.pt", checkpoint(model, average, step, settings)), ("resume.pt", whole)):
        write(content, out / name)


def write(content: Mapping[str, Any], path: Path) -> None:
    """Save first beside its place: a run that is stopped meanwhile leaves the old file whole."""
    beside = path.with_name(f"{path.name}.new")
    torch.save(content, beside)
    beside.replace(path)


def training_vocabulary(bank: SpeechBank) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Every token of the bank, and the end."""
    used = {token for u in bank.utterances for word in u.words for token in word.tokens}
    return np.array(sorted(used | {START_ID, END_ID}), np.int64)


def sampler_of(bank: SpeechBank, rooms: Path, turns: Path | None, settings: TrainSettings) -> WindowSampler:
    """The windows of a run.

    Raises:
        CorpusError: a line of `turns` is no turn.
        ValueError: as `WindowSampler`.
    """
    real = read_turns(turns) if turns else None
    return WindowSampler(bank, RoomBank.load(rooms), settings.single_share, degraded=settings.degraded, turns=real)


def main(arguments: list[str] | None = None) -> int:
    """Train from the command line; returns the exit status of the process."""
    defaults = TrainSettings()
    parser = argparse.ArgumentParser(prog="python -m streaming_models.train")
    parser.add_argument("--bank", type=Path, nargs="+", required=True, help="speech banks, without suffix")
    parser.add_argument("--rooms", type=Path, required=True)
    parser.add_argument("--turns", type=Path, help="turns of real meetings, JSON lines: some windows are laid out so")
    parser.add_argument("--encoder", type=Path, required=True, help="pretrained encoder as .npz")
    parser.add_argument("--decoder", type=Path, required=True, help="pretrained decoder as .npz")
    parser.add_argument("--start", type=Path, help="weights to start from: a checkpoint or an encoder's state dict")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--workers", type=int, default=1)
    for name, value in asdict(defaults).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = parser.parse_args(arguments)
    settings = TrainSettings(**{name: getattr(options, name) for name in asdict(defaults)})
    bank = SpeechBank.load(options.bank)
    model = SotModel(training_vocabulary(bank))
    model.encoder.load_pretrained(dict(np.load(options.encoder)))
    model.decoder.load_pretrained(dict(np.load(options.decoder)))
    if options.start:
        saved = torch.load(options.start, map_location="cpu")
        if "decoder_tuned" in saved:
            load_checkpoint(model, saved)
        else:
            model.encoder.load_state_dict({n: v.float() for n, v in saved.items()})
    sampler = sampler_of(bank, options.rooms, options.turns, settings)
    train(model, sampler, settings, options.out, options.resume, options.workers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
