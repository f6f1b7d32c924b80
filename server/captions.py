"""Words and speakers -> the messages that a viewer reads. Pure: no clock of its own, no I/O.

A turn is what one voice of a lane says between two pauses; voices that speak at once are turns that are open at once.
Its words are numbered as they become final and stand from then on; its tail is shown as a partial. Who spoke is decided
separately and may be corrected later, by word numbers. A turn that has ended may be revised once, as a whole.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from server.clock import ms_to_samples, samples_to_ms
from server.protocol import Final, LabelState, Partial, Revision, ServerMessage, Speaker, WordMessage
from streaming_models.frontend import MAX_CHANNELS, MIX_LANE
from streaming_models.polish import aligned
from streaming_models.recogniser import Recognition, Word

SpeakerOf = Callable[[int, int, int], tuple[str, LabelState]]
"""Label of the word that a voice (the third argument) has between two samples, "" while nobody knows."""

LONG_TURN_SAMPLES = ms_to_samples(15_000)
"""After this a turn ends at the next end of a sentence, so that nobody has to read a wall of text."""
REMEMBERED_WORDS = 2_000
"""Words whose label may still be corrected; older ones stand. Far more than any correction reaches back."""
REVISABLE_TURNS = 64
"""Ended turns whose words may still be revised; older ones stand. More than are said in what a separator remembers."""


@dataclass
class _Labelled:
    word_id: int
    lane: int
    voice: int
    word: Word
    speaker: str
    state: LabelState


@dataclass
class _Turn:
    number: int
    start_sample: int
    words: list[_Labelled] = field(default_factory=list)
    shown: bool = False
    revised: bool = False


class CaptionBuilder:
    """One session's captions.

    `step` takes what a voice of a lane said, `relabel` what became known of the speakers, `revise` a second reading.
    """

    def __init__(self) -> None:
        self._next_turn = 0
        self._next_word = 0
        self._open: dict[tuple[int, int], _Turn] = {}  # by lane and voice
        self._ended: dict[int, _Turn] = {}  # by number, the oldest first
        self._words: deque[_Labelled] = deque(maxlen=REMEMBERED_WORDS)  # by word_id
        self._dropped = 0

    @property
    def word_count(self) -> int:
        """Final words that stand."""
        return self._next_word - self._dropped

    def step(
        self, lane: int, recognition: Recognition, speaker_of: SpeakerOf, direction_deg: float | None = None
    ) -> list[ServerMessage]:
        """Messages for what a voice of a lane newly said.

        Args:
            lane: -1 for the combined channels, else the channel; words carry it as `channel`. Lanes that are no
                channel (`MAX_CHANNELS` and above) come from the combined channels as well.
            recognition: from the lane's recogniser.
            speaker_of: labels as known now.
            direction_deg: where the talker of this lane is.
        """
        place = lane, recognition.voice
        if not (recognition.committed or recognition.tail or place in self._open):
            return []
        turn = self._open.get(place)
        if turn is None:
            turn = self._begin(place, (recognition.committed or recognition.tail)[0])
        messages: list[ServerMessage] = []
        decided_ms = samples_to_ms(recognition.decided_sample)
        committed = [self._finish(place, turn, word, speaker_of) for word in recognition.committed]
        ended = recognition.ended or self._long_enough(turn, recognition.committed)
        if committed or ended:
            messages.append(
                Final(
                    session_id="",
                    turn=turn.number,
                    decided_ms=decided_ms,
                    words=committed,
                    turn_ended=ended,
                    direction_deg=direction_deg,
                )
            )
        if ended:
            self._end(place)
            if recognition.tail:
                turn = self._begin(place, recognition.tail[0])
        if not recognition.ended and (recognition.tail or turn.shown):
            tail = []
            for word in recognition.tail:
                label, _ = speaker_of(word.start_sample, word.end_sample, recognition.voice)
                tail.append(_message(word, lane, label))
            messages.append(Partial(session_id="", turn=turn.number, decided_ms=decided_ms, words=tail))
            turn.shown = bool(tail)
        return messages

    def relabel(self, lane: int, start_sample: int, end_sample: int, speaker_of: SpeakerOf) -> list[ServerMessage]:
        """Corrections for words of a lane that touch the span, one message per run of words with a new label."""
        messages: list[ServerMessage] = []
        run: list[_Labelled] = []
        previous = None
        for word in self._words:
            changed = False
            said = word.word
            if (
                word.lane == lane
                and word.state == "provisional"
                and said.end_sample > start_sample
                and said.start_sample < end_sample
            ):
                label, state = speaker_of(said.start_sample, said.end_sample, word.voice)
                changed = bool(label) and label != word.speaker
                if label:
                    word.speaker, word.state = label, state
            joins = changed and run and previous is run[-1] and run[-1].speaker == word.speaker
            if run and not joins:
                messages.append(_correction(run))
                run = []
            if changed:
                run.append(word)
            previous = word
        if run:
            messages.append(_correction(run))
        return messages

    def words_of(self, turn: int) -> tuple[Word, ...]:
        """The words of a turn that has ended; none when it is too long ago to be revised, or was revised."""
        ended = self._ended.get(turn)
        return () if ended is None or ended.revised else tuple(word.word for word in ended.words)

    def revise(self, turn: int, words: tuple[Word, ...]) -> list[ServerMessage]:
        """A second reading of an ended turn takes the place of its words, once.

        A word that stands where one stood before keeps that word's number and label, so that corrections go on to
        find it; an added word takes a number of its own and the label of the word beside it.
        """
        said = self.words_of(turn)
        if not said or not words:
            return []
        ended = self._ended[turn]
        before = ended.words
        after: list[_Labelled] = []
        dropped: set[int] = set()
        for old, new in aligned(said, words):
            if new is None:
                assert old is not None, "a pair has one word at least"
                dropped.add(before[old].word_id)
            elif old is None:
                beside = after[-1] if after else before[0]
                after.append(replace(beside, word_id=self._next_word, word=words[new]))
                self._next_word += 1
                self._words.append(after[-1])
            else:
                before[old].word = words[new]
                after.append(before[old])
        self._drop(dropped)
        ended.words, ended.revised = after, True
        return [_revision(ended)]

    def replace(
        self,
        lane: int,
        start_sample: int,
        end_sample: int,
        words: Sequence[Word],
        speaker_of: SpeakerOf,
        instead: tuple[int, Callable[[Word], bool]] | None = None,
    ) -> list[ServerMessage]:
        """What a lane's first voice says in a span, read again: its words take the place of those there.

        They go where most of those stood, or are a turn of their own where there were none. A turn that is open ends.
        Words that stand where one stood keep its number.

        Args:
            lane: as in `step`.
            start_sample, end_sample: a word belongs to the span in which its middle lies.
            words: on the session's clock.
            speaker_of: labels of added words.
            instead: another lane, and which of its words are the same speech: they go, or move here.
        """
        messages = self._end_open(lane, lambda word: start_sample <= _middle(word) < end_sample)
        moved: list[_Labelled] = []
        if instead is not None:
            more, moved = self._take_out(*instead)
            messages += more
        inside: dict[int, list[_Labelled]] = {}
        for number, turn in self._ended.items():
            own = [w for w in turn.words if w.lane == lane and start_sample <= _middle(w.word) < end_sample]
            if own:
                inside[number] = own
        said = sorted((*moved, *(w for own in inside.values() for w in own)), key=lambda w: w.word.start_sample)
        if not moved and [w.word.text for w in said] == [word.text for word in words]:
            return messages
        host = max(inside, key=lambda number: len(inside[number])) if inside else self._next_turn
        if not inside:
            self._ended[host] = _Turn(host, words[0].start_sample)
            self._next_turn += 1
            self._forget_old_turns()
        after: list[_Labelled] = []
        kept: set[int] = set()
        for old, new in aligned([w.word for w in said], words):
            if new is None:
                continue
            if old is None:
                label, state = speaker_of(words[new].start_sample, words[new].end_sample, 0)
                after.append(_Labelled(self._next_word, lane, 0, words[new], label, state))
                self._next_word += 1
                self._words.append(after[-1])
            else:
                word = said[old]
                if word.lane != lane:
                    word.lane, word.voice = lane, 0
                    word.speaker, word.state = speaker_of(words[new].start_sample, words[new].end_sample, 0)
                word.word = words[new]
                after.append(word)
                kept.add(word.word_id)
        gone = {w.word_id for w in said}
        for number in (*(n for n in inside if n != host), host):
            turn = self._ended[number]
            left = [w for w in turn.words if w.word_id not in gone]
            if number == host:
                place = sum(_middle(w.word) < start_sample for w in left)
                left[place:place] = after
            turn.words = left
            messages.append(_revision(turn))
        self._drop(gone - kept)
        return messages

    def take_back(self, lane: int, which: Callable[[Word], bool]) -> list[ServerMessage]:
        """Words of a lane turn out to be what another lane said: they go. A turn that is open ends."""
        messages, gone = self._take_out(lane, which)
        self._drop({word.word_id for word in gone})
        return messages

    def _take_out(self, lane: int, which: Callable[[Word], bool]) -> tuple[list[ServerMessage], list[_Labelled]]:
        """Take words of a lane out of their turns. A turn that is open ends."""
        messages = self._end_open(lane, which)
        out: list[_Labelled] = []
        for turn in self._ended.values():
            gone = [w for w in turn.words if w.lane == lane and which(w.word)]
            if gone:
                numbers = {w.word_id for w in gone}
                turn.words = [w for w in turn.words if w.word_id not in numbers]
                messages.append(_revision(turn))
                out += gone
        return messages, out

    def _end_open(self, lane: int, which: Callable[[Word], bool]) -> list[ServerMessage]:
        """End the open turns of a lane that have such a word: only ended turns are revised."""
        messages: list[ServerMessage] = []
        for place, turn in list(self._open.items()):
            if place[0] == lane and any(which(w.word) for w in turn.words):
                decided_ms = samples_to_ms(turn.words[-1].word.end_sample)
                messages.append(Final(session_id="", turn=turn.number, decided_ms=decided_ms, turn_ended=True))
                self._end(place)
        return messages

    def _drop(self, word_ids: set[int]) -> None:
        self._dropped += len(word_ids)
        if word_ids:
            kept = (word for word in self._words if word.word_id not in word_ids)
            self._words = deque(kept, maxlen=REMEMBERED_WORDS)

    def spans_of(self, lane: int) -> list[tuple[str, int, int]]:
        """(label, start_sample, end_sample) of the lane's remembered final words that have a label."""
        return [
            (w.speaker, w.word.start_sample, w.word.end_sample) for w in self._words if w.lane == lane and w.speaker
        ]

    def _begin(self, place: tuple[int, int], first: Word) -> _Turn:
        turn = self._open[place] = _Turn(self._next_turn, first.start_sample)
        self._next_turn += 1
        return turn

    def _end(self, place: tuple[int, int]) -> None:
        turn = self._open.pop(place)
        self._ended[turn.number] = turn
        self._forget_old_turns()

    def _forget_old_turns(self) -> None:
        while len(self._ended) > REVISABLE_TURNS:
            del self._ended[next(iter(self._ended))]

    def _long_enough(self, turn: _Turn, committed: tuple[Word, ...]) -> bool:
        return bool(
            committed
            and committed[-1].end_sample - turn.start_sample > LONG_TURN_SAMPLES
            and committed[-1].text[-1:] in ".?!"
        )

    def _finish(self, place: tuple[int, int], turn: _Turn, word: Word, speaker_of: SpeakerOf) -> WordMessage:
        lane, voice = place
        label, state = speaker_of(word.start_sample, word.end_sample, voice)
        labelled = _Labelled(self._next_word, lane, voice, word, label, state)
        self._next_word += 1
        self._words.append(labelled)
        turn.words.append(labelled)
        return _message(word, lane, label, labelled.word_id)


def _message(word: Word, lane: int, label: str, word_id: int = -1) -> WordMessage:
    return WordMessage(
        text=word.text,
        start_ms=samples_to_ms(word.start_sample),
        end_ms=samples_to_ms(word.end_sample),
        confidence=round(word.confidence, 3),
        channel=lane if lane < MAX_CHANNELS else MIX_LANE,
        speaker=label,
        word_id=word_id,
    )


def _middle(word: Word) -> int:
    return (word.start_sample + word.end_sample) // 2


def _revision(turn: _Turn) -> Revision:
    words = [_message(w.word, w.lane, w.speaker, w.word_id) for w in turn.words]
    return Revision(session_id="", turn=turn.number, words=words)


def _correction(run: list[_Labelled]) -> Speaker:
    return Speaker(
        session_id="",
        first_word_id=run[0].word_id,
        last_word_id=run[-1].word_id,
        speaker=run[0].speaker,
        state="final" if all(word.state == "final" for word in run) else "provisional",
    )
