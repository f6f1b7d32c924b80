"""Words of one lane of audio as it comes: the seam between the server and whichever model listens.

`Recogniser` is the contract. `WindowedRecogniser` fills it with Moonshine, which knows only whole windows: it reads
the open stretch of speech again and again and commits the words that two readings agree on. The SOT transducer will
fill the same contract without windows.

Everything is decided at fixed points of the audio clock, so the words depend neither on how the audio was chunked nor
on how fast the machine is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from streaming_models.endpoint import VAD_FRAME_SAMPLES, SpeechActivity, SpeechModel
from streaming_models.moonshine import SAMPLE_RATE_HZ, Moonshine
from streaming_models.search import HotwordBias
from streaming_models.stable_prefix import CommitRule, ReadWord, StablePrefix, widest_pause, words_in
from streaming_models.stable_prefix import Word as Word  # part of this contract

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Recognition:
    """What one voice of a lane has newly to say.

    `committed` words are appended to the voice's open utterance and never change; `tail` replaces its earlier tail;
    `ended` closes the utterance (its tail is then empty). `decided_sample` is the audio clock of the decision.
    `voice` is the virtual channel: utterances that overlap in time come on different voices, so each of them stays
    one row of words. A voice is no person: who it is, is found out elsewhere and may change between utterances.
    """

    decided_sample: int
    committed: tuple[Word, ...]
    tail: tuple[Word, ...]
    ended: bool
    voice: int = 0


class Recogniser(Protocol):
    """Audio of one lane in, words out."""

    def step(self, pcm: FloatArray, channels: FloatArray | None = None) -> list[Recognition]:
        """(S,) float32 at 16 kHz; S may be 0. `channels`: (C, S) the same samples of every microphone, if known."""

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

    def __init__(
        self,
        moonshine: Moonshine,
        speech_model: SpeechModel,
        settings: WindowSettings | None = None,
        bias: HotwordBias | None = None,
    ) -> None:
        self._moonshine = moonshine
        self._bias = bias
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
        self._row = StablePrefix(self._clock - len(self._audio))
        self._read_at = 0
        self._spoken_since_read = False
        self._audio = self._audio[-self._settings.pre_roll_samples :]

    def reset(self) -> None:
        """See `Recogniser`."""
        self._activity.reset()
        self._start()

    def step(self, pcm: FloatArray, channels: FloatArray | None = None) -> list[Recognition]:
        """See `Recogniser`; it listens to the mix alone.

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
                self._row.pending = self._read()
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
                self._row.pending = self._read()
            results.append(self._end())
        elif silence >= settings.pause_read_samples:
            if self._spoken_since_read:
                results.append(self._advance(self._read()))
        elif self._clock >= self._read_at and self._spoken_since_read:
            results.append(self._advance(self._read()))

    def _read(self) -> tuple[ReadWord, ...]:
        """Read the window; the words after the committed ones."""
        window_start = self._clock - len(self._audio)
        row = self._row
        reading = self._moonshine.read(self._audio, row.tokens, row.guess, row.end_frame(window_start), self._bias)
        self._spoken_since_read = False
        self._read_at = self._clock + self._settings.read_every_samples
        return row.words_of(reading, self._moonshine.table, window_start, self._clock)

    def _advance(self, words: tuple[ReadWord, ...]) -> Recognition:
        """Commit what this reading and the last one agree on."""
        settings = self._settings
        rule = CommitRule(settings.hold_samples, settings.believe_after_samples)
        too_long = len(self._audio) > settings.longest_samples
        committed = self._row.advance(words, self._clock, rule, agreed=too_long)
        self._trim()
        return Recognition(self._clock, words_in(committed), words_in(self._row.pending), ended=False)

    def _end(self) -> Recognition:
        committed = self._row.finish(self._settings.lone_confidence)
        self._close()
        return Recognition(self._clock, words_in(committed), (), ended=True)

    def _trim(self) -> None:
        """Drop the window's committed beginning, at the widest pause between two committed words."""
        settings = self._settings
        if len(self._audio) <= settings.trim_above_samples:
            return
        cut = widest_pause([self._row], self._row.committed_to - settings.keep_samples)
        if cut is None:
            return
        self._audio = self._audio[max(0, cut - (self._clock - len(self._audio))) :]
        self._row.cut(cut)
