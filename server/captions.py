"""Words and speakers -> the messages that a viewer reads. Pure: no clock of its own, no I/O.

A turn is what one lane says between two pauses. Its words are numbered as they become final and never change; its
tail is shown as a partial. Who spoke is decided separately and may be corrected later, by word numbers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from server.clock import ms_to_samples, samples_to_ms
from server.protocol import Final, LabelState, Partial, ServerMessage, Speaker, WordMessage
from streaming_models.recogniser import Recognition, Word

SpeakerOf = Callable[[int, int], tuple[str, LabelState]]
"""Label of whoever speaks between two samples, "" while nobody knows."""

LONG_TURN_SAMPLES = ms_to_samples(15_000)
"""After this a turn ends at the next end of a sentence, so that nobody has to read a wall of text."""
REMEMBERED_WORDS = 2_000
"""Words whose label may still be corrected; older ones stand. Far more than any correction reaches back."""


@dataclass
class _Labelled:
    word_id: int
    lane: int
    start_sample: int
    end_sample: int
    speaker: str
    state: LabelState


@dataclass
class _Turn:
    number: int
    start_sample: int
    shown: bool = False


class CaptionBuilder:
    """One session's captions. `step` takes what a lane recognised, `relabel` what became known of its speakers."""

    def __init__(self) -> None:
        self._next_turn = 0
        self._next_word = 0
        self._open: dict[int, _Turn] = {}
        self._words: deque[_Labelled] = deque(maxlen=REMEMBERED_WORDS)

    @property
    def word_count(self) -> int:
        """Final words so far."""
        return self._next_word

    def step(
        self, lane: int, recognition: Recognition, speaker_of: SpeakerOf, direction_deg: float | None = None
    ) -> list[ServerMessage]:
        """Messages for what a lane newly recognised.

        Args:
            lane: -1 for the combined channels, else the channel; words carry it as `channel`.
            recognition: from the lane's recogniser.
            speaker_of: labels as known now.
            direction_deg: where the talker of this lane is.
        """
        if not (recognition.committed or recognition.tail or lane in self._open):
            return []
        turn = self._open.get(lane)
        if turn is None:
            first = (recognition.committed or recognition.tail)[0]
            turn = self._open[lane] = _Turn(self._next_turn, first.start_sample)
            self._next_turn += 1
        messages: list[ServerMessage] = []
        decided_ms = samples_to_ms(recognition.decided_sample)
        committed = [self._finish(lane, word, speaker_of) for word in recognition.committed]
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
            del self._open[lane]
            if recognition.tail:
                turn = self._open[lane] = _Turn(self._next_turn, recognition.tail[0].start_sample)
                self._next_turn += 1
        if not recognition.ended and (recognition.tail or turn.shown):
            tail = [_message(word, lane, *speaker_of(word.start_sample, word.end_sample)) for word in recognition.tail]
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
            if (
                word.lane == lane
                and word.state == "provisional"
                and word.end_sample > start_sample
                and word.start_sample < end_sample
            ):
                label, state = speaker_of(word.start_sample, word.end_sample)
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

    def spans_of(self, lane: int) -> list[tuple[str, int, int]]:
        """(label, start_sample, end_sample) of the lane's remembered final words that have a label."""
        return [(w.speaker, w.start_sample, w.end_sample) for w in self._words if w.lane == lane and w.speaker]

    def _long_enough(self, turn: _Turn, committed: tuple[Word, ...]) -> bool:
        return bool(
            committed
            and committed[-1].end_sample - turn.start_sample > LONG_TURN_SAMPLES
            and committed[-1].text[-1:] in ".?!"
        )

    def _finish(self, lane: int, word: Word, speaker_of: SpeakerOf) -> WordMessage:
        label, state = speaker_of(word.start_sample, word.end_sample)
        number = self._next_word
        self._next_word += 1
        self._words.append(_Labelled(number, lane, word.start_sample, word.end_sample, label, state))
        return _message(word, lane, label, state, number)


def _message(word: Word, lane: int, label: str, _state: LabelState, word_id: int = -1) -> WordMessage:
    return WordMessage(
        text=word.text,
        start_ms=samples_to_ms(word.start_sample),
        end_ms=samples_to_ms(word.end_sample),
        confidence=round(word.confidence, 3),
        channel=lane,
        speaker=label,
        word_id=word_id,
    )


def _correction(run: list[_Labelled]) -> Speaker:
    return Speaker(
        session_id="",
        first_word_id=run[0].word_id,
        last_word_id=run[-1].word_id,
        speaker=run[0].speaker,
        state="final" if all(word.state == "final" for word in run) else "provisional",
    )
