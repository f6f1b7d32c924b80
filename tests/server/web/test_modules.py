"""The page's pure modules and its rendering, driven by scripted messages inside the real browser."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page

from tests.server.web.conftest import OpenPage

Message = dict[str, Any]

SETUP = """
async () => {
  const at = (name) => new URL(`static/${name}.js`, document.baseURI).href;
  const { Captions, runsOf, gapText, clockText, voiceOf } = await import(at("captions"));
  const { Announcer } = await import(at("announcer"));
  const { CaptionView } = await import(at("view"));
  const { Follower } = await import(at("follower"));
  const { packFrame } = await import(at("uplink"));
  const { readWav, mixToStereo } = await import(at("sample"));
  document.body.dataset.stage = "view";
  document.getElementById("welcome").hidden = true;
  const rows = document.getElementById("rows");
  const captions = new Captions();
  const announcer = new Announcer(captions);
  const follower = new Follower(document.getElementById("captions"), rows, document.getElementById("jump"));
  const view = new CaptionView(rows, captions, follower, () => {});
  const frame = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  const hear = async (messages) => {
    const told = [];
    for (const message of messages) {
      const change = captions.apply(message);
      if (change.repeated) continue;
      told.push(...announcer.hear(message));
      view.update(change);
      if (change.session) view.updateNames();
    }
    await frame();
    return told;
  };
  const lines = () => captions.items.map((item) => item.kind === "speech"
    ? runsOf(item).map((run) => `${captions.nameOf(run.speaker)}: ` +
        [...item.words, ...item.tail].slice(run.from, run.to).map((w) => w.text).join(" ")).join(" / ")
    : item.kind === "gap" ? gapText(item) : item.text);
  window.t = { captions, follower, hear, lines, frame, runsOf, clockText, voiceOf, packFrame, readWav, mixToStereo };
}
"""


class Script:
    """Messages as the server would number them."""

    def __init__(self) -> None:
        self.seq = 0
        self.word_id = 0

    def durable(self, kind: str, **fields: Any) -> Message:
        self.seq += 1
        return {"type": kind, "seq": self.seq, "session_id": "s", "audio_ms": 0, **fields}

    def session(self, **fields: Any) -> Message:
        base = {"session_id": "s", "audio_ms": 0, "title": "", "state": "live", "names": {}}
        return {"type": "session", "seq": self.seq, **base, **fields}

    def words(self, text: str, start_ms: int, speaker: str, *, final: bool) -> list[Message]:
        made = []
        for i, word in enumerate(text.split()):
            made.append(
                {
                    "text": word,
                    "start_ms": start_ms + 300 * i,
                    "end_ms": start_ms + 300 * (i + 1),
                    "confidence": 1.0,
                    "channel": -1,
                    "speaker": speaker,
                    "word_id": self.word_id if final else -1,
                }
            )
            self.word_id += final
        return made

    def final(self, turn: int, text: str, start_ms: int, speaker: str = "S1", *, ended: bool = False) -> Message:
        return self.durable("final", turn=turn, turn_ended=ended, words=self.words(text, start_ms, speaker, final=True))

    def revision(self, turn: int, text: str, start_ms: int, speaker: str = "S1") -> Message:
        return self.durable("revision", turn=turn, words=self.words(text, start_ms, speaker, final=True))

    def partial(self, turn: int, text: str, start_ms: int, speaker: str = "S1") -> Message:
        words = self.words(text, start_ms, speaker, final=False)
        return {"type": "partial", "seq": self.seq, "session_id": "s", "audio_ms": 0, "turn": turn, "words": words}


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def page(open_page: OpenPage) -> Page:
    page = open_page("/", viewport={"width": 900, "height": 420})
    page.evaluate(SETUP)
    return page


def hear(page: Page, *messages: Message) -> list[str]:
    told: list[str] = page.evaluate("(messages) => t.hear(messages)", list(messages))
    return told


def lines(page: Page) -> list[str]:
    result: list[str] = page.evaluate("t.lines()")
    return result


def settled(page: Page) -> None:
    """Smooth scrolling has come to rest."""
    page.evaluate(
        """async () => { const m = document.getElementById("captions");
        for (let last = -1; last !== m.scrollTop;) {
          last = m.scrollTop; await new Promise((r) => setTimeout(r, 120)); } }"""
    )


def test_final_words_follow_each_other_and_the_tail_stands_behind_them(page: Page, script: Script) -> None:
    hear(page, script.final(0, "Hello there", 0), script.partial(0, "my frend", 600))
    assert lines(page) == ["Speaker 1: Hello there my frend"]
    hear(page, script.partial(0, "my friend of", 600))
    assert lines(page) == ["Speaker 1: Hello there my friend of"]


def test_a_final_takes_its_words_out_of_the_tail_and_leaves_the_rest(page: Page, script: Script) -> None:
    hear(page, script.partial(0, "we should begin now", 0), script.final(0, "We should", 0))
    assert lines(page) == ["Speaker 1: We should begin now"]


def test_a_message_that_comes_again_after_a_reconnect_changes_nothing(page: Page, script: Script) -> None:
    first, second = script.final(0, "Only", 0), script.final(0, "once.", 300, ended=True)
    hear(page, script.session(), first, second, first, second)
    assert lines(page) == ["Speaker 1: Only once."]


def test_blocks_stand_in_the_order_of_their_starts_and_keep_their_places(page: Page, script: Script) -> None:
    hear(page, script.final(0, "first", 0), script.final(1, "third", 4000, "S2"), script.final(2, "second", 2000, "S3"))
    assert lines(page) == ["Speaker 1: first", "Speaker 3: second", "Speaker 2: third"]
    hear(page, script.final(0, "goes on", 900))
    assert lines(page)[0] == "Speaker 1: first goes on"


def test_a_turn_that_goes_on_after_another_whole_turn_continues_below_it(page: Page, script: Script) -> None:
    hear(
        page,
        script.final(0, "One thing.", 0),
        script.final(1, "Yes.", 600, "S2", ended=True),
        script.final(0, "And another.", 2000, ended=True),
    )
    assert lines(page) == ["Speaker 1: One thing.", "Speaker 2: Yes.", "Speaker 1: And another."]


def test_the_speaker_changes_within_a_turn_and_a_late_correction_splits_it(page: Page, script: Script) -> None:
    hear(page, script.final(0, "are you coming yes I am", 0, ""))
    assert lines(page) == ["Someone: are you coming yes I am"]
    hear(page, script.durable("speaker", first_word_id=0, last_word_id=2, speaker="S1"))
    hear(page, script.durable("speaker", first_word_id=3, last_word_id=5, speaker="S2"))
    assert lines(page) == ["Speaker 1: are you coming / Speaker 2: yes I am"]
    assert page.locator(".run").count() == 2
    assert page.locator(".run").nth(1).locator(".text").inner_text().strip() == "yes I am"


def test_a_correction_keeps_the_elements_of_the_words(page: Page, script: Script) -> None:
    hear(page, script.final(0, "are you coming yes I am", 0))
    page.evaluate("for (const w of document.querySelectorAll('.word')) w.seen = true")
    hear(page, script.durable("speaker", first_word_id=3, last_word_id=5, speaker="S2"))
    assert page.evaluate("[...document.querySelectorAll('.word')].every((w) => w.seen)")
    assert page.locator(".word").count() == 6


def test_final_words_do_not_move_while_the_tail_changes_or_settles(page: Page, script: Script) -> None:
    where = "[...document.querySelectorAll('.word')].slice(0, 4).map((w) => [w.offsetLeft, w.offsetTop])"
    hear(page, script.final(0, "These four words stay", 0), script.partial(0, "where they", 1200))
    before = page.evaluate(where)
    for tail in ("where they were all along whatever comes behind them in the tail", "", "where"):
        hear(page, script.partial(0, tail, 1200))
        assert page.evaluate(where) == before
    hear(page, script.final(0, "where they are.", 1200, ended=True))
    assert page.evaluate(where) == before


def test_a_shorter_tail_does_not_pull_up_what_stands_below(page: Page, script: Script) -> None:
    below = "document.querySelectorAll('.speech')[1].offsetTop"
    hear(page, script.partial(0, "a tail so long that it needs a second line on this narrow page for sure", 0))
    hear(page, script.partial(1, "below", 100, "S2"))
    before = page.evaluate(below)
    hear(page, script.partial(0, "a tail", 0))
    assert page.evaluate(below) == before


def test_two_people_at_once_are_two_lines_in_one_panel(page: Page, script: Script) -> None:
    hear(page, script.final(0, "I was going to say that", 0), script.final(1, "no wait", 600, "S2"))
    assert lines(page) == ["Speaker 1: I was going to say that", "Speaker 2: no wait"]
    assert page.locator(".speech.with-next").count() == 1
    assert page.locator(".speech.with-previous").count() == 1


def test_two_open_turns_are_two_open_lines_that_grow_side_by_side(page: Page, script: Script) -> None:
    hear(page, script.partial(0, "I was", 0), script.partial(1, "no", 400, "S2"))
    assert page.locator("li.speech.open").count() == 2
    hear(
        page,
        script.final(0, "I was going", 0),
        script.partial(0, "to say", 900),
        script.final(1, "no", 400, "S2"),
        script.partial(1, "wait a moment", 700, "S2"),
    )
    assert lines(page) == ["Speaker 1: I was going to say", "Speaker 2: no wait a moment"]
    assert page.locator("li.speech.open").count() == 2
    assert page.locator("li.open.with-next + li.open.with-previous").count() == 1
    assert page.locator("li.open .word.tail").count() == 5
    hear(page, script.final(1, "wait.", 700, "S2", ended=True), script.partial(0, "to say that", 900))
    assert lines(page) == ["Speaker 1: I was going to say that", "Speaker 2: no wait."]
    assert page.locator("li.speech.open").count() == 1


def test_a_revision_takes_the_place_of_the_words_of_its_turn(page: Page, script: Script) -> None:
    said = [script.final(0, "we should by gin", 0, ended=True), script.final(1, "yes", 2000, "S2", ended=True)]
    revision = script.revision(0, "We should begin.", 0)
    hear(page, script.session(), *said)
    page.evaluate("for (const w of document.querySelectorAll('.word')) w.seen = true")
    told = hear(page, revision, revision)
    assert lines(page) == ["Speaker 1: We should begin.", "Speaker 2: yes"]
    assert [text.strip() for text in page.locator(".word").all_inner_texts()] == ["We", "should", "begin.", "yes"]
    assert page.evaluate("[...document.querySelectorAll('.word')].every((w) => w.seen)")
    assert told == [], "what was read out is not read out again"
    assert page.locator(".open").count() == 0


def test_words_of_a_revision_are_corrected_and_dropped_ones_are_forgotten(page: Page, script: Script) -> None:
    hear(page, script.final(0, "by gin", 0, "S1", ended=True), script.revision(0, "Begin now", 0))
    hear(page, script.durable("speaker", first_word_id=0, last_word_id=1, speaker="S9"))
    assert lines(page) == ["Speaker 1: Begin now"]
    hear(page, script.durable("speaker", first_word_id=3, last_word_id=3, speaker="S2"))
    assert lines(page) == ["Speaker 1: Begin / Speaker 2: now"]
    assert page.evaluate("t.captions.speakers()") == ["S1", "S2"]


def test_a_revision_keeps_the_places_of_a_turn_that_went_on_below_another(page: Page, script: Script) -> None:
    hear(
        page,
        script.final(0, "One think.", 0),
        script.final(1, "Yes.", 600, "S2", ended=True),
        script.final(0, "And an other.", 2000, ended=True),
    )
    change = script.revision(0, "One thing. And another.", 0)
    for word, at_ms in zip(change["words"], (0, 300, 2000, 2300), strict=True):
        word |= {"start_ms": at_ms, "end_ms": at_ms + 300}
    hear(page, change)
    assert lines(page) == ["Speaker 1: One thing.", "Speaker 2: Yes.", "Speaker 1: And another."]


def test_a_line_that_a_revision_leaves_empty_goes(page: Page, script: Script) -> None:
    hear(
        page,
        script.final(0, "One thing.", 0),
        script.final(1, "Yes.", 600, "S2", ended=True),
        script.final(0, "Uh.", 2000, ended=True),
        script.revision(0, "One thing.", 0),
    )
    assert lines(page) == ["Speaker 1: One thing.", "Speaker 2: Yes."]
    assert page.locator("li.speech").count() == 2


def test_a_revision_of_a_turn_never_seen_is_a_line(page: Page, script: Script) -> None:
    hear(page, script.session(), script.revision(4, "Begin now.", 0))
    assert lines(page) == ["Speaker 1: Begin now."]
    assert page.locator(".open").count() == 0


def test_people_after_each_other_are_not_marked_as_at_once(page: Page, script: Script) -> None:
    hear(page, script.final(0, "first me", 0, ended=True), script.final(1, "then you", 600, "S2", ended=True))
    assert page.locator(".with-next, .with-previous").count() == 0


def test_a_short_remark_inside_anothers_turn_is_at_once(page: Page, script: Script) -> None:
    hear(page, script.final(0, "I was going to say that", 0))
    remark = script.final(1, "yes", 600, "S2", ended=True)
    remark["words"][0]["end_ms"] = 720
    hear(page, remark)
    assert page.locator(".speech.with-previous").count() == 1


def test_a_tail_that_comes_to_nothing_leaves_no_block(page: Page, script: Script) -> None:
    hear(page, script.partial(0, "uh", 0))
    assert page.locator(".speech").count() == 1
    hear(page, script.durable("final", turn=0, words=[], turn_ended=True))
    assert lines(page) == []
    assert page.locator(".speech").count() == 0


def test_a_gap_is_a_line_and_touching_gaps_are_one(page: Page, script: Script) -> None:
    hear(
        page,
        script.final(0, "before", 0, ended=True),
        script.durable("gap", start_ms=1000, end_ms=2500, reason="lost"),
        script.durable("gap", start_ms=2500, end_ms=4000, reason="lost"),
        script.final(1, "after", 4000, ended=True),
    )
    assert lines(page) == ["Speaker 1: before", "[3 s of audio lost]", "Speaker 1: after"]


def test_a_warning_that_is_repeated_stands_once(page: Page, script: Script) -> None:
    warning = {"code": "microphone_dead", "message": "Microphone 3 gives no signal.", "channel": 2}
    hear(page, script.durable("warning", **warning), script.durable("warning", **warning))
    assert lines(page) == ["Microphone 3 gives no signal."]


def test_the_end_closes_what_is_open(page: Page, script: Script) -> None:
    hear(page, script.final(0, "said", 0), script.partial(0, "unsaid", 300), script.durable("end", reason="finished"))
    assert lines(page) == ["Speaker 1: said"]
    assert page.evaluate("t.captions.state") == "ended"


def test_whole_sentences_are_announced_once_with_their_speaker(page: Page, script: Script) -> None:
    told = hear(
        page,
        script.session(names={"S1": "Ada"}),
        script.partial(0, "not this", 0),
        script.final(0, "It is", 0),
        script.final(0, "done. And", 600),
        script.final(0, "tested.", 1200, ended=True),
    )
    assert told == ["Ada: It is done.", "Ada: And tested."]


def test_history_is_not_announced_but_what_a_lost_connection_missed_is(page: Page, script: Script) -> None:
    old = script.final(0, "Old.", 0, ended=True)
    assert hear(page, script.session(), old) == []
    missed = script.final(1, "Missed.", 1000, ended=True)
    assert hear(page, script.session(), missed) == ["Speaker 1: Missed."]


def test_a_correction_above_keeps_the_readers_place(page: Page, script: Script) -> None:
    hear(page, *[script.final(i, f"turn {i} has a few words to fill a line", 4000 * i, ended=True) for i in range(12)])
    settled(page)
    page.evaluate("document.getElementById('captions').scrollTop = 500")
    page.wait_for_selector("#jump:not([hidden])")
    top = "document.querySelectorAll('.speech')[9].getBoundingClientRect().top"
    before = page.evaluate(top)
    for i in range(5):  # every other word of the first turns: many new lines above
        hear(
            page,
            *[
                script.durable("speaker", first_word_id=10 * i + k, last_word_id=10 * i + k, speaker="S2")
                for k in (1, 3, 5)
            ],
        )
    assert page.evaluate(top) == pytest.approx(before, abs=1.5)


def test_scrolling_up_pauses_following_and_the_button_returns(page: Page, script: Script) -> None:
    hear(page, *[script.final(i, f"turn number {i}", 2000 * i, ended=True) for i in range(12)])
    settled(page)
    left = "((m) => m.scrollHeight - m.clientHeight - m.scrollTop)(document.getElementById('captions'))"
    assert page.evaluate(left) < 2
    page.mouse.move(400, 200)
    page.mouse.wheel(0, -300)
    page.wait_for_selector("#jump:not([hidden])")
    settled(page)
    place = page.evaluate("document.getElementById('captions').scrollTop")
    hear(page, *[script.final(i, f"turn number {i}", 2000 * i, ended=True) for i in range(12, 16)])
    settled(page)
    assert page.evaluate("document.getElementById('captions').scrollTop") == place
    page.click("#jump")
    settled(page)
    assert page.evaluate(left) < 2
    assert page.locator("#jump").is_hidden()


def test_markup_in_words_names_and_warnings_is_shown_as_text(page: Page, script: Script) -> None:
    evil = "<img/src=x/onerror=window.hit=1>"
    hear(
        page,
        script.session(names={"S1": evil}),
        script.final(0, evil, 0),
        script.durable("warning", code="x", message=evil, channel=0),
        script.durable("gap", start_ms=0, end_ms=5000, reason=evil),
    )
    assert page.locator(".name-label").inner_text() == evil
    assert page.locator("#rows img").count() == 0
    assert page.evaluate("window.hit") is None


CONTRAST = """
() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const channels = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = (colour) => channels(colour).map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ratio = (a, b) => { const [x, y] = [luminance(a), luminance(b)].sort((p, q) => q - p);
    return (x + 0.05) / (y + 0.05); };
  const probe = document.createElement("span"); document.body.append(probe);
  const colour = (value) => { probe.style.color = value; return getComputedStyle(probe).color; };
  const papers = ["var(--paper)", "var(--sunken)"].map(colour);
  const result = {};
  for (const word of document.querySelectorAll("#rows .word, #rows .name, #rows .when, #rows .event")) {
    const key = `${word.className} of ${word.closest("[data-voice]")?.dataset.voice}`;
    for (const paper of papers) {
      const found = ratio(getComputedStyle(word).color, paper);
      result[key] = Math.min(result[key] ?? 99, found);
    }
  }
  for (const control of document.querySelectorAll("button, a, h1, #state, .lead, .field")) {
    if (!control.checkVisibility()) continue;
    let owner = control;
    while (owner && getComputedStyle(owner).backgroundColor === "rgba(0, 0, 0, 0)") owner = owner.parentElement;
    const paper = getComputedStyle(owner ?? document.body).backgroundColor;
    result[`${control.id || control.className}`] = ratio(getComputedStyle(control).color, paper);
  }
  probe.remove();
  return result;
}
"""


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_every_speakers_words_and_dimmed_tails_reach_aa_contrast(
    open_page: OpenPage, script: Script, theme: str
) -> None:
    page = open_page("/", reduced_motion="reduce")
    page.evaluate(SETUP)
    page.evaluate("(theme) => { document.documentElement.dataset.theme = theme }", theme)
    hear(page, script.session(title="Contrast"))
    for voice in range(9):
        label = f"S{voice}" if voice else ""
        hear(
            page,
            script.final(voice, "said", 1000 * voice, label),
            script.partial(voice, "tail", 1000 * voice + 300, label),
        )
    hear(page, script.durable("gap", start_ms=0, end_ms=3000, reason="lost"))
    ratios: dict[str, float] = page.evaluate(CONTRAST)
    assert len(ratios) > 20
    assert {name: round(ratio, 2) for name, ratio in ratios.items() if ratio < 4.5} == {}


def test_eight_speakers_have_eight_colours_and_a_ninth_another_mark(page: Page) -> None:
    voices = page.evaluate("[...Array(9).keys()].map((i) => t.voiceOf(`S${i + 1}`))")
    assert len({voice["colour"] for voice in voices[:8]}) == 8
    assert voices[8]["colour"] == voices[0]["colour"]
    assert voices[8]["mark"] != voices[0]["mark"]


def test_a_frame_goes_over_the_wire_as_the_protocol_says(page: Page) -> None:
    from server.protocol import AudioFormat, unpack_frame

    packed = page.evaluate(
        "[...new Uint8Array(t.packFrame(7, { firstSample: 2 ** 33, samples: 2, pcm: Int16Array.of(1, -2, 3, -4) }, 2))]"
    )
    frame = unpack_frame(bytes(packed), AudioFormat(channels=2))
    assert (frame.frame_seq, frame.first_sample) == (7, 2**33)
    assert frame.payload == b"\x01\x00\xfe\xff\x03\x00\xfc\xff"


def test_a_frame_that_the_server_has_half_of_is_sent_from_there(page: Page) -> None:
    from server.protocol import AudioFormat, unpack_frame

    packed = page.evaluate(
        "[...new Uint8Array(t.packFrame(0, { firstSample: 10, samples: 2, pcm: new Int16Array([1, 2, 3, 4]) }, 2, 1))]"
    )
    frame = unpack_frame(bytes(packed), AudioFormat(channels=2))
    assert (frame.first_sample, frame.payload) == (11, b"\x03\x00\x04\x00")
