"""One sender's socket: text and binary messages in, the session's outbox out. Nothing here knows about audio maths."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from server.errors import BadMessage, ClientTooSlow, CrosstalkError
from server.metrics import Metrics
from server.protocol import End, Error, Start, encode, parse_client_message, unpack_frame
from server.session import MeetingSession, Outbox, SessionManager

START_TIMEOUT_S = 10.0
SEND_TIMEOUT_S = 15.0
"""A client that takes no byte for this long has stopped reading."""

log = logging.getLogger("crosstalk.ingest")


async def refuse(socket: WebSocket, error: CrosstalkError, session_id: str = "", seq: int = 0) -> None:
    """Say what was wrong, then close with the error's code."""
    message = Error(
        session_id=session_id,
        seq=seq,
        code=error.code,
        message=error.message,
        expected=error.expected,
        received=error.received,
        retry_after_s=error.retry_after_s,
    )
    with contextlib.suppress(RuntimeError, WebSocketDisconnect, TimeoutError):
        await asyncio.wait_for(socket.send_text(encode(message)), SEND_TIMEOUT_S)
    with contextlib.suppress(RuntimeError, WebSocketDisconnect, TimeoutError):
        await asyncio.wait_for(socket.close(error.close_code, error.code), SEND_TIMEOUT_S)


async def serve_stream(socket: WebSocket, manager: SessionManager, metrics: Metrics) -> None:
    """Serve one sender from accept to close."""
    await socket.accept()
    outbox = Outbox()
    session: MeetingSession | None = None
    try:
        start = await _read_start(socket)
        session, resumed = await manager.open(start)
        await session.attach(outbox, resumed=resumed, last_seq=start.last_seq)
        reader = asyncio.create_task(_read(socket, session), name="stream reader")
        writer = asyncio.create_task(_write(socket, outbox), name="stream writer")
        broken = asyncio.create_task(outbox.overflowed.wait(), name="stream overflow")
        try:
            await _until_over(reader, writer, broken)
        finally:
            for task in (reader, writer, broken):
                task.cancel()
            await asyncio.gather(reader, writer, broken, return_exceptions=True)
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await socket.close(1000)
    except CrosstalkError as error:
        metrics.refused.labels(error.code).inc()
        log.info("stream refused: %s", error)
        await refuse(socket, error, session.session_id if session else "")
    except WebSocketDisconnect:
        pass
    finally:
        if session is not None:
            session.detach(outbox)


async def _until_over(reader: asyncio.Task[None], writer: asyncio.Task[None], broken: asyncio.Task[bool]) -> None:
    """The writer ends when the session does; the reader ends at `end` or raises; an overflow breaks the connection."""
    waiting: set[asyncio.Task[None] | asyncio.Task[bool]] = {reader, writer, broken}
    while writer in waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if broken in done:
            raise ClientTooSlow("the client stopped reading", expected="messages to be read", received="a full outbox")
        for task in done:
            await task


async def _read_start(socket: WebSocket) -> Start:
    try:
        event = await asyncio.wait_for(socket.receive(), START_TIMEOUT_S)
    except TimeoutError:
        raise ClientTooSlow(
            "no start message", expected=f"'start' within {START_TIMEOUT_S:g} s", received="nothing"
        ) from None
    if event["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(event.get("code", 1005))
    if event.get("text") is None:
        raise BadMessage("audio before the start", expected="a text message 'start'", received="a binary message")
    message = parse_client_message(event["text"])
    if not isinstance(message, Start):
        raise BadMessage("wrong order", expected="a text message 'start'", received="'end'")
    return message


async def _read(socket: WebSocket, session: MeetingSession) -> None:
    """Frames until `end`; then only that the client stays."""
    ended = False
    while True:
        event = await socket.receive()
        if event["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(event.get("code", 1005))
        data = event.get("bytes")
        if data is not None:
            if ended:
                raise BadMessage("audio after the end", expected="no audio after 'end'", received="a binary frame")
            await session.accept(unpack_frame(data, session.start.audio))
            continue
        message = parse_client_message(event["text"])
        if not isinstance(message, End):
            raise BadMessage("wrong order", expected="audio frames or 'end'", received="a second 'start'")
        ended = True
        await session.finish()


async def _write(socket: WebSocket, outbox: Outbox) -> None:
    while (message := await outbox.get()) is not None:
        if socket.application_state is not WebSocketState.CONNECTED:
            return
        try:
            # Not `wait_for`: in Python 3.11 it swallows a cancellation that comes as the message goes out.
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await socket.send_text(message)
        except TimeoutError:
            raise ClientTooSlow(
                "the client stopped reading",
                expected=f"a message to be read within {SEND_TIMEOUT_S:g} s",
                received="nothing read",
            ) from None
