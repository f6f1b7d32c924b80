"""Capturing, with a stand-in for the sound hardware only: PortAudio's Python door is replaced, the rest is real."""

from __future__ import annotations

import asyncio
import builtins
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from client.capture import BlockQueue, Capture, CaptureError, InputDevice, choose_device, list_devices

USB = InputDevice(2, "USB Conference Array", 4, 48_000, False)
BUILTIN = InputDevice(0, "Built-in Microphone", 2, 44_100, True)
DOCK = InputDevice(5, "USB Dock", 1, 16_000, False)


class FakeSoundDevice(types.ModuleType):
    """Two devices, one with inputs; streams call back when a test says so."""

    class PortAudioError(Exception):
        pass

    def __init__(self) -> None:
        super().__init__("sounddevice")
        self.default = types.SimpleNamespace(device=(1, 0))
        self.callback: Callable[..., None] | None = None
        self.finished: Callable[[], None] | None = None
        self.refuse = False
        self.closed = False

    def query_devices(self) -> list[dict[str, Any]]:
        return [
            {"name": "Speakers", "max_input_channels": 0, "default_samplerate": 48_000.0},
            {"name": "Array", "max_input_channels": 4, "default_samplerate": 48_000.0},
        ]

    def InputStream(self, *, callback: Any, finished_callback: Any, **options: Any) -> Any:  # noqa: N802 -- its name
        if self.refuse:
            raise self.PortAudioError("Invalid sample rate")
        self.options, self.callback, self.finished = options, callback, finished_callback

        def close() -> None:
            self.closed = True

        return types.SimpleNamespace(start=lambda: None, close=close)


@pytest.fixture
def sound(monkeypatch: pytest.MonkeyPatch) -> FakeSoundDevice:
    module = FakeSoundDevice()
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    return module


def refuse_import(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    real = builtins.__import__

    def importing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "sounddevice":
            raise error
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr(builtins, "__import__", importing)


def block(value: int, samples: int = 10) -> NDArray[np.int16]:
    return np.full((samples, 2), value, np.int16)


def test_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_import(monkeypatch, ImportError("No module named 'sounddevice'"))
    with pytest.raises(CaptureError, match=r"pip install 'crosstalk-captions\[desktop\]'"):
        list_devices()


def test_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_import(monkeypatch, OSError("PortAudio library not found"))
    with pytest.raises(CaptureError, match="libportaudio2"):
        list_devices()


def test_only_devices_with_inputs_are_listed(sound: FakeSoundDevice) -> None:
    assert list_devices() == [InputDevice(1, "Array", 4, 48_000, True)]


def test_device_is_chosen_by_number_name_or_default() -> None:
    devices = [USB, BUILTIN, DOCK]
    assert choose_device(devices) is BUILTIN
    assert choose_device([USB, DOCK]) is USB
    assert choose_device(devices, 5) is DOCK
    assert choose_device(devices, "2") is USB
    assert choose_device(devices, "conference") is USB
    assert choose_device(devices, "USB Dock") is DOCK


@pytest.mark.parametrize(
    ("devices", "wanted", "reason"),
    [
        ([], None, "no microphone found"),
        ([USB, DOCK], "usb", "several devices fit 'usb'; choose one of 2: USB Conference Array; 5: USB Dock"),
        ([USB], "headset", "no input device 'headset'; choose one of 2: USB Conference Array"),
        ([USB], "7", "no input device '7'"),
    ],
)
def test_device_that_cannot_be_chosen_is_explained(devices: list[InputDevice], wanted: Any, reason: str) -> None:
    with pytest.raises(CaptureError, match=reason):
        choose_device(devices, wanted)


@pytest.mark.parametrize("channels", [0, 5])
def test_channels_that_the_device_lacks_are_refused(channels: int) -> None:
    with pytest.raises(CaptureError, match="expected 1-4"):
        Capture(USB, channels=channels)


async def test_blocks_come_in_order_with_their_first_sample() -> None:
    queue = BlockQueue(4)
    queue.put(block(1))
    queue.put(block(2, samples=5))
    queue.close()
    first, second = await queue.get(), await queue.get()
    assert first is not None
    assert second is not None
    assert (first.first_sample, second.first_sample) == (0, 10)
    assert second.pcm.shape == (5, 2)
    assert await queue.get() is None


async def test_full_queue_drops_the_oldest_and_shows_the_hole() -> None:
    queue = BlockQueue(3)
    for value in range(8):
        queue.put(block(value))
    queue.close()
    got = []
    while (one := await queue.get()) is not None:
        got.append((one.first_sample, int(one.pcm[0, 0])))
    assert got == [(50, 5), (60, 6), (70, 7)]
    assert queue.dropped_blocks == 5


async def test_block_is_copied_because_the_driver_reuses_its_memory() -> None:
    queue = BlockQueue(3)
    pcm = block(1)
    queue.put(pcm)
    pcm[:] = 9
    one = await queue.get()
    assert one is not None
    assert int(one.pcm[0, 0]) == 1


async def test_audio_thread_wakes_a_waiting_reader() -> None:
    queue = BlockQueue(3)
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    thread = threading.Thread(target=queue.put, args=(block(7),))
    thread.start()
    one = await asyncio.wait_for(waiting, 5)
    thread.join()
    assert one is not None
    assert int(one.pcm[0, 0]) == 7


async def test_capture_hands_on_what_the_device_gives_until_stopped(sound: FakeSoundDevice) -> None:
    async with Capture(list_devices()[0], buffer_s=1.0) as capture:
        assert sound.options == {
            "device": 1, "channels": 4, "samplerate": 48_000, "dtype": "int16", "blocksize": 2_400
        }  # fmt: skip
        assert sound.callback is not None
        lost = types.SimpleNamespace(input_overflow=True)
        fine = types.SimpleNamespace(input_overflow=False)
        for status in (fine, lost, fine):
            sound.callback(np.zeros((2_400, 4), np.int16), 2_400, None, status)
        capture.stop()
        assert [one.first_sample async for one in capture] == [0, 2_400, 4_800]
    assert (capture.overflows, capture.dropped_blocks, sound.closed) == (1, 0, True)


async def test_device_that_vanishes_ends_the_iteration(sound: FakeSoundDevice) -> None:
    async with Capture(list_devices()[0]) as capture:
        assert sound.finished is not None
        sound.finished()
        assert [one async for one in capture] == []


async def test_device_that_does_not_open_is_explained(sound: FakeSoundDevice) -> None:
    sound.refuse = True
    with pytest.raises(CaptureError, match="Array does not open with 4 channels at 48000 Hz: Invalid sample rate"):
        async with Capture(list_devices()[0]):
            pass
