"""The live recogniser over the streaming encoder: the words of both talkers where two speak at once.

Every chunk is encoded once, and its frames join a window that the attention decoder reads from what is already
committed: slot 0, and slot 1 where the encoder's activity head hears two talkers. Which of the two voices that viewers
see is read in which slot is kept by `streaming_models.slots`.

As in `recogniser`, everything is decided at fixed points of the audio clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from streaming_models.chunked_encoder import NOTHING, ChunkedEncoder, Encoded, StreamingEncoder
from streaming_models.contract import FRAME_SAMPLES, LEFT_FRAMES, SAMPLE_RATE_HZ
from streaming_models.endpoint import VAD_FRAME_SAMPLES, SpeechActivity, SpeechModel
from streaming_models.moonshine import Caches, read_hidden
from streaming_models.recogniser import Recognition
from streaming_models.search import HotwordBias
from streaming_models.slots import Slot, Slots
from streaming_models.stable_prefix import CommitRule, ReadWord, widest_pause
from streaming_models.tokens import TokenTable

FloatArray = NDArray[np.float32]


class SotGraphs(StreamingEncoder, Protocol):
    """The encoder, and the decoder of two slots. Implementations may be called from several threads."""

    def read_prefix(
        self, tokens: list[int], hidden: FloatArray, voice: int, logits_from: int
    ) -> tuple[FloatArray, Caches, FloatArray]:
        """U tokens at once -> logits (U - logits_from, V), caches, cross-attention (layers, heads, U, T).

        hidden: (T, D); voice: the slot, 0 or 1.
        """

    def add_token(
        self, token: int, hidden: FloatArray, voice: int, caches: Caches
    ) -> tuple[FloatArray, Caches, FloatArray]:
        """One more token after `caches` -> logits (V,), grown caches, cross-attention (layers, heads, 1, T)."""

    def truncate(self, caches: Caches, tokens: int) -> Caches:
        """The caches after the first `tokens` tokens."""


def _ms(duration_ms: int) -> int:
    return duration_ms * SAMPLE_RATE_HZ // 1000


@dataclass(frozen=True)
class SotSettings:
    """When to read, when to believe and when to listen for a second voice."""

    first_read_samples: int = _ms(288)
    """From the start of speech to the end of the first chunk that is read."""
    open_after_samples: int = _ms(96)
    """Speech shorter than this is a click."""
    pre_roll_samples: int = _ms(384)
    """Audio kept from before the speech was noticed: soft onsets."""
    pause_read_samples: int = _ms(256)
    """Silence after which the utterance is read once more, in case that it has ended."""
    end_samples: int = _ms(576)
    """Silence that ends an utterance."""
    hold_samples: int = _ms(200)
    """A word that ends closer than this to the window's end may still be half a word."""
    believe_after_samples: int = _ms(1_000)
    """A word this far behind the window's end is committed even if two readings differ.

    The encoder is causal, so what a word was heard in changes no more once it lies this far back; with `hold_samples`
    here, one reading is enough (the policy of AlignAtt, arXiv 2305.11408). Tried: words come sooner, and the scores are
    worse (AMI dev, cpWER 0.525 instead of 0.490).
    """
    lone_confidence: float = 0.5
    """An utterance of a single word that is less likely than this is dropped."""
    trim_above_samples: int = _ms(4_800)
    """A longer window loses its committed beginning."""
    keep_samples: int = _ms(1_400)
    """Committed audio that stays in the window as context."""
    longest_samples: int = _ms(10_000)
    """A window this long is committed as it stands, and cut: nothing two readings agree on will come."""
    stall_samples: int = _ms(2_000)
    """Speech after the last word without a word: it is read once more, without what was read before it."""
    forget_after_samples: int = LEFT_FRAMES * FRAME_SAMPLES
    """Silence after which the encoder sleeps: its left context, so that the state holds no speech any more."""
    overlap_probability: float = 0.5
    """From here on the activity head says that two people talk."""
    overlap_samples: int = _ms(144)
    """So much of it in what is not yet decided makes the second slot worth reading."""
    voice_end_samples: int = _ms(1_000)
    """While somebody else talks on, a voice without words for so long has ended its utterance."""
    utterance_pause_samples: int = _ms(300)
    """A pause of one voice from which on the slots count what follows as another utterance.

    Words are read with some of the silence around them, so the pause itself is about 200 ms longer.
    """


