"""Caption stream -> viewers: history from the stream, then what is published live, without a hole or a repeat.

Each viewer has a queue of QUEUE_MESSAGES. When it is full the queue is emptied and the viewer's durable messages are
read again from the stream: a slow viewer loses partials, never finals.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from server.errors import StoreUnavailable
from server.state import Listener, Store

QUEUE_MESSAGES = 512
RETRY_S = 1.0


@dataclass(eq=False)
class _Viewer:
    queue: asyncio.Queue[tuple[int, bool, str]] = field(default_factory=lambda: asyncio.Queue(QUEUE_MESSAGES))
    overflowed: bool = False


class Hub:
    """All viewers of this process over one subscription."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._listener: Listener | None = None
        self._viewers: dict[str, set[_Viewer]] = {}
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def viewer_count(self) -> int:
        """Viewers at present."""
        return sum(len(viewers) for viewers in self._viewers.values())

    async def start(self) -> None:
        """Begin to listen."""
        await self._listen_anew()
        self._task = asyncio.create_task(self._run(), name="fanout")

    async def close(self) -> None:
        """Stop listening."""
        self._closing = True
        if self._listener is not None:
            self._listener.stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        if self._listener is not None:
            await self._listener.close()

    async def view(self, session_id: str, since: int, *, live: bool = True) -> AsyncGenerator[str]:
        """Messages of a session after `since`, as JSON: the history, and while `live` what follows it."""
        if not live:
            async for _, message in self._store.captions(session_id, since):
                yield message
            return
        viewer = _Viewer()
        watchers = self._viewers.setdefault(session_id, set())
        watchers.add(viewer)
        try:
            if self._listener is not None and len(watchers) == 1:
                await self._listener.watch(session_id)
            last = since
            async for seq, message in self._store.captions(session_id, last):
                last = seq
                yield message
            while True:
                seq, durable, message = await viewer.queue.get()
                if viewer.overflowed or (durable and seq > last + 1):
                    viewer.overflowed = False
                    async for missed_seq, missed in self._store.captions(session_id, last):
                        last = missed_seq
                        yield missed
                elif not durable:
                    if message:
                        yield message
                elif seq > last:
                    last = seq
                    yield message
        finally:
            watchers.discard(viewer)
            if not watchers:
                self._viewers.pop(session_id, None)
                if self._listener is not None:
                    await self._listener.unwatch(session_id)

    async def _listen_anew(self) -> None:
        listener = self._store.listener()
        await listener.start()
        self._listener = listener  # from here on, viewers who come subscribe for themselves
        for session_id in list(self._viewers):
            await listener.watch(session_id)

    async def _run(self) -> None:
        while not self._closing:
            try:
                if self._listener is None:
                    await self._listen_anew()
                assert self._listener is not None
                async for session_id, seq, durable, message in self._listener.messages():
                    for viewer in self._viewers.get(session_id, ()):
                        _put(viewer, seq, durable, message)
            except StoreUnavailable:
                if self._listener is not None:
                    with contextlib.suppress(Exception):
                        await self._listener.close()
                self._listener = None
                await asyncio.sleep(RETRY_S)


def _put(viewer: _Viewer, seq: int, durable: bool, message: str) -> None:
    if not message:  # the subscription holds only from now on: what was said until then is read from the stream
        viewer.overflowed = True
    if viewer.queue.full():
        while not viewer.queue.empty():
            viewer.queue.get_nowait()
        viewer.overflowed = True
    viewer.queue.put_nowait((seq, durable, message))
