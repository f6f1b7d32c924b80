"""What the SOT recogniser's graphs take and give, and the check at load that a file keeps to it.

The encoder runs chunk by chunk over B streams with C channels each; everything a stream carries from chunk to chunk is
an input and an output, all zeros at its start. Chunk k begins at sample k * CHUNK_SAMPLES and also holds the
LOOKAHEAD_SAMPLES after its own, which the caller feeds again as the first of the next chunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

VERSION = "1"
"""Goes up when a graph's inputs, outputs or their meaning change."""

SAMPLE_RATE_HZ = 16_000
FRAME_SAMPLES = 384
CHUNK_FRAMES = 27
CHUNK_SAMPLES = CHUNK_FRAMES * FRAME_SAMPLES
LOOKAHEAD_SAMPLES = 511
"""A frame covers 895 samples."""
CHUNK_INPUT_SAMPLES = CHUNK_SAMPLES + LOOKAHEAD_SAMPLES
LEFT_FRAMES = 128
"""Frames before the chunk that its frames see, in every layer."""
LAYERS, HEADS, HEAD_SIZE = 6, 8, 36
WIDTH = HEADS * HEAD_SIZE
STEPS_PER_FRAME = 6
"""Outputs of the first convolution in a frame, whose sums the state carries."""
ACTIVITIES = 2
"""Probability of at least one talker, and of at least two."""
VOICES = 2
"""Virtual channels of the decoder."""

VERSION_KEY = "crosstalk.contract"
DECODER_KEY = "crosstalk.decoder_sha256"
"""Which decoder file the tuned tensors belong to."""


class ContractError(ValueError):
    """A graph is not one that this version runs."""


@dataclass(frozen=True)
class TensorSpec:
    """A graph's input or output; letters stand for lengths that the caller chooses."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str = "float32"

    def zeros(self, **lengths: int) -> NDArray[Any]:
        """Zeros of this shape, its letters replaced."""
        return np.zeros([lengths[n] if isinstance(n, str) else n for n in self.shape], self.dtype)

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} ({', '.join(map(str, self.shape))})"


_CACHE = (LAYERS, "B", LEFT_FRAMES, WIDTH)
STATE = (
    TensorSpec("cached_key", _CACHE),
    TensorSpec("cached_value", _CACHE),
    TensorSpec("cached_norm", ("B", 2, STEPS_PER_FRAME * LEFT_FRAMES)),
    TensorSpec("processed_frames", ("B",), "int64"),
)
"""Keys before rotation and values of each layer; sums and sums of squares of the first convolution; frames so far."""
ENCODER_INPUTS = (
    TensorSpec("mix", ("B", CHUNK_INPUT_SAMPLES)),
    TensorSpec("channels", ("B", "C", CHUNK_INPUT_SAMPLES)),
    *STATE,
)
ENCODER_OUTPUTS = (
    TensorSpec("hidden", ("B", CHUNK_FRAMES, WIDTH)),
    TensorSpec("activity", ("B", CHUNK_FRAMES, ACTIVITIES)),
    *(TensorSpec(f"new_{spec.name}", spec.shape, spec.dtype) for spec in STATE),
)


MEMORY_WIDTH = LAYERS * 2 * WIDTH
"""What the decoder reads of a frame: each layer's key, then its value."""


def start_state(streams: int) -> dict[str, NDArray[Any]]:
    """The state of streams that have heard nothing, by input name."""
    return {spec.name: spec.zeros(B=streams) for spec in STATE}


def memory_inputs(memory: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """The decoder's memory (B, T, MEMORY_WIDTH), T > 0, as inputs of its graph: (B, HEADS, T, HEAD_SIZE) each."""
    streams, frames, _ = memory.shape
    parts = memory.reshape(streams, frames, LAYERS, 2, HEADS, HEAD_SIZE).transpose(2, 3, 0, 4, 1, 5)
    parts = np.ascontiguousarray(parts)
    return {f"memory_{kind}.{k}": parts[k, n] for k in range(LAYERS) for n, kind in enumerate(("key", "value"))}


def no_tokens(streams: int) -> dict[str, NDArray[np.float32]]:
    """The decoder's caches before the first token."""
    nothing = np.zeros((streams, HEADS, 0, HEAD_SIZE), np.float32)
    return {f"past_{kind}.{k}": nothing for k in range(LAYERS) for kind in ("key", "value")}


class Value(Protocol):
    """An input or output as ONNX Runtime describes it; `type` reads `tensor(float)`."""

    @property
    def name(self) -> str: ...

    @property
    def shape(self) -> Sequence[int | str | None]: ...

    @property
    def type(self) -> str: ...


_ORT_TYPES = {"tensor(float)": "float32", "tensor(int64)": "int64"}


def check_encoder(metadata: Mapping[str, str], inputs: Iterable[Value], outputs: Iterable[Value]) -> None:
    """Refuse an encoder graph that differs from the contract.

    Args:
        metadata: the model's custom metadata.
        inputs: of the loaded graph.
        outputs: of the loaded graph.

    Raises:
        ContractError: another version, or an input or output is missing, unknown or of another shape or type.
    """
    check_version(metadata)
    for side, specs, values in (("input", ENCODER_INPUTS, inputs), ("output", ENCODER_OUTPUTS, outputs)):
        found = {value.name: value for value in values}
        wanted = {spec.name: spec for spec in specs}
        if set(found) != set(wanted):
            raise ContractError(f"encoder graph: expected {side}s {sorted(wanted)}, found {sorted(found)}")
        for name, spec in wanted.items():
            actual = _described(found[name])
            if not _matches(spec, actual):
                raise ContractError(f"encoder graph: expected {side} {spec}, found {actual}")


def check_version(metadata: Mapping[str, str]) -> None:
    """Refuse a graph made for another version of this contract.

    Raises:
        ContractError: the version differs or is not given.
    """
    found = metadata.get(VERSION_KEY, "none")
    if found != VERSION:
        raise ContractError(f"expected a graph of contract version {VERSION}, found {found}")


def check_decoder(metadata: Mapping[str, str], sha256: str) -> None:
    """Refuse tuned decoder tensors that belong to another version or to another decoder file.

    Args:
        metadata: of the tuned tensors.
        sha256: of the decoder file they are to be put into.

    Raises:
        ContractError: one of both differs.
    """
    check_version(metadata)
    found = metadata.get(DECODER_KEY, "none")
    if found != sha256:
        raise ContractError(f"tuned tensors: expected those for decoder file {sha256}, found those for {found}")


def _described(value: Value) -> TensorSpec:
    shape = tuple("?" if length is None else length for length in value.shape)
    return TensorSpec(value.name, shape, _ORT_TYPES.get(value.type, value.type))


def _matches(spec: TensorSpec, found: TensorSpec) -> bool:
    """Whether types agree and every fixed length is that of the contract; where it has a letter, none may be fixed."""
    return (
        spec.dtype == found.dtype
        and len(spec.shape) == len(found.shape)
        and all(a == b or {type(a), type(b)} == {str} for a, b in zip(spec.shape, found.shape, strict=True))
    )
