"""One person at a time, as files to score on: does the recogniser still read plain speech?

Up to four folders, each for `crosstalk evaluate`: `people` (utterances of a corpus as they are, a file a speaker),
`recordings` (`two_cities.wav` of the moonshine-voice wheel, and whatever audio and text is named), `flite` and `espeak`
(held-out synthesisers, a file a voice; espeak is hard to understand for people, too). Each file is FLAC, 16 kHz, beside
`NAME.seglst.json`. Look at ORC-WER: with one talker it is the plain word error rate, while cpWER also counts words
under a wrong label.

Run: python -m streaming_models.data.reading_set --out DIR [--corpus DIR] [--per-speaker N] [--sentences N]
[--recording AUDIO TEXT ...]
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from streaming_models.data.audio_files import read_audio
from streaming_models.data.corpus import SAMPLE_RATE_HZ, CorpusError, FloatArray, Utterance, read_corpus
from streaming_models.data.held_out_voices import SENTENCES, VOICES, SynthesisError, spoken_sentences
from streaming_models.data.noise import coloured_noise
from streaming_models.data.simulate import PlannedTurn, SpeechClip, references_of, sounding_span
from streaming_models.scoring import SegLstRow, write_seglst

PAUSE_S = 1.0
"""Between two utterances; they come from different places of a book."""

TWO_CITIES = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, "
    "it was the epoch of belief, it was the epoch of incredulity, it was the season of Light, it was the season of "
    "Darkness, it was the spring of hope, it was the winter of despair, we had everything before us, we had nothing "
    "before us, we were all going direct to Heaven, we were all going direct the other way—in short, the period was "
    "so far like the present period, that some of its noisiest authorities insisted on its being received, for good "
    "or for evil, in the superlative degree of comparison only."
)
"""Charles Dickens, A Tale of Two Cities (1859), first sentence: public domain. What `two_cities.wav` reads."""


def write_people(out_dir: Path, corpus_dir: Path, per_speaker: int | None = None) -> list[Path]:
    """Every speaker's utterances in one file, a second of the speaker's own background between them.

    Args:
        out_dir: made if need be.
        corpus_dir: Opus shards with manifests; utterances without text are left out.
        per_speaker: so many utterances, evenly spread over all of the speaker's; None for all.

    Returns:
        The audio files, one a speaker, sorted.

    Raises:
        CorpusError: nothing to read, or a broken shard.
    """
    written = []
    for speaker, utterances in read_corpus(corpus_dir).items():
        chosen = spread([each for each in utterances if each.text], per_speaker)
        if chosen:
            clips = [SpeechClip(each.id, speaker, each.text, each.audio()) for each in chosen]
            written.append(_write(out_dir, speaker.replace("/", "-"), clips))
    return written


def write_recordings(out_dir: Path, recordings: Iterable[tuple[Path, str]]) -> list[Path]:
    """Files with a known text, as they are (of several channels the first).

    Raises:
        ValueError: a file that cannot be decoded.
    """
    return [
        _write(out_dir, audio.stem, [SpeechClip(audio.stem, audio.stem, text, read_audio(audio)[0])])
        for audio, text in recordings
    ]


def write_synthetic(out_dir: Path, sentences: int = len(SENTENCES)) -> list[Path]:
    """The held-out sentences in every held-out voice: a folder a synthesiser, a file a voice.

    Raises:
        SynthesisError: a synthesiser is missing.
    """
    return [_write(out_dir / voice.partition("-")[0], voice, spoken_sentences(voice, sentences)) for voice in VOICES]


def two_cities() -> list[tuple[Path, str]]:
    """The wheel's reading and its text; nothing where the wheel is not installed."""
    package = importlib.util.find_spec("moonshine_voice")
    if package is None or package.origin is None:
        return []
    audio = Path(package.origin).parent / "assets" / "two_cities.wav"
    return [(audio, TWO_CITIES)] if audio.is_file() else []


def spread(utterances: Sequence[Utterance], count: int | None) -> list[Utterance]:
    """`count` of them, evenly spread; all where there are fewer, or for None."""
    if count is None or count >= len(utterances):
        return list(utterances)
    return [utterances[at * len(utterances) // count] for at in range(count)]


def joined(clips: Sequence[SpeechClip]) -> tuple[FloatArray, list[SegLstRow]]:
    """(S,) float32 of the clips one after the other with pauses around each, and the rows of who says what when."""
    pause_samples = round(PAUSE_S * SAMPLE_RATE_HZ)
    rng = np.random.default_rng(0)  # it only colours pauses
    pieces = [_background(clips[0].audio, pause_samples, rng)]
    turns, at = [], pause_samples
    for clip in clips:
        pieces += [clip.audio, _background(clip.audio, pause_samples, rng)]
        span = sounding_span(clip.audio)
        spoken = SpeechClip(clip.id, clip.speaker, clip.text, clip.audio[span])
        turns.append(PlannedTurn(spoken, at + span.start))
        at += len(clip.audio) + pause_samples
    rows = [
        SegLstRow(
            session_id="",
            speaker=reference.speaker,
            start_time=round(reference.start_s, 3),
            end_time=round(reference.end_s, 3),
            words=reference.words,
            text=reference.text,
        )
        for reference in references_of(turns)
    ]
    return np.concatenate(pieces), rows


def _background(audio: FloatArray, length_samples: int, rng: np.random.Generator) -> FloatArray:
    """Noise as loud as the quietest tenth of a recording: digital silence is what live microphones never send."""
    frame_samples = SAMPLE_RATE_HZ // 50
    frames = audio[: len(audio) // frame_samples * frame_samples].reshape(-1, frame_samples)
    rms = float(np.quantile(np.sqrt(np.mean(frames**2, axis=1)), 0.1)) if len(frames) else 0.0
    background: FloatArray = (rms * coloured_noise(1, length_samples, rng)[0]).astype(np.float32)
    return background


def _write(folder: Path, stem: str, clips: Sequence[SpeechClip]) -> Path:
    """Write the clips as one 16-bit FLAC and the reference beside it; the audio's path."""
    import soundfile

    folder.mkdir(parents=True, exist_ok=True)
    audio, rows = joined(clips)
    path = folder / f"{stem}.flac"
    soundfile.write(path, np.clip(audio, -1.0, 1.0), SAMPLE_RATE_HZ, subtype="PCM_16")
    write_seglst(folder / f"{stem}.seglst.json", [{**row, "session_id": stem} for row in rows])
    return path


def main(arguments: list[str] | None = None) -> int:
    """Write readings by one person at a time to score on; returns the exit status of the process."""
    parser = argparse.ArgumentParser(prog="python -m streaming_models.data.reading_set", description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the folders of the set")
    parser.add_argument("--corpus", type=Path, help="folder with Opus shards and manifests of real people")
    parser.add_argument("--per-speaker", type=int, metavar="N", help="utterances a speaker; default: all")
    parser.add_argument(
        "--sentences", type=int, default=len(SENTENCES), metavar="N", help="sentences a synthetic voice; 0 for none"
    )
    parser.add_argument(
        "--recording", nargs=2, action="append", default=[], metavar=("AUDIO", "TEXT"), help="a file and its text file"
    )
    options = parser.parse_args(arguments)
    try:
        named = [(Path(audio), Path(text).read_text(encoding="utf-8").strip()) for audio, text in options.recording]
        written = write_recordings(options.out / "recordings", [*two_cities(), *named])
        if options.corpus is not None:
            written += write_people(options.out / "people", options.corpus, options.per_speaker)
        if options.sentences:
            written += write_synthetic(options.out, options.sentences)
    except (CorpusError, SynthesisError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    for path in written:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
