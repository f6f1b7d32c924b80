"""Where sound comes from, and one signal out of many microphones of an array.

Delays between channels (GCC-PHAT), the sum of channels aligned by them, and the direction of arrival.
Works for any number and placement of microphones within about three metres. It neither decides which
microphones work (`channel_health.py`) nor separates talkers (`close_talk.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
ComplexArray = NDArray[np.complex64]

SAMPLE_RATE_HZ = 16_000
SPEED_OF_SOUND_M_S = 343.0
BLOCK_SAMPLES = 320
DELAY_WINDOW_SAMPLES = 2_048
"""128 ms: several times the early reflections of a room, short against a turn."""
DELAY_HOP_SAMPLES = 1_600
MAX_DELAY_SAMPLES = 160
"""10 ms, 3.4 m of path difference: a large table."""
ALIGN_MARGIN_SAMPLES = MAX_DELAY_SAMPLES + 8
"""Samples needed on either side of a block to align it: the longest delay and half a filter."""

_UPSAMPLE = 2
_LOWEST_HZ = 200.0
_HIGHEST_HZ = 6_000.0
"""Under 200 Hz rumble dominates and phases say little; above 6 kHz speech has little energy."""
_SMOOTHING = 0.65
"""Per 100 ms of speech: about 0.3 s of memory, so a new talker is followed within a few words."""
_MIN_PEAK = 0.12
"""Height of a smoothed GCC-PHAT peak (1 = one undisturbed source) under which a delay is a guess."""
_FLOOR_RISE_DB = 0.3
_VOICED_DB = 8.0
_LEVEL_SMOOTHING = 0.9
_REVERB_SHARE = 0.2
"""Part of the speech power counted as noise in the weights, so that a clean recording is averaged
evenly over its microphones and not given to the one with the lowest hiss."""
_FILTER_TAPS = 16
_MIN_DELAY_CHANGE = 0.15
_MIN_WEIGHT_CHANGE = 0.06
_TINY = np.float32(1e-12)


@dataclass(frozen=True)
class DelayEstimate:
    """Delays of one 100 ms step.

    Attributes:
        delays_samples: (C,) float32, how much later than the reference each channel hears the talker.
        peaks: (C,) float32 in 0..1, how sure each delay is; 1 for the reference.
        voiced: whether somebody spoke; the delays are carried over where nobody did.
    """

    delays_samples: FloatArray
    peaks: FloatArray
    voiced: bool


@dataclass
class _DelayState:
    reference: int
    cross: ComplexArray  # (C, F) smoothed whitened cross-spectrum against the reference
    weight: float  # how much smoothing has filled up, 0..1
    floor_db: FloatArray  # (C,) noise level
    speech_power: FloatArray  # (C,) smoothed power while somebody speaks, noise removed
    delays_samples: FloatArray  # (C,)
    peaks: FloatArray  # (C,)
    voiced_steps: int


class DelayTracker:
    """Follows the delays of C channels against a reference channel.

    Source: Knapp and Carter, "The generalized correlation method for estimation of time delay",
    IEEE TASSP 24(4), 1976 (phase transform), smoothed over time in the frequency domain.
    """

    def __init__(self, channels: int, geometry_m: FloatArray | None = None) -> None:
        """Prepare the search range.

        Args:
            channels: number of microphones C, 2 or more.
            geometry_m: (C, 3) positions in metres; when known, only possible delays are searched.
        """
        self._channels = channels
        self._geometry_m = geometry_m
        frequencies_hz = np.fft.rfftfreq(DELAY_WINDOW_SAMPLES, 1 / SAMPLE_RATE_HZ)
        self._band = slice(
            int(np.searchsorted(frequencies_hz, _LOWEST_HZ)),
            int(np.searchsorted(frequencies_hz, _HIGHEST_HZ)),
        )
        self._window = np.hanning(DELAY_WINDOW_SAMPLES).astype(np.float32)
        self._state = self._fresh_state()
        self._max_lags = self._lag_limits(0)

    def _fresh_state(self) -> _DelayState:
        C = self._channels
        return _DelayState(
            reference=0,
            cross=np.zeros((C, self._band.stop - self._band.start), np.complex64),
            weight=0.0,
            floor_db=np.full(C, np.inf, np.float32),
            speech_power=np.zeros(C, np.float32),
            delays_samples=np.zeros(C, np.float32),
            peaks=np.zeros(C, np.float32),
            voiced_steps=0,
        )

    def reset(self) -> None:
        """Forget everything; equal to a new object."""
        self._state = self._fresh_state()
        self._max_lags = self._lag_limits(0)

    def _lag_limits(self, reference: int) -> NDArray[np.int64]:
        """(C,) farthest lag to search, in upsampled samples."""
        if self._geometry_m is None:
            return np.full(self._channels, MAX_DELAY_SAMPLES * _UPSAMPLE, np.int64)
        distances_m = np.linalg.norm(self._geometry_m - self._geometry_m[reference], axis=1)
        # One and a half samples more than sound needs: positions are measured with a ruler.
        samples = distances_m / SPEED_OF_SOUND_M_S * SAMPLE_RATE_HZ + 1.5
        limits: NDArray[np.int64] = np.minimum(np.ceil(samples), MAX_DELAY_SAMPLES).astype(np.int64)
        return limits * _UPSAMPLE

    @property
    def reference(self) -> int:
        """Channel that the delays refer to."""
        return self._state.reference

    @property
    def voiced_steps(self) -> int:
        """Steps with speech so far."""
        return self._state.voiced_steps

    def set_reference(self, channel: int) -> None:
        """Measure against another channel from now on; what was smoothed for the old one is dropped."""
        state = self._state
        state.reference = channel
        state.delays_samples = (state.delays_samples - state.delays_samples[channel]).astype(np.float32)
        state.peaks = np.zeros_like(state.peaks)
        state.cross[:] = 0
        state.weight = 0.0
        self._max_lags = self._lag_limits(channel)

    def speech_to_noise_db(self) -> FloatArray:
        """(C,) speech over noise floor in dB; 0 before any speech."""
        noise = self._noise_power()
        return np.asarray(10 * np.log10(1 + self._state.speech_power / np.maximum(noise, _TINY)), np.float32)

    def _noise_power(self) -> FloatArray:
        floor_db = np.where(np.isfinite(self._state.floor_db), self._state.floor_db, -120.0)
        return np.asarray(10.0 ** (floor_db / 10), np.float32)

    def mix_weights(self, usable: NDArray[np.bool_]) -> FloatArray:
        """Factor of each channel in the aligned sum.

        Args:
            usable: (C,) bool, False keeps a channel out.

        Returns:
            (C,) float32. Louder speech against the channel's own noise weighs more; the sum has the
            speech level of the reference. The reference alone before anything is known.
        """
        state = self._state
        alone = np.zeros(self._channels, np.float32)
        alone[state.reference] = 1.0
        trusted = usable & (state.peaks >= _MIN_PEAK) & (state.speech_power > _TINY)
        trusted[state.reference] = True
        amplitude = np.sqrt(state.speech_power)
        if trusted.sum() < 2 or amplitude[state.reference] <= 1e-6:
            return alone
        noise = self._noise_power() + _REVERB_SHARE * state.speech_power + _TINY
        # Maximal-ratio combining; a delay that is half a guess counts less.
        weights = np.where(trusted, state.peaks * amplitude / noise, 0.0)
        return np.asarray(weights * (amplitude[state.reference] / np.sum(weights * amplitude)), np.float32)

    def step(self, window: FloatArray) -> DelayEstimate:
        """Update from the newest audio.

        Args:
            window: (C, 2048) float32, the last 128 ms; called every 100 ms.
        """
        state = self._state
        transform = np.fft.rfft(window * self._window, axis=1)
        spectrum: ComplexArray = transform[:, self._band].astype(np.complex64, copy=False)  # (C, F)
        magnitude_squared: FloatArray = spectrum.real**2 + spectrum.imag**2
        power = magnitude_squared.mean(axis=1) / np.float32(DELAY_WINDOW_SAMPLES)
        audible = power > _TINY
        level_db = 10 * np.log10(np.maximum(power, _TINY))
        # Digital silence is no noise floor: after an unmute everything would count as speech.
        floor_db = np.where(audible, np.minimum(level_db, state.floor_db + _FLOOR_RISE_DB), state.floor_db)
        state.floor_db = floor_db.astype(np.float32)
        r = state.reference
        voiced = bool(audible[r] and level_db[r] > state.floor_db[r] + _VOICED_DB)
        if voiced:
            self._follow(spectrum, magnitude_squared, power)
        return DelayEstimate(state.delays_samples, state.peaks, voiced)

    def _follow(self, spectrum: ComplexArray, magnitude_squared: FloatArray, power: FloatArray) -> None:
        state = self._state
        noise = self._noise_power()
        speech = np.maximum(power - noise, 0)
        blend = _LEVEL_SMOOTHING if state.voiced_steps > 10 else state.voiced_steps / (state.voiced_steps + 1)
        state.speech_power = (blend * state.speech_power + (1 - blend) * speech).astype(np.float32)
        state.voiced_steps += 1

        r = state.reference
        cross = spectrum * np.conj(spectrum[r])
        size = np.sqrt(magnitude_squared * magnitude_squared[r])
        # Bins far under the average carry noise only; full whitening would give them a full vote.
        cross = cross / (size + 0.1 * size.mean(axis=1, keepdims=True) + _TINY)
        state.cross = (_SMOOTHING * state.cross + (1 - _SMOOTHING) * cross).astype(np.complex64)
        state.weight = _SMOOTHING * state.weight + 1 - _SMOOTHING

        lags = int(self._max_lags.max())
        points = DELAY_WINDOW_SAMPLES * _UPSAMPLE
        padded = np.zeros((self._channels, points // 2 + 1), np.complex64)
        padded[:, self._band] = state.cross
        correlation = np.fft.irfft(padded, points, axis=1)
        near = np.concatenate((correlation[:, -lags - 1 :], correlation[:, : lags + 2]), axis=1)
        bins = self._band.stop - self._band.start
        near = near * np.float32(points / (2 * bins * state.weight))  # 1 for identical channels
        grid = np.arange(-lags - 1, lags + 2)
        allowed = np.abs(grid) <= self._max_lags[:, None]
        best = np.argmax(np.where(allowed, near, -np.inf), axis=1)  # (C,)
        rows = np.arange(self._channels)
        left, middle, right = near[rows, best - 1], near[rows, best], near[rows, best + 1]
        # Peak of the parabola through three points: a fraction of a sample matters for small arrays.
        bend = left - 2 * middle + right
        offset = np.where(np.abs(bend) > _TINY, 0.5 * (left - right) / np.where(bend == 0, 1, bend), 0.0)
        delays = (grid[best] + np.clip(offset, -0.5, 0.5)) / _UPSAMPLE
        peaks = np.clip(middle, 0, 1)
        delays[r], peaks[r] = 0.0, 1.0
        sure = peaks >= _MIN_PEAK
        state.delays_samples = np.where(sure, delays, state.delays_samples).astype(np.float32)
        state.peaks = peaks.astype(np.float32)


@dataclass
class _AlignState:
    shifts: NDArray[np.int64]  # (C,) whole samples
    filters: FloatArray  # (C, taps) fraction of a sample and weight
    delays_samples: FloatArray  # (C,)
    weights: FloatArray  # (C,)
    before: tuple[NDArray[np.int64], FloatArray] | None  # what to fade out of in the next block


class DelayAndSum:
    """Sum of channels, each shifted so that the talker's sound adds up.

    Needs `ALIGN_MARGIN_SAMPLES` of audio on both sides of a block; nothing else is remembered but the
    filters, which fade into each other over one block when they change.
    """

    def __init__(self, channels: int) -> None:
        """Args: channels: number of microphones C. Channel 0 passes alone until `steer` is called."""
        self._channels = channels
        self._ramp = ((np.arange(BLOCK_SAMPLES) + 0.5) / BLOCK_SAMPLES).astype(np.float32)
        self._state = self._fresh_state()

    def _fresh_state(self) -> _AlignState:
        delays = np.zeros(self._channels, np.float32)
        weights = np.zeros(self._channels, np.float32)
        weights[0] = 1.0
        return _AlignState(*_fraction_filters(delays, weights), delays, weights, None)

    def reset(self) -> None:
        """Forget everything; equal to a new object."""
        self._state = self._fresh_state()

    def start(self, channel: int) -> None:
        """Pass one channel alone, at once: for before the first block."""
        delays = np.zeros(self._channels, np.float32)
        weights = np.zeros(self._channels, np.float32)
        weights[channel] = 1.0
        self._state = _AlignState(*_fraction_filters(delays, weights), delays, weights, None)

    def steer(self, delays_samples: FloatArray, weights: FloatArray) -> None:
        """Use new delays and weights from the next block on; changes too small to hear are ignored.

        Args:
            delays_samples: (C,) how much later each channel hears the talker, at most 160 in size.
            weights: (C,) linear factors.
        """
        state = self._state
        used = (weights > 0) & (state.weights > 0)
        moved = np.abs(delays_samples - state.delays_samples)[used]
        scale = float(np.max(np.abs(state.weights))) + 1e-12
        if (
            (moved.size == 0 or float(moved.max()) < _MIN_DELAY_CHANGE)
            and float(np.max(np.abs(weights - state.weights))) < _MIN_WEIGHT_CHANGE * scale
            and bool(np.all((weights > 0) == (state.weights > 0)))
        ):
            return
        before = (state.shifts, state.filters)
        shifts, filters = _fraction_filters(delays_samples, weights)
        self._state = _AlignState(shifts, filters, delays_samples.copy(), weights.copy(), before)

    def step(self, pcm: FloatArray) -> FloatArray:
        """One block of the sum.

        Args:
            pcm: (C, 320 + 2 * ALIGN_MARGIN_SAMPLES) float32, the block with its surroundings.

        Returns:
            (320,) float32 on the time of the reference channel.
        """
        state = self._state
        after = _filtered_sum(pcm, state.shifts, state.filters)
        if state.before is None:
            return after
        old = _filtered_sum(pcm, *state.before)
        state.before = None
        return np.asarray(old + (after - old) * self._ramp, np.float32)


def _fraction_filters(delays_samples: FloatArray, weights: FloatArray) -> tuple[NDArray[np.int64], FloatArray]:
    """Whole-sample shifts (C,) and windowed-sinc filters (C, taps) that advance by the delays."""
    shifts = np.floor(delays_samples).astype(np.int64)
    fraction = (delays_samples - shifts).astype(np.float64)
    taps = np.arange(_FILTER_TAPS) - (_FILTER_TAPS // 2 - 1) - fraction[:, None]  # (C, taps)
    filters = np.sinc(taps) * np.cos(np.pi * taps / (_FILTER_TAPS + 1)) ** 2
    filters /= filters.sum(axis=1, keepdims=True)
    return shifts, (filters * weights[:, None]).astype(np.float32)


def _filtered_sum(pcm: FloatArray, shifts: NDArray[np.int64], filters: FloatArray) -> FloatArray:
    total = np.zeros(BLOCK_SAMPLES, np.float32)
    first = ALIGN_MARGIN_SAMPLES - (_FILTER_TAPS // 2 - 1)
    for channel, shift in enumerate(shifts.tolist()):
        taps = filters[channel]
        if not taps.any():
            continue
        start = first + shift
        total += np.correlate(pcm[channel, start : start + BLOCK_SAMPLES + _FILTER_TAPS - 1], taps, "valid")
    return total


class DirectionFinder:
    """Azimuth of a far talker from the delays of microphones with known places."""

    def __init__(self, geometry_m: FloatArray) -> None:
        """Args: geometry_m: (C, 3) float, microphone positions in metres."""
        self._geometry_m = np.asarray(geometry_m, np.float64)
        flat = self._geometry_m[:, :2] - self._geometry_m[:, :2].mean(axis=0)
        _, spread, axes = np.linalg.svd(flat, full_matrices=False)
        # Under 5 % of the width the second dimension is measuring error.
        self._flat_rank = int(np.sum(spread > max(1e-4, 0.05 * float(spread[0]))))
        # The line's direction runs from the first microphone to the others, so its sign is the user's.
        axis = axes[0] * (1.0 if float(np.sum((flat - flat[0]) @ axes[0])) >= 0 else -1.0)
        self._axis_deg = math.degrees(math.atan2(axis[1], axis[0]))
        self._axis = np.array([axis[0], axis[1], 0.0])

    def azimuth_deg(self, estimate: DelayEstimate, reference: int) -> float | None:
        """Direction of arrival, by least squares over the sure delays.

        Microphones on one line cannot tell the two sides of that line apart: the direction to the left
        (counter-clockwise) of the line from the first microphone to the others is given; the talker
        may as well be at its mirror image. Sound from above or below counts as if it came in the plane.

        Returns:
            Degrees in -180..180, 0 along +x, counter-clockwise; None where nobody spoke or too few
            delays are sure or they contradict each other.
        """
        if not estimate.voiced or self._flat_rank == 0:
            return None
        sure = estimate.peaks >= _MIN_PEAK
        sure[reference] = False
        rows = (self._geometry_m - self._geometry_m[reference])[sure]  # (M, 3)
        # Sound from direction u reaches position p earlier by p.u / c.
        earlier_m = -estimate.delays_samples[sure] * (SPEED_OF_SOUND_M_S / SAMPLE_RATE_HZ)
        weights = np.sqrt(estimate.peaks[sure])
        if self._flat_rank == 1:
            along = rows @ self._axis
            if along.size == 0 or not np.any(np.abs(along) > 1e-4):
                return None
            cosine = float(np.sum(weights * along * earlier_m) / np.sum(weights * along * along))
            if abs(cosine) > 1.25:
                return None
            return _wrap_deg(self._axis_deg + math.degrees(math.acos(min(1.0, max(-1.0, cosine)))))
        if rows.shape[0] < 2:
            return None
        toward, _, rank, _ = np.linalg.lstsq(rows * weights[:, None], earlier_m * weights, rcond=0.02)
        length = float(np.linalg.norm(toward))
        # A real plane wave has length 1; above or below the plane less.
        if rank < 2 or not 0.3 <= length <= 1.4 or float(np.hypot(toward[0], toward[1])) < 0.2:
            return None
        return _wrap_deg(math.degrees(math.atan2(toward[1], toward[0])))


def median_direction_deg(angles_deg: Sequence[float]) -> float | None:
    """Median on the circle: of the deviations from the mean direction. None for an empty sequence."""
    if not angles_deg:
        return None
    angles = np.radians(np.asarray(angles_deg, np.float64))
    mean = math.atan2(float(np.sin(angles).sum()), float(np.cos(angles).sum()))
    deviations = np.angle(np.exp(1j * (angles - mean)))
    return _wrap_deg(math.degrees(mean + float(np.median(deviations))))


def _wrap_deg(angle_deg: float) -> float:
    return (angle_deg + 180.0) % 360.0 - 180.0
