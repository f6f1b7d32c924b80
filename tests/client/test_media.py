"""Reading real files, made here with soundfile and PyAV."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from client.media import MediaError, MediaFile


def tones(samples: int, channels: int, rate_hz: int) -> NDArray[np.float32]:
    """(S, C): a tone of its own on every channel, well below full scale."""
    times_s = np.arange(samples)[:, None] / rate_hz
    return np.asarray(0.3 * np.sin(2 * np.pi * (200 + 50 * np.arange(channels)) * times_s), dtype=np.float32)


def read(path: Path) -> NDArray[Any]:
    with MediaFile(path) as media:
        return np.concatenate(list(media.blocks()))


@pytest.mark.parametrize("channels", [1, 2, 4, 6, 16])
@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100])
def test_every_channel_and_sample_is_kept(tmp_path: Path, channels: int, rate_hz: int) -> None:
    pcm = np.rint(tones(rate_hz // 2 + 7, channels, rate_hz) * 32767).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", pcm, rate_hz)
    with MediaFile(tmp_path / "a.wav") as media:
        assert (media.channels, media.sample_rate_hz, media.encoding) == (channels, rate_hz, "s16le")
        assert media.duration_s == pytest.approx(len(pcm) / rate_hz, abs=0.001)
        blocks = list(media.blocks())
    assert all(block.dtype == np.int16 for block in blocks)
    assert {len(block) for block in blocks[:-1]} == {rate_hz // 10}
    np.testing.assert_array_equal(np.concatenate(blocks), pcm)


@pytest.mark.parametrize(("subtype", "error"), [("PCM_24", 1e-6), ("FLOAT", 0.0), ("PCM_U8", 0.01), ("DOUBLE", 1e-7)])
def test_sample_types_keep_their_precision(tmp_path: Path, subtype: str, error: float) -> None:
    pcm = tones(4_000, 2, 16_000)
    soundfile.write(tmp_path / "a.wav", pcm, 16_000, subtype=subtype)
    got = read(tmp_path / "a.wav")
    scaled = got / 32768 if got.dtype == np.int16 else got
    assert got.dtype == (np.int16 if subtype == "PCM_U8" else np.float32)
    assert float(np.abs(scaled - pcm).max()) <= error


def test_flac_is_read_without_loss(tmp_path: Path) -> None:
    pcm = np.rint(tones(20_000, 4, 16_000) * 32767).astype(np.int16)
    soundfile.write(tmp_path / "a.flac", pcm, 16_000)
    np.testing.assert_array_equal(read(tmp_path / "a.flac"), pcm)


@pytest.mark.parametrize(("rate_hz", "read_hz"), [(96_000, 48_000), (4_000, 8_000)])
@pytest.mark.parametrize("channels", [1, 6])
def test_rates_out_of_range_are_resampled(tmp_path: Path, rate_hz: int, read_hz: int, channels: int) -> None:
    soundfile.write(tmp_path / "a.wav", tones(rate_hz, channels, rate_hz), rate_hz)
    with MediaFile(tmp_path / "a.wav") as media:
        assert media.sample_rate_hz == read_hz
        assert media.is_resampled
        got = np.concatenate(list(media.blocks()))
    assert got.shape[1] == channels
    assert abs(len(got) - read_hz) <= 64
    middle = slice(read_hz // 4, read_hz // 2)
    assert float(np.abs(got[middle] - tones(len(got), channels, read_hz)[middle]).max()) < 0.02


def make_video(path: Path, *, with_audio: bool) -> None:
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        audio = container.add_stream("aac", rate=44_100, layout="stereo") if with_audio else None
        for _ in range(10):
            picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        if audio is not None:
            pcm = np.ascontiguousarray(tones(44_100, 2, 44_100).T)
            for at in range(0, 44_032, 1024):
                frame = av.AudioFrame.from_ndarray(pcm[:, at : at + 1024].copy(), format="fltp", layout="stereo")
                frame.sample_rate, frame.pts, frame.time_base = 44_100, at, Fraction(1, 44_100)
                container.mux(audio.encode(frame))
            container.mux(audio.encode(None))


def test_sound_of_a_video_is_read(tmp_path: Path) -> None:
    make_video(tmp_path / "a.mp4", with_audio=True)
    with MediaFile(tmp_path / "a.mp4") as media:
        assert (media.channels, media.sample_rate_hz) == (2, 44_100)
        assert media.duration_s == pytest.approx(1.0, abs=0.1)
        got = np.concatenate(list(media.blocks()))
    assert abs(len(got) - 44_100) < 4_096
    assert float(np.sqrt(np.mean(got**2))) == pytest.approx(0.21, abs=0.03)


def test_video_without_sound_is_refused(tmp_path: Path) -> None:
    make_video(tmp_path / "a.mp4", with_audio=False)
    with pytest.raises(MediaError, match="no audio in it"):
        MediaFile(tmp_path / "a.mp4")


def test_seventeen_channels_are_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tones(1_000, 17, 16_000), 16_000)
    with pytest.raises(MediaError, match="expected 1-16; received 17"):
        MediaFile(tmp_path / "a.wav")


def test_missing_file_folder_and_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("no sound at all\n" * 1000)
    (tmp_path / "empty.wav").write_bytes(b"")
    for name, reason in [
        ("nowhere.wav", "no such file"),
        (".", "not a file"),
        ("a.txt", "not an audio or video file"),
        ("empty.wav", "not an audio or video file"),
    ]:
        with pytest.raises(MediaError, match=reason):
            MediaFile(tmp_path / name)


def test_url_is_not_opened() -> None:
    with pytest.raises(MediaError, match="no such file"):
        MediaFile(Path("http://127.0.0.1:9/a.wav"))


def test_playlist_does_not_reach_the_network(tmp_path: Path) -> None:
    (tmp_path / "a.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n")
    with pytest.raises(MediaError, match="not an audio or video file"):
        MediaFile(tmp_path / "a.m3u8")


def test_file_cut_short_gives_what_is_there(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", tones(160_000, 1, 16_000), 16_000)
    data = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "b.flac").write_bytes(data[: len(data) // 2])
    with MediaFile(tmp_path / "b.flac") as media:
        got = np.concatenate(list(media.blocks()))
        assert media.duration_s == pytest.approx(10.0, abs=0.1)
    assert 40_000 < len(got) < 120_000


def test_file_without_a_sample_gives_no_block(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros((0, 1), np.float32), 16_000)
    with MediaFile(tmp_path / "a.wav") as media:
        assert list(media.blocks()) == []
