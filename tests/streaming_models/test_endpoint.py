"""Speech activity: hysteresis frame by frame, on made-up probabilities and on real speech."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.inference import Silero, SileroGraph
from streaming_models.endpoint import SPEECH_OFF, SPEECH_ON, VAD_FRAME_SAMPLES, FloatArray, SpeechActivity
from tests import real


class Level:
    """A detector whose probability is the frame's first sample."""

    resets = 0

    def __call__(self, frame: FloatArray) -> float:
        return float(frame[0])

    def reset(self) -> None:
        self.resets += 1


def frames_of(probabilities: list[float]) -> list[FloatArray]:
    return [np.full(VAD_FRAME_SAMPLES, p, np.float32) for p in probabilities]


def speech_of(probabilities: list[float]) -> list[bool]:
    activity = SpeechActivity(Level())
    return [activity.step(frame).speech for frame in frames_of(probabilities)]


def test_wavering_between_the_thresholds_does_not_chatter() -> None:
    assert speech_of([0.4, 0.49, 0.5, 0.36, 0.49, 0.34, 0.36, 0.49, 0.6]) == [
        False,
        False,
        *[True] * 3,
        *[False] * 3,
        True,
    ]


@given(st.lists(st.floats(0, 1, width=16), max_size=40))
def test_state_changes_only_beyond_its_threshold_and_runs_count_frames(probabilities: list[float]) -> None:
    activity = SpeechActivity(Level())
    speech, run = False, 0
    for at, (probability, frame) in enumerate(zip(probabilities, frames_of(probabilities), strict=True), 1):
        found = activity.step(frame)
        if found.speech != speech:
            assert probability >= SPEECH_ON if found.speech else probability < SPEECH_OFF
            run = 0
        speech, run = found.speech, run + VAD_FRAME_SAMPLES
        assert (found.end_sample, found.run_samples) == (at * VAD_FRAME_SAMPLES, run)


def test_reset_starts_again_and_resets_the_model() -> None:
    model = Level()
    activity = SpeechActivity(model)
    first = [activity.step(frame) for frame in frames_of([0.9, 0.9, 0.1])]
    activity.reset()
    assert model.resets == 1
    assert [activity.step(frame) for frame in frames_of([0.9, 0.9, 0.1])] == first


@pytest.mark.parametrize("shape", [(0,), (511,), (1, 512), (1_024,)])
def test_other_frames_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected a frame of shape \(512,\), got"):
        SpeechActivity(Level()).step(np.zeros(shape, np.float32))


def test_real_speech_is_told_from_real_pauses() -> None:
    pcm = real.short_speech()
    padded = np.concatenate((np.zeros(16_000, np.float32), pcm, np.zeros(16_000, np.float32)))
    activity = SpeechActivity(Silero(SileroGraph()))
    whole = len(padded) // VAD_FRAME_SAMPLES * VAD_FRAME_SAMPLES
    found = [activity.step(frame) for frame in padded[:whole].reshape(-1, VAD_FRAME_SAMPLES)]
    assert not any(f.speech for f in found if f.end_sample <= 16_000)
    assert sum(f.speech for f in found) * VAD_FRAME_SAMPLES > 0.5 * len(pcm)
    assert not found[-1].speech
    assert found[-1].run_samples > 8_000
