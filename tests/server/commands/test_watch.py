"""`crosstalk watch` on a session that has ended: its history, plain because the test's stdout is no terminal."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from server.cli import main
from server.commands.streaming import stream_file


def test_history_of_a_session_is_shown_and_since_leaves_it_out(
    server_url: str, tmp_path: Path, story: NDArray[np.int16], capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(tmp_path / "a.wav", story[:48_000], 16_000)
    session_id = asyncio.run(stream_file(server_url, tmp_path / "a.wav")).session_id
    assert main(["watch", session_id, "--server", server_url]) == 0
    shown = capsys.readouterr().out
    assert "best of times" in shown.lower()
    assert "\x1b" not in shown
    assert main(["watch", session_id, "--server", server_url, "--since", "100000"]) == 0
    assert "best of times" not in capsys.readouterr().out.lower()


def test_session_that_does_not_exist_is_said(server_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", "nobody-here", "--server", server_url]) == 2
    assert "crosstalk: " in capsys.readouterr().err


def test_server_that_is_not_there_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", "any", "--server", "http://127.0.0.1:9"]) == 2
    assert "no Crosstalk server answers at" in capsys.readouterr().err
