"""Viewers over a real Valkey: history, then live, nothing missing and nothing twice, however slow or late."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator

import pytest
import redis.asyncio as redis_asyncio

from server.fanout import QUEUE_MESSAGES, Hub
from server.state import EmbeddedValkey, SessionRecord, Store


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with EmbeddedValkey("") as url:
        yield url


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    async with redis_asyncio.Redis.from_url(url) as client:
        await client.flushall()
    store = Store(url, ttl_s=1_000, caption_limit=10_000)
    await store.create_session(SessionRecord("a"))
    yield store
    await store.close()


@pytest.fixture
async def hub(store: Store) -> AsyncIterator[Hub]:
    hub = Hub(store)
    await hub.start()
    yield hub
    await hub.close()


async def say(store: Store, count: int, session_id: str = "a") -> None:
    for _ in range(count):
        await store.append(session_id, '{"type":"final"}', 0)


async def finish(store: Store) -> int:
    return await store.append("a", '{"type":"end"}', 0)


async def seen(hub: Hub, since: int = 0, pause_s: float = 0.0) -> list[int]:
    """Numbers of the durable messages that a viewer got, up to the end."""
    numbers = []
    async with contextlib.aclosing(hub.view("a", since)) as messages:
        async for text in messages:
            message = json.loads(text)
            if message["type"] != "partial":
                numbers.append(message["seq"])
            if message["type"] == "end":
                return numbers
            await asyncio.sleep(pause_s)
    raise AssertionError("a view ends only when its reader does")


async def test_history_then_live_without_hole_or_repeat(store: Store, hub: Hub) -> None:
    await say(store, 30)
    speaking = asyncio.create_task(say(store, 100))
    viewers = [asyncio.create_task(seen(hub)) for _ in range(3)]
    await speaking
    last = await finish(store)
    for numbers in await asyncio.gather(*viewers):
        assert numbers == list(range(1, last + 1))


async def test_viewers_who_come_at_any_moment_all_get_everything(store: Store, hub: Hub) -> None:
    viewers = []
    for _ in range(15):
        viewers.append(asyncio.create_task(seen(hub)))
        await say(store, 4)
    last = await finish(store)
    viewers.append(asyncio.create_task(seen(hub)))
    for numbers in await asyncio.gather(*viewers):
        assert numbers == list(range(1, last + 1))


async def test_viewer_gets_only_what_came_after_since(store: Store, hub: Hub) -> None:
    await say(store, 10)
    viewer = asyncio.create_task(seen(hub, since=7))
    await finish(store)
    assert await viewer == [8, 9, 10, 11]


async def test_slow_viewer_gets_every_final(store: Store, hub: Hub) -> None:
    slow = asyncio.create_task(seen(hub, pause_s=0.002))
    await asyncio.sleep(0.1)
    for _ in range(QUEUE_MESSAGES // 8):
        await say(store, 1)
        await asyncio.gather(*(store.publish("a", '{"type":"partial"}', 1) for _ in range(10)))
    last = await finish(store)
    assert await slow == list(range(1, last + 1))


async def test_viewer_who_reads_nothing_for_long_then_gets_every_final(store: Store, hub: Hub) -> None:
    async with contextlib.aclosing(hub.view("a", 0)) as messages:
        await say(store, 1)
        assert json.loads(await anext(messages))["seq"] == 1
        await say(store, QUEUE_MESSAGES + 50)
        last = await finish(store)
        numbers = [json.loads(await anext(messages))["seq"] for _ in range(last - 1)]
    assert numbers == list(range(2, last + 1))


async def test_passing_messages_reach_whoever_watches_and_are_not_kept(store: Store, hub: Hub) -> None:
    await say(store, 1)
    async with contextlib.aclosing(hub.view("a", 0)) as messages:
        assert json.loads(await anext(messages)) == {"seq": 1, "type": "final"}
        waiting = asyncio.ensure_future(anext(messages))
        await asyncio.sleep(0.1)
        await store.publish("a", '{"type":"partial"}', 1)
        assert json.loads(await waiting) == {"seq": 1, "type": "partial"}
    await finish(store)
    assert await seen(hub) == [1, 2]


async def test_viewers_of_other_sessions_hear_nothing(store: Store, hub: Hub) -> None:
    await store.create_session(SessionRecord("b"))
    viewer = asyncio.create_task(seen(hub))
    await say(store, 20, "b")
    await finish(store)
    assert await viewer == [1]


async def test_viewer_who_leaves_is_forgotten_and_the_others_stay(store: Store, hub: Hub) -> None:
    stays = asyncio.create_task(seen(hub))
    leaves = asyncio.create_task(seen(hub))
    await asyncio.sleep(0.05)
    assert hub.viewer_count == 2
    leaves.cancel()
    await asyncio.gather(leaves, return_exceptions=True)
    assert hub.viewer_count == 1
    await say(store, 3)
    await finish(store)
    assert await stays == [1, 2, 3, 4]
    assert hub.viewer_count == 0


async def test_last_message_said_while_the_subscription_was_broken_still_arrives(
    store: Store, hub: Hub, url: str
) -> None:
    viewer = asyncio.create_task(seen(hub))
    await say(store, 3)
    await asyncio.sleep(0.1)
    async with redis_asyncio.Redis.from_url(url) as client:
        await client.client_kill_filter(_type="pubsub")
    await say(store, 2)
    last = await finish(store)  # and then nobody says anything any more
    assert await asyncio.wait_for(viewer, 10) == list(range(1, last + 1))
