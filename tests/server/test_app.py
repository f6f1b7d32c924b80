"""The routes against a real server: REST, headers, origins, and what operations asks."""

from __future__ import annotations

import asyncio
import secrets

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from server.protocol import Ended, Session, SpeakerName
from tests import real
from tests.wire import call, rest, rows, socket_url, speak, start_text, talk, words_of


def fresh(stem: str = "app") -> str:
    return f"{stem}-{secrets.token_hex(4)}"


# --- sessions ------------------------------------------------------------------------------------------------------


def test_session_is_created_read_listed_ended_and_deleted(server_url: str) -> None:
    name = fresh()
    created = call(server_url, "POST", "/v1/sessions", {"session_id": name, "title": " Weekly "})
    assert created.status == 201
    assert (created.json["session_id"], created.json["title"], created.json["state"]) == (name, "Weekly", "created")
    assert created.json["captions_url"] == f"/v1/sessions/{name}/captions"
    read = call(server_url, "GET", f"/v1/sessions/{name}")
    assert read.json["names"] == {}
    assert name in [s["session_id"] for s in call(server_url, "GET", "/v1/sessions").json["sessions"]]
    assert call(server_url, "POST", f"/v1/sessions/{name}/end").json["state"] == "ended"
    assert call(server_url, "DELETE", f"/v1/sessions/{name}").status == 204
    assert call(server_url, "GET", f"/v1/sessions/{name}").status == 404
    assert name not in [s["session_id"] for s in call(server_url, "GET", "/v1/sessions").json["sessions"]]


def test_session_without_a_name_gets_one(server_url: str) -> None:
    first, second = (call(server_url, "POST", "/v1/sessions").json["session_id"] for _ in range(2))
    assert first != second
    for name in (first, second):
        assert call(server_url, "DELETE", f"/v1/sessions/{name}").status == 204


def test_taken_name_is_a_conflict_that_says_so(server_url: str) -> None:
    name = fresh()
    call(server_url, "POST", "/v1/sessions", {"session_id": name})
    answer = call(server_url, "POST", "/v1/sessions", {"session_id": name})
    assert answer.status == 409
    assert answer.json == {
        "error": {
            "code": "session_exists",
            "message": "the session id is taken",
            "expected": "an id that is not in use",
            "received": name,
        }
    }


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/end"),
        ("GET", "/transcript"),
        ("PATCH", "/speakers/S1"),
    ],
)
def test_session_that_is_not_there_is_named(server_url: str, method: str, path: str) -> None:
    body = {"name": "Ann"} if method == "PATCH" else None
    answer = call(server_url, method, f"/v1/sessions/nobody-here{path}", body)
    assert answer.status == 404
    assert answer.json["error"]["code"] == "no_such_session"
    assert answer.json["error"]["expected"]
    assert answer.json["error"]["received"] == "nobody-here"


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b"[1]",
        b"null",
        b"\xff\xfe",
        b"[" * 60_000,
        {"session_id": "../etc"},
        {"session_id": 7},
        {"title": 7},
        {"title": "x" * 65},
        {"name": "Ann"},
        b" " * 70_000,
    ],
)
def test_bad_body_is_refused_with_expected_and_received(server_url: str, body: object) -> None:
    answer = call(server_url, "POST", "/v1/sessions", body)
    assert answer.status in (400, 413)
    assert answer.json["error"]["expected"]
    assert answer.json["error"]["received"]


@pytest.mark.parametrize("name", ["a%2Fb", "-a", "a" * 65, "a%20b", "%2e%2e", "a%00b"])
def test_name_with_path_characters_is_refused(server_url: str, name: str) -> None:
    assert call(server_url, "GET", f"/v1/sessions/{name}").status in (400, 404)
    assert call(server_url, "DELETE", f"/v1/sessions/{name}").status in (400, 404, 405)


