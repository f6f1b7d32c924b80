"""Meetings made of single utterances: who talks when, in which room, heard by which microphones.

Three steps that can be used apart: `plan_turns` lays utterances on a timeline, `impulse_responses` computes a
room, `mix` lets every microphone hear every talker. `simulate_meeting` draws what is left open from a seed and
does all three. The same seed and input give bit-identical audio on one machine.

Rooms are shoeboxes with omnidirectional talkers and microphones (image sources). Words are never cut and voices
never altered; what devices and networks do to the sound is in `degrade`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from streaming_models.data import arrays
from streaming_models.data.corpus import SAMPLE_RATE_HZ, FloatArray, Utterance
from streaming_models.data.movement import Walk, WalkResponses, draw_walk
from streaming_models.data.noise import coloured_noise, diffuse_noise, hum
from streaming_models.scoring import SegLstRow, normalise

Position: TypeAlias = tuple[float, float, float]
MicrophoneKind: TypeAlias = Literal["close_talk", "headset_mix", "linear", "circular", "planar", "ad_hoc"]
NoiseKind: TypeAlias = Literal["independent", "diffuse"]

Response: TypeAlias = FloatArray | WalkResponses
"""What microphones hear of one talker's click: (C, L), or that from every place of a walk."""

MOUTH_HEIGHT_M = 1.2
TABLE_HEIGHT_M = 0.75
CLOSE_TALK_DISTANCE_M = (0.15, 0.40)
BACKCHANNEL_MAX_S = 2.5
INTERRUPTION_S = (0.3, 5.0)
THREE_AT_ONCE_PROBABILITY = 0.05
SPEECH_RMS = 0.05
PEAK = 0.7
MAX_IMAGE_ORDER = 50
"""Reflections followed; in rooms that echo longer than about 0.5 s the last part of the tail is missing."""


class SimulationError(ValueError):
    """A meeting that cannot be built: an impossible room, too few talkers, a position outside."""


class TimedWord(NamedTuple):
    """A word as written, and when it is said."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True, eq=False)
class SpeechClip:
    """One utterance ready to be placed: audio (S,) float32 mono at 16 kHz from first to last sound.

    timed_words: the words of `text` with their times from the audio's first sample; () where nobody knows them.
    """

    id: str
    speaker: str
    text: str
    audio: FloatArray
    timed_words: tuple[TimedWord, ...] = ()


@dataclass(frozen=True, eq=False)
class PlannedTurn:
    """A clip and the sample of the meeting at which it leaves the talker's mouth."""

    clip: SpeechClip
    start_samples: int

    @property
    def end_samples(self) -> int:
        """The sample after the last of the clip."""
        return self.start_samples + len(self.clip.audio)


@dataclass(frozen=True)
class Room:
    """A shoebox: length, width and height in metres, and the time in which sound decays by 60 dB."""

    size_m: Position
    t60_s: float


@dataclass(frozen=True)
class MeetingSpec:
    """What a simulated meeting shall be like; everything else is drawn from the seed.

    microphones: `close_talk` is one microphone 15-40 cm from every mouth, in the order of the talkers, then
    `microphone_count` more on the table; `headset_mix` is the sum of the former in one channel, without the
    latter; the other kinds are one array of `microphone_count` on the table (`ad_hoc`: anywhere between table
    and head height). `spacing_m` is the distance of neighbours in a line or a grid, the radius of a circle.
    overlap_ratio: time with two or more talking over time with anyone talking.
    snr_db: speech to noise at the microphone that hears the talkers least; the noise is equally loud at all.
    noise: `diffuse` is what a room's own noise is like (alike at neighbouring microphones), `independent` is
    different at each. noise_slope: see `coloured_noise`. hum_db: mains hum over noise; None for no hum.
    walkers: how many of the talkers get up and walk, once each.
    talker_gain_spread_db, microphone_gain_spread_db: how far people and microphones differ, in dB around 0.
    """

    room: Room = Room((6.0, 5.0, 2.8), 0.35)
    microphones: MicrophoneKind = "close_talk"
    microphone_count: int = 0
    spacing_m: float = 0.05
    duration_s: float = 60.0
    overlap_ratio: float = 0.25
    gap_mean_s: float = 0.35
    snr_db: float = 25.0
    noise: NoiseKind = "independent"
    noise_slope: float = 1.0
    hum_db: float | None = None
    walkers: int = 0
    talker_gain_spread_db: float = 3.0
    microphone_gain_spread_db: float = 2.0


