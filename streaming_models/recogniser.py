"""Words of one lane of audio as it comes: the seam between the server and whichever model listens.

`Recogniser` is the contract. `WindowedRecogniser` fills it with Moonshine, which knows only whole windows: it reads
the open stretch of speech again and again and commits the words that two readings agree on. The SOT transducer will
fill the same contract without windows.

Everything is decided at fixed points of the audio clock, so the words depend neither on how the audio was chunked nor
on how fast the machine is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from streaming_models.endpoint import VAD_FRAME_SAMPLES, SpeechActivity, SpeechModel
from streaming_models.moonshine import FRAME_SAMPLES, SAMPLE_RATE_HZ, Moonshine, Reading

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Word:
    """One word with its place on the lane's sample clock; `confidence` is its least certain token's probability."""

    text: str
    start_sample: int
    end_sample: int
    confidence: float


@dataclass(frozen=True)
class Recognition:
    """What a lane has newly to say.

    `committed` words are appended to the open utterance and never change; `tail` replaces the earlier tail;
    `ended` closes the utterance (its tail is then empty). `decided_sample` is the audio clock of the decision.
    """

    decided_sample: int
    committed: tuple[Word, ...]
    tail: tuple[Word, ...]
    ended: bool


class Recogniser(Protocol):
    """Audio of one lane in, words out."""

    def step(self, pcm: FloatArray) -> list[Recognition]:
        """(S,) float32 at 16 kHz; S may be 0."""

    def flush(self) -> list[Recognition]:
        """The audio has ended: commit everything."""

    def reset(self) -> None:
        """Forget everything; the sample clock starts again at 0."""


def _ms(duration_ms: int) -> int:
    return duration_ms * SAMPLE_RATE_HZ // 1000


@dataclass(frozen=True)
class WindowSettings:
    """When to read and when to believe. Defaults were chosen on the AMI dev clips and the bench; see README, Scores."""

    read_every_samples: int = _ms(640)
    """Between readings while somebody speaks: bounds how late a word is first shown."""
    first_read_samples: int = _ms(480)
    """From the start of speech to the first reading."""
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
    """A word this far behind the window's end is committed even if two readings differ: bounds the wait for finals."""
    lone_confidence: float = 0.5
    """An utterance of a single word that is less likely than this is dropped."""
    trim_above_samples: int = _ms(4_800)
    """A longer window loses its committed beginning."""
    keep_samples: int = _ms(1_400)
    """Committed audio that stays in the window as context."""
    longest_samples: int = _ms(12_000)
    """A window this long is committed as it stands: nothing two readings agree on will come."""


