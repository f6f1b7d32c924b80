"""Speech through the float32 graphs, to learn the ranges of their activations (`onnx_export.quantize`).

This file imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from onnx_export.graph import open_graph
from onnx_export.quantize import Rounding, Seen, Tapped
from onnx_export.sot import EncoderGraph, activations, even_matrices, matrix_of
from onnx_export.sot_decoder import HIDDEN, SotDecoderGraphs, tuned_matrices_of
from onnx_export.sot_decoder import activations as decoder_activations
from streaming_models.contract import (
    CHUNK_FRAMES,
    CHUNK_SAMPLES,
    LOOKAHEAD_SAMPLES,
    memory_inputs,
    no_tokens,
    start_state,
)
from streaming_models.tokens import END_ID, START_ID

FloatArray = NDArray[np.float32]
Run = Callable[[dict[str, NDArray[Any]]], dict[str, NDArray[Any]]]
"""Inputs of a graph by name -> its outputs by name."""

OTHER_GAINS = (0.2, 3.0)
WINDOW_CHUNKS = 8
"""Of the windows that the decoder is measured on: 5.2 s."""
LONGEST_ROW = 32


def chunks_of(audio: FloatArray) -> Iterator[FloatArray]:
    """(C, S) -> (C, CHUNK_SAMPLES + LOOKAHEAD_SAMPLES) chunk by chunk, the last ones filled up with silence."""
    count = -(-audio.shape[1] // CHUNK_SAMPLES)
    padded = np.pad(audio, ((0, 0), (0, count * CHUNK_SAMPLES + LOOKAHEAD_SAMPLES - audio.shape[1])))
    for k in range(count):
        yield padded[:, k * CHUNK_SAMPLES : k * CHUNK_SAMPLES + CHUNK_SAMPLES + LOOKAHEAD_SAMPLES]


def mix_of(channels: FloatArray) -> FloatArray:
    """(C, S) -> (S,)."""
    mixed: FloatArray = channels.mean(0, dtype=np.float32)
    return mixed


def runner(session: onnxruntime.InferenceSession) -> Run:
    """A session as a function of arrays by name."""
    names = [value.name for value in session.get_outputs()]
    return lambda feed: dict(zip(names, session.run(None, feed), strict=True))


def encode(run: Run, audio: FloatArray) -> FloatArray:
    """(C, S) through an encoder, chunk by chunk -> (T, WIDTH)."""
    state, rows = start_state(1), []
    for channels in chunks_of(audio):
        found = run({"mix": mix_of(channels)[None], "channels": channels[None], **state})
        state = {name: found[f"new_{name}"] for name in state}
        rows.append(found["hidden"][0])
    return np.concatenate(rows)


def windows_of(hidden: FloatArray) -> Iterator[FloatArray]:
    """Windows of WINDOW_CHUNKS of a recording's frames (T, WIDTH), half of each shared with the next."""
    size = WINDOW_CHUNKS * CHUNK_FRAMES
    for start in range(0, max(1, len(hidden) - size + 1), size // 2):
        yield hidden[start : start + size]


def token_feed(memory: FloatArray, row: Sequence[int], voice: int, logits_from: int = 0) -> dict[str, NDArray[Any]]:
    """One row from its first token on, over one window's memory (1, T, MEMORY_WIDTH)."""
    wanted = np.array([[0, place] for place in range(logits_from, len(row))])
    return {
        "tokens": np.array([row], np.int64),
        "voice": np.array([voice], np.float32),
        "past_tokens": np.zeros(1, np.int64),
        "frames": np.array([memory.shape[1]], np.int64),
        "wanted": wanted,
        **no_tokens(1),
        **memory_inputs(memory),
    }


def measured_encoder(
    weights: Mapping[str, FloatArray], recordings: Sequence[FloatArray]
) -> tuple[dict[str, Rounding], list[FloatArray]]:
    """How to round the encoder's activations, and what it says of the recordings (C, S): (T, WIDTH) each."""
    tapped = Tapped(EncoderGraph(weights).build(), activations())
    hidden = [encode(tapped.run, recording) for recording in recordings]
    for gain in OTHER_GAINS:
        for recording in recordings:
            encode(tapped.run, recording * gain)

    def even(activation: str) -> FloatArray | None:
        names = even_matrices(activation)
        return np.concatenate([matrix_of(n, weights[n]) for n in names], axis=1) if names else None

    return tapped.roundings(even), hidden


def measured_decoder(
    graphs: SotDecoderGraphs, weights: Mapping[str, FloatArray], hidden: Sequence[FloatArray]
) -> tuple[dict[str, Rounding], list[tuple[FloatArray, list[int]]]]:
    """How to round the decoder's activations; and the windows with the tokens read from them.

    Args:
        graphs: in float32.
        weights: the tuned ones.
        hidden: (T, WIDTH) of every recording.
    """
    memory = open_graph(graphs.memory)
    tapped = Tapped(onnx.load_from_string(graphs.tokens), decoder_activations())
    windows = [window for frames in hidden for window in windows_of(frames)]
    rows = []
    for window in windows:
        remembered = memory.run(None, {HIDDEN: window[None]})[0]
        row = [START_ID]
        while len(row) < LONGEST_ROW:
            logits = tapped.run(token_feed(remembered, row, 0, len(row) - 1), look=False)["logits"]
            if (token := int(logits[0].argmax())) == END_ID:
                break
            row.append(token)
        for voice in (0, 1):
            tapped.run(token_feed(remembered, row, voice))
        rows.append(row[1:])

    def even(activation: str) -> FloatArray | None:
        names = tuned_matrices_of(activation)
        return np.concatenate([weights[n] for n in names], axis=1) if names else None

    seen = Seen()
    for frames in hidden:
        seen.add(frames)
    # Outliers of the first token, to which all others attend a little, would take most of the levels: measured on
    # 566 words, 7 change with the range cut and 17 with the whole. In the encoder it is the other way round.
    found = tapped.roundings(even, cut=True) | {HIDDEN: seen.rounding(even(HIDDEN))}
    return found, list(zip(windows, rows, strict=True))
