"""Sessions in process, with a real store and the real line: admission, backlog, outbox, resume, ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import redis.asyncio as redis_asyncio

from server.config import Settings
from server.errors import AtCapacity, BadMessage, NoSuchSession, SessionExists
from server.metrics import Metrics
from server.protocol import AudioFormat, AudioFrame, Final, Revision, Start, WordMessage, encode
from server.session import OUTBOX_MESSAGES, MeetingSession, Outbox, SessionManager
from server.state import EmbeddedValkey, SessionRecord, Store
from tests import real

Messages = list[dict[str, Any]]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with EmbeddedValkey("") as url:
        yield url


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    async with redis_asyncio.Redis.from_url(url) as client:
        await client.flushall()
    store = Store(url, ttl_s=1_000, caption_limit=10_000)
    yield store
    await store.close()


@asynccontextmanager
async def managing(store: Store, **changes: Any) -> AsyncIterator[SessionManager]:
    with ThreadPoolExecutor(1) as workers:
        manager = SessionManager(store, workers, {"moonshine": real.models()}, Settings(**changes), Metrics())
        try:
            yield manager
        finally:
            await manager.close()


async def opened(manager: SessionManager, session_id: str = "a", **changes: Any) -> tuple[MeetingSession, Outbox]:
    session, resumed = await manager.open(Start(AudioFormat(), session_id=session_id, **changes))
    outbox = Outbox()
    await session.attach(outbox, resumed=resumed, last_seq=changes.get("last_seq", 0))
    return session, outbox


def frames(first: int = 0, block: int = 1_600) -> list[AudioFrame]:
    data = real.as_s16(real.short_speech())
    cut = [
        AudioFrame(k, k * block, data[2 * k * block : 2 * (k + 1) * block]) for k in range(-(-len(data) // 2 // block))
    ]
    return cut[first:]


async def drained(outbox: Outbox) -> Messages:
    messages = []
    while (text := await asyncio.wait_for(outbox.get(), 30)) is not None:
        messages.append(json.loads(text))
    return messages


def words(messages: Messages) -> list[str]:
    return [w["text"] for m in messages if m["type"] == "final" for w in m["words"]]


async def kept(store: Store, session_id: str = "a") -> Messages:
    return [json.loads(text) async for _, text in store.captions(session_id)]


async def test_session_runs_from_started_to_end(store: Store) -> None:
    async with managing(store) as manager:
        session, outbox = await opened(manager, revisions=True)
        for frame in frames():
            await session.accept(frame)
        await session.finish()
        messages = await drained(outbox)
        assert messages[0]["type"] == "started"
        assert messages[-1] | {"seq": 0} == {
            "type": "end", "session_id": "a", "seq": 0, "audio_ms": 2_900, "reason": "finished",
        }  # fmt: skip
        assert len(words(messages)) == 4
        assert max(m["received_samples"] for m in messages if m["type"] == "ack") == len(real.short_speech())
        durable = [m for m in messages if m["type"] in ("final", "speaker", "revision", "end")]
        assert durable == await kept(store)
        assert [m["seq"] for m in durable] == list(range(1, len(durable) + 1))
        record = await store.session("a")
        assert (record.state, record.audio_ms) == ("ended", 2_900)
        assert await store.speakers("a") is not None
        await session.accept(frames()[0])  # under way when the session was ended from elsewhere
        assert (await store.session("a")).audio_ms == 2_900


async def test_full_backlog_makes_the_sender_wait(store: Store) -> None:
    async with managing(store, max_backlog_s=0.5) as manager:
        session, outbox = await opened(manager)
        most_s = 0.0
        for frame in frames():
            await session.accept(frame)
            most_s = max(most_s, session.backlog_s)
        assert most_s <= 0.5
        await session.finish()
        assert len(words(await drained(outbox))) == 4


async def test_frame_larger_than_the_backlog_is_taken(store: Store) -> None:
    async with managing(store, max_backlog_s=0.5) as manager:
        session, outbox = await opened(manager)
        await session.accept(frames(block=46_400)[0])
        await session.finish()
        assert len(words(await drained(outbox))) == 4


async def test_audio_that_waits_for_an_overtaken_frame_is_captioned_at_the_end(store: Store) -> None:
    async with managing(store) as manager:
        session, outbox = await opened(manager)
        for frame in frames()[:3] + frames()[4:]:
            await session.accept(frame)
        await session.finish()
        messages = await drained(outbox)
        assert [(m["start_ms"], m["end_ms"]) for m in messages if m["type"] == "gap"] == [(300, 400)]
        assert messages[-1]["audio_ms"] == 2_900


async def test_sessions_side_by_side_read_as_when_alone(store: Store) -> None:
    async with managing(store) as manager:
        sessions = [await opened(manager, name) for name in ("a", "b", "c")]
        for frame in frames():
            for session, _ in sessions:
                await session.accept(frame)
        for session, _ in sessions:
            await session.finish()
        assert len({tuple(words(await drained(outbox))) for _, outbox in sessions}) == 1


async def test_no_more_sessions_than_allowed(store: Store) -> None:
    async with managing(store, max_sessions=1) as manager:
        session, outbox = await opened(manager)
        with pytest.raises(AtCapacity, match="fewer than 1 live sessions; received 1 live") as caught:
            await manager.open(Start(AudioFormat(), session_id="b"))
        assert caught.value.retry_after_s == 30
        await session.finish()
        await drained(outbox)
        await asyncio.sleep(0.05)
        assert manager.live_count == 0
        again, _ = await opened(manager, "b")
        assert again.session_id == "b"


async def test_id_is_taken_while_live_and_once_ended(store: Store) -> None:
    async with managing(store) as manager:
        session, outbox = await opened(manager)
        with pytest.raises(SessionExists, match="the session has a sender"):
            await manager.open(Start(AudioFormat(), session_id="a"))
        await session.finish()
        await drained(outbox)
        with pytest.raises(SessionExists, match="the session id is taken"):
            await manager.open(Start(AudioFormat(), session_id="a"))
        await store.create_session(SessionRecord("reserved", "Weekly"))
        await opened(manager, "reserved")
        assert (await store.session("reserved")).state == "live"


async def test_lost_connection_goes_on_where_it_was(store: Store) -> None:
    async with managing(store) as manager:
        session, first = await opened(manager)
        for frame in frames()[:14]:
            await session.accept(frame)
        await session.accept(frames()[16])  # overtook two that are lost with the connection
        session.detach(first)
        assert not session.connected
        wrong: tuple[dict[str, Any], type[Exception]]
        for wrong in (
            ({"resume_token": "guessed"}, SessionExists),
            ({"resume_token": session.resume_token, "audio": AudioFormat(8_000)}, BadMessage),
            ({"resume_token": session.resume_token, "session_id": "b"}, NoSuchSession),
        ):
            with pytest.raises(wrong[1]):
                await manager.open(replace(Start(AudioFormat(), session_id="a"), **wrong[0]))
        again, second = await opened(manager, resume_token=session.resume_token)
        assert again is session
        for number, frame in enumerate(frames(14)):
            await session.accept(AudioFrame(number, frame.first_sample, frame.payload))
        await session.finish()
        messages = await drained(second)
        assert messages[0]["received_samples"] == 14 * 1_600
        assert len(words(messages)) == 4
        assert not any(m["type"] == "gap" for m in messages)


async def test_client_that_does_not_come_back_is_captioned_then_ended(store: Store) -> None:
    async with managing(store, resume_grace_s=0.1) as manager:
        session, outbox = await opened(manager)
        for frame in frames():
            await session.accept(frame)
        session.detach(outbox)
        await asyncio.wait_for(session.ended.wait(), 30)
        messages = await kept(store)
        assert len(words(messages)) == 4
        assert messages[-1]["reason"] == "vanished"


async def test_shutdown_captions_what_waits(store: Store) -> None:
    async with managing(store) as manager:
        session, _ = await opened(manager)
        for frame in frames():
            await session.accept(frame)
    messages = await kept(store)
    assert len(words(messages)) == 4
    assert messages[-1]["reason"] == "shutdown"


async def test_deleted_session_ends_at_once_and_leaves_nothing(store: Store) -> None:
    async with managing(store) as manager:
        session, outbox = await opened(manager)
        await session.accept(frames()[0])
        await manager.delete("a")
        assert (await drained(outbox))[-1]["reason"] == "deleted"
        assert await kept(store) == []
        with pytest.raises(NoSuchSession):
            await manager.delete("a")


async def test_failure_of_the_line_is_told_and_frees_the_session(store: Store) -> None:
    async with managing(store) as manager:
        session, outbox = await opened(manager)
        session._pipeline._resampler = None  # type: ignore[assignment]
        await session.accept(frames()[0])
        messages = await drained(outbox)
        assert [m["code"] for m in messages if m["type"] == "warning"] == ["internal"]
        assert messages[-1]["reason"] == "failed"
        await asyncio.sleep(0.05)
        assert manager.live_count == 0


async def test_unknown_system_and_language_are_named(store: Store) -> None:
    async with managing(store) as manager:
        with pytest.raises(BadMessage, match=r"expected one of \['moonshine'\]; received oracle"):
            await manager.open(Start(AudioFormat(), system="oracle"))
        with pytest.raises(BadMessage, match="expected en; received fr-CA"):
            await manager.open(Start(AudioFormat(), language="fr-CA"))
        session, _ = await opened(manager, "", language="en-GB")
        assert session.session_id


async def test_full_outbox_drops_what_passes_and_breaks_for_what_lasts() -> None:
    outbox = Outbox()
    for number in range(OUTBOX_MESSAGES + 5):
        outbox.put(str(number), durable=False)
    assert not outbox.overflowed.is_set()
    outbox.put("final", durable=True)
    assert outbox.overflowed.is_set()
    assert [await outbox.get() for _ in range(OUTBOX_MESSAGES)] == [str(k) for k in range(OUTBOX_MESSAGES)]
    outbox.close()
    assert await outbox.get() is None


async def test_outbox_leaves_out_revisions_for_a_sender_that_did_not_ask() -> None:
    said = encode(Final(session_id="a", words=[WordMessage('"type":"revision"', 0, 1, 0.5, -1, "S1", 0)]))
    again = encode(Revision(session_id="a", turn=0))
    for wanted in (False, True):
        outbox = Outbox()
        outbox.revisions = wanted
        outbox.repeat([said, again])
        outbox.put(again, durable=True)
        outbox.put(said, durable=True)
        outbox.close()
        got = []
        while (text := await outbox.get()) is not None:
            got.append(text)
        assert got == ([said, again, again, said] if wanted else [said, said])
