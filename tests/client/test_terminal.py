"""Captions in a terminal, read back from what was drawn."""

from __future__ import annotations

import io

from rich.console import Console

from client.terminal import COLOURS, SETTLE_MS, CaptionTerminal, colour_of
from server.protocol import (
    Ended,
    Final,
    Gap,
    Levels,
    Partial,
    Revision,
    Speaker,
    SpeakerName,
    Warning,  # noqa: A004
    WordMessage,
)


def word(text: str, at_ms: int, speaker: str = "S1", word_id: int = -1) -> WordMessage:
    return WordMessage(text, at_ms, at_ms + 100, 0.9, -1, speaker, word_id)


def final(turn: int, *words: WordMessage, ended: bool = True, audio_ms: int = 0) -> Final:
    return Final(session_id="s", turn=turn, words=list(words), turn_ended=ended, audio_ms=audio_ms)


def later(audio_ms: int) -> Levels:
    return Levels(session_id="s", audio_ms=audio_ms)


class Screen:
    """A terminal (or a pipe) of 60 columns whose output can be read."""

    def __init__(self, *, is_terminal: bool, height: int = 20) -> None:
        self.file = io.StringIO()
        self.console = Console(
            file=self.file,
            force_terminal=is_terminal,
            width=60,
            height=height,
            color_system="standard" if is_terminal else None,
            highlight=False,
        )

    @property
    def text(self) -> str:
        return self.file.getvalue()

    def since(self, before: str) -> str:
        return self.text[len(before) :]


def test_pipe_gets_plain_lines_of_settled_turns_only() -> None:
    screen = Screen(is_terminal=False)
    with CaptionTerminal(screen.console) as terminal:
        terminal.show(Partial(session_id="s", turn=0, words=[word("hel", 0)]))
        terminal.show(final(0, word("Hello.", 0, word_id=0)))
        assert screen.text == ""
        terminal.show(later(100 + SETTLE_MS))
        assert screen.text == "[0:00.0] S1: Hello.\n"
        terminal.show(final(1, word("Bye.", 9_000, "S2", 1)))
    assert screen.text == "[0:00.0] S1: Hello.\n[0:09.0] S2: Bye.\n"
    assert "\x1b" not in screen.text


def test_correction_of_a_turn_that_is_not_settled_just_changes_its_line() -> None:
    screen = Screen(is_terminal=False)
    with CaptionTerminal(screen.console) as terminal:
        terminal.show(final(0, word("Hello.", 0, "S1", 0)))
        terminal.show(Speaker(session_id="s", first_word_id=0, last_word_id=0, speaker="S2"))
    assert screen.text == "[0:00.0] S2: Hello.\n"


def test_correction_after_the_line_has_gone_is_told() -> None:
    screen = Screen(is_terminal=False)
    with CaptionTerminal(screen.console) as terminal:
        terminal.show(final(0, word("Hello", 0, "S1", 0), word("there.", 200, "S1", 1)))
        terminal.show(later(SETTLE_MS + 1_000))
        terminal.show(Speaker(session_id="s", first_word_id=1, last_word_id=1, speaker="S2"))
    assert screen.text == '[0:00.0] S1: Hello there.\n[0:00.2] it was S2 who said: "there."\n'


def test_revision_of_a_turn_that_is_not_settled_just_changes_its_line() -> None:
    screen = Screen(is_terminal=False)
    with CaptionTerminal(screen.console) as terminal:
        terminal.show(final(0, word("by", 0, word_id=0), word("gin", 200, word_id=1)))
        terminal.show(Revision(session_id="s", turn=0, words=[word("Begin.", 0, word_id=0)]))
        terminal.show(later(SETTLE_MS + 1_000))
    assert screen.text == "[0:00.0] S1: Begin.\n"


def test_words_that_were_anothers_are_told_after_the_line_has_gone() -> None:
    screen = Screen(is_terminal=False)
    with CaptionTerminal(screen.console) as terminal:
        terminal.show(final(0, word("Begin.", 0, word_id=0), audio_ms=SETTLE_MS + 1_000))
        before = screen.text
        terminal.show(Revision(session_id="s", turn=1, words=[word("Begin.", 0, "S2", word_id=1)]))
        terminal.show(Revision(session_id="s", turn=0))
        assert screen.since(before) == '[0:00.0] S2: Begin.\n[0:00.0] S1 did not say: "Begin."\n'


