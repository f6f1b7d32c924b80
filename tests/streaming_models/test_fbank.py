"""The voice features: right against a slow reference, whole under any chunking, clear about bad input."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming_models import fbank as fb

FloatArray = npt.NDArray[np.float32]


def speechlike(samples: int, seed: int = 0) -> FloatArray:
    generator = np.random.default_rng(seed)
    time_s = np.arange(samples) / fb.SAMPLE_RATE_HZ
    buzz = sum(np.sin(2 * np.pi * 130 * k * time_s) / k for k in range(1, 20))
    return (0.05 * buzz + generator.normal(0, 0.005, samples)).astype(np.float32)


def mel(hz: float) -> float:
    return 1127 * math.log(1 + hz / 700)


def slow_row(frame: FloatArray) -> npt.NDArray[np.float64]:
    """One row by the definition, in float64, sample by sample."""
    x = frame.astype(np.float64) * 32768
    x -= x.mean()
    x = np.array([x[0] - 0.97 * x[0]] + [x[i] - 0.97 * x[i - 1] for i in range(1, 400)])
    x *= [0.54 - 0.46 * np.cos(2 * np.pi * i / 399) for i in range(400)]
    power = np.abs(np.fft.fft(x, 512)[:257]) ** 2
    low, high = mel(20), mel(8000)
    step = (high - low) / 81
    row = np.zeros(80)
    for m in range(80):
        left, centre, right = low + m * step, low + (m + 1) * step, low + (m + 2) * step
        for k in range(256):
            at = mel(k * 31.25)
            if left < at <= centre:
                row[m] += power[k] * (at - left) / (centre - left)
            elif centre < at < right:
                row[m] += power[k] * (right - at) / (right - centre)
    floor = float(np.finfo(np.float32).eps)
    return np.asarray(np.log(np.maximum(row, floor)), dtype=np.float64)


def test_rows_equal_the_definition_written_out() -> None:
    audio = speechlike(2000)
    rows = fb.fbank(audio)
    assert rows.shape == (11, 80)
    assert rows.dtype == np.float32
    for index in (0, 5, 10):
        frame = audio[160 * index : 160 * index + 400]
        np.testing.assert_allclose(rows[index], slow_row(frame), atol=2e-3)


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 6000), max_size=8))
def test_any_chunking_equals_one_call(cuts: list[int]) -> None:
    audio = speechlike(6000)
    stream = fb.FbankStream()
    rows = [stream.step(part) for part in np.split(audio, sorted(cuts))]
    np.testing.assert_allclose(np.concatenate(rows), fb.fbank(audio), atol=1e-4)


def test_reset_forgets_the_carried_audio() -> None:
    stream = fb.FbankStream()
    stream.step(speechlike(500, seed=1))
    stream.reset()
    np.testing.assert_array_equal(stream.step(speechlike(900)), fb.fbank(speechlike(900)))


def test_less_than_one_window_gives_no_row() -> None:
    assert fb.fbank(speechlike(399)).shape == (0, 80)
    assert fb.frame_count(400) == 1
    assert fb.frame_count(559) == 1
    assert fb.frame_count(560) == 2


def test_digital_silence_is_finite() -> None:
    assert np.isfinite(fb.fbank(np.zeros(800, np.float32))).all()


def test_centring_removes_a_constant_gain() -> None:
    audio = speechlike(4000)
    quiet = fb.centred(fb.fbank(audio * np.float32(0.25)))
    np.testing.assert_allclose(quiet, fb.centred(fb.fbank(audio)), atol=1e-3)


@pytest.mark.parametrize(
    ("pcm", "message"),
    [
        (np.zeros((2, 100), np.float32), "float32"),
        (np.zeros(100, np.float64), "float64"),
        (np.array([0.0, np.nan], np.float32), "finite"),
    ],
)
def test_wrong_audio_is_refused_with_what_was_received(pcm: FloatArray, message: str) -> None:
    with pytest.raises(fb.VoiceInputError, match=message):
        fb.fbank(pcm)


def test_centring_refuses_empty_features() -> None:
    with pytest.raises(fb.VoiceInputError, match=r"\(0, 80\)"):
        fb.centred(np.zeros((0, 80), np.float32))
