"""Lossy codecs as a live call applies them: audio in, what comes out at the other end.

Length and timing are kept, so that labels stay true. Channels go through a codec each on its own, as uncoupled streams
do (see `audio_files`); nothing is written to disk.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from streaming_models.data.corpus import SAMPLE_RATE_HZ, FloatArray

TELEPHONE_RATE_HZ = 8_000
MU = 255.0


def opus(audio: FloatArray, bit_rate: int) -> FloatArray:
    """(C, S) through Opus in its voice mode at `bit_rate` bits a second and channel."""
    return np.stack([_opus_channel(channel, bit_rate) for channel in audio])


def mu_law(audio: FloatArray) -> FloatArray:
    """(..., S) in [-1, 1] through 8-bit companding with 255 steps a side; louder is clipped.

    Source: ITU-T G.711 mu-law, its smooth curve in place of the 8 straight segments.
    """
    companded = np.sign(audio) * np.log1p(MU * np.minimum(np.abs(audio), 1.0)) / np.log1p(MU)
    steps = np.round(companded * 127.0) / 127.0
    expanded: FloatArray = (np.sign(steps) * np.expm1(np.abs(steps) * np.log1p(MU)) / MU).astype(np.float32)
    return expanded


def telephone(audio: FloatArray) -> FloatArray:
    """(C, S) through a telephone line: 8 kHz sample rate and mu-law."""
    import soxr

    narrow = mu_law(soxr.resample(audio.T, SAMPLE_RATE_HZ, TELEPHONE_RATE_HZ).T)
    return _fitted(soxr.resample(narrow.T, TELEPHONE_RATE_HZ, SAMPLE_RATE_HZ).T, audio.shape[1])


def _opus_channel(channel: FloatArray, bit_rate: int) -> FloatArray:
    """(S,) -> (S,)."""
    import av

    if not len(channel):
        return channel
    stored = io.BytesIO()
    # The encoder's cheapest setting: a fifth of the time, and phones encode no better.
    options = {"application": "voip", "compression_level": "0"}
    with av.open(stored, "w", format="ogg") as container:
        stream: Any = container.add_stream("libopus", rate=SAMPLE_RATE_HZ, layout="mono", options=options)
        stream.bit_rate = bit_rate
        samples = np.ascontiguousarray(np.clip(channel, -1.0, 1.0), np.float32)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="flt", layout="mono")
        frame.sample_rate, frame.pts = SAMPLE_RATE_HZ, 0
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    stored.seek(0)
    to_rate = av.AudioResampler(format="fltp", rate=SAMPLE_RATE_HZ)
    with av.open(stored, "r") as received:
        frames = [part for frame in received.decode(audio=0) for part in to_rate.resample(frame)]
    decoded = np.concatenate([part.to_ndarray() for part in (*frames, *to_rate.resample(None))], axis=1)
    heard: FloatArray = _fitted(decoded, len(channel))[0]
    return heard


def _fitted(audio: FloatArray, length_samples: int) -> FloatArray:
    """(C, S) cut or filled with silence at its end."""
    kept = audio[:, :length_samples]
    fitted: FloatArray = np.pad(kept, ((0, 0), (0, length_samples - kept.shape[1]))).astype(np.float32)
    return fitted
