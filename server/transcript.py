"""Server messages folded into the transcript as it stands: who said which words when, all that came later applied.

Pure: messages in, rows out. It refuses to touch sockets, files or screens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TypedDict

from server.protocol import AnyServerMessage, Final, Gap, Partial, Revision, Session, Speaker, SpeakerName, WordMessage

UNKNOWN_SPEAKER = "unknown"
"""Stands in a row's `speaker` where no label is known; SegLST wants one."""


class SegLstRow(TypedDict):
    """One stretch of one speaker, in meeteval's SegLST terms; times in seconds from the start of the session."""

    session_id: str
    speaker: str
    start_time: float
    end_time: float
    words: str


@dataclass(frozen=True)
class Piece:
    """Consecutive words of one speaker within one turn: what becomes one line or one row.

    `tail` holds the words that may still change; it is empty in a finished turn.
    """

    turn: int
    speaker: str
    words: tuple[WordMessage, ...]
    tail: tuple[WordMessage, ...] = ()

    @property
    def start_ms(self) -> int:
        """Start of the first word."""
        return min(word.start_ms for word in (*self.words, *self.tail))

    @property
    def end_ms(self) -> int:
        """End of the last word."""
        return max(word.end_ms for word in (*self.words, *self.tail))

    @property
    def text(self) -> str:
        """The final words, one space between."""
        return " ".join(word.text for word in self.words)

    @property
    def tail_text(self) -> str:
        """The words that may still change, one space between."""
        return " ".join(word.text for word in self.tail)


@dataclass
class Turn:
    """One person's stretch as the server numbers it: final words so far and the tail that may still change."""

    number: int
    words: list[WordMessage] = field(default_factory=list)
    tail: list[WordMessage] = field(default_factory=list)
    ended: bool = False
    direction_deg: float | None = None


def pieces_of(turn: Turn) -> list[Piece]:
    """The turn cut where the speaker changes; tail words without a label stay with the speaker before them."""
    pieces: list[Piece] = []
    for word, is_tail in [(w, False) for w in turn.words] + [(w, True) for w in turn.tail]:
        before = pieces[-1] if pieces else None
        speaker = word.speaker or (before.speaker if before is not None and is_tail else "")
        if before is None or before.speaker != speaker:
            pieces.append(Piece(turn.number, speaker, () if is_tail else (word,), (word,) if is_tail else ()))
        elif is_tail:
            pieces[-1] = replace(before, tail=(*before.tail, word))
        else:
            pieces[-1] = replace(before, words=(*before.words, word))
    return pieces


class Transcript:
    """What has been said, after every message given to `apply`.

    Grows with the session, like the session's own transcript; a word costs a few hundred bytes. Messages must come
    in the order of `seq`, each durable one once: `client.sdk` sees to both.
    """

    def __init__(self) -> None:
        self.turns: dict[int, Turn] = {}
        """Turns by number, in the order in which they were first heard of."""
        self.names: dict[str, str] = {}
        """Display names that people gave to labels."""
        self.gaps: list[Gap] = []
        """Stretches of audio that were not captioned."""
        # Where each final word stands: word_id -> (turn, index). A viewer that joined late lacks the early ones.
        self._places: dict[int, tuple[Turn, int]] = {}
        self._newest_word = -1

    def apply(self, message: AnyServerMessage) -> list[int]:
        """Take one message in; the numbers of the turns that look different now."""
        match message:
            case Partial():
                turn = self._turn(message.turn)
                if turn.ended:
                    return []
                turn.tail = list(message.words)
                return [turn.number]
            case Final():
                return self._append(message)
            case Revision():
                return self._revise(message)
            case Speaker():
                return self._correct(message)
            case SpeakerName():
                return self._rename({message.speaker: message.name})
            case Session():
                return self._rename(message.names)
            case Gap():
                self.gaps.append(message)
        return []

    def name_of(self, speaker: str) -> str:
        """How a label is shown: its given name, else itself, else `unknown`."""
        return self.names.get(speaker) or speaker or UNKNOWN_SPEAKER

    def rows(self, session_id: str, *, named: bool = False) -> list[SegLstRow]:
        """Final words as SegLST rows in order of time; `named` shows given names in place of labels."""
        rows = [
            SegLstRow(
                session_id=session_id,
                speaker=self.name_of(piece.speaker) if named else piece.speaker or UNKNOWN_SPEAKER,
                start_time=piece.start_ms / 1000,
                end_time=piece.end_ms / 1000,
                words=piece.text,
            )
            for turn in self.turns.values()
            for piece in pieces_of(replace(turn, tail=[]))
        ]
        return sorted(rows, key=lambda row: (row["start_time"], row["end_time"]))

    def _turn(self, number: int) -> Turn:
        return self.turns.setdefault(number, Turn(number))

    def _append(self, message: Final) -> list[int]:
        turn = self._turn(message.turn)
        for word in message.words:
            self._place(turn, word)
        turn.ended = turn.ended or message.turn_ended
        # The final words were the head of the tail: what followed them stays until the next partial replaces it.
        turn.tail = [] if turn.ended else turn.tail[len(message.words) :]
        if message.direction_deg is not None:
            turn.direction_deg = message.direction_deg
        return [turn.number]

    def _revise(self, message: Revision) -> list[int]:
        turn = self._turn(message.turn)  # all its words are here: a viewer that came after them lacks nothing
        for word in turn.words:
            self._places.pop(word.word_id, None)
        turn.words = []
        for word in message.words:
            self._place(turn, word)
        turn.tail, turn.ended = [], True
        return [turn.number]

    def _place(self, turn: Turn, word: WordMessage) -> None:
        self._places[word.word_id] = (turn, len(turn.words))
        self._newest_word = max(self._newest_word, word.word_id)
        turn.words.append(word)

    def _correct(self, message: Speaker) -> list[int]:
        changed: dict[int, None] = {}
        for word_id in range(max(0, message.first_word_id), min(message.last_word_id, self._newest_word) + 1):
            if (place := self._places.get(word_id)) is None:
                continue
            turn, index = place
            if turn.words[index].speaker != message.speaker:
                turn.words[index] = replace(turn.words[index], speaker=message.speaker)
                changed[turn.number] = None
        return list(changed)

    def _rename(self, names: dict[str, str]) -> list[int]:
        for speaker, name in names.items():
            if name:
                self.names[speaker] = name
            else:
                self.names.pop(speaker, None)
        return [
            turn.number
            for turn in self.turns.values()
            if any(word.speaker in names for word in (*turn.words, *turn.tail))
        ]


def transcript_of(messages: Iterable[AnyServerMessage]) -> Transcript:
    """The transcript after all these messages."""
    transcript = Transcript()
    for message in messages:
        transcript.apply(message)
    return transcript


def clock_text(time_ms: int) -> str:
    """A time for people: `m:ss.t`, with hours in front when there are any."""
    tenths = max(0, time_ms) // 100
    seconds, minutes, hours = tenths // 10 % 60, tenths // 600 % 60, tenths // 36_000
    tail = f"{seconds:02d}.{tenths % 10}"
    return f"{hours}:{minutes:02d}:{tail}" if hours else f"{minutes}:{tail}"