@pytest.mark.parametrize(
    ("label", "body", "word"),
    [
        ("S0", {"name": "Ann"}, "label"),
        ("Ann", {"name": "Ann"}, "label"),
        ("S1", {}, "fields"),
        ("S1", {"name": "Ann", "age": 3}, "fields"),
        ("S1", {"name": 3}, "name"),
        ("S1", {"name": "a\nb"}, "name"),
    ],
)
def test_bad_rename_is_refused(server_url: str, label: str, body: object, word: str) -> None:
    name = fresh()
    call(server_url, "POST", "/v1/sessions", {"session_id": name})
    answer = call(server_url, "PATCH", f"/v1/sessions/{name}/speakers/{label}", body)
    assert answer.status == 400
    assert word in answer.json["error"]["message"]


async def test_transcript_comes_in_every_format_with_names(server_url: str) -> None:
    name = fresh()
    said = words_of(await speak(server_url, real.short_speech(), name))
    assert said
    renamed = await rest(server_url, "PATCH", f"/v1/sessions/{name}/speakers/S1", {"name": "Ann"})
    assert renamed.json == {"speaker": "S1", "name": "Ann"}
    assert (await rest(server_url, "GET", f"/v1/sessions/{name}")).json["names"] == {"S1": "Ann"}
    for form, sign in (("srt", b" --> "), ("vtt", b"WEBVTT"), ("json", b"S1"), ("rttm", b"SPEAKER"), ("txt", b"Ann: ")):
        answer = await rest(server_url, "GET", f"/v1/sessions/{name}/transcript?format={form}")
        assert answer.status == 200
        assert sign in answer.body
        assert answer.headers["Content-Disposition"] == f'attachment; filename="{name}.{form}"'
    assert " ".join(r["words"] for r in await rows(server_url, name)).split() == [w[0] for w in said]
    refused = await rest(server_url, "GET", f"/v1/sessions/{name}/transcript?format=docx")
    assert refused.status == 400
    assert refused.json["error"]["expected"] == "srt, vtt, json, rttm, txt"
    assert refused.json["error"]["received"] == "docx"


async def test_ending_a_live_session_captions_what_was_said_and_tells_the_sender(server_url: str) -> None:
    name = fresh()
    async with talk(server_url) as sender:
        await sender.send(start_text(name))
        await sender.until("started")
        await sender.send_frames(real.as_s16(real.short_speech()), 3_200)
        await sender.until("ack")
        answer = await rest(server_url, "POST", f"/v1/sessions/{name}/end")
        assert answer.json["state"] == "ended"
        assert await sender.until_closed() == 1000
        assert isinstance(sender.heard[-1], Ended)
        assert words_of(sender.heard)


async def test_reserved_session_becomes_live_and_ended_ones_take_nobody(server_url: str) -> None:
    name = fresh()
    await rest(server_url, "POST", "/v1/sessions", {"session_id": name, "title": "Weekly"})
    async with talk(server_url) as sender:
        await sender.send(start_text(name))
        await sender.until("started")
        shown = (await rest(server_url, "GET", f"/v1/sessions/{name}")).json
        assert (shown["state"], shown["title"], shown["channels"]) == ("live", "Weekly", 1)
        await sender.send('{"type":"end"}')
        assert await sender.until_closed() == 1000
    async with talk(server_url) as late:
        await late.send(start_text(name))
        code, error = await late.refusal()
        assert (code, error.code, error.received) == (4409, "session_exists", name)


# --- viewers -------------------------------------------------------------------------------------------------------


async def test_viewer_of_nobody_is_refused_with_the_close_code(server_url: str) -> None:
    async with talk(server_url, "/v1/sessions/nobody-here/captions") as viewer:
        code, error = await viewer.refusal()
        assert (code, error.code, error.received) == (4404, "no_such_session", "nobody-here")


@pytest.mark.parametrize("since", ["-1", "abc", "1.5", "9" * 16, ""])
async def test_viewer_with_a_bad_since_is_refused(server_url: str, since: str) -> None:
    async with talk(server_url, f"/v1/sessions/nobody-here/captions?since={since}") as viewer:
        code, error = await viewer.refusal()
        assert (code, error.received) == (4400, since)


