"""Debian's Chromium, driven by Playwright, with a WAV file as its microphone."""

from __future__ import annotations

import shutil
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from playwright.sync_api import Browser, sync_playwright

SAMPLE = Path(__file__).parents[3] / "streaming_models" / "data" / "sample" / "sample-meeting.opus"
SAMPLE_RATE_HZ = 16_000

FLAGS = (
    "--no-sandbox",  # tests may run as root in a container
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
)


def chromium_path() -> str:
    """Where the browser is.

    Raises:
        RuntimeError: it is not installed; the message says how to.
    """
    path = shutil.which("chromium")
    if path is None:
        raise RuntimeError("no `chromium` on PATH: install the Debian package `chromium` (apt-get install chromium)")
    return path


@contextmanager
def open_browser(microphone: Path | None = None) -> Iterator[Browser]:
    """A headless browser.

    Args:
        microphone: WAV file that it hears, once; without one it hears beeps.
    """
    flags = list(FLAGS)
    if microphone is not None:
        flags.append(f"--use-file-for-fake-audio-capture={microphone}%noloop")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=flags)
        try:
            yield browser
        finally:
            browser.close()


def sample_channels() -> NDArray[np.int16]:
    """(C, S) at 16 kHz: the sample meeting that the page plays."""
    pieces = []
    with av.open(str(SAMPLE)) as container:
        resampler = av.AudioResampler(format="s16p", rate=SAMPLE_RATE_HZ)
        for frame in container.decode(audio=0):
            pieces += [out.to_ndarray() for out in resampler.resample(frame)]
        pieces += [out.to_ndarray() for out in resampler.resample(None)]
    return np.concatenate(pieces, axis=1).astype(np.int16)


def write_microphone(path: Path, length_s: float) -> Path:
    """The beginning of the sample meeting as one microphone hears it, in a WAV file."""
    pcm = sample_channels().astype(np.float32).mean(axis=0)[: int(length_s * SAMPLE_RATE_HZ)]
    pcm *= 0.5 * 32_767 / np.abs(pcm).max()
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(SAMPLE_RATE_HZ)
        out.writeframes(pcm.astype("<i2").tobytes())
    return path
