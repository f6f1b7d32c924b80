from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from streaming_models.data.audio_files import read_audio, write_opus
from streaming_models.data.corpus import FloatArray
from tests.streaming_models.data.tiny_speech import syllables


def _murmur(seed: int) -> FloatArray:
    """(S,) float32: three seconds with most power below 1 kHz, as speech has."""
    summed = np.cumsum(syllables(3.0, seed))
    wave = summed - np.convolve(summed, np.ones(400) / 400, "same")
    murmur: FloatArray = (0.5 * wave / np.max(np.abs(wave))).astype(np.float32)
    return murmur


def _delayed_channels() -> FloatArray:
    """(4, S): one source heard 0, 3 and 7 samples late at falling level, and one channel of its own."""
    source = _murmur(1)
    return np.stack([source, np.roll(source, 3) / 2, np.roll(source, 7) / 4, _murmur(2)])


def test_channels_keep_their_order_level_and_delay_through_opus(tmp_path: Path) -> None:
    audio = _delayed_channels()
    write_opus(tmp_path / "four.opus", audio, 128_000)
    decoded = read_audio(tmp_path / "four.opus")
    assert decoded.shape == audio.shape
    assert decoded.dtype == np.float32
    for channel in range(4):
        assert np.corrcoef(decoded[channel], audio[channel])[0, 1] > 0.85
        assert np.std(decoded[channel]) == pytest.approx(np.std(audio[channel]), rel=0.2)
    for channel, delay_samples in ((1, 3), (2, 7)):
        match = [float(np.dot(np.roll(decoded[0], shift), decoded[channel])) for shift in range(-20, 21)]
        assert int(np.argmax(match)) - 20 == delay_samples


def test_the_same_audio_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_opus(tmp_path / name, _delayed_channels()[:2, :8_000], 64_000)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_mono_signal_without_channel_axis_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected \(C, S\)"):
        write_opus(tmp_path / "mono.opus", syllables(0.1, 0), 32_000)


def test_what_is_no_audio_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "notes.opus").write_text("not audio at all")
    with pytest.raises(ValueError, match=r"notes\.opus"):
        read_audio(tmp_path / "notes.opus")
