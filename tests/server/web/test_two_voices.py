"""The page while two people speak at once through one lane, and when a turn is read again: all the way from audio."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect
from websockets.sync.client import ClientConnection, connect

from tests import real, two_voices
from tests.server.web.conftest import OpenPage, wait_until
from tests.wire import END, frames_of, socket_url, start_text

CAPTION_MS = 40_000
BOTH_SPEAK_S = 17.0
"""One speaks from 9.4 to 17.4 s, the other from 15.8 to 22.0 s."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with two_voices.serving(two_voices.models(two_voices.Louder())) as url:
        yield url


def send(sender: ClientConnection, from_s: float, to_s: float) -> None:
    pcm = two_voices.meeting()[:, int(from_s * 16_000) : int(to_s * 16_000)]
    for frame in frames_of(real.as_s16(pcm), 1_600 * 8, 8, int(from_s * 16_000)):
        sender.send(frame)


TWO_OPEN_LINES = """
(() => {
  const of = (number) => [...document.querySelectorAll("#rows > li.speech.open")].find((line) =>
    [...line.querySelectorAll(".word")].some((word) => word.textContent.match(`[a-z]${number}[.]`)));
  const [before, after] = [of(2), of(4)];
  if (!before || !after || before === after) return false;
  const name = (line) => [...line.querySelectorAll(".name-label")].at(-1).dataset.speaker;
  return before.matches(".with-next") && after.matches(".with-previous") &&
    name(before) !== "" && name(after) !== "" && name(before) !== name(after);
})()
"""
"""Utterances 2 and 4 are the two that overlap when the audio so far ends."""


def test_two_who_speak_at_once_are_two_open_lines_with_two_speakers(url: str, open_page: OpenPage) -> None:
    name = f"page-{secrets.token_hex(4)}"
    with connect(socket_url(url)) as sender:
        sender.send(start_text(name, audio={"channels": 4, "layout": "array"}))
        sender.recv()
        page = open_page(f"/?session={name}", base=url)
        send(sender, 0, BOTH_SPEAK_S)
        wait_until(page, TWO_OPEN_LINES)
        send(sender, BOTH_SPEAK_S, two_voices.LENGTH_S)
        sender.send(END)
        expect(page.locator("#state")).to_have_text("Ended", timeout=CAPTION_MS)
    said = " ".join(page.locator(".word").all_inner_texts()).split()
    expected = [word.text for _, words in two_voices.utterances() for word in words]
    assert sorted(word.lower() for word in said) == sorted(expected)
    alone = [words for _, words in two_voices.utterances() if not {w.text for w in words} & two_voices.overlapped()]
    again = {word.text.upper() for words in alone for word in words}
    assert again
    assert {word for word in said if word.isupper()} == again
