"""Two voices in one lane, and turns read twice, from a sender to whoever reads: sender, viewers, transcript, resume."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator

import pytest

from client.sdk import CaptionClient, watch
from server.protocol import AnyServerMessage, AudioFormat, Final, Partial, Revision
from server.transcript import Transcript, transcript_of
from tests import real, two_voices
from tests.wire import END, rest, rows, start_text, talk

FORM = {"channels": 4, "layout": "array"}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with two_voices.serving(two_voices.models(two_voices.Louder())) as url:
        yield url


def fresh() -> str:
    return f"voices-{secrets.token_hex(4)}"


def kinds(messages: list[AnyServerMessage]) -> set[str]:
    return {message.type for message in messages}


def shown(transcript: Transcript) -> list[tuple[str, str]]:
    return sorted((w.text, w.speaker) for turn in transcript.turns.values() for w in turn.words)


async def spoken(url: str, name: str) -> list[AnyServerMessage]:
    """What a sender hears who talks through the SDK."""
    async with CaptionClient(url, audio=AudioFormat(channels=4, layout="array"), session_id=name) as stream:

        async def send() -> None:
            await stream.send(two_voices.meeting().T.copy())
            await stream.finish()

        sender = asyncio.create_task(send())
        messages = [message async for message in stream]
        await sender
    return messages


async def test_everybody_ends_up_with_the_same_words_and_labels(url: str) -> None:
    name = fresh()
    live, sent = await asyncio.gather(watched(url, name), spoken(url, name))
    late = [message async for message in watch(url, name)]
    assert "revision" in kinds(sent)
    expected = shown(transcript_of(sent))
    assert {text.lower() for text, _ in expected} == {w.text for _, words in two_voices.utterances() for w in words}
    assert shown(transcript_of(live)) == shown(transcript_of(late)) == expected
    said = [word for row in await rows(url, name) for word in row["words"].split()]
    assert sorted(said) == [text for text, _ in expected]
    for form in ("srt", "vtt", "txt"):
        body = (await rest(url, "GET", f"/v1/sessions/{name}/transcript?format={form}")).body.decode()
        assert all(text in body for text, _ in expected if text.isupper())


async def watched(url: str, name: str) -> list[AnyServerMessage]:
    """What a viewer hears who is there from the beginning."""
    await rest(url, "POST", "/v1/sessions", {"session_id": name})
    return [message async for message in watch(url, name)]


async def test_voices_that_overlap_are_turns_that_are_open_at_once(url: str) -> None:
    messages = await spoken(url, fresh())
    one, other = two_voices.overlaps()[0]
    turn_of = {w.text.lower(): m.turn for m in messages if isinstance(m, Final) for w in m.words}
    is_open = {turn_of[one]: False, turn_of[other]: False}
    both_open = False
    for message in messages:
        if isinstance(message, Final | Partial) and message.turn in is_open:
            is_open[message.turn] = not (isinstance(message, Final) and message.turn_ended)
            both_open |= all(is_open.values())
    assert len(is_open) == 2
    assert both_open


@pytest.mark.parametrize("asked", [False, True])
async def test_revisions_come_to_those_who_ask(url: str, asked: bool) -> None:
    name = fresh()
    async with talk(url) as sender:
        await sender.send(start_text(name, audio=FORM, revisions=asked))
        await sender.until("started")
        reading = asyncio.create_task(sender.until_closed())
        await sender.send_frames(real.as_s16(two_voices.meeting()), 3_200 * 8, 8)
        await sender.send(END)
        assert await reading == 1000
    async with talk(url, f"/v1/sessions/{name}/captions?since=0&revisions={int(asked)}") as viewer:
        assert await viewer.until_closed() == 1000
    for heard in (sender.heard, viewer.heard):
        assert any(isinstance(m, Revision) for m in heard) == asked
        capitals = [word for word, _ in shown(transcript_of(heard)) if word.isupper()]
        assert bool(capitals) == asked
    said = " ".join(row["words"] for row in await rows(url, name)).split()
    assert any(word.isupper() for word in said), "the transcript itself is revised for everybody"


async def test_sender_who_comes_back_gets_the_revisions_that_it_missed(url: str) -> None:
    name = fresh()
    frames_to_s = 14.0
    pcm = two_voices.meeting()
    async with talk(url) as first:
        await first.send(start_text(name, audio=FORM, revisions=True))
        token = getattr(await first.until("started"), "resume_token")  # noqa: B009 -- of one type of message only
        await first.send_frames(real.as_s16(pcm[:, : int(frames_to_s * 16_000)]), 3_200 * 8, 8)
        await first.until("revision")
    again = {"audio": FORM, "resume_token": token, "last_seq": 0}
    async with talk(url) as blind:
        await blind.send(start_text(name, **again))
        await blind.until("final")
    async with talk(url) as second:
        await second.send(start_text(name, **again, revisions=True))
        await second.until("revision")
        assert [m.seq for m in second.heard if m.type != "started"] == list(range(1, second.heard[-1].seq + 1))
        await second.send(END)
        assert await second.until_closed() == 1000
    assert "revision" not in kinds(blind.heard)


@pytest.mark.parametrize("choice", ["yes", "2", ""])
async def test_viewer_with_a_bad_choice_is_refused(url: str, choice: str) -> None:
    async with talk(url, f"/v1/sessions/nobody-here/captions?revisions={choice}") as viewer:
        code, error = await viewer.refusal()
        assert (code, error.received) == (4400, choice)
