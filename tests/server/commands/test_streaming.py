"""What the commands share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from client.media import MediaError
from client.sdk import ServerUnreachable
from server.commands.streaming import new_session_id, read_vocabulary, server_at, stream_file
from server.errors import BadMessage
from server.protocol import SESSION_ID, AnyServerMessage, Levels


@given(st.text(max_size=100))
def test_any_file_name_makes_a_session_id(stem: str) -> None:
    assert SESSION_ID.fullmatch(new_session_id(stem))


def test_session_ids_show_the_stem_and_differ() -> None:
    first, second = new_session_id("team meeting 3"), new_session_id("team meeting 3")
    assert first.startswith("team-meeting-3-")
    assert first != second


def test_given_server_is_used_as_it_is() -> None:
    with server_at("localhost:1/") as url:
        assert url == "http://localhost:1"
    with pytest.raises(ServerUnreachable, match="not a server address"), server_at("gopher://x"):
        pass


def test_a_vocabulary_is_a_line_for_each_name_and_term(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("\ufeffKettering\r\n\n  olive oil  \nZoë\n", encoding="utf-8")
    assert read_vocabulary(path) == ("Kettering", "olive oil", "Zoë")
    assert read_vocabulary(None) == ()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff\xfe", "names.txt: not text"),
        (b"word\n" * 201, "at most 200 phrases"),
        (b"w" * 65, "not a name"),
        (None, "names.txt: No such file"),
    ],
)
def test_a_vocabulary_that_no_session_takes_is_refused(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "names.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadMessage, match=reason):
        read_vocabulary(path)


async def test_realtime_and_fast_give_the_same_words(server_url: str, story: NDArray[np.int16], tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", story[:64_000], 16_000)
    fast = await stream_file(server_url, tmp_path / "a.wav")
    seen_ms: list[float] = []
    live = await stream_file(
        server_url, tmp_path / "a.wav", realtime=True, on_message=lambda _, now_ms: seen_ms.append(now_ms)
    )
    assert seen_ms[-1] >= 4_000
    assert live.transcript.rows("s") == fast.transcript.rows("s") != []
    assert fast.audio_s == live.audio_s == 4.0


async def test_silence_ends_without_words_and_without_notes(server_url: str, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros((32_000, 2), np.int16), 16_000)
    streamed = await stream_file(server_url, tmp_path / "a.wav")
    assert streamed.transcript.rows("s") == []
    assert streamed.audio_s == 2.0


async def test_only_the_first_channels_are_sent_when_so_many_are_asked_for(server_url: str, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros((16_000, 3), np.int16), 16_000)
    seen: list[int] = []

    def levels(message: AnyServerMessage, _: float) -> None:
        if isinstance(message, Levels):
            seen.append(len(message.levels_db))

    for asked, sent in ((2, 2), (8, 3), (None, 3)):
        streamed = await stream_file(server_url, tmp_path / "a.wav", channels=asked, on_message=levels)
        assert (streamed.channels, seen.pop()) == (sent, sent)


async def test_file_that_cannot_be_read_is_an_error_before_the_server_is_asked(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no such file"):
        await stream_file("http://127.0.0.1:9", tmp_path / "nowhere.wav")
