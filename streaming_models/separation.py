"""Pulls apart the people around a microphone array: one signal a seat, and one of what no seat explains.

A *seat* is a place from which somebody talks. Wherever the microphones are, every seat has its own pattern of level and
phase between them in each band. The patterns known so far compete for every time-frequency point; who wins most of a
moment's points is talking, and a beamformer (MVDR) aimed at the seat and blind to the others gives its signal. New
seats are looked for in stretches of which a diarizer says that one voice speaks alone (`guide`). Such a hint only
proposes: whose voice it is does not count, and two stretches from one place are one seat.

It refuses to recognise, to name people, and to undo: audio that went out stands. A talker's first seconds, before the
place is known, go out with the rest; `Hindsight` has them as they should have been.

Any number of microphones in any arrangement, from two on; their order does not matter. Linear arithmetic on one bin at
a time, so no geometry is needed.

Sources: the mixture model is Ito et al., "Complex angular central Gaussian mixture model for directional statistics
in mask-based microphone array signal processing", EUSIPCO 2016; guidance by diarization and the beamformer after it are
Boeddeker et al., "Front-end processing for the CHiME-5 dinner party scenario", CHiME 2018; the filter is Souden et al.,
"On optimal frequency-domain multichannel linear filtering for noise reduction", IEEE TASLP 18(2), 2010. That it runs
as the audio comes, with seats that are found, merged and remembered, and the model of the rest are this project's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from streaming_models.dereverberation import Dereverberator
from streaming_models.frame_runs import runs, within
from streaming_models.short_time import (
    BINS,
    FRAME_SAMPLES,
    HOP_SAMPLES,
    SAMPLE_RATE_HZ,
    WINDOW,
    frames_in,
    sound_of,
    spectra_of,
)

FloatArray = NDArray[np.float32]
ComplexArray = NDArray[np.complex64]
BoolArray = NDArray[np.bool_]

GROUP_FRAMES = 4
GROUP_SAMPLES = GROUP_FRAMES * HOP_SAMPLES
"""Everything is decided 64 ms at a time."""
CONTEXT_HOPS = 60
"""What sounds up to a second before and after a stretch counts for its beamformer in hindsight."""
MOST_MICROPHONES = 6
"""Of more, this many are used: the work grows with the square of their number, the gain hardly."""
MOST_SEATS = 8
MASKED_MICROPHONES = 2
"""So few can be made blind to one place only. What others say is taken out of the spectrum as well then; with more
microphones that does more harm than good."""
MASK_FLOOR = np.float32(0.1)
"""What is left of it."""

ALL = slice(None)
_TINY = np.float32(1e-10)
_LEAST_DISTANCE = np.float32(1e-8)
_SPREAD = 3e-3
"""Part of a seat's pattern that looks like nothing in particular: no room is free of echo."""
_UNKNOWN = 1e-3
_LOADING = 1e-3


@dataclass(frozen=True)
class SeparationSettings:
    """When a seat is believed, and when it is heard. Chosen on simulated meetings: see README, Scores."""

    buffer_frames: int = frames_in(20)
    """Audio from which seats are learned anew with every hint."""
    keep_every: int = 2
    """Of the frames that are learned from: neighbours overlap and say nearly the same."""
    memory_s: float = 60.0
    """How long a seat is remembered that is not heard."""
    found_s: float = 0.7
    """Speech of one voice without a break that shows a place."""
    clear_evidence: float = 0.05
    """A place must fit its frames better than the rest does by this much, see `_Hearing.evidence`."""
    doubt_frames: int = 4
    """The pattern of a place is drawn to the rest's as if so many frames had been heard of that."""
    least_evidence: float = 0.075
    """Less evidence against the rest is counted as this: nothing is told apart by next to nothing."""
    found_share: float = 0.6
    """Two places are compared by this evidence: what one fits better than the other, over what it fits better than the
    rest. Measured where the truth is known: 0.87 and more for two people, 0.3 and less for one. From here on a place is
    tried as a seat of its own."""
    new_share: float = 0.45
    """A new seat that has been tried must differ by this much from every other."""
    same_share: float = 0.3
    """Known seats that differ by less are one."""
    lasting_s: float = 0.6
    """So much must be left of a new seat once it has been tried."""
    iterations: int = 5
    settle_iterations: int = 2
    """The first of them decide who talks when; only then the patterns are fitted."""
    share_floor: float = 0.03
    """Whoever is silent may begin to talk at any moment."""
    smoothing_frames: int = 14
    """Who talks hardly changes within 0.2 s."""
    rest_share_low: float = 0.2
    """The quietest part of the buffer shows what the room's noise and late echo look like."""
    rest_spread: float = 0.1
    """Part of the rest that looks like nothing in particular."""
    lowest_hz: float = 200.0
    highest_hz: float = 6_000.0
    """Where moments are judged: below, all places look alike; above there is little speech."""
    lookahead_frames: int = 6
    """96 ms: a seat is opened so much before its talker begins."""
    open_share: float = 0.2
    """Share of a moment (0.2 s) from which on a seat is heard."""
    rest_open_share: float = 0.5
    rest_floor: float = 0.1
    """What is left in the rest of a point that a seat explains."""
    start_share: float = 0.15
    """A new seat gets a line of its own when its talker pauses: no word is cut. A moment below this is a pause."""
    start_pause_frames: int = frames_in(0.19)
    start_within_frames: int = frames_in(2)
    """Or after this long, even within a word."""


