"""Real speech through a real server to whoever reads it: chunk sizes, pace, names, late joiners, deletion."""

from __future__ import annotations

import asyncio
import secrets
import time
from itertools import pairwise

import pytest

from server.protocol import DURABLE, Ended, SpeakerName
from server.protocol import Warning as WarningMessage
from tests import real
from tests.wire import END, frames_of, rest, rows, speak, start_text, talk, words_of


def fresh() -> str:
    return f"whole-{secrets.token_hex(4)}"


async def test_other_chunk_sizes_give_the_same_transcript(server_url: str) -> None:
    pcm = real.speech(seconds=8)
    expected = words_of(await speak(server_url, pcm, block=1_600))
    assert len(expected) > 10
    for block in (160, 4_001, 50_000):
        assert words_of(await speak(server_url, pcm, block=block)) == expected


async def test_other_chunk_sizes_of_a_meeting_give_the_same_transcript(server_url: str) -> None:
    pcm = real.meeting(0, 10)
    first, second = fresh(), fresh()
    await asyncio.gather(speak(server_url, pcm, first, block=1_600), speak(server_url, pcm, second, block=333))
    expected = [{**row, "session_id": second} for row in await rows(server_url, first)]
    assert await rows(server_url, second) == expected != []


async def test_paced_and_fast_give_the_same_finals(server_url: str) -> None:
    pcm = real.short_speech()
    fast = words_of(await speak(server_url, pcm))
    began = time.monotonic()
    async with talk(server_url) as sender:
        await sender.send(start_text())
        await sender.until("started")
        reading = asyncio.create_task(sender.until_closed())
        for number, data in enumerate(frames_of(real.as_s16(pcm), 3_200)):
            await asyncio.sleep(max(0.0, began + number * 0.1 - time.monotonic()))
            await sender.send(data)
        await sender.send(END)
        assert await reading == 1000
    assert words_of(sender.heard) == fast != []


async def test_rename_is_seen_by_sender_viewer_and_transcript(server_url: str) -> None:
    name = fresh()
    async with talk(server_url) as sender:
        await sender.send(start_text(name))
        await sender.until("started")
        async with talk(server_url, f"/v1/sessions/{name}/captions") as viewer:
            await viewer.until("session")
            answer = await rest(server_url, "PATCH", f"/v1/sessions/{name}/speakers/S1", {"name": " Zoë "})
            assert answer.json == {"speaker": "S1", "name": "Zoë"}
            for reader in (sender, viewer):
                told = await reader.until("speaker_name")
                assert isinstance(told, SpeakerName)
                assert (told.speaker, told.name, told.seq) == ("S1", "Zoë", 1)
            await sender.send_frames(real.as_s16(real.short_speech()), 3_200)
            await sender.send(END)
            assert await sender.until_closed() == 1000
            assert await viewer.until_closed() == 1000
    text = await rest(server_url, "GET", f"/v1/sessions/{name}/transcript?format=txt")
    assert "Zoë: " in text.body.decode()


@pytest.mark.parametrize("when", ["before", "during", "after"])
async def test_viewer_gets_every_durable_message_whenever_they_come(server_url: str, when: str) -> None:
    name = fresh()
    await rest(server_url, "POST", "/v1/sessions", {"session_id": name})
    frames = frames_of(real.as_s16(real.short_speech()), 3_200)

    async def watch() -> list[tuple[int, str]]:
        async with talk(server_url, f"/v1/sessions/{name}/captions?revisions=1") as viewer:
            assert await viewer.until_closed() == 1000
            assert viewer.heard[0].type == "session"
            return [(m.seq, m.type) for m in viewer.heard if m.type in DURABLE]

    watching = asyncio.create_task(watch()) if when == "before" else None
    async with talk(server_url) as sender:
        await sender.send(start_text(name))
        await sender.until("started")
        for number, data in enumerate(frames):
            await sender.send(data)
            if when == "during" and number == 20:
                await sender.until("partial")
                watching = asyncio.create_task(watch())
        await sender.send(END)
        assert await sender.until_closed() == 1000
    seen = await (watching or watch())
    assert [seq for seq, _ in seen] == list(range(1, len(seen) + 1))
    assert seen == [(m.seq, m.type) for m in sender.heard if m.type in DURABLE]
    assert seen[-1][1] == "end"


async def test_viewer_who_comes_back_gets_only_what_they_missed(server_url: str) -> None:
    name = fresh()
    heard = await speak(server_url, real.short_speech(), name)
    since = heard[-1].seq - 1
    async with talk(server_url, f"/v1/sessions/{name}/captions?since={since}") as viewer:
        assert await viewer.until_closed() == 1000
        assert [m.type for m in viewer.heard] == ["session", "end"]


async def test_every_message_carries_session_number_and_clock(server_url: str) -> None:
    name = fresh()
    heard = await speak(server_url, real.short_speech(), name)
    assert {m.session_id for m in heard} == {name}
    assert all(a.seq <= b.seq and a.audio_ms <= b.audio_ms for a, b in pairwise(heard))
    assert heard[-1].audio_ms == 2_900
    assert isinstance(heard[-1], Ended)


async def test_deleted_session_is_gone_for_everybody(server_url: str) -> None:
    name = fresh()
    await speak(server_url, real.short_speech(), name)
    assert (await rest(server_url, "DELETE", f"/v1/sessions/{name}")).status == 204
    for path in ("", "/transcript"):
        assert (await rest(server_url, "GET", f"/v1/sessions/{name}{path}")).status == 404
    async with talk(server_url, f"/v1/sessions/{name}/captions") as viewer:
        assert (await viewer.refusal())[0] == 4404
    assert words_of(await speak(server_url, real.short_speech(), name)), "the name is free again"


@pytest.mark.parametrize("system", ["moonshine", "sot"])
async def test_a_vocabulary_is_taken_without_a_warning(server_url: str, system: str) -> None:
    async with talk(server_url, "/v1/stream") as sender:
        await sender.socket.send(start_text(fresh(), vocabulary=["Crosstalk", "Olive Kettering"], system=system))
        await sender.socket.send(END)
        assert await sender.until_closed() == 1000
        assert [m.code for m in sender.heard if isinstance(m, WarningMessage)] == []


async def test_a_word_of_the_vocabulary_is_written_where_another_was_likelier(server_url: str) -> None:
    pcm = real.short_speech()
    spelt = []
    for vocabulary in ([], ["failed"]):
        said = words_of(await speak(server_url, pcm, system="sot", vocabulary=vocabulary, revisions=False))
        spelt.append([text.strip(".,").lower() for text, *_ in said])
    without, favoured = spelt
    assert favoured == ["ever", "tried", "ever", "failed"]
    assert without != favoured
