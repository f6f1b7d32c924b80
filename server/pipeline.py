"""The one path of a chunk of audio: resample, front end, recognise, tell speakers apart, caption, polish.

Synchronous and deterministic: the audio is cut into blocks of fixed length before anything is decided, so the captions
depend neither on how the client cut it nor on how busy the machine is. Runs on a worker thread, never on the event
loop. One `Pipeline` is one session's whole streaming state.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from server.captions import CaptionBuilder, SpeakerOf
from server.clock import MODEL_RATE_HZ, ms_to_samples, samples_to_ms
from server.ingest.align import Resampler
from server.protocol import AudioFormat, Final, LabelState, Levels, ServerMessage, SpeakerName
from server.protocol import Warning as WarningMessage
from streaming_models.attribution import UNNAMED, Attribution
from streaming_models.fbank import centred, fbank
from streaming_models.frontend import MAX_CHANNELS, MIX_LANE, FrontEnd, FrontEndEvent, FrontEndOutput, LaneAudio
from streaming_models.overlap_hearing import Extract, OverlapHearing
from streaming_models.polish import Polisher, Reader, letters, placed
from streaming_models.recogniser import Recogniser, Recognition, Word
from streaming_models.seat_names import SeatNames
from streaming_models.second_hearing import Passage, SecondHearing, explains
from streaming_models.separation import Hindsight, SeatAudio, SeatSeparator
from streaming_models.speakers import Diarizer, Embed, Segment, SpeakerRegistry, label_text
from streaming_models.voices import VoiceWords

FloatArray = NDArray[np.float32]

BLOCK_SAMPLES = 1_024
"""Two frames of the voice activity detector: 64 ms, what one `step` of the line works on."""
LEVELS_EVERY_SAMPLES = MODEL_RATE_HZ
LOUDEST_BLOCKS = 60 * MODEL_RATE_HZ // BLOCK_SAMPLES
SEAT_LANE = MAX_CHANNELS
"""Lanes from here on are seats around an array, numbered as the separator does."""
OWNER_SHARE = 0.7
"""Share of a person's speech in which one microphone must have been the loudest to be theirs."""
SETTLING_SAMPLES = 4 * MODEL_RATE_HZ
RECENT_WORDS = 40
SAME_WORD_SAMPLES = ms_to_samples(400)
BLEED_RATIO = 2.0
"""A word that another microphone hears with this many times the power is that one's."""
TURN_VOICE_SAMPLES = 2 * MODEL_RATE_HZ
"""Speech of a turn on a person's own microphone after which its voice is compared; or at the turn's end."""
FIRST_VOICE_SAMPLES = ms_to_samples(1_500)
"""The same while the microphone has no person yet."""
MIN_FIRST_VOICE_SAMPLES = MODEL_RATE_HZ
"""What a turn's end must bring to give a microphone its first person."""
MIN_VOICE_SAMPLES = ms_to_samples(600)
"""Less speech than this says nothing about a voice."""
MIN_PASSAGE_VOICE_SAMPLES = MODEL_RATE_HZ
"""The same for a passage of a seat: there is always another that says more."""
LONE_CONFIDENCE = 0.5
"""A passage that is read again as a single word less likely than this stands as it was read live."""
UNNOTICED_CONFIDENCE = 0.7
"""So does one of which the diarizer noticed nothing, unless its words are as likely as this on average."""
MAX_VOICE_SAMPLES = 4 * MODEL_RATE_HZ
"""More speech than this costs and adds nothing."""


@dataclass(frozen=True)
class Models:
    """What the line needs of `inference.py`, as callables: nothing here knows ONNX Runtime.

    `polish` reads ended turns a second time; None: the live text stands. `favouring` gives the same models with names
    and terms that they are to favour; None: they cannot. `separate`: the people around an array are pulled apart before
    they are recognised, for a recogniser that hears one voice at a time; what is polished then is what each of them
    said, as it sounds in hindsight. `extract`: takes one voice out of what a single microphone heard of several, for
    the second reading; None: an overlap stands as it was read live.
    """

    recogniser: Callable[[], Recogniser]
    segment: Segment
    embed: Embed
    polish: Reader | None = None
    favouring: Callable[[tuple[str, ...]], Models] | None = None
    separate: bool = False
    extract: Extract | None = None


