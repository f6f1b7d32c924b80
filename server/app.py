"""Starlette routes and lifespan: what is served where. No audio and no captions are made here."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib.resources
import json
import logging
import os
import secrets
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from server import sample
from server.config import Settings
from server.errors import AtCapacity, BadMessage, ClientTooSlow, CrosstalkError, NoSuchSession
from server.export import FORMATS, export
from server.fanout import Hub
from server.inference import load_systems
from server.ingest.websocket import SEND_TIMEOUT_S, refuse, serve_stream
from server.metrics import CONTENT_TYPE, Metrics
from server.protocol import (
    SPEAKER_LABEL,
    Ended,
    Session,
    SpeakerName,
    check_display_name,
    check_session_id,
    decode,
    encode,
    encode_unnumbered,
    is_revision,
)
from server.session import SessionManager
from server.state import EmbeddedValkey, SessionRecord, Store

MAX_BODY_BYTES = 64 << 10
WEB = importlib.resources.files("server") / "web"
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; media-src 'self' blob:; "
    "object-src 'none'; base-uri 'none'; frame-ancestors 'self'; form-action 'none'"
)

log = logging.getLogger("crosstalk")


async def _end_orphans(store: Store) -> None:
    """An embedded store is ours alone: a session still live in it belonged to a process that was killed."""
    for record in await store.sessions():
        if record.state == "live":
            ended = Ended(session_id=record.session_id, audio_ms=record.audio_ms, reason="shutdown")
            await store.append(record.session_id, encode_unnumbered(ended), record.audio_ms)
            await store.update_session(record.session_id, state="ended")


@dataclasses.dataclass
class Services:
    """What the routes share; made by the lifespan."""

    settings: Settings
    store: Store
    hub: Hub
    manager: SessionManager
    metrics: Metrics


def _services(connection: Request | WebSocket) -> Services:
    services: Services = connection.app.state.services
    return services


def create_app(settings: Settings) -> Starlette:
    """The application; graphs, workers and store are made when it starts."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            url = settings.redis_url or stack.enter_context(EmbeddedValkey(settings.data_dir))
            store = Store(url, ttl_s=settings.session_ttl_s, caption_limit=settings.caption_limit)
            stack.push_async_callback(store.close)
            await store.ping()
            threads = settings.worker_threads or os.cpu_count() or 1
            workers = stack.enter_context(ThreadPoolExecutor(threads, thread_name_prefix="inference"))
            loop = asyncio.get_running_loop()
            models = await loop.run_in_executor(workers, load_systems, settings.second_reading)
            if not settings.redis_url:
                await _end_orphans(store)
            hub = Hub(store)
            await hub.start()
            stack.push_async_callback(hub.close)
            metrics = Metrics()
            manager = SessionManager(store, workers, models, settings, metrics)
            stack.push_async_callback(manager.close)
            app.state.services = Services(settings, store, hub, manager, metrics)
            yield

    return Starlette(
        routes=[
            Route("/", page),
            Mount("/static", StaticFiles(packages=[("server", "web")])),
            Route("/v1/sample.wav", sample_wav),
            Route("/v1/sample.json", sample_json),
            WebSocketRoute("/v1/stream", stream),
            WebSocketRoute("/v1/sessions/{session_id}/captions", captions),
            Route("/v1/sessions", create_session, methods=["POST"]),
            Route("/v1/sessions", list_sessions),
            Route("/v1/sessions/{session_id}", delete_session, methods=["DELETE"]),
            Route("/v1/sessions/{session_id}", read_session),
            Route("/v1/sessions/{session_id}/end", end_session, methods=["POST"]),
            Route("/v1/sessions/{session_id}/speakers/{label}", rename_speaker, methods=["PATCH"]),
            Route("/v1/sessions/{session_id}/transcript", transcript),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", metrics_page),
        ],
        middleware=[Middleware(SecurityHeaders)],
        exception_handlers={CrosstalkError: _told},  # type: ignore[dict-item]
        lifespan=lifespan,
    )


