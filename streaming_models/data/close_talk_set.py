"""Simulated meetings with one worn microphone a talker, as files to score on.

Every meeting is `close-talk-NN.flac` (one channel a talker, 16 kHz) beside `close-talk-NN.seglst.json`; on request
the same meetings are also written as one table microphone hears them (`far-field-NN.*`).

Run: python -m streaming_models.data.close_talk_set --corpus DIR --out DIR --count 4 [--far-field DIR]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from streaming_models.data.corpus import SAMPLE_RATE_HZ, CorpusError, FloatArray, Utterance, read_corpus
from streaming_models.data.simulate import (
    MeetingSpec,
    Room,
    SimulatedMeeting,
    simulate_meeting,
    speech_clip,
)
from streaming_models.scoring import write_seglst

LONGEST_UTTERANCE_S = 10.0
"""Longer readings are left out: people in a meeting let each other speak sooner."""

LEAST_SPEECH_S = 30.0
"""A speaker with less is no talker."""


def write_close_talk_set(
    out_dir: Path, corpus_dir: Path, count: int, seed: int, far_field_dir: Path | None = None
) -> list[Path]:
    """Write meetings of 2, 3, 4, 2, ... talkers, 45 to 60 s long, with 20 to 40 % overlapped speech.

    Rooms of 3.5-8 m have a T60 of 0.2-0.5 s; noise lies 15-30 dB below the speech at the table. Meeting
    NN depends on `seed` and NN only, so a longer set starts with the same meetings.

    Args:
        out_dir: made if need be; files of the same names are replaced.
        corpus_dir: Opus shards with manifests, anywhere below; utterances without text are left out.
        count: how many meetings.
        seed: decides talkers, words, turns, rooms and noise.
        far_field_dir: where to write the same meetings as one microphone on the table hears them.

    Returns:
        The audio files of `out_dir`, in order.

    Raises:
        CorpusError: fewer than four speakers with enough short utterances, or a broken shard.
    """
    talkers = _talkers(corpus_dir)
    written = []
    for index in range(count):
        meeting = _close_talk_meeting(talkers, 2 + index % 3, np.random.SeedSequence([seed, index]))
        written.append(_write(out_dir, f"close-talk-{index:02d}", meeting.audio[:-1], meeting))
        if far_field_dir is not None:
            _write(far_field_dir, f"far-field-{index:02d}", meeting.audio[-1:], meeting)
    return written


def _talkers(corpus_dir: Path) -> dict[str, list[Utterance]]:
    """Speakers with enough speech, and their short utterances with words."""
    usable = {
        speaker: [each for each in utterances if each.text and each.duration_s <= LONGEST_UTTERANCE_S]
        for speaker, utterances in read_corpus(corpus_dir).items()
    }
    talkers = {
        speaker: utterances
        for speaker, utterances in usable.items()
        if sum(each.duration_s for each in utterances) >= LEAST_SPEECH_S
    }
    if len(talkers) < 4:
        raise CorpusError(
            f"{corpus_dir}: expected four speakers with {LEAST_SPEECH_S:g} s of utterances of up to "
            f"{LONGEST_UTTERANCE_S:g} s, found {sorted(talkers)}"
        )
    return talkers


def _close_talk_meeting(
    talkers: Mapping[str, Sequence[Utterance]], people: int, entropy: np.random.SeedSequence
) -> SimulatedMeeting:
    """One meeting; its last channel is the table microphone."""
    rng = np.random.default_rng(entropy)
    chosen = sorted(rng.choice(sorted(talkers), people, replace=False).tolist())
    speech = {
        speaker: [speech_clip(talkers[speaker][at]) for at in rng.permutation(len(talkers[speaker]))]
        for speaker in chosen
    }
    size_m = (float(rng.uniform(3.5, 8.0)), float(rng.uniform(3.5, 6.0)), float(rng.uniform(2.5, 3.2)))
    spec = MeetingSpec(
        room=Room(size_m, float(rng.uniform(0.2, 0.5))),
        microphones="close_talk",
        microphone_count=1,
        duration_s=float(rng.uniform(52.0, 59.0)),
        overlap_ratio=float(rng.uniform(0.22, 0.38)),
        snr_db=float(rng.uniform(15.0, 30.0)),
    )
    return simulate_meeting(speech, spec, int(rng.integers(2**31)))


def _write(folder: Path, stem: str, audio: FloatArray, meeting: SimulatedMeeting) -> Path:
    """Write (C, S) audio as 16-bit FLAC and the meeting's reference beside it; the audio's path."""
    import soundfile

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}.flac"
    soundfile.write(path, audio.T, SAMPLE_RATE_HZ, subtype="PCM_16")
    write_seglst(folder / f"{stem}.seglst.json", meeting.seglst(stem))
    return path


def main(arguments: list[str] | None = None) -> int:
    """Write simulated close-talk meetings to score on; returns the exit status of the process."""
    parser = argparse.ArgumentParser(prog="python -m streaming_models.data.close_talk_set")
    parser.add_argument("--corpus", type=Path, required=True, help="folder with Opus shards and manifests")
    parser.add_argument("--out", type=Path, required=True, help="folder for one channel a talker")
    parser.add_argument("--far-field", type=Path, help="folder for the table microphone of the same meetings")
    parser.add_argument("--count", type=int, default=4, help="number of meetings")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        for path in write_close_talk_set(options.out, options.corpus, options.count, options.seed, options.far_field):
            print(path)
    except CorpusError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
