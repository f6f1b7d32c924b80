"""The sample meeting that ships with Crosstalk, and the command that rebuilds it.

Three people of one AMI meeting talk about the remote control they are to design: real turns, spoken by synthetic
voices in a simulated room. Channels 0-2 are lapel microphones, channel 3 lies on the table. Which turns and when
is written down below; only seats, microphones' exact places and noise levels would be arbitrary, and they are
fixed as well, so the rebuilt files are the same bytes with the same encoder.

Run: python -m streaming_models.data.sample --tts DIR --out DIR
(DIR of --tts: the shards and manifests of the synthesised AMI turns)
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from streaming_models.data.audio_files import write_opus
from streaming_models.data.corpus import SAMPLE_RATE_HZ, CorpusError, read_manifest
from streaming_models.data.simulate import (
    PlannedTurn,
    Position,
    Room,
    SimulatedMeeting,
    impulse_responses,
    mix,
    references_of,
    set_levels,
    speech_clip,
)
from streaming_models.scoring import write_seglst

SAMPLE_DIR = Path(__file__).with_name("sample")
NAME = "sample-meeting"
SEED = 2012
SNR_DB = 20.0
BIT_RATE = 128_000
"""Four channels at 32 kbit/s: about 1.3 MB in all."""

ROOM = Room(size_m=(6.0, 4.6, 2.7), t60_s=0.3)
TALKERS_M: dict[str, Position] = {
    "ES2012a.B": (2.05, 2.20, 1.18),
    "ES2012a.C": (3.45, 3.10, 1.25),
    "ES2012a.D": (3.75, 1.55, 1.22),
}
MICROPHONES_M: tuple[Position, ...] = (
    (2.22, 2.26, 1.02),
    (3.40, 2.93, 1.05),
    (3.62, 1.68, 1.03),
    (3.05, 2.35, 0.76),
)
PREAMPLIFIERS_DB = (0.0, -1.5, 1.0, -2.0)


class ScriptedTurn(NamedTuple):
    """A turn of the sample.

    after_s: from the end of the last turn that is no backchannel to the start of this one; negative = while
    that one is still talking.
    word_errors: what Moonshine Tiny gets wrong in the clean utterance (moonshine-voice 0.0.73, greedy).
    """

    id: str
    after_s: float
    word_errors: int
    backchannel: bool = False


# In the order of the real meeting, apart from one "Yeah."
SCRIPT = (
    ScriptedTurn("ES2012a.C.005", 0.60, 1),
    ScriptedTurn("ES2012a.C.006", 0.12, 0),
    ScriptedTurn("ES2012a.B.003", -1.70, 4),
    ScriptedTurn("ES2012a.C.008", -3.40, 0, backchannel=True),
    ScriptedTurn("ES2012a.D.003", -1.60, 1),
    ScriptedTurn("ES2012a.D.005", 0.20, 0),
    ScriptedTurn("ES2012a.D.006", 0.30, 0),
    ScriptedTurn("ES2012a.C.013", -2.30, 0, backchannel=True),
    ScriptedTurn("ES2012a.C.009", -1.40, 2),
    ScriptedTurn("ES2012a.C.010", 0.12, 2),
    ScriptedTurn("ES2012a.D.008", -1.80, 0),
    ScriptedTurn("ES2012a.D.009", 0.15, 0),
    ScriptedTurn("ES2012a.C.011", -1.50, 0),
    ScriptedTurn("ES2012a.C.012", 0.12, 0),
    ScriptedTurn("ES2012a.B.006", 0.15, 3),
    ScriptedTurn("ES2012a.C.014", 0.20, 1),
    ScriptedTurn("ES2012a.B.014", -1.60, 2),
    ScriptedTurn("ES2012a.B.015", 0.10, 0),
    ScriptedTurn("ES2012a.C.016", -4.80, 0, backchannel=True),
    ScriptedTurn("ES2012a.D.016", -1.90, 0),
)

LICENCES = {
    "voices": "synthesised with Kokoro-82M (Apache-2.0), each a blend of its voices",
    "texts": "AMI Meeting Corpus manual annotations 1.6.2 (CC BY 4.0), Carletta et al., "
    "https://groups.inf.ed.ac.uk/ami/corpus/",
    "room_and_noise": "simulated here with pyroomacoustics (MIT); no recording",
}


@dataclass(frozen=True)
class SampleFiles:
    """Where the three files of the sample meeting lie."""

    audio: Path
    reference: Path
    card: Path


def sample_files(folder: Path = SAMPLE_DIR) -> SampleFiles:
    """The sample's audio (Opus, 4 channels), reference (SegLST) and card (JSON) in a folder."""
    return SampleFiles(folder / f"{NAME}.opus", folder / f"{NAME}.seglst.json", folder / f"{NAME}.json")