@dataclass(frozen=True)
class UtteranceReference:
    """Who said which words when; seconds of the meeting, words normalised for scoring, text as written.

    timed_words: the clip's, in seconds of the meeting.
    """

    id: str
    speaker: str
    start_s: float
    end_s: float
    words: str
    text: str
    timed_words: tuple[TimedWord, ...] = ()


@dataclass(frozen=True, eq=False)
class SimulatedMeeting:
    """Audio and everything that is known about it.

    audio: (C, S) float32 at 16 kHz, peak at most 0.7. Times are when sound leaves the mouth: at a microphone
    it arrives up to a few ms later. talkers_m: where people sit; walks: the ways of those who leave their seat.
    microphones_m: one position a channel, or those that are summed into the channel of a `headset_mix`.
    """

    audio: FloatArray
    references: tuple[UtteranceReference, ...]
    room: Room
    talkers_m: Mapping[str, Position]
    microphones_m: tuple[Position, ...]
    snr_db: float
    seed: int
    walks: Mapping[str, Walk] = field(default_factory=dict)

    @property
    def duration_s(self) -> float:
        """Length of the audio."""
        return float(self.audio.shape[1] / SAMPLE_RATE_HZ)

    @property
    def overlap_ratio(self) -> float:
        """Time with two or more talking over time with anyone talking."""
        return overlap_ratio((reference.start_s, reference.end_s) for reference in self.references)

    def seglst(self, session_id: str) -> list[SegLstRow]:
        """The references as SegLST rows, times rounded to ms."""
        return [
            SegLstRow(
                session_id=session_id,
                speaker=reference.speaker,
                start_time=round(reference.start_s, 3),
                end_time=round(reference.end_s, 3),
                words=reference.words,
                text=reference.text,
            )
            for reference in self.references
        ]


def simulate_meeting(speech: Mapping[str, Sequence[SpeechClip]], spec: MeetingSpec, seed: int) -> SimulatedMeeting:
    """One meeting of these talkers.

    Args:
        speech: every talker's clips in the order in which they may be said; not all need be used.
        spec: see MeetingSpec.
        seed: decides seats, turns, gains and noise.

    Raises:
        SimulationError: fewer than two talkers, clips too long for the meeting, or an impossible room.
    """
    # One generator a step, so that a change of one step leaves the others' draws alone.
    seats, turn_taking, levels, hiss, movement = np.random.default_rng(seed).spawn(5)
    talkers_m = seat_talkers(spec.room, sorted(speech), seats)
    microphones_m = place_microphones(spec, talkers_m, seats)
    turns = plan_turns(speech, spec.duration_s, spec.overlap_ratio, turn_taking, gap_mean_s=spec.gap_mean_s)
    talker_gains_db = {speaker: float(levels.uniform(-1, 1)) * spec.talker_gain_spread_db for speaker in talkers_m}
    microphone_gains_db = levels.uniform(-1, 1, len(microphones_m)) * spec.microphone_gain_spread_db
    length_samples = max(turn.end_samples for turn in turns) + SAMPLE_RATE_HZ // 2
    walks = _draw_walks(spec, talkers_m, length_samples / SAMPLE_RATE_HZ, movement)
    seated_m = {speaker: place_m for speaker, place_m in talkers_m.items() if speaker not in walks}
    responses: dict[str, Response] = {
        **impulse_responses(spec.room, seated_m, microphones_m),
        **walk_responses(spec.room, walks, microphones_m),
    }
    audio = mix(
        turns,
        responses,
        length_samples=length_samples,
        snr_db=spec.snr_db,
        rng=hiss,
        talker_gains_db=talker_gains_db,
        noise=draw_noise(spec, microphones_m, length_samples, hiss),
    )
    if spec.microphones == "headset_mix":
        audio = headset_mix(audio, microphone_gains_db)
    else:
        audio = set_levels(audio, microphone_gains_db, separately=spec.microphones == "close_talk")
    return SimulatedMeeting(
        audio=audio,
        references=references_of(turns),
        room=spec.room,
        talkers_m=talkers_m,
        microphones_m=microphones_m,
        snr_db=spec.snr_db,
        seed=seed,
        walks=walks,
    )


