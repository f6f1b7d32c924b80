from __future__ import annotations

import sys

import numpy as np
import pytest

from streaming_models.data import held_out_voices
from streaming_models.data.held_out_voices import SENTENCES, VOICES, SynthesisError, speak, spoken_sentences
from streaming_models.scoring import normalise

TONE = """
import sys, wave
import numpy as np
tone = np.sin(np.arange(22050) * 2 * np.pi * 500 / 22050) * 3000 * (np.arange(22050) > 11025)
with wave.open(sys.argv[2], "wb") as out:
    out.setnchannels(1); out.setsampwidth(2); out.setframerate(22050)
    out.writeframes(tone.astype("<i2").tobytes())
assert sys.argv[1] == "Is this, at last, a test?"
"""
"""A synthesiser that says every text as half a second of a tone after half a second of silence."""


def test_what_a_program_says_comes_back_at_16_khz_from_first_to_last_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out_voices, "VOICES", {"tone": (sys.executable, "-c", TONE, "{text}", "{wav}")})
    said = speak("tone", "Is this, at last, a test?")
    assert said.dtype == np.float32
    assert len(said) == pytest.approx(0.55 * 16_000, abs=400)
    assert np.max(np.abs(said)) == pytest.approx(0.7)
    with pytest.raises(SynthesisError, match="exit status 1"):
        speak("tone", "Something else.")


def test_a_missing_synthesiser_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    for voice in VOICES:
        with pytest.raises(SynthesisError, match="apt-get install espeak-ng flite"):
            speak(voice, "Hello.")


def test_few_sentences_a_voice_are_different_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out_voices, "speak", lambda voice, text: np.zeros(16, np.float32))
    said = {voice: spoken_sentences(voice, 4) for voice in VOICES}
    assert all(len(clips) == 4 for clips in said.values())
    assert {clip.text for clips in said.values() for clip in clips} == set(SENTENCES)
    everything = spoken_sentences("flite-rms", 99)
    assert sorted(clip.text for clip in everything) == sorted(SENTENCES)
    assert everything[0].id.startswith("flite-rms-")


def test_sentences_are_of_lower_case_words_that_are_written_in_one_way_only() -> None:
    words = {word for sentence in SENTENCES for word in normalise(sentence).split()}
    assert not {word for word in words if not word.isalpha()}
    assert not words & {"someone", "everyone", "anything", "upstairs", "weekend", "workshop", "colour", "color"}
