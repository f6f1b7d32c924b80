"""What a reader saw of one session, and when: every final word's life, and what did not stay. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from server.protocol import AnyServerMessage, Ended, Final, Levels, Partial, Revision, Speaker, WordMessage
from streaming_models.evaluate import HeardWord, Stability


@dataclass(frozen=True)
class _Shown:
    """A place in a turn: what it shows, since when it shows anything, and since when just this."""

    text: str
    shown_ms: float
    read_ms: float


def _bare(text: str) -> str:
    """A word without case and punctuation."""
    return "".join(c for c in text.casefold() if c.isalnum())


class CaptionTrace:
    """Every final word of a session and how the screen came to it, from all messages in their order.

    A word's place is its order in its turn: what is final in the turn, then the tail. A word that a revision brings
    is shown and final from then on; one that it leaves as it was, or moves to another turn, keeps its times.

    Args:
        revisions: whether revisions count; else the words stay as they first became final.
    """

    def __init__(self, *, revisions: bool = True) -> None:
        self._revisions = revisions
        self._words: dict[int, HeardWord] = {}  # by word_id
        self._gone: dict[int, HeardWord] = {}  # those that a revision took away: another may bring them again
        self._tails: dict[int, list[_Shown]] = {}  # by turn
        self._ended: set[int] = set()
        self._shown = self._revised = self._label_flips = 0

    @property
    def words(self) -> list[HeardWord]:
        """The final words with their labels as they are now, in the order in which they became final."""
        return list(self._words.values())

    @property
    def stability(self) -> Stability:
        """See `Stability`."""
        return Stability(
            shown=self._shown,
            revised=self._revised,
            turns=len({word.turn for word in self._words.values()}),
            label_flips=self._label_flips,
            unlabelled=sum(not word.speaker for word in self._words.values()),
        )

    def take(self, message: AnyServerMessage, now_ms: float) -> None:
        """Count one message. `now_ms`: on the session's clock, when it was decided or when it arrived."""
        match message:
            case Partial() if message.turn not in self._ended:
                self._show(message.turn, [_bare(word.text) for word in message.words], now_ms)
            case Final():
                self._finish(message, now_ms)
            case Revision() if self._revisions:
                self._revise(message, now_ms)
            case Speaker():
                self._correct(message, now_ms)

    def _show(self, turn: int, texts: Sequence[str], now_ms: float) -> None:
        before = self._tails.get(turn, [])
        texts_before = [place.text for place in before]
        self._count(texts_before, texts)
        tail = [
            place if place.text == text else _Shown(text, place.shown_ms, now_ms)
            for place, text in zip(before, texts, strict=False)
        ]
        # A place that the tail did not have, or no longer had, is shown from now on.
        self._tails[turn] = tail + [_Shown(text, now_ms, now_ms) for text in texts[len(before) :]]

    def _count(self, before: Sequence[str], after: Sequence[str]) -> None:
        matcher = SequenceMatcher(None, before, after, autojunk=False)
        kept = sum(block.size for block in matcher.get_matching_blocks())
        self._shown += len(after) - kept
        self._revised += len(before) - kept

    def _finish(self, message: Final, now_ms: float) -> None:
        # The final words were the head of the tail: what followed them stays until the next partial replaces it.
        rest = [] if message.turn_ended else self._tails.get(message.turn, [])[len(message.words) :]
        texts = [_bare(word.text) for word in message.words] + [place.text for place in rest]
        self._show(message.turn, texts, now_ms)
        places = self._tails[message.turn]
        for word, place in zip(message.words, places, strict=False):
            self._words[word.word_id] = _heard(word, message.turn, place, now_ms)
        self._tails[message.turn] = places[len(message.words) :]
        if message.turn_ended:
            self._ended.add(message.turn)
            del self._tails[message.turn]

    def _revise(self, message: Revision, now_ms: float) -> None:
        before = {word_id: word for word_id, word in self._words.items() if word.turn == message.turn}
        self._count([_bare(word.text) for word in before.values()], [_bare(word.text) for word in message.words])
        for word_id in before:
            self._gone[word_id] = self._words.pop(word_id)
        for word in message.words:
            there = self._gone.pop(word.word_id, None)
            revised = _heard(word, message.turn, _Shown(_bare(word.text), now_ms, now_ms), now_ms)
            if there is not None:
                if there.turn == message.turn or there.speaker == word.speaker:
                    revised.speaker, revised.labelled_ms = there.speaker, there.labelled_ms
                revised.shown_ms = there.shown_ms
                if _bare(there.text) == _bare(word.text):
                    revised.read_ms, revised.final_ms = there.read_ms, there.final_ms
            self._words[word.word_id] = revised

    def _correct(self, message: Speaker, now_ms: float) -> None:
        newest = max(self._words, default=-1)
        flipped: set[int] = set()
        for word_id in range(max(0, message.first_word_id), min(message.last_word_id, newest) + 1):
            word = self._words.get(word_id)
            if word is None or word.speaker == message.speaker:
                continue
            if word.speaker:
                flipped.add(word.turn)
            word.speaker = message.speaker
            word.labelled_ms = now_ms if message.speaker else None
        self._label_flips += len(flipped)


def _heard(word: WordMessage, turn: int, place: _Shown, final_ms: float) -> HeardWord:
    return HeardWord(
        text=word.text,
        turn=turn,
        speaker=word.speaker,
        start_ms=word.start_ms,
        end_ms=word.end_ms,
        shown_ms=place.shown_ms,
        read_ms=place.read_ms,
        final_ms=final_ms,
        labelled_ms=final_ms if word.speaker else None,
    )


class AudioClock:
    """Hands messages to a trace with the moment of the session's audio clock at which they were decided.

    Captions carry it. A correction of a label and a revision do not: they count from the next moment that is known,
    which is that of the next caption or of the levels, sent once a second; so they count at most a second late.
    """

    def __init__(self, trace: CaptionTrace) -> None:
        self._trace = trace
        self._waiting: list[Speaker | Revision] = []
        self._now_ms = 0.0
        self._levels = 0

    def take(self, message: AnyServerMessage) -> None:
        """Take one message, in its order."""
        match message:
            case Speaker() | Revision():
                self._waiting.append(message)
                return
            case Partial() | Final():
                self._now_ms = max(self._now_ms, message.decided_ms)
            case Levels():
                self._levels += 1
                self._now_ms = max(self._now_ms, 1000.0 * self._levels)
            case Ended():
                self._now_ms = max(self._now_ms, message.audio_ms)
            case _:
                return
        for later in self._waiting:
            self._trace.take(later, self._now_ms)
        self._waiting.clear()
        if isinstance(message, Partial | Final):
            self._trace.take(message, message.decided_ms)
