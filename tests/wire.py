"""The wire without our client: raw sockets that can send what a client never would, and plain REST calls."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from typing import Any

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from server.protocol import AnyServerMessage, AudioFrame, Error, Final, Revision, WordMessage, decode, pack_frame
from tests.real import FloatArray, as_s16

ANSWER_S = 60.0
END = '{"type":"end"}'


@dataclass(frozen=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: Message
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def call(url: str, method: str, path: str, body: object = None) -> Answer:
    """One REST call; `body` is sent as JSON, bytes as they are."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, method=method)
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
            return Answer(answer.status, answer.headers, answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.headers, error.read())


async def rest(url: str, method: str, path: str, body: object = None) -> Answer:
    """`call` beside a running event loop."""
    return await asyncio.to_thread(call, url, method, path, body)


def start_text(session_id: str = "", *, without: str = "", audio: dict[str, Any] | None = None, **changes: Any) -> str:
    """A `start` for one channel of s16le at 16 kHz that asks for revisions, with fields changed or one left out."""
    form = {"sample_rate_hz": 16_000, "channels": 1, "encoding": "s16le"} | (audio or {})
    message = {"type": "start", "protocol": 1, "session_id": session_id, "audio": form, "revisions": True} | changes
    message.pop(without, None)
    return json.dumps(message)


def socket_url(url: str, path: str = "/v1/stream") -> str:
    """The same server as a WebSocket address."""
    return url.replace("http://", "ws://", 1) + path


def frames_of(payload: bytes, block_bytes: int, sample_bytes: int = 2, first_sample: int = 0) -> list[bytes]:
    """Audio as binary messages of `block_bytes`, numbered as they should be."""
    return [
        pack_frame(AudioFrame(number, first_sample + at // sample_bytes, payload[at : at + block_bytes]))
        for number, at in enumerate(range(0, len(payload), block_bytes))
    ]


@dataclass
class Talk:
    """One raw connection and everything that it heard."""

    socket: ClientConnection
    heard: list[AnyServerMessage] = field(default_factory=list)

    async def send(self, data: str | bytes) -> None:
        """Send as it is; a server that has closed already is no error here."""
        with suppress(ConnectionClosed):
            await self.socket.send(data)

    async def send_frames(self, payload: bytes, block_bytes: int, sample_bytes: int = 2, first_sample: int = 0) -> None:
        """Send audio in frames of `block_bytes`, numbered as they should be."""
        for frame in frames_of(payload, block_bytes, sample_bytes, first_sample):
            await self.send(frame)

    async def until(self, kind: str) -> AnyServerMessage:
        """Read on to the next message of a type."""
        async with asyncio.timeout(ANSWER_S):
            while True:
                text = await self.socket.recv()
                assert isinstance(text, str)
                self.heard.append(decode(text))
                if self.heard[-1].type == kind:
                    return self.heard[-1]

    async def until_closed(self) -> int:
        """Read to the close; its code."""
        async with asyncio.timeout(ANSWER_S):
            try:
                while True:
                    text = await self.socket.recv()
                    assert isinstance(text, str)
                    self.heard.append(decode(text))
            except ConnectionClosed:
                return self.socket.close_code or 0

    async def refusal(self) -> tuple[int, Error]:
        """Read to the close; its code and the error before it."""
        code = await self.until_closed()
        error = self.heard[-1]
        assert isinstance(error, Error), error
        return code, error


@asynccontextmanager
async def talk(url: str, path: str = "/v1/stream", **options: Any) -> AsyncIterator[Talk]:
    """A raw connection."""
    async with connect(socket_url(url, path), max_size=None, **options) as socket:
        yield Talk(socket)


Spoken = list[tuple[str, int, int, str]]


def words_of(messages: list[AnyServerMessage]) -> Spoken:
    """Final words with their times and labels, turn by turn, as they stand after revisions."""
    turns: dict[int, list[WordMessage]] = {}
    for message in messages:
        if isinstance(message, Final):
            turns.setdefault(message.turn, []).extend(message.words)
        elif isinstance(message, Revision):
            turns[message.turn] = list(message.words)
    return [(w.text, w.start_ms, w.end_ms, w.speaker) for words in turns.values() for w in words]


async def speak(
    url: str, pcm: FloatArray, session_id: str = "", block: int = 1_600, **start: Any
) -> list[AnyServerMessage]:
    """A whole well-behaved session, as fast as the server takes it: everything that it was told.

    `start`: further fields of the first message.
    """
    channels = np.atleast_2d(pcm).shape[0]
    async with talk(url) as sender:
        await sender.send(start_text(session_id, audio={"channels": channels}, **start))
        await sender.until("started")
        reading = asyncio.create_task(sender.until_closed())
        await sender.send_frames(as_s16(pcm), block * 2 * channels, 2 * channels)
        await sender.send(END)
        assert await reading == 1000
        return sender.heard


async def rows(url: str, session_id: str) -> list[dict[str, Any]]:
    """The transcript as SegLST rows."""
    answer = await rest(url, "GET", f"/v1/sessions/{session_id}/transcript?format=json")
    assert answer.status == 200, answer.body
    return list(answer.json)


async def transcript_words(url: str, session_id: str) -> list[str]:
    """Every word of the transcript."""
    return " ".join(row["words"] for row in await rows(url, session_id)).split()
