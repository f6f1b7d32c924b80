"""Health of each microphone: level, peak, clipping, and whether it still carries sound.

Looks at whole blocks of 100 ms and reports changes only. It changes no audio and elects nothing:
`frontend.py` decides what to do about a dead or clipping channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
HealthKind = Literal["dead", "recovered", "clipping"]

SAMPLE_RATE_HZ = 16_000
HEALTH_BLOCK_SAMPLES = 1_600
"""100 ms: long enough that a level means something, short enough for a decision within a second."""

_RECENT_BLOCKS = 10
"""Levels and clipping shares are over the last second."""
_SILENT_PEAK = 1.5e-5
"""Half a step of 16 bit audio: nothing recorded by a converter stays under it for 100 ms."""
_DEAD_UNDER_DB = 40.0
_ALIVE_UNDER_DB = 34.0
"""A channel comes back 6 dB above the level at which it was given up, so it does not flutter."""
_DEAD_BLOCKS = 10
_DEAD_BLOCKS_PER_PERSON = 50
_ALIVE_BLOCKS = 3
_ALIVE_LEVEL_DB = -70.0
_SPEAKING_LEVEL_DB = -50.0
_SPEAKING_OVER_FLOOR_DB = 8.0
_FLOOR_RISE_DB = 0.3
"""Per block, 3 dB a second: slower than any pause between words, faster than a room changes."""
_CLIP_LEVEL = 0.999
_CLIP_SHARE = 0.001
"""One sample in a thousand over a second is audible distortion; single full-scale peaks are not."""
_CLIP_QUIET_BLOCKS = 50
"""A channel reports clipping again only after five clean seconds."""
_LOWEST_DB = -120.0


@dataclass(frozen=True)
class HealthEvent:
    """One change of one channel; `sample` is the end of the block that decided it."""

    sample: int
    kind: HealthKind
    channel: int
    detail: str


@dataclass
class _HealthState:
    energies: FloatArray  # (_RECENT_BLOCKS, C) mean square per block, a ring
    peaks: FloatArray  # (_RECENT_BLOCKS, C) largest absolute value per block
    clipped: FloatArray  # (_RECENT_BLOCKS, C) share of samples at full scale per block
    floor_db: FloatArray  # (C,) slowly rising minimum of the block level
    dead: NDArray[np.bool_]  # (C,)
    dead_blocks: NDArray[np.int64]  # (C,) blocks in a row that look dead while others speak
    alive_blocks: NDArray[np.int64]  # (C,) blocks in a row that look alive, while dead
    quiet_blocks: NDArray[np.int64]  # (C,) blocks since the last clipped one
    silent_run: NDArray[np.int64]  # (C,) digitally silent blocks in a row
    silences: int = 0  # digitally silent blocks, of all channels, that sound followed
    blocks: int = 0


class ChannelHealth:
    """Watches C microphones, one 100 ms block at a time."""

    def __init__(self, channels: int) -> None:
        """Args: channels: number of microphones C, 1 or more."""
        self._channels = channels
        self._state = self._fresh_state()

    def _fresh_state(self) -> _HealthState:
        C = self._channels
        return _HealthState(
            energies=np.zeros((_RECENT_BLOCKS, C), np.float32),
            peaks=np.zeros((_RECENT_BLOCKS, C), np.float32),
            clipped=np.zeros((_RECENT_BLOCKS, C), np.float32),
            floor_db=np.full(C, np.inf, np.float32),
            dead=np.zeros(C, np.bool_),
            dead_blocks=np.zeros(C, np.int64),
            alive_blocks=np.zeros(C, np.int64),
            quiet_blocks=np.full(C, _CLIP_QUIET_BLOCKS, np.int64),
            silent_run=np.zeros(C, np.int64),
        )

    def reset(self) -> None:
        """Forget everything; equal to a new object."""
        self._state = self._fresh_state()

    @property
    def dead(self) -> NDArray[np.bool_]:
        """(C,) True where the channel carries no usable sound."""
        return self._state.dead

    def levels_db(self) -> FloatArray:
        """(C,) RMS over the last second in dB of full scale, -120 for digital silence."""
        return _decibels(self._recent_mean(self._state.energies))

    def peaks(self) -> FloatArray:
        """(C,) largest absolute sample over the last second, linear."""
        return np.asarray(self._state.peaks.max(axis=0), np.float32)

    def clipping_share(self) -> FloatArray:
        """(C,) share of samples at full scale over the last second, 0..1."""
        return self._recent_mean(self._state.clipped)

    def _recent_mean(self, ring: FloatArray) -> FloatArray:
        seen = max(1, min(self._state.blocks, _RECENT_BLOCKS))
        return np.asarray(ring.sum(axis=0) / np.float32(seen), np.float32)

    def step(self, pcm: FloatArray, end_sample: int, silence_is_normal: bool = False) -> tuple[HealthEvent, ...]:
        """Take one block and report what changed.

        Args:
            pcm: (C, 1600) float32 at 16 kHz, nominally in [-1, 1].
            end_sample: stream position just after the block; becomes the event's `sample`.
            silence_is_normal: True for one channel per person, where a quiet channel only means
                that its owner listens. Then a channel is dead only if it is digitally
                silent for five seconds of speech, and no channel ever came back from digital silence
                as muted tracks do.

        Returns:
            Events in channel order; usually empty.
        """
        state = self._state
        absolute = np.abs(pcm)
        peak = absolute.max(axis=1)  # (C,)
        energy = np.einsum("cs,cs->c", pcm, pcm) / np.float32(pcm.shape[1])
        slot = state.blocks % _RECENT_BLOCKS
        state.energies[slot] = energy
        state.peaks[slot] = peak
        # Counting is the dear part and almost never needed.
        state.clipped[slot] = (absolute >= _CLIP_LEVEL).mean(axis=1) if peak.max() >= _CLIP_LEVEL else 0.0
        state.blocks += 1
        events = self._clipping_events(end_sample, slot)
        if self._channels > 1:
            events += self._life_events(end_sample, energy, peak <= _SILENT_PEAK, silence_is_normal)
        return tuple(events)

    def _clipping_events(self, end_sample: int, slot: int) -> list[HealthEvent]:
        state = self._state
        state.quiet_blocks += 1
        if not state.clipped[slot].any():
            return []
        share = self.clipping_share()
        loud = share >= _CLIP_SHARE
        news = np.flatnonzero(loud & (state.quiet_blocks > _CLIP_QUIET_BLOCKS))
        state.quiet_blocks[loud] = 0
        return [
            HealthEvent(end_sample, "clipping", int(c), f"{100 * float(share[c]):.1f} % of samples clipped")
            for c in news
        ]

    def _life_events(
        self, end_sample: int, energy: FloatArray, silent: NDArray[np.bool_], silence_is_normal: bool
    ) -> list[HealthEvent]:
        state = self._state
        level = _decibels(energy)
        # A muted track would drag the floor to nothing, and all later noise would pass for speech.
        risen = np.where(silent, state.floor_db, np.minimum(level, state.floor_db + _FLOOR_RISE_DB))
        speaking = ~silent & ((level > risen + _SPEAKING_OVER_FLOOR_DB) | (level > _SPEAKING_LEVEL_DB))
        state.floor_db = np.asarray(risen, np.float32)
        loudest, second = _two_largest(np.where(speaking, level, np.float32(_LOWEST_DB)))
        others = np.where(level == loudest, second, loudest)  # (C,) loudest other talking channel
        heard = others > _LOWEST_DB

        if silence_is_normal:
            lifeless = silent if state.silences < _ALIVE_BLOCKS else np.zeros_like(silent)
        else:
            lifeless = silent | (level < others - _DEAD_UNDER_DB)
        # While nobody else speaks the count waits: silence alone proves nothing.
        state.dead_blocks = np.where(heard, np.where(lifeless, state.dead_blocks + 1, 0), state.dead_blocks)
        # Only a silence that ended proves that silence is normal here.
        state.silences += int(state.silent_run[~silent].sum())
        state.silent_run = np.where(silent, state.silent_run + 1, 0)
        alive = ~silent & (level > _ALIVE_LEVEL_DB) & (level >= others - _ALIVE_UNDER_DB)
        state.alive_blocks = np.where(state.dead & alive, state.alive_blocks + 1, 0)

        patience = _DEAD_BLOCKS_PER_PERSON if silence_is_normal else _DEAD_BLOCKS
        died = ~state.dead & (state.dead_blocks >= patience)
        back = state.dead & (state.alive_blocks >= _ALIVE_BLOCKS)
        if not (died.any() or back.any()):
            return []
        state.dead = (state.dead | died) & ~back
        state.dead_blocks[back] = 0
        events = [
            HealthEvent(end_sample, "dead", int(c), "digital silence" if silent[c] else "level far below others")
            for c in np.flatnonzero(died)
        ]
        events += [
            HealthEvent(end_sample, "recovered", int(c), f"{float(level[c]):.0f} dBFS") for c in np.flatnonzero(back)
        ]
        return sorted(events, key=lambda event: event.channel)


def _decibels(energy: FloatArray) -> FloatArray:
    return np.asarray(10.0 * np.log10(np.maximum(energy, np.float32(1e-12))), np.float32)


def _two_largest(values: FloatArray) -> tuple[float, float]:
    ordered = np.sort(values)
    return float(ordered[-1]), float(ordered[-2])
