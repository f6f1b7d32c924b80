"""Training windows: ten seconds of a meeting made on the fly from the speech bank, with everything known about it.

Half of the windows have one talker at a time, so that reading a single talker is never unlearnt; in the others a
second talker interrupts, answers shortly or talks along. Where turns of real meetings are at hand, a share of the
windows has two or three talkers who speak when people spoke there. They are heard by headsets summed into one signal,
or by one to four microphones in a simulated room from a bank of rooms made beforehand; with noise, gains, sometimes a
dead channel, and what else happens to sound on its way (`degrade`). The same seed gives the same window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from streaming_models.data.corpus import SAMPLE_RATE_HZ, FloatArray
from streaming_models.data.degrade import degrade
from streaming_models.data.simulate import (
    MeetingSpec,
    Room,
    SimulationError,
    impulse_responses,
    place_microphones,
    seat_talkers,
)
from streaming_models.data.speech_bank import BankUtterance, BankWord, SpeechBank
from streaming_models.data.turn_taking import BREATH_SAMPLES, MOST_STRETCHED, RealTurn, draw_stretch
from streaming_models.sot import TimedUtterance, assign

RESPONSE_SAMPLES = 6_400
"""Longer tails are cut: 0.4 s."""
ROOM_TALKERS, ROOM_MICROPHONES = 3, 4
SHORT_SAMPLES = 40_000
"""Utterances up to this (2.5 s) serve as answers and backchannels."""
PAUSE_SAMPLES = 4_800
"""Words closer than this are one stretch of activity."""
BEFORE_SAMPLES = 3 * SAMPLE_RATE_HZ
"""A real stretch begins so long before its window: somebody may be in mid-speech."""
ANSWER_SAMPLES = 24_000
"""An utterance up to this long (1.5 s) may stand for any shorter turn."""
NEAREST = 4
"""A turn is filled with one of so many utterances, those whose lengths suit it best."""
ENDING_SAMPLES, DEAD_SHARE = SAMPLE_RATE_HZ // 2, 1e-3
"""A microphone whose end has less than this share of another's power has died."""
DEGRADED = 0.5
"""How much is done to windows; see `degrade`."""
REAL_SHARE = 0.3
"""Windows laid out as real meetings, where their turns are given."""


@dataclass(frozen=True, eq=False)
class RoomBank:
    """Impulse responses (rooms, ROOM_TALKERS, ROOM_MICROPHONES, RESPONSE_SAMPLES) float16.

    near: the same for summed headsets, one channel: (rooms, ROOM_TALKERS, RESPONSE_SAMPLES).
    """

    far: npt.NDArray[np.float16]
    near: npt.NDArray[np.float16]

    @classmethod
    def load(cls, path: Path) -> RoomBank:
        """Read what `save` wrote."""
        with np.load(path) as arrays:
            return cls(arrays["far"], arrays["near"])

    def save(self, path: Path) -> None:
        """Write as one `.npz`."""
        np.savez(path, far=self.far, near=self.near)


def build_rooms(count: int, seed: int) -> RoomBank:
    """Draw rooms, seats and arrays (linear, circular, ad hoc) and work out what each microphone hears.

    Raises:
        ValueError: a count below 1.
    """
    if count < 1:
        raise ValueError(f"expected one room or more, got {count}")
    far = np.zeros((count, ROOM_TALKERS, ROOM_MICROPHONES, RESPONSE_SAMPLES), np.float16)
    near = np.zeros((count, ROOM_TALKERS, RESPONSE_SAMPLES), np.float16)
    rng = np.random.default_rng(seed)
    names = [f"talker-{k}" for k in range(ROOM_TALKERS)]
    done = 0
    while done < count:
        size_m = (float(rng.uniform(3.0, 8.0)), float(rng.uniform(3.0, 6.0)), float(rng.uniform(2.4, 3.2)))
        room = Room(size_m, float(rng.uniform(0.15, 0.5)))
        kind = (("linear", 0.03, 0.2), ("circular", 0.03, 0.12), ("ad_hoc", 0.0, 1.0))[int(rng.integers(3))]
        spacing_m = float(rng.uniform(kind[1], kind[2]))
        spec = MeetingSpec(room, kind[0], ROOM_MICROPHONES, spacing_m=spacing_m)  # type: ignore[arg-type]
        try:
            seats = seat_talkers(room, names, rng)
            array = place_microphones(spec, seats, rng)
            worn = place_microphones(MeetingSpec(room, "close_talk", 0), seats, rng)
            responses = impulse_responses(room, seats, (*array, *worn))
        except SimulationError:
            continue
        for number, name in enumerate(names):
            cut = responses[name][:, :RESPONSE_SAMPLES]
            scale = 1 / np.sqrt(np.square(cut[:ROOM_MICROPHONES]).sum(1).mean())
            far[done, number, :, : cut.shape[1]] = cut[:ROOM_MICROPHONES] * scale
            headsets = cut[ROOM_MICROPHONES:].sum(0)
            near[done, number, : cut.shape[1]] = headsets / np.sqrt(np.square(headsets).sum())
        done += 1
    return RoomBank(far, near)


