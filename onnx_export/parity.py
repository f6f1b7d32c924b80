"""The ONNX graphs held to the torch nets that they were written after, on real speech."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from onnx_export.graph import open_graph
from onnx_export.ranges import chunks_of, mix_of, token_feed
from onnx_export.sot_decoder import SotDecoderGraphs
from streaming_models.contract import LEFT_FRAMES, VOICES, start_state
from streaming_models.nets.encoder import Encoder, EncoderState
from streaming_models.nets.sot_decoder import SotDecoder
from streaming_models.nets.spatial import SpatialEmbedding
from streaming_models.tokens import START_ID

FloatArray = NDArray[np.float32]

TOLERANCE = 1e-3


class ParityError(ValueError):
    """A graph says something else than its net."""


@dataclass(frozen=True)
class Nets:
    """The trained modules, in float32 and evaluation mode."""

    spatial: SpatialEmbedding
    encoder: Encoder
    activity: torch.nn.Module
    decoder: SotDecoder


def encoder_parity(nets: Nets, session: onnxruntime.InferenceSession, audio: FloatArray) -> dict[str, float]:
    """Largest difference of every output over all chunks of (C, S), each side with its own state.

    Raises:
        ParityError: one is above TOLERANCE.
    """
    names = [value.name for value in session.get_outputs()]
    worst = dict.fromkeys(names, 0.0)
    state = start_state(1)
    theirs = EncoderState.start(1, LEFT_FRAMES)
    for channels in chunks_of(audio):
        mix = mix_of(channels)
        feed = {"mix": mix[None], "channels": channels[None], **state}
        found = dict(zip(names, session.run(None, feed), strict=True))
        with torch.no_grad():
            samples = torch.from_numpy(mix[None])
            added = nets.spatial(samples, torch.from_numpy(channels[None].copy()))
            hidden, theirs = nets.encoder.step(samples, theirs, added)
            activity = torch.sigmoid(nets.activity(hidden))
        expected = (hidden, activity, theirs.key, theirs.value, theirs.norm, theirs.frames)
        for name, tensor in zip(names, expected, strict=True):
            worst[name] = max(worst[name], float(np.abs(found[name] - tensor.numpy()).max()))
        state = {name: found[f"new_{name}"] for name in state}
    return _accepted(worst)


def decoder_parity(
    nets: Nets, graphs: SotDecoderGraphs, windows: Sequence[tuple[FloatArray, Sequence[int]]]
) -> dict[str, float]:
    """Largest difference of the logits over windows (T, WIDTH) with their rows of tokens, in both virtual channels.

    Raises:
        ParityError: it is above TOLERANCE.
    """
    memory, tokens = open_graph(graphs.memory), open_graph(graphs.tokens)
    worst = {"logits": 0.0}
    for hidden, row in windows:
        with torch.no_grad():
            ids = torch.tensor([[[START_ID, *row]] * VOICES])
            voices, seen = torch.arange(VOICES)[None], torch.ones(1, VOICES, len(hidden), dtype=torch.bool)
            expected = nets.decoder.logits(nets.decoder(ids, voices, torch.from_numpy(hidden[None]), seen))[0]
        rows = memory.run(None, {"hidden": hidden[None]})[0]
        for voice in range(VOICES):
            found = tokens.run(["logits"], token_feed(rows, [START_ID, *row], voice))[0]
            worst["logits"] = max(worst["logits"], float(np.abs(found - expected[voice].numpy()).max()))
    return _accepted(worst)


def _accepted(worst: Mapping[str, float]) -> dict[str, float]:
    bad = {name: value for name, value in worst.items() if not value <= TOLERANCE}
    if bad:
        raise ParityError(f"expected differences of at most {TOLERANCE} between net and graph, got {bad}")
    return dict(worst)
