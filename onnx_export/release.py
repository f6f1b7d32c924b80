"""A checkpoint as the files that ship: encoder graph, tuned decoder tensors, card. `crosstalk export-model` runs it.

Run: python -m onnx_export.release CHECKPOINT --assets DIR --out DIR [--card FIELDS.json] [--speech FILE ...]

Both graphs are first written in float32 and held to the torch nets; then the ranges of their activations are measured
on speech and the int8 files written, and how far these are from float32 is reported. Nothing is written if a graph
and its net differ.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from onnx_export.card import card, read_fields
from onnx_export.graph import open_graph
from onnx_export.metadata import Provenance, sha256, write_properties
from onnx_export.moonshine import read_ort_as_onnx
from onnx_export.parity import Nets, ParityError, decoder_parity, encoder_parity
from onnx_export.pretrained import pretrained_decoder
from onnx_export.ranges import encode, measured_decoder, measured_encoder, runner, token_feed
from onnx_export.sot import EncoderGraph
from onnx_export.sot_decoder import HIDDEN, SotDecoderGraphs, Tuned, float_decoder, sot_decoder
from streaming_models.contract import CHUNK_SAMPLES, ENCODER_INPUTS, check_encoder
from streaming_models.data.audio_files import read_audio
from streaming_models.nets.encoder import WIDTH, Encoder
from streaming_models.nets.sot_decoder import SotDecoder
from streaming_models.nets.spatial import SpatialEmbedding
from streaming_models.tokens import START_ID

FloatArray = NDArray[np.float32]

ENCODER_FILE, DECODER_FILE, CARD_FILE = "encoder.onnx", "decoder_tuned.onnx", "CARD.md"
DECODER_ASSET = "decoder_model_merged.ort"
SAMPLE = Path(__file__).parent.parent / "streaming_models" / "data" / "sample" / "sample-meeting.opus"
"""78 s of three people at four microphones: what is measured on unless other speech is given."""
PARITY_CHUNKS, PARITY_WINDOWS = 48, 8
BATCHES = (1, 8, 32)


class CheckpointError(ValueError):
    """A checkpoint does not hold what a release is made of."""


@dataclass(frozen=True)
class Checkpoint:
    """A training run's averaged weights as nets, and where they come from."""

    nets: Nets
    provenance: Provenance

    @classmethod
    def load(cls, path: Path, decoder: Mapping[str, FloatArray], commit: str = "") -> Checkpoint:
        """Read what `streaming_models.train` wrote.

        Args:
            path: `model.pt`.
            decoder: Moonshine's own weights, for what training left alone.
            commit: of the code that trained it.

        Raises:
            CheckpointError: a part is missing or has other weights.
        """
        saved = torch.load(path, map_location="cpu", weights_only=True)
        parts = ("encoder", "spatial", "heads", "decoder_tuned", "step", "seed", "config")
        if missing := [part for part in parts if part not in saved]:
            raise CheckpointError(
                f"{path}: expected a checkpoint with {', '.join(parts)}; missing: {', '.join(missing)}"
            )
        nets = Nets(SpatialEmbedding(), Encoder(), nn.Linear(WIDTH, 2), SotDecoder())
        nets.decoder.load_pretrained(decoder)
        tuned = {name for name, _ in nets.decoder.tuned()}
        if odd := sorted(tuned ^ set(saved["decoder_tuned"])):
            raise CheckpointError(f"{path}: expected the decoder's tuned tensors; missing or not among them: {odd}")
        try:
            nets.encoder.load_state_dict(_floats(saved["encoder"]))
            nets.spatial.load_state_dict(_floats(saved["spatial"]))
            nets.activity.load_state_dict(_floats(saved["heads"]))
            nets.decoder.load_state_dict(_floats(saved["decoder_tuned"]), strict=False)
        except RuntimeError as error:
            raise CheckpointError(f"{path}: {error}") from error
        return cls(nets, Provenance(sha256(path), commit, int(saved["step"]), int(saved["seed"]), saved["config"]))

    def encoder_weights(self) -> dict[str, FloatArray]:
        """As `onnx_export.sot.EncoderGraph` takes them."""
        nets = self.nets
        parts = {"": nets.encoder, "spatial.": nets.spatial, "activity.": nets.activity}
        return {f"{prefix}{n}": t.numpy() for prefix, net in parts.items() for n, t in net.state_dict().items()}

    def decoder_weights(self) -> dict[str, FloatArray]:
        """Those that training changed."""
        return {name: parameter.detach().numpy() for name, parameter in self.nets.decoder.tuned()}


def _floats(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.float() for name, tensor in state.items()}


def relative_error(expected: FloatArray, found: FloatArray) -> float:
    """Root of the share of the variance of (T, D) that the difference makes up."""
    return float(np.sqrt(np.square(found - expected).sum() / np.square(expected - expected.mean(0)).sum()))


def token_agreement(
    exact: SotDecoderGraphs, rounded: SotDecoderGraphs, windows: Sequence[tuple[FloatArray, list[int]]]
) -> float:
    """Share of tokens for which both decoders' first choice is the same, given the same tokens before."""
    choices = []
    for graphs in (exact, rounded):
        memory, tokens = open_graph(graphs.memory), open_graph(graphs.tokens)
        rows = [memory.run(None, {HIDDEN: window[None]})[0] for window, _ in windows]
        feeds = [token_feed(m, [START_ID, *row], 0) for m, (_, row) in zip(rows, windows, strict=True)]
        choices.append(np.concatenate([tokens.run(["logits"], feed)[0].argmax(-1) for feed in feeds]))
    return float((choices[0] == choices[1]).mean())