def speech_clip(utterance: Utterance) -> SpeechClip:
    """A corpus utterance without the silence before and after it (50 ms are kept).

    Raises:
        CorpusError: the shard cannot be read.
    """
    return SpeechClip(utterance.id, utterance.speaker, utterance.text, without_edge_silence(utterance.audio()))


def trimmed(clip: SpeechClip) -> SpeechClip:
    """The clip without the silence before and after it; the times of its words move along."""
    span = sounding_span(clip.audio)
    first_s, last_s = span.start / SAMPLE_RATE_HZ, span.stop / SAMPLE_RATE_HZ
    # A word's times are somebody's estimate: they may reach into what is silent.
    words = tuple(
        TimedWord(word.text, min(max(word.start_s, first_s), last_s) - first_s, min(word.end_s, last_s) - first_s)
        for word in clip.timed_words
    )
    return replace(clip, audio=clip.audio[span], timed_words=words)


def without_edge_silence(audio: FloatArray) -> FloatArray:
    """(S,) float32 -> its part from first to last sound (within 40 dB of the loudest 20 ms) and 50 ms more."""
    return audio[sounding_span(audio)]


def sounding_span(audio: FloatArray) -> slice:
    """Where (S,) float32 sounds: from first to last sound (see `without_edge_silence`), at most 0 to S."""
    frame_samples, margin_samples = SAMPLE_RATE_HZ // 50, SAMPLE_RATE_HZ // 20
    count = len(audio) // frame_samples
    power = np.mean(audio[: count * frame_samples].reshape(count, frame_samples) ** 2, axis=1)
    if not count or not power.max():
        return slice(0, len(audio))
    loud = np.flatnonzero(power > power.max() * 1e-4) * frame_samples
    return slice(max(0, int(loud[0]) - margin_samples), min(len(audio), int(loud[-1]) + frame_samples + margin_samples))


# Turns


def plan_turns(
    speech: Mapping[str, Sequence[SpeechClip]],
    duration_s: float,
    overlap_ratio: float,
    rng: np.random.Generator,
    *,
    gap_mean_s: float = 0.35,
) -> tuple[PlannedTurn, ...]:
    """Lay clips on a timeline so that the talkers take turns and overlap as much as asked.

    Short clips fall within another's turn (backchannels); long ones begin before the other has ended
    (interruptions) or after a pause. Nobody overlaps themselves; three talk at once only rarely.

    Args:
        speech: every talker's clips in the order of use (a clip that no longer fits is passed over).
        duration_s: no turn ends after it.
        overlap_ratio: target, 0 to 0.5, of time with two talking over time with anyone talking.
        rng: decides who talks next, pauses and interruptions.
        gap_mean_s: mean pause where nobody interrupts.

    Returns:
        Turns in order of start.

    Raises:
        SimulationError: fewer than two talkers, a target out of range, or no clip that fits.
    """
    if len(speech) < 2:
        raise SimulationError(f"a meeting needs two talkers or more, got {sorted(speech)}")
    if not 0 <= overlap_ratio <= 0.5:
        raise SimulationError(f"overlap_ratio must be within 0 and 0.5, got {overlap_ratio}")
    limit_samples = round(duration_s * SAMPLE_RATE_HZ)
    waiting = {speaker: list(speech[speaker]) for speaker in sorted(speech)}
    turns: list[PlannedTurn] = []
    floor: PlannedTurn | None = None  # whose turn it is; a backchannel does not take it
    while True:
        choice = _next_turn(turns, floor, waiting, limit_samples, overlap_ratio, gap_mean_s, rng)
        if choice is None:
            break
        waiting[choice.clip.speaker].remove(choice.clip)
        turns.append(choice)
        if floor is None or choice.end_samples > floor.end_samples:
            floor = choice
    if not turns:
        raise SimulationError(f"no clip fits into {duration_s} s")
    return tuple(sorted(turns, key=lambda turn: turn.start_samples))


