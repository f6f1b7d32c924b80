"""Talk to a Crosstalk server: send audio, iterate captions, survive a lost connection.

    async with CaptionClient("http://127.0.0.1:8700", audio=AudioFormat(sample_rate_hz=48_000, channels=4)) as stream:
        await stream.send(pcm)              # again and again, from a task of its own when the source is live
        await stream.finish()               # no more audio
        async for message in stream:        # until the server's `end`
            ...

Viewers use `watch`; `list_sessions` and `fetch_transcript` cover the REST calls that the commands need.
It refuses to capture, decode or resample audio (`client.capture`, `client.media`) and to draw anything
(`client.terminal`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import urllib.error
import urllib.request
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import numpy as np
from numpy.typing import NDArray
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from server import errors
from server.errors import (
    AtCapacity,
    ClientTooSlow,
    CrosstalkError,
    NoSuchSession,
    SessionError,
    StoreUnavailable,
    UnsupportedAudio,
)
from server.protocol import (
    DURABLE,
    MAX_FRAME_BYTES,
    Ack,
    AnyServerMessage,
    AudioFormat,
    AudioFrame,
    Ended,
    Error,
    Partial,
    Session,
    Start,
    Started,
    check_session_id,
    decode,
    end_message,
    pack_frame,
    parse_client_message,
    start_message,
)

Pcm = NDArray[np.int16] | NDArray[np.float32] | bytes

FRAME_MS = 200
"""Longest frame sent at once; 16 channels of float32 at 48 kHz are then 614 kB, under MAX_FRAME_BYTES."""

KEEPALIVE_S = 60.0
"""A connection that answers no ping for this long is lost. Long, because a server that paces a fast client stops
reading its socket, pings included."""

STALLED_READER_S = 60.0
"""Durable messages that nobody takes for this long end the stream: see `CaptionClient`."""


class ServerUnreachable(CrosstalkError):
    """No Crosstalk server answered at the address, or it stayed away after a lost connection."""

    code = "unreachable"


class _Lost(Exception):
    """The connection is gone and another one may be tried; `retry_after_s` from the server, if it named a time."""

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


def _error_types(base: type[CrosstalkError] = CrosstalkError) -> list[type[CrosstalkError]]:
    """`base` and all below it as far as the server knows them, children before parents."""
    below = [kind for child in base.__subclasses__() for kind in _error_types(child)]
    return [*below, base] if base.__module__ == errors.__name__ else below


# A parent may share its code with a child that adds nothing (SessionExists has its own), so parents win.
_BY_CODE = {kind.code: kind for kind in _error_types()}
_BY_CLOSE_CODE = {kind.close_code: kind for kind in _error_types()}


def error_from(message: Error) -> CrosstalkError:
    """The exception that stands for an `error` message."""
    kind = _BY_CODE.get(message.code, CrosstalkError)
    return kind(
        message.message or "the server reported an error",
        expected=message.expected,
        received=message.received,
        retry_after_s=message.retry_after_s,
    )


def _refusal(url: str, status: int, body: bytes) -> CrosstalkError:
    """The exception that stands for an HTTP answer with an error status."""
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        fields = json.loads(body)
        fields = fields.get("error", fields)
        known = {k: fields[k] for k in ("code", "message", "expected", "received", "retry_after_s") if k in fields}
        if "code" in known:
            return error_from(Error(session_id="", **known))
    return ServerUnreachable(f"{url} answered with HTTP {status}, not as a Crosstalk server does")


def base_url(url: str, scheme: str = "http") -> str:
    """`url` without a trailing slash and with `http(s)` or `ws(s)` as its scheme.

    Raises:
        ServerUnreachable: not the address of a server.
    """
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https", "ws", "wss") or not parts.netloc:
        raise ServerUnreachable("not a server address", expected="http://HOST:PORT", received=url)
    secure = "s" if parts.scheme in ("https", "wss") else ""
    return urlunsplit((scheme + secure, parts.netloc, parts.path.rstrip("/"), "", ""))


def _is_loopback(url: str) -> bool:
    return urlsplit(url).hostname in ("127.0.0.1", "::1", "localhost")


async def _connect(url: str) -> ClientConnection:
    """An open WebSocket, compression off (PCM does not shrink), proxies as in the environment unless on loopback.

    Raises:
        ServerUnreachable: nobody answers, or not as a Crosstalk server does.
    """
    try:
        return await connect(
            url,
            compression=None,
            open_timeout=10,
            close_timeout=2,
            ping_timeout=KEEPALIVE_S,
            proxy=None if _is_loopback(url) else True,
        )
    except InvalidStatus as refused:
        raise _refusal(url, refused.response.status_code, bytes(refused.response.body or b"")) from refused
    except (OSError, TimeoutError, InvalidHandshake, InvalidURI) as error:
        raise ServerUnreachable(f"no Crosstalk server answers at {url}: {error or type(error).__name__}") from error


async def _receive(socket: ClientConnection) -> AnyServerMessage:
    """The next message.

    Raises:
        _Lost: the connection ended without a word on why.
        CrosstalkError: the server's reason for closing it.
    """
    try:
        raw = await socket.recv()
    except ConnectionClosed as closed:
        code = closed.rcvd.code if closed.rcvd is not None else 1006
        kind = _BY_CLOSE_CODE.get(code)
        if kind is None or kind in (CrosstalkError, StoreUnavailable):
            raise _Lost(f"connection lost (code {code})") from closed
        reason = closed.rcvd.reason if closed.rcvd is not None else ""
        raise kind(reason or f"the server closed the connection with code {code}") from closed
    return decode(raw if isinstance(raw, str) else raw.decode("utf-8", "replace"))


@dataclass(frozen=True)
class Backoff:
    """How a lost connection is tried again: `tries` times, after waits that double from `first_s` up to `longest_s`.

    Each wait is shortened at random by up to half, so that many clients do not come back at the same instant.
    """

    tries: int = 8
    first_s: float = 0.25
    longest_s: float = 8.0

    def wait_s(self, attempt: int, retry_after_s: float | None = None) -> float:
        """Seconds before try number `attempt` (from 0); never less than what the server asked for."""
        wait = min(self.longest_s, self.first_s * 2.0**attempt) * random.uniform(0.5, 1.0)
        return max(wait, min(retry_after_s or 0.0, 60.0))


@dataclass(frozen=True)
class _Block:
    """Encoded audio on its way, cut to at most FRAME_MS."""

    first_sample: int
    samples: int
    payload: bytes

    @property
    def end_sample(self) -> int:
        return self.first_sample + self.samples


class CaptionClient:
    """One stream of audio to a server, and the captions that come back. Use as an async context manager.

    Sending. `send` takes int16 or float32 in [-1, 1], shape (S, C) or, for one channel, (S,), or bytes that are
    already encoded as `audio` says. What the server has not acknowledged is kept, at most `buffer_s` of audio. When
    that is full `send` waits, so a source that can wait (a file) loses nothing and is paced by the server.
    `send_nowait` never waits: when full it drops the oldest audio, counts it in `dropped_samples`, and if the server
    had not got it yet, the hole becomes a `gap` message. One task sends at a time.

    Receiving. Iterate the client for messages; `started`, `ack` and `error` are dealt with inside. At most
    `max_messages` wait for the reader. When full, the oldest partial or level gives way; if only durable messages
    wait, the socket is no longer read, the server stops acknowledging and `send` waits: nothing durable is dropped,
    so read while you send. If nobody reads for STALLED_READER_S the stream fails with ClientTooSlow.

    Losing the connection. It is opened again as `backoff` says and the session goes on where the server stands;
    the count of tries starts anew whenever the server acknowledged audio or sent a caption in between. No durable
    message is delivered twice.

    Leaving the block ends the stream: without `finish`, audio that was not sent is dropped.

    Args:
        url: the server's address, such as `http://127.0.0.1:8700`; http, https, ws and wss are taken.
        audio: how audio is sent.
        session_id: wanted name of the session; empty for one of the server's choosing.
        language, vocabulary, title, system: see `server.protocol.Start`.
        buffer_s: longest audio kept unacknowledged.
        max_messages: most messages waiting for the reader.
        backoff: how a lost connection is tried again.

    Raises (from entering, sending or iterating):
        UnsupportedAudio, BadMessage: the arguments or audio break the protocol; nothing was sent.
        ServerUnreachable: the server is not there, or stayed away.
        CrosstalkError: what the server says, as the class of its code.
    """

    def __init__(
        self,
        url: str,
        *,
        audio: AudioFormat | None = None,
        session_id: str = "",
        language: str = "en",
        vocabulary: tuple[str, ...] = (),
        title: str = "",
        system: str = "",
        buffer_s: float = 30.0,
        max_messages: int = 4096,
        backoff: Backoff | None = None,
    ) -> None:
        self._start = Start(
            audio=audio or AudioFormat(),
            session_id=session_id,
            language=language,
            vocabulary=tuple(vocabulary),
            title=title,
            system=system,
            revisions=True,
        )
        parse_client_message(start_message(self._start))  # the server's own checks, before it is troubled
        self.audio = self._start.audio
        self._url = f"{base_url(url, 'ws')}/v1/stream"
        self._backoff = backoff or Backoff()
        self._buffer_limit_samples = max(1, round(buffer_s * self.audio.sample_rate_hz))
        self._max_messages = max_messages

        self.session_id = session_id
        """Name of the session; known after entering."""
        self.acked_samples = 0
        """All samples before this one are safe with the server."""
        self.sent_samples = 0
        """Index of the next sample to be given to `send`."""
        self.dropped_samples = 0
        """Samples that `send_nowait` dropped because the buffer was full."""
        self.dropped_messages = 0
        """Partials and levels that gave way because nobody read."""
        self.reconnects = 0
        """How often the connection was lost and found again."""
        self.last_seq = 0
        """The newest durable message taken in."""

        # Unacknowledged audio, oldest first; both together are bounded by buffer_s (see send and send_nowait).
        self._in_flight: deque[tuple[int, _Block]] = deque()  # sent over this connection, with their frame_seq
        self._pending: deque[_Block] = deque()  # not sent over this connection yet
        self._unacked_samples = 0
        self._frame_seq = 0  # of the next frame
        self._acked_frames = 0  # frames that the server has, in order
        self._finishing = False
        self._end_sent = False  # over this connection
        self._token = ""
        self._progressed = False  # since the last connection was opened
        self._messages: deque[AnyServerMessage] = deque()  # bounded by max_messages, see _deliver
        self._ended: Ended | None = None
        self._failure: CrosstalkError | None = None
        self._closed = False
        # Wake-ups: the sender has something to do; `send` may go on; the reader has a message; the reader took one.
        self._audio_ready = asyncio.Event()
        self._room = asyncio.Event()
        self._message_ready = asyncio.Event()
        self._message_taken = asyncio.Event()
        self._socket: ClientConnection | None = None
        self._supervisor: asyncio.Task[None] | None = None

    async def __aenter__(self) -> CaptionClient:
        try:
            self._socket = await self._open()
        except _Lost as lost:
            raise ServerUnreachable(f"no Crosstalk server answers at {self._url}: {lost}") from lost
        self._supervisor = asyncio.create_task(self._supervise(), name="crosstalk-stream")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._supervisor is not None, "not entered"
        self._supervisor.cancel()
        await asyncio.gather(self._supervisor, return_exceptions=True)
        await self._hang_up(say_end=self._ended is None and self._failure is None and not self._end_sent)

    # --- sending ---------------------------------------------------------------------------------------------------

    async def send(self, pcm: Pcm, *, first_sample: int | None = None) -> None:
        """Hand audio over; waits while `buffer_s` of it is unacknowledged.

        Args:
            pcm: see the class.
            first_sample: index of its first sample when audio before it is missing; then the hole becomes a `gap`.

        Raises:
            UnsupportedAudio: wrong type or shape, NaN or infinity, part of a sample; none of it was sent.
            CrosstalkError: the stream has failed or ended.
        """
        payload = self._encoded(pcm)
        self._skip_to(first_sample)
        for piece, samples in self._cut(payload):
            while self._is_full(samples):
                self._check_open()
                self._room.clear()
                await self._room.wait()
            self._append(piece, samples)

    def send_nowait(self, pcm: Pcm, *, first_sample: int | None = None) -> None:
        """As `send`, for a live source that cannot wait: when the buffer is full the oldest audio is dropped."""
        payload = self._encoded(pcm)
        self._skip_to(first_sample)
        for piece, samples in self._cut(payload):
            while self._is_full(samples):
                if self._in_flight:  # most likely there already, only its acknowledgement is not
                    self._unacked_samples -= self._in_flight.popleft()[1].samples
                else:
                    oldest = self._pending.popleft()
                    self._unacked_samples -= oldest.samples
                    self.dropped_samples += oldest.samples
            self._append(piece, samples)

    async def finish(self) -> None:
        """Say that no more audio comes. Returns at once; iterate until the server's `end`."""
        self._check_open()
        self._finishing = True
        self._audio_ready.set()

    def _check_open(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._ended is not None:
            raise SessionError(f"the session has ended ({self._ended.reason})")
        if self._finishing:
            raise SessionError("no audio can follow finish()")
        if self._supervisor is None or self._closed:
            raise SessionError("the stream is not open")

    def _skip_to(self, first_sample: int | None) -> None:
        self._check_open()
        if first_sample is None:
            return
        if first_sample < self.sent_samples:
            raise UnsupportedAudio(
                "audio goes back in time", expected=f"sample {self.sent_samples} or later", received=str(first_sample)
            )
        self.sent_samples = first_sample

    def _is_full(self, samples: int) -> bool:
        """Whether `samples` more would be too many; an empty buffer takes any one frame."""
        return 0 < self._unacked_samples > self._buffer_limit_samples - samples

    def _append(self, payload: bytes, samples: int) -> None:
        self._check_open()
        self._pending.append(_Block(self.sent_samples, samples, payload))
        self._unacked_samples += samples
        self.sent_samples += samples
        self._audio_ready.set()

    def _cut(self, payload: bytes) -> list[tuple[bytes, int]]:
        """`payload` in pieces of at most FRAME_MS, each with its length in samples."""
        size = self.audio.frame_bytes
        step = max(1, min(self.audio.sample_rate_hz * FRAME_MS // 1000, MAX_FRAME_BYTES // size - 1)) * size
        pieces = [payload[at : at + step] for at in range(0, len(payload), step)]
        return [(piece, len(piece) // size) for piece in pieces]

    def _encoded(self, pcm: Pcm) -> bytes:
        """`pcm` as the bytes that `audio` promises; float32 is rounded and clipped where int16 is sent."""
        audio = self.audio
        if isinstance(pcm, bytes | bytearray | memoryview):
            payload = bytes(pcm)
            if len(payload) % audio.frame_bytes:
                raise UnsupportedAudio(
                    "not whole samples",
                    expected=f"a multiple of {audio.frame_bytes} bytes ({audio.channels} channels, {audio.encoding})",
                    received=f"{len(payload)} bytes",
                )
            if audio.encoding == "f32le":
                _check_finite(np.frombuffer(payload, "<f4"))
            return payload
        expected = f"an int16 or float32 array of shape (S, {audio.channels})"
        if not isinstance(pcm, np.ndarray):
            raise UnsupportedAudio("not audio", expected=f"{expected}, or bytes", received=type(pcm).__name__)
        is_mono_row = pcm.ndim == 1 and audio.channels == 1
        if not is_mono_row and (pcm.ndim != 2 or pcm.shape[1] != audio.channels):
            raise UnsupportedAudio("wrong shape", expected=expected, received=f"shape {pcm.shape}")
        if pcm.dtype.kind == "i" and pcm.dtype.itemsize == 2:
            if audio.encoding == "s16le":
                return pcm.astype("<i2", copy=False).tobytes()
            return (pcm.astype("<f4") / np.float32(32768)).astype("<f4", copy=False).tobytes()
        if pcm.dtype.kind == "f" and pcm.dtype.itemsize == 4:
            _check_finite(pcm)
            if audio.encoding == "f32le":
                return pcm.astype("<f4", copy=False).tobytes()
            scaled: NDArray[np.float32] = np.clip(np.rint(pcm * np.float32(32768)), -32768, 32767)
            return scaled.astype("<i2").tobytes()
        raise UnsupportedAudio("wrong sample type", expected=expected, received=str(pcm.dtype))

    # --- receiving -------------------------------------------------------------------------------------------------

    def __aiter__(self) -> AsyncIterator[AnyServerMessage]:
        return self

    async def __anext__(self) -> AnyServerMessage:
        while not self._messages:
            if self._failure is not None:
                raise self._failure
            if self._ended is not None or self._closed or self._supervisor is None:
                raise StopAsyncIteration
            self._message_ready.clear()
            await self._message_ready.wait()
        self._message_taken.set()
        return self._messages.popleft()

    async def _deliver(self, message: AnyServerMessage) -> None:
        """Queue a message for the reader; see the class for what happens when nobody reads."""
        durable = message.type in DURABLE
        if durable:
            if message.seq <= self.last_seq:
                return  # replayed after a resume
            self._progressed = True
        while len(self._messages) >= self._max_messages:
            transient = next((m for m in self._messages if m.type not in DURABLE), None)
            if transient is not None:
                self._messages.remove(transient)
                self.dropped_messages += 1
            elif not durable:
                self.dropped_messages += 1
                return
            else:
                self._message_taken.clear()
                try:
                    await asyncio.wait_for(self._message_taken.wait(), STALLED_READER_S)
                except TimeoutError:
                    raise ClientTooSlow(
                        f"{len(self._messages)} captions wait and nobody has read one for {STALLED_READER_S:.0f} s"
                    ) from None
        if durable:
            self.last_seq = message.seq
        self._messages.append(message)
        self._message_ready.set()

    # --- the connection --------------------------------------------------------------------------------------------

    async def _open(self) -> ClientConnection:
        """Connect, say `start`, wait for `started`; the session's name and position are then known."""
        socket = await _connect(self._url)
        try:
            start = self._start
            if self._token:
                start = replace(start, session_id=self.session_id, resume_token=self._token, last_seq=self.last_seq)
            with contextlib.suppress(ConnectionClosed):  # the server's reason is read below
                await socket.send(start_message(start))
            async with asyncio.timeout(30):
                while not isinstance(message := await _receive(socket), Started):
                    await self._take(message)
        except TimeoutError:
            await socket.close()
            raise _Lost("the server took the connection but did not answer within 30 s") from None
        except BaseException:
            await socket.close()
            raise
        self.session_id, self._token = message.session_id, message.resume_token or self._token
        self._acknowledge(message.received_samples)
        # Frames that got lost are sent again under the same numbers: the server waits for exactly these.
        self._pending.extendleft(block for _, block in reversed(self._in_flight))
        self._in_flight.clear()
        self._frame_seq, self._end_sent = self._acked_frames, False
        if self._pending and (known := message.received_samples - self._pending[0].first_sample) > 0:
            # The server took a part of this block only; it drops frames that begin before what it has.
            head = self._pending.popleft()
            rest = head.payload[known * self.audio.frame_bytes :]
            self._pending.appendleft(_Block(head.first_sample + known, head.samples - known, rest))
            self._unacked_samples -= known
        self._audio_ready.set()
        return socket

    async def _supervise(self) -> None:
        """Keep a connection until the session has ended or cannot go on; then wake everybody who waits."""
        assert self._socket is not None
        attempt = 0
        try:
            while True:
                try:
                    if self._socket is None:
                        try:
                            self._socket = await self._open()
                        except NoSuchSession:
                            await self._read_the_rest()
                            return
                        self.reconnects += 1
                    await self._exchange(self._socket)
                    return
                except (_Lost, ServerUnreachable, AtCapacity, StoreUnavailable) as lost:
                    await self._hang_up(say_end=False)
                    if self._progressed:
                        attempt, self._progressed = 0, False
                    if not self._token or attempt >= self._backoff.tries:
                        raise ServerUnreachable(
                            f"the connection to {self._url} was lost and {attempt} tries did not bring it back: {lost}"
                        ) from lost
                    await asyncio.sleep(self._backoff.wait_s(attempt, lost.retry_after_s))
                    attempt += 1
        except CrosstalkError as error:
            self._failure = error
        finally:
            self._closed = True
            for event in (self._room, self._message_ready, self._audio_ready):
                event.set()

    async def _exchange(self, socket: ClientConnection) -> None:
        """Send and receive over one connection until `end`, or until it breaks."""
        pump = asyncio.create_task(self._pump(socket), name="crosstalk-send")
        reader = asyncio.create_task(self._read(socket), name="crosstalk-receive")
        try:
            await asyncio.wait({pump, reader}, return_when=asyncio.FIRST_COMPLETED)
            if not reader.done():
                pump.result()  # all is sent, or the connection is lost and the reader learns why
            await reader
        finally:
            for task in (pump, reader):
                task.cancel()
            await asyncio.gather(pump, reader, return_exceptions=True)

    async def _read_the_rest(self) -> None:
        """The session ended while the connection was away: take what was captioned from where viewers take it."""
        url = self._url.removesuffix("/v1/stream")
        async with contextlib.aclosing(watch(url, self.session_id, self.last_seq)) as messages:
            async for message in messages:
                if message.type in DURABLE:
                    await self._take(message)

    async def _pump(self, socket: ClientConnection) -> None:
        """Send what is pending, then `end` once `finish` was called."""
        with contextlib.suppress(ConnectionClosed):  # the reader learns why
            while True:
                if self._pending:
                    block = self._pending.popleft()
                    self._in_flight.append((self._frame_seq, block))
                    frame = AudioFrame(self._frame_seq, block.first_sample, block.payload)
                    self._frame_seq += 1
                    await socket.send(pack_frame(frame))
                elif self._finishing:
                    self._end_sent = True
                    await socket.send(end_message())
                    return
                else:
                    self._audio_ready.clear()
                    await self._audio_ready.wait()

    async def _read(self, socket: ClientConnection) -> None:
        while self._ended is None:
            await self._take(await _receive(socket))

    async def _take(self, message: AnyServerMessage) -> None:
        match message:
            case Ack():
                self._progressed = self._progressed or message.received_samples > self.acked_samples
                self._acknowledge(message.received_samples)
            case Error():
                raise error_from(message)
            case Ended():
                await self._deliver(message)
                self._ended = message
            case Started():
                pass
            case _:
                await self._deliver(message)

    def _acknowledge(self, received_samples: int) -> None:
        self.acked_samples = max(self.acked_samples, received_samples)
        while self._in_flight and self._in_flight[0][1].end_sample <= self.acked_samples:
            frame_seq, block = self._in_flight.popleft()
            self._acked_frames = frame_seq + 1
            self._unacked_samples -= block.samples
        while self._pending and self._pending[0].end_sample <= self.acked_samples:
            self._unacked_samples -= self._pending.popleft().samples
        self._room.set()

    async def _hang_up(self, *, say_end: bool) -> None:
        socket, self._socket = self._socket, None
        if socket is None:
            return
        if say_end:
            with contextlib.suppress(ConnectionClosed, TimeoutError):
                async with asyncio.timeout(1):
                    await socket.send(end_message())
        await socket.close()


def _check_finite(pcm: NDArray[Any]) -> None:
    if not np.isfinite(pcm).all():
        raise UnsupportedAudio("audio holds NaN or infinity", expected="finite samples", received="NaN or infinity")


# --- viewers and REST ----------------------------------------------------------------------------------------------


async def watch(
    url: str, session_id: str, since: int = 0, *, backoff: Backoff | None = None
) -> AsyncGenerator[AnyServerMessage, None]:
    """A session's captions as they come, history after `since` first, until its `end`.

    A lost connection is opened again from the last durable message; none comes twice. After each connection the
    first message is a `session`. Nothing is queued here: a reader that is too slow is dropped by the server and comes
    back where it was.

    Raises:
        NoSuchSession: the server does not know the session.
        ServerUnreachable: the server is not there, or stayed away.
    """
    check_session_id(session_id)
    backoff = backoff or Backoff()
    last_seq, attempt, was_open = since, 0, False
    over_at: int | None = None  # the last message of a session that had ended before
    while True:
        address = f"{base_url(url, 'ws')}/v1/sessions/{quote(session_id)}/captions?since={last_seq}&revisions=1"
        socket: ClientConnection | None = None
        try:
            socket = await _connect(address)
            while True:
                message = await _receive(socket)
                was_open = True
                if isinstance(message, Error):
                    raise error_from(message)
                if message.type in DURABLE:
                    if message.seq <= last_seq:
                        continue
                    last_seq, attempt = message.seq, 0
                elif isinstance(message, Partial):
                    attempt = 0
                yield message
                if isinstance(message, Session) and message.state == "ended":
                    over_at = message.seq
                if isinstance(message, Ended) or (over_at is not None and last_seq >= over_at):
                    return  # also when `since` was behind the `end` of a session that is over
        except (_Lost, ServerUnreachable, ClientTooSlow, StoreUnavailable) as lost:
            if not was_open or attempt >= backoff.tries:
                raise ServerUnreachable(f"no captions of {session_id} from {url}: {lost}") from lost
            wait_s = backoff.wait_s(attempt, lost.retry_after_s)
        finally:
            if socket is not None:
                await socket.close()
        await asyncio.sleep(wait_s)
        attempt += 1


async def list_sessions(url: str) -> list[dict[str, Any]]:
    """The server's sessions, as `GET /v1/sessions` gives them."""
    answer = json.loads(await _get(f"{base_url(url)}/v1/sessions"))
    sessions = answer.get("sessions", []) if isinstance(answer, dict) else answer
    return list(sessions)


async def fetch_transcript(url: str, session_id: str, format_name: str) -> str:
    """A session's transcript as the server writes it.

    Args:
        format_name: srt, vtt, json (SegLST), rttm or txt.
    """
    check_session_id(session_id)
    return await _get(f"{base_url(url)}/v1/sessions/{quote(session_id)}/transcript?format={quote(format_name)}")


async def _get(url: str) -> str:
    """The body of a GET, read on a worker thread.

    Raises:
        ServerUnreachable: no answer within 30 s, or not one of a Crosstalk server.
        CrosstalkError: what the server says, as the class of its code.
    """

    def read() -> str:
        handlers = [urllib.request.ProxyHandler({})] if _is_loopback(url) else []
        with urllib.request.build_opener(*handlers).open(url, timeout=30) as response:
            body: bytes = response.read()
            return body.decode("utf-8")

    try:
        return await asyncio.to_thread(read)
    except urllib.error.HTTPError as refused:
        with refused:
            body = refused.read(65_536)
        raise _refusal(url, refused.code, body) from refused
    except (OSError, ValueError) as error:
        raise ServerUnreachable(f"no Crosstalk server answers at {url}: {error}") from error
