"""Speech activity and turn ends over one lane of audio, in whole VAD frames, so that chunking changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

VAD_FRAME_SAMPLES = 512
"""Silero's frame at 16 kHz: 32 ms."""
SPEECH_ON, SPEECH_OFF = 0.5, 0.35
"""Silero's own recommended pair of thresholds: the gap keeps a wavering probability from chattering."""


class SpeechModel(Protocol):
    """A voice activity detector with a state of its own."""

    def __call__(self, frame: FloatArray) -> float:
        """(512,) float32 at 16 kHz -> probability of speech."""

    def reset(self) -> None:
        """Forget what was heard."""


@dataclass(frozen=True)
class FrameActivity:
    """One VAD frame: whether it is speech, and for how many samples it has been so without a break."""

    end_sample: int
    speech: bool
    run_samples: int


class SpeechActivity:
    """Speech or not, frame by frame, with hysteresis."""

    def __init__(self, model: SpeechModel) -> None:
        self._model = model
        self._speech = False
        self._run_samples = 0
        self._end_sample = 0

    def reset(self) -> None:
        """Back to silence at sample 0, the model included."""
        self._model.reset()
        self._speech = False
        self._run_samples = 0
        self._end_sample = 0

    def step(self, frame: FloatArray) -> FrameActivity:
        """Judge the next frame.

        Args:
            frame: (512,) float32 at 16 kHz.

        Raises:
            ValueError: another shape.
        """
        if frame.shape != (VAD_FRAME_SAMPLES,):
            raise ValueError(f"expected a frame of shape ({VAD_FRAME_SAMPLES},), got {frame.shape}")
        probability = self._model(frame)
        speech = probability >= (SPEECH_OFF if self._speech else SPEECH_ON)
        if speech != self._speech:
            self._run_samples = 0
        self._speech = speech
        self._run_samples += VAD_FRAME_SAMPLES
        self._end_sample += VAD_FRAME_SAMPLES
        return FrameActivity(self._end_sample, speech, self._run_samples)
