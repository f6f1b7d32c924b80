"""Train the t-SOT transducer, the decoder that `streaming_models.train` is compared with: same windows, same encoder.

Run: python -m streaming_models.train_transducer --bank STEM [STEM ...] --rooms ROOMS.npz --encoder E.npz
--tokens tokenizer.bin --out DIR --steps N [--start W.pt] [--resume]. Inputs are those of `streaming_models.train`;
`--tokens` is Moonshine's table, in which the bank spells its words. Needs SentencePiece.

Encoder, spatial embedding, seeds, chunks and left contexts are as there. What is new is the text: both virtual
channels' words of the whole window in one row, spelt in a small vocabulary made from the bank's own texts, for a
transducer and a CTC head that start from nothing.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from streaming_models.data.speech_bank import BankWord, SpeechBank
from streaming_models.data.windows import Window, WindowSampler
from streaming_models.nets.encoder import FRAME_SAMPLES, Encoder
from streaming_models.nets.pieces import train_pieces
from streaming_models.nets.spatial import SpatialEmbedding
from streaming_models.nets.transducer import Transducer
from streaming_models.pieces import Pieces
from streaming_models.search import Symbols
from streaming_models.sot import Labels, clip_to_window, labels, serialise
from streaming_models.tokens import TokenTable
from streaming_models.train import (
    CHUNKS,
    LEFT_FRAMES,
    SEEN_FRAMES,
    Average,
    TrainSettings,
    batches,
    collate,
    rate_at,
    sampler_of,
    window_samples,
    write,
)

CTC_WEIGHT = 0.25
LOG_STEPS, SAVE_STEPS = 10, 20
USED_SETTINGS = ("steps", "windows", "seed", "encoder_rate", "new_rate", "warmup", "decay", "single_share", "degraded")


class TransducerModel(nn.Module):
    """Spatial embedding, encoder and transducer."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.encoder, self.spatial, self.transducer = Encoder(), SpatialEmbedding(), Transducer(vocabulary)

    def trained(self, settings: TrainSettings) -> list[dict[str, Any]]:
        """Parameter groups with their rates; the convolutions are frozen."""
        self.requires_grad_(False)
        encoder = [*self.encoder.layers.parameters(), self.encoder.norm]
        new = [*self.spatial.parameters(), *self.transducer.parameters()]
        for parameter in (*encoder, *new):
            parameter.requires_grad_(True)
        return [{"params": encoder, "rate": settings.encoder_rate}, {"params": new, "rate": settings.new_rate}]

    def forward(self, batch: dict[str, Tensor], chunk: int, left: int) -> Tensor:
        """Frames (B, T, WIDTH) of a batch's windows."""
        hidden: Tensor = self.encoder(batch["mix"], chunk, left, self.spatial(batch["mix"], batch["channels"]))
        return hidden

    def losses(self, batch: dict[str, Tensor], chunk: int, left: int) -> dict[str, Tensor]:
        """Transducer and CTC loss a token.

        Window by window: no node of the lattice is padding, and the logits fit the cache. 2.5 times faster on a CPU.
        """
        hidden = self(batch, chunk, left)
        counts = batch["token_lengths"] + 1
        sums = hidden.new_zeros(2)
        for b, count in enumerate(counts.tolist()):
            row = slice(b, b + 1)
            tokens, channels = batch["tokens"][row, : count - 1], batch["row_channels"][row, : count - 1]
            frames = torch.full((1,), hidden.shape[1], device=hidden.device)
            lengths = batch["token_lengths"][row]
            found = self.transducer.loss(hidden[row], frames, tokens, channels, lengths, slab_frames=None)
            sums = sums + torch.stack((found.transducer, found.ctc)) * count
        transducer, ctc = sums / counts.sum()
        return {"transducer": transducer, "ctc": ctc}


class Speller:
    """Rows of the bank's words in the transducer's vocabulary."""

    def __init__(self, pieces: Pieces, table: TokenTable) -> None:
        self.pieces, self._table = pieces, table
        self._known: dict[tuple[int, ...], list[int]] = {}

    def word(self, word: BankWord) -> Sequence[int]:
        """Tokens of one word."""
        if word.tokens not in self._known:
            self._known[word.tokens] = self.pieces.encode(self._table.text(list(word.tokens)))
        return self._known[word.tokens]

    def row(self, window: Window) -> Labels:
        """What the transducer shall write for a window: the words that lie wholly inside."""
        words = clip_to_window(window.talks, 0, SEEN_FRAMES * FRAME_SAMPLES).words
        return labels(serialise(words), self.word, Symbols.change)


@dataclass
class RowBatches(Dataset[dict[str, Any]]):
    """The windows, chunks and left contexts of `train.Batches` from step `first` on, with one row of text a window."""

    sampler: WindowSampler
    speller: Speller
    settings: TrainSettings
    first: int = 0

    def __len__(self) -> int:
        return self.settings.steps - self.first

    def __getitem__(self, index: int) -> dict[str, Any]:
        seed = self.settings.seed * 1_000_003 + self.first + index
        choice = random.Random(seed)
        chunk = choice.choices([c for c, _ in CHUNKS], [w for _, w in CHUNKS])[0]
        windows = [self.sampler.draw(seed * 64 + k, window_samples()) for k in range(self.settings.windows)]
        # The other candidate's text is made too: it draws from `choice`, and the left context comes after it.
        batch = collate(windows, chunk, choice, defaultdict(int))
        rows = rows_of([self.speller.row(window) for window in windows])
        kept = {name: batch[name] for name in ("mix", "channels", "chunk")}
        return kept | rows | {"left": choice.choice(LEFT_FRAMES)}


