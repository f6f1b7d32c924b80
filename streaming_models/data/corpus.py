"""Speech corpora as Opus shards beside JSON-lines manifests.

One shard `NAME.opus` holds many utterances of one talker (or of a mixed set); `NAME.jsonl` says where each
lies: `id`, `shard`, `offset_s`, `duration_s`, `text`, `speaker`, and for scripted speech `script_start_s` and
`script_end_s`. A manifest row without `id` describes the whole shard (a synthesised voice) and is no utterance.

This file decodes and resamples; it neither cuts, mixes nor normalises.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float32]

SAMPLE_RATE_HZ = 16_000
"""The one rate of everything that reaches a model."""


class CorpusError(ValueError):
    """A manifest or shard that does not hold what it promises."""


@dataclass(frozen=True)
class Utterance:
    """Where one stretch of one person's speech lies, and what was said.

    `text` is as the corpus spells it (case and punctuation differ between corpora; "" where the corpus has
    none). `script_start_s` and `script_end_s` are the times of the turn in the real meeting whose words a
    synthetic voice speaks; they are None for recorded speech.
    """

    id: str
    speaker: str
    text: str
    shard: Path
    offset_s: float
    duration_s: float
    script_start_s: float | None = None
    script_end_s: float | None = None

    def audio(self) -> FloatArray:
        """The utterance's samples, decoded anew at every call: keep them where they are used twice.

        Returns:
            (S,) float32 in about [-1, 1] at 16 kHz mono, S = duration_s at 16 kHz within one sample.

        Raises:
            CorpusError: the shard cannot be read, is not mono, or ends before the utterance does.
        """
        import soundfile
        import soxr

        try:
            with soundfile.SoundFile(self.shard) as shard:
                if shard.channels != 1:
                    raise CorpusError(f"{self.shard}: expected one channel, found {shard.channels}")
                rate_hz = int(shard.samplerate)
                wanted_samples = round(self.duration_s * rate_hz)
                shard.seek(round(self.offset_s * rate_hz))
                found: FloatArray = shard.read(wanted_samples, dtype="float32")
        except (OSError, soundfile.LibsndfileError) as error:
            raise CorpusError(f"{self.shard}: cannot read utterance {self.id}: {error}") from error
        # Encoders may drop the last frame's padding: up to 20 ms short is not a broken shard.
        if wanted_samples - len(found) > rate_hz // 50:
            raise CorpusError(f"{self.shard}: utterance {self.id} needs {wanted_samples} samples, found {len(found)}")
        resampled: FloatArray = soxr.resample(found, rate_hz, SAMPLE_RATE_HZ)
        return resampled


def read_manifest(path: Path) -> tuple[Utterance, ...]:
    """The utterances of one manifest, in file order.

    Args:
        path: a `.jsonl` file; the shards it names lie in the same folder.

    Raises:
        CorpusError: a line is not JSON or lacks a field; the message names file and line.
    """
    utterances = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row: dict[str, Any] = json.loads(line)
            if "id" in row:
                utterances.append(_utterance(row, path.parent))
        except (KeyError, TypeError, ValueError) as error:
            raise CorpusError(f"{path}, line {number}: not a manifest row: {error!r}") from error
    return tuple(utterances)


def read_corpus(folder: Path) -> dict[str, tuple[Utterance, ...]]:
    """All utterances below a folder, by speaker; speakers sorted, utterances in manifest order.

    Raises:
        CorpusError: a broken manifest, or no utterance at all.
    """
    manifests = sorted(folder.rglob("*.jsonl"))
    speakers = by_speaker(utterance for path in manifests for utterance in read_manifest(path))
    if not speakers:
        raise CorpusError(f"{folder}: expected manifests with utterances, found {len(manifests)} manifests")
    return speakers


def by_speaker(utterances: Iterable[Utterance]) -> dict[str, tuple[Utterance, ...]]:
    """The same utterances grouped by speaker; speakers sorted, order within a speaker kept."""
    groups: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        groups.setdefault(utterance.speaker, []).append(utterance)
    return {speaker: tuple(groups[speaker]) for speaker in sorted(groups)}


def _utterance(row: dict[str, Any], folder: Path) -> Utterance:
    return Utterance(
        id=str(row["id"]),
        speaker=str(row["speaker"]),
        text=str(row.get("text") or ""),
        shard=folder / str(row["shard"]),
        offset_s=float(row["offset_s"]),
        duration_s=float(row["duration_s"]),
        script_start_s=None if row.get("script_start_s") is None else float(row["script_start_s"]),
        script_end_s=None if row.get("script_end_s") is None else float(row["script_end_s"]),
    )
