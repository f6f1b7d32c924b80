"""Binary frames as they come -> one unbroken line of 16 kHz float32 audio.

Order: frames may overtake each other within a small window; a duplicate is dropped; a hole is filled with silence and
reported, so that the audio clock stays true. Values: NaN and infinities are refused; samples beyond full scale are
clipped and counted. Rate: soxr, streaming.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import soxr
from numpy.typing import NDArray

from server.clock import MODEL_RATE_HZ
from server.errors import BadMessage, UnsupportedAudio
from server.protocol import AudioFormat, AudioFrame

FloatArray = NDArray[np.float32]

REORDER_FRAMES = 32
"""Frames that may wait for one that was overtaken; then the missing one is taken for lost."""
MAX_HOLE_S = 600
"""A larger jump of `first_sample` is a broken client, not lost audio."""


@dataclass(frozen=True)
class Hole:
    """Samples (of the client's rate) that never came: [start, end)."""

    start_sample: int
    end_sample: int


@dataclass
class Aligned:
    """What a frame released, in order, at the client's rate: pieces of audio (C, S) and the holes among them.

    A hole's silence is one of the pieces, a view that takes no memory however long it is.
    """

    pieces: list[FloatArray]
    holes: list[Hole] = field(default_factory=list)

    @property
    def pcm(self) -> FloatArray:
        """All pieces as one (C, S)."""
        return np.concatenate(self.pieces, axis=1)


class FrameOrder:
    """Puts frames in order. Holds at most REORDER_FRAMES frames; when a further one comes the hole is declared."""

    def __init__(self, audio: AudioFormat) -> None:
        self._audio = audio
        self._waiting: dict[int, tuple[AudioFrame, FloatArray]] = {}  # by first_sample
        self._next_seq = 0
        self.next_sample = 0
        self.duplicates = 0
        self.clipped_samples = 0

    def step(self, frame: AudioFrame) -> Aligned:
        """Take one frame; give what is now in order.

        Raises:
            UnsupportedAudio: NaN or infinite samples.
            BadMessage: a jump of more than MAX_HOLE_S.
        """
        pcm = self._decode(frame)
        end = frame.first_sample + pcm.shape[1]
        if end <= self.next_sample or frame.first_sample in self._waiting:
            self.duplicates += 1
            return Aligned([pcm[:, :0]])
        if frame.first_sample - self.next_sample > MAX_HOLE_S * self._audio.sample_rate_hz:
            raise BadMessage(
                "audio frame from the far future",
                expected=f"first_sample near {self.next_sample}",
                received=f"first_sample {frame.first_sample}",
            )
        self._waiting[frame.first_sample] = (frame, pcm)
        return self._release(everything=False)

    def resume(self) -> None:
        """The connection is a new one: its frames begin at `next_sample`, whatever was under way is sent again."""
        self._waiting.clear()

    def flush(self) -> Aligned:
        """Give what still waits, with its holes."""
        return self._release(everything=True)

    def _release(self, *, everything: bool) -> Aligned:
        pieces: list[FloatArray] = []
        holes: list[Hole] = []
        while self._waiting:
            first = min(self._waiting)
            frame, pcm = self._waiting[first]
            missing = first - self.next_sample
            # The next frame_seq in line means that nothing is under way: the client itself left audio out.
            under_way = missing > 0 and frame.frame_seq != self._next_seq
            if under_way and not everything and len(self._waiting) <= REORDER_FRAMES:
                break
            if missing > 0:
                holes.append(Hole(self.next_sample, first))
                pieces.append(np.broadcast_to(np.float32(0), (pcm.shape[0], missing)))
            del self._waiting[first]
            fresh = pcm[:, max(0, -missing) :]
            pieces.append(fresh)
            self.next_sample = max(self.next_sample, first + pcm.shape[1])
            self._next_seq = (frame.frame_seq + 1) & 0xFFFFFFFF
        empty = np.zeros((self._audio.channels, 0), np.float32)
        return Aligned(pieces or [empty], holes)

    def _decode(self, frame: AudioFrame) -> FloatArray:
        channels = self._audio.channels
        if self._audio.encoding == "s16le":
            samples = np.frombuffer(frame.payload, "<i2").reshape(-1, channels).T.astype(np.float32)
            samples /= 32_768.0
            return np.ascontiguousarray(samples)
        samples = np.frombuffer(frame.payload, "<f4").reshape(-1, channels).T.astype(np.float32)
        if not np.isfinite(samples).all():
            bad = int((~np.isfinite(samples)).sum())
            raise UnsupportedAudio(
                "audio holds values that are not numbers",
                expected="finite float32 samples in [-1, 1]",
                received=f"{bad} NaN or infinite of {samples.size}",
            )
        beyond = int((np.abs(samples) > 1.0).sum())
        self.clipped_samples += beyond
        return np.ascontiguousarray(np.clip(samples, -1.0, 1.0) if beyond else samples)


class Resampler:
    """Any rate -> 16 kHz, all channels alike. The samples do not depend on the chunking."""

    def __init__(self, rate_hz: int, channels: int) -> None:
        self._rate_hz = rate_hz
        self._channels = channels
        self._start()

    def _start(self) -> None:
        self._taken = 0
        self._given = 0
        self._stream: soxr.ResampleStream | None = None
        if self._rate_hz != MODEL_RATE_HZ:
            self._stream = soxr.ResampleStream(self._rate_hz, MODEL_RATE_HZ, self._channels, dtype="float32")

    def step(self, pcm: FloatArray) -> FloatArray:
        """(C, S) at the client's rate -> (C, S') at 16 kHz."""
        return self._run(pcm, last=False)

    def flush(self) -> FloatArray:
        """What the filter still holds, (C, S'); after it the output is as long as the input, to the sample."""
        return self._run(np.zeros((self._channels, 0), np.float32), last=True)

    def reset(self) -> None:
        """Start again at sample 0."""
        self._start()

    def _run(self, pcm: FloatArray, *, last: bool) -> FloatArray:
        self._taken += pcm.shape[1]
        if self._stream is None:
            return pcm
        out = self._stream.resample_chunk(np.ascontiguousarray(pcm.T), last=last)
        result = np.ascontiguousarray(out.reshape(-1, self._channels).T)
        if last:
            total = -(-self._taken * MODEL_RATE_HZ // self._rate_hz)
            wanted = max(0, total - self._given)
            result = np.pad(result, ((0, 0), (0, max(0, wanted - result.shape[1]))))[:, :wanted]
        self._given += result.shape[1]
        return result
