"""One meeting: its audio on the way in, its messages on the way out, its life and end. And who may have one.

Audio waits in a backlog of at most `max_backlog_s`; when it is full `accept` waits, so the socket is read no further
and the client's own buffer takes over. Messages to the sender wait in an `Outbox`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from server.clock import samples_to_ms
from server.config import Settings
from server.errors import AtCapacity, BadMessage, CrosstalkError, NoSuchSession, SessionExists
from server.ingest.align import Aligned, FrameOrder, Hole
from server.metrics import Metrics
from server.pipeline import Models, Pipeline
from server.protocol import (
    DURABLE,
    Ack,
    AudioFrame,
    Ended,
    Final,
    Gap,
    ServerMessage,
    SpeakerName,
    Start,
    Started,
    encode,
    encode_unnumbered,
    is_revision,
)
from server.protocol import Warning as WarningMessage
from server.state import SessionRecord, Store, with_seq

FloatArray = NDArray[np.float32]
_Step = Callable[[], list[ServerMessage]]
EndReason = Literal["finished", "vanished", "deleted", "shutdown", "failed"]

SLICE_S = 0.32
"""Audio of one session that a worker takes at a time: sessions take turns at this grain."""
ACK_EVERY_S = 0.2
SAVE_SPEAKERS_EVERY_S = 10.0
OUTBOX_MESSAGES = 1_024
REFUSE_ABOVE_BACKLOG_S = 3.0
"""A server whose sessions wait this long on average takes no further one."""

log = logging.getLogger("crosstalk.session")


class Outbox:
    """Messages to one sender, at most OUTBOX_MESSAGES; those that it did not ask for are left out.

    When it is full, messages that are not durable are dropped; a durable one breaks the connection instead, because
    nothing may be lost silently: the captions stay in the store and the client can resume.
    """

    def __init__(self) -> None:
        self._queue: asyncio.Queue[str | None] = asyncio.Queue(OUTBOX_MESSAGES)
        self._missed: deque[str] = deque()
        self.overflowed = asyncio.Event()
        self.revisions = False
        """Whether the sender takes `revision` messages."""

    def put(self, message: str, *, durable: bool) -> None:
        """Queue a message; never waits."""
        if not self._wants(message):
            return
        try:
            self._queue.put_nowait(message)
        except asyncio.QueueFull:
            if durable:
                self.overflowed.set()

    def repeat(self, missed: Iterable[str]) -> None:
        """Before anything else: what a resumed client missed, however much (it is in the store all the same)."""
        self._missed.extend(message for message in missed if self._wants(message))

    def _wants(self, message: str) -> bool:
        return self.revisions or not is_revision(message)

    def close(self) -> None:
        """After what is queued, nothing more."""
        with contextlib.suppress(asyncio.QueueFull):
            self._queue.put_nowait(None)

    async def get(self) -> str | None:
        """The next message; None when there will be none."""
        if self._missed:
            return self._missed.popleft()
        return await self._queue.get()


@dataclass(frozen=True)
class _Piece:
    """Audio in order, (C, S) at the client's rate, and the holes that were filled in it."""

    pcm: FloatArray
    holes: tuple[Hole, ...]