def build_sample(tts_dir: Path) -> SimulatedMeeting:
    """The sample meeting before encoding.

    Raises:
        CorpusError: a manifest or shard of the three talkers is missing or lacks a scripted turn.
    """
    turns = _scripted_turns(tts_dir)
    last_samples = max(turn.end_samples for turn in turns)
    audio = mix(
        turns,
        impulse_responses(ROOM, TALKERS_M, MICROPHONES_M),
        length_samples=last_samples + SAMPLE_RATE_HZ * 3 // 4,
        snr_db=SNR_DB,
        rng=np.random.default_rng(SEED),
    )
    return SimulatedMeeting(
        audio=set_levels(audio, np.array(PREAMPLIFIERS_DB), separately=True),
        references=references_of(turns),
        room=ROOM,
        talkers_m=TALKERS_M,
        microphones_m=MICROPHONES_M,
        snr_db=SNR_DB,
        seed=SEED,
    )


def write_sample(tts_dir: Path, out_dir: Path) -> SampleFiles:
    """Build the sample meeting and write its three files; the folder is made if need be.

    Raises:
        CorpusError: see `build_sample`.
    """
    meeting = build_sample(tts_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    files = sample_files(out_dir)
    write_opus(files.audio, meeting.audio, BIT_RATE)
    write_seglst(files.reference, meeting.seglst(NAME))
    card = json.dumps(sample_card(meeting, tts_dir), indent=1, ensure_ascii=False)
    files.card.write_text(card + "\n", encoding="utf-8")
    return files


def sample_card(meeting: SimulatedMeeting, tts_dir: Path) -> dict[str, Any]:
    """What the sample is made of: geometry in metres, sources, licences and how hard its words are."""
    words = sum(len(reference.words.split()) for reference in meeting.references)
    errors = sum(turn.word_errors for turn in SCRIPT)
    kinds = [f"lapel of {speaker}" for speaker in meeting.talkers_m] + ["table"]
    return {
        "name": NAME,
        "what": "Synthetic voices speak real meeting turns in a simulated room: no recording of people. "
        "The turns were picked, and their timing is arranged.",
        "duration_s": round(meeting.duration_s, 4),
        "sample_rate_hz": SAMPLE_RATE_HZ,
        "overlap_ratio": round(meeting.overlap_ratio, 4),
        "channels": [
            {"index": index, "microphone": kind, "position_m": position}
            for index, (kind, position) in enumerate(zip(kinds, meeting.microphones_m, strict=True))
        ],
        "talkers": [
            {"speaker": speaker, "mouth_m": position, **_voice(tts_dir, speaker)}
            for speaker, position in meeting.talkers_m.items()
        ],
        "room": asdict(meeting.room),
        "snr_db_at_quietest_microphone": meeting.snr_db,
        "seed": meeting.seed,
        "utterances": [
            {"id": reference.id, "start_s": round(reference.start_s, 3), "end_s": round(reference.end_s, 3)}
            for reference in meeting.references
        ],
        "clean_word_errors": {
            "recogniser": "Moonshine Tiny English (moonshine-voice 0.0.73), greedy",
            "errors": errors,
            "words": words,
            "word_error_rate": round(errors / words, 4),
            "note": "Measured on each utterance alone, before room, noise and overlap. Turns that it reads "
            "well were preferred, so this meeting is easier than a real one.",
        },
        "licences": LICENCES,
    }


def _scripted_turns(tts_dir: Path) -> tuple[PlannedTurn, ...]:
    known = {
        utterance.id: utterance for speaker in TALKERS_M for utterance in read_manifest(_manifest(tts_dir, speaker))
    }
    turns = []
    floor_end_samples = 0
    for scripted in SCRIPT:
        if scripted.id not in known:
            raise CorpusError(f"{tts_dir}: the manifests hold no utterance {scripted.id}")
        start_samples = floor_end_samples + round(scripted.after_s * SAMPLE_RATE_HZ)
        turn = PlannedTurn(speech_clip(known[scripted.id]), start_samples)
        turns.append(turn)
        if not scripted.backchannel:
            floor_end_samples = turn.end_samples
    return tuple(sorted(turns, key=lambda turn: turn.start_samples))


def _voice(tts_dir: Path, speaker: str) -> Mapping[str, Any]:
    """The first line of a synthesised manifest: the blend of voices and the speed."""
    header: Mapping[str, Any] = json.loads(_manifest(tts_dir, speaker).read_text("utf-8").splitlines()[0])
    return header


def _manifest(tts_dir: Path, speaker: str) -> Path:
    path = tts_dir / f"{speaker}.jsonl"
    if not path.is_file():
        raise CorpusError(f"{path}: the sample meeting needs this manifest")
    return path


def main(arguments: list[str] | None = None) -> int:
    """Rebuild the sample meeting; the exit status of the process."""
    parser = argparse.ArgumentParser(prog="python -m streaming_models.data.sample", description=main.__doc__)
    parser.add_argument("--tts", type=Path, required=True, help="folder with the synthesised AMI turns")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the three files to")
    options = parser.parse_args(arguments)
    try:
        files = write_sample(options.tts, options.out)
    except CorpusError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{files.audio}: {files.audio.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
