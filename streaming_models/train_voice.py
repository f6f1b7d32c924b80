"""Train the voice head (`nets.heads`): whose voice the frames of the streaming encoder carry.

Run: python -m streaming_models.train_voice --corpus DIR [DIR ...] --voices VOICES.npz --rooms ROOMS.npz
--encoder ENCODER.npz [--start WEIGHTS.pt] --out DIR [--resume]. Corpora are folders of Opus shards with manifests;
`--voices`, `--rooms` and `--encoder` are what `crosstalk train prepare` writes. Needs torch (extra `train`).

The encoder stays as it is: it hears a few seconds of one person, in a room or not, chunk by chunk as it does live, and
the head learns to say what a speaker embedder says of that person's clean speech (distillation). Two losses are
summed: one minus the cosine to the person's own voice, and the cross-entropy of finding it among everybody's. A
twentieth of the speakers and of the rooms is kept for validation. A step's excerpts depend on the seed and the step
alone, so a resumed run sees what a whole one would.

Measured (600 steps of 24 excerpts of 2.6 s, about 600 speakers, seed 1): equal error rate on ten people of LibriSpeech
dev, 2 s, dry and in rooms: 0.364 and 0.379, the embedder itself 0.036 and 0.056; of held-out speakers 0.217. The
encoder's last frames have next to nothing left of the voice, so no head ships; its lower layers were not tried.

Source: teaching one network's frames the speaker space of another is Auden-Voice's and NeMo's way to a voice encoder
beside a recogniser; choosing among known voices at a scale is Wang et al., "CosFace", CVPR 2018, without its margin.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from streaming_models.data.corpus import FloatArray
from streaming_models.data.extraction_windows import SpeechOf
from streaming_models.data.windows import ROOM_MICROPHONES, ROOM_TALKERS, RoomBank, coloured
from streaming_models.nets.encoder import FRAME_SAMPLES, LAYERS, LOOKAHEAD_SAMPLES, Encoder
from streaming_models.nets.heads import VoiceHead, pool_voices
from streaming_models.nets.losses import voice_loss
from streaming_models.train import CHUNKS, write
from streaming_models.train_extraction import load_speech, split_rooms

CHUNK, LEFT = CHUNKS[0][0], 128
"""Frames a chunk and before it, as the live encoder has them."""
SCALE = 20.0
"""Of the cosines that are told apart."""
NO_ROOM = 0.35
LEVEL = 0.05
SPOKEN_SHARE = 0.1
"""Frames below this share of the loudness of an excerpt are no speech and say nothing of the voice."""
LOG_STEPS, SAVE_STEPS = 20, 100


@dataclass(frozen=True)
class VoiceSettings:
    """A run: steps of so many excerpts of so many chunks (0.65 s each)."""

    steps: int = 600
    excerpts: int = 24
    chunks: int = 4
    rate: float = 2e-3
    seed: int = 1
    layers: int = LAYERS
    """Of the encoder below the head: what comes out of the last tells words apart, not voices."""

    @property
    def samples(self) -> int:
        """Of an excerpt."""
        return self.chunks * CHUNK * FRAME_SAMPLES + LOOKAHEAD_SAMPLES

    def rate_at(self, step: int) -> float:
        """The rate of a step: falls along half a cosine."""
        return float(self.rate * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * step / self.steps))))


def excerpt(speech: SpeechOf, speaker: str, samples: int, rng: np.random.Generator) -> FloatArray:
    """(samples,) of one person at a common level; utterances follow each other where one is too short."""
    said = speech[speaker]
    pieces: list[FloatArray] = []
    while sum(map(len, pieces)) < samples:
        pieces.append(said[int(rng.integers(len(said)))].astype(np.float32) / np.float32(32768))
    sound = np.concatenate(pieces)
    first = int(rng.integers(len(sound) - samples + 1))
    sound = sound[first : first + samples]
    return sound * np.float32(LEVEL / np.sqrt(np.square(sound).mean() + 1e-9))


def in_a_room(dry: FloatArray, rooms: RoomBank, rng: np.random.Generator) -> FloatArray:
    """(S,) as one far microphone hears it, at the same level, with noise 10 to 40 dB below."""
    room, seat, microphone = (int(rng.integers(n)) for n in (len(rooms.far), ROOM_TALKERS, ROOM_MICROPHONES))
    response = rooms.far[room, seat, microphone].astype(np.float32)
    size = 1 << (len(dry) + len(response) - 1).bit_length()
    heard = np.fft.irfft(np.fft.rfft(dry, size) * np.fft.rfft(response, size), size)[: len(dry)].astype(np.float32)
    heard *= np.float32(LEVEL / np.sqrt(np.square(heard).mean() + 1e-9))
    return heard + coloured(rng, heard.shape) * np.float32(LEVEL * 10 ** (-rng.uniform(10, 40) / 20))


@dataclass
class VoiceBatches(Dataset[dict[str, Tensor]]):
    """The batches of a run from step `first` on: sounds (B, S), and who speaks, as places in `names` (B,)."""

    speech: SpeechOf
    names: list[str]
    rooms: RoomBank
    settings: VoiceSettings
    first: int = 0

    def __len__(self) -> int:
        return self.settings.steps - self.first

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng(self.settings.seed * 1_000_003 + self.first + index)
        count = self.settings.excerpts
        chosen = rng.choice(len(self.names), count, replace=len(self.names) < count)
        sounds = []
        for k in chosen:
            sound = excerpt(self.speech, self.names[int(k)], self.settings.samples, rng)
            sounds.append(sound if rng.random() < NO_ROOM else in_a_room(sound, self.rooms, rng))
        return {"sounds": torch.from_numpy(np.stack(sounds)), "speakers": torch.from_numpy(chosen)}


def voices_of(encoder: Encoder, head: VoiceHead, sounds: Tensor) -> Tensor:
    """Excerpts (B, S) of one person each, a whole number of chunks and the look-ahead -> (B, 256) of length 1."""
    with torch.no_grad():
        hidden = encoder(sounds, CHUNK, LEFT)
    frames = sounds[:, : hidden.shape[1] * FRAME_SAMPLES].unflatten(1, (-1, FRAME_SAMPLES)).square().mean(2).sqrt()
    spoken = (frames > SPOKEN_SHARE * frames.square().mean(1, keepdim=True).sqrt()).float()
    return pool_voices(head(hidden), spoken[:, None])[:, 0]


def losses_of(voices: Tensor, speakers: Tensor, teacher: Tensor) -> dict[str, Tensor]:
    """`far`: one minus the cosine to one's own voice; `other`: cross-entropy of one's own among everybody's.

    Args:
        voices: (B, 256). speakers: (B,) places in `teacher`. teacher: (K, 256) of length 1.
    """
    far = voice_loss(voices[:, None], teacher[speakers][:, None], torch.ones(len(voices), 1, dtype=torch.bool))
    return {"far": far, "other": F.cross_entropy(SCALE * voices @ teacher.T, speakers)}


def equal_error_rate(same: NDArray[np.floating[Any]], different: NDArray[np.floating[Any]]) -> float:
    """Where as many pairs of one person score below a threshold as pairs of two score above it.

    Args:
        same, different: (N,), (M,) scores; neither empty.

    Raises:
        ValueError: one is empty.
    """
    if not len(same) or not len(different):
        raise ValueError(f"expected scores of both kinds, got {len(same)} and {len(different)}")
    scores = np.concatenate((same, different))
    order = np.argsort(scores, kind="stable")
    is_same = (np.arange(len(scores)) < len(same))[order]
    # After each threshold: how many of one person lie at or below it, and how many of two above. Ties move together.
    last = np.append(np.diff(scores[order]) > 0, True)
    missed = np.append(0.0, np.cumsum(is_same)[last] / len(same))
    wrong = np.append(1.0, 1 - np.cumsum(~is_same)[last] / len(different))
    place = int(np.argmax(missed >= wrong))
    step = (wrong[place - 1] - missed[place - 1], missed[place] - wrong[place])
    share = step[0] / (step[0] + step[1])
    return float(missed[place - 1] + share * (missed[place] - missed[place - 1]))


def pair_scores(voices: FloatArray, speakers: NDArray[np.int64]) -> tuple[FloatArray, FloatArray]:
    """Cosines of all pairs of (N, E) unit vectors: those of one person, those of two."""
    cosines = voices @ voices.T
    pairs = np.triu(np.ones_like(cosines, dtype=np.bool_), 1)
    same = speakers[:, None] == speakers
    return cosines[pairs & same], cosines[pairs & ~same]


def train(
    head: VoiceHead,
    encoder: Encoder,
    data: VoiceBatches,
    teacher: FloatArray,
    held: VoiceBatches,
    out: Path,
    resume: bool = False,
    workers: int = 1,
) -> None:
    """Run or continue a run; writes `model.pt`, `resume.pt` and `log.jsonl` into `out`.

    Args:
        teacher: (K, 256) of length 1, the voices of `data.names`.
        held: excerpts of people who are not trained on; all of its steps are one validation.
    """
    settings = data.settings
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    head.to(device)
    encoder.to(device).requires_grad_(False)
    known = torch.from_numpy(teacher).to(device)
    optimiser = torch.optim.AdamW(head.parameters(), settings.rate, weight_decay=1e-2)
    if resume and (out / "resume.pt").exists():
        saved = torch.load(out / "resume.pt", weights_only=True)
        head.load_state_dict(saved["head"])
        optimiser.load_state_dict(saved["optimiser"])
        data.first = saved["step"]
    out.mkdir(parents=True, exist_ok=True)
    loader = DataLoader(data, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None)
    started = time.time()
    sums: dict[str, float] = {}
    for step, batch in enumerate(loader, start=data.first + 1):
        for group in optimiser.param_groups:
            group["lr"] = settings.rate_at(step - 1)
        voices = voices_of(encoder, head, batch["sounds"].to(device))
        losses = losses_of(voices, batch["speakers"].to(device), known)
        optimiser.zero_grad(set_to_none=True)
        (losses["far"] + losses["other"]).backward()
        optimiser.step()
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach())
        row: dict[str, Any] = {}
        if step % LOG_STEPS == 0:
            row = {name: round(value / LOG_STEPS, 4) for name, value in sums.items()}
            sums = {}
        if step % SAVE_STEPS == 0 or step == settings.steps:
            row["held_equal_error_rate"] = round(validate(head, encoder, held), 4)
            write({"head": head.state_dict(), "step": step, "config": asdict(settings)}, out / "model.pt")
            state = {"head": head.state_dict(), "optimiser": optimiser.state_dict(), "step": step}
            write(state, out / "resume.pt")
        if row:
            row = {"step": step, "wall_s": round(time.time() - started)} | row
            print(json.dumps(row), flush=True)
            with (out / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(row) + "\n")


def validate(head: VoiceHead, encoder: Encoder, held: VoiceBatches) -> float:
    """Equal error rate over all pairs of all of a run's excerpts."""
    device = next(head.parameters()).device
    voices, speakers = [], []
    with torch.no_grad():
        for index in range(len(held)):
            batch = held[index]
            voices.append(voices_of(encoder, head, batch["sounds"].to(device)).cpu().numpy())
            speakers.append(batch["speakers"].numpy())
    return equal_error_rate(*pair_scores(np.concatenate(voices), np.concatenate(speakers)))