@dataclass(frozen=True)
class SeatAudio:
    """The next samples of one line: a seat, or None for what no seat explains. A line has no holes."""

    seat: int | None
    start_sample: int
    pcm: FloatArray


@dataclass(frozen=True, eq=False)
class Hindsight:
    """The last seconds heard once more, with all that is known of the seats by now.

    start_sample: of the first hop; may lie one hop before the audio. shares: seat -> (T,) its share of every hop.
    open: seat -> (T,) whether its talker is to be heard there.
    """

    start_sample: int
    shares: Mapping[int, FloatArray]
    open: Mapping[int, BoolArray]
    _spectra: ComplexArray  # (C, T, F)
    _hearing: _Hearing  # of every `keep_every`-th frame
    _parts: Mapping[int, FloatArray]  # seat -> (F, T'), whose the points of those frames are
    _loudness: Mapping[int, ComplexArray]
    _every: int

    @property
    def hops(self) -> int:
        """T."""
        return int(self._spectra.shape[1])

    def unexplained(self, first: int, last: int) -> float:
        """Mean share of the hops from `first` to before `last` that no seat has."""
        return 1.0 - sum(float(share[first:last].mean()) for share in self.shares.values())

    def audio(self, seat: int, first: int, last: int) -> FloatArray:
        """What was said on a seat in the hops from `first` to before `last`; silence where its talker is silent.

        The beamformer is blind to what else sounds in this stretch, not to what sounds in others: with few microphones
        there are more talkers in a room than it could be blind to at once. See `MASKED_MICROPHONES` for the fewest.
        """
        stretch = slice(max(0, first - CONTEXT_HOPS) // self._every, -(-(last + CONTEXT_HOPS) // self._every))
        others = self._hearing.loudness(1.0 - self._parts[seat], stretch)
        spectra = self._spectra[:, first:last]
        used = self._hearing.usable
        filters, _ = _filter(self._loudness[seat], others, used)
        beam = np.einsum("fc,ctf->tf", filters.conj(), spectra) * self.open[seat][first:last, None]
        if used.sum() <= MASKED_MICROPHONES:
            beam *= np.maximum(np.repeat(self._parts[seat], self._every, axis=1)[:, first:last].T, MASK_FLOOR)
        return sound_of(beam)


@dataclass(eq=False)
class _Seat:
    """One place: its pattern in every bin, and the filter that listens to it.

    pattern: (F, C, C) Hermitian, mean of the diagonal 1. fitted: the buffer's part in it; remembered: older audio's.
    power: (F, C, C) spatial covariance of what was said there before the buffer, loudness: and in it. heard: seconds
    that each name of the hints spoke here alone.
    """

    number: int
    pattern: ComplexArray
    founded_frame: int
    last_heard_frame: int
    started: bool = False
    paused_frames: int = 0
    reference: int = -1
    heard: dict[str, float] = field(default_factory=dict)
    model: _Model = field(init=False)
    filter: ComplexArray = field(init=False)
    fitted: ComplexArray = field(init=False)
    remembered: ComplexArray = field(init=False)
    power: ComplexArray = field(init=False)
    loudness: ComplexArray = field(init=False)

    def __post_init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Whatever was learned before came from two people."""
        nothing = np.zeros_like(self.pattern)
        self.fitted = self.remembered = self.power = self.loudness = nothing


@dataclass(eq=False)
class _Moment:
    """A frame on its way out: spectra of the mix and the seats, who talks, and which points are whose."""

    number: int
    mix: ComplexArray  # (F,)
    spectra: dict[int, ComplexArray]  # seat -> (F,)
    shares: dict[int, float]
    points: dict[int, FloatArray]  # seat -> (F,)


class SeatSeparator:
    """Audio of C microphones in, the lines of the seats and of the rest out.

    The lines run 0.1 to 0.2 s behind. Results depend on the audio and on the hints alone, never on how the audio was
    cut. Held: `buffer_frames` of spectra, and at most `MOST_SEATS` seats; when another is found the one that was
    silent longest is given up.
    """

    def __init__(self, channels: int, settings: SeparationSettings | None = None) -> None:
        """Args: channels: number of microphones, 2 or more."""
        if channels < 2:
            raise ValueError(f"expected 2 microphones or more, received {channels}")
        self.settings = settings or SeparationSettings()
        self._all_channels = channels
        count = min(channels, MOST_MICROPHONES)
        self._chosen = np.linspace(0, channels - 1, count).round().astype(np.int64)
        self._channels = count
        hz = np.arange(BINS) * (SAMPLE_RATE_HZ / FRAME_SAMPLES)
        self._band = ((hz > self.settings.lowest_hz) & (hz < self.settings.highest_hz)).astype(np.float32)
        self._dereverberator = Dereverberator(count, BINS)
        self.reset()

    def reset(self) -> None:
        """Forget everything; equal to a new object."""
        count = self._channels
        settings = self.settings
        self._dereverberator.reset()
        self._pending = np.zeros((count + 1, 0), np.float32)
        self._tail = np.zeros((count + 1, FRAME_SAMPLES - HOP_SAMPLES), np.float32)
        self._buffer: deque[ComplexArray] = deque(maxlen=settings.buffer_frames // GROUP_FRAMES)
        self._frame = 0
        self._learned_frame = 0  # of the last hints
        self._seats: list[_Seat] = []
        self._next_number = 0
        self._usable = np.ones(count, np.bool_)
        self._rest_pattern: ComplexArray | None = None
        self._rest = _Model(np.zeros((BINS, 0), np.float32), np.zeros(BINS, np.float32))
        self._power = np.zeros((BINS, count, count), np.complex64)  # of everything before the buffer
        self._everything = self._power  # and in it
        self._shares = np.ones(1, np.float32)  # of the seats and the rest, just now
        self._moments: deque[_Moment] = deque()
        self._next_moment = 0  # place in them of the next that goes out
        self._overlaps: dict[int | None, FloatArray] = {}
        self._aim()

    @property
    def seats(self) -> tuple[int, ...]:
        """Seats that have a line."""
        return tuple(seat.number for seat in self._seats if seat.started)

    @property
    def learns_from_samples(self) -> int:
        """How far back hints count."""
        return self.settings.buffer_frames * HOP_SAMPLES

    @property
    def recent(self) -> frozenset[int]:
        """Seats at which somebody spoke in the audio that is learned from."""
        return frozenset(seat.number for seat in self._seats if seat.last_heard_frame == self._learned_frame)

    @property
    def heard(self) -> dict[int, dict[str, float]]:
        """For each seat the seconds that each name of the hints spoke there alone, the older ones counting less."""
        return {seat.number: dict(seat.heard) for seat in self._seats}

    # ---- audio -------------------------------------------------------------------------------------------------

    def step(self, channels: FloatArray, mix: FloatArray, dead: Collection[int] = ()) -> list[SeatAudio]:
        """Take audio in order.

        Args:
            channels: (C, S) float32 at 16 kHz; S may be 0.
            mix: (S,) the same moments through all microphones; what no seat explains is taken from it.
            dead: microphones that do not work. Digital silence is noticed anyway.

        Raises:
            ValueError: another shape.
        """
        if channels.shape != (self._all_channels, len(mix)):
            raise ValueError(f"expected channels of shape ({self._all_channels}, {len(mix)}), got {channels.shape}")
        rows = np.concatenate((channels[self._chosen], mix[None]))
        self._pending = np.concatenate((self._pending, rows), axis=1)
        out: list[SeatAudio] = []
        whole = self._pending.shape[1] // GROUP_SAMPLES * GROUP_SAMPLES
        for at in range(0, whole, GROUP_SAMPLES):
            self._group(self._pending[:, at : at + GROUP_SAMPLES], dead, out)
        self._pending = self._pending[:, whole:]
        return _joined(out)

    def flush(self) -> list[SeatAudio]:
        """The audio has ended: put out what is left, exactly as many samples in all as came in."""
        end = self._frame * HOP_SAMPLES + self._pending.shape[1]
        out: list[SeatAudio] = []
        ahead = (self.settings.lookahead_frames + 2) * HOP_SAMPLES
        padding = -(-(self._pending.shape[1] + ahead) // GROUP_SAMPLES) * GROUP_SAMPLES - self._pending.shape[1]
        padded = np.pad(self._pending, ((0, 0), (0, padding)))
        for at in range(0, padded.shape[1], GROUP_SAMPLES):
            self._group(padded[:, at : at + GROUP_SAMPLES], None, out)
        self._pending = self._pending[:, :0]
        cut = [SeatAudio(a.seat, a.start_sample, a.pcm[: max(0, end - a.start_sample)]) for a in _joined(out)]
        return [audio for audio in cut if len(audio.pcm)]

    def _group(self, block: FloatArray, dead: Collection[int] | None, out: list[SeatAudio]) -> None:
        """Take the next samples; dead: None where they are padding, which says nothing of the microphones."""
        sound = np.concatenate((self._tail, block), axis=1)
        self._tail = sound[:, GROUP_SAMPLES:]
        spectra = spectra_of(sound)  # (C + 1, T, F)
        if dead is not None:
            self._use(block[:-1], dead)
        clean = self._dereverberator.step(spectra[:-1], self._usable)
        self._buffer.append(clean)
        points, shares = self._judge(clean)
        beams = {seat.number: np.einsum("fc,ctf->tf", seat.filter.conj(), clean) for seat in self._seats}
        for t in range(GROUP_FRAMES):
            self._moments.append(
                _Moment(
                    self._frame + t,
                    spectra[-1, t],
                    {number: beam[t] for number, beam in beams.items()},
                    {seat.number: float(shares[t, k]) for k, seat in enumerate(self._seats)},
                    {seat.number: points[:, t, k] for k, seat in enumerate(self._seats)},
                )
            )
        self._frame += GROUP_FRAMES
        self._start_lines(shares)
        while self._next_moment + self.settings.lookahead_frames < len(self._moments):
            self._emit(out)

    def _use(self, block: FloatArray, dead: Collection[int]) -> None:
        """Leave microphones out that do not work, or take them in again."""
        silent = np.abs(block).max(axis=1) <= _TINY
        usable = ~silent if not silent.all() else self._usable.copy()
        usable &= np.array([int(channel) not in dead for channel in self._chosen])
        if not np.array_equal(usable, self._usable):
            self._usable = usable
            self._aim()

    def _judge(self, spectra: ComplexArray) -> tuple[FloatArray, FloatArray]:
        """Whose the points of a group of frames are.

        Args:
            spectra: (C, T, F).

        Returns:
            (F, T, K + 1) parts of the seats and the rest, and (T, K + 1) their shares of each moment.
        """
        if not self._separates or not self._seats:
            nothing = np.zeros((BINS, spectra.shape[1], len(self._seats)), np.float32)
            rest = np.ones((BINS, spectra.shape[1], 1), np.float32)
            points = np.concatenate((nothing, rest), axis=2)
            return points, points[0]
        hearing = _Hearing(spectra, self._usable, self._band)
        fits = hearing.fits([*(seat.model for seat in self._seats), self._rest])
        floor = self.settings.share_floor
        points = _parts(fits, np.repeat(_normal(self._shares + floor)[None], spectra.shape[1], axis=0))
        now = hearing.shares(points).mean(axis=0)
        # Once more, with what these frames say themselves.
        prior = _normal(np.float32(0.7) * now + np.float32(0.3) * self._shares + np.float32(floor))
        points = _parts(fits, np.repeat(prior[None], spectra.shape[1], axis=0))
        shares = hearing.shares(points)
        self._shares = np.float32(0.5) * (self._shares + shares.mean(axis=0))
        return points, shares

    def _start_lines(self, shares: FloatArray) -> None:
        settings = self.settings
        for k, seat in enumerate(self._seats):
            if seat.started:
                continue
            silent = float(shares[:, k].mean()) < settings.start_share
            seat.paused_frames = seat.paused_frames + GROUP_FRAMES if silent else 0
            waited = self._frame - seat.founded_frame
            seat.started = seat.paused_frames >= settings.start_pause_frames or waited > settings.start_within_frames

    def _emit(self, out: list[SeatAudio]) -> None:
        """Put out the next frame, which is judged by the moments around it as well."""
        settings = self.settings
        moment = self._moments[self._next_moment]
        around = list(self._moments)[: self._next_moment + settings.lookahead_frames + 1]
        lines = [seat.number for seat in self._seats if seat.started and seat.number in moment.spectra]
        for number in lines:
            share = np.mean([m.shares[number] for m in around if number in m.shares])
            spectrum = moment.spectra[number] if share > settings.open_share else np.zeros(BINS, np.complex64)
            if self._usable.sum() <= MASKED_MICROPHONES:
                spectrum = spectrum * np.maximum(moment.points[number], MASK_FLOOR)
            self._put(number, moment.number, spectrum, out)
        rest = moment.mix
        if lines:
            unexplained = np.mean([1.0 - sum(m.shares.get(number, 0.0) for number in lines) for m in around])
            explained = sum((moment.points[number] for number in lines), np.zeros(BINS, np.float32))
            mask = np.maximum(1.0 - explained, settings.rest_floor) if unexplained > settings.rest_open_share else 0.0
            rest = (rest * mask).astype(np.complex64)
        self._put(None, moment.number, rest, out)
        if self._next_moment < settings.lookahead_frames:
            self._next_moment += 1
        else:
            self._moments.popleft()

    def _put(self, line: int | None, frame: int, spectrum: ComplexArray, out: list[SeatAudio]) -> None:
        sound = np.fft.irfft(spectrum, FRAME_SAMPLES).astype(np.float32) * WINDOW
        sound[: FRAME_SAMPLES - HOP_SAMPLES] += self._overlaps.get(line, np.float32(0))
        self._overlaps[line] = sound[HOP_SAMPLES:]
        start = (frame - 1) * HOP_SAMPLES
        if start >= 0:
            out.append(SeatAudio(line, start, sound[:HOP_SAMPLES]))

    # ---- learning ----------------------------------------------------------------------------------------------

    def guide(self, alone: Mapping[str, Sequence[tuple[int, int]]], since_s: float) -> Hindsight | None:
        """Learn from the audio so far, with hints of who spoke alone when.

        Args:
            alone: for each name the stretches (first sample, sample after the last) in which that voice spoke and no
                other. Names may be of people or of passing guesses, and one voice may have several.
            since_s: seconds since the last call: how much of the buffer is new.

        Returns:
            How the last seconds sound by what is known now; None while there is no seat.
        """
        if not self._buffer or not self._separates:
            return None
        self._learned_frame = self._frame
        spectra = np.concatenate(list(self._buffer), axis=1)
        step = self.settings.keep_every
        first = self._frame - spectra.shape[1]
        hearing = _Hearing(spectra[:, ::step], self._usable, self._band)
        middles = np.arange(first, self._frame, step) * HOP_SAMPLES
        hints = {name: within(middles, stretches) for name, stretches in alone.items()}
        self._learn_rest(hearing)
        new = self._found(hearing, hints)
        if not self._seats:
            return None
        parts = self._merge(hearing, self._fit(hearing, self._settled(hearing)), new)
        fresh = min(1.0, since_s * SAMPLE_RATE_HZ / HOP_SAMPLES / spectra.shape[1])
        self._remember(hearing, parts, hints, fresh, float(np.exp(-since_s / self.settings.memory_s)))
        self._aim()
        return self._hindsight(spectra, hearing, parts)

    def _hindsight(self, spectra: ComplexArray, hearing: _Hearing, parts: FloatArray) -> Hindsight:
        settings = self.settings
        every = settings.keep_every
        width = (2 * settings.lookahead_frames + 1) // every
        shares: dict[int, FloatArray] = {}
        audible: dict[int, BoolArray] = {}
        for seat, share in zip(self._seats, hearing.shares(parts).T, strict=False):
            smooth = np.convolve(share, np.full(width, 1 / width, np.float32), "same")
            shares[seat.number] = np.repeat(smooth, every)[: spectra.shape[1]].astype(np.float32)
            audible[seat.number] = shares[seat.number] > settings.open_share
        return Hindsight(
            (self._frame - spectra.shape[1] - 1) * HOP_SAMPLES,
            shares,
            audible,
            spectra,
            hearing,
            {seat.number: parts[:, :, k] for k, seat in enumerate(self._seats)},
            {seat.number: seat.loudness for seat in self._seats},
            every,
        )

    @property
    def _separates(self) -> bool:
        return int(self._usable.sum()) >= 2

    def _learn_rest(self, hearing: _Hearing) -> None:
        quiet = hearing.quietest(self.settings.rest_share_low)
        pattern = _pattern(hearing.covariance(np.repeat(quiet[None], BINS, axis=0).astype(np.float32)))
        if self._rest_pattern is not None:
            pattern = (0.8 * self._rest_pattern + 0.2 * pattern).astype(np.complex64)
        self._rest_pattern = pattern
        self._rest = self._model(pattern, self.settings.rest_spread)

    def _model(self, pattern: ComplexArray, spread: float = _SPREAD) -> _Model:
        """A pattern as `_Hearing` judges by it, on the microphones that work."""
        used = pattern[:, self._usable][:, :, self._usable]
        # A microphone that was dead while this was learned is as good as any.
        unknown = (np.einsum("fcc->fc", used).real < _UNKNOWN).astype(np.float32)
        identity = np.eye(used.shape[1], dtype=np.complex64)
        used = (1 - spread) * used + spread * identity + unknown[:, :, None] * identity
        return _Model(_flat(np.linalg.inv(used)), np.linalg.slogdet(used)[1].astype(np.float32))

    def _difference(self, hearing: _Hearing, model: _Model, other: _Model, frames: BoolArray) -> float:
        """How far the frames tell one place from another: about 0 if both are one, about 1 if not."""
        clear = max(hearing.evidence(model, self._rest, frames), self.settings.least_evidence)
        return hearing.evidence(model, other, frames) / clear

    def _least_frames(self, seconds: float) -> float:
        return seconds * SAMPLE_RATE_HZ / HOP_SAMPLES / self.settings.keep_every

    def _found(self, hearing: _Hearing, hints: Mapping[str, BoolArray]) -> list[_Seat]:
        """Try seats for places that are none of the known seats; of places that are one seat all but one are new."""
        least = self.settings.found_share
        models = [self._model(seat.pattern) for seat in self._seats]
        new: list[_Seat] = []
        at: dict[int, list[tuple[float, _Place]]] = {}
        for place in self._places(hearing, hints):
            apart = [place.difference(model) for model in models]
            nearest = int(np.argmin(apart)) if apart else -1
            if nearest < 0 or apart[nearest] >= least:
                new.append(self._seat(place.pattern))
            else:
                at.setdefault(nearest, []).append((apart[nearest], place))
        for nearest, sharers in at.items():
            if len(sharers) > 1:
                sharers.sort(key=lambda sharer: sharer[0])
                self._seats[nearest].pattern = sharers[0][1].pattern
                self._seats[nearest].forget()
                new += [self._seat(place.pattern) for _, place in sharers[1:]]
        self._seats = self._seats + new
        return new

    def _places(self, hearing: _Hearing, hints: Mapping[str, BoolArray]) -> list[_Place]:
        """The places, each once, from which one voice spoke alone without a break, by the longest stretches.

        A stretch whose halves come from two places is two stretches.
        """
        settings = self.settings
        assert self._rest_pattern is not None, "the rest is learned first"
        rest = self._model(self._rest_pattern)
        least = self._least_frames(settings.found_s)
        stretches = {run for frames in hints.values() for run in runs(frames) if run[1] - run[0] >= least}
        found: list[tuple[_Place, _Model]] = []
        waiting = sorted(stretches, key=_longest_first)
        while waiting:
            first, after = waiting.pop(0)
            middle = (first + after) // 2
            halves = hearing.of(slice(first, middle)), hearing.of(slice(middle, after))
            one, other = (self._model(self._direct(half)) for half in halves)
            pattern = self._direct(hearing.of(slice(first, after)))
            place = _Place(pattern, halves, (other, one), rest, settings.least_evidence)
            if place.clear < settings.clear_evidence:
                waiting += [half for half in ((first, middle), (middle, after)) if half[1] - half[0] >= least]
                waiting.sort(key=_longest_first)
            elif all(place.difference(model) >= settings.found_share for _, model in found):
                found.append((place, self._model(pattern)))
        return [place for place, _ in found]

    def _seat(self, pattern: ComplexArray) -> _Seat:
        seat = _Seat(self._next_number, pattern, self._frame, last_heard_frame=self._frame)
        self._next_number += 1
        return seat

    def _direct(self, hearing: _Hearing) -> ComplexArray:
        """The pattern of all the frames, as if nothing else were in them; of few frames it is closer to the rest's."""
        assert self._rest_pattern is not None, "the rest is learned first"
        mass = np.ones(hearing.shape, np.float32)
        pattern = _pattern(hearing.covariance(mass))
        for _ in range(2):
            pattern = _pattern(hearing.covariance(mass / hearing.distance(self._model(pattern))))
        known = np.float32(hearing.shape[1] / (hearing.shape[1] + self.settings.doubt_frames))
        return np.asarray(known * pattern + (1 - known) * self._rest_pattern, np.complex64)

    def _settled(self, hearing: _Hearing) -> FloatArray:
        """(T, K + 1) who talks when, by the seats as they are."""
        fits = self._fits(hearing)
        prior = np.full((fits.shape[1], fits.shape[2]), 1 / fits.shape[2], np.float32)
        for _ in range(self.settings.settle_iterations):
            prior = self._smooth(hearing.shares(_parts(fits, prior)))
        return prior

    def _smooth(self, shares: FloatArray) -> FloatArray:
        width = max(1, self.settings.smoothing_frames // self.settings.keep_every)
        box = np.full(width, 1 / width)
        smooth = np.stack([np.convolve(column, box, "same") for column in shares.T], axis=1)[: len(shares)]
        return _normal((smooth + self.settings.share_floor).astype(np.float32))

    def _fit(self, hearing: _Hearing, prior: FloatArray) -> FloatArray:
        """Fit the patterns to the buffer and to what is remembered; (F, T, K + 1) whose its points are.

        prior: (T, K + 1) who talks when, by the patterns as they are.
        """
        for _ in range(self.settings.iterations - self.settings.settle_iterations):
            models = [self._model(seat.pattern) for seat in self._seats]
            parts = _parts(hearing.fits([*models, self._rest]), prior)
            prior = self._smooth(hearing.shares(parts))
            for k, seat in enumerate(self._seats):
                seat.fitted = hearing.covariance(parts[:, :, k] / hearing.distance(models[k]))
                seat.pattern = _pattern(seat.fitted + seat.remembered)
        return _parts(self._fits(hearing), prior)

    def _fits(self, hearing: _Hearing) -> FloatArray:
        """(F, T, K + 1) how well the seats, as they are, and the rest fit."""
        return hearing.fits([*(self._model(seat.pattern) for seat in self._seats), self._rest])

    def _merge(self, hearing: _Hearing, parts: FloatArray, new: Collection[_Seat]) -> FloatArray:
        """Give up seats that are another one, that did not last, or that there is no place for."""
        settings = self.settings
        seats = self._seats
        dominated = self._smooth(hearing.shares(parts)) > 0.5  # (T, K + 1)
        models = [self._model(seat.pattern) for seat in seats]
        lasting, least = self._least_frames(settings.lasting_s), self._least_frames(settings.found_s)
        gone = {k for k, seat in enumerate(seats) if seat in new and dominated[:, k].sum() < lasting}
        for i in range(len(seats)):
            for j in range(i + 1, len(seats)):
                if i in gone or j in gone:
                    continue
                differences = [
                    self._difference(hearing, models[a], models[b], dominated[:, a])
                    for a, b in ((i, j), (j, i))
                    if dominated[:, a].sum() > least
                ]
                needed = settings.new_share if seats[j] in new else settings.same_share
                if differences and min(differences) < needed:
                    gone.add(j)
        for k, seat in enumerate(seats):
            if dominated[:, k].any():
                seat.last_heard_frame = self._frame
        left = [seat for k, seat in enumerate(seats) if k not in gone]
        while len(left) > MOST_SEATS:
            left.remove(min(left, key=lambda seat: (seat.last_heard_frame, seat.number)))
        if len(left) < len(seats):
            self._seats = left
            for seat in seats:
                if seat not in left:
                    self._overlaps.pop(seat.number, None)
            parts = _parts(self._fits(hearing), self._settled(hearing))
        return parts

    def _remember(
        self, hearing: _Hearing, parts: FloatArray, hints: Mapping[str, BoolArray], fresh: float, kept: float
    ) -> None:
        """Aim from everything known, then add the buffer's new part to what is remembered."""
        shares = self._smooth(hearing.shares(parts))
        frame_s = HOP_SAMPLES * self.settings.keep_every / SAMPLE_RATE_HZ
        everything = hearing.loudness()
        self._everything = self._power + everything
        self._power = (kept * self._power + fresh * everything).astype(np.complex64)
        for k, seat in enumerate(self._seats):
            own = hearing.loudness(parts[:, :, k])
            seat.loudness = seat.power + own
            seat.power = (kept * seat.power + fresh * own).astype(np.complex64)
            seat.remembered = (kept * seat.remembered + fresh * seat.fitted).astype(np.complex64)
            seat.heard = {name: kept * seconds for name, seconds in seat.heard.items()}
            for name, frames in hints.items():
                seconds = fresh * frame_s * float((frames & (shares[:, k] > 0.5)).sum())
                if seconds > 0:
                    seat.heard[name] = seat.heard.get(name, 0.0) + seconds

    def _aim(self) -> None:
        """Filters and models of the seats for the microphones that work now."""
        self._shares = np.full(len(self._seats) + 1, 1 / (len(self._seats) + 1), np.float32)
        if self._rest_pattern is not None:
            self._rest = self._model(self._rest_pattern, self.settings.rest_spread)
        for seat in self._seats:
            seat.model = self._model(seat.pattern)
            seat.filter, seat.reference = _filter(
                seat.loudness, self._everything - seat.loudness, self._usable, seat.reference
            )


@dataclass(frozen=True, eq=False)
class _Model:
    """A pattern, ready to judge by: (F, M) its inverse, flat, and (F,) the logarithm of its determinant."""

    inverse: FloatArray
    log_volume: FloatArray


@dataclass(frozen=True, eq=False)
class _Place:
    """Where a stretch of speech comes from. Its halves are judged by each other: a pattern fits what it was made of.

    pattern: of the whole stretch. crossed: for each half what the other one looks like. least: see
    `SeparationSettings.least_evidence`.
    """

    pattern: ComplexArray
    halves: tuple[_Hearing, _Hearing]
    crossed: tuple[_Model, _Model]
    rest: _Model
    least: float

    @property
    def clear(self) -> float:
        """Evidence that both halves come from one place."""
        return min(half.evidence(model, self.rest) for half, model in zip(self.halves, self.crossed, strict=True))

    def difference(self, other: _Model) -> float:
        """How far it is from another place: about 0 or below if both are one, about 1 if not."""
        apart = sum(half.evidence(model, other) for half, model in zip(self.halves, self.crossed, strict=True))
        clear = sum(half.evidence(model, self.rest) for half, model in zip(self.halves, self.crossed, strict=True))
        return apart / max(clear, 2 * self.least)


class _Hearing:
    """Some frames of the working microphones as directions: level and phase between microphones, loudness aside."""

    def __init__(self, spectra: ComplexArray, usable: BoolArray, band: FloatArray) -> None:
        """Args: spectra: (C, T, F); usable: (C,); band: (F,) 1 where moments are judged."""
        points = np.ascontiguousarray(spectra.transpose(2, 1, 0))  # (F, T, C)
        length = np.linalg.norm(points[:, :, usable], axis=2, keepdims=True)
        self.usable = usable
        self._size = int(usable.sum())
        self._directions = _flat_outer(points[:, :, usable] / (length + _TINY))  # (F, T, M)
        # Loud points count more, but not as much more as they are louder.
        self._weight = (length[:, :, 0] ** 0.6 * band[:, None]).astype(np.float32)  # (F, T)
        self._weight_sum = self._weight.sum(axis=0) + _TINY
        self._power = np.square(length[:, :, 0])

    def distance(self, model: _Model) -> FloatArray:
        """(F, T) how far the points lie from a pattern."""
        near: FloatArray = (self._directions @ model.inverse[:, :, None])[:, :, 0]
        return np.maximum(near, _LEAST_DISTANCE)

    def fits(self, models: Sequence[_Model], frames: BoolArray | slice = ALL) -> FloatArray:
        """(F, T, K) log-likelihoods of all frames or of some, up to what all have in common."""
        inverse = np.stack([model.inverse for model in models], axis=1)  # (F, K, M)
        volume = np.stack([model.log_volume for model in models], axis=1)  # (F, K)
        distance = np.maximum(self._directions[:, frames] @ inverse.swapaxes(1, 2), _LEAST_DISTANCE)
        return np.asarray(-volume[:, None] - self._size * np.log(distance), np.float32)

    def shares(self, parts: FloatArray) -> FloatArray:
        """(T, K) of (F, T, K): whose each moment is."""
        return np.asarray(np.einsum("ftk,ft->tk", parts, self._weight) / self._weight_sum[:, None], np.float32)

    def of(self, stretch: slice) -> _Hearing:
        """Of these frames alone."""
        part = copy(self)
        part._directions, part._weight = self._directions[:, stretch], self._weight[:, stretch]
        part._weight_sum, part._power = self._weight_sum[stretch], self._power[:, stretch]
        return part

    @property
    def shape(self) -> tuple[int, int]:
        """(F, T)."""
        return self._weight.shape[0], self._weight.shape[1]

    def evidence(self, model: _Model, other: _Model, frames: BoolArray | slice = ALL) -> float:
        """How much better one pattern fits some frames than another: log-likelihood a point and microphone."""
        fits = self.fits([model, other], frames)
        weight = self._weight[:, frames]
        difference = float(((fits[:, :, 0] - fits[:, :, 1]) * weight).sum() / (weight.sum() + _TINY))
        return difference / self._size

    def quietest(self, part: float) -> BoolArray:
        """(T,) the frames with the least sound."""
        loudness = self._power.sum(axis=0)
        return np.asarray(loudness <= np.quantile(loudness, part))

    def covariance(self, mass: FloatArray, stretch: slice = ALL) -> ComplexArray:
        """(F, C, C) of the directions, weighted by (F, T); 0 for microphones that do not work."""
        flat = (mass[:, None] @ self._directions[:, stretch])[:, 0]
        count = len(self.usable)
        full = np.zeros((len(flat), count, count), np.complex64)
        used = np.flatnonzero(self.usable)
        full[:, used[:, None], used[None]] = _square(flat, self._size)
        return full

    def loudness(self, parts: FloatArray | None = None, stretch: slice = ALL) -> ComplexArray:
        """(F, C, C) spatial covariance of the sound, of (F, T) parts of its points, in a stretch of its frames."""
        power = self._power if parts is None else self._power * parts
        return self.covariance(power[:, stretch], stretch)


def _flat_outer(points: ComplexArray) -> FloatArray:
    """(..., C) -> (..., C * C) real: z^H A z is its product with `_flat(A)`."""
    i, j = np.triu_indices(points.shape[-1], 1)
    cross = points[..., i].conj() * points[..., j] * np.float32(np.sqrt(2))
    own = np.square(points.real) + np.square(points.imag)
    return np.ascontiguousarray(np.concatenate((own, cross.real, cross.imag), axis=-1), np.float32)


def _flat(matrix: ComplexArray) -> FloatArray:
    """Hermitian (..., C, C) -> (..., C * C)."""
    size = matrix.shape[-1]
    i, j = np.triu_indices(size, 1)
    diagonal = np.arange(size)
    above = matrix[..., i, j] * np.float32(np.sqrt(2))
    return np.concatenate((matrix[..., diagonal, diagonal].real, above.real, -above.imag), axis=-1).astype(np.float32)


def _square(flat: FloatArray, size: int) -> ComplexArray:
    """Sums of `_flat_outer` -> sums of z z^H, (..., C, C)."""
    i, j = np.triu_indices(size, 1)
    diagonal = np.arange(size)
    pairs = len(i)
    cross = (flat[..., size : size + pairs] - 1j * flat[..., size + pairs :]) / np.float32(np.sqrt(2))
    matrix = np.zeros((*flat.shape[:-1], size, size), np.complex64)
    matrix[..., diagonal, diagonal] = flat[..., :size]
    matrix[..., i, j], matrix[..., j, i] = cross, cross.conj()
    return matrix


def _filter(
    own: ComplexArray, others: ComplexArray, usable: BoolArray, reference: int = -1
) -> tuple[ComplexArray, int]:
    """A beamformer (MVDR) for what has the spatial covariance `own` beside what has that of `others`.

    Args:
        own, others: (F, C, C).
        usable: (C,) microphones that work.
        reference: the one as which it shall sound; if it does not work, or is -1, the clearest is taken.

    Returns:
        (F, C), to be conjugated, and the reference.
    """
    used = np.flatnonzero(usable)
    own, others = own[:, used][:, :, used], others[:, used][:, :, used]
    mean = np.einsum("fcc->f", others).real / len(used)
    others = others + (_LOADING * mean + _TINY)[:, None, None] * np.eye(len(used), dtype=np.complex64)
    ratio = np.linalg.solve(others, own)
    filters = ratio / (np.einsum("fcc->f", ratio).real[:, None, None] + _TINY)
    if reference not in used:
        heard = np.einsum("fcr,fcd,fdr->r", filters.conj(), own, filters).real
        disturbed = np.einsum("fcr,fcd,fdr->r", filters.conj(), others, filters).real
        reference = int(used[np.argmax(heard / (disturbed + _TINY))])
    found = np.zeros((len(filters), len(usable)), np.complex64)
    found[:, used] = filters[:, :, int(np.flatnonzero(used == reference)[0])]
    return found, reference


def _pattern(covariance: ComplexArray) -> ComplexArray:
    """Scaled to a mean diagonal of 1 over the microphones that are in it."""
    diagonal = np.einsum("fcc->fc", covariance).real
    count = np.maximum((diagonal > 0).sum(axis=1), 1)
    mean = diagonal.sum(axis=1) / count
    return np.asarray(covariance / np.maximum(mean, _TINY)[:, None, None], np.complex64)


def _parts(fits: FloatArray, prior: FloatArray) -> FloatArray:
    """(F, T, K) of log-likelihoods (F, T, K) and priors (T, K): whose each point is."""
    likelihood = fits + np.log(prior)[None]
    # Along a short last axis numpy's own reductions are slow.
    likelihood = np.exp(likelihood - reduce(np.maximum, np.moveaxis(likelihood, 2, 0))[:, :, None])
    total: FloatArray = likelihood @ np.ones((likelihood.shape[2], 1), np.float32)
    return np.asarray(likelihood / total, np.float32)


def _normal(values: FloatArray) -> FloatArray:
    return np.asarray(values / values.sum(axis=-1, keepdims=True), np.float32)


def _longest_first(run: tuple[int, int]) -> tuple[int, int]:
    return run[0] - run[1], run[0]


def _joined(parts: Sequence[SeatAudio]) -> list[SeatAudio]:
    """One stretch a line, the rest last."""
    lines: dict[int | None, list[SeatAudio]] = {}
    for part in parts:
        lines.setdefault(part.seat, []).append(part)
    ordered = sorted(lines.items(), key=lambda item: (item[0] is None, item[0] or 0))
    return [SeatAudio(seat, own[0].start_sample, np.concatenate([a.pcm for a in own])) for seat, own in ordered]
