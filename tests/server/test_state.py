"""The store on a real embedded Valkey: order, expiry, bounds, and what a restart keeps."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis.asyncio as redis_asyncio

from server.errors import NoSuchSession, SessionExists, StoreUnavailable
from server.state import CONNECTIONS, PAGE, EmbeddedValkey, SessionRecord, Store, with_seq

TTL_S = 1_000


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with EmbeddedValkey("") as url:
        yield url


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    async with redis_asyncio.Redis.from_url(url) as client:
        await client.flushall()
    store = Store(url, ttl_s=TTL_S, caption_limit=1_000)
    yield store
    await store.close()


async def kept(store: Store, session_id: str, since: int = 0) -> list[tuple[int, dict[str, object]]]:
    return [(seq, json.loads(text)) async for seq, text in store.captions(session_id, since)]


async def fill(store: Store, session_id: str, count: int) -> None:
    async def write(share: int) -> None:
        for _ in range(share):
            await store.append(session_id, '{"k":0}', 0)

    await asyncio.gather(*(write(count // 10) for _ in range(10)))


async def test_more_callers_than_connections_wait_their_turn(store: Store) -> None:
    await store.create_session(SessionRecord("a"))
    records = await asyncio.gather(*(store.session("a") for _ in range(3 * CONNECTIONS)))
    assert {r.session_id for r in records} == {"a"}


async def test_session_is_kept_as_it_was_created(store: Store) -> None:
    record = SessionRecord("a", "Weekly", "live", language="en-GB", channels=4, system="moonshine")
    created = await store.create_session(record)
    assert created == await store.session("a")
    assert created.created_at_ms > 1_600_000_000_000
    assert (created.title, created.state, created.language, created.channels) == ("Weekly", "live", "en-GB", 4)
    assert (created.seq, created.audio_ms) == (0, 0)


async def test_session_id_is_given_once_even_to_many_at_a_time(store: Store) -> None:
    results = await asyncio.gather(
        *(store.create_session(SessionRecord("a", f"{k}")) for k in range(20)), return_exceptions=True
    )
    winners = [r for r in results if isinstance(r, SessionRecord)]
    assert len(winners) == 1
    refusal = next(r for r in results if isinstance(r, SessionExists))
    assert refusal.received == "a"
    assert (await store.session("a")).title == winners[0].title


async def test_unknown_session_is_named(store: Store) -> None:
    with pytest.raises(NoSuchSession, match="expected the id of a session that is kept; received nobody"):
        await store.session("nobody")
    assert await kept(store, "nobody") == []


async def test_newest_sessions_are_listed_first_and_expired_ones_forgotten(store: Store, url: str) -> None:
    for name in ("a", "b", "c"):
        await store.create_session(SessionRecord(name))
        await asyncio.sleep(0.002)
    async with redis_asyncio.Redis.from_url(url) as client:
        await client.delete("ct:session:b")
        assert [r.session_id for r in await store.sessions()] == ["c", "a"]
        assert await client.zcard("ct:sessions") == 2
    assert [r.session_id for r in await store.sessions(limit=1)] == ["c"]


async def test_messages_are_numbered_from_one_without_holes_whoever_writes(store: Store) -> None:
    await store.create_session(SessionRecord("a"))

    async def write(writer: int) -> list[int]:
        return [await store.append("a", json.dumps({"type": "gap", "n": [writer, k]}), k) for k in range(40)]

    numbers = await asyncio.gather(*(write(writer) for writer in range(8)))
    assert sorted(n for mine in numbers for n in mine) == list(range(1, 321))
    assert all(mine == sorted(mine) for mine in numbers)
    messages = await kept(store, "a")
    assert [seq for seq, _ in messages] == list(range(1, 321))
    for seq, message in messages:
        assert message["seq"] == seq
    by_number = {seq: message["n"] for seq, message in messages}
    for writer, mine in enumerate(numbers):
        assert [by_number[n] for n in mine] == [[writer, k] for k in range(40)]
    assert (await store.session("a")).seq == 320


async def test_history_is_read_from_any_point_and_over_pages(store: Store) -> None:
    await store.create_session(SessionRecord("a"))
    await fill(store, "a", PAGE + 20)
    assert [seq for seq, _ in await kept(store, "a")] == list(range(1, PAGE + 21))
    assert [seq for seq, _ in await kept(store, "a", PAGE + 18)] == [PAGE + 19, PAGE + 20]
    assert await kept(store, "a", PAGE + 20) == []
    assert await kept(store, "a", 10**15 - 1) == []


async def test_stream_is_bounded_and_the_newest_stay(url: str) -> None:
    store = Store(url, ttl_s=TTL_S, caption_limit=100)
    await store.create_session(SessionRecord("bounded"))
    await fill(store, "bounded", 500)
    numbers = [seq for seq, _ in await kept(store, "bounded")]
    assert 100 <= len(numbers) <= 300  # Valkey frees whole nodes of its stream
    assert numbers == list(range(501 - len(numbers), 501))
    await store.close()


async def test_everything_expires_and_speaking_puts_it_off(store: Store, url: str) -> None:
    await store.create_session(SessionRecord("a"))
    await store.set_name("a", "S1", "Ann")
    await store.save_speakers("a", {"k": 1})
    async with redis_asyncio.Redis.from_url(url) as client:
        await client.expire("ct:session:a", 5)
        await store.append("a", "{}", 0)
        for kind in ("session", "captions", "names", "speakers"):
            assert TTL_S - 5 < await client.ttl(f"ct:{kind}:a") <= TTL_S, kind


async def test_names_are_set_changed_and_taken_away(store: Store) -> None:
    await store.set_name("a", "S1", "Ann")
    await store.set_name("a", "S2", "Bo")
    await store.set_name("a", "S1", "Anna")
    assert await store.names("a") == {"S1": "Anna", "S2": "Bo"}
    await store.set_name("a", "S2", "")
    assert await store.names("a") == {"S1": "Anna"}


async def test_speakers_survive_the_round_trip(store: Store) -> None:
    assert await store.speakers("a") is None
    state: dict[str, object] = {"voices": [[0.5, -1.0]], "names": {"S1": "ü"}}
    await store.save_speakers("a", state)
    assert await store.speakers("a") == state


async def test_deleted_session_leaves_no_key(store: Store, url: str) -> None:
    await store.create_session(SessionRecord("a"))
    await store.append("a", "{}", 0)
    await store.set_name("a", "S1", "Ann")
    await store.save_speakers("a", {})
    await store.delete_session("a")
    async with redis_asyncio.Redis.from_url(url, decode_responses=True) as client:
        assert await client.keys("ct:*") == []
    with pytest.raises(NoSuchSession):
        await store.session("a")


async def test_listener_hears_kept_and_passing_messages_of_its_sessions(store: Store) -> None:
    listener = store.listener()
    await listener.start()
    await listener.watch("a")
    await store.append("b", '{"type":"gap"}', 0)
    await store.append("a", '{"type":"gap"}', 0)
    await store.publish("a", '{"type":"partial"}', 1)
    heard = []
    async for session_id, seq, durable, text in listener.messages():
        if text:
            heard.append((session_id, seq, durable, json.loads(text)))
        if len(heard) == 2:
            break
    assert heard == [("a", 1, True, {"seq": 1, "type": "gap"}), ("a", 1, False, {"seq": 1, "type": "partial"})]
    await listener.close()


async def test_transcript_survives_a_restart_on_the_same_folder(tmp_path: Path) -> None:
    for attempt in range(2):
        with EmbeddedValkey(str(tmp_path)) as url:
            store = Store(url, ttl_s=TTL_S, caption_limit=1_000)
            if attempt == 0:
                await store.create_session(SessionRecord("yesterday", "Weekly"))
                for k in range(10):
                    await store.append("yesterday", json.dumps({"type": "gap", "k": k}), k)
                await store.set_name("yesterday", "S1", "Ann")
            else:
                assert [m["k"] for _, m in await kept(store, "yesterday")] == list(range(10))
                assert (await store.session("yesterday")).title == "Weekly"
                assert await store.names("yesterday") == {"S1": "Ann"}
                assert await store.append("yesterday", "{}", 11) == 11
            await store.close()


async def test_without_a_folder_nothing_is_kept() -> None:
    for attempt in range(2):
        with EmbeddedValkey("") as url:
            store = Store(url, ttl_s=TTL_S, caption_limit=1_000)
            assert await store.sessions() == []
            if attempt == 0:
                await store.create_session(SessionRecord("a"))
            await store.close()


async def test_store_that_went_away_is_said_to_be_out_of_reach() -> None:
    with EmbeddedValkey("") as url:
        store = Store(url, ttl_s=TTL_S, caption_limit=1_000)
        await store.ping()
    for call in (store.ping(), store.session("a"), store.append("a", "{}", 0), store.sessions()):
        with pytest.raises(StoreUnavailable, match="expected an answer from Redis") as caught:
            await call
        assert caught.value.retry_after_s is not None
    await store.close()


def test_embedded_server_listens_on_no_port_that_others_reach() -> None:
    with EmbeddedValkey("") as url:
        path = Path(url.removeprefix("unix://"))
        assert path.is_socket()
        assert path.parent.stat().st_mode & 0o077 == 0
    assert not path.exists()


def test_seq_is_put_in_front() -> None:
    assert json.loads(with_seq('{"type":"gap"}', 7)) == {"seq": 7, "type": "gap"}