@dataclass
class _Turn:
    """What one voice of a person's own microphone says between two pauses."""

    spoken: tuple[Word, ...] = ()  # committed so far
    tail: tuple[Word, ...] = ()
    compared: bool = False  # this turn's voice has been
    compared_samples: int = 0  # speech behind a comparison that named nobody


@dataclass
class _Lane:
    """One line of speech: the mix of all channels, one person's microphone, or one seat around an array."""

    number: int
    offset_samples: int
    recogniser: Recogniser
    words: VoiceWords = field(default_factory=VoiceWords)
    polisher: Polisher | None = None
    # The mix only:
    diarizer: Diarizer | None = None
    attribution: Attribution | None = None
    # The mix that is not separated:
    overlap_hearing: OverlapHearing | None = None
    # The mix of an array whose talkers are separated; its recogniser then hears what no seat explains:
    separator: SeatSeparator | None = None
    # The same, and its seats:
    names: SeatNames | None = None
    second_hearing: SecondHearing = field(default_factory=SecondHearing)
    # A person's own microphone only:
    audio: FloatArray | None = None  # the last MAX_VOICE_SAMPLES + some, to take a voice from
    heard_samples: int = 0
    turns: dict[int, _Turn] = field(default_factory=dict)  # by voice, those that are open
    recent: tuple[Word, ...] = ()  # on the session's clock, as the tails
    label: str = ""
    state: LabelState = "provisional"


