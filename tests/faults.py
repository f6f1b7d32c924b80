"""Things that go wrong on the way: a TCP proxy whose connections can be cut. The peers behind it are the real ones."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from urllib.parse import urlsplit


class CuttableProxy:
    """Passes bytes between clients and `target_url`, until told to `cut`. Use as an async context manager."""

    def __init__(self, target_url: str) -> None:
        target = urlsplit(target_url)
        assert target.hostname is not None
        assert target.port is not None
        self._target = (target.hostname, target.port)
        self._links: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.refusing = False
        """While True, new connections are closed at once."""
        self.accepted = 0
        self._passed_bytes = 0  # from clients to the target
        self._progress = asyncio.Condition()

    @property
    def url(self) -> str:
        """Where clients connect."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> CuttableProxy:
        self._server = await asyncio.start_server(self._link, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        await self.cut()

    async def cut(self) -> None:
        """Break all connections now, without a word to either side."""
        links = list(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    async def passed(self, length_bytes: int) -> None:
        """Wait until that much has gone from clients to the target."""
        async with self._progress:
            await self._progress.wait_for(lambda: self._passed_bytes >= length_bytes)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        self.accepted += 1
        far_writer: asyncio.StreamWriter | None = None
        try:
            if self.refusing:
                return
            far_reader, far_writer = await asyncio.open_connection(*self._target)
            up = asyncio.create_task(self._pass(reader, far_writer, counted=True))
            down = asyncio.create_task(self._pass(far_reader, writer, counted=False))
            try:
                await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in (up, down):
                    one.cancel()
                await asyncio.gather(up, down, return_exceptions=True)
        except asyncio.CancelledError:
            pass  # cut; the streams' own callback must not see it
        finally:
            for end in (writer, far_writer):
                if end is not None:
                    end.transport.abort()
                    with contextlib.suppress(OSError):
                        await end.wait_closed()
            self._links.discard(task)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counted: bool) -> None:
        while data := await reader.read(16_384):
            writer.write(data)
            await writer.drain()
            if counted:
                async with self._progress:
                    self._passed_bytes += len(data)
                    self._progress.notify_all()
