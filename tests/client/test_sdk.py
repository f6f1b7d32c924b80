"""The client against the real server, also through a network that breaks."""

from __future__ import annotations

import asyncio
import contextlib
import secrets

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from client.sdk import Backoff, CaptionClient, ServerUnreachable, base_url, error_from, fetch_transcript, list_sessions
from client.sdk import watch as watch_session
from server import errors
from server.errors import BadMessage, NoSuchSession, SessionError, SessionExists, UnsupportedAudio
from server.protocol import (
    DURABLE,
    AnyServerMessage,
    AudioFormat,
    Ended,
    Error,
    Final,
    Gap,
    Partial,
    Session,
    WordMessage,
)
from tests.faults import CuttableProxy

RATE_HZ = 16_000
Pcm = NDArray[np.int16]


def fresh_id(stem: str = "test") -> str:
    return f"{stem}-{secrets.token_hex(6)}"


def words_of(messages: list[AnyServerMessage]) -> list[tuple[str, int, int]]:
    return [(w.text, w.start_ms, w.end_ms) for m in messages if isinstance(m, Final) for w in m.words]


async def send_all(stream: CaptionClient, pcm: Pcm, block: int = 1600) -> None:
    for at in range(0, len(pcm), block):
        await stream.send(pcm[at : at + block])
    await stream.finish()


async def captions_of(url: str, pcm: Pcm, block: int = 1600) -> list[AnyServerMessage]:
    async with CaptionClient(url, session_id=fresh_id()) as stream:
        sender = asyncio.create_task(send_all(stream, pcm, block))
        messages = [message async for message in stream]
        await sender
    return messages


# --- without a server ----------------------------------------------------------------------------------------------


async def test_server_that_is_not_there_is_an_error_at_once() -> None:
    with pytest.raises(ServerUnreachable, match="no Crosstalk server answers at"):
        async with CaptionClient("http://127.0.0.1:9"):
            pass


async def test_viewer_and_rest_say_that_the_server_is_not_there() -> None:
    with pytest.raises(ServerUnreachable, match=r"127\.0\.0\.1:9"):
        await anext(watch_session("http://127.0.0.1:9", "anything"))
    with pytest.raises(ServerUnreachable, match=r"127\.0\.0\.1:9"):
        await list_sessions("http://127.0.0.1:9")


@pytest.mark.parametrize("url", ["ftp://host", "http://", "://", "file:///etc/passwd"])
def test_address_that_is_no_server_is_refused(url: str) -> None:
    with pytest.raises(ServerUnreachable, match="not a server address"):
        base_url(url)


def test_address_may_come_with_any_of_the_schemes() -> None:
    assert base_url("host:1", "ws") == "ws://host:1"
    assert base_url("https://host/base/", "ws") == "wss://host/base"
    assert base_url("ws://host:1") == "http://host:1"


@pytest.mark.parametrize(
    "audio", [AudioFormat(channels=17), AudioFormat(sample_rate_hz=7000), AudioFormat(channels=2, geometry_m=())]
)
def test_audio_that_the_protocol_does_not_take_is_refused_before_connecting(audio: AudioFormat) -> None:
    with pytest.raises(UnsupportedAudio):
        CaptionClient("http://127.0.0.1:9", audio=audio)


def test_session_id_with_path_characters_is_refused_before_connecting() -> None:
    with pytest.raises(BadMessage, match="not a session id"):
        CaptionClient("http://127.0.0.1:9", session_id="../../etc")


def test_every_error_code_of_the_server_becomes_its_class() -> None:
    kinds: list[type[errors.CrosstalkError]] = [errors.AtCapacity, errors.NoSuchSession, errors.UnknownVersion]
    kinds += [errors.MessageTooLarge, errors.SessionExists, errors.ClientTooSlow, errors.StoreUnavailable]
    for kind in kinds:
        made = error_from(Error(session_id="s", code=kind.code, message="m", expected="e", retry_after_s=3.0))
        assert type(made) is kind
        assert (made.message, made.expected, made.retry_after_s) == ("m", "e", 3.0)
    assert isinstance(error_from(Error(session_id="s", code="bad_message")), errors.ProtocolError)
    assert type(error_from(Error(session_id="s", code="from the future"))) is errors.CrosstalkError


@pytest.mark.parametrize(
    "pcm",
    [
        np.zeros((10, 3), np.int16),
        np.zeros(10, np.int16),
        np.zeros((2, 10), np.int16),
        np.zeros((10, 2), np.float64),
        np.zeros((10, 2), np.int32),
        b"\0" * 7,
        [0, 0],
    ],
)
def test_audio_of_a_wrong_type_or_shape_is_refused(pcm: object) -> None:
    client = CaptionClient("http://127.0.0.1:9", audio=AudioFormat(channels=2))
    with pytest.raises(UnsupportedAudio, match=r"expected .* received"):
        client._encoded(pcm)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("encoding", ["s16le", "f32le"])
