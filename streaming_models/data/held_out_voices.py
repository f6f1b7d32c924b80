"""Synthetic voices that are kept for tests: no set to train on may use these programs or these sentences.

The programs are Debian's `espeak-ng` (GPL-3, formants) and `flite` (BSD-like, units of recorded speech); they are run,
not linked, and neither they nor what they say is part of this repository. The sentences are our own.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from streaming_models.data.corpus import SAMPLE_RATE_HZ, FloatArray
from streaming_models.data.simulate import SpeechClip, set_levels, without_edge_silence

VOICES: Mapping[str, Sequence[str]] = {
    "flite-slt": ("flite", "-voice", "slt", "-t", "{text}", "-o", "{wav}"),
    "flite-rms": ("flite", "-voice", "rms", "-t", "{text}", "-o", "{wav}"),
    "flite-awb": ("flite", "-voice", "awb", "-t", "{text}", "-o", "{wav}"),
    "espeak-m": ("espeak-ng", "-v", "en-us", "-s", "150", "-w", "{wav}", "{text}"),
    "espeak-f": ("espeak-ng", "-v", "en-us+f3", "-s", "150", "-w", "{wav}", "{text}"),
}
"""The command of each voice, named PROGRAM-WHO; `{text}` is what to say, `{wav}` the file to write."""

# No numbers, names or compounds that are also written apart: what is heard can be written in one way only.
SENTENCES = (
    "Good morning, I think we can start without waiting for the others.",
    "The first thing on the list is the new kitchen on the second floor.",
    "Most of us would rather have a quiet room than a bigger table.",
    "I spoke with the builder yesterday and he was not very happy.",
    "He said that the old pipes have to come out before the rest.",
    "That means the water will be off for most of the week.",
    "Could we move the whole team to the garden until the work is finished?",
    "We tried that last summer and half of them could not find a chair.",
    "Let me show you the picture that she sent me this morning.",
    "The window on the left stays where it is, but the door moves.",
    "If we paint the wall white, the corner will look much larger.",
    "Please remember to take your cups home before Friday evening.",
    "I would like to hear what the people in the office think about it.",
    "They have been asking for better light since the beginning of the year.",
    "So we agree that the lamps come first and the shelves can wait.",
    "Who is going to write to the owner of the house?",
    "I can do it tonight, but you have to read it before it goes out.",
    "The last time we sent a letter in a hurry, we had to say sorry twice.",
    "Is there more that we should talk about today?",
    "Then thank you very much, and see you all again next week.",
)


class SynthesisError(RuntimeError):
    """A synthesiser that is not installed or did not do what it was asked to."""


def speak(voice: str, text: str) -> FloatArray:
    """(S,) float32 at 16 kHz, peak 0.7, from first to last sound.

    Raises:
        SynthesisError: the program is missing or failed.
    """
    import soundfile
    import soxr

    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "said.wav"
        command = [part.format(text=text, wav=wav) for part in VOICES[voice]]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            said, rate_hz = soundfile.read(wav, dtype="float32")
        except FileNotFoundError as error:
            raise SynthesisError(f"{command[0]} is not installed (apt-get install espeak-ng flite)") from error
        except (OSError, subprocess.SubprocessError, soundfile.LibsndfileError) as error:
            raise SynthesisError(f"{' '.join(command)}: {error}") from error
    resampled: FloatArray = soxr.resample(said, rate_hz, SAMPLE_RATE_HZ)
    levelled: FloatArray = set_levels(without_edge_silence(resampled)[None], separately=False)[0]
    return levelled


def spoken_sentences(voice: str, count: int = len(SENTENCES)) -> list[SpeechClip]:
    """`count` of the sentences in one voice; voices begin at different sentences, so that few say them all.

    Raises:
        SynthesisError: see `speak`.
    """
    first = list(VOICES).index(voice) * len(SENTENCES) // len(VOICES)
    chosen = [(first + step) % len(SENTENCES) for step in range(min(count, len(SENTENCES)))]
    return [SpeechClip(f"{voice}-{at:02d}", voice, SENTENCES[at], speak(voice, SENTENCES[at])) for at in chosen]