def rows_of(rows: list[Labels]) -> dict[str, Tensor]:
    """Tokens and their channels (B, U), filled up with blank and 0, and lengths (B,)."""
    padded = {
        name: pad_sequence([torch.tensor(row, dtype=torch.int64) for row in several], True, filler)
        for name, several, filler in (
            ("tokens", [row.tokens for row in rows], Symbols.blank),
            ("row_channels", [row.channels for row in rows], 0),
        )
    }
    return padded | {"token_lengths": torch.tensor([len(row.tokens) for row in rows])}


def train(model: TransducerModel, data: RowBatches, out: Path, resume: bool, workers: int = 1) -> None:
    """Run or continue a run; writes `model.pt`, `resume.pt` and `log.jsonl` into `out`."""
    settings = data.settings
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    groups = model.to(device).trained(settings)
    optimiser = torch.optim.AdamW(groups, lr=settings.encoder_rate, weight_decay=0.0, betas=(0.9, 0.98))
    average = Average(model, settings.decay)
    if resume and (out / "resume.pt").exists():
        saved = torch.load(out / "resume.pt", map_location=device)
        model.load_state_dict(saved["model"], strict=False)
        optimiser.load_state_dict(saved["optimiser"])
        average.weights, data.first = saved["average"], saved["step"]
    out.mkdir(parents=True, exist_ok=True)
    loader = DataLoader(data, batch_size=None, num_workers=workers, prefetch_factor=2 if workers else None)
    started = time.time()
    sums: dict[str, float] = {}
    for step, batch in enumerate(batches(loader, device), start=data.first):
        for group in optimiser.param_groups:
            group["lr"] = group["rate"] * rate_at(step, settings)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            losses = model.losses(batch, batch["chunk"], batch["left"])
        optimiser.zero_grad(set_to_none=True)
        (losses["transducer"] + CTC_WEIGHT * losses["ctc"]).backward()
        norm = nn.utils.clip_grad_norm_([p for g in groups for p in g["params"]], 1.0)
        optimiser.step()
        average.update(model, step)
        for name, value in (*losses.items(), ("norm", norm)):
            sums[name] = sums.get(name, 0.0) + float(value.detach()) / LOG_STEPS
        if (step + 1) % LOG_STEPS == 0:
            hours = (step + 1) * settings.windows * SEEN_FRAMES * FRAME_SAMPLES / 16_000 / 3600
            row = {"step": step + 1, "hours": round(hours, 3), "wall_s": round(time.time() - started)}
            row |= {name: round(value, 4) for name, value in sums.items()}
            sums = {}
            print(json.dumps(row), flush=True)
            with (out / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(row) + "\n")
        if (step + 1) % SAVE_STEPS == 0 or step + 1 == settings.steps:
            save(model, average, optimiser, step + 1, data, out)


def save(
    model: TransducerModel, average: Average, optimiser: torch.optim.Optimizer, step: int, data: RowBatches, out: Path
) -> None:
    """Write `model.pt` (averaged weights in float16) and `resume.pt`, each first beside its place."""
    trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    state = model.state_dict() | average.weights
    release: dict[str, Any] = {
        part: {n.removeprefix(f"{part}."): v.half().cpu() for n, v in state.items() if n.startswith(f"{part}.")}
        for part in ("encoder", "spatial", "transducer")
    }
    release |= {"pieces": list(data.speller.pieces.pieces), "step": step, "config": asdict(data.settings)}
    whole = {"model": trained, "average": average.weights, "optimiser": optimiser.state_dict(), "step": step}
    for name, content in (("model.pt", release), ("resume.pt", whole)):
        write(content, out / name)


def load_checkpoint(saved: dict[str, Any]) -> tuple[TransducerModel, Pieces]:
    """Model and vocabulary of a `model.pt`."""
    model = TransducerModel(len(saved["pieces"]))
    for part in ("encoder", "spatial", "transducer"):
        getattr(model, part).load_state_dict({name: value.float() for name, value in saved[part].items()})
    return model, Pieces(tuple(saved["pieces"]))


def main(arguments: list[str] | None = None) -> int:
    """Train from the command line; returns the exit status of the process."""
    defaults = TrainSettings()
    parser = argparse.ArgumentParser(prog="python -m streaming_models.train_transducer")
    parser.add_argument("--bank", type=Path, nargs="+", required=True, help="speech banks, without suffix")
    parser.add_argument("--rooms", type=Path, required=True)
    parser.add_argument("--turns", type=Path, help="turns of real meetings, JSON lines: some windows are laid out so")
    parser.add_argument("--encoder", type=Path, required=True, help="pretrained encoder as .npz")
    parser.add_argument("--tokens", type=Path, required=True, help="Moonshine's tokenizer.bin")
    parser.add_argument("--start", type=Path, help="an encoder's state dict to start from")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--workers", type=int, default=1)
    for name in USED_SETTINGS:
        value = getattr(defaults, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = parser.parse_args(arguments)
    settings = TrainSettings(**{name: getattr(options, name) for name in USED_SETTINGS})
    bank, table = SpeechBank.load(options.bank), TokenTable.from_bytes(options.tokens.read_bytes())
    texts = (table.text([t for word in u.words for t in word.tokens]) for u in bank.utterances)
    speller = Speller(train_pieces(texts), table)
    torch.manual_seed(settings.seed)
    model = TransducerModel(len(speller.pieces.pieces))
    model.encoder.load_pretrained(dict(np.load(options.encoder)))
    if options.start:
        model.encoder.load_state_dict({n: v.float() for n, v in torch.load(options.start).items()})
    sampler = sampler_of(bank, options.rooms, options.turns, settings)
    train(model, RowBatches(sampler, speller, settings), options.out, options.resume, options.workers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