def test_audio_that_is_not_finite_is_refused(bad: float, encoding: str) -> None:
    client = CaptionClient("http://127.0.0.1:9", audio=AudioFormat(encoding=encoding))  # type: ignore[arg-type]
    pcm = np.zeros((8, 1), np.float32)
    pcm[3] = bad
    with pytest.raises(UnsupportedAudio, match="NaN or infinity"):
        client._encoded(pcm)
    if encoding == "f32le":
        with pytest.raises(UnsupportedAudio, match="NaN or infinity"):
            client._encoded(pcm.tobytes())


@given(st.lists(st.integers(-32768, 32767), max_size=64), st.sampled_from([1, 2]))
def test_int16_survives_the_way_through_float32(values: list[int], channels: int) -> None:
    pcm = np.array(values[: len(values) // channels * channels], np.int16).reshape(-1, channels)
    as_float = CaptionClient("h", audio=AudioFormat(channels=channels, encoding="f32le"))._encoded(pcm)
    back = CaptionClient("h", audio=AudioFormat(channels=channels))._encoded(
        np.frombuffer(as_float, np.float32).reshape(-1, channels)
    )
    assert back == pcm.tobytes()


@settings(max_examples=30)
@given(st.integers(0, 50_000), st.integers(1, 16), st.sampled_from([8000, 16_000, 48_000]))
def test_cutting_keeps_every_byte_and_whole_samples(samples: int, channels: int, rate_hz: int) -> None:
    client = CaptionClient("h", audio=AudioFormat(rate_hz, channels, "f32le"))
    payload = bytes(samples * channels * 4)
    pieces = client._cut(payload)
    assert b"".join(piece for piece, _ in pieces) == payload
    assert all(0 < count <= rate_hz // 5 and len(piece) == count * channels * 4 for piece, count in pieces)


async def test_when_nobody_reads_partials_give_way_and_finals_stay() -> None:
    client = CaptionClient("h", max_messages=4)
    for seq in range(1, 4):
        await client._deliver(Partial(session_id="s", seq=seq))
        await client._deliver(Final(session_id="s", seq=seq))
    await client._deliver(Final(session_id="s", seq=4))
    await client._deliver(Partial(session_id="s", seq=4))
    assert [message.seq for message in client._messages if isinstance(message, Final)] == [1, 2, 3, 4]
    assert client.dropped_messages == 4
    waiting = asyncio.create_task(client._deliver(Final(session_id="s", seq=5)))
    await asyncio.sleep(0)
    assert not waiting.done()
    client._messages.popleft()
    client._message_taken.set()
    await waiting
    assert [message.seq for message in client._messages] == [2, 3, 4, 5]


async def test_durable_message_is_delivered_once() -> None:
    client = CaptionClient("h")
    word = WordMessage("a", 0, 1, 1.0, -1, "S1", 0)
    for seq in (1, 2, 1, 2, 3):
        await client._deliver(Final(session_id="s", seq=seq, words=[word]))
    assert [message.seq for message in client._messages] == [1, 2, 3]


def test_waits_between_tries_grow_and_respect_what_the_server_asked() -> None:
    backoff = Backoff(first_s=0.5, longest_s=4.0)
    assert 0.25 <= backoff.wait_s(0) <= 0.5
    assert 2.0 <= backoff.wait_s(20) <= 4.0
    assert backoff.wait_s(0, retry_after_s=7.0) == 7.0


# --- with the real server ------------------------------------------------------------------------------------------


async def test_speech_comes_back_as_words_and_ends(server_url: str, story: Pcm) -> None:
    messages = await captions_of(server_url, story[: 8 * RATE_HZ])
    text = " ".join(word for word, _, _ in words_of(messages)).lower()
    assert "best of times" in text
    assert isinstance(messages[-1], Ended)
    assert messages[-1].reason == "finished"
    assert messages[-1].audio_ms >= 7_999
    assert any(isinstance(message, Partial) for message in messages)
    assert not any(isinstance(message, Gap) for message in messages)
    durable = [message.seq for message in messages if message.type in DURABLE]
    assert durable == list(range(1, len(durable) + 1))


async def test_one_task_may_send_finish_and_then_read(server_url: str, story: Pcm) -> None:
    async with CaptionClient(server_url) as stream:
        await stream.send(story[: 3 * RATE_HZ].astype(np.float32) / np.float32(32768))
        await stream.finish()
        messages = [message async for message in stream]
    assert words_of(messages)
    assert stream.session_id


async def test_audio_is_paced_by_acknowledgements(server_url: str, story: Pcm) -> None:
    """The source is far faster than the server; the buffer stays within its bound and nothing is lost."""
    pcm = story[: 6 * RATE_HZ]
    most_unacked = 0
    async with CaptionClient(server_url, buffer_s=1.0) as stream:

        async def send() -> None:
            nonlocal most_unacked
            for at in range(0, len(pcm), 1600):
                await stream.send(pcm[at : at + 1600])
                most_unacked = max(most_unacked, stream.sent_samples - stream.acked_samples)
            await stream.finish()

        sender = asyncio.create_task(send())
        messages = [message async for message in stream]
        await sender
    assert most_unacked <= RATE_HZ
    assert stream.acked_samples == len(pcm)
    assert messages[-1].audio_ms >= 5_999
    assert not any(isinstance(message, Gap) for message in messages)


async def test_dropped_connection_resumes_with_identical_text(server_url: str, story: Pcm) -> None:
    pcm = story[: 8 * RATE_HZ]
    expected = words_of(await captions_of(server_url, pcm, block=1600))
    async with CuttableProxy(server_url) as proxy:
        async with CaptionClient(proxy.url, session_id=fresh_id(), backoff=Backoff(first_s=0.05)) as stream:

            async def send() -> None:
                for at in range(0, len(pcm), 800):
                    await stream.send(pcm[at : at + 800])
                    await asyncio.sleep(0.005)
                    if at in (40_000, 80_000):
                        await proxy.cut()
                await stream.finish()

            sender = asyncio.create_task(send())
            messages = [message async for message in stream]
            await sender
        assert stream.reconnects == 2
        assert proxy.accepted == 3
    assert words_of(messages) == expected
    durable = [message.seq for message in messages if message.type in DURABLE]
    assert durable == list(range(1, len(durable) + 1))
    assert not any(isinstance(message, Gap) for message in messages)


async def test_connection_lost_while_waiting_for_the_end_is_found_again(server_url: str, story: Pcm) -> None:
    async with (
        CuttableProxy(server_url) as proxy,
        CaptionClient(proxy.url, session_id=fresh_id(), backoff=Backoff(first_s=0.05)) as stream,
    ):
        await stream.send(story[: 6 * RATE_HZ])
        await proxy.cut()
        await stream.finish()
        messages = [message async for message in stream]
    assert isinstance(messages[-1], Ended)
    assert messages[-1].reason == "finished"
    assert messages[-1].audio_ms >= 5_999


async def test_session_that_ended_while_the_connection_was_away_is_read_to_its_end(server_url: str, story: Pcm) -> None:
    async with (
        CuttableProxy(server_url) as proxy,
        CaptionClient(proxy.url, session_id=fresh_id(), backoff=Backoff(first_s=0.2)) as stream,
    ):
        await stream.send(story[: 3 * RATE_HZ])
        await stream.finish()
        await proxy.passed(3 * RATE_HZ * 2)
        await asyncio.sleep(0.2)  # `end` follows at once
        proxy.refusing = True
        await proxy.cut()
        seen = [m async for m in watch_session(server_url, stream.session_id) if m.type in DURABLE]
        assert isinstance(seen[-1], Ended)
        proxy.refusing = False
        messages = [m async for m in stream if m.type in DURABLE]
    assert messages == seen


async def test_server_that_stays_away_ends_the_stream_after_bounded_tries(server_url: str, story: Pcm) -> None:
    async with CuttableProxy(server_url) as proxy:
        backoff = Backoff(tries=3, first_s=0.02, longest_s=0.05)
        async with CaptionClient(proxy.url, session_id=fresh_id(), backoff=backoff) as stream:
            await stream.send(story[:RATE_HZ])
            proxy.refusing = True
            await proxy.cut()
            with pytest.raises(ServerUnreachable, match="3 tries"):
                async for _ in stream:
                    pass
            with pytest.raises(ServerUnreachable):
                await stream.send(story[:RATE_HZ])
        assert proxy.accepted == 4


async def test_live_source_drops_the_oldest_and_the_hole_becomes_a_gap(server_url: str, story: Pcm) -> None:
    async with CuttableProxy(server_url) as proxy:
        backoff = Backoff(tries=100, first_s=0.05, longest_s=0.05)
        async with CaptionClient(proxy.url, session_id=fresh_id(), buffer_s=1.0, backoff=backoff) as stream:
            proxy.refusing = True
            await proxy.cut()
            await asyncio.sleep(0.1)
            for at in range(0, 3 * RATE_HZ, 1600):
                stream.send_nowait(story[at : at + 1600])
            proxy.refusing = False
            await stream.finish()
            messages = [message async for message in stream]
    assert stream.dropped_samples == 2 * RATE_HZ
    gaps = [(message.start_ms, message.end_ms) for message in messages if isinstance(message, Gap)]
    assert gaps == [(0, 2_000)]
    assert messages[-1].audio_ms >= 2_999


async def test_hole_in_the_source_becomes_a_gap(server_url: str, story: Pcm) -> None:
    async with CaptionClient(server_url) as stream:
        await stream.send(story[:RATE_HZ])
        await stream.send(story[2 * RATE_HZ : 3 * RATE_HZ], first_sample=2 * RATE_HZ)
        with pytest.raises(UnsupportedAudio, match="back in time"):
            await stream.send(story[:10], first_sample=5)
        await stream.finish()
        messages = [message async for message in stream]
    assert [(m.start_ms, m.end_ms) for m in messages if isinstance(m, Gap)] == [(1_000, 2_000)]


async def test_name_of_a_live_session_is_refused(server_url: str) -> None:
    async with CaptionClient(server_url, session_id=fresh_id()) as stream:
        with pytest.raises(SessionExists):
            async with CaptionClient(server_url, session_id=stream.session_id):
                pass


async def test_nothing_can_be_sent_after_finish(server_url: str) -> None:
    async with CaptionClient(server_url) as stream:
        await stream.finish()
        with pytest.raises(SessionError, match="finish"):
            await stream.send(np.zeros(160, np.int16))
        assert isinstance([message async for message in stream][-1], Ended)


async def test_viewer_sees_what_the_sender_sees(server_url: str, story: Pcm) -> None:
    session_id = fresh_id("meeting")
    async with CaptionClient(server_url, session_id=session_id, title="A story") as stream:
        await stream.send(story[:1600])  # the session exists from here on

        async def view() -> list[AnyServerMessage]:
            return [message async for message in watch_session(server_url, session_id)]

        viewer = asyncio.create_task(view())
        await stream.send(story[1600 : 6 * RATE_HZ])
        await stream.finish()
        sent = [message async for message in stream if message.type in DURABLE]
        seen = await viewer
    assert isinstance(seen[0], Session)
    assert seen[0].title == "A story"
    assert [message for message in seen if message.type in DURABLE] == sent
    late = [m async for m in watch_session(server_url, session_id, since=2) if m.type in DURABLE]
    assert late == sent[2:]
    over = [m async for m in watch_session(server_url, session_id, since=sent[-1].seq)]
    assert [m.type for m in over] == ["session"]


async def test_viewer_whose_connection_drops_misses_and_repeats_nothing(server_url: str, story: Pcm) -> None:
    session_id = fresh_id("meeting")
    async with CuttableProxy(server_url) as proxy, CaptionClient(server_url, session_id=session_id) as stream:
        await stream.send(story[:1600])

        async def view() -> list[AnyServerMessage]:
            seen = []
            async for message in watch_session(proxy.url, session_id, backoff=Backoff(first_s=0.05)):
                seen.append(message)
                if isinstance(message, Final) and proxy.accepted == 1:
                    await proxy.cut()
            return seen

        viewer = asyncio.create_task(view())
        await stream.send(story[1600 : 12 * RATE_HZ])
        await stream.finish()
        sent = [message async for message in stream if message.type in DURABLE]
        seen = await viewer
        assert proxy.accepted >= 2
    assert [message for message in seen if message.type in DURABLE] == sent


async def test_session_that_nobody_opened_is_not_found(server_url: str) -> None:
    with pytest.raises(NoSuchSession):
        async for _ in watch_session(server_url, fresh_id("nobody")):
            pass
    with pytest.raises(NoSuchSession):
        await fetch_transcript(server_url, fresh_id("nobody"), "txt")


async def test_session_is_listed_and_its_transcript_can_be_had(server_url: str, story: Pcm) -> None:
    session_id = fresh_id("listed")
    async with CaptionClient(server_url, session_id=session_id) as stream:
        await stream.send(story[: 4 * RATE_HZ])
        await stream.finish()
        words = words_of([message async for message in stream])
    assert session_id in [entry["session_id"] for entry in await list_sessions(server_url)]
    text = await fetch_transcript(server_url, session_id, "txt")
    assert words[0][0] in text


async def test_leaving_the_block_early_leaves_no_task_behind(server_url: str, story: Pcm) -> None:
    before = asyncio.all_tasks()
    with contextlib.suppress(KeyError):
        async with CaptionClient(server_url) as stream:
            await stream.send(story[:RATE_HZ])
            raise KeyError
    assert asyncio.all_tasks() == before
