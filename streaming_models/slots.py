"""The decoder's two slots, and the two voices on which viewers see what is read in them.

Slots follow the rule that the decoder was trained with (HEAT, see `streaming_models.sot`): within the window,
utterances in order of their start take the first free slot. When the window's beginning is cut off, other utterances
may come first, and all are dealt anew. A voice is what a running utterance keeps: viewers never see it jump.

Utterances are not known: a voice's words are taken as one until it pauses. This file reads nothing and decides nothing
about time; see `streaming_models.sot_recogniser`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from streaming_models.recogniser import Recognition, Word
from streaming_models.sot import VIRTUAL_CHANNELS, Assignment, TimedUtterance, assign
from streaming_models.stable_prefix import ReadWord, StablePrefix, words_in

Utterance = TimedUtterance[ReadWord]

ECHO_SAMPLES = 6_400
"""400 ms: both slots' times of one word differ by less."""
LONG_WORD_LETTERS = 5


@dataclass
class Slot:
    """What is read in one of the decoder's slots."""

    voice: int
    """On which new words of it are shown; `row` may begin with words of the other voice."""
    row: StablePrefix
    settled_to: int
    """Up to here it was read and held no words that are not committed."""


@dataclass
class _Voice:
    said: tuple[ReadWord, ...] = ()  # committed words in the window
    began: int | None = None  # start of the utterance that the first of them belongs to, maybe before the window
    shown: bool = False  # an utterance that has not ended has been shown
    tail: tuple[Word, ...] = ()  # as last shown
    # Not yet shown:
    committed: list[Word] = field(default_factory=list)
    ended: bool = False

    def utterances(self, number: int, pending: tuple[ReadWord, ...], pause_samples: int) -> list[Utterance]:
        groups: list[list[ReadWord]] = []
        for word in (*self.said, *pending):
            if groups and word.start_sample - groups[-1][-1].end_sample < pause_samples:
                groups[-1].append(word)
            else:
                groups.append([word])
        found = [TimedUtterance(str(number), g[0].start_sample, g[-1].end_sample, tuple(g)) for g in groups]
        if found and self.began is not None:
            found[0] = replace(found[0], start_sample=min(self.began, found[0].start_sample))
        return found