def overlap_ratio(intervals_s: Iterable[tuple[float, float]]) -> float:
    """Time covered by two or more intervals over time covered by any; 0 for no interval."""
    covered_s, overlapped_s = _covered(intervals_s)
    return overlapped_s / covered_s if covered_s else 0.0


def references_of(turns: Iterable[PlannedTurn]) -> tuple[UtteranceReference, ...]:
    """What a perfect transcript of these turns says."""
    return tuple(
        UtteranceReference(
            id=turn.clip.id,
            speaker=turn.clip.speaker,
            start_s=turn.start_samples / SAMPLE_RATE_HZ,
            end_s=turn.end_samples / SAMPLE_RATE_HZ,
            words=normalise(turn.clip.text),
            text=turn.clip.text,
            timed_words=_words_from(turn.clip.timed_words, turn.start_samples / SAMPLE_RATE_HZ),
        )
        for turn in turns
    )


def _words_from(words: Iterable[TimedWord], start_s: float) -> tuple[TimedWord, ...]:
    """The words of a clip that begins at `start_s`."""
    return tuple(TimedWord(word.text, word.start_s + start_s, word.end_s + start_s) for word in words)


def _next_turn(
    turns: Sequence[PlannedTurn],
    floor: PlannedTurn | None,
    waiting: Mapping[str, Sequence[SpeechClip]],
    limit_samples: int,
    overlap_target: float,
    gap_mean_s: float,
    rng: np.random.Generator,
) -> PlannedTurn | None:
    """The next turn of whoever has talked least or, at times, of anyone; None when nothing fits any more."""
    talked = dict.fromkeys(waiting, 0)
    for turn in turns:
        talked[turn.clip.speaker] += len(turn.clip.audio)
    others = [speaker for speaker in waiting if floor is None or speaker != floor.clip.speaker]
    order = [others[index] for index in rng.permutation(len(others))]
    if rng.random() < 0.6:
        order.sort(key=talked.__getitem__)
    gap_samples = round(min(2.0, 0.05 + rng.exponential(gap_mean_s)) * SAMPLE_RATE_HZ)
    patience, place, third = rng.random(), rng.random(), rng.random() < THREE_AT_ONCE_PROBABILITY
    for speaker in order:
        for clip in waiting[speaker]:
            start = _start_samples(turns, floor, clip, overlap_target, gap_samples, patience, place, third)
            if start + len(clip.audio) <= limit_samples:
                return PlannedTurn(clip, start)
    return None