def test_revision_after_the_line_has_gone_is_told() -> None:
    screen = Screen(is_terminal=False)
    with CaptionTerminal(screen.console) as terminal:
        terminal.show(final(0, word("by", 0, word_id=0), word("gin", 200, word_id=1), audio_ms=SETTLE_MS + 1_000))
        before = screen.text
        terminal.show(Revision(session_id="s", turn=0, words=[word("Begin.", 0, word_id=0)]))
        assert screen.since(before) == '[0:00.0] S1, read again: "Begin."\n'


def test_name_is_told_and_used_from_then_on() -> None:
    screen = Screen(is_terminal=False)
    with CaptionTerminal(screen.console) as terminal:
        terminal.show(final(0, word("Hello.", 0, "S1", 0)))
        terminal.show(SpeakerName(session_id="s", speaker="S1", name="Ada"))
        terminal.show(SpeakerName(session_id="s", speaker="S2", name=""))
    assert screen.text == "S1 is Ada\nS2 has no name now\n[0:00.0] Ada: Hello.\n"


def test_gap_warning_and_early_end_are_told() -> None:
    screen = Screen(is_terminal=False)
    with CaptionTerminal(screen.console) as terminal:
        terminal.show(Gap(session_id="s", start_ms=1_000, end_ms=2_500))
        terminal.show(Warning(session_id="s", code="dead", message="microphone is dead", channel=0))
        terminal.show(Ended(session_id="s", reason="vanished"))
        terminal.show(Ended(session_id="s", reason="finished"))
    assert screen.text.splitlines() == [
        "[0:01.0-0:02.5] no captions: audio lost",
        "note: microphone is dead (channel 1)",
        "the session has ended: vanished",
    ]


def test_two_who_speak_at_once_stand_on_two_lines_and_the_tail_is_dim() -> None:
    screen = Screen(is_terminal=True)
    with CaptionTerminal(screen.console) as terminal:
        terminal.show(final(0, word("First", 0, "S1", 0), ended=False))
        before = screen.text
        terminal.show(Partial(session_id="s", turn=1, words=[word("second", 300, "S2")]))
        drawn = screen.since(before)
        lines = [line for line in drawn.split("\n") if "S1:" in line or "S2:" in line]
        assert len(lines) == 2
        assert "\x1b[1;36mS1:" in lines[0]
        assert "\x1b[1;33mS2:" in lines[1]
        assert "\x1b[2;3m second" in lines[1]


def test_scrollback_of_a_terminal_keeps_the_final_transcript() -> None:
    screen = Screen(is_terminal=True)
    with CaptionTerminal(screen.console) as terminal:
        terminal.show(final(0, word("Hello.", 0, word_id=0)))
    last = screen.text.rindex("Hello.")
    assert "\x1b[2K" not in screen.text[last:] or screen.text[last:].count("\n") >= 1
    assert not terminal._open


def test_turn_that_is_taller_than_the_screen_shows_its_end() -> None:
    screen = Screen(is_terminal=True, height=6)
    with CaptionTerminal(screen.console) as terminal:
        words = [word(f"word{i}", i * 100, word_id=i) for i in range(200)]
        before = screen.text
        terminal.show(final(0, *words, ended=False))
        drawn = screen.since(before)
        assert "word199" in drawn
        assert "word0 " not in drawn
        assert drawn.count("\n") <= 6
    assert "word0" in screen.text


def test_characters_that_steer_the_terminal_are_not_passed_on() -> None:
    screen = Screen(is_terminal=False)
    with CaptionTerminal(screen.console) as terminal:
        terminal.show(SpeakerName(session_id="s", speaker="S1", name="\x1b[2JEve"))
        terminal.show(final(0, word("\x1b]0;title\x07[bold]hi[/bold]", 0, word_id=0)))
    assert "\x1b" not in screen.text
    assert "\x07" not in screen.text
    assert "[bold]hi[/bold]" in screen.text


def test_many_ended_turns_settle_before_their_time() -> None:
    screen = Screen(is_terminal=False)
    with CaptionTerminal(screen.console) as terminal:
        for number in range(12):
            terminal.show(final(number, word(f"w{number}", 0, word_id=number)))
        assert len(terminal._open) <= 8
        assert "w0" in screen.text


def test_speakers_have_colours_of_their_own() -> None:
    assert len({colour_of(f"S{i}") for i in range(1, len(COLOURS) + 1)}) == len(COLOURS)
    assert colour_of("") == "white"
    assert colour_of("guest") in COLOURS