class Slots:
    """Slots and voices of one stretch of speech."""

    def __init__(self, start_sample: int, pause_samples: int, lone_confidence: float) -> None:
        """Slot k holds voice k, and nothing.

        Args:
            start_sample: of the window.
            pause_samples: a voice's pause from which on what follows counts as another utterance.
            lone_confidence: see `StablePrefix.finish`.
        """
        self._pause_samples, self._lone_confidence = pause_samples, lone_confidence
        self._voices = tuple(_Voice() for _ in range(VIRTUAL_CHANNELS))
        self.all = tuple(Slot(k, StablePrefix(start_sample), start_sample) for k in range(VIRTUAL_CHANNELS))
        """In the decoder's order."""

    def is_open(self, slot: Slot) -> bool:
        """Whether an utterance is running on the slot's voice."""
        return self._voices[slot.voice].shown or bool(slot.row.pending)

    def say(self, slot: Slot, committed: Iterable[ReadWord]) -> None:
        """Words that the slot's row has just committed."""
        voice = self._voices[slot.voice]
        words = tuple(committed)
        voice.said += words
        voice.committed += words_in(words)

    def finish(self, slot: Slot) -> None:
        """The utterance that the slot holds has ended: commit its words."""
        self.say(slot, slot.row.finish(self._lone_confidence))
        self._voices[slot.voice].ended = True

    def cut(self, sample: int, now_sample: int, ongoing_samples: int) -> None:
        """The window now begins here.

        Args:
            sample: before every pending word.
            now_sample: the window's end.
            ongoing_samples: an utterance whose last known word ends closer than this to the window's end may go on.
        """
        dealt = self._deal(sample, now_sample - ongoing_samples, now_sample)
        latest = _latest(dealt)
        if len(latest) == VIRTUAL_CHANNELS and len({number for number, _ in latest.values()}) == 1:
            # Both voices' last utterances, one after the other in one slot: the earlier one is over.
            over = min(latest, key=lambda voice: latest[voice][1])
            self.finish(next(slot for slot in self.all if slot.voice == over))
            dealt = self._deal(sample, now_sample - ongoing_samples, now_sample)
            latest = _latest(dealt)
        owners: dict[int, int] = {}
        for voice, (number, _) in sorted(latest.items(), key=lambda item: item[1][1]):
            owners[number] = voice
        free = [slot for slot in self.all if slot.voice not in owners.values()]
        free.sort(key=lambda slot: not self._voices[slot.voice].shown)
        before = {slot.voice: slot for slot in self.all}
        self.all = tuple(
            _dealt_slot(before[owners[number]] if number in owners else free.pop(0), utterances)
            for number, utterances in enumerate(dealt.channels)
        )
        heard = [u for utterances in dealt.channels for u in utterances]
        for number, known in enumerate(self._voices):
            known.said = tuple(read for read in known.said if read.is_mostly_after(sample))
            known.began = min((u.start_sample for u in heard if u.speaker == str(number)), default=None)

    def news(self, decided_sample: int) -> list[Recognition]:
        """What has not been shown of each voice."""
        found: list[Recognition] = []
        tails = {slot.voice: words_in(slot.row.pending) for slot in self.all}
        first, second = (slot.voice for slot in self.all)
        heard = (*words_in(self._voices[first].said), *tails[first])
        tails[second] = without_echo(tails[second], heard)
        self._voices[second].committed = list(without_echo(self._voices[second].committed, heard))
        for number, voice in enumerate(self._voices):
            tail, committed = tails[number], tuple(voice.committed)
            if committed or tail != voice.tail or (voice.ended and voice.shown):
                found.append(Recognition(decided_sample, committed, tail, voice.ended, number))
                voice.shown, voice.tail = not voice.ended, tail
            voice.committed, voice.ended = [], False
        return found

    def _deal(self, sample: int, ongoing_from: int, now_sample: int) -> Assignment[ReadWord]:
        """The slots of the utterances that have words after a sample."""
        heard: list[Utterance] = []
        for slot in self.all:
            spoken = self._voices[slot.voice].utterances(slot.voice, slot.row.pending, self._pause_samples)
            if spoken and spoken[-1].end_sample > ongoing_from:
                spoken[-1] = replace(spoken[-1], end_sample=now_sample + self._pause_samples)
            for utterance in spoken:
                words = tuple(word for word in utterance.words if word.is_mostly_after(sample))
                if words:
                    heard.append(replace(utterance, words=words))
        # Words are read with some silence before them: less than a pause of overlap is none.
        dealt = assign(heard, self._pause_samples)
        assert not dealt.left_out, f"two voices with three utterances at once: {heard}"
        return dealt


def without_echo(words: Sequence[Word], heard: Sequence[Word]) -> tuple[Word, ...]:
    """Words of the second slot without those that the decoder heard from the first slot's talker as well.

    Two people do say the same short word at once; the same phrase, or the same long word, they do not.
    """

    def is_heard(word: Word) -> bool:
        middle = word.start_sample + word.end_sample
        return any(
            abs(other.start_sample + other.end_sample - middle) <= 2 * ECHO_SAMPLES
            and letters_of(other.text) == letters_of(word.text)
            for other in heard
        )

    same = [is_heard(word) for word in words]
    runs = [same[k] and (any(same[max(0, k - 1) : k]) or any(same[k + 1 : k + 2])) for k in range(len(words))]
    return tuple(
        word
        for word, is_same, in_run in zip(words, same, runs, strict=True)
        if not (in_run or (is_same and len(letters_of(word.text)) >= LONG_WORD_LETTERS))
    )


def letters_of(text: str) -> str:
    """What two readings of a word are compared by: case and punctuation aside."""
    return "".join(c for c in text.lower() if c.isalnum())


def _latest(dealt: Assignment[ReadWord]) -> dict[int, tuple[int, int]]:
    """(slot, start) of each voice's last utterance."""
    order = sorted((u.start_sample, slot, int(u.speaker)) for slot, row in enumerate(dealt.channels) for u in row)
    return {voice: (slot, start) for start, slot, voice in order}


def _dealt_slot(owner: Slot, utterances: Iterable[Utterance]) -> Slot:
    """A slot with these utterances, going on as `owner` did."""
    row = StablePrefix(owner.row.committed_to)
    row.pending = owner.row.pending
    row.words = tuple(word for u in utterances for word in u.words if word not in row.pending)
    if row.words:
        row.committed_to = max(row.committed_to, row.words[-1].end_sample)
    return Slot(owner.voice, row, owner.settled_to)
