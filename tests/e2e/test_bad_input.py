"""Whatever a client does wrong on a real server: it is told what was expected and what came, with the right close
code, another session at the same time reads exactly as when alone, and nothing said is lost silently."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest

from server.local import LocalServer
from server.protocol import MAX_FRAME_BYTES, AudioFrame, Ended, Error, Gap, Levels, pack_frame
from server.protocol import Warning as WarningMessage
from streaming_models.polish import letters
from tests import real
from tests.wire import END, Spoken, Talk, frames_of, rest, speak, start_text, talk, transcript_words, words_of

GRACE_S = 1.0


def fresh(stem: str = "bad") -> str:
    return f"{stem}-{secrets.token_hex(4)}"


def frame(number: int, first_sample: int, payload: bytes) -> bytes:
    return pack_frame(AudioFrame(number, first_sample, payload))


@pytest.fixture(scope="module")
def alone(server_url: str) -> Spoken:
    """What the neighbour reads when nobody else is there."""
    return words_of(asyncio.run(speak(server_url, real.short_speech())))


def letters_of(said: Spoken) -> list[str]:
    """Punctuation aside: it depends on what is heard before the first word."""
    return [letters(word) for word, *_ in said]


@pytest.fixture
async def neighbour(server_url: str, alone: Spoken) -> AsyncIterator[None]:
    """A session that is in the middle of its audio while the test goes on, and must read as when alone."""
    frames = frames_of(real.as_s16(real.short_speech()), 3_200)
    async with talk(server_url) as other:
        await other.send(start_text())
        await other.until("started")
        reading = asyncio.create_task(other.until_closed())
        for data in frames[: len(frames) // 2]:
            await other.send(data)
        yield
        for data in frames[len(frames) // 2 :]:
            await other.send(data)
        await other.send(END)
        assert await reading == 1000
        assert words_of(other.heard) == alone != []


pytestmark = pytest.mark.usefixtures("neighbour")


def assert_told(error: Error, expected: str, received: str) -> None:
    assert expected in str(error.expected), error
    assert received in str(error.received), error


# --- the first message ---------------------------------------------------------------------------------------------

BAD_STARTS: list[tuple[str, str, int, str, str]] = [
    ("unknown protocol version", start_text(protocol=2), 4426, "1", "2"),
    ("protocol version as text", start_text(protocol="1"), 4400, "int", '"1"'),
    ("no protocol", start_text(without="protocol"), 4400, "a field 'protocol'", "'audio'"),
    ("no audio", start_text(without="audio"), 4400, "a field 'audio'", "'protocol'"),
    ("no type", start_text(without="type"), 4400, "a field 'type'", "'protocol'"),
    ("unknown type", start_text(type="begin"), 4400, "'start' or 'end'", "begin"),
    ("unknown field", start_text(colour="red"), 4400, "fields among", "colour"),
    ("absurd vocabulary", start_text(vocabulary=["w"] * 201), 4400, "at most 200", "201 phrases"),
    ("title with a newline", start_text(title="a\nb"), 4400, "control characters", "a\\nb"),
    ("negative last_seq", start_text(last_seq=-1), 4400, "0 to", "-1"),
    ("language that is none", start_text(language="../../x"), 4400, "BCP 47", "../../x"),
    ("language not spoken here", start_text(language="de"), 4400, "en", "de"),
    ("system that is not there", start_text(system="oracle"), 4400, "moonshine", "oracle"),
    ("token of nothing", start_text("nobody-here", resume_token="x"), 4404, "a session that waits", "nobody-here"),
    ("session id with a path", start_text("../../etc/passwd"), 4400, "letters, digits", "../../etc/passwd"),
    ("session id with a key", start_text("a:*"), 4400, "letters, digits", "a:*"),
    ("session id too long", start_text("a" * 65), 4400, "1-64", "aaaa"),
    ("17 channels", start_text(audio={"channels": 17}), 4415, "1-16 channels", "17 channels"),
    ("no channels", start_text(audio={"channels": 0}), 4415, "1-16 channels", "0 channels"),
    ("7 kHz", start_text(audio={"sample_rate_hz": 7_000}), 4415, "8000-48000 Hz", "7000 Hz"),
    ("96 kHz", start_text(audio={"sample_rate_hz": 96_000}), 4415, "8000-48000 Hz", "96000 Hz"),
    ("rate as text", start_text(audio={"sample_rate_hz": "16k"}), 4400, "int", "16k"),
    ("unknown encoding", start_text(audio={"encoding": "mp3"}), 4415, "s16le or f32le", "mp3"),
    ("unknown layout", start_text(audio={"layout": "ring"}), 4415, "close_talk", "ring"),
    ("one microphone too few", start_text(audio={"channels": 2, "geometry_m": [[0, 0, 0]]}), 4415, "2 rows", "1 rows"),
    ("microphone on the moon", start_text(audio={"geometry_m": [[0, 0, 4e8]]}), 4415, "within 100 m", "400000000"),
    ("end before the start", END, 4400, "'start'", "'end'"),
    ("not JSON", "hello", 4400, "JSON object", "hello"),
    ("not an object", "[1,2]", 4400, "JSON object", "[1, 2]"),
    ("nothing", "", 4400, "JSON object", '""'),
    ("nested without end", "[" * 60_000, 4400, "JSON object", "[[["),
    ("text over the limit", "x" * 70_000, 4413, "at most 65536 bytes", "70000 bytes"),
]


async def test_every_bad_start_is_refused_with_expected_and_received(server_url: str) -> None:
    async def one(name: str, text: str, code: int, expected: str, received: str) -> None:
        async with talk(server_url) as client:
            await client.send(text)
            closed, error = await client.refusal()
            assert closed == code, (name, error)
            assert_told(error, expected, received)
            assert client.heard == [error], name

    for case in BAD_STARTS:
        await one(*case)


async def test_audio_before_the_start_is_refused(server_url: str) -> None:
    async with talk(server_url) as client:
        await client.send(frame(0, 0, bytes(320)))
        code, error = await client.refusal()
        assert code == 4400
        assert_told(error, "a text message 'start'", "a binary message")


# --- in the middle -------------------------------------------------------------------------------------------------


async def started(client: Talk, session_id: str = "", **audio: Any) -> None:
    await client.send(start_text(session_id, audio=audio))
    await client.until("started")


BAD_MESSAGES: list[tuple[str, dict[str, Any], str | bytes, int, str, str]] = [
    ("odd byte count", {}, frame(0, 0, bytes(321)), 4415, "multiple of 2 bytes", "333 bytes"),
    ("part of a sample", {"channels": 4}, frame(0, 0, bytes(12)), 4415, "multiple of 8 bytes (4 channels", "24 bytes"),
    ("part of a float", {"encoding": "f32le"}, frame(0, 0, bytes(6)), 4415, "multiple of 4 bytes", "18 bytes"),
    ("a header alone", {}, frame(0, 0, b""), 4415, "positive multiple", "12 bytes"),
    ("half a header", {}, b"\0\0\0", 4415, "12-byte header", "3 bytes"),
    ("no bytes", {}, b"", 4415, "12-byte header", "0 bytes"),
    ("10 MB", {}, frame(0, 0, bytes(10 << 20)), 4413, f"at most {MAX_FRAME_BYTES}", f"{(10 << 20) + 12} bytes"),
    ("text for audio", {}, "AAAA", 4400, "JSON object", "AAAA"),
    ("audio in JSON", {}, json.dumps({"type": "audio", "data": "AAAA"}), 4400, "'start' or 'end'", "audio"),
    ("second start", {}, start_text(), 4400, "audio frames or 'end'", "a second 'start'"),
    ("the far future", {}, frame(0, 601 * 16_000, bytes(2)), 4400, "first_sample near 0", "9616000"),
    ("the end of time", {}, frame(0, 2**64 - 1, bytes(2)), 4400, "first_sample near 0", str(2**64 - 1)),
]


async def test_every_bad_message_is_refused_with_expected_and_received(server_url: str) -> None:
    for name, audio, data, code, expected, received in BAD_MESSAGES:
        async with talk(server_url) as client:
            await started(client, **audio)
            await client.send(data)
            closed, error = await client.refusal()
            assert closed == code, (name, error)
            assert_told(error, expected, received)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
async def test_audio_that_is_not_a_number_is_refused(server_url: str, bad: float) -> None:
    pcm = np.zeros(1_600, "<f4")
    pcm[800] = bad
    async with talk(server_url) as client:
        await started(client, encoding="f32le")
        await client.send(frame(0, 0, pcm.tobytes()))
        code, error = await client.refusal()
        assert code == 4415
        assert_told(error, "finite float32 samples in [-1, 1]", "1 NaN or infinite of 1600")


async def test_audio_after_the_end_is_refused_and_what_was_said_is_kept(server_url: str) -> None:
    name = fresh()
    async with talk(server_url) as client:
        await started(client, name)
        await client.send_frames(real.as_s16(real.short_speech()), 3_200)
        await client.send(END)
        await client.send(frame(29, 29 * 1_600, bytes(320)))
        code, error = await client.refusal()
        assert code == 4400
        assert_told(error, "no audio after 'end'", "a binary frame")
    assert await ended_words(server_url, name) == [w[0] for w in words_of(await speak(server_url, real.short_speech()))]


async def test_what_was_said_before_a_bad_frame_can_be_gone_on_with(server_url: str, alone: Spoken) -> None:
    name = fresh()
    frames = frames_of(real.as_s16(real.short_speech()), 3_200)
    async with talk(server_url) as client:
        await client.send(start_text(name))
        opened: Any = await client.until("started")
        for data in frames[:15]:
            await client.send(data)
        await client.send(b"odd")
        assert (await client.refusal())[0] == 4415
        said = words_of(client.heard)
    async with talk(server_url) as again:
        await again.send(start_text(name, resume_token=opened.resume_token))
        resumed: Any = await again.until("started")
        assert resumed.received_samples == 15 * 1_600
        for data in frames[15:]:
            await again.send(data)
        await again.send(END)
        assert await again.until_closed() == 1000
        assert words_of(again.heard)[: len(said)] == said
        assert words_of(again.heard) == alone


async def test_clipped_audio_is_captioned_with_a_warning(server_url: str) -> None:
    loud = (real.short_speech() * 30).astype("<f4").tobytes()
    async with talk(server_url) as client:
        await started(client, encoding="f32le")
        await client.send_frames(loud, 6_400, 4)
        await client.send(END)
        assert await client.until_closed() == 1000
        warnings = [m for m in client.heard if isinstance(m, WarningMessage) and m.code == "clipped"]
        assert len(warnings) == 1
        assert "expected values in [-1, 1]" in warnings[0].message
        assert words_of(client.heard)


async def test_silence_says_nothing_and_ends_well(server_url: str) -> None:
    async with talk(server_url) as client:
        await started(client)
        await client.send_frames(bytes(3 * 32_000), 3_200)
        await client.send(END)
        assert await client.until_closed() == 1000
        assert words_of(client.heard) == []
        levels = [m for m in client.heard if isinstance(m, Levels)]
        assert [m.levels_db for m in levels] == [[-120.0]] * 3
        assert client.heard[-1].audio_ms == 3_000


async def test_frames_of_one_sample_are_as_good_as_any(server_url: str) -> None:
    pcm = real.short_speech()[:16_000]
    expected = words_of(await speak(server_url, pcm))
    assert expected
    assert words_of(await speak(server_url, pcm, block=1)) == expected


async def test_frames_in_wrong_order_and_twice_are_put_right(server_url: str, alone: Spoken) -> None:
    frames = frames_of(real.as_s16(real.short_speech()), 3_200)
    async with talk(server_url) as client:
        await started(client)
        for at in range(0, len(frames), 4):
            for data in [*reversed(frames[at : at + 4]), frames[at]]:
                await client.send(data)
        await client.send(END)
        assert await client.until_closed() == 1000
        assert words_of(client.heard) == alone
        assert not any(isinstance(m, Gap) for m in client.heard)


async def test_lost_frames_are_one_gap_and_the_rest_is_captioned_in_time(server_url: str, alone: Spoken) -> None:
    frames = frames_of(real.as_s16(np.concatenate((np.zeros(16_000, np.float32), real.short_speech()))), 3_200)
    async with talk(server_url) as client:
        await started(client)
        for data in frames[:2] + frames[5:]:
            await client.send(data)
        await client.send(END)
        assert await client.until_closed() == 1000
        (gap,) = [m for m in client.heard if isinstance(m, Gap)]
        assert (gap.start_ms, gap.end_ms, gap.reason) == (200, 500, "lost")
        assert letters_of(words_of(client.heard)) == letters_of(alone)
        assert client.heard[-1].audio_ms == 3_900


# --- names and people ----------------------------------------------------------------------------------------------


async def test_second_sender_of_a_session_is_refused_and_the_first_goes_on(server_url: str, alone: Spoken) -> None:
    name = fresh()
    frames = frames_of(real.as_s16(real.short_speech()), 3_200)
    async with talk(server_url) as first:
        await started(first, name)
        for data in frames[:10]:
            await first.send(data)
        for token, code in (("", 4409), ("guessed", 4409)):
            async with talk(server_url) as second:
                await second.send(start_text(name, resume_token=token))
                closed, error = await second.refusal()
                assert closed == code
                assert error.expected
                assert error.received
        for data in frames[10:]:
            await first.send(data)
        await first.send(END)
        assert await first.until_closed() == 1000
        assert words_of(first.heard) == alone


async def test_client_that_stops_reading_loses_nothing_of_the_transcript(server_url: str, alone: Spoken) -> None:
    name = fresh()
    plug = socket.socket()
    plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
    host, port = server_url.removeprefix("http://").split(":")
    plug.connect((host, int(port)))
    plug.setblocking(False)
    async with talk(server_url, sock=plug, max_queue=1, close_timeout=0.1) as client:
        await started(client, name)
        await client.send_frames(real.as_s16(real.short_speech()), 3_200)
        await client.send(END)  # and not one more message is read
        assert await ended_words(server_url, name) == [w[0] for w in alone]


async def ended_words(url: str, session_id: str, within_s: float = 20) -> list[str]:
    """Words of the transcript once the session has ended."""
    until = time.monotonic() + within_s
    while (await rest(url, "GET", f"/v1/sessions/{session_id}")).json["state"] != "ended":
        assert time.monotonic() < until, "the session does not end"
        await asyncio.sleep(0.1)
    return await transcript_words(url, session_id)


@pytest.fixture(scope="module")
def impatient_url() -> Iterator[str]:
    """A server that waits only GRACE_S for a client to come back, and 2 s for audio, and takes two sessions."""
    settings = {"RESUME_GRACE_S": f"{GRACE_S}", "IDLE_TIMEOUT_S": "2", "MAX_SESSIONS": "2", "WORKER_THREADS": "1"}
    with LocalServer({f"CROSSTALK_{name}": value for name, value in settings.items()}) as server:
        yield server.url


async def test_client_that_vanishes_has_everything_captioned_after_the_grace(impatient_url: str, alone: Spoken) -> None:
    name = fresh()
    async with talk(impatient_url) as client:
        await started(client, name)
        await client.send_frames(real.as_s16(real.short_speech()), 3_200)
        for _ in range(14):
            await client.until("ack")
        client.socket.transport.abort()
    assert await ended_words(impatient_url, name) == [w[0] for w in alone]
    async with talk(impatient_url, f"/v1/sessions/{name}/captions") as viewer:
        ended = await viewer.until("end")
        assert isinstance(ended, Ended)
        assert ended.reason == "vanished"


async def test_client_that_sends_nothing_is_ended_with_a_warning(impatient_url: str) -> None:
    async with talk(impatient_url) as client:
        await started(client)
        warning = await client.until("warning")
        assert isinstance(warning, WarningMessage)
        assert warning.code == "idle"
        assert await client.until_closed() == 1000
        assert isinstance(client.heard[-1], Ended)


async def test_full_server_refuses_before_any_audio_and_says_when_to_come_back(impatient_url: str) -> None:
    async with talk(impatient_url) as one, talk(impatient_url) as two, talk(impatient_url) as three:
        await started(one)
        await started(two)
        await three.send(start_text())
        code, error = await three.refusal()
        assert (code, error.code) == (4429, "at_capacity")
        assert_told(error, "fewer than 2 live sessions", "2 live sessions")
        assert error.retry_after_s is not None
        for client in (one, two):
            await client.send(END)
            assert await client.until_closed() == 1000


# --- the clock -----------------------------------------------------------------------------------------------------


async def test_hole_of_five_minutes_is_one_gap_and_the_clock_stays_true(server_url: str, alone: Spoken) -> None:
    hole = 300 * 16_000
    frames = frames_of(real.as_s16(real.short_speech()), 3_200, first_sample=hole)
    async with talk(server_url) as client:
        await started(client)
        reading = asyncio.create_task(client.until_closed())
        for data in frames:
            await client.send(data)
        await client.send(END)
        assert await reading == 1000
        (gap,) = [m for m in client.heard if isinstance(m, Gap)]
        assert (gap.start_ms, gap.end_ms) == (0, 300_000)
        said = words_of(client.heard)
        assert letters_of(said) == letters_of(alone)
        for (_, start_ms, _, _), (_, expected_ms, _, _) in zip(said, alone, strict=True):
            assert abs(start_ms - expected_ms - 300_000) <= 100
        assert client.heard[-1].audio_ms == 302_900


async def test_jump_of_more_than_ten_minutes_is_refused_and_the_clock_stands(server_url: str) -> None:
    async with talk(server_url) as client:
        await started(client, sample_rate_hz=8_000)
        await client.send(frame(0, 0, bytes(3_200)))
        await client.send(frame(1, 1_600 + 8_000 * 600 + 1, bytes(160)))
        code, error = await client.refusal()
        assert code == 4400
        assert_told(error, "first_sample near 1600", "first_sample 4801601")
        assert not any(isinstance(m, Gap) for m in client.heard)


async def test_every_bad_frame_is_answered_while_captions_go_out(server_url: str) -> None:
    """A message on its way out at that very moment once kept the error from being told."""
    frames = frames_of(real.as_s16(real.short_speech()), 640)
    for _ in range(3):
        async with talk(server_url) as client:
            await started(client)
            for data in frames[:100]:
                await client.send(data)
            await client.send(b"odd")
            assert (await client.refusal())[0] == 4415
