"""The front end: any number of microphones in, the signals to recognise out.

One door for the pipeline. It chooses between the two ways of using microphones (an array that is
summed, a microphone per person that is kept apart), feeds them fixed blocks, and keeps the sample
count exact. The signal processing itself is in `spatial.py`, `close_talk.py` and `channel_health.py`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from streaming_models import close_talk, spatial
from streaming_models.channel_health import HEALTH_BLOCK_SAMPLES, ChannelHealth
from streaming_models.close_talk import BleedSuppressor, LayoutDetector
from streaming_models.spatial import DelayAndSum, DelayTracker, DirectionFinder

FloatArray = NDArray[np.float32]
Layout = Literal["auto", "array", "close_talk"]

MIX_LANE = -1
MAX_CHANNELS = 16
SAMPLE_RATE_HZ = 16_000
BLOCK_SAMPLES = 320
"""20 ms; every decision is taken on multiples of it, so the chunking of the caller never shows."""
ARRAY_LOOKAHEAD_SAMPLES = BLOCK_SAMPLES
"""Aligning needs up to 10 ms of the later channels; a whole block keeps the arithmetic plain."""
CLOSE_TALK_LOOKAHEAD_SAMPLES = close_talk.LOOKAHEAD_BLOCKS * BLOCK_SAMPLES

_HISTORY_SAMPLES = 2_560
"""Past samples kept: the delay window and the longest delay, in whole blocks."""
_BLOCKS_PER_STEP = HEALTH_BLOCK_SAMPLES // BLOCK_SAMPLES
_DIRECTION_HISTORY_SAMPLES = 60 * SAMPLE_RATE_HZ
_REPLAY_FRAMES = 750
"""15 s of band powers, from which bleed is learned at the moment the layout is recognised."""
_BAD_CLIPPING_SHARE = 0.01
_BETTER_REFERENCE_DB = 4.0
_BETTER_REFERENCE_STEPS = 10


class FrontEndError(ValueError):
    """Wrong channel count, geometry or sample array; the message gives expected and received."""


@dataclass(frozen=True)
class LaneAudio:
    """A stretch of one lane.

    Attributes:
        lane: `MIX_LANE` (-1) for all channels together, else the channel whose owner is heard.
        start_sample: position of the first sample, counted from the first sample ever fed.
        pcm: (S',) float32 at 16 kHz.
        channels: (C, S') the same samples of every microphone as they came, for recognisers that use space: the mix
            is on the time of its reference microphone, so sample s of both was taken at the same moment. None on
            the lane of one person's microphone.
    """

    lane: int
    start_sample: int
    pcm: FloatArray
    channels: FloatArray | None = None


@dataclass(frozen=True)
class FrontEndEvent:
    """Something a person should know about the microphones; `channel` is None for all of them."""

    sample: int
    kind: Literal["layout", "dead", "recovered", "clipping", "reference"]
    channel: int | None
    detail: str


@dataclass(frozen=True)
class FrontEndOutput:
    """What one call completed: lane audio in time order, and events in time order."""

    lanes: tuple[LaneAudio, ...]
    events: tuple[FrontEndEvent, ...]


@dataclass
class _FrontEndState:
    layout: Layout
    buffer: FloatArray  # (C, history + samples of unfinished blocks)
    fed_samples: int = 0  # of all stretches
    stretch_start: int = 0  # first sample since the beginning or the last flush
    arrived_blocks: int = 0  # of this stretch
    emitted_samples: int = 0  # of all stretches
    reference: int = -1  # -1 until something is heard
    better_steps: int = 0  # steps in a row in which another reference was clearly better
    recent_powers: deque[FloatArray] = field(default_factory=lambda: deque(maxlen=_REPLAY_FRAMES))
    directions: deque[tuple[int, float]] = field(default_factory=deque)  # (sample, degrees)
    owner_blocks: deque[tuple[int, NDArray[np.bool_]]] = field(default_factory=deque)


class FrontEnd:
    """Turns C microphones into lanes: one mix of an array, or one lane per person's microphone.

    With one channel the audio passes at once. As an array, lane -1 carries the aligned sum, one block
    (20 ms) behind. With a microphone per person, lanes 0..C-1 carry each channel's owner, 120 ms
    behind. Blocks are 20 ms, and up to one more block waits to be filled. Under "auto" the front end
    starts as an array; when it recognises close talk it changes for good, at a block boundary: every
    sample before the boundary is on lane -1, every later one on lanes 0..C-1. `reset` undoes that.

    Guarantees: any chunking equals one call, to the bit; no output depends on samples later than the
    lookahead; after `flush` exactly as many samples are out as went in.
    """

    def __init__(self, channels: int, layout: Layout = "auto", geometry_m: FloatArray | None = None) -> None:
        """Set up for a session.

        Args:
            channels: number of microphones C, 1 to 16.
            layout: "array", "close_talk", or "auto" to recognise it.
            geometry_m: (C, 3) microphone positions in metres, x and y horizontal; gives directions and
                makes delays surer.

        Raises:
            FrontEndError: a count, layout or geometry that cannot be.
        """
        if not 1 <= channels <= MAX_CHANNELS:
            raise FrontEndError(f"expected 1 to {MAX_CHANNELS} channels, received {channels}")
        if layout not in ("auto", "array", "close_talk"):
            raise FrontEndError(f"expected layout auto, array or close_talk, received {layout!r}")
        self._geometry_m: FloatArray | None = None
        if geometry_m is not None:
            self._geometry_m = np.asarray(geometry_m, np.float32)
            if self._geometry_m.shape != (channels, 3):
                raise FrontEndError(
                    f"expected geometry of shape ({channels}, 3) metres, received {self._geometry_m.shape}"
                )
            if not np.isfinite(self._geometry_m).all():
                raise FrontEndError("expected finite geometry in metres, received NaN or infinity")
        self._channels = channels
        self._layout: Layout = layout
        self._health = ChannelHealth(channels)
        self._tracker = DelayTracker(channels, self._geometry_m)
        self._sum = DelayAndSum(channels)
        self._finder = DirectionFinder(self._geometry_m) if self._geometry_m is not None else None
        self._detector = LayoutDetector(channels)
        self._suppressor = BleedSuppressor(channels, self._detector)
        self._state = self._fresh_state()

    def _fresh_state(self) -> _FrontEndState:
        # One channel has no layout to find; it is its own mix.
        layout: Layout = "array" if self._channels == 1 else self._layout
        return _FrontEndState(layout=layout, buffer=self._empty_buffer())

    def _empty_buffer(self) -> FloatArray:
        # One channel waits only for whole health blocks and looks back at nothing.
        history = 0 if self._channels == 1 else _HISTORY_SAMPLES
        return np.zeros((self._channels, history), np.float32)

    def reset(self) -> None:
        """Forget everything; equal to a new object."""
        for part in (self._health, self._tracker, self._sum, self._detector, self._suppressor):
            part.reset()
        self._state = self._fresh_state()

    @property
    def layout_now(self) -> Literal["array", "close_talk"]:
        """How the microphones are used at present."""
        return "close_talk" if self._state.layout == "close_talk" else "array"

    @property
    def lookahead_samples(self) -> int:
        """How far the output runs behind whole blocks of input at present."""
        if self._channels == 1:
            return 0
        return CLOSE_TALK_LOOKAHEAD_SAMPLES if self.layout_now == "close_talk" else ARRAY_LOOKAHEAD_SAMPLES

    def levels_db(self) -> FloatArray:
        """(C,) RMS of the last second in dB of full scale, -120 for digital silence."""
        return self._health.levels_db()

    def direction_deg(self, start_sample: int, end_sample: int, lane: int) -> float | None:
        """Median direction of arrival over a stretch of the last 60 seconds.

        Args:
            start_sample: first sample of the stretch.
            end_sample: position after its last sample.
            lane: `MIX_LANE`, or a channel of a close-talk layout. For the latter the direction is that
                of the owner's microphone as seen from the centre of all microphones.

        Returns:
            Azimuth in -180..180 degrees, 0 along +x, counter-clockwise; None without geometry, without
            speech, or outside the history. For microphones on one line see `DirectionFinder`.
        """
        if self._geometry_m is None:
            return None
        if lane == MIX_LANE:
            return spatial.median_direction_deg(
                [angle for sample, angle in self._state.directions if start_sample <= sample < end_sample]
            )
        if not 0 <= lane < self._channels:
            return None
        spoke = any(
            bool(owners[lane])
            for sample, owners in self._state.owner_blocks
            if start_sample - BLOCK_SAMPLES < sample < end_sample
        )
        place = self._geometry_m[lane, :2] - self._geometry_m[:, :2].mean(axis=0)
        if not spoke or float(np.hypot(place[0], place[1])) < 0.01:
            return None
        return float(np.degrees(np.arctan2(place[1], place[0])))

    def step(self, pcm: FloatArray) -> FrontEndOutput:
        """Take audio and return what it completes.

        Args:
            pcm: (C, S) float32 at 16 kHz, nominally in [-1, 1], finite; S may be 0.

        Raises:
            FrontEndError: another rank, channel count or dtype.
        """
        if not isinstance(pcm, np.ndarray) or pcm.ndim != 2 or pcm.shape[0] != self._channels:
            shape = getattr(pcm, "shape", type(pcm).__name__)
            raise FrontEndError(f"expected audio of shape ({self._channels}, S), received {shape}")
        if pcm.dtype != np.float32:
            raise FrontEndError(f"expected float32 audio, received {pcm.dtype}")
        out = _Collector()
        self._state.fed_samples += pcm.shape[1]
        if self._channels == 1:
            self._pass_through(pcm, out)
        else:
            self._take(pcm, out, learn=True)
        return out.output()

    def flush(self) -> FrontEndOutput:
        """Put out all carried samples, as if silence followed.

        Audio fed afterwards starts a new stretch: sample positions go on and what was learned about
        levels, layout and bleed is kept, but nothing is smoothed across the cut.
        """
        state = self._state
        out = _Collector()
        if self._channels > 1:
            missing = -(state.fed_samples - state.stretch_start) % BLOCK_SAMPLES
            padding = np.zeros((self._channels, missing + self.lookahead_samples), np.float32)
            self._take(padding, out, learn=False)
            self._suppressor.drain()
        state.buffer = self._empty_buffer()
        state.stretch_start = state.fed_samples
        state.arrived_blocks = 0
        state.emitted_samples = state.fed_samples
        return out.output()

    def _pass_through(self, pcm: FloatArray, out: _Collector) -> None:
        state = self._state
        if pcm.shape[1] == 0:
            return
        block = pcm.copy()
        out.add(MIX_LANE, state.emitted_samples, block[0], block)
        state.emitted_samples = state.fed_samples
        pending = np.concatenate((state.buffer, pcm), axis=1)
        used = 0
        while used + HEALTH_BLOCK_SAMPLES <= pending.shape[1]:
            block = pending[:, used : used + HEALTH_BLOCK_SAMPLES]
            used += HEALTH_BLOCK_SAMPLES
            self._watch(block, state.fed_samples - pending.shape[1] + used, out)
        state.buffer = pending[:, used:]

    def _take(self, pcm: FloatArray, out: _Collector, learn: bool) -> None:
        state = self._state
        state.buffer = np.concatenate((state.buffer, pcm), axis=1)
        end = _HISTORY_SAMPLES + BLOCK_SAMPLES
        while end <= state.buffer.shape[1]:
            self._arrive(state.buffer[:, end - _HISTORY_SAMPLES - BLOCK_SAMPLES : end], out, learn)
            end += BLOCK_SAMPLES
        state.buffer = state.buffer[:, end - _HISTORY_SAMPLES - BLOCK_SAMPLES :]

    def _arrive(self, window: FloatArray, out: _Collector, learn: bool) -> None:
        """One block has arrived: `window` is (C, history + block), the block last."""
        state = self._state
        state.arrived_blocks += 1
        end_sample = state.stretch_start + state.arrived_blocks * BLOCK_SAMPLES
        whole_step = learn and state.arrived_blocks % _BLOCKS_PER_STEP == 0
        if whole_step:
            self._watch(window[:, -HEALTH_BLOCK_SAMPLES:], end_sample, out)
        if state.layout == "close_talk":
            self._suppress(window, out, learn)
            return
        if state.reference < 0:
            self._first_reference(window[:, -BLOCK_SAMPLES:])
        if whole_step:
            self._steer(window[:, -spatial.DELAY_WINDOW_SAMPLES :], end_sample, out)
        if state.arrived_blocks > 1:
            margin = spatial.ALIGN_MARGIN_SAMPLES
            last = window.shape[1] - ARRAY_LOOKAHEAD_SAMPLES
            mix = self._sum.step(window[:, last - BLOCK_SAMPLES - margin : last + margin])
            self._emit(out, MIX_LANE, mix, channels=window[:, last - BLOCK_SAMPLES : last])
        if state.layout == "auto" and whole_step:
            self._recognise(window, end_sample, out)

    def _watch(self, block: FloatArray, end_sample: int, out: _Collector) -> None:
        events = self._health.step(block, end_sample, silence_is_normal=self._state.layout == "close_talk")
        out.events += [FrontEndEvent(e.sample, e.kind, e.channel, e.detail) for e in events]

    def _recognise(self, window: FloatArray, end_sample: int, out: _Collector) -> None:
        state = self._state
        # All frames of a step at once: (C, step, 640) as a view.
        first = window.shape[1] - (_BLOCKS_PER_STEP + 1) * BLOCK_SAMPLES
        frames = sliding_window_view(window[:, first:], close_talk.FRAME_SAMPLES, axis=1)[:, ::BLOCK_SAMPLES]
        spectra, powers = close_talk.analyse(frames)
        for frame in range(_BLOCKS_PER_STEP):
            self._detector.step(powers[:, frame])
            state.recent_powers.append(powers[:, frame])
        if not self._detector.is_close_talk:
            return
        state.recent_powers.pop()  # the newest frame is the first that is put out
        state.layout = "close_talk"
        for earlier in state.recent_powers:
            self._suppressor.learn(earlier)
        state.recent_powers.clear()
        self._suppressor.push(spectra[:, -1], powers[:, -1])
        detail = f"a microphone per person: levels swing by {self._detector.swing_db:.0f} dB between talkers"
        out.events.append(FrontEndEvent(end_sample - BLOCK_SAMPLES, "layout", None, detail))

    def _suppress(self, window: FloatArray, out: _Collector, learn: bool) -> None:
        state = self._state
        spectrum, powers = close_talk.analyse(window[:, -close_talk.FRAME_SAMPLES :])
        if learn:
            self._detector.step(powers)
        done = self._suppressor.push(spectrum, powers, learn)
        if done is None:
            return
        block, owners = done
        if owners.any():
            state.owner_blocks.append((state.emitted_samples, owners))
        while state.owner_blocks and state.owner_blocks[0][0] < state.fed_samples - _DIRECTION_HISTORY_SAMPLES:
            state.owner_blocks.popleft()
        self._emit(out, 0, *block)

    def _emit(self, out: _Collector, first_lane: int, *blocks: FloatArray, channels: FloatArray | None = None) -> None:
        """Put out one block on neighbouring lanes, without the part that is padding."""
        state = self._state
        count = min(BLOCK_SAMPLES, state.fed_samples - state.emitted_samples)
        if count <= 0:
            return
        for lane, block in enumerate(blocks, first_lane):
            out.add(lane, state.emitted_samples, block[:count], None if channels is None else channels[:, :count])
        state.emitted_samples += count

    def _first_reference(self, block: FloatArray) -> None:
        """Begin with the loudest channel, so that the order of the channels does not matter."""
        energy = np.einsum("cs,cs->c", block, block)
        if energy.max() > 0:
            loudest = int(np.argmax(energy))
            self._refer_to(loudest)
            self._sum.start(loudest)

    def _refer_to(self, channel: int) -> None:
        self._state.reference = channel
        self._state.better_steps = 0
        self._tracker.set_reference(channel)

    def _steer(self, window: FloatArray, end_sample: int, out: _Collector) -> None:
        state = self._state
        if state.reference < 0:
            return
        # Full scale hides the true wave; such a channel helps neither the delay nor the sum.
        clipped = self._health.clipping_share() >= _BAD_CLIPPING_SHARE
        usable = ~self._health.dead & ~clipped
        if not usable.any():
            usable = ~self._health.dead
        self._elect(usable, clipped, end_sample, out)
        estimate = self._tracker.step(window)
        self._sum.steer(estimate.delays_samples, self._tracker.mix_weights(usable))
        if self._finder is None:
            return
        angle = self._finder.azimuth_deg(estimate, state.reference)
        if angle is not None:
            # The estimate looks back over its window and the smoothing.
            state.directions.append((end_sample - spatial.DELAY_WINDOW_SAMPLES // 2, angle))
        while state.directions and state.directions[0][0] < end_sample - _DIRECTION_HISTORY_SAMPLES:
            state.directions.popleft()

    def _elect(self, usable: NDArray[np.bool_], clipped: NDArray[np.bool_], end_sample: int, out: _Collector) -> None:
        """Another reference where this one is dead or clipped, or another is clearly better."""
        state = self._state
        if not usable.any():
            return
        quality_db = self._tracker.speech_to_noise_db()
        score = np.where(usable, quality_db, -np.inf)
        # Level decides between channels that have not carried speech yet.
        best = int(np.argmax(score + 1e-3 * self._health.levels_db()))
        reference = state.reference
        if usable[reference]:
            better = bool(score[best] > score[reference] + _BETTER_REFERENCE_DB)
            state.better_steps = state.better_steps + 1 if better else 0
            if state.better_steps < _BETTER_REFERENCE_STEPS:
                return
            why = "clearer speech"
        else:
            why = "clipping" if clipped[reference] and not self._health.dead[reference] else "dead"
            if best == reference:
                return
        detail = f"channel {best} replaces channel {reference}: {why}"
        self._refer_to(best)
        out.events.append(FrontEndEvent(end_sample, "reference", best, detail))


class _Collector:
    """Gathers the blocks of one call into one stretch per lane."""

    def __init__(self) -> None:
        self.events: list[FrontEndEvent] = []
        self._starts: dict[int, int] = {}
        self._blocks: dict[int, list[FloatArray]] = {}
        self._channels: dict[int, list[FloatArray]] = {}

    def add(self, lane: int, start_sample: int, pcm: FloatArray, channels: FloatArray | None = None) -> None:
        self._starts.setdefault(lane, start_sample)
        self._blocks.setdefault(lane, []).append(pcm)
        if channels is not None:
            self._channels.setdefault(lane, []).append(channels)

    def output(self) -> FrontEndOutput:
        lanes = tuple(
            LaneAudio(
                lane,
                self._starts[lane],
                blocks[0] if len(blocks) == 1 else np.concatenate(blocks),
                np.concatenate(self._channels[lane], axis=1) if lane in self._channels else None,
            )
            for lane, blocks in self._blocks.items()
        )
        return FrontEndOutput(lanes, tuple(self.events))
