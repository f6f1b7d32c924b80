"""The real parts that many tests use, made once: graphs, speech, the sample meeting."""

from __future__ import annotations

import importlib.resources
import io
import wave
from functools import cache

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from server import sample
from server.inference import MoonshineGraphs, load_models, moonshine_assets
from server.pipeline import Models
from streaming_models.moonshine import Moonshine

FloatArray = NDArray[np.float32]
RATE_HZ = 16_000


@cache
def models() -> Models:
    """What the server itself loads."""
    return load_models("moonshine")


@cache
def graphs() -> MoonshineGraphs:
    """Moonshine's graphs over ONNX Runtime."""
    return MoonshineGraphs(moonshine_assets())


def moonshine() -> Moonshine:
    """A reader over the real graphs."""
    return Moonshine(graphs(), graphs().table)


@cache
def _wheel_audio(name: str) -> FloatArray:
    path = importlib.resources.files("moonshine_voice") / "assets" / f"{name}.wav"
    with importlib.resources.as_file(path) as local:
        pcm, rate_hz = soundfile.read(local, dtype="float32")
    return np.asarray(soxr.resample(pcm, rate_hz, RATE_HZ), np.float32)


def speech(name: str = "endgame_nagg_nell", seconds: float = 12.0) -> FloatArray:
    """(S,) float32 at 16 kHz: the beginning of a recording of the moonshine-voice wheel."""
    return _wheel_audio(name)[: int(seconds * RATE_HZ)].copy()


def short_speech() -> FloatArray:
    """(S,) 2.9 s: "Ever tried. Ever failed." """
    return speech("beckett", 2.9)


@cache
def _sample_meeting() -> FloatArray:
    with wave.open(io.BytesIO(sample.sample_wav())) as reader:
        channels = reader.getnchannels()
        pcm = np.frombuffer(reader.readframes(reader.getnframes()), "<i2")
    return np.ascontiguousarray(pcm.reshape(-1, channels).T.astype(np.float32) / 32_768)


def meeting(start_s: float, seconds: float) -> FloatArray:
    """(4, S) float32 at 16 kHz: a cut of the sample meeting."""
    first = int(start_s * RATE_HZ)
    return np.ascontiguousarray(_sample_meeting()[:, first : first + int(seconds * RATE_HZ)])


def as_s16(pcm: FloatArray) -> bytes:
    """(C, S) or (S,) -> interleaved s16le."""
    rows = np.atleast_2d(pcm)
    return np.clip(np.rint(rows.T * 32_768), -32_768, 32_767).astype("<i2").tobytes()