async def test_viewer_begins_with_the_session_and_ends_with_it(server_url: str) -> None:
    name = fresh()
    await rest(server_url, "POST", "/v1/sessions", {"session_id": name, "title": "Weekly"})
    async with talk(server_url, f"/v1/sessions/{name}/captions") as viewer:
        first = await viewer.until("session")
        assert isinstance(first, Session)
        assert (first.title, first.state, first.seq) == ("Weekly", "created", 0)
        await rest(server_url, "PATCH", f"/v1/sessions/{name}/speakers/S3", {"name": "Cy"})
        named = await viewer.until("speaker_name")
        assert isinstance(named, SpeakerName)
        assert (named.speaker, named.name, named.seq, named.session_id) == ("S3", "Cy", 1, name)
        await rest(server_url, "DELETE", f"/v1/sessions/{name}")
        ended = await viewer.until("end")
        assert isinstance(ended, Ended)
        assert ended.reason == "deleted"
        assert await viewer.until_closed() == 1000


# --- safety and operation ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/stream", "/v1/sessions/any/captions"])
@pytest.mark.parametrize("origin", ["https://elsewhere.example", "null", "http://127.0.0.1:1"])
async def test_page_of_another_site_gets_no_socket(server_url: str, path: str, origin: str) -> None:
    with pytest.raises((InvalidStatus, ConnectionClosed)):
        async with connect(socket_url(server_url, path), origin=origin) as socket:  # type: ignore[arg-type]
            await socket.recv()


async def test_our_own_page_gets_a_socket(server_url: str) -> None:
    async with talk(server_url, origin=server_url) as sender:
        await sender.send(start_text())
        await sender.until("started")
        await sender.send('{"type":"end"}')
        assert await sender.until_closed() == 1000


@pytest.mark.parametrize("path", ["/", "/healthz", "/v1/sessions", "/v1/sessions/nobody-here", "/nowhere"])
def test_every_answer_carries_the_security_headers(server_url: str, path: str) -> None:
    headers = call(server_url, "GET", path).headers
    assert "default-src 'self'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


def test_health_and_readiness(server_url: str) -> None:
    assert call(server_url, "GET", "/healthz").json == {"status": "ok"}
    ready = call(server_url, "GET", "/readyz")
    assert ready.json["status"] == "ready"
    assert ready.json["live_sessions"] >= 0


async def test_metrics_count_audio_words_and_refusals(server_url: str) -> None:
    def value(text: str, name: str) -> float:
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))

    names = ("crosstalk_audio_seconds_total", "crosstalk_words_total", "crosstalk_refused_total")
    before = (await rest(server_url, "GET", "/metrics")).body.decode()
    said = words_of(await speak(server_url, real.short_speech()))
    async with talk(server_url) as bad:
        await bad.send("nonsense")
        await bad.until_closed()
    answer = await rest(server_url, "GET", "/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain")
    audio_s, words, refused = (value(answer.body.decode(), n) - value(before, n) for n in names)
    assert audio_s == pytest.approx(2.9)
    assert (words, refused) == (len(said), 1)


def test_sample_meeting_is_served(server_url: str) -> None:
    card = call(server_url, "GET", "/v1/sample.json").json
    assert card["channels"] == 4
    data = call(server_url, "GET", "/v1/sample.wav")
    assert data.headers["Content-Type"] == "audio/wav"
    assert data.body[:4] == b"RIFF"
    assert len(data.body) == 44 + round(card["duration_s"] * 16_000) * 8


@pytest.mark.parametrize("path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py"])
def test_nothing_outside_the_page_is_served(server_url: str, path: str) -> None:
    assert call(server_url, "GET", path).status == 404


async def test_deleting_a_live_session_tells_sender_and_leaves_nothing(server_url: str) -> None:
    name = fresh()
    async with talk(server_url) as sender:
        await sender.send(start_text(name))
        await sender.until("started")
        await sender.send_frames(real.as_s16(real.short_speech()), 3_200)
        await sender.until("ack")
        assert (await rest(server_url, "DELETE", f"/v1/sessions/{name}")).status == 204
        assert await sender.until_closed() == 1000
        ended = sender.heard[-1]
        assert isinstance(ended, Ended)
        assert ended.reason == "deleted"
    await asyncio.sleep(0.2)
    assert (await rest(server_url, "GET", f"/v1/sessions/{name}")).status == 404