class SotRecogniser:
    """`streaming_models.recogniser.Recogniser` over the SOT graphs."""

    def __init__(
        self,
        graphs: SotGraphs,
        table: TokenTable,
        speech_model: SpeechModel,
        settings: SotSettings | None = None,
        bias: HotwordBias | None = None,
    ) -> None:
        self._graphs = graphs
        self._table = table
        self._activity = SpeechActivity(speech_model)
        self._encoder = ChunkedEncoder(graphs)
        self._settings = settings or SotSettings()
        self._bias = bias
        self._rule = CommitRule(self._settings.hold_samples, self._settings.believe_after_samples)
        self._start()

    def _start(self) -> None:
        self._carry: FloatArray | None = None  # (1 + C, S): the mix, then the channels
        self._window = NOTHING
        self._close()

    def _close(self) -> None:
        self._open = False
        self._closed_at = self._encoder.clock
        self._begin(self._encoder.clock)

    def _begin(self, start_sample: int) -> None:
        self._window_start = start_sample // FRAME_SAMPLES * FRAME_SAMPLES
        settings = self._settings
        self._slots = Slots(self._window_start, settings.utterance_pause_samples, settings.lone_confidence)
        self._spoken_from = self._spoken_to = start_sample
        self._read_to = 0

    def reset(self) -> None:
        """See `Recogniser`."""
        self._activity.reset()
        self._encoder.reset()
        self._start()

    def step(self, pcm: FloatArray, channels: FloatArray | None = None) -> list[Recognition]:
        """See `Recogniser`. Without channels the mix is taken as the only one.

        Raises:
            ValueError: not one axis, or channels of another length or number than before.
        """
        if pcm.ndim != 1:
            raise ValueError(f"expected mono samples of shape (S,), got {pcm.shape}")
        if channels is not None and (channels.ndim != 2 or channels.shape[1] != len(pcm)):
            raise ValueError(f"expected channels of shape (C, {len(pcm)}), got {channels.shape}")
        rows = np.concatenate((pcm[None], pcm[None] if channels is None else channels))
        if self._carry is None:
            self._carry = rows
        elif len(rows) != len(self._carry):
            raise ValueError(f"expected {len(self._carry) - 1} channels as before, got {len(rows) - 1}")
        else:
            self._carry = np.concatenate((self._carry, rows), axis=1)
        results: list[Recognition] = []
        whole = self._carry.shape[1] // VAD_FRAME_SAMPLES * VAD_FRAME_SAMPLES
        for at in range(0, whole, VAD_FRAME_SAMPLES):
            self._frame(self._carry[:, at : at + VAD_FRAME_SAMPLES], results)
        self._carry = self._carry[:, whole:]
        return results

    def flush(self) -> list[Recognition]:
        """See `Recogniser`."""
        results: list[Recognition] = []
        if self._carry is not None and (rest := self._carry.shape[1]):
            self._frame(np.pad(self._carry, ((0, 0), (0, VAD_FRAME_SAMPLES - rest))), results)
            self._carry = self._carry[:, :0]
        if self._open:
            self._end(results)
        return results

    def _frame(self, block: FloatArray, results: list[Recognition]) -> None:
        settings, encoder = self._settings, self._encoder
        activity = self._activity.step(block[0])
        encoder.feed(block)
        spoken = activity.run_samples if activity.speech else 0
        if not self._open:
            keep_from = max(0, encoder.clock - spoken - settings.pre_roll_samples)
            if spoken < settings.open_after_samples:
                self._wait(keep_from)
                return
            self._open = True
            encoder.wake()
            self._begin(keep_from)
            self._spoken_from = encoder.clock - spoken
        arrived = encoder.due
        self._window = self._window.then(encoder.step()).since(self._window_start)
        if spoken:
            self._spoken_to = encoder.clock
        silence = encoder.clock - self._spoken_to
        if silence >= settings.end_samples:
            self._end(results)
        elif not self._is_read():
            if silence >= settings.pause_read_samples:
                self._advance(self._window.then(encoder.peek()), results)
            elif arrived and self._window.end_sample >= self._spoken_from + settings.first_read_samples:
                self._advance(self._window, results)

    def _wait(self, keep_from: int) -> None:
        """Nobody speaks: the encoder goes on for a while, then it sleeps."""
        encoder = self._encoder
        if not encoder.awake:
            encoder.sleep(keep_from)
        elif encoder.due:
            if encoder.clock - self._closed_at < self._settings.forget_after_samples:
                self._window = self._window.then(encoder.step()).since(keep_from)
            else:  # when a chunk is due, all of the pre-roll is in the audio that is kept
                encoder.sleep(keep_from)
                self._window = NOTHING

    def _is_read(self) -> bool:
        """Whether a reading has heard all speech so far, and enough silence after it to know the last word's end."""
        return self._read_to >= self._spoken_to + self._settings.pause_read_samples

    def _read(self, window: Encoded) -> list[tuple[Slot, tuple[ReadWord, ...]]]:
        """Read the slots that are worth it: their words after the committed ones."""
        readings: list[tuple[Slot, tuple[ReadWord, ...]]] = []
        end = min(window.end_sample, self._encoder.clock)
        frames = len(window.hidden)
        for number, slot in enumerate(self._slots.all):
            if number and not self._is_wanted(slot, window):
                continue
            row = slot.row
            decoder = _SlotDecoder(self._graphs, window.hidden, number)
            known_to = row.end_frame(window.start_sample)
            # Where two talk, what one slot leaves unread may be the other's.
            alone = not number and not self._overlap(window, row.committed_to).any()
            spoken = (min(self._spoken_to, end) - window.start_sample) // FRAME_SAMPLES if alone else 0
            reading = read_hidden(
                decoder,
                frames,
                frames * FRAME_SAMPLES,
                row.tokens,
                row.guess,
                known_to,
                speech_end_frame=spoken,
                stop_at_echo=True,
                bias=self._bias,
            )
            words = row.words_of(reading, self._table, window.start_sample, end)
            # The encoder still remembers what was said when all is silent: the decoder repeats it into the silence.
            words = tuple(takewhile(lambda word: word.start_sample < self._spoken_to, words))
            if not words:
                slot.settled_to = max(slot.settled_to, end - self._settings.believe_after_samples)
            readings.append((slot, words))
        self._read_to = window.end_sample
        return readings

    def _is_wanted(self, slot: Slot, window: Encoded) -> bool:
        """Whether the second slot may hold words that are not committed."""
        if self._slots.is_open(slot):
            return True
        frames = int(self._overlap(window, max(slot.row.committed_to, slot.settled_to)).sum())
        return frames * FRAME_SAMPLES >= self._settings.overlap_samples

    def _overlap(self, window: Encoded, since: int) -> NDArray[np.bool_]:
        """(T,): frames from a sample on in which two talk."""
        return np.asarray(window.since(since).activity[:, 1] >= self._settings.overlap_probability)

    def _advance(self, window: Encoded, results: list[Recognition]) -> None:
        """Read, commit what may be believed, end what is over, and keep the window short."""
        settings, slots = self._settings, self._slots
        end = window.end_sample
        too_long = end - window.start_sample > settings.longest_samples
        for slot, words in self._read(window):
            slots.say(slot, slot.row.advance(words, end, self._rule, agreed=too_long))
        if (rest := self._unread(window)) is not None:
            window = rest
            for slot, words in self._read(window):
                slots.say(slot, slot.row.advance(words, end, self._rule))
        for slot in self._lapsed(window):
            slots.finish(slot)
        if end - window.start_sample > settings.trim_above_samples:
            rows = [slot.row for slot in slots.all]
            latest = max(row.committed_to for row in rows) - settings.keep_samples
            cut = widest_pause(rows, latest, inside_words=too_long)
            if cut is not None:
                self._cut(cut, end)
        if end - self._window_start > settings.longest_samples:
            for slot in slots.all:
                slots.say(slot, slot.row.commit(len(slot.row.pending)))
            self._cut(end - settings.keep_samples, end)
        results += slots.news(self._encoder.clock)

    def _unread(self, window: Encoded) -> Encoded | None:
        """What follows the last word, without what was read before, if people speak there and no words were found.

        A decoder that has come to its end after a wrong word stays there, however much is said after it.
        """
        read_to = max(slot.row.read_to for slot in self._slots.all)
        is_new = not any(slot.row.words or slot.row.pending for slot in self._slots.all)
        if is_new or self._spoken_to - read_to < self._settings.stall_samples:
            return None
        for slot in self._slots.all:
            self._slots.say(slot, slot.row.commit(len(slot.row.pending)))
        self._cut(read_to, window.end_sample)
        return window.since(self._window_start)

    def _lapsed(self, window: Encoded) -> list[Slot]:
        """Slots whose utterance has ended although somebody talks on."""
        since = window.end_sample - self._settings.voice_end_samples
        if self._overlap(window, since).any():
            return []
        first, second = self._slots.all
        first_talks, second_talks = (slot.row.read_to > since for slot in (first, second))
        over = [second] if not second_talks else [] if first_talks else [first]
        return [slot for slot in over if self._slots.is_open(slot)]

    def _cut(self, sample: int, now_sample: int) -> None:
        """Let the window begin here."""
        self._window_start = sample // FRAME_SAMPLES * FRAME_SAMPLES
        self._window = self._window.since(self._window_start)
        ongoing = self._settings.utterance_pause_samples + self._settings.hold_samples
        self._slots.cut(sample, now_sample, ongoing)

    def _end(self, results: list[Recognition]) -> None:
        """The utterance has ended: commit everything."""
        if not self._is_read():
            window: Encoded | None = self._window.then(self._encoder.peek())
            while window is not None:
                for slot, words in self._read(window):
                    slot.row.pending = words
                window = self._unread(window)
        for slot in self._slots.all:
            self._slots.finish(slot)
        results += self._slots.news(self._encoder.clock)
        self._close()


@dataclass(frozen=True, eq=False)
class _SlotDecoder:
    """`streaming_models.moonshine.WindowDecoder` of one slot."""

    graphs: SotGraphs
    hidden: FloatArray
    slot: int

    def read_prefix(self, tokens: list[int], logits_from: int) -> tuple[FloatArray, Caches, FloatArray]:
        return self.graphs.read_prefix(tokens, self.hidden, self.slot, logits_from)

    def add_token(self, token: int, caches: Caches) -> tuple[FloatArray, Caches, FloatArray]:
        return self.graphs.add_token(token, self.hidden, self.slot, caches)

    def truncate(self, caches: Caches, tokens: int) -> Caches:
        return self.graphs.truncate(caches, tokens)