class Pipeline:
    """Audio of one session in, messages out (their envelope is filled by the session)."""

    def __init__(self, audio: AudioFormat, models: Models, registry: SpeakerRegistry | None = None) -> None:
        self._audio = audio
        self._models = models
        self.registry = registry or SpeakerRegistry()
        geometry = None if audio.geometry_m is None else np.array(audio.geometry_m, np.float32)
        self._resampler = Resampler(audio.sample_rate_hz, audio.channels)
        self._front = FrontEnd(audio.channels, audio.layout, geometry)
        self._captions = CaptionBuilder()
        self._lanes: dict[int, _Lane] = {}
        self._carry = np.zeros((audio.channels, 0), np.float32)
        self._clock = 0
        self._loudest: deque[int] = deque(maxlen=LOUDEST_BLOCKS)  # channel of each block, the newest last
        self._owners: dict[int, str] = {}  # microphone -> label, as handed over from the mix
        self._dead: set[int] = set()
        self._named: set[str] = set()

    @property
    def audio_ms(self) -> int:
        """Audio that has been through the line."""
        return samples_to_ms(self._clock)

    @property
    def word_count(self) -> int:
        """Final words so far."""
        return self._captions.word_count

    def step(self, pcm: FloatArray) -> list[ServerMessage]:
        """Take audio in order.

        Args:
            pcm: (C, S) float32 in [-1, 1] at the client's rate; S may be 0.
        """
        return self._run(self._resampler.step(pcm))

    def flush(self) -> list[ServerMessage]:
        """The audio has ended: caption everything that was said."""
        messages = self._run(self._resampler.flush())
        if self._carry.shape[1]:
            messages += self._block(self._carry)
            self._carry = self._carry[:, :0]
        messages += self._hear(self._front.flush())
        for number in list(self._lanes):
            if number in self._lanes:
                messages += self._close_lane(self._lanes[number])
        return messages

    def _run(self, pcm: FloatArray) -> list[ServerMessage]:
        self._carry = np.concatenate((self._carry, pcm), axis=1)
        messages: list[ServerMessage] = []
        whole = self._carry.shape[1] // BLOCK_SAMPLES * BLOCK_SAMPLES
        for at in range(0, whole, BLOCK_SAMPLES):
            messages += self._block(self._carry[:, at : at + BLOCK_SAMPLES])
        self._carry = self._carry[:, whole:]
        return messages

    def _block(self, block: FloatArray) -> list[ServerMessage]:
        before = self._clock // LEVELS_EVERY_SAMPLES
        self._clock += block.shape[1]
        if self._audio.channels > 1 and self._front.layout_now == "array":
            self._loudest.append(int(np.square(block).mean(axis=1).argmax()))
        messages = self._hear(self._front.step(block))
        if self._clock // LEVELS_EVERY_SAMPLES != before:
            messages.append(self._levels())
        return messages

    def _hear(self, heard: FrontEndOutput) -> list[ServerMessage]:
        messages: list[ServerMessage] = []
        for event in heard.events:
            messages += self._report(event)
        for stretch in heard.lanes:
            lane = self._lanes.get(stretch.lane)
            if lane is None:
                if MIX_LANE in self._lanes:  # close talk was recognised: the mix has said its last
                    messages += self._close_lane(self._lanes.pop(MIX_LANE))
                    self._hand_over()
                lane = self._lanes[stretch.lane] = self._new_lane(stretch.lane, stretch.start_sample)
            messages += self._listen(lane, stretch)
        return messages

    def _hand_over(self) -> None:
        """Close talk was recognised: whoever was loudest on one microphone while the mix was heard owns it."""
        oldest = self._clock // BLOCK_SAMPLES - len(self._loudest)
        votes: dict[str, Counter[int]] = {}
        for label, start, end in self._captions.spans_of(MIX_LANE):
            for block in range(max(oldest, start // BLOCK_SAMPLES), end // BLOCK_SAMPLES):
                if block - oldest < len(self._loudest):
                    votes.setdefault(label, Counter())[self._loudest[block - oldest]] += 1
        for label, count in sorted(votes.items(), key=lambda item: -item[1].total()):
            channel, blocks = count.most_common(1)[0]
            if blocks >= OWNER_SHARE * count.total() and channel not in self._owners and label in self.registry.labels:
                self._owners[channel] = label
                self.registry.claim(channel, label)

    def _new_lane(self, number: int, offset_samples: int) -> _Lane:
        lane = _Lane(number, offset_samples, self._models.recogniser(), label=self._owners.get(number, ""))
        separated = self._models.separate and self._audio.channels > 1 and (number == MIX_LANE or number >= SEAT_LANE)
        if self._models.polish is not None and not separated:
            lane.polisher = Polisher(self._models.polish, lane.words, offset_samples)
        if number == MIX_LANE:
            lane.diarizer = Diarizer(self._models.segment, self._models.embed, self.registry, early=separated)
            lane.attribution = Attribution(lane.diarizer, lane.words, offset_samples)
            if separated:
                lane.separator = SeatSeparator(self._audio.channels)
                lane.names = SeatNames(lane.diarizer, self.registry)
            elif self._models.extract is not None:
                lane.overlap_hearing = OverlapHearing(self._models.extract, lane.diarizer)
        elif number < SEAT_LANE:
            lane.audio = np.zeros(0, np.float32)
        return lane

    def _listen(self, lane: _Lane, stretch: LaneAudio) -> list[ServerMessage]:
        messages: list[ServerMessage] = []
        if lane.diarizer is not None:
            if lane.overlap_hearing is not None:
                lane.overlap_hearing.step(stretch.pcm)
            decided = lane.diarizer.decided_until_sample
            lane.diarizer.step(stretch.pcm)
            if lane.diarizer.decided_until_sample != decided:
                messages += self._find_seats(lane, lane.diarizer.decided_until_sample - decided)
                messages += self._relabel(lane)
                messages += self._hear_overlaps(lane)
        if lane.audio is not None:
            lane.audio = np.concatenate((lane.audio, stretch.pcm))[-4 * MAX_VOICE_SAMPLES :]
            lane.heard_samples += len(stretch.pcm)
        if lane.separator is not None:
            assert stretch.channels is not None, "the mix comes with its channels"
            return messages + self._hear_seats(lane, lane.separator.step(stretch.channels, stretch.pcm, self._dead))
        return messages + self._recognise(lane, stretch.pcm, stretch.channels)

    def _recognise(self, lane: _Lane, pcm: FloatArray, channels: FloatArray | None = None) -> list[ServerMessage]:
        if lane.polisher is not None:
            lane.polisher.step(pcm)
        return self._take(lane, lane.recogniser.step(pcm, channels))

    def _close_lane(self, lane: _Lane) -> list[ServerMessage]:
        messages: list[ServerMessage] = []
        if lane.separator is not None:
            messages += self._hear_seats(lane, lane.separator.flush())
        messages += self._take(lane, lane.recogniser.flush())
        if lane.diarizer is None:
            return messages
        seats = self._seat_lanes()
        for seat in seats:
            messages += self._take(seat, seat.recogniser.flush())
        decided = lane.diarizer.decided_until_sample
        lane.diarizer.flush()
        messages += self._find_seats(lane, lane.diarizer.decided_until_sample - decided, last=True)
        messages += self._relabel(lane)
        messages += self._hear_overlaps(lane, last=True)
        for seat in seats:
            del self._lanes[seat.number]
        return messages

    def _find_seats(self, lane: _Lane, new_samples: int, *, last: bool = False) -> list[ServerMessage]:
        """The diarizer has decided more: look for seats, and for whose they are, and read again what was said there."""
        if lane.separator is None or lane.names is None or lane.diarizer is None:
            return []
        since = lane.diarizer.decided_until_sample - lane.separator.learns_from_samples
        hindsight = lane.separator.guide(lane.diarizer.alone(max(0, since)), new_samples / MODEL_RATE_HZ)
        lane.names.hear(lane.separator.heard, lane.separator.recent, last=last)
        if hindsight is None:
            return []
        messages: list[ServerMessage] = []
        readings: list[tuple[Passage, tuple[Word, ...]]] = []
        for passage in lane.second_hearing.review(hindsight, last=last):
            words = self._reread(lane, passage)
            # Echo and noise without a word sound alike wherever they are: they would be one more voice.
            if words or (self._models.polish is None and self._was_read_live(lane, passage)):
                self._note_voice(lane, passage)
            readings.append((passage, words))
        lane.names.listen()
        for passage, words in readings:
            if words:
                messages += self._show_again(lane, hindsight, passage, words)
        return messages

    def _hear_overlaps(self, mix: _Lane, *, last: bool = False) -> list[ServerMessage]:
        """Who spoke is settled up to now: read again what people said while others spoke, each by themselves."""
        if mix.overlap_hearing is None:
            return []
        messages: list[ServerMessage] = []
        for passage in mix.overlap_hearing.review(last=last):
            words = self._reread(mix, passage)
            if not words or not (passage.noticed or _makes_sense(words)):
                continue
            start, end = self._on_clock(mix, passage)
            speaker = label_text(passage.seat)
            theirs = mix.number, partial(self._is_theirs, mix, speaker, start, end)
            messages += self._captions.replace(SEAT_LANE + passage.seat, start, end, words, _always(speaker), theirs)
        return messages

    def _is_theirs(self, mix: _Lane, speaker: str, start: int, end: int, word: Word) -> bool:
        """Whether a word of the mix lies in a span and is held to be a speaker's."""
        if not start <= (word.start_sample + word.end_sample) // 2 < end:
            return False
        return self._speaker_of(mix, word.start_sample, word.end_sample, 0)[0] == speaker

    def _reread(self, mix: _Lane, passage: Passage) -> tuple[Word, ...]:
        """The words of a passage of a seat, read once more; none where what was read live stands."""
        if self._models.polish is None:
            return ()
        words = placed(self._models.polish(passage.pcm), *self._on_clock(mix, passage))
        return () if len(words) == 1 and words[0].confidence < LONE_CONFIDENCE else words

    def _was_read_live(self, mix: _Lane, passage: Passage) -> bool:
        lanes = mix, self._lanes.get(SEAT_LANE + passage.seat)
        return any(lane is not None and lane.words.between(*self._on_clock(mix, passage)) for lane in lanes)

    def _note_voice(self, mix: _Lane, passage: Passage) -> None:
        """Whose a passage is: its talker is heard in it without the others."""
        assert mix.names is not None, "only a separated mix has seats"
        voice = passage.speech[-MAX_VOICE_SAMPLES:]
        if len(voice) >= MIN_PASSAGE_VOICE_SAMPLES:
            rows = centred(fbank(voice))
            embedding = self._models.embed(rows, np.ones(len(rows), np.float32))
            start, end = self._on_clock(mix, passage)
            mix.names.note(passage.seat, start, end, embedding, len(voice) / MODEL_RATE_HZ)

    def _on_clock(self, mix: _Lane, passage: Passage) -> tuple[int, int]:
        start, end = (mix.offset_samples + sample for sample in (passage.start_sample, passage.end_sample))
        return max(0, start), min(end, self._clock)

    def _show_again(
        self, mix: _Lane, hindsight: Hindsight, passage: Passage, words: tuple[Word, ...]
    ) -> list[ServerMessage]:
        """Show a passage as it was read once more, and take back what others' lines said instead."""
        assert mix.names is not None, "only a separated mix is heard again"
        start, end = self._on_clock(mix, passage)

        def is_explained(seat: int | None, word: Word) -> bool:
            if not start <= (word.start_sample + word.end_sample) // 2 < end:
                return False
            return explains(
                hindsight, seat, word.start_sample - mix.offset_samples, word.end_sample - mix.offset_samples
            )

        speaker_of = partial(self._speaker_on_seat, mix.names, passage.seat)
        messages = self._captions.replace(SEAT_LANE + passage.seat, start, end, words, speaker_of)
        messages += self._captions.take_back(mix.number, partial(is_explained, None))
        for seat in hindsight.shares:
            if seat != passage.seat:
                messages += self._captions.take_back(SEAT_LANE + seat, partial(is_explained, seat))
        return messages

    def _hear_seats(self, mix: _Lane, parts: list[SeatAudio]) -> list[ServerMessage]:
        """Recognise each seat's line, and on the mix's own what no seat explains."""
        assert mix.separator is not None, "only a separated mix has seats"
        messages: list[ServerMessage] = []
        for part in parts:
            lane = mix
            if part.seat is not None:
                number = SEAT_LANE + part.seat
                if number not in self._lanes:
                    self._lanes[number] = self._new_lane(number, mix.offset_samples + part.start_sample)
                    self._lanes[number].names = mix.names
                lane = self._lanes[number]
            messages += self._recognise(lane, part.pcm)
        for lane in self._seat_lanes():
            if lane.number - SEAT_LANE not in mix.separator.seats:  # it was found to be another one
                messages += self._take(lane, lane.recogniser.flush())
                del self._lanes[lane.number]
        return messages

    def _seat_lanes(self) -> list[_Lane]:
        return [lane for number, lane in self._lanes.items() if number >= SEAT_LANE]

    def _take(self, lane: _Lane, recognised: list[Recognition]) -> list[ServerMessage]:
        """Caption what a lane's voices newly said. All of it is noted first: whose a word is depends on the others."""
        messages: list[ServerMessage] = []
        ended: list[tuple[int, int]] = []  # turn, voice
        on_clock = [_shifted(recognition, lane.offset_samples) for recognition in recognised]
        for recognition in on_clock:
            lane.words.hear(recognition)
        for recognition in on_clock:
            said = self._caption(lane, recognition)
            ended += [(m.turn, recognition.voice) for m in said if isinstance(m, Final) and m.turn_ended]
            messages += said
        messages += self._relabel_overlapped(lane, on_clock)
        if lane.polisher is not None:
            for turn, voice in ended:
                words = lane.polisher.reread(self._captions.words_of(turn), voice)
                messages += self._captions.revise(turn, words or ())
        return messages

    def _caption(self, lane: _Lane, recognition: Recognition) -> list[ServerMessage]:
        messages: list[ServerMessage] = []
        corrections: list[ServerMessage] = []
        if lane.audio is not None:
            own = tuple(word for word in recognition.committed if not self._is_bleed(lane, word))
            recognition = replace(recognition, committed=own)
            lane.recent = (*lane.recent, *own)[-RECENT_WORDS:]
            corrections = self._recognise_voice(lane, recognition)
            messages += self._name_of_channel(lane)
        words = recognition.committed or recognition.tail
        direction = None
        if words:
            place = MIX_LANE if lane.number >= SEAT_LANE else lane.number
            direction = self._front.direction_deg(words[0].start_sample, words[-1].end_sample, place)
        messages += self._captions.step(lane.number, recognition, partial(self._speaker_of, lane), direction)
        return messages + corrections

    def _is_bleed(self, lane: _Lane, word: Word) -> bool:
        """Whether another microphone hears the same word at the same time, and louder."""
        for other in self._lanes.values():
            if other is lane or self._level(other, word) <= BLEED_RATIO * self._level(lane, word):
                continue
            for said in (*other.recent, *(word for turn in other.turns.values() for word in turn.tail)):
                apart = abs(said.start_sample + said.end_sample - word.start_sample - word.end_sample) // 2
                if apart <= SAME_WORD_SAMPLES and letters(said.text) == letters(word.text):
                    return True
        return False

    def _level(self, lane: _Lane, word: Word) -> float:
        """Mean power of a lane's audio while a word was said."""
        assert lane.audio is not None, "only a person's own microphone is compared"
        oldest = lane.offset_samples + lane.heard_samples - len(lane.audio)
        heard = lane.audio[max(0, word.start_sample - oldest) : max(0, word.end_sample - oldest)]
        return float(np.square(heard).mean()) if len(heard) else 0.0

    def _relabel(self, lane: _Lane) -> list[ServerMessage]:
        assert lane.attribution is not None, "only the mix is relabelled by activity"
        start, end = lane.attribution.revisable_from_sample, lane.attribution.decided_until_sample
        messages: list[ServerMessage] = []
        messages += self._captions.relabel(lane.number, start, end, partial(self._speaker_of, lane))
        if lane.separator is not None and lane.names is not None:
            for seat in lane.separator.heard:
                speaker_of = partial(self._speaker_on_seat, lane.names, seat)
                messages += self._captions.relabel(SEAT_LANE + seat, 0, end, speaker_of)
        return messages

    def _relabel_overlapped(self, lane: _Lane, recognised: list[Recognition]) -> list[ServerMessage]:
        """A voice turns out to overlap words that were captioned as if nobody else spoke."""
        if lane.attribution is None:
            return []
        new = [word.start_sample for r in recognised for word in (*r.committed, *r.tail)]
        touched = [overlap.start_sample for overlap in lane.words.overlaps() if new and overlap.end_sample > min(new)]
        if not touched:
            return []
        return self._captions.relabel(lane.number, min(touched), self._clock, partial(self._speaker_of, lane))

    def _speaker_of(self, lane: _Lane, start_sample: int, end_sample: int, voice: int) -> tuple[str, LabelState]:
        if lane.attribution is not None:
            return lane.attribution.speaker_of(start_sample, end_sample, voice)
        if lane.names is not None:
            return self._speaker_on_seat(lane.names, lane.number - SEAT_LANE, start_sample, end_sample, voice)
        return lane.label, lane.state

    @staticmethod
    def _speaker_on_seat(names: SeatNames, seat: int, start: int, end: int, _voice: int) -> tuple[str, LabelState]:
        return names.speaker_of(seat, start, end)

    def _recognise_voice(self, lane: _Lane, recognition: Recognition) -> list[ServerMessage]:
        """On a person's own microphone: compare the voice once a turn, and correct what was said before that.

        A microphone without a person yet is compared early and again, until somebody can be named.
        """
        turn = lane.turns.setdefault(recognition.voice, _Turn())
        turn.tail = recognition.tail
        turn.spoken += recognition.committed
        speech = sum(word.end_sample - word.start_sample for word in turn.spoken)
        wanted = TURN_VOICE_SAMPLES if lane.label else FIRST_VOICE_SAMPLES
        # Right after close talk was recognised bleed still gets through: nobody is met on a new microphone then.
        settling = not lane.label and 0 < lane.offset_samples > self._clock - SETTLING_SAMPLES
        if recognition.ended:
            wanted = MIN_VOICE_SAMPLES if lane.label else MIN_FIRST_VOICE_SAMPLES
        corrections: list[ServerMessage] = []
        if turn.spoken and not settling and not turn.compared and speech >= wanted + turn.compared_samples:
            before = lane.label
            turn.compared = self._compare(lane, turn)
            turn.compared_samples = 0 if turn.compared else speech
            if lane.label != before:
                # The first name of a microphone is that of everything it said without one.
                first = turn.spoken[0].start_sample if before else 0
                last = turn.spoken[-1].end_sample
                corrections = self._captions.relabel(lane.number, first, last, partial(self._speaker_of, lane))
        if recognition.ended:
            del lane.turns[recognition.voice]
        return corrections

    def _compare(self, lane: _Lane, turn: _Turn) -> bool:
        """Whether the turn's voice could be told to be a person's, who is then the microphone's."""
        assert lane.audio is not None, "only a person's own microphone is compared turn by turn"
        oldest = lane.offset_samples + lane.heard_samples - len(lane.audio)
        pieces = [lane.audio[max(0, w.start_sample - oldest) : max(0, w.end_sample - oldest)] for w in turn.spoken]
        voice = np.concatenate(pieces)[-MAX_VOICE_SAMPLES:]
        if len(voice) < MIN_VOICE_SAMPLES // 2:
            return False
        rows = centred(fbank(voice))
        embedding = self._models.embed(rows, np.ones(len(rows), np.float32))
        others = {o.label for o in self._lanes.values() if o is not lane and o.label and _is_speaking(o)}
        seconds = len(voice) / MODEL_RATE_HZ
        label, lane.state, _ = self.registry.assign_turn(embedding, seconds, lane.number, others)
        if label == UNNAMED:
            return False
        lane.label = label
        return True

    def _name_of_channel(self, lane: _Lane) -> list[ServerMessage]:
        names = self._audio.channel_names
        name = names[lane.number] if names else ""
        if not name or not lane.label or lane.label in self._named:
            return []
        self._named.add(lane.label)
        return [SpeakerName(session_id="", speaker=lane.label, name=name)]

    def _report(self, event: FrontEndEvent) -> list[ServerMessage]:
        if event.channel is not None and event.kind in ("dead", "recovered"):
            (self._dead.add if event.kind == "dead" else self._dead.discard)(event.channel)
        if event.kind in ("layout", "reference"):
            return []
        channel = -1 if event.channel is None else event.channel
        return [WarningMessage(session_id="", code=f"microphone_{event.kind}", message=event.detail, channel=channel)]

    def _levels(self) -> Levels:
        return Levels(
            session_id="",
            levels_db=[round(float(v), 1) for v in np.maximum(self._front.levels_db(), -120.0)],
            dead_channels=sorted(self._dead),
            layout=self._front.layout_now,
        )


def _makes_sense(words: Sequence[Word]) -> bool:
    """Whether words that nobody else noticed were said, going by how sure they were read."""
    return sum(word.confidence for word in words) >= UNNOTICED_CONFIDENCE * len(words)


def _always(speaker: str) -> SpeakerOf:
    """Whose the words are, whenever they were said."""

    def speaker_of(_start_sample: int, _end_sample: int, _voice: int) -> tuple[str, LabelState]:
        return speaker, "final"

    return speaker_of


def _is_speaking(lane: _Lane) -> bool:
    return any(turn.tail or turn.spoken for turn in lane.turns.values())


def _shifted(recognition: Recognition, offset_samples: int) -> Recognition:
    """The same on the session's clock."""
    if not offset_samples:
        return recognition

    def moved(words: tuple[Word, ...]) -> tuple[Word, ...]:
        return tuple(
            Word(w.text, w.start_sample + offset_samples, w.end_sample + offset_samples, w.confidence) for w in words
        )

    return replace(
        recognition,
        decided_sample=recognition.decided_sample + offset_samples,
        committed=moved(recognition.committed),
        tail=moved(recognition.tail),
    )