class WindowedRecogniser:
    """Moonshine over a growing window, with a stable prefix.

    A word is committed when two readings in a row agree on it and on everything before it, another word follows it,
    and it ends `hold_samples` before the window does; or when the utterance ends.
    """

    def __init__(self, moonshine: Moonshine, speech_model: SpeechModel, settings: WindowSettings | None = None) -> None:
        self._moonshine = moonshine
        self._activity = SpeechActivity(speech_model)
        self._settings = settings or WindowSettings()
        self._start()

    def _start(self) -> None:
        self._carry = np.zeros(0, np.float32)
        self._clock = 0  # samples judged so far, a whole number of VAD frames
        self._open = False
        self._audio = np.zeros(0, np.float32)  # the window, or the pre-roll while nobody speaks
        self._close()

    def _close(self) -> None:
        self._open = False
        self._prefix: tuple[int, ...] = ()  # committed tokens whose audio is still in the window
        self._prefix_words: tuple[tuple[int, Word], ...] = ()  # (tokens up to its end, word) of each committed word
        self._pending: tuple[_Read, ...] = ()  # uncommitted words of the last reading
        self._committed_to = self._clock - len(self._audio)
        self._read_at = 0
        self._spoken_since_read = False
        self._audio = self._audio[-self._settings.pre_roll_samples :]

    def reset(self) -> None:
        """See `Recogniser`."""
        self._activity.reset()
        self._start()

    def step(self, pcm: FloatArray) -> list[Recognition]:
        """See `Recogniser`.

        Raises:
            ValueError: not one axis.
        """
        if pcm.ndim != 1:
            raise ValueError(f"expected mono samples of shape (S,), got {pcm.shape}")
        self._carry = np.concatenate((self._carry, pcm))
        results: list[Recognition] = []
        whole = len(self._carry) // VAD_FRAME_SAMPLES * VAD_FRAME_SAMPLES
        for at in range(0, whole, VAD_FRAME_SAMPLES):
            self._frame(self._carry[at : at + VAD_FRAME_SAMPLES], results)
        self._carry = self._carry[whole:]
        return results

    def flush(self) -> list[Recognition]:
        """See `Recogniser`."""
        results: list[Recognition] = []
        rest = len(self._carry)
        if rest:
            self._frame(np.pad(self._carry, (0, VAD_FRAME_SAMPLES - rest)), results)
            self._carry = np.zeros(0, np.float32)
        if self._open:
            if self._spoken_since_read:
                self._pending = self._read()
            results.append(self._end())
        return results

    def _frame(self, frame: FloatArray, results: list[Recognition]) -> None:
        settings = self._settings
        activity = self._activity.step(frame)
        self._clock += VAD_FRAME_SAMPLES
        self._audio = np.concatenate((self._audio, frame))
        if not self._open:
            if activity.speech and activity.run_samples >= settings.open_after_samples:
                self._open = True
                self._spoken_since_read = True
                self._read_at = self._clock - activity.run_samples + settings.first_read_samples
            else:
                keep = settings.pre_roll_samples + (activity.run_samples if activity.speech else 0)
                self._audio = self._audio[-keep:]
                return
        self._spoken_since_read |= activity.speech
        silence = 0 if activity.speech else activity.run_samples
        if silence >= settings.end_samples:
            if self._spoken_since_read:
                self._pending = self._read()
            results.append(self._end())
        elif silence >= settings.pause_read_samples:
            if self._spoken_since_read:
                results.append(self._advance(self._read()))
        elif self._clock >= self._read_at and self._spoken_since_read:
            results.append(self._advance(self._read()))

    def _read(self) -> tuple[_Read, ...]:
        """Read the window; the words after the committed ones."""
        guess = tuple(token for word in self._pending for token in word.tokens)
        window_start = self._clock - len(self._audio)
        prefix_end = max(0, self._committed_to - window_start) // FRAME_SAMPLES if self._prefix else 0
        reading = self._moonshine.read(self._audio, self._prefix, guess, prefix_end)
        self._spoken_since_read = False
        self._read_at = self._clock + self._settings.read_every_samples
        return self._words(reading)

    def _advance(self, words: tuple[_Read, ...]) -> Recognition:
        """Commit what this reading and the last one agree on."""
        settings = self._settings
        agreed = 0
        while agreed < min(len(words), len(self._pending)) and words[agreed].key == self._pending[agreed].key:
            agreed += 1
        believed_to = self._clock - settings.hold_samples
        if len(self._audio) > settings.longest_samples:
            agreed = len(words)
        old = self._clock - settings.believe_after_samples
        ready = 0
        while ready < len(words) - 1 and (words[ready].word.end_sample <= (believed_to if ready < agreed else old)):
            ready += 1
        committed = self._commit(words[:ready])
        self._pending = words[ready:]
        self._trim()
        return Recognition(self._clock, committed, tuple(w.word for w in self._pending), ended=False)

    def _end(self) -> Recognition:
        if not self._prefix_words and len(self._pending) == 1:
            # One unlikely word alone is what the decoder makes of a cough or a click.
            self._pending = tuple(r for r in self._pending if r.word.confidence >= self._settings.lone_confidence)
        committed = self._commit(self._pending)
        self._close()
        return Recognition(self._clock, committed, (), ended=True)

    def _commit(self, words: tuple[_Read, ...]) -> tuple[Word, ...]:
        for read in words:
            self._prefix += read.tokens
            self._prefix_words += ((len(self._prefix), read.word),)
            self._committed_to = read.word.end_sample
        return tuple(read.word for read in words)

    def _trim(self) -> None:
        """Drop the window's committed beginning, at the widest pause between two committed words."""
        settings = self._settings
        if len(self._audio) <= settings.trim_above_samples or len(self._prefix_words) < 2:
            return
        latest = self._prefix_words[-1][1].end_sample - settings.keep_samples
        best: tuple[int, int, int] | None = None
        for (tokens, word), (_, after) in pairwise(self._prefix_words):
            if word.end_sample <= latest:
                pause = after.start_sample - word.end_sample
                # A later cut frees more; half a second of it is worth ten milliseconds of pause.
                score = pause + word.end_sample // 50
                if best is None or score >= best[0]:
                    best = (score, tokens, (word.end_sample + after.start_sample) // 2)
        if best is None:
            return
        _, tokens, cut_sample = best
        drop = cut_sample - (self._clock - len(self._audio))
        self._audio = self._audio[max(0, drop) :]
        self._prefix = self._prefix[tokens:]
        self._prefix_words = tuple((n - tokens, word) for n, word in self._prefix_words if n > tokens)

    def _words(self, reading: Reading) -> tuple[_Read, ...]:
        """Group the uncommitted tokens into words with times on the lane's clock."""
        table = self._moonshine.table
        first = len(self._prefix)
        groups: list[list[int]] = []
        for index in range(first, len(reading.tokens)):
            if groups and not table.starts_word(reading.tokens[index]):
                groups[-1].append(index)
            else:
                groups.append([index])
        window_start = self._clock - len(self._audio)
        earliest = self._committed_to
        words: list[_Read] = []
        for group in groups:
            tokens = tuple(reading.tokens[i] for i in group)
            text = table.text(list(tokens))
            key = "".join(c for c in text.lower() if c.isalnum())
            if not key:
                if words:  # punctuation of its own belongs to the word before it
                    last = words[-1]
                    joined = replace(last.word, text=last.word.text + text)
                    words[-1] = replace(last, tokens=last.tokens + tokens, word=joined)
                continue
            spoken = [i for i in group if any(c.isalnum() for c in table.text([reading.tokens[i]]))] or group
            start = window_start + reading.bounds[spoken[0]] * FRAME_SAMPLES
            end = window_start + reading.bounds[spoken[-1] + 1] * FRAME_SAMPLES
            # The path gives silence to a neighbour: no word of n letters lasts longer than this.
            start = max(start, end - _ms(300 + 90 * len(key)), earliest)
            end = min(max(end, start + FRAME_SAMPLES), max(self._clock, start + FRAME_SAMPLES))
            earliest = end
            confidence = min(reading.confidence[i] for i in group)
            words.append(_Read(tokens, key, Word(text, start, end, confidence)))
        return tuple(words)


@dataclass(frozen=True)
class _Read:
    """A word as read from a window: its tokens, and its letters as compared between readings."""

    tokens: tuple[int, ...]
    key: str
    word: Word
