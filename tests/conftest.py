"""Fixtures that many tests share: one real server, and real speech."""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterator

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import settings
from numpy.typing import NDArray

from server.local import LocalServer

# Examples are not timed: shared machines stall now and then.
settings.register_profile("crosstalk", deadline=None)
settings.load_profile("crosstalk")

SPEECH_RATE_HZ = 16_000


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """A `crosstalk serve` child for the whole run, on a free loopback port."""
    with LocalServer() as server:
        yield server.url


@pytest.fixture(scope="session")
def story() -> NDArray[np.int16]:
    """(S,) int16 at 16 kHz: 44 s of a novel read aloud, from the moonshine-voice wheel."""
    path = importlib.resources.files("moonshine_voice") / "assets" / "two_cities.wav"
    with importlib.resources.as_file(path) as local:
        pcm, rate_hz = soundfile.read(local, dtype="float32")
    resampled = soxr.resample(pcm, rate_hz, SPEECH_RATE_HZ)
    return np.asarray(np.clip(np.rint(resampled * 32768), -32768, 32767), dtype=np.int16)