class SecurityHeaders:
    """Headers that keep a page with other people's words from running anything but our own modules."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"no-referrer"),
                ]
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)


async def _told(request: Request, error: CrosstalkError) -> Response:
    body = {
        "code": error.code,
        "message": error.message,
        "expected": error.expected,
        "received": error.received,
        "retry_after_s": error.retry_after_s,
    }
    headers = {} if error.retry_after_s is None else {"Retry-After": str(round(error.retry_after_s))}
    answer = {"error": {k: v for k, v in body.items() if v is not None}}
    return JSONResponse(answer, error.http_status, headers=headers)


# --- page and sample ---


async def page(request: Request) -> Response:
    """The caption page."""
    return FileResponse(str(WEB / "index.html"), headers={"Cache-Control": "no-cache"})


async def sample_wav(request: Request) -> Response:
    """The sample meeting as WAV."""
    data = await asyncio.get_running_loop().run_in_executor(None, sample.sample_wav)
    return Response(data, media_type="audio/wav")


async def sample_json(request: Request) -> Response:
    """Facts about the sample meeting."""
    return JSONResponse(await asyncio.get_running_loop().run_in_executor(None, sample.sample_card))


# --- sockets ---


async def stream(socket: WebSocket) -> None:
    """A sender's socket."""
    services = _services(socket)
    if not _same_origin(socket):
        await socket.close(1008, "cross-origin")
        return
    await serve_stream(socket, services.manager, services.metrics)


async def captions(socket: WebSocket) -> None:
    """A viewer's socket."""
    services = _services(socket)
    if not _same_origin(socket):
        await socket.close(1008, "cross-origin")
        return
    await socket.accept()
    session_id = str(socket.path_params["session_id"])
    try:
        since = _since(socket.query_params.get("since", "0"))
        revisions = _revisions(socket.query_params.get("revisions", "0"))
        record = await services.store.session(check_session_id(session_id))
        if services.hub.viewer_count >= services.settings.max_viewers:
            raise AtCapacity(
                "no room for another viewer", expected=f"fewer than {services.settings.max_viewers}", retry_after_s=30.0
            )
        await _show(socket, services, record, since, revisions)
    except CrosstalkError as error:
        services.metrics.refused.labels(error.code).inc()
        await refuse(socket, error, session_id)
    except WebSocketDisconnect:
        pass


def _since(text: str) -> int:
    if not text.isdecimal() or len(text) > 15:
        raise BadMessage("not a sequence number", expected="since=SEQ, a whole number from 0", received=text)
    return int(text)


def _revisions(text: str) -> bool:
    if text not in ("0", "1"):
        raise BadMessage("not a choice", expected="revisions=0 or revisions=1", received=text)
    return text == "1"


