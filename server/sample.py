"""The shipped sample meeting as the page wants it: one WAV of all channels, decoded once."""

from __future__ import annotations

import io
import json
import wave
from functools import cache
from pathlib import Path

import av
import numpy as np

import streaming_models

FOLDER = Path(streaming_models.__file__).parent / "data" / "sample"
AUDIO = FOLDER / "sample-meeting.opus"
CARD = FOLDER / "sample-meeting.json"
RATE_HZ = 16_000


@cache
def sample_wav() -> bytes:
    """16-bit PCM WAV at 16 kHz, all channels."""
    with av.open(str(AUDIO)) as container:
        stream = container.streams.audio[0]
        channels = stream.channels
        resampler = av.AudioResampler("s16", stream.layout.name, RATE_HZ)
        blocks = [
            block.to_ndarray().reshape(-1, channels)
            for frame in container.decode(stream)
            for block in resampler.resample(frame)
        ]
    pcm = np.concatenate(blocks)
    target = io.BytesIO()
    with wave.open(target, "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(2)
        writer.setframerate(RATE_HZ)
        writer.writeframes(pcm.astype("<i2").tobytes())
    return target.getvalue()


@cache
def sample_card() -> dict[str, object]:
    """Duration, channels and geometry of the sample."""
    card = dict(json.loads(CARD.read_text()))
    with wave.open(io.BytesIO(sample_wav())) as reader:
        card["duration_s"] = reader.getnframes() / reader.getframerate()
        card["channels"] = reader.getnchannels()
    return card