def chunk_ms(model: onnx.ModelProto, streams: int, repeats: int = 4) -> float:
    """Processor time of one thread for a chunk of one stream with one channel, of so many at once."""
    session = open_graph(model)
    random = np.random.default_rng(0)
    feed: dict[str, NDArray[Any]] = {
        spec.name: random.normal(0, 0.05, spec.zeros(B=streams, C=1).shape).astype(spec.dtype)
        for spec in ENCODER_INPUTS
    }
    feed["cached_norm"], feed["processed_frames"] = np.abs(feed["cached_norm"]), np.full(streams, 1_000)
    times = []
    for _ in range(repeats):
        started = time.process_time()
        session.run(None, feed)
        times.append(time.process_time() - started)
    return min(times) * 1e3 / streams


def release(
    checkpoint: Checkpoint, assets: Path, recordings: Sequence[FloatArray], out: Path, fields: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the files of a release into `out`; what was measured.

    Args:
        checkpoint: the weights.
        assets: folder with the wheel's decoder.
        recordings: (C, S) at 16 kHz, speech to measure on.
        out: made if it is not there.
        fields: see `card`.

    Raises:
        ParityError: a graph differs from its net; nothing is written.
    """
    weights, tuned = checkpoint.encoder_weights(), checkpoint.decoder_weights()
    exact = EncoderGraph(weights).build()
    exact_decoder = float_decoder(pretrained_decoder(assets) | tuned)
    speech = np.concatenate(recordings, axis=1) if len({len(r) for r in recordings}) == 1 else recordings[0]
    heard = speech[:, : PARITY_CHUNKS * CHUNK_SAMPLES]
    measured: dict[str, Any] = {"parity": encoder_parity(checkpoint.nets, open_graph(exact), heard)}
    roundings, hidden = measured_encoder(weights, recordings)
    decoder_roundings, windows = measured_decoder(exact_decoder, tuned, hidden)
    measured["parity"] |= decoder_parity(checkpoint.nets, exact_decoder, windows[:PARITY_WINDOWS])

    small = EncoderGraph(weights, roundings).build()
    write_properties(small, checkpoint.provenance.properties())
    session = open_graph(small)
    check_encoder(session.get_modelmeta().custom_metadata_map, session.get_inputs(), session.get_outputs())
    measured["hidden_error"] = relative_error(encode(runner(open_graph(exact)), heard), encode(runner(session), heard))
    asset = assets / DECODER_ASSET
    kept = Tuned.of(tuned, decoder_roundings).to_model(checkpoint.provenance.decoder_properties(asset))
    rebuilt = sot_decoder(read_ort_as_onnx(asset), Tuned.from_model(kept))
    measured["token_agreement"] = token_agreement(exact_decoder, rebuilt, windows)
    measured["ms"] = {
        name: {f"B={streams}": chunk_ms(model, streams) for streams in BATCHES}
        for name, model in (("float32", exact), ("int8", small))
    }
    out.mkdir(parents=True, exist_ok=True)
    onnx.save(small, str(out / ENCODER_FILE))
    onnx.save(kept, str(out / DECODER_FILE))
    measured["bytes"] = {name: (out / name).stat().st_size for name in (ENCODER_FILE, DECODER_FILE)}
    (out / CARD_FILE).write_text(card_text(checkpoint.provenance, measured, fields), encoding="utf-8")
    return measured


def card_text(provenance: Provenance, measured: Mapping[str, Any], fields: Mapping[str, Any]) -> str:
    """The card in Markdown; see `card`."""
    head = (
        "# Streaming SOT recogniser",
        "",
        "Live words of up to two people at once, from one microphone or several. `encoder.onnx`: the streaming encoder",
        "with its spatial embedding, started from Moonshine Tiny. `decoder_tuned.onnx`: what training changed in",
        "Moonshine Tiny's decoder; the rest is in the package `moonshine-voice`. Written by `crosstalk export-model`.",
    )
    training = f"step {provenance.step}, seed {provenance.seed}, code {provenance.commit or 'not stated'}"
    return card(head, training, provenance.checkpoint, fields, summary(measured))


def summary(measured: Mapping[str, Any]) -> list[str]:
    """What was measured, a line each."""
    worst = max(measured["parity"].values())
    return [
        f"- Float32 graphs against the nets, {PARITY_CHUNKS} chunks of speech: largest difference {worst:.1e}.",
        f"- int8 encoder: {100 * measured['hidden_error']:.1f} % relative error of its frames.",
        f"- int8 decoder: the same first choice for {100 * measured['token_agreement']:.1f} % of the tokens.",
        *(f"- {name}: {size:,} bytes." for name, size in measured["bytes"].items()),
        *(
            f"- {name} encoder, ms of one core a chunk and stream: "
            + ", ".join(f"{value:.1f} ({streams})" for streams, value in times.items())
            for name, times in measured["ms"].items()
        ),
    ]


def main(arguments: list[str] | None = None) -> int:
    """Export from the command line; returns the exit status of the process."""
    parser = argparse.ArgumentParser(prog="python -m onnx_export.release", description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path, help="model.pt of a training run")
    parser.add_argument("--assets", type=Path, required=True, help=f"folder with Moonshine's {DECODER_ASSET}")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--card", type=Path, help="JSON with data, licence and scores for the card")
    parser.add_argument("--speech", type=Path, nargs="+", default=[SAMPLE], help="recordings to measure ranges on")
    parser.add_argument("--commit", default="", help="commit of the code that trained the checkpoint")
    options = parser.parse_args(arguments)
    try:
        fields = read_fields(options.card)
        recordings = [read_audio(path) for path in options.speech]
        checkpoint = Checkpoint.load(options.checkpoint, pretrained_decoder(options.assets), options.commit)
        measured = release(checkpoint, options.assets, recordings, options.out, fields)
    except (CheckpointError, ParityError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(summary(measured)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
