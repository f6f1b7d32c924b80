"""Live audio from a sound device, any number of channels, through a bounded queue.

The only door to sounddevice, opened when first used: the package is in the extra `desktop` and wants PortAudio.
It refuses to resample or mix: the device's rate and channels go to the server as they are.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.errors import CrosstalkError
from server.protocol import MAX_CHANNELS, MAX_SAMPLE_RATE_HZ, MIN_SAMPLE_RATE_HZ

BLOCK_MS = 50


class CaptureError(CrosstalkError):
    """Audio cannot be captured; the message says what to install or choose."""

    code = "capture"


@dataclass(frozen=True)
class InputDevice:
    """A sound device with at least one input channel, as PortAudio numbers it."""

    index: int
    name: str
    channels: int
    sample_rate_hz: int
    is_default: bool


@dataclass(frozen=True)
class CapturedBlock:
    """(S, C) int16 samples and the index of the first one; a jump against the end of the block before is a hole."""

    first_sample: int
    pcm: NDArray[np.int16]


class BlockQueue:
    """Blocks on their way from the audio thread to the event loop.

    Bounded by `max_blocks`; when full the oldest block is dropped and counted in `dropped_blocks`, and the jump in
    `first_sample` passes the hole on. `put` is safe in an audio callback: it allocates one copy and never waits long.
    """

    def __init__(self, max_blocks: int) -> None:
        self.dropped_blocks = 0
        self._blocks: deque[CapturedBlock] = deque()
        self._max_blocks = max_blocks
        self._next_sample = 0
        self._lock = threading.Lock()
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self._closed = False

    def put(self, pcm: NDArray[np.int16]) -> None:
        """From any thread: append a copy of (S, C) samples."""
        with self._lock:
            if self._closed:
                return
            if len(self._blocks) >= self._max_blocks:
                self._blocks.popleft()
                self.dropped_blocks += 1
            self._blocks.append(CapturedBlock(self._next_sample, pcm.copy()))
            self._next_sample += len(pcm)
        self._wake()

    def close(self) -> None:
        """From any thread: no more blocks; `get` still hands out what waits."""
        with self._lock:
            self._closed = True
        self._wake()

    async def get(self) -> CapturedBlock | None:
        """The oldest block; None once closed and empty."""
        while True:
            with self._lock:
                if self._blocks:
                    return self._blocks.popleft()
                if self._closed:
                    return None
                self._ready.clear()
            await self._ready.wait()

    def _wake(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._ready.set)


def _sounddevice() -> Any:
    """The module.

    Raises:
        CaptureError: it or PortAudio is not installed.
    """
    try:
        import sounddevice
    except ImportError as error:
        raise CaptureError(
            "capturing needs the package sounddevice: pip install 'crosstalk-captions[desktop]'"
        ) from error
    except OSError as error:  # raised by sounddevice when it cannot load the library
        raise CaptureError(
            "capturing needs the PortAudio library: install it (Debian and Ubuntu: apt-get install libportaudio2)"
        ) from error
    return sounddevice


def list_devices() -> list[InputDevice]:
    """Devices that have inputs, maybe none.

    Raises:
        CaptureError: sounddevice or PortAudio is missing or fails.
    """
    sounddevice = _sounddevice()
    try:
        found = list(sounddevice.query_devices())
        default = int(sounddevice.default.device[0])
        if default < 0:
            default = int(sounddevice.query_hostapis(0)["default_input_device"]) if found else -1
    except sounddevice.PortAudioError as error:
        raise CaptureError(f"PortAudio cannot list the sound devices: {error}") from error
    return [
        InputDevice(
            index=index,
            name=str(entry["name"]),
            channels=int(entry["max_input_channels"]),
            sample_rate_hz=round(entry["default_samplerate"]),
            is_default=index == default,
        )
        for index, entry in enumerate(found)
        if entry["max_input_channels"] > 0
    ]


def choose_device(devices: list[InputDevice], wanted: int | str | None = None) -> InputDevice:
    """The device with that index, or the one whose name holds that text; None: the default, else the first.

    Raises:
        CaptureError: there is none, or the text fits several.
    """
    if not devices:
        raise CaptureError("no microphone found: the system lists no sound device with inputs")
    if wanted is None:
        return next((d for d in devices if d.is_default), devices[0])
    if isinstance(wanted, int) or wanted.isdecimal():
        fitting = [d for d in devices if d.index == int(wanted)]
    else:
        exact = [d for d in devices if d.name == wanted]
        fitting = exact or [d for d in devices if wanted.casefold() in d.name.casefold()]
    if len(fitting) == 1:
        return fitting[0]
    known = "; ".join(f"{d.index}: {d.name}" for d in fitting or devices)
    what = f"several devices fit {wanted!r}" if fitting else f"no input device {wanted!r}"
    raise CaptureError(f"{what}; choose one of {known}")


class Capture:
    """A running device as an async context manager; iterate it for `CapturedBlock`.

    At most `buffer_s` of audio wait for the reader, see `BlockQueue` for what happens then. `overflows` counts the
    times the device said that it lost samples itself; how many, PortAudio does not say.

    Args:
        device: from `choose_device`.
        channels: how many of the device's channels; None for all of them, at most 16.
        buffer_s: longest audio that may wait.

    Raises (from entering):
        CaptureError: the device cannot be opened like that.
    """

    def __init__(self, device: InputDevice, *, channels: int | None = None, buffer_s: float = 10.0) -> None:
        most = min(device.channels, MAX_CHANNELS)
        self.channels = most if channels is None else channels
        if not 1 <= self.channels <= most:
            raise CaptureError(
                f"{device.name} cannot give that many channels", expected=f"1-{most}", received=str(channels)
            )
        self.device = device
        self.sample_rate_hz = min(MAX_SAMPLE_RATE_HZ, max(MIN_SAMPLE_RATE_HZ, device.sample_rate_hz))
        self.overflows = 0
        self._max_blocks = max(2, round(buffer_s * 1000 / BLOCK_MS))
        self._queue: BlockQueue | None = None
        self._stream: Any = None

    @property
    def dropped_blocks(self) -> int:
        """Blocks that were dropped because the reader was too slow."""
        return self._queue.dropped_blocks if self._queue is not None else 0

    async def __aenter__(self) -> Capture:
        sounddevice = _sounddevice()
        queue = self._queue = BlockQueue(self._max_blocks)

        def heard(pcm: NDArray[np.int16], samples: int, times: Any, status: Any) -> None:
            if status.input_overflow:
                self.overflows += 1
            queue.put(pcm)

        try:
            self._stream = sounddevice.InputStream(
                device=self.device.index,
                channels=self.channels,
                samplerate=self.sample_rate_hz,
                dtype="int16",
                blocksize=self.sample_rate_hz * BLOCK_MS // 1000,
                callback=heard,
                finished_callback=queue.close,
            )
            self._stream.start()
        except (sounddevice.PortAudioError, ValueError) as error:
            if self._stream is not None:
                self._stream.close()
            raise CaptureError(
                f"{self.device.name} does not open with {self.channels} channels at {self.sample_rate_hz} Hz: {error}"
            ) from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        await asyncio.to_thread(self._stream.close)

    def stop(self) -> None:
        """No more audio; iteration ends after what waits."""
        assert self._queue is not None, "not entered"
        self._queue.close()

    async def __aiter__(self) -> AsyncIterator[CapturedBlock]:
        assert self._queue is not None, "not entered"
        while (block := await self._queue.get()) is not None:
            yield block
