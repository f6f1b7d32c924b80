"""Where a graph comes from, written into the graph: what `streaming_models.contract` checks, and what a card says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from streaming_models.contract import CHUNK_FRAMES, DECODER_KEY, LEFT_FRAMES, LOOKAHEAD_SAMPLES, VERSION, VERSION_KEY

PREFIX = "crosstalk."


@dataclass(frozen=True)
class Provenance:
    """The training that a release is made of.

    `checkpoint` is the SHA-256 of its file; `commit` that of the code that trained it ("" if not known); `config` the
    run's settings.
    """

    checkpoint: str
    commit: str
    step: int
    seed: int
    config: Mapping[str, Any]

    def properties(self) -> dict[str, str]:
        """As a graph's metadata."""
        return {
            VERSION_KEY: VERSION,
            f"{PREFIX}chunk_frames": str(CHUNK_FRAMES),
            f"{PREFIX}left_frames": str(LEFT_FRAMES),
            f"{PREFIX}lookahead_samples": str(LOOKAHEAD_SAMPLES),
            f"{PREFIX}checkpoint_sha256": self.checkpoint,
            f"{PREFIX}commit": self.commit,
            f"{PREFIX}step": str(self.step),
            f"{PREFIX}seed": str(self.seed),
            f"{PREFIX}config": json.dumps(dict(self.config), sort_keys=True),
        }

    def decoder_properties(self, decoder: Path) -> dict[str, str]:
        """The same for tuned tensors that belong to a decoder file."""
        return self.properties() | {DECODER_KEY: sha256(decoder)}


def write_properties(model: onnx.ModelProto, properties: Mapping[str, str]) -> None:
    """Replace a model's metadata."""
    del model.metadata_props[:]
    helper.set_model_props(model, dict(properties))


def read_properties(model: onnx.ModelProto) -> dict[str, str]:
    """A model's metadata."""
    return {entry.key: entry.value for entry in model.metadata_props}


def sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
