"""Simulated meetings heard from across the table by several arrangements of microphones, as files to score on.

Every meeting is played once and recorded by all arrangements at the same time: same words, turns, seats, room and
level of noise. Each arrangement has a folder with `meeting-NN.flac` (16 kHz) beside `meeting-NN.seglst.json`, so that
`crosstalk evaluate DIR/four` scores one and folders can be compared; `DIR/meetings.json` tells what each meeting is
like. For scoring only: the array of `unseen` is of a kind that no training set has.

Run: python -m streaming_models.data.meeting_set --corpus DIR --out DIR --count 6 [--seed S] [--seconds S]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from streaming_models.data import arrays
from streaming_models.data.close_talk_set import LEAST_SPEECH_S, LONGEST_UTTERANCE_S
from streaming_models.data.corpus import SAMPLE_RATE_HZ, CorpusError, FloatArray, Utterance, read_corpus
from streaming_models.data.noise import coloured_noise, diffuse_noise
from streaming_models.data.simulate import (
    TABLE_HEIGHT_M,
    PlannedTurn,
    Position,
    Room,
    SimulationError,
    close_talk_position,
    headset_mix,
    hear,
    impulse_responses,
    overlap_ratio,
    plan_turns,
    references_of,
    seat_talkers,
    set_levels,
    speech_clip,
    speech_power,
)
from streaming_models.scoring import SegLstRow, write_seglst

ARRAYS: Mapping[str, arrays.Offsets] = {
    "one": arrays.linear(1, 0.0),
    "two": arrays.linear(2, 0.10),
    "four": arrays.circular(4, 0.05),
    "eight": arrays.circular(8, 0.10),
    "unseen": arrays.l_shape(),
}
"""Arrays that lie at one and the same place of the table."""

ARRANGEMENTS = (*ARRAYS, "permuted", "lost", "headset-mix")
"""`permuted` and `lost` are the audio of `four`: channels in another order, one channel silent from mid-meeting."""

DURATION_S = (45.0, 60.0)
OVERLAP_RATIO = (0.2, 0.4)
PLANNED_S = (52.0, 59.0)
PLANNED_OVERLAP_RATIO = (0.22, 0.38)
T60_S = (0.2, 0.6)
SNR_DB = (15.0, 30.0)
TALKER_GAIN_SPREAD_DB = 3.0
MICROPHONE_GAIN_SPREAD_DB = 1.0
SELF_NOISE_DB = -12.0
"""A microphone's own noise against the room's."""
MOST_PLANS, MOST_CASTS = 50, 10
USUAL_S = 55.0


@dataclass(frozen=True, eq=False)
class Recordings:
    """One meeting: audio (C, S) float32 of each arrangement, the reference of all, and what is known about it."""

    audio: Mapping[str, FloatArray]
    reference: list[SegLstRow]
    facts: dict[str, Any]


def write_meeting_set(out_dir: Path, corpus_dir: Path, count: int, seed: int, seconds: float = USUAL_S) -> list[Path]:
    """Write meetings of 2, 3, 4, 2, ... talkers with 20 to 40 % overlapped speech.

    Rooms of 3.5-8 m have a T60 of 0.2-0.6 s; the room's noise lies 15-30 dB below the speech at the table. Meeting NN
    depends on `seed` and NN only, so a longer set starts with the same meetings.

    Args:
        out_dir: made if need be; files of the same names are replaced.
        corpus_dir: Opus shards with manifests, anywhere below; utterances without text are left out.
        count: how many meetings.
        seed: decides talkers, words, turns, rooms and noise.
        seconds: about how long a meeting is; 55 gives 45 to 60 s.

    Returns:
        The folders of the arrangements, in order.

    Raises:
        CorpusError: fewer than four speakers with enough short utterances, or a broken shard.
    """
    talkers = meeting_talkers(corpus_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    facts = []
    for index in range(count):
        name = f"meeting-{index:02d}"
        meeting = record_meeting(name, talkers, 2 + index % 3, np.random.SeedSequence([seed, index]), seconds)
        for arrangement in ARRANGEMENTS:
            _write(out_dir / arrangement, name, meeting.audio[arrangement], meeting.reference)
        facts.append(meeting.facts)
    card = json.dumps({"seed": seed, "arrangements": ARRANGEMENTS, "meetings": facts}, indent=1)
    (out_dir / "meetings.json").write_text(card + "\n", encoding="utf-8")
    return [out_dir / arrangement for arrangement in ARRANGEMENTS]


def meeting_talkers(corpus_dir: Path) -> dict[str, list[Utterance]]:
    """Speakers with enough speech for a meeting, and their short utterances with words.

    Raises:
        CorpusError: fewer than four of them.
    """
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


def record_meeting(
    name: str,
    talkers: Mapping[str, Sequence[Utterance]],
    people: int,
    entropy: np.random.SeedSequence,
    seconds: float = USUAL_S,
) -> Recordings:
    """One meeting through all arrangements.

    Raises:
        CorpusError: a broken shard, or utterances that give no meeting of the length and overlap wanted.
    """
    # One generator a step, so that a change of one step leaves the others' draws alone.
    cast, building, seats, turn_taking, levels, hiss, accidents = map(np.random.default_rng, entropy.spawn(7))
    turns = plan_meeting(talkers, people, cast, turn_taking, seconds)
    length_samples = max(turn.end_samples for turn in turns) + SAMPLE_RATE_HZ // 2
    size_m = (float(building.uniform(3.5, 8.0)), float(building.uniform(3.5, 6.0)), float(building.uniform(2.5, 3.2)))
    room = Room(size_m, float(building.uniform(*T60_S)))
    snr_db = float(building.uniform(*SNR_DB))

    talkers_m = seat_talkers(room, sorted({turn.clip.speaker for turn in turns}), seats)
    centre_m = np.array([size_m[0] / 2, size_m[1] / 2, TABLE_HEIGHT_M])
    centre_m[:2] += seats.uniform(-0.3, 0.3, 2)
    turn_rad = float(seats.uniform(0, 2 * np.pi))
    places_m = {array: arrays.placed(offsets, centre_m, turn_rad) for array, offsets in ARRAYS.items()}
    places_m["headset-mix"] = tuple(close_talk_position(mouth_m, room, seats) for mouth_m in talkers_m.values())

    gains_db = {speaker: float(levels.uniform(-1, 1)) * TALKER_GAIN_SPREAD_DB for speaker in talkers_m}
    preamplifiers_db = {
        arrangement: levels.uniform(-1, 1, len(places)) * MICROPHONE_GAIN_SPREAD_DB
        for arrangement, places in places_m.items()
    }
    heard = {
        arrangement: hear(turns, impulse_responses(room, talkers_m, places), length_samples, gains_db)
        for arrangement, places in places_m.items()
    }
    # The room is as noisy for one arrangement as for another.
    noise_rms = float(np.sqrt(speech_power(heard["one"], turns)[0] / 10 ** (snr_db / 10)))
    audio = {
        arrangement: (speech + noise_rms * _noise(arrangement, places_m[arrangement], length_samples, rng)).astype(
            np.float32
        )
        for (arrangement, speech), rng in zip(heard.items(), hiss.spawn(len(heard)), strict=True)
    }
    recorded = {array: set_levels(audio[array], preamplifiers_db[array], separately=False) for array in ARRAYS}
    recorded["headset-mix"] = headset_mix(audio["headset-mix"], preamplifiers_db["headset-mix"])
    order, lost_channel, lost_at_s = _accidents(len(recorded["four"]), length_samples / SAMPLE_RATE_HZ, accidents)
    recorded["permuted"] = recorded["four"][order]
    recorded["lost"] = recorded["four"].copy()
    recorded["lost"][lost_channel, round(lost_at_s * SAMPLE_RATE_HZ) :] = 0.0

    reference = _seglst(name, turns)
    facts = {
        "name": name,
        "duration_s": round(length_samples / SAMPLE_RATE_HZ, 3),
        "overlap_ratio": round(_overlap(turns), 4),
        "words": sum(len(row["words"].split()) for row in reference),
        "room_m": _rounded(room.size_m),
        "t60_s": round(room.t60_s, 3),
        "snr_db": round(snr_db, 1),
        "talkers": [
            {
                "speaker": speaker,
                "mouth_m": _rounded(mouth_m),
                "from_array_m": round(float(np.linalg.norm(np.subtract(mouth_m, centre_m))), 2),
                "gain_db": round(gains_db[speaker], 1),
            }
            for speaker, mouth_m in talkers_m.items()
        ],
        "microphones_m": {arrangement: [_rounded(at) for at in places] for arrangement, places in places_m.items()},
        "permuted": {"order": [int(channel) for channel in order]},
        "lost": {"channel": lost_channel, "from_s": round(lost_at_s, 3)},
    }
    return Recordings(recorded, reference, facts)


def plan_meeting(
    talkers: Mapping[str, Sequence[Utterance]],
    people: int,
    cast: np.random.Generator,
    rng: np.random.Generator,
    seconds: float = USUAL_S,
) -> tuple[PlannedTurn, ...]:
    """Turns of so many people; drawn again until length and overlap are what the set promises.

    Args:
        talkers: from `meeting_talkers`.
        people: how many of them.
        cast: decides who.
        rng: decides who says what when.
        seconds: about how long; who has too little to say for that is not asked.

    Raises:
        CorpusError: a broken shard, or utterances that give no such meeting.
    """
    longer = seconds / USUAL_S
    for _ in range(MOST_CASTS):
        chosen = sorted(cast.choice(sorted(talkers), people, replace=False).tolist())
        decoded = {speaker: [speech_clip(each) for each in talkers[speaker]] for speaker in chosen}
        for _ in range(MOST_PLANS):
            clips = {
                speaker: [decoded[speaker][at] for at in rng.permutation(len(decoded[speaker]))] for speaker in chosen
            }
            planned_s, planned_ratio = float(rng.uniform(*PLANNED_S)), float(rng.uniform(*PLANNED_OVERLAP_RATIO))
            turns = plan_turns(clips, longer * planned_s, planned_ratio, rng)
            end_s = max(turn.end_samples for turn in turns) / SAMPLE_RATE_HZ + 0.5
            if (
                {turn.clip.speaker for turn in turns} == set(chosen)
                and DURATION_S[0] <= end_s / longer <= DURATION_S[1]
                and OVERLAP_RATIO[0] <= _overlap(turns) <= OVERLAP_RATIO[1]
            ):
                return turns
    raise CorpusError(
        f"the utterances give no meeting of {people} people of {seconds:g} s with overlap {OVERLAP_RATIO}"
    )


def _noise(
    arrangement: str, places_m: Sequence[Position], length_samples: int, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """(C, S) of power about 1: the room's noise, and the microphones' own."""
    if arrangement == "headset-mix":  # microphones on different people have next to nothing in common
        room = coloured_noise(len(places_m), length_samples, rng)
    else:
        room = diffuse_noise(places_m, length_samples, rng)
    own = coloured_noise(len(places_m), length_samples, rng, slope=0.0)
    noise: npt.NDArray[np.float64] = room + 10 ** (SELF_NOISE_DB / 20) * own
    return noise


def _accidents(channels: int, duration_s: float, rng: np.random.Generator) -> tuple[npt.NDArray[np.int64], int, float]:
    """Another order of the channels, and which of them falls silent when (at 40 to 60 % of the meeting)."""
    order = np.arange(channels)
    while np.array_equal(order, np.arange(channels)):
        order = rng.permutation(channels)
    return order, int(rng.integers(channels)), float(rng.uniform(0.4, 0.6) * duration_s)


def _overlap(turns: Sequence[PlannedTurn]) -> float:
    return overlap_ratio((turn.start_samples, turn.end_samples) for turn in turns)


def _seglst(name: str, turns: Sequence[PlannedTurn]) -> list[SegLstRow]:
    """The turns as SegLST rows, times rounded to ms."""
    return [
        SegLstRow(
            session_id=name,
            speaker=reference.speaker,
            start_time=round(reference.start_s, 3),
            end_time=round(reference.end_s, 3),
            words=reference.words,
            text=reference.text,
        )
        for reference in references_of(turns)
    ]


def _rounded(position_m: Sequence[float]) -> list[float]:
    return [round(coordinate, 3) for coordinate in position_m]


def _write(folder: Path, stem: str, audio: FloatArray, reference: Sequence[SegLstRow]) -> None:
    """Write (C, S) audio as 16-bit FLAC and the reference beside it."""
    import soundfile

    folder.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / f"{stem}.flac", audio.T, SAMPLE_RATE_HZ, subtype="PCM_16")
    write_seglst(folder / f"{stem}.seglst.json", reference)


def main(arguments: list[str] | None = None) -> int:
    """Write simulated far-field meetings to score on; returns the exit status of the process."""
    parser = argparse.ArgumentParser(prog="python -m streaming_models.data.meeting_set", description=main.__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="folder with Opus shards and manifests")
    parser.add_argument("--out", type=Path, required=True, help="folder for one folder an arrangement")
    parser.add_argument("--count", type=int, default=6, help="number of meetings")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=USUAL_S, help="about how long a meeting is; default: 55")
    options = parser.parse_args(arguments)
    try:
        for folder in write_meeting_set(options.out, options.corpus, options.count, options.seed, options.seconds):
            print(folder)
    except (CorpusError, SimulationError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
