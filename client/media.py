"""Audio out of any file that PyAV reads: blocks of samples, every channel kept, memory bounded.

It refuses to mix channels, to guess what a damaged file meant, and to touch the network (a URL is not a file).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from server.errors import CrosstalkError
from server.protocol import MAX_CHANNELS, MAX_SAMPLE_RATE_HZ, MIN_SAMPLE_RATE_HZ, Encoding

Samples = NDArray[Any]
"""(S, C) int16 or float32 in [-1, 1]."""

BLOCK_MS = 100


class MediaError(CrosstalkError):
    """A file that cannot be captioned; the message names the file and what was found."""

    code = "media"


class MediaFile:
    """The first audio stream of a file, as a context manager.

    One block and one decoded packet are in memory at a time. `damaged_packets` counts packets that could not be
    decoded and were left out.

    Args:
        path: an audio or video file.
        block_ms: length of the blocks.

    Raises:
        MediaError: no such file, not a media file, no audio in it, or more channels than the protocol takes.
    """

    def __init__(self, path: Path, *, block_ms: int = BLOCK_MS) -> None:
        self.path = path
        self.damaged_packets = 0
        if not path.exists():
            raise MediaError(f"{path}: no such file")
        if not path.is_file():
            raise MediaError(f"{path}: not a file")
        try:
            with path.open("rb") as file:
                if file.read(7) == b"#EXTM3U":  # FFmpeg would follow its addresses
                    raise MediaError(f"{path}: a playlist, not an audio or video file")
            # A title in an old encoding must not make the sound unreadable, and no file may reach the network.
            self._container = av.open(
                str(path.absolute()), metadata_errors="replace", container_options={"protocol_whitelist": "file"}
            )
        except PermissionError as error:
            raise MediaError(f"{path}: no permission to read it") from error
        except (av.FFmpegError, OSError, ValueError) as error:
            raise MediaError(f"{path}: not an audio or video file") from error
        try:
            self._open_stream(block_ms)
        except BaseException:
            self._container.close()
            raise

    def _open_stream(self, block_ms: int) -> None:
        if self._container.format.name == "tty":  # FFmpeg draws any text file as a video
            raise MediaError(f"{self.path}: not an audio or video file")
        if not self._container.streams.audio:
            raise MediaError(f"{self.path}: no audio in it")
        self._stream = self._container.streams.audio[0]
        self.channels = int(self._stream.channels)
        if not 1 <= self.channels <= MAX_CHANNELS:
            raise MediaError(
                f"{self.path}: too many channels", expected=f"1-{MAX_CHANNELS}", received=f"{self.channels}"
            )
        self.file_sample_rate_hz = int(self._stream.rate)
        self.sample_rate_hz = min(MAX_SAMPLE_RATE_HZ, max(MIN_SAMPLE_RATE_HZ, self.file_sample_rate_hz))
        """Rate of the blocks: the file's own, or the nearest that the protocol takes."""
        self._dtype: type[np.int16] | type[np.float32] = np.float32
        if str(self._stream.format.name) in ("s16", "s16p", "u8", "u8p") and not self.is_resampled:
            self._dtype = np.int16
        self._block_samples = max(1, self.sample_rate_hz * block_ms // 1000)

    @property
    def is_resampled(self) -> bool:
        """Whether the file's sample rate is out of the protocol's range."""
        return self.sample_rate_hz != self.file_sample_rate_hz

    @property
    def encoding(self) -> Encoding:
        """Encoding that carries the blocks without loss."""
        return "s16le" if self._dtype is np.int16 else "f32le"

    @property
    def duration_s(self) -> float | None:
        """Length as the file states it; None when it does not."""
        if self._stream.duration is not None and self._stream.time_base is not None:
            return float(self._stream.duration * self._stream.time_base)
        if self._container.duration is not None:
            return float(self._container.duration) / av.time_base
        return None

    def __enter__(self) -> MediaFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()

    def blocks(self) -> Iterator[Samples]:
        """The audio from the start, once: (S, C) int16 or float32, all of one length but the last.

        Raises:
            MediaError: the number of channels changes, or nothing at all could be decoded.
        """
        waiting: list[Samples] = []
        waiting_samples = total_samples = 0
        for piece in self._pieces():
            waiting.append(piece)
            waiting_samples += len(piece)
            total_samples += len(piece)
            if waiting_samples < self._block_samples:
                continue
            joined = np.concatenate(waiting)
            whole = len(joined) - len(joined) % self._block_samples
            for at in range(0, whole, self._block_samples):
                yield joined[at : at + self._block_samples]
            waiting, waiting_samples = [joined[whole:]], len(joined) - whole
        if waiting_samples:
            yield np.concatenate(waiting)
        if not total_samples and self.damaged_packets:
            raise MediaError(f"{self.path}: its audio cannot be decoded")

    def _pieces(self) -> Iterator[Samples]:
        """Decoded frames as (S, C), at the blocks' rate."""
        resampler: Any = None
        for frame in self._frames():
            if frame.layout.nb_channels != self.channels:
                raise MediaError(
                    f"{self.path}: the number of channels changes on the way",
                    expected=str(self.channels),
                    received=str(frame.layout.nb_channels),
                )
            if resampler is None and frame.sample_rate != self.sample_rate_hz:
                resampler = av.AudioResampler(format="fltp", layout=frame.layout, rate=self.sample_rate_hz)
            if resampler is None:
                yield self._as_samples(frame)
            else:
                for resampled in resampler.resample(frame):
                    yield self._as_samples(resampled)
        if resampler is not None:
            for resampled in resampler.resample(None):
                yield self._as_samples(resampled)

    def _frames(self) -> Iterator[Any]:
        try:
            for packet in self._container.demux(self._stream):
                try:
                    yield from packet.decode()
                except av.FFmpegError:
                    self.damaged_packets += 1
        except av.FFmpegError:
            self.damaged_packets += 1  # the file ends in the middle of something

    def _as_samples(self, frame: Any) -> Samples:
        """(S, C) of the blocks' type; integers of more than 16 bits become float32 without loss up to 24 bits."""
        raw = frame.to_ndarray()  # planar (C, S), packed (1, S * C)
        pcm = raw.T if frame.format.is_planar else raw.reshape(-1, self.channels)
        if pcm.dtype == np.uint8:
            pcm = (pcm.astype(np.int16) - 128) * 256
        if pcm.dtype == np.int16 and self._dtype is np.int16:
            return np.ascontiguousarray(pcm, dtype=np.int16)
        scale = float(np.iinfo(pcm.dtype).max) + 1.0 if pcm.dtype.kind == "i" else 1.0
        values = np.asarray(pcm / scale, dtype=np.float32)
        if self._dtype is np.int16:  # a stream that changes its sample type on the way
            return np.clip(np.rint(values * 32768), -32768, 32767).astype(np.int16)
        return np.ascontiguousarray(np.nan_to_num(values, posinf=1.0, neginf=-1.0))