async def _show(socket: WebSocket, services: Services, record: SessionRecord, since: int, revisions: bool) -> None:
    first = Session(
        session_id=record.session_id,
        seq=record.seq,
        audio_ms=record.audio_ms,
        title=record.title,
        state=record.state,  # type: ignore[arg-type]
        names=await services.store.names(record.session_id),
    )
    await socket.send_text(encode(first))
    gone = asyncio.create_task(_until_gone(socket), name="viewer reader")
    shown = asyncio.create_task(_forward(socket, services, record, since, revisions), name="viewer writer")
    services.metrics.viewers.inc()
    try:
        done, _ = await asyncio.wait({gone, shown}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            await task
    finally:
        services.metrics.viewers.dec()
        for task in (gone, shown):
            task.cancel()
        await asyncio.gather(gone, shown, return_exceptions=True)
    with contextlib.suppress(RuntimeError):
        await socket.close(1000)


async def _until_gone(socket: WebSocket) -> None:
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass  # viewers have nothing to say; what they send is not read


async def _forward(socket: WebSocket, services: Services, record: SessionRecord, since: int, revisions: bool) -> None:
    """History, then live messages until the session ends; of an ended session its history, renames included."""
    ended = record.state == "ended"
    since = min(since, record.seq)
    async with contextlib.aclosing(services.hub.view(record.session_id, since, live=not ended)) as messages:
        async for message in messages:
            if not revisions and is_revision(message):
                continue
            try:
                async with asyncio.timeout(SEND_TIMEOUT_S):
                    await socket.send_text(message)
            except TimeoutError:
                raise ClientTooSlow("the viewer stopped reading", expected="messages to be read") from None
            if not ended and '"type":"end"' in message and json.loads(message)["type"] == "end":
                return


def _same_origin(socket: WebSocket) -> bool:
    """Browsers send Origin: another site's page must not use a visitor's microphone session. Programs send none."""
    origin = socket.headers.get("origin")
    return origin is None or origin.split("://")[-1] == socket.headers.get("host")


# --- REST ---


async def _body(request: Request) -> dict[str, object]:
    size = 0
    parts = []
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise BadMessage("body too large", expected=f"at most {MAX_BODY_BYTES} bytes", received=f"{size} bytes")
        parts.append(part)
    data = b"".join(parts)
    try:
        body = json.loads(data) if data else {}
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise BadMessage("not a JSON object", expected="a JSON object", received=data[:100].decode(errors="replace"))
    return body


def _session_id(request: Request) -> str:
    return check_session_id(str(request.path_params["session_id"]))


def _shown(record: SessionRecord) -> dict[str, object]:
    return {
        "session_id": record.session_id,
        "title": record.title,
        "state": record.state,
        "created_at": record.created_at_ms / 1000,
        "audio_ms": record.audio_ms,
        "seq": record.seq,
        "language": record.language,
        "channels": record.channels,
        "system": record.system,
    }


async def create_session(request: Request) -> Response:
    """Reserve a session: {"session_id"?, "title"?}."""
    body = await _body(request)
    unknown = sorted(set(body) - {"session_id", "title"})
    if unknown:
        raise BadMessage("unknown fields", expected="session_id, title", received=str(unknown))
    wanted = body.get("session_id") or secrets.token_hex(6)
    if not isinstance(wanted, str):
        raise BadMessage("not a session id", expected="text", received=str(wanted))
    title = check_display_name(body.get("title", ""))
    record = await _services(request).store.create_session(SessionRecord(check_session_id(wanted), title))
    urls = {
        "stream_url": "/v1/stream",
        "captions_url": f"/v1/sessions/{record.session_id}/captions",
        "page_url": f"/?session={record.session_id}",
    }
    return JSONResponse({**_shown(record), **urls}, 201)


async def list_sessions(request: Request) -> Response:
    """The newest hundred sessions."""
    records = await _services(request).store.sessions()
    return JSONResponse({"sessions": [_shown(record) for record in records]})


async def read_session(request: Request) -> Response:
    """One session with its speakers' names."""
    session_id = _session_id(request)
    store = _services(request).store
    record = await store.session(session_id)
    return JSONResponse({**_shown(record), "names": await store.names(session_id)})


async def delete_session(request: Request) -> Response:
    """Forget a session and its captions."""
    await _services(request).manager.delete(_session_id(request))
    return Response(status_code=204)


async def end_session(request: Request) -> Response:
    """End a live session politely: what was said is captioned first."""
    services = _services(request)
    session_id = _session_id(request)
    record = await services.store.session(session_id)
    session = services.manager.live(session_id)
    if session is not None:
        await session.finish()
        await session.ended.wait()
    elif record.state == "created":
        await services.store.update_session(session_id, state="ended")
    elif record.state == "live":
        raise NoSuchSession("live on another worker", expected="a session of this worker", received=session_id)
    return JSONResponse(_shown(await services.store.session(session_id)))


async def rename_speaker(request: Request) -> Response:
    """Give a label a display name; every viewer is told."""
    services = _services(request)
    session_id = _session_id(request)
    label = str(request.path_params["label"])
    if not SPEAKER_LABEL.fullmatch(label):
        raise BadMessage("not a speaker label", expected="S1, S2, ...", received=label)
    body = await _body(request)
    if set(body) != {"name"}:
        raise BadMessage("wrong fields", expected="name", received=str(sorted(body)))
    name = check_display_name(body["name"])
    record = await services.store.session(session_id)
    await services.store.set_name(session_id, label, name)
    message = SpeakerName(session_id=session_id, audio_ms=record.audio_ms, speaker=label, name=name)
    session = services.manager.live(session_id)
    if session is not None:
        await session.emit(message)
    else:
        text = encode_unnumbered(message)
        await services.store.append(session_id, text, record.audio_ms)
    return JSONResponse({"speaker": label, "name": name})


async def transcript(request: Request) -> Response:
    """Export: ?format=srt|vtt|json|rttm|txt."""
    store = _services(request).store
    session_id = _session_id(request)
    form = request.query_params.get("format", "json")
    if form not in FORMATS:
        raise BadMessage("unknown format", expected=", ".join(FORMATS), received=form)
    await store.session(session_id)
    messages = [decode(text) async for _, text in store.captions(session_id)]
    headers = {"Content-Disposition": f'attachment; filename="{session_id}.{form}"'}
    return Response(export(session_id, messages, form), media_type=FORMATS[form][0], headers=headers)


# --- operation ---


async def healthz(request: Request) -> Response:
    """The process is alive."""
    return JSONResponse({"status": "ok"})


async def readyz(request: Request) -> Response:
    """The process can take a session: models loaded, store reached."""
    services = _services(request)
    await services.store.ping()
    return JSONResponse({"status": "ready", "live_sessions": services.manager.live_count})


async def metrics_page(request: Request) -> Response:
    """Prometheus exposition."""
    return Response(_services(request).metrics.render(), media_type=CONTENT_TYPE)