def _start_samples(
    turns: Sequence[PlannedTurn],
    floor: PlannedTurn | None,
    clip: SpeechClip,
    overlap_target: float,
    gap_samples: int,
    patience: float,
    place: float,
    third: bool,
) -> int:
    """Where a clip begins: within the floor turn, before its end or after it, whatever overlap is owed."""
    if floor is None:
        return gap_samples
    length = len(clip.audio)
    covered, overlapped = _covered((turn.start_samples, turn.end_samples) for turn in turns)
    # With o samples of overlap, (overlapped + o) / (covered + length - o) is the target.
    owed = (overlap_target * (covered + length) - overlapped) / (1 + overlap_target)
    floor_samples = floor.end_samples - floor.start_samples
    least, most = (round(bound_s * SAMPLE_RATE_HZ) for bound_s in INTERRUPTION_S)
    overlap = min(owed, most, 0.7 * length, 0.7 * floor_samples)
    if length <= min(BACKCHANNEL_MAX_S * SAMPLE_RATE_HZ, 0.6 * floor_samples) and 2 * owed >= length:
        room_samples = floor_samples - length
        start = floor.start_samples + round((0.1 + 0.8 * place) * room_samples)
    elif overlap >= least and (owed > 1.5 * SAMPLE_RATE_HZ or patience < 0.75):
        start = floor.end_samples - round(overlap)
    else:
        start = floor.end_samples + gap_samples
    own = max((turn.end_samples for turn in turns if turn.clip.speaker == clip.speaker), default=0)
    if own:
        start = max(start, own + SAMPLE_RATE_HZ // 10)
    ends = sorted(turn.end_samples for turn in turns)
    if len(ends) > 1 and not third:
        start = max(start, ends[-2])
    return start


def _covered(intervals: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """Length covered by one interval or more, and by two or more."""
    edges = sorted(edge for start, end in intervals for edge in ((start, 1), (end, -1)))
    active, since, once, twice = 0, 0.0, 0.0, 0.0
    for position, step in edges:
        once += (position - since) * (active >= 1)
        twice += (position - since) * (active >= 2)
        active, since = active + step, position
    return once, twice


# Rooms


def seat_talkers(room: Room, speakers: Sequence[str], rng: np.random.Generator) -> dict[str, Position]:
    """Seats around a table near the middle of the room; mouths at sitting height, 0.3 m or more from walls.

    Raises:
        SimulationError: the room is too small for a table.
    """
    length_m, width_m, height_m = room.size_m
    if min(length_m, width_m) < 2.0 or height_m < 1.8:
        raise SimulationError(f"a room of {room.size_m} m is too small for a meeting")
    reach_m = np.minimum([1.3, 0.9], np.array([length_m, width_m]) / 2 - 0.5)
    turn_rad = rng.uniform(0, 2 * np.pi)
    seats: dict[str, Position] = {}
    for index, speaker in enumerate(speakers):
        angle_rad = turn_rad + (index + rng.uniform(-0.2, 0.2)) * 2 * np.pi / len(speakers)
        stretch = rng.uniform(0.85, 1.1)
        seats[speaker] = (
            float(length_m / 2 + stretch * reach_m[0] * np.cos(angle_rad)),
            float(width_m / 2 + stretch * reach_m[1] * np.sin(angle_rad)),
            float(MOUTH_HEIGHT_M + rng.uniform(-0.1, 0.15)),
        )
    return seats


def place_microphones(
    spec: MeetingSpec, talkers_m: Mapping[str, Position], rng: np.random.Generator
) -> tuple[Position, ...]:
    """Microphone positions for a layout, one a channel; see MeetingSpec for their order.

    Raises:
        SimulationError: a layout without any microphone.
    """
    count = spec.microphone_count
    if count < 0 or (spec.microphones not in ("close_talk", "headset_mix") and count == 0):
        raise SimulationError(f"layout {spec.microphones} needs microphones, got microphone_count={count}")
    if spec.microphones == "headset_mix" and count:
        raise SimulationError(f"a headset mix has no microphones on the table, got microphone_count={count}")
    length_m, width_m, _ = spec.room.size_m
    table = np.array([length_m / 2, width_m / 2, TABLE_HEIGHT_M])
    table[:2] += rng.uniform(-0.3, 0.3, 2)
    turn_rad = rng.uniform(0, 2 * np.pi)
    if spec.microphones in ("close_talk", "headset_mix"):
        worn = [close_talk_position(mouth_m, spec.room, rng) for mouth_m in talkers_m.values()]
        spots = table + rng.uniform(-0.4, 0.4, (count, 3)) * [1, 1, 0]
        return (*worn, *_positions(spots))
    if spec.microphones == "linear":
        return arrays.placed(arrays.linear(count, spec.spacing_m), table, turn_rad)
    if spec.microphones == "circular":
        return arrays.placed(arrays.circular(count, spec.spacing_m), table, turn_rad)
    if spec.microphones == "planar":
        return arrays.placed(arrays.planar(count, spec.spacing_m), table, turn_rad)
    low = np.array([0.3, 0.3, TABLE_HEIGHT_M])
    high = np.array([length_m - 0.3, width_m - 0.3, 1.5])
    return _positions(rng.uniform(low, high, (count, 3)))


def close_talk_position(mouth_m: Position, room: Room, rng: np.random.Generator) -> Position:
    """A lapel or headset microphone: 15-40 cm from the mouth, below it, towards the middle of the room."""
    ahead_rad = np.arctan2(room.size_m[1] / 2 - mouth_m[1], room.size_m[0] / 2 - mouth_m[0])
    ahead_rad += rng.uniform(-0.6, 0.6)
    down_rad = rng.uniform(0.3, 1.3)
    distance_m = rng.uniform(*CLOSE_TALK_DISTANCE_M)
    step = np.array([np.cos(ahead_rad) * np.cos(down_rad), np.sin(ahead_rad) * np.cos(down_rad), -np.sin(down_rad)])
    return _positions((np.array(mouth_m) + distance_m * step)[None])[0]


def impulse_responses(
    room: Room, talkers_m: Mapping[str, Position], microphones_m: Sequence[Position]
) -> dict[str, FloatArray]:
    """What each microphone hears of a click of each talker.

    Returns:
        per talker (C, L) float32 at 16 kHz, sample 0 = the moment the click leaves the mouth.

    Raises:
        SimulationError: a position outside the room, or walls that cannot be so absorbent.
    """
    import pyroomacoustics

    if not talkers_m:
        return {}
    size_m = np.array(room.size_m)
    for position in (*talkers_m.values(), *microphones_m):
        if not (np.all(np.array(position) > 0) and np.all(np.array(position) < size_m)):
            raise SimulationError(f"position {position} m lies outside the room of {room.size_m} m")
    try:
        absorption, order = pyroomacoustics.inverse_sabine(room.t60_s, room.size_m)
    except ValueError as error:
        raise SimulationError(f"a room of {room.size_m} m cannot have a T60 of {room.t60_s} s") from error
    shoebox = pyroomacoustics.ShoeBox(
        size_m,
        fs=SAMPLE_RATE_HZ,
        materials=pyroomacoustics.Material(absorption),
        max_order=min(order, MAX_IMAGE_ORDER),
    )
    for position in talkers_m.values():
        shoebox.add_source(position)
    shoebox.add_microphone_array(np.array(microphones_m).T)
    threads = pyroomacoustics.constants.get("num_threads")
    try:
        # Sums over images depend on how many threads share them: one, so that any machine agrees.
        pyroomacoustics.constants.set("num_threads", 1)
        shoebox.compute_rir()
    finally:
        pyroomacoustics.constants.set("num_threads", threads)
    # Every response starts with half the length of the interpolation filter before sound can arrive.
    lead = pyroomacoustics.constants.get("frac_delay_length") // 2
    responses = {}
    for source, speaker in enumerate(talkers_m):
        heard = [shoebox.rir[channel][source][lead:] for channel in range(len(microphones_m))]
        padded = np.zeros((len(heard), max(map(len, heard))), np.float32)  # (C, L)
        for channel, response in enumerate(heard):
            padded[channel, : len(response)] = response
        responses[speaker] = padded
    return responses


def walk_responses(
    room: Room, walks: Mapping[str, Walk], microphones_m: Sequence[Position]
) -> dict[str, WalkResponses]:
    """What each microphone hears of a click of each walker, from each place of the walk.

    Raises:
        SimulationError: see `impulse_responses`.
    """
    places_m = {
        f"{speaker} {index}": place_m
        for speaker, walk in walks.items()
        for index, place_m in enumerate(walk.positions_m)
    }
    heard = impulse_responses(room, places_m, microphones_m)
    together: dict[str, WalkResponses] = {}
    for speaker, walk in walks.items():
        responses = [heard[f"{speaker} {index}"] for index in range(len(walk.positions_m))]
        longest = max(response.shape[1] for response in responses)
        padded = [np.pad(response, ((0, 0), (0, longest - response.shape[1]))) for response in responses]
        together[speaker] = WalkResponses(np.stack(padded), walk.starts_s)
    return together


def _draw_walks(
    spec: MeetingSpec, talkers_m: Mapping[str, Position], duration_s: float, rng: np.random.Generator
) -> dict[str, Walk]:
    """The ways of those who leave their seat."""
    if not 0 <= spec.walkers <= len(talkers_m):
        raise SimulationError(f"expected walkers among {len(talkers_m)} talkers, got {spec.walkers}")
    chosen = sorted(rng.choice(sorted(talkers_m), spec.walkers, replace=False).tolist())
    return {speaker: draw_walk(spec.room.size_m, talkers_m[speaker], duration_s, rng) for speaker in chosen}


def _positions(points: npt.NDArray[np.float64]) -> tuple[Position, ...]:
    return tuple((float(x), float(y), float(z)) for x, y, z in points)


# Mixing


def mix(
    turns: Sequence[PlannedTurn],
    responses: Mapping[str, Response],
    *,
    length_samples: int,
    snr_db: float,
    rng: np.random.Generator,
    talker_gains_db: Mapping[str, float] | None = None,
    noise: npt.NDArray[np.float64] | None = None,
) -> FloatArray:
    """What the microphones hear: every talker through the room, and noise.

    Each clip is brought to one speech level, then to its talker's gain (0 dB if not given).

    Args:
        turns: who talks when.
        responses: per talker (C, L), from `impulse_responses`, or those of a walk, from `walk_responses`.
        length_samples: length of the result; what sounds later is cut.
        snr_db: speech to noise power while anyone talks, at the microphone that hears speech least.
        rng: draws the noise if none is given: independent between microphones, equally loud at all.
        talker_gains_db: how loud each talker is.
        noise: (C, length_samples) of power 1.

    Returns:
        (C, length_samples) float32, not limited to [-1, 1]; see `set_levels`.
    """
    heard = hear(turns, responses, length_samples, talker_gains_db)
    if noise is None:
        noise = coloured_noise(len(heard), length_samples, rng)
    power = speech_power(heard, turns).min()
    mixed: FloatArray = (heard + noise * np.sqrt(power / 10 ** (snr_db / 10))).astype(np.float32)
    return mixed


def hear(
    turns: Sequence[PlannedTurn],
    responses: Mapping[str, Response],
    length_samples: int,
    talker_gains_db: Mapping[str, float] | None = None,
) -> npt.NDArray[np.float64]:
    """`mix` without noise: (C, length_samples) of every talker through the room."""
    from scipy.signal import oaconvolve

    gains_db = talker_gains_db or {}
    channels = next(iter(responses.values())).shape[-2]
    heard = np.zeros((channels, length_samples), np.float64)  # (C, S)
    for speaker in sorted({turn.clip.speaker for turn in turns}):
        dry = np.zeros(length_samples, np.float64)
        for turn in turns:
            if turn.clip.speaker == speaker:
                span = slice(turn.start_samples, min(turn.end_samples, length_samples))
                dry[span] += _at_speech_level(turn.clip.audio)[: span.stop - span.start]
        dry *= 10 ** (gains_db.get(speaker, 0.0) / 20)
        response = responses[speaker]
        if isinstance(response, WalkResponses):
            parts = [
                (dry * share, place)
                for share, place in zip(response.shares(length_samples), response.responses, strict=True)
            ]
        else:
            parts = [(dry, response)]
        for voice, place in parts:
            heard += oaconvolve(voice[None], place.astype(np.float64), axes=1)[:, :length_samples]
    return heard


def speech_power(heard: npt.NDArray[np.float64], turns: Iterable[PlannedTurn]) -> npt.NDArray[np.float64]:
    """(C, S) of speech -> (C,) its power while anyone talks."""
    talking = np.zeros(heard.shape[1], np.bool_)
    for turn in turns:
        talking[turn.start_samples : turn.end_samples] = True
    power: npt.NDArray[np.float64] = np.mean(heard[:, talking] ** 2, axis=1) if talking.any() else np.zeros(len(heard))
    return power


def draw_noise(
    spec: MeetingSpec, microphones_m: Sequence[Position], length_samples: int, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """(C, length_samples) of power 1: the noise that a spec asks for, hum included."""
    if spec.noise == "diffuse":
        noise = diffuse_noise(microphones_m, length_samples, rng, spec.noise_slope)
    else:
        noise = coloured_noise(len(microphones_m), length_samples, rng, spec.noise_slope)
    if spec.hum_db is None:
        return noise
    # Mains hum comes by wire and magnetic field: the same at all microphones at once.
    hummed: npt.NDArray[np.float64] = noise + 10 ** (spec.hum_db / 20) * hum(length_samples, rng)
    hummed /= np.sqrt(1 + 10 ** (spec.hum_db / 10))
    return hummed


def headset_mix(audio: FloatArray, gains_db: npt.NDArray[np.float64] | None = None) -> FloatArray:
    """(C, S) of worn microphones -> (1, S) their sum, each with its gain, peak at 0.7: as AMI's Mix-Headset."""
    gains = np.ones((len(audio), 1)) if gains_db is None else 10 ** (gains_db[:, None] / 20)
    summed: FloatArray = np.sum(audio * gains, axis=0, keepdims=True).astype(np.float32)
    return set_levels(summed, separately=False)


def set_levels(audio: FloatArray, gains_db: npt.NDArray[np.float64] | None = None, *, separately: bool) -> FloatArray:
    """Recording levels: the peak of all channels, or of each channel separately, at 0.7 and below.

    Args:
        audio: (C, S) float32.
        gains_db: (C,) differences between the preamplifiers; None for none.
        separately: each channel gets its own level, as people set a rack of lapel microphones; otherwise
            level differences between the channels stay as the room made them.

    Returns:
        (C, S) float32, never clipped.
    """
    peaks = np.max(np.abs(audio), axis=1, keepdims=True) if audio.size else np.ones((len(audio), 1))
    gains = np.ones((len(audio), 1)) if gains_db is None else 10 ** (gains_db[:, None] / 20)
    gains = gains / np.maximum(peaks, 1e-9) if separately else gains
    scaled_peak = np.max(gains * peaks, initial=1e-9)
    levelled: FloatArray = (audio * (PEAK / scaled_peak * gains)).astype(np.float32)
    return levelled


def _at_speech_level(audio: FloatArray) -> npt.NDArray[np.float64]:
    """The clip with the RMS of its sounding part at one level, so that corpora can be mixed."""
    sounding = audio[np.abs(audio) > 0.02 * np.max(np.abs(audio), initial=0.0)].astype(np.float64)
    rms = np.sqrt(np.mean(sounding**2)) if len(sounding) else 0.0
    return audio.astype(np.float64) * (SPEECH_RMS / rms if rms else 0.0)
