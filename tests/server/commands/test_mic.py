"""`crosstalk mic` with a stand-in for the sound hardware; server, sockets and Ctrl-C are real."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from server.cli import main
from server.commands.mic import read_geometry
from server.errors import BadMessage
from tests.client.test_capture import FakeSoundDevice

STORY_RATE_HZ = 16_000


class SpeakingDevice(FakeSoundDevice):
    """Two channels that speak for a while; then somebody presses Ctrl-C."""

    def __init__(self, pcm: NDArray[np.int16]) -> None:
        super().__init__()
        self.pcm = np.stack([pcm, pcm], axis=1)

    def query_devices(self) -> list[dict[str, Any]]:
        return [{"name": "Headset", "max_input_channels": 2, "default_samplerate": float(STORY_RATE_HZ)}]

    def InputStream(self, *, callback: Any, finished_callback: Any, **options: Any) -> Any:  # noqa: N802 -- its name
        size = options["blocksize"]

        def speak() -> None:
            fine = types.SimpleNamespace(input_overflow=False)
            for at in range(0, len(self.pcm), size):
                callback(self.pcm[at : at + size], size, None, fine)
                time.sleep(0.005)
            os.kill(os.getpid(), signal.SIGINT)

        self.speaking = threading.Thread(target=speak)
        return types.SimpleNamespace(start=self.speaking.start, close=self.speaking.join)


def test_ctrl_c_finishes_with_everything_captioned_and_a_transcript(
    server_url: str,
    story: NDArray[np.int16],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", SpeakingDevice(story[: 3 * STORY_RATE_HZ]))
    (tmp_path / "array.json").write_text(json.dumps([[0, 0, 0], [0.1, 0, 0]]))
    arguments = ["mic", "--server", server_url, "--geometry", str(tmp_path / "array.json")]
    assert main([*arguments, "-o", str(tmp_path / "out.txt")]) == 0
    captured = capsys.readouterr()
    assert "best of times" in captured.out.lower()
    assert "best of times" in (tmp_path / "out.txt").read_text().lower()
    assert f"transcript: {tmp_path / 'out.txt'}" in captured.err
    assert "listening to Headset" in captured.err


def test_devices_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", FakeSoundDevice())
    assert main(["mic", "--list-devices"]) == 0
    assert capsys.readouterr().out == "*  1  Array  (4 channels, 48000 Hz)\n"


def test_machine_without_a_microphone_is_told_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = FakeSoundDevice()
    monkeypatch.setattr(module, "query_devices", list)
    monkeypatch.setattr(module, "query_hostapis", lambda index: {"default_input_device": -1}, raising=False)
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    assert main(["mic"]) == 2
    assert "no microphone found" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{}[", "[[1, 2]]", '[["a", 0, 0]]', "3"])
def test_geometry_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "g.json").write_text(text)
    with pytest.raises(BadMessage, match="not microphone positions"):
        read_geometry(tmp_path / "g.json")
    with pytest.raises(BadMessage, match="No such file"):
        read_geometry(tmp_path / "nowhere.json")
