"""The page as a stranger uses it: a real browser, a real server, a microphone that hears the sample meeting."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from server.local import LocalServer
from tests.server.web.conftest import OpenPage, wait_until, watch
from tests.server.web.cuttable import CuttableProxy

CAPTION_MS = 40_000
"""The slowest machine captions the first words within this."""

EVIL = '<img src=x onerror="window.hit=1">'


@pytest.fixture(scope="module")
def meeting(browser: Browser, server_url: str, complaints: list[str]) -> Iterator[Page]:
    """A page that plays the sample meeting, once somebody in it is captioned and known."""
    context = browser.new_context(base_url=server_url, viewport={"width": 700, "height": 480})
    page = watch(context.new_page(), complaints)
    page.goto("/")
    page.get_by_role("button", name="Play the sample meeting").click()
    expect(page.locator(".word:not(.tail)").nth(11)).to_be_visible(timeout=CAPTION_MS)
    expect(page.locator('.name-label[data-speaker="S1"]').first).to_be_visible(timeout=CAPTION_MS)
    yield page
    context.close()


def session_of(page: Page) -> str:
    found = re.search(r"session=([\w-]+)", page.url)
    assert found, page.url
    return found[1]


def words(page: Page) -> list[str]:
    return " ".join(page.locator(".word:not(.tail)").all_inner_texts()).split()


def test_the_microphone_is_captioned(open_page: OpenPage) -> None:
    page = open_page("/")
    page.get_by_label("Title").fill("Stand-up")
    page.get_by_label("Names and terms").fill(" remote,, buttons ; Zoë\u00a0K,remote")
    sent: list[str | bytes] = []
    page.on("websocket", lambda socket: socket.on("framesent", lambda frame: sent.append(frame)))
    page.get_by_role("button", name="Caption my microphone").click()
    expect(page.locator("#state")).to_have_text("Live", timeout=CAPTION_MS)
    expect(page.locator(".word:not(.tail)").nth(8)).to_be_visible(timeout=CAPTION_MS)
    assert {"think", "remote", "really", "complicated", "buttons"} & {w.strip(".,").lower() for w in words(page)}
    expect(page.get_by_role("heading", name="Stand-up")).to_be_visible()
    started = json.loads(sent[0])
    assert (started["title"], started["vocabulary"]) == ("Stand-up", ["remote", "buttons", "Zoë K"])
    expect(page.locator("#meters li").first).to_be_visible()
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#state")).to_have_text("Ended", timeout=CAPTION_MS)
    assert page.locator(".tail").count() == 0


def test_the_sample_meeting_is_captioned_and_each_microphone_has_a_level(meeting: Page) -> None:
    expect(meeting.locator("#state")).to_have_text("Live")
    expect(meeting.locator("#title")).to_have_text("Sample meeting")
    expect(meeting.locator("#meters li")).to_have_count(4)
    assert len(words(meeting)) > 10


def test_a_late_viewer_sees_what_was_said_before(meeting: Page, open_page: OpenPage) -> None:
    said = words(meeting)[:8]
    viewer = open_page(f"/?session={session_of(meeting)}")
    expect(viewer.locator(".word:not(.tail)").nth(7)).to_be_visible()
    assert words(viewer)[:8] == said
    expect(viewer.get_by_role("button", name="Stop")).to_be_hidden()
    assert viewer.locator("#announced p").count() == 0 or said[0] not in viewer.locator("#announced").inner_text()


def test_a_name_given_here_is_read_there_and_markup_in_it_is_text(meeting: Page, open_page: OpenPage) -> None:
    viewer = open_page(f"/?session={session_of(meeting)}")
    shown = viewer.locator('.name-label[data-speaker="S1"]').first
    expect(shown).to_have_text("Speaker 1")
    meeting.locator('.name:has([data-speaker="S1"])').first.click()
    field = meeting.get_by_label("Name of Speaker 1")
    field.fill("not this")
    field.press("Escape")
    expect(field).to_have_count(0)
    meeting.locator('.name:has([data-speaker="S1"])').first.click()
    meeting.get_by_label("Name of Speaker 1").fill(EVIL)
    meeting.keyboard.press("Enter")
    expect(shown).to_have_text(EVIL)
    expect(meeting.locator('.name-label[data-speaker="S1"]').first).to_have_text(EVIL)
    assert viewer.locator("#rows img").count() == 0
    assert viewer.evaluate("window.hit") is None


def test_scrolling_up_pauses_and_new_captions_leave_the_reader_alone(meeting: Page) -> None:
    overflow = "(() => { const m = document.getElementById('captions'); return m.scrollHeight - m.clientHeight })()"
    wait_until(meeting, f"{overflow} > 260")
    meeting.mouse.move(350, 240)
    meeting.mouse.wheel(0, -2000)
    jump = meeting.get_by_role("button", name="Jump to live")
    expect(jump).to_be_visible()
    count = meeting.locator(".word").count()
    wait_until(meeting, f"document.querySelectorAll('.word').length > {count + 3}")
    assert meeting.evaluate("document.getElementById('captions').scrollTop") < 20
    jump.click()
    expect(jump).to_be_hidden()
    wait_until(meeting, f"{overflow} - document.getElementById('captions').scrollTop < 60")


def test_the_transcript_is_downloaded_as_srt(meeting: Page, tmp_path: Path) -> None:
    meeting.get_by_role("button", name="Share").click()
    with meeting.expect_download() as download:
        meeting.get_by_role("link", name="SubRip").click()
    download.value.save_as(tmp_path / "captions.srt")
    text = (tmp_path / "captions.srt").read_text()
    assert re.match(r"1\r?\n\d\d:\d\d:\d\d,\d{3} --> \d\d:\d\d:\d\d,\d{3}\r?\n\S", text), text[:200]
    assert words(meeting)[0] in text
    meeting.keyboard.press("Escape")
    expect(meeting.locator("#share")).to_be_hidden()


def test_a_lost_connection_is_resumed_without_losing_a_word(
    open_page: OpenPage, server_url: str, complaints: list[str]
) -> None:
    with CuttableProxy(server_url) as proxy:
        page = open_page("/", base=proxy.url)
        page.get_by_role("button", name="Play the sample meeting").click()
        expect(page.locator(".word").nth(3)).to_be_visible(timeout=CAPTION_MS)
        before = words(page)
        proxy.down = True
        proxy.cut()
        expect(page.locator("#state")).to_have_text("Reconnecting", timeout=5_000)
        expect(page.locator("#kept")).to_contain_text("s of sound kept")
        time.sleep(2)
        proxy.down = False
        expect(page.locator("#state")).to_have_text("Live", timeout=20_000)
        wait_until(page, f"document.querySelectorAll('.word:not(.tail)').length > {len(before) + 8}")
        assert words(page)[: len(before)] == before
        assert page.locator(".gap").count() == 0
        page.get_by_role("button", name="Stop").click()
        expect(page.locator("#state")).to_have_text("Ended", timeout=CAPTION_MS)
        # The browser itself reports each refused connection; nothing else may be there.
        complaints[:] = [text for text in complaints if "WebSocket connection to" not in text]


def test_an_unreachable_server_is_explained_and_used_once_it_is_there(
    open_page: OpenPage, server_url: str, complaints: list[str]
) -> None:
    with CuttableProxy(server_url) as proxy:
        page = open_page("/", base=proxy.url)
        proxy.down = True
        proxy.cut()
        page.get_by_role("button", name="Caption my microphone").click()
        expect(page.get_by_role("alert")).to_contain_text("The server can't be reached.")
        proxy.down = False
        page.get_by_role("button", name="Try again").click()
        expect(page.locator("#state")).to_have_text("Live", timeout=20_000)
        expect(page.get_by_role("alert")).to_be_hidden()
        page.get_by_role("button", name="Stop").click()
        expect(page.locator("#state")).to_have_text("Ended", timeout=CAPTION_MS)
        complaints[:] = [text for text in complaints if "Failed to load resource" not in text]


def test_a_full_server_is_explained_with_a_hint_when_to_try_again(open_page: OpenPage) -> None:
    with LocalServer({"CROSSTALK_MAX_SESSIONS": "1"}) as full:
        first = open_page("/", base=full.url)
        first.get_by_role("button", name="Play the sample meeting").click()
        expect(first.locator("#state")).to_have_text("Live", timeout=CAPTION_MS)
        second = open_page("/", base=full.url)
        second.get_by_role("button", name="Caption my microphone").click()
        expect(second.get_by_role("alert")).to_contain_text(re.compile(r"The server is full\..* in \d+ s\."))
        expect(second.get_by_role("button", name="Try again")).to_be_visible()
        expect(second.get_by_role("button", name="Caption my microphone")).to_be_visible()
        first.get_by_role("button", name="Stop").click()
        expect(first.locator("#state")).to_have_text("Ended", timeout=CAPTION_MS)
        wait_until(second, "new Promise((done) => setTimeout(() => done(true), 1500))")  # the server lets go of it
        second.get_by_role("button", name="Try again").click()
        expect(second.locator("#state")).to_have_text("Live", timeout=CAPTION_MS)
        second.get_by_role("button", name="Stop").click()
        expect(second.locator("#state")).to_have_text("Ended", timeout=CAPTION_MS)


def test_an_unknown_meeting_is_explained(open_page: OpenPage) -> None:
    page = open_page("/?session=nobody-knows-this")
    expect(page.get_by_role("alert")).to_contain_text("This meeting is not known here.")
    expect(page.locator("#state")).to_have_text("Not connected")


def test_a_refused_microphone_is_explained(open_page: OpenPage) -> None:
    page = open_page("/")
    page.evaluate(
        """() => { navigator.mediaDevices.getUserMedia =
        () => Promise.reject(new DOMException("no", "NotAllowedError")) }"""
    )
    page.get_by_role("button", name="Caption my microphone").click()
    expect(page.get_by_role("alert")).to_contain_text("The microphone is blocked.")
    expect(page.get_by_role("button", name="Try again")).to_be_visible()


def test_a_recent_meeting_can_be_opened_from_the_start_page(meeting: Page, open_page: OpenPage) -> None:
    page = open_page("/")
    page.locator(f'#sessions a[href*="{session_of(meeting)}"]').click()
    expect(page.locator(".word").first).to_be_visible()


def test_theme_and_text_size_are_remembered(open_page: OpenPage) -> None:
    page = open_page("/", color_scheme="light")
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    page.get_by_role("button", name="Display").click()
    page.get_by_role("radio", name="Dark").check()
    dark = page.evaluate(paper)
    page.get_by_role("button", name="Larger text").click()
    expect(page.locator("#size")).to_have_text("115%")
    page.reload()
    assert light != dark
    assert page.evaluate(paper) == dark
    assert page.evaluate("document.documentElement.style.getPropertyValue('--scale')") == "1.15"


def test_everything_can_be_reached_with_the_keyboard_and_has_a_name(open_page: OpenPage) -> None:
    page = open_page("/")
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert {"display-open", "captions", "start-microphone", "start-sample", "meeting-title", "device"} <= set(reached)
    page.locator("#display-open").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "larger"


def test_nothing_is_loaded_from_anywhere_else_and_a_strict_policy_holds(
    browser: Browser, server_url: str, complaints: list[str]
) -> None:
    context = browser.new_context(base_url=server_url)
    page = watch(context.new_page(), complaints)
    hosts = set()
    page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
    page.goto("/")
    expect(page.get_by_role("button", name="Play the sample meeting")).to_be_enabled()
    policy = page.locator('meta[http-equiv="Content-Security-Policy"]').get_attribute("content")
    assert policy is not None
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert hosts == {server_url.split("/")[2]}
    context.close()


@pytest.mark.parametrize("width_px", [390, 1280])
def test_nothing_is_wider_than_the_screen(open_page: OpenPage, meeting: Page, width_px: int) -> None:
    page = open_page(f"/?session={session_of(meeting)}", viewport={"width": width_px, "height": 800})
    expect(page.locator(".word").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width_px
    assert page.evaluate("document.getElementById('captions').scrollWidth") <= width_px


def test_the_sample_meeting_has_two_speakers_or_more_and_ends_by_itself(meeting: Page) -> None:
    expect(meeting.locator("#state")).to_have_text("Ended", timeout=100_000)  # the sample takes 79 s
    labels = meeting.locator(".name-label").evaluate_all("labels => labels.map((label) => label.dataset.speaker)")
    assert len(set(labels) - {""}) >= 2, labels
    expect(meeting.get_by_role("link", name="New meeting")).to_be_visible()


def test_the_page_never_complained(complaints: list[str]) -> None:
    assert complaints == []