@dataclass(frozen=True, eq=False)
class Window:
    """mix: (S,), channels: (C, S), both float32 at 16 kHz; C is ROOM_MICROPHONES, absent ones are zero."""

    mix: FloatArray
    channels: FloatArray
    talks: tuple[TimedUtterance[BankWord], ...]

    def activity(self, frame_samples: int, frames: int) -> FloatArray:
        """(frames, 2): 1 where at least one, at least two, are talking."""
        count = np.zeros(frames, np.float32)
        by_speaker: dict[str, npt.NDArray[np.bool_]] = {}
        for talk in self.talks:
            active = by_speaker.setdefault(talk.speaker, np.zeros(frames, np.bool_))
            end = None
            for word in talk.words:
                start = word.start_sample
                if end is not None and start - end < PAUSE_SAMPLES:
                    start = end
                end = word.end_sample
                active[max(0, start // frame_samples) : max(0, -(-end // frame_samples))] = True
        for active in by_speaker.values():
            count += active
        return np.stack((count >= 1, count >= 2), 1).astype(np.float32)


class WindowSampler:
    """Draws windows; `draw(seed)` depends on the seed only."""

    def __init__(
        self,
        bank: SpeechBank,
        rooms: RoomBank,
        single_share: float = 0.5,
        *,
        degraded: float = DEGRADED,
        turns: Mapping[str, Sequence[RealTurn]] | None = None,
        real_share: float = REAL_SHARE,
    ) -> None:
        """A sampler over a bank.

        Args:
            bank, rooms: what is said, and where.
            single_share: of the windows that are not laid out as real meetings, those without overlap.
            degraded: strength of `degrade`; 0: microphones, codecs and networks are perfect.
            turns: of real meetings, as `turn_taking.read_turns` gives them; only their times are used.
            real_share: windows that are laid out as these.

        Raises:
            ValueError: utterances of fewer than two speakers, or a share or strength that is not within 0 and 1.
        """
        for name, value in (("single_share", single_share), ("degraded", degraded), ("real_share", real_share)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"expected {name} from 0 to 1, got {value}")
        usable = [u for u in bank.utterances if u.words]
        if len({u.speaker for u in usable}) < 2:
            raise ValueError(f"expected utterances of two speakers or more, got {len(usable)} utterances")
        self._bank, self._rooms, self._single_share = bank, rooms, single_share
        self._degraded, self._turns, self._real_share = degraded, turns, real_share if turns else 0.0
        self._utterances = usable
        self._short = [u for u in usable if u.samples <= SHORT_SAMPLES] or usable
        self._by_speaker: dict[str, list[BankUtterance]] = {}
        for utterance in usable:
            self._by_speaker.setdefault(utterance.speaker, []).append(utterance)

    def draw(self, seed: int, samples: int) -> Window:
        """A window of so many samples."""
        rng = np.random.default_rng(seed)
        # A generator of its own: what is said and where does not depend on what happens to it on its way.
        on_its_way = np.random.default_rng([seed, 1])
        if self._turns and np.random.default_rng([seed, 2]).random() < self._real_share:
            lines = self._as_in(self._turns, rng, samples)
            if lines:
                return self._render(rng, on_its_way, samples, lines)
        first = self._line(rng, samples, self._any(rng), int(rng.uniform(-2.5, 1.0) * SAMPLE_RATE_HZ))
        lines = [first]
        if rng.random() >= self._single_share:
            taken = {utterance.speaker for utterance, _ in first}
            second = self._answers(rng, samples, taken)
            if second:
                lines.append(second)
        return self._render(rng, on_its_way, samples, lines)

    def _as_in(
        self, turns: Mapping[str, Sequence[RealTurn]], rng: np.random.Generator, samples: int
    ) -> list[list[tuple[BankUtterance, int]]]:
        """A line each of the two or three who talk most in a real stretch, spoken by as many of the bank."""
        stretch = draw_stretch(turns, (BEFORE_SAMPLES + samples) / SAMPLE_RATE_HZ, rng, least_talkers=2)
        lines: list[list[tuple[BankUtterance, int]]] = []
        players: set[str] = set()
        for talker in stretch.speakers[:ROOM_TALKERS]:
            player = self._any(rng).speaker
            if player in players:
                continue
            players.add(player)
            line = self._filled(rng, [turn for turn in stretch.turns if turn.speaker == talker], player, samples)
            if line:
                lines.append(line)
        return _without_third_voice(lines)

    def _filled(
        self, rng: np.random.Generator, real: Sequence[RealTurn], player: str, samples: int
    ) -> list[tuple[BankUtterance, int]]:
        """A speaker's utterances at the times of a real talker's turns, each at most once; places of the window."""
        waiting = list(self._by_speaker[player])
        line: list[tuple[BankUtterance, int]] = []
        free = -BEFORE_SAMPLES
        for turn in real:
            start, end = (round(at_s * SAMPLE_RATE_HZ) - BEFORE_SAMPLES for at_s in (turn.start_s, turn.end_s))
            at = max(start, free)
            while at < min(end, samples):
                left = end - at
                fitting = [u for u in waiting if _spoken_samples(u) <= max(MOST_STRETCHED * left, ANSWER_SAMPLES)]
                if not fitting:
                    break
                near = sorted(fitting, key=lambda each: abs(_spoken_samples(each) - left))[:NEAREST]
                utterance = near[int(rng.integers(len(near)))]
                length = _spoken_samples(utterance)
                waiting.remove(utterance)
                if at + length > 0:
                    line.append((utterance, at - utterance.words[0].start_sample))
                at = free = at + length + BREATH_SAMPLES
        return line

    def _any(self, rng: np.random.Generator) -> BankUtterance:
        pool = self._short if rng.random() < 0.15 else self._utterances
        return pool[int(rng.integers(len(pool)))]

    def _line(
        self, rng: np.random.Generator, samples: int, first: BankUtterance, start: int
    ) -> list[tuple[BankUtterance, int]]:
        """Utterances one after the other, from `start` to the end of the window."""
        line: list[tuple[BankUtterance, int]] = []
        said: set[str] = set()
        utterance, at = first, start
        if at + utterance.words[-1].end_sample <= SAMPLE_RATE_HZ:
            at = 0
        while at < samples - SAMPLE_RATE_HZ // 2:
            line.append((utterance, at))
            said.add(utterance.id)
            at += utterance.words[-1].end_sample + int((0.15 + rng.exponential(0.5)) * SAMPLE_RATE_HZ)
            if rng.random() < 0.5:
                own = self._by_speaker[utterance.speaker]
                utterance = own[int(rng.integers(len(own)))]
            else:
                utterance = self._any(rng)
            if utterance.id in said:  # nobody says the same twice: that would teach to repeat
                utterance = self._any(rng)
            at -= utterance.words[0].start_sample
        return line

    def _answers(self, rng: np.random.Generator, samples: int, taken: set[str]) -> list[tuple[BankUtterance, int]]:
        """A second talker: short answers, or an utterance that overlaps as it comes."""
        line: list[tuple[BankUtterance, int]] = []
        at = int(rng.uniform(0.0, 0.6) * samples)
        speaker: str | None = None
        while at < samples - SAMPLE_RATE_HZ and len(line) < 3:
            pool = self._by_speaker[speaker] if speaker else (self._short if rng.random() < 0.35 else self._utterances)
            utterance = pool[int(rng.integers(len(pool)))]
            if utterance.speaker in taken or any(utterance is said for said, _ in line):
                if speaker:
                    break
                at += SAMPLE_RATE_HZ // 10
                continue
            speaker = utterance.speaker
            line.append((utterance, at))
            at += utterance.words[-1].end_sample + int((0.3 + rng.exponential(1.5)) * SAMPLE_RATE_HZ)
        return line

    def _render(
        self,
        rng: np.random.Generator,
        on_its_way: np.random.Generator,
        samples: int,
        lines: Sequence[list[tuple[BankUtterance, int]]],
    ) -> Window:
        talks: list[TimedUtterance[BankWord]] = []
        speakers = list(dict.fromkeys(u.speaker for line in lines for u, _ in line))
        gain_db = {speaker: float(rng.uniform(-5, 5)) for speaker in speakers}
        dry = {speaker: np.zeros(samples, np.float32) for speaker in speakers}
        for line in lines:
            for utterance, at in line:
                audio = self._bank.samples_of(utterance)
                level = np.sqrt(np.square(audio).mean()) + 1e-5
                audio = audio * np.float32(0.05 / level * 10 ** (gain_db[utterance.speaker] / 20))
                start, end = max(0, at), min(samples, at + len(audio))
                dry[utterance.speaker][start:end] += audio[start - at : end - at]
                words = tuple(BankWord(w.tokens, w.start_sample + at, w.end_sample + at) for w in utterance.words)
                talks.append(TimedUtterance(utterance.speaker, words[0].start_sample, words[-1].end_sample, words))
        channels = self._heard(rng, samples, dry)
        if len(channels) > 1 and rng.random() < 0.1:
            channels[int(rng.integers(len(channels)))] = 0.0
        if self._degraded:
            loudest = np.float32(0.9 / max(float(np.abs(channels).max()), 1e-5))
            channels = degrade(channels * loudest, on_its_way, self._degraded)
        live = channels[np.abs(channels).max(axis=1) > 0]
        # One that dies meanwhile is no mix: what is said later would be labelled and not heard.
        ends = np.square(live[:, -ENDING_SAMPLES:]).mean(axis=1)
        lasting = live[ends >= DEAD_SHARE * ends.max()]
        mix = live.mean(0) if rng.random() < 0.7 else lasting[int(rng.integers(len(lasting)))]
        scale = np.float32(rng.uniform(0.1, 0.9) / max(float(np.abs(channels).max()), float(np.abs(mix).max()), 1e-5))
        padded = np.zeros((ROOM_MICROPHONES, samples), np.float32)
        padded[: len(channels)] = channels * scale
        talks.sort(key=lambda talk: talk.start_sample)
        return Window((mix * scale).astype(np.float32), padded, tuple(talks))

    def _heard(self, rng: np.random.Generator, samples: int, dry: dict[str, FloatArray]) -> FloatArray:
        """(C, S): one channel of headsets or of the dry sum, or one to four of an array."""
        kind = rng.random()
        if kind < 0.2:
            heard = np.sum(list(dry.values()), axis=0, keepdims=True)
        else:
            room = int(rng.integers(len(self._rooms.far)))
            count = 1 if kind < 0.55 else int(rng.choice([1, 2, 3, 4], p=[0.3, 0.2, 0.1, 0.4]))
            chosen = rng.permutation(ROOM_MICROPHONES)[:count]
            seats = rng.permutation(ROOM_TALKERS)
            size = _fast_size(samples + RESPONSE_SAMPLES)
            total = np.zeros((count, size // 2 + 1), np.complex64)
            for number, track in enumerate(dry.values()):
                seat = seats[number % ROOM_TALKERS]
                near = self._rooms.near[room, seat][None]
                response = (near if kind < 0.55 else self._rooms.far[room, seat, chosen]).astype(np.float32)
                total += np.fft.rfft(track, size)[None] * np.fft.rfft(response, size, axis=1)
            heard = np.fft.irfft(total, size, axis=1)[:, :samples]
        heard = heard.astype(np.float32)
        power = float(np.square(heard).mean()) + 1e-9
        snr_db = float(rng.uniform(8, 45))
        noisy: FloatArray = heard + coloured(rng, heard.shape) * np.float32(np.sqrt(power / 10 ** (snr_db / 10)))
        return noisy


def _without_third_voice(lines: list[list[tuple[BankUtterance, int]]]) -> list[list[tuple[BankUtterance, int]]]:
    """The lines less what is said while two others speak: there are two virtual channels, and what is heard is to be
    labelled."""
    placed: list[TimedUtterance[BankWord]] = [
        TimedUtterance(f"{n} {k}", at + u.words[0].start_sample, at + u.words[-1].end_sample, ())
        for n, line in enumerate(lines)
        for k, (u, at) in enumerate(line)
    ]
    left_out = {utterance.speaker for utterance in assign(placed).left_out}
    kept = [[said for k, said in enumerate(line) if f"{n} {k}" not in left_out] for n, line in enumerate(lines)]
    return [line for line in kept if line]


def _spoken_samples(utterance: BankUtterance) -> int:
    """From its first word to the end of its last."""
    return utterance.words[-1].end_sample - utterance.words[0].start_sample


def coloured(rng: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
    """Noise of unit power with a random slope: each channel its own."""
    white = rng.standard_normal(shape, np.float32)
    mixing = float(rng.uniform(0.0, 0.98))
    size = shape[-1]
    # One-pole low-pass by its spectrum: from white to brownish.
    frequency = np.exp(-2j * np.pi * np.fft.rfftfreq(size)).astype(np.complex64)
    shaped = np.fft.irfft(np.fft.rfft(white, axis=-1) / (1 - mixing * frequency), size, axis=-1)
    result: FloatArray = (shaped / (shaped.std() + 1e-9)).astype(np.float32)
    return result


def _fast_size(samples: int) -> int:
    """A length not below `samples` that is a product of small factors."""
    best = 1 << (samples - 1).bit_length()
    for odd in (3, 5, 9, 15):
        size = odd << max(0, (-(-samples // odd) - 1).bit_length())
        best = min(best, size)
    return best
