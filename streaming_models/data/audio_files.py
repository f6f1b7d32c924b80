"""Multi-channel audio files whose channels stay independent.

Opus normally couples channels in pairs, which bends the phase between them; here every channel is a mono stream
of its own (channel mapping family 255, RFC 7845 section 5.1.1.3), so that delays between microphones survive.
Files only: live audio is decoded where it enters the server.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np

from streaming_models.data.corpus import SAMPLE_RATE_HZ, FloatArray

_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "6.0", 7: "7.0", 8: "octagonal"}
"""Names that FFmpeg needs for a channel count; family 255 gives them no meaning, the order is kept."""


def write_opus(path: Path, audio: FloatArray, bit_rate: int) -> None:
    """Write channels as uncoupled Opus in an Ogg file; the same audio gives the same bytes.

    Args:
        path: written anew.
        audio: (C, S) float32 in [-1, 1] at 16 kHz, C from 1 to 8.
        bit_rate: bits a second of all channels together.

    Raises:
        ValueError: wrong rank or too many channels.
    """
    if audio.ndim != 2 or len(audio) not in _LAYOUTS:
        raise ValueError(f"expected (C, S) with C from 1 to {len(_LAYOUTS)}, got {audio.shape}")
    layout = _LAYOUTS[len(audio)]
    with av.open(str(path), "w", format="ogg", options={"fflags": "+bitexact"}) as container:
        stream: Any = container.add_stream(
            "libopus",
            rate=SAMPLE_RATE_HZ,
            layout=layout,
            options={"mapping_family": "255", "application": "audio", "flags": "+bitexact"},
        )
        stream.bit_rate = bit_rate
        interleaved = np.ascontiguousarray(audio.T, np.float32).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(interleaved, format="flt", layout=layout)
        frame.sample_rate, frame.pts = SAMPLE_RATE_HZ, 0
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)


def read_audio(path: Path) -> FloatArray:
    """All channels of the first audio stream of a file, resampled.

    Returns:
        (C, S) float32 in about [-1, 1] at 16 kHz, channels in file order.

    Raises:
        ValueError: no audio stream, or nothing that can be decoded.
    """
    import soxr

    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise ValueError(f"{path}: no audio stream")
            rate_hz = container.streams.audio[0].rate
            to_float = av.AudioResampler(format="fltp")
            planes = [plane.to_ndarray() for frame in container.decode(audio=0) for plane in to_float.resample(frame)]
    except av.FFmpegError as error:
        raise ValueError(f"{path}: cannot decode: {error}") from error
    if not planes:
        raise ValueError(f"{path}: the audio stream is empty")
    decoded = np.concatenate(planes, axis=1)  # (C, S) at the file's rate
    resampled: FloatArray = np.ascontiguousarray(soxr.resample(decoded.T, rate_hz, SAMPLE_RATE_HZ).T)
    return resampled
