"""Tiny made-up speech for tests: noise bursts with the rhythm of syllables, and corpora of them on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile

from streaming_models.data.corpus import SAMPLE_RATE_HZ, FloatArray
from streaming_models.data.simulate import SpeechClip


def syllables(duration_s: float, seed: int, rate_hz: int = SAMPLE_RATE_HZ) -> FloatArray:
    """(S,) float32: noise that swells four times a second and never falls silent."""
    time_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    noise = np.random.default_rng(seed).standard_normal(len(time_s))
    swell: FloatArray = (0.1 * noise * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * time_s))).astype(np.float32)
    return swell


def clips(speaker: str, durations_s: list[float], seed: int = 0) -> list[SpeechClip]:
    """One clip a duration, with as many words as it has seconds, and one more."""
    return [
        SpeechClip(
            id=f"{speaker}-{index}",
            speaker=speaker,
            text=" ".join(f"Word{number}," for number in range(1 + int(duration_s))),
            audio=syllables(duration_s, seed + index),
        )
        for index, duration_s in enumerate(durations_s)
    ]


def write_corpus(folder: Path, speaker: str, durations_s: list[float], rate_hz: int = 16_000) -> Path:
    """An Opus shard with its manifest, 0.1 s of silence after each utterance; the manifest's path."""
    rows, pieces, offset_s = [], [], 0.0
    for index, duration_s in enumerate(durations_s):
        pieces += [syllables(duration_s, index, rate_hz), np.zeros(rate_hz // 10, np.float32)]
        rows.append(
            {
                "id": f"{speaker}-{index}",
                "shard": f"{speaker}.opus",
                "offset_s": round(offset_s, 4),
                "duration_s": duration_s,
                "text": "SOME WORDS",
                "speaker": speaker,
            }
        )
        offset_s += duration_s + 0.1
    soundfile.write(folder / f"{speaker}.opus", np.concatenate(pieces), rate_hz, format="OGG", subtype="OPUS")
    manifest = folder / f"{speaker}.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return manifest


def write_four_talkers(folder: Path) -> Path:
    """A corpus of four people with enough to say for a meeting; the folder."""
    manifest = write_corpus(folder, "ann", [3.0, 1.0, 5.0, 2.0, 4.0, 6.0, 1.5, 3.5, 4.5])
    for speaker in ("bob", "cat", "dan"):  # encoding takes seconds: all four share one shard
        rows = manifest.read_text().replace('"ann-', f'"{speaker}-').replace('"ann"', f'"{speaker}"')
        (folder / f"{speaker}.jsonl").write_text(rows)
    return folder