def read_voices(path: Path, speech: Mapping[str, Any]) -> tuple[list[str], FloatArray]:
    """Who is in both, and their voices (K, 256) of length 1.

    Raises:
        ValueError: fewer than two of the speakers have a voice.
    """
    with np.load(path) as arrays:
        known = dict(zip(arrays["speakers"].tolist(), arrays["voices"].astype(np.float32), strict=True))
    names = [name for name in sorted(speech) if name in known]
    if len(names) < 2:
        raise ValueError(f"expected the voices of two speakers or more in {path}, got {len(names)} of {len(speech)}")
    voices = np.stack([known[name] for name in names])
    unit: FloatArray = voices / np.linalg.norm(voices, axis=1, keepdims=True)
    return names, unit


def main(arguments: list[str] | None = None) -> int:
    """Train from the command line; returns the exit status of the process."""
    parser = argparse.ArgumentParser(prog="python -m streaming_models.train_voice")
    parser.add_argument("--corpus", type=Path, nargs="+", required=True, help="folders with Opus shards and manifests")
    parser.add_argument("--voices", type=Path, required=True, help="voices.npz of `crosstalk train prepare`")
    parser.add_argument("--rooms", type=Path, required=True, help="rooms.npz of `crosstalk train prepare`")
    parser.add_argument("--encoder", type=Path, required=True, help="encoder.npz of `crosstalk train prepare`")
    parser.add_argument("--start", type=Path, help="the streaming encoder's state dict, or a checkpoint of `train`")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--workers", type=int, default=1)
    for name, value in asdict(VoiceSettings()).items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    options = parser.parse_args(arguments)
    settings = VoiceSettings(**{name: getattr(options, name) for name in asdict(VoiceSettings())})
    speech, held_speech = load_speech(options.corpus)
    rooms, held_rooms = split_rooms(RoomBank.load(options.rooms))
    names, teacher = read_voices(options.voices, speech)
    encoder = Encoder()
    encoder.load_pretrained(dict(np.load(options.encoder)))
    if options.start:
        saved = torch.load(options.start, map_location="cpu", weights_only=True)
        encoder.load_state_dict({name: value.float() for name, value in saved.get("encoder", saved).items()})
    encoder.layers = encoder.layers[: settings.layers]
    torch.manual_seed(settings.seed)
    checks = VoiceSettings(steps=6, excerpts=settings.excerpts, chunks=settings.chunks, seed=0)
    held = VoiceBatches(held_speech, sorted(held_speech), held_rooms, checks)
    data = VoiceBatches(speech, names, rooms, settings)
    train(VoiceHead(), encoder, data, teacher, held, options.out, options.resume, options.workers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
