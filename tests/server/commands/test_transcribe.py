"""`crosstalk transcribe` from its arguments to what it writes, with a real server and real files."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import soxr
from numpy.typing import NDArray

from server.cli import main

RATE_HZ = 16_000
SPOKEN = 3 * RATE_HZ
Pcm = NDArray[np.int16]


def write_wav(path: Path, story: Pcm, channels: int = 1, samples: int = SPOKEN) -> Path:
    """The story on every channel, each a little later and softer than the one before."""
    pcm = np.stack([np.roll(story[:samples], 2 * c) * (0.95**c) for c in range(channels)], axis=1)
    soundfile.write(path, pcm.astype(np.int16), RATE_HZ)
    return path


def test_text_goes_to_stdout_by_a_server_of_its_own(
    tmp_path: Path, story: Pcm, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["transcribe", str(write_wav(tmp_path / "a.wav", story))]) == 0
    captured = capsys.readouterr()
    assert "S1:" in captured.out
    assert "best of times" in captured.out.lower()
    assert captured.err == ""


@pytest.mark.parametrize("channels", [2, 4, 6])
def test_every_channel_count_is_captioned(
    server_url: str, tmp_path: Path, story: Pcm, channels: int, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_wav(tmp_path / "a.wav", story, channels)
    assert main(["transcribe", str(path), "--server", server_url, "--layout", "array"]) == 0
    assert "times" in capsys.readouterr().out.lower()


def test_cd_rate_file_is_captioned(
    server_url: str, tmp_path: Path, story: Pcm, capsys: pytest.CaptureFixture[str]
) -> None:
    pcm = soxr.resample(story[:SPOKEN].astype(np.float32) / 32768, RATE_HZ, 44_100)
    soundfile.write(tmp_path / "a.flac", pcm, 44_100)
    assert main(["transcribe", str(tmp_path / "a.flac"), "--server", server_url]) == 0
    assert "times" in capsys.readouterr().out.lower()


def test_names_and_terms_are_written_as_listed(
    server_url: str, tmp_path: Path, story: Pcm, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(tmp_path / "a.wav", story[13 * RATE_HZ : 17 * RATE_HZ], RATE_HZ)
    (tmp_path / "names.txt").write_text("the season of Light\n")
    arguments = ["transcribe", str(tmp_path / "a.wav"), "--server", server_url]
    assert main(arguments) == 0
    assert "season of light" in capsys.readouterr().out
    assert main([*arguments, "--vocabulary", str(tmp_path / "names.txt")]) == 0
    assert "the season of Light" in capsys.readouterr().out


def test_video_is_captioned_as_subtitles(server_url: str, tmp_path: Path, story: Pcm) -> None:
    pcm = story[:SPOKEN][None, :].astype(np.float32) / 32768
    with av.open(str(tmp_path / "talk.mkv"), "w") as container:
        video = container.add_stream("mpeg4", rate=5)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        audio = container.add_stream("aac", rate=RATE_HZ, layout="mono")
        for _ in range(15):
            picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        for at in range(0, SPOKEN - 1024, 1024):
            frame = av.AudioFrame.from_ndarray(pcm[:, at : at + 1024].copy(), format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE_HZ, at, Fraction(1, RATE_HZ)
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    out = tmp_path / "talk.srt"
    assert (
        main(["transcribe", str(tmp_path / "talk.mkv"), "--server", server_url, "--format", "srt", "-o", str(out)]) == 0
    )
    assert out.read_text().startswith("1\n00:00:0")
    assert "S1: " in out.read_text()


def test_json_has_the_rows_of_all_files_under_their_stems(server_url: str, tmp_path: Path, story: Pcm) -> None:
    files = [str(write_wav(tmp_path / f"{stem}.wav", story)) for stem in ("one", "two & a half")]
    out = tmp_path / "out.json"
    assert main(["transcribe", *files, "--format", "json", "-o", str(out), "--server", server_url, "--jobs", "2"]) == 0
    rows = json.loads(out.read_text())
    assert {row["session_id"] for row in rows} == {"one", "two & a half"}
    for row in rows:
        assert set(row) >= {"session_id", "speaker", "start_time", "end_time", "words"}
        assert 0 <= row["start_time"] < row["end_time"] <= 3.5


def test_other_files_go_on_when_one_cannot_be_read(
    server_url: str, tmp_path: Path, story: Pcm, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "b.txt").write_text("not audio\n")
    soundfile.write(tmp_path / "c.wav", np.zeros((160, 17), np.int16), RATE_HZ)
    good = write_wav(tmp_path / "a.wav", story)
    files = [str(tmp_path / "nowhere.wav"), str(tmp_path / "b.txt"), str(tmp_path / "c.wav"), str(good)]
    folder = tmp_path / "out"
    assert main(["transcribe", *files, "--format", "vtt", "-o", str(folder), "--server", server_url]) == 2
    errors = capsys.readouterr().err
    assert "nowhere.wav: no such file" in errors
    assert "b.txt: not an audio or video file" in errors
    assert "c.wav: too many channels; expected 1-16; received 17" in errors
    assert [path.name for path in folder.iterdir()] == ["a.vtt"]
    assert (folder / "a.vtt").read_text().startswith("WEBVTT")


def test_server_that_is_not_there_is_said(tmp_path: Path, story: Pcm, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_wav(tmp_path / "a.wav", story)
    assert main(["transcribe", str(path), "--server", "http://127.0.0.1:9"]) == 2
    assert "no Crosstalk server answers at" in capsys.readouterr().err


def test_unknown_recogniser_is_said(
    server_url: str, tmp_path: Path, story: Pcm, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_wav(tmp_path / "a.wav", story, samples=RATE_HZ)
    assert main(["transcribe", str(path), "--server", server_url, "--system", "nonsense"]) == 2
    assert "nonsense" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["a.wav", "b.wav", "--format", "srt"], "need -o FOLDER"),
        (["a.wav", "x/a.flac", "--format", "json"], "several files are called 'a'"),
        (["a.wav", "b.wav", "--format", "srt", "-o", "here.txt"], "need a folder"),
        (["a.wav", "-o", "nowhere/out.txt"], "no such folder"),
        (["a.wav", "--jobs", "0"], "--jobs must be at least 1"),
        (["a.wav"], "a.wav: no such file"),
        (["here.txt", "--vocabulary", "nowhere.txt"], "nowhere.txt: No such file"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_before_anything_is_started(
    arguments: list[str],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.txt").write_text("")
    assert main(["transcribe", *arguments]) == 2
    assert reason in capsys.readouterr().err
