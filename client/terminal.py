"""Live captions in a terminal: one line per speaker and turn, the unsettled end dimmed, the rest in scrollback.

On a terminal the open turns are redrawn at the bottom, so two people who speak at once stand on two lines. A turn
moves to the scrollback once it has ended and its labels had time to settle; what changes after that is said on a
line of its own. Elsewhere (a pipe, a file) only settled lines are written, plain. It refuses to talk to servers.
"""

from __future__ import annotations

import zlib
from dataclasses import replace
from types import TracebackType

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.segment import Segment
from rich.text import Text

from server.protocol import AnyServerMessage, Ended, Gap, Revision, Session, Speaker, SpeakerName, Warning  # noqa: A004
from server.transcript import Piece, Transcript, Turn, clock_text, pieces_of

SETTLE_MS = 6_000
"""How long after its end a turn stays in the live part, where a corrected label just changes."""

MAX_OPEN_TURNS = 8
"""Turns in the live part at most; beyond that the oldest ended ones settle at once."""

COLOURS = ("cyan", "yellow", "green", "magenta", "bright_blue", "bright_red", "bright_green", "bright_magenta")


def colour_of(speaker: str) -> str:
    """One colour per label: S1, S2, ... in turn through COLOURS; no label is white."""
    if not speaker:
        return "white"
    digits = speaker.removeprefix("S")
    number = int(digits) - 1 if digits.isdecimal() else zlib.crc32(speaker.encode())
    return COLOURS[number % len(COLOURS)]


def printable(text: str) -> str:
    """`text` without characters that would steer the terminal; words and names come from other people."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


class _Bottom:
    """The last lines of a renderable that fit on the screen: what is taller could not be redrawn."""

    def __init__(self, whole: Group) -> None:
        self._whole = whole

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._whole, options, pad=False)
        for line in lines[-max(1, console.height - 2) :]:
            yield from line
            yield Segment.line()


class CaptionTerminal:
    """Draws the messages given to `show`. Use as a context manager; leaving it settles everything.

    Args:
        console: where to draw; stdout by default. Lines are plain when it is not a terminal.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.transcript = Transcript()
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._open: dict[int, Turn] = {}  # not yet in scrollback, oldest first
        self._settled: set[int] = set()  # turns in scrollback
        self._clock_ms = 0
        self._live: Live | None = None

    def __enter__(self) -> CaptionTerminal:
        if self._console.is_terminal:
            # Drawn on every message, not on a timer: nothing changes in between.
            self._live = Live(console=self._console, auto_refresh=False, transient=True, vertical_overflow="visible")
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in list(self._open):
            self._settle(number)
        if self._live is not None:
            self._live.update(Text(), refresh=True)
            self._live.stop()
            self._live = None

    def show(self, message: AnyServerMessage) -> None:
        """Take one message in and redraw."""
        self._clock_ms = max(self._clock_ms, message.audio_ms)
        # Only what is in scrollback cannot be redrawn and needs to be told.
        turns = [t for n, t in self.transcript.turns.items() if n in self._settled and isinstance(message, Speaker)]
        before = {word.word_id: word.speaker for turn in turns for word in turn.words}
        read_before: list[Piece] = []
        if isinstance(message, Revision) and message.turn in self._settled:
            read_before = pieces_of(self.transcript.turns[message.turn])
        changed = self.transcript.apply(message)
        for number in changed:
            if number not in self._settled:
                self._open.setdefault(number, self.transcript.turns[number])
        match message:
            case Speaker():
                self._note_correction(message, changed, before)
            case Revision() if message.turn in self._settled:
                self._note_revision(message.turn, read_before)
            case SpeakerName():
                known = f"is {message.name}" if message.name else "has no name now"
                self._note(f"{message.speaker} {known}", colour_of(message.speaker))
            case Gap():
                span = f"{clock_text(message.start_ms)}-{clock_text(message.end_ms)}"
                self._note(f"[{span}] no captions: audio {message.reason}", "red")
            case Warning():
                where = f" (channel {message.channel + 1})" if message.channel >= 0 else ""
                self._note(f"note: {message.message or message.code}{where}", "red")
            case Session() if message.title:
                self._note(message.title, "bold")
            case Ended() if message.reason != "finished":
                self._note(f"the session has ended: {message.reason}", "red")
        self._settle_due()
        if self._live is not None:
            self._live.update(self._drawn(), refresh=True)

    def line(self, piece: Piece) -> Text:
        """One piece as it is drawn: time, name in the speaker's colour, words, dim tail."""
        name = printable(self.transcript.name_of(piece.speaker))
        text = Text().append(f"[{clock_text(piece.start_ms)}] ", style="dim")
        text.append(f"{name}:", style=f"bold {colour_of(piece.speaker)}")
        if piece.words:
            text.append(" " + printable(piece.text))
        if piece.tail:
            text.append(" " + printable(piece.tail_text), style="dim italic")
        return text

    def _drawn(self) -> _Bottom:
        pieces = [piece for turn in self._open.values() for piece in pieces_of(turn)]
        return _Bottom(Group(*(self.line(piece) for piece in sorted(pieces, key=lambda p: p.start_ms))))

    def _settle_due(self) -> None:
        """Move ended turns to scrollback: those long over, and the oldest when there are too many."""
        for number, turn in list(self._open.items()):
            over = turn.ended and (
                not turn.words
                or turn.words[-1].end_ms + SETTLE_MS <= self._clock_ms
                or len(self._open) > MAX_OPEN_TURNS
            )
            if over:
                self._settle(number)

    def _settle(self, number: int) -> None:
        turn = self._open.pop(number)
        self._settled.add(number)
        for piece in pieces_of(replace(turn, tail=[])):
            self._print(self.line(piece))

    def _note_correction(self, message: Speaker, changed: list[int], before: dict[int, str]) -> None:
        """Say which words in scrollback turned out to be somebody else's."""
        for number in changed:
            moved = [w for w in self.transcript.turns[number].words if before.get(w.word_id, w.speaker) != w.speaker]
            if moved:
                words = " ".join(w.text for w in moved)
                name = self.transcript.name_of(message.speaker)
                when = clock_text(moved[0].start_ms)
                self._note(f'[{when}] it was {name} who said: "{words}"', colour_of(message.speaker))

    def _note_revision(self, number: int, before: list[Piece]) -> None:
        """Say how a turn in scrollback reads now, or that its words were another's."""
        after = pieces_of(self.transcript.turns[number])
        for piece in before if not after else ():
            name = self.transcript.name_of(piece.speaker)
            self._note(f'[{clock_text(piece.start_ms)}] {name} did not say: "{piece.text}"', colour_of(piece.speaker))
        for piece in after:
            name = self.transcript.name_of(piece.speaker)
            self._note(f'[{clock_text(piece.start_ms)}] {name}, read again: "{piece.text}"', colour_of(piece.speaker))

    def _note(self, text: str, style: str) -> None:
        self._print(Text(printable(text), style=style))

    def _print(self, text: Text) -> None:
        self._console.print(text)