class MeetingSession:
    """One live meeting. Its pipeline runs slice by slice on the shared workers, at most one slice at a time."""

    def __init__(
        self,
        session_id: str,
        start: Start,
        pipeline: Pipeline,
        store: Store,
        workers: ThreadPoolExecutor,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self.session_id = session_id
        self.start = start
        self.resume_token = secrets.token_urlsafe(16)
        self.ended = asyncio.Event()
        self.connected = True
        self.last_audio_at = time.monotonic()
        self._pipeline = pipeline
        self._store = store
        self._workers = workers
        self._settings = settings
        self._metrics = metrics
        self._order = FrameOrder(start.audio)
        self._backlog: deque[_Piece] = deque()
        self._backlog_samples = 0
        self._changed = asyncio.Condition()
        self._finishing: EndReason | None = None
        self._outbox: Outbox | None = None
        self._emitting = asyncio.Lock()
        self._seq = 0
        self._acked_at = 0
        self._saved_at = 0
        self._clipped_told = False
        self._grace: asyncio.Task[None] | None = None
        self._task = asyncio.create_task(self._run(), name=f"session {session_id}")

    @property
    def rate_hz(self) -> int:
        """The client's sample rate."""
        return self.start.audio.sample_rate_hz

    @property
    def audio_ms(self) -> int:
        """The session's audio clock: audio received in order."""
        return samples_to_ms(self._order.next_sample, self.rate_hz)

    @property
    def backlog_s(self) -> float:
        """Audio that waits for a worker."""
        return self._backlog_samples / self.rate_hz

    # --- the sender's side ---

    async def attach(self, outbox: Outbox, *, resumed: bool, last_seq: int = 0) -> None:
        """Give the sender its `started` message, and after a resume what it missed."""
        async with self._emitting:
            if self._outbox is not None:
                self._outbox.close()
            if self._grace is not None:
                self._grace.cancel()
                self._grace = None
            self._outbox = outbox
            outbox.revisions = self.start.revisions
            self.connected = True
            self.last_audio_at = time.monotonic()
            if resumed:
                self._order.resume()
            started = Started(
                session_id=self.session_id,
                seq=self._seq,
                audio_ms=self.audio_ms,
                system=self.start.system,
                resume_token=self.resume_token,
                received_samples=self._order.next_sample,
            )
            missed = [encode(started)]
            if resumed:
                missed += [message async for _, message in self._store.captions(self.session_id, last_seq)]
            outbox.repeat(missed)

    def detach(self, outbox: Outbox) -> None:
        """The sender's connection is gone; the session waits `resume_grace_s` for it to come back."""
        if self._outbox is not outbox:
            return
        self._outbox = None
        self.connected = False
        if self._finishing is None and not self.ended.is_set():
            self._grace = asyncio.create_task(self._wait_for_return(), name=f"grace {self.session_id}")

    async def _wait_for_return(self) -> None:
        await asyncio.sleep(self._settings.resume_grace_s)
        await self.finish("vanished")

    async def accept(self, frame: AudioFrame) -> None:
        """Take one frame; waits while the backlog is full.

        Raises:
            BadMessage, UnsupportedAudio: the frame can't be used; the session itself goes on.
        """
        if self._finishing is not None:
            return  # ended from elsewhere while this frame was under way; its sender is told by `end`
        aligned = self._order.step(frame)
        self.last_audio_at = time.monotonic()
        await self._enqueue(aligned)
        if self._order.clipped_samples and not self._clipped_told:
            self._clipped_told = True
            message = "samples beyond full scale were clipped; expected values in [-1, 1]"
            await self.emit(WarningMessage(session_id="", code="clipped", message=message))
        if self._order.next_sample - self._acked_at >= ACK_EVERY_S * self.rate_hz:
            await self._acknowledge(frame.frame_seq)

    async def finish(self, reason: EndReason = "finished") -> None:
        """No more audio: caption what waits, then end. Returns at once; `ended` says when."""
        if self._finishing is not None:
            return
        self._finishing = reason
        if self._grace is not None and self._grace is not asyncio.current_task():
            self._grace.cancel()
        rest = self._order.flush()
        await self._enqueue(rest)
        await self._acknowledge(0)
        async with self._changed:
            self._changed.notify_all()

    async def abandon(self) -> None:
        """Stop at once, without captioning what waits (the session is being deleted)."""
        self._finishing = "deleted"
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        if self._grace is not None:
            self._grace.cancel()
        self.ended.set()
        if self._outbox is not None:
            ended = Ended(session_id=self.session_id, seq=self._seq, audio_ms=self.audio_ms, reason="deleted")
            self._outbox.put(encode(ended), durable=True)
            self._outbox.close()

    async def _acknowledge(self, frame_seq: int) -> None:
        self._acked_at = self._order.next_sample
        if self._outbox is not None:
            ack = Ack(
                session_id=self.session_id,
                seq=self._seq,
                audio_ms=self.audio_ms,
                frame_seq=frame_seq,
                received_samples=self._acked_at,
            )
            self._outbox.put(encode(ack), durable=False)

    async def _enqueue(self, aligned: Aligned) -> None:
        samples = sum(pcm.shape[1] for pcm in aligned.pieces)
        if not samples:
            return
        limit = self._settings.max_backlog_s * self.rate_hz
        # Before the first await: whoever finishes the session meanwhile must find this audio in the backlog.
        self._backlog += [_Piece(pcm, ()) for pcm in aligned.pieces]
        if aligned.holes:
            self._backlog[-len(aligned.pieces)] = _Piece(aligned.pieces[0], tuple(aligned.holes))
        self._backlog_samples += samples
        async with self._changed:
            self._changed.notify_all()
            # One frame may go over: a frame longer than the whole backlog could otherwise never be taken.
            await self._changed.wait_for(lambda: self._backlog_samples <= limit or self.ended.is_set())
        self._metrics.audio_s.inc(samples / self.rate_hz)

    # --- the workers' side ---

    async def _run(self) -> None:
        try:
            while True:
                async with self._changed:
                    await self._changed.wait_for(lambda: bool(self._backlog) or self._finishing is not None)
                    piece = self._next_slice()
                if piece is None:
                    break
                self._metrics.backlog_s.observe(self.backlog_s)
                await self._work(piece)
                async with self._changed:
                    self._backlog_samples -= piece.pcm.shape[1]
                    self._changed.notify_all()
            await self._emit_all(await self._on_worker(self._pipeline.flush))
            await self._close(self._finishing or "finished")
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("session %s failed", self.session_id)
            await self._fail()

    def _next_slice(self) -> _Piece | None:
        """At most SLICE_S of the backlog; frames are joined or cut as needed, holes go with the first part."""
        if not self._backlog:
            return None
        wanted = int(SLICE_S * self.rate_hz)
        pieces: list[FloatArray] = []
        holes: list[Hole] = []
        while self._backlog and wanted > 0:
            piece = self._backlog.popleft()
            holes += piece.holes
            if piece.pcm.shape[1] > wanted:
                self._backlog.appendleft(_Piece(piece.pcm[:, wanted:], ()))
            pieces.append(piece.pcm[:, :wanted])
            wanted -= pieces[-1].shape[1]
        return _Piece(np.concatenate(pieces, axis=1), tuple(holes))

    async def _work(self, piece: _Piece) -> None:
        for hole in piece.holes:
            start_ms, end_ms = (samples_to_ms(s, self.rate_hz) for s in (hole.start_sample, hole.end_sample))
            self._metrics.gap_s.inc((end_ms - start_ms) / 1000)
            await self.emit(Gap(session_id="", start_ms=start_ms, end_ms=end_ms, reason="lost"))
        await self._emit_all(await self._on_worker(lambda: self._pipeline.step(piece.pcm)))
        if self._pipeline.audio_ms - self._saved_at >= SAVE_SPEAKERS_EVERY_S * 1000:
            self._saved_at = self._pipeline.audio_ms
            await self._store.save_speakers(self.session_id, self._pipeline.registry.to_state())

    async def _on_worker(self, step: _Step) -> list[ServerMessage]:
        def timed() -> list[ServerMessage]:
            with self._metrics.slice_s.time():
                return step()

        return await asyncio.get_running_loop().run_in_executor(self._workers, timed)

    async def _emit_all(self, messages: list[ServerMessage]) -> None:
        for message in messages:
            if isinstance(message, SpeakerName):
                await self._store.set_name(self.session_id, message.speaker, message.name)
            if isinstance(message, Final):
                self._metrics.words.inc(len(message.words))
            await self.emit(message)

    async def emit(self, message: ServerMessage) -> None:
        """Put a message into its envelope, keep it if it is durable, and show it to sender and viewers."""
        async with self._emitting:
            durable = message.type in DURABLE  # type: ignore[attr-defined]
            filled = replace(message, session_id=self.session_id, audio_ms=self.audio_ms)
            text = encode_unnumbered(filled)
            if durable:
                self._seq = await self._store.append(self.session_id, text, self.audio_ms)
            else:
                await self._store.publish(self.session_id, text, self._seq)
            if self._outbox is not None:
                self._outbox.put(with_seq(text, self._seq), durable=durable)

    async def _close(self, reason: EndReason) -> None:
        await self._store.save_speakers(self.session_id, self._pipeline.registry.to_state())
        await self._store.update_session(self.session_id, state="ended", audio_ms=self.audio_ms)
        await self.emit(Ended(session_id="", reason=reason))
        self.ended.set()
        async with self._changed:
            self._changed.notify_all()
        if self._outbox is not None:
            self._outbox.close()

    async def _fail(self) -> None:
        """Our own fault, or the store is gone: say so as far as that is possible, and free everything."""
        self._finishing = "failed"
        with contextlib.suppress(CrosstalkError):
            message = "the server failed; the captions until here are kept"
            await self.emit(WarningMessage(session_id="", code="internal", message=message))
            await self._close("failed")
        self.ended.set()
        async with self._changed:
            self._changed.notify_all()
        if self._outbox is not None:
            self._outbox.close()


class SessionManager:
    """Admission, look-up and end of the sessions of this process."""

    def __init__(
        self, store: Store, workers: ThreadPoolExecutor, models: dict[str, Models], settings: Settings, metrics: Metrics
    ) -> None:
        self._store = store
        self._workers = workers
        self._models = models
        self._settings = settings
        self._metrics = metrics
        self._live: dict[str, MeetingSession] = {}
        self._starting: set[str] = set()
        self._watchers: set[asyncio.Task[None]] = set()

    def live(self, session_id: str) -> MeetingSession | None:
        """The session if it is live in this process."""
        return self._live.get(session_id)

    @property
    def live_count(self) -> int:
        """Sessions that take audio."""
        return len(self._live)

    async def open(self, start: Start) -> tuple[MeetingSession, bool]:
        """A session for a sender: a new one, one created before by REST, or its own one after a lost connection.

        Returns:
            (session, whether it was resumed).

        Raises:
            AtCapacity: no room; when to try again.
            SessionExists: the id belongs to somebody else, or the session has ended.
            NoSuchSession: a resume token for a session that is gone.
            BadMessage: a system or language that is not there.
        """
        if start.resume_token:
            return self._resume(start), True
        system = start.system or self._settings.system
        if system not in self._models:
            raise BadMessage("no such system", expected=f"one of {sorted(self._models)}", received=system)
        if start.language.split("-")[0].lower() != "en":
            raise BadMessage("language not supported", expected="en", received=start.language)
        self._admit()
        session_id = start.session_id or secrets.token_hex(6)
        if session_id in self._live or session_id in self._starting:
            raise SessionExists("the session has a sender", expected="an id that is not live", received=session_id)
        self._starting.add(session_id)
        try:
            await self._claim(session_id, start, system)
            models = self._models[system]
            if start.vocabulary and models.favouring is not None:
                models = await asyncio.to_thread(models.favouring, start.vocabulary)
            pipeline = Pipeline(start.audio, models)
            session = MeetingSession(
                session_id,
                replace(start, session_id=session_id, system=system),
                pipeline,
                self._store,
                self._workers,
                self._settings,
                self._metrics,
            )
            self._live[session_id] = session
        finally:
            self._starting.discard(session_id)
        self._metrics.sessions.set(len(self._live))
        watcher = asyncio.create_task(self._forget_when_ended(session), name=f"watch {session_id}")
        self._watchers.add(watcher)
        watcher.add_done_callback(self._watchers.discard)
        return session, False

    def _admit(self) -> None:
        taken = len(self._live) + len(self._starting)
        if taken >= self._settings.max_sessions:
            raise AtCapacity(
                "the server is full",
                expected=f"fewer than {self._settings.max_sessions} live sessions",
                received=f"{taken} live sessions",
                retry_after_s=30.0,
            )
        waiting = [session.backlog_s for session in self._live.values()]
        # Fast-mode senders keep their own backlog full, so only a pile-up of several sessions counts as overload.
        if len(waiting) >= 4 and float(np.median(waiting)) > REFUSE_ABOVE_BACKLOG_S:
            raise AtCapacity(
                "the server can't keep up",
                expected=f"sessions that wait less than {REFUSE_ABOVE_BACKLOG_S:g} s",
                received=f"{np.median(waiting):.1f} s",
                retry_after_s=15.0,
            )

    def _resume(self, start: Start) -> MeetingSession:
        session = self._live.get(start.session_id)
        if session is None or session.ended.is_set():
            raise NoSuchSession("nothing to resume", expected="a session that waits", received=start.session_id)
        if not secrets.compare_digest(start.resume_token.encode(), session.resume_token.encode()):
            raise SessionExists("not this session's token", expected="the token from 'started'", received="another")
        if start.audio != session.start.audio:
            raise BadMessage("another audio format", expected=str(session.start.audio), received=str(start.audio))
        session.start = replace(session.start, revisions=start.revisions)
        return session

    async def _claim(self, session_id: str, start: Start, system: str) -> None:
        fields = {"title": start.title, "language": start.language, "system": system}
        record = SessionRecord(
            session_id, start.title, "live", language=start.language, channels=start.audio.channels, system=system
        )
        try:
            await self._store.create_session(record)
        except SessionExists:
            existing = await self._store.session(session_id)
            if existing.state != "created":
                raise
            kept = {k: v for k, v in fields.items() if v}
            await self._store.update_session(session_id, state="live", channels=start.audio.channels, **kept)

    async def _forget_when_ended(self, session: MeetingSession) -> None:
        while not session.ended.is_set():
            quiet_s = time.monotonic() - session.last_audio_at
            if session.connected and quiet_s > self._settings.idle_timeout_s and session.backlog_s == 0:
                message = f"no audio for {self._settings.idle_timeout_s:g} s; the session was ended"
                with contextlib.suppress(CrosstalkError):
                    await session.emit(WarningMessage(session_id="", code="idle", message=message))
                await session.finish("vanished")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(session.ended.wait(), 1.0)
        self._live.pop(session.session_id, None)
        self._metrics.sessions.set(len(self._live))

    async def delete(self, session_id: str) -> None:
        """End a session at once and forget all of it.

        Raises:
            NoSuchSession: unknown.
        """
        await self._store.session(session_id)
        session = self._live.get(session_id)
        if session is not None:
            await session.abandon()
        ended = encode_unnumbered(Ended(session_id=session_id, reason="deleted"))
        await self._store.append(session_id, ended, 0)
        await self._store.delete_session(session_id)

    async def close(self, timeout_s: float = 15.0) -> None:
        """The process is going down: caption what waits and end every session, within a bound."""
        sessions = list(self._live.values())
        for session in sessions:
            await session.finish("shutdown")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*(s.ended.wait() for s in sessions)), timeout_s)
        for watcher in list(self._watchers):
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watcher
