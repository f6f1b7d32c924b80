"""One microphone per person: recognising such recordings, and keeping each channel to its owner.

Headsets, lapel microphones and separate tracks hear their owner much louder than anybody else. This
file decides whether that is so (`LayoutDetector`) and silences on each channel what other people's
channels explain (`BleedSuppressor`). It does not align channels (`spatial.py`) and names nobody.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
ComplexArray = NDArray[np.complex64]

SAMPLE_RATE_HZ = 16_000
BLOCK_SAMPLES = 320
FRAME_SAMPLES = 2 * BLOCK_SAMPLES
"""40 ms frames every 20 ms: harmonics of a voice stay apart, and delays of 10 ms stay inside."""
BINS = FRAME_SAMPLES // 2 + 1
BANDS = 24
GATE_LOOKAHEAD_FRAMES = 5
LOOKAHEAD_BLOCKS = GATE_LOOKAHEAD_FRAMES + 1
"""120 ms of audio after a block before it is decided: 100 ms for the gate, 20 ms of frame overlap."""

_TINY_POWER = np.float32(1e-6)
"""Per band, about -100 dB of full scale: digital silence and everything like it."""

# Layout detection
_OBSERVATION_FRAMES = 10
"""200 ms, about a syllable: shorter, and reflections alone move the level ratio by 10 dB."""
_RATIO_LIMIT_DB = 40
_MUTE_RATIO_DB = -7.0
_MUTUAL_MUTE_DB = 40.0
"""What digital silence is worth beside a ratio that was heard: a microphone that dies is as mute as a
track whose owner listens, so only a ratio beyond every difference of gain decides together with it.
Two channels that were mute while the other spoke, each in its turn, are tracks."""
_VOICED_DB = 10.0
_SUPPORT_OBSERVATIONS = 5
"""About one second of speech must show a ratio before it counts: knocks and coughs are shorter."""
_SUPPORT_SHARE = 0.04
_MEMORY_DECAY = 0.5 ** (1 / 1200)
"""Half of the evidence is forgotten after 1200 observations, about four minutes of speech."""
_SWING_DB = 15.0
"""Level ratio between two channels when one person speaks, over the ratio when another does.
Measured in simulated rooms (5 x 4 x 3 m, T60 0.3 and 0.5 s, gains up to 18 dB apart): lapels at 10 to
30 cm 22-43 dB; arrays of 5 cm to 1 m across with talkers at 1-2 m, also with a dead microphone, 2-11 dB."""
_FLOOR_RISE_DB = 0.5
_UNKNOWN_RATIO_DB = 9.0

# Bleed suppression
_PRIOR_GAIN_DB = -8.0
_LEARN_FASTEST = 0.2
_LEARN_SLOWEST = 1 / 150
_SOLO_MARGIN_DB = 2.0
_SOLO_OVER_NOISE_DB = 10.0
_LEVEL_SMOOTHING = 0.6
_TAIL_DECAY = 0.6
"""Power left of a room's tail after 20 ms (2.2 dB, T60 about 0.55 s)."""
_OWNED_FRAMES = 13
_OWNED_SHARE = 0.04
_SOLVE_ROUNDS = 3
_MASK_OVERSUBTRACT = 1.4
_MASK_FLOOR = 0.1
_NOISE_RISE = 1.012
"""Per frame: the noise floor doubles in 1.2 s unless a pause resets it."""
_NOISE_BIAS = 2.0
"""The running minimum of a fluctuating power is about 3 dB under its mean."""
_EVIDENCE_LOW_DB = -3.0
_EVIDENCE_HIGH_DB = 15.0
_OPEN_DB = 1.5
_STAY_DB = 0.4
_HANGOVER_FRAMES = 12
_GATE_SMOOTHING_FRAMES = 5


def _band_matrix() -> FloatArray:
    """(BINS, BANDS) triangles on the mel scale; every bin's weights sum to 1, so that the same matrix
    spreads a factor per band back over the bins without a step."""
    frequencies_hz = np.arange(BINS) * (SAMPLE_RATE_HZ / FRAME_SAMPLES)
    mel = 2595 * np.log10(1 + frequencies_hz / 700)
    low, high = 2595 * np.log10(1 + np.array([120.0, 7_400.0]) / 700)
    position = np.clip((mel - low) / (high - low) * (BANDS - 1), 0, BANDS - 1)
    matrix: FloatArray = np.maximum(0, 1 - np.abs(position[:, None] - np.arange(BANDS))).astype(np.float32)
    return matrix


_BAND_MATRIX = _band_matrix()  # (BINS, BANDS)
_SPREAD_MATRIX = np.ascontiguousarray(_BAND_MATRIX.T)  # (BANDS, BINS)
_SPEECH_BANDS = slice(2, 20)
"""About 250-5000 Hz: over the rumble of clothes on a lapel, under the hiss."""
# Square root of a periodic Hann window, for analysis and synthesis: frames at half overlap sum to one.
_WINDOW = np.sin(np.pi * np.arange(FRAME_SAMPLES) / FRAME_SAMPLES).astype(np.float32)


def analyse(frames: FloatArray) -> tuple[ComplexArray, FloatArray]:
    """Spectrum and band powers of a frame of every channel.

    Args:
        frames: (..., 640) float32, usually (C, 640).

    Returns:
        (..., 321) complex64 spectrum and (..., 24) float32 band powers.
    """
    spectrum: ComplexArray = np.fft.rfft(frames * _WINDOW, axis=-1).astype(np.complex64, copy=False)
    power: FloatArray = spectrum.real**2 + spectrum.imag**2
    # (..., BINS) @ (BINS, BANDS)
    return spectrum, power @ _BAND_MATRIX + _TINY_POWER


@dataclass
class _DetectorState:
    level_sum: FloatArray  # (C,) speech-band power of the running observation
    frames: int
    floor_db: FloatArray  # (C,)
    mutes: FloatArray  # (C, C) observations with the row voiced and the column mute
    evidence: FloatArray  # (C, C, bins) voiced observations by level of row over column
    total: float
    swing_db: float


class LayoutDetector:
    """Tells a microphone per person from an array by how level ratios move with the talker.

    A constant difference between two channels is a difference of gain. When each of two channels has
    its own person, their level ratio swings by the path difference twice over as the talkers change,
    whatever the gains. Two channels whose swing is 15 dB or more decide for `close_talk`.
    """

    def __init__(self, channels: int) -> None:
        """Args: channels: number of microphones C, 2 or more."""
        self._channels = channels
        self._state = self._fresh_state()
        self._mid_db = np.zeros((channels, channels), np.float32)

    def _fresh_state(self) -> _DetectorState:
        C = self._channels
        return _DetectorState(
            level_sum=np.zeros(C, np.float32),
            frames=0,
            floor_db=np.full(C, np.inf, np.float32),
            mutes=np.zeros((C, C), np.float32),
            evidence=np.zeros((C, C, 2 * _RATIO_LIMIT_DB + 1), np.float32),
            total=0.0,
            swing_db=0.0,
        )

    def reset(self) -> None:
        """Forget everything; equal to a new object."""
        self._state = self._fresh_state()
        self._mid_db = np.zeros_like(self._mid_db)

    @property
    def swing_db(self) -> float:
        """Largest swing of a level ratio supported so far, in dB."""
        return self._state.swing_db

    @property
    def is_close_talk(self) -> bool:
        """Whether the swing is larger than an array can show."""
        return self._state.swing_db >= _SWING_DB

    @property
    def mid_db(self) -> FloatArray:
        """(C, C) level of row over column half way between "row's person speaks" and "column's"."""
        return self._mid_db

    def step(self, powers: FloatArray) -> None:
        """Take the band powers (C, 24) of one frame."""
        state = self._state
        state.level_sum += powers[:, _SPEECH_BANDS].sum(axis=1)
        state.frames += 1
        if state.frames == _OBSERVATION_FRAMES:
            self._observe(state.level_sum / np.float32(_OBSERVATION_FRAMES))
            state.level_sum[:] = 0
            state.frames = 0

    def _observe(self, power: FloatArray) -> None:
        state = self._state
        mute = power <= 40 * _TINY_POWER
        level = 10 * np.log10(power)
        floor_db = np.where(mute, state.floor_db, np.minimum(level, state.floor_db + _FLOOR_RISE_DB))
        state.floor_db = floor_db.astype(np.float32)
        voiced = ~mute & (level > floor_db + _VOICED_DB)  # (C,)
        # A track that starts with speech has no floor yet; beside a mute one it is speech all the same.
        voiced |= ~mute & mute.any() & (level > -10.0)
        if not voiced.any():
            return
        # The quieter side may be all noise, which makes the true ratio only larger: a safe bound.
        ratio = level[:, None] - level[None, :]  # (C, C)
        bins = np.clip(np.rint(ratio), -_RATIO_LIMIT_DB, _RATIO_LIMIT_DB).astype(np.int64) + _RATIO_LIMIT_DB
        state.evidence *= np.float32(_MEMORY_DECAY)
        rows = np.flatnonzero(voiced)
        columns = np.arange(self._channels)
        state.evidence[rows[:, None], columns[None, :], bins[rows]] += ~mute
        state.mutes *= np.float32(_MEMORY_DECAY)
        state.mutes[rows] += mute
        state.total = state.total * _MEMORY_DECAY + 1
        self._judge()

    def _judge(self) -> None:
        state = self._state
        support = max(_SUPPORT_OBSERVATIONS - 0.5, _SUPPORT_SHARE * state.total)
        above = np.cumsum(state.evidence[:, :, ::-1], axis=2) >= support
        known = above[:, :, -1]
        highest_db = _RATIO_LIMIT_DB - np.argmax(above, axis=2)  # (C, C)
        swing = np.where(known & known.T, highest_db + highest_db.T, 0)
        muted = state.mutes >= support
        swing = np.maximum(swing, np.where(known & muted.T, highest_db + _MUTE_RATIO_DB, 0))
        swing = np.maximum(swing, np.where(muted & muted.T, _MUTUAL_MUTE_DB, 0))
        np.fill_diagonal(swing, 0)
        state.swing_db = float(swing.max())
        assumed = np.where(known, highest_db, np.minimum(_UNKNOWN_RATIO_DB, -highest_db.T + 18.0))
        assumed = np.where(known | known.T, assumed, _UNKNOWN_RATIO_DB)
        self._mid_db = ((assumed - assumed.T) / 2).astype(np.float32)


@dataclass
class _PendingFrame:
    spectrum: ComplexArray  # (C, BINS)
    mask: FloatArray  # (C, BANDS)


@dataclass
class _SuppressorState:
    noise: FloatArray  # (C, BANDS) running minimum of the power
    smooth: FloatArray  # (C, BANDS) power smoothed for that minimum
    gains_db: FloatArray  # (C speaker, C heard at, BANDS) bleed in dB of the speaker's own channel
    said: FloatArray  # (C speaker, BANDS) mean power of the speaker on the own channel, alone
    arrived: FloatArray  # (C speaker, C heard at, BANDS) mean power of the same frames elsewhere
    gains: FloatArray  # (BANDS, C heard at, C speaker) the same as power ratio, 0 on the diagonal
    learned: NDArray[np.float64]  # (C,) solo frames learned per speaker
    own_tail: FloatArray  # (C, BANDS) power of each owner, with the room's tail
    level: FloatArray  # (C,) smoothed speech-band power
    evidence_db: FloatArray  # (GATE_SMOOTHING, C) of the newest frames, a ring
    hold: NDArray[np.int64]  # (C,) frames the gate stays open without new evidence
    pending: deque[_PendingFrame]
    gates: FloatArray  # (GATE_LOOKAHEAD + 1, C) 0 or 1, wanted by each of the newest frames, a ring
    overlap: FloatArray  # (C, BLOCK) second half of the last frame put out
    frames: int  # pushed in this stretch
    heard: int  # analysed in all
    assumed_for: FloatArray | None = None  # the detector's mid_db that the unlearned gains rest on


class BleedSuppressor:
    """Keeps on every channel its owner's voice and silences the others'.

    Per band, how loud a person who speaks alone arrives on each other channel is learned. From these
    gains and all channels' powers follows what part of a channel is bleed; a Wiener-like mask takes it
    out. Where bleed and noise explain a channel altogether a gate closes it, opening up to 100 ms ahead
    of the owner's voice. Two people on two channels at once both pass: each one's bleed on the other
    channel is far under the owner's own level there. A channel that nobody speaks into stays closed.

    Frames go in with `push`; the block that comes out is `LOOKAHEAD_BLOCKS` older.

    Source: the setting of Wrigley et al., "Speech and crosstalk detection in multichannel audio", IEEE
    TSAP 13(1), 2005; the mask of Kokkinis et al., "A Wiener filter approach to microphone leakage
    reduction in close-microphone applications", IEEE TASLP 20(3), 2012; gate by our own measurement.
    """

    def __init__(self, channels: int, detector: LayoutDetector) -> None:
        """Set up for C channels.

        Args:
            channels: number of microphones C, 2 or more.
            detector: fed with the same frames by the caller; gives the level ratio that separates
                "this channel's person" from "that channel's person" under unequal gains.
        """
        self._channels = channels
        self._detector = detector
        self._state = self._fresh_state()

    def _fresh_state(self) -> _SuppressorState:
        C = self._channels
        gains = np.full((BANDS, C, C), 10 ** (_PRIOR_GAIN_DB / 10), np.float32)
        gains[:, np.arange(C), np.arange(C)] = 0
        return _SuppressorState(
            noise=np.full((C, BANDS), np.inf, np.float32),
            smooth=np.full((C, BANDS), _TINY_POWER, np.float32),
            gains_db=np.full((C, C, BANDS), _PRIOR_GAIN_DB, np.float32),
            said=np.zeros((C, BANDS), np.float32),
            arrived=np.zeros((C, C, BANDS), np.float32),
            gains=gains,
            learned=np.zeros(C, np.float64),
            own_tail=np.zeros((C, BANDS), np.float32),
            level=np.full(C, _TINY_POWER, np.float32),
            evidence_db=np.full((_GATE_SMOOTHING_FRAMES, C), _EVIDENCE_LOW_DB, np.float32),
            hold=np.zeros(C, np.int64),
            pending=deque(),
            gates=np.zeros((GATE_LOOKAHEAD_FRAMES + 1, C), np.float32),
            overlap=np.zeros((C, BLOCK_SAMPLES), np.float32),
            frames=0,
            heard=0,
        )

    def reset(self) -> None:
        """Forget everything; equal to a new object."""
        self._state = self._fresh_state()

    def drain(self) -> None:
        """Drop carried audio, keep what was learned: the next frame starts a new stretch."""
        state = self._state
        state.pending.clear()
        state.gates[:] = 0
        state.evidence_db[:] = _EVIDENCE_LOW_DB
        state.hold[:] = 0
        state.own_tail[:] = 0
        state.overlap[:] = 0
        state.frames = 0

    def bleed_gains_db(self) -> FloatArray:
        """(C, C) learned level at the row's microphone of the person at the column's, in dB."""
        gains = np.array(self._state.gains_db[:, :, _SPEECH_BANDS].mean(axis=2).T, np.float32)
        np.fill_diagonal(gains, 0.0)
        return gains

    def learn(self, powers: FloatArray) -> None:
        """Learn from the band powers (C, 24) of a frame that will not be put out."""
        self._analyse(powers, learn=True)

    def push(
        self, spectrum: ComplexArray, powers: FloatArray, learn: bool = True
    ) -> tuple[FloatArray, NDArray[np.bool_]] | None:
        """Take the next frame.

        Args:
            spectrum: (C, 321) complex64 from `analyse`.
            powers: (C, 24) float32 from `analyse`.
            learn: False for padding, which says nothing about rooms.

        Returns:
            The block that is now complete, (C, 320) float32, and which gates (C,) were open for it; None
            while the lookahead fills.
        """
        state = self._state
        mask, evidence_db = self._analyse(powers, learn)
        state.pending.append(_PendingFrame(spectrum, mask))
        state.gates[state.frames % (GATE_LOOKAHEAD_FRAMES + 1)] = self._gate(evidence_db)
        state.frames += 1
        if state.frames <= GATE_LOOKAHEAD_FRAMES:
            return None
        frame = state.pending.popleft()
        # Open if any frame of the lookahead wants it: the gate is ahead of the voice.
        gate = state.gates.max(axis=0)  # (C,)
        masked = frame.spectrum * ((frame.mask * gate[:, None]) @ _SPREAD_MATRIX)
        audio = np.fft.irfft(masked, FRAME_SAMPLES, axis=1).astype(np.float32, copy=False) * _WINDOW
        block = state.overlap + audio[:, :BLOCK_SAMPLES]
        state.overlap = audio[:, BLOCK_SAMPLES:]
        if state.frames == GATE_LOOKAHEAD_FRAMES + 1:
            return None  # the first half of the first frame lies before the stretch
        return block, gate > 0

    def _analyse(self, powers: FloatArray, learn: bool) -> tuple[FloatArray, FloatArray]:
        """Mask (C, BANDS) and evidence (C,) in dB that the owner speaks."""
        state = self._state
        state.heard += 1
        if learn:
            self._follow_noise(powers)
        noise = np.where(np.isfinite(state.noise), state.noise, _TINY_POWER) * np.float32(_NOISE_BIAS)
        speech = np.maximum(powers - noise, 0)  # (C, BANDS)
        tail = state.own_tail * np.float32(_TAIL_DECAY)
        level = powers[:, _SPEECH_BANDS].sum(axis=1)
        state.level = (_LEVEL_SMOOTHING * state.level + (1 - _LEVEL_SMOOTHING) * level).astype(np.float32)
        level_db = 10 * np.log10(state.level)
        over_mid = level_db[:, None] - level_db[None, :] - self._detector.mid_db  # (C, C)
        over_mid.flat[:: self._channels + 1] = np.inf
        leads = over_mid.min(axis=1) > _SOLO_MARGIN_DB  # (C,) nobody but this channel's owner speaks
        owned = self._owned(leads)[:, None]
        own = speech
        bleed = speech
        for _ in range(_SOLVE_ROUNDS):
            source = np.maximum(own, tail) * owned
            # (BANDS, C, C) @ (BANDS, C, 1)
            bleed = np.matmul(state.gains, source.T[:, :, None])[:, :, 0].T  # (C, BANDS)
            own = np.maximum(speech - bleed, 0)
        state.own_tail = np.maximum(own, tail)
        explained = bleed * np.float32(_MASK_OVERSUBTRACT)
        ratio_db = 10 * np.log10(powers[:, _SPEECH_BANDS] / (explained + noise)[:, _SPEECH_BANDS])
        limited = np.minimum(np.maximum(ratio_db, _EVIDENCE_LOW_DB), _EVIDENCE_HIGH_DB)
        evidence_db: FloatArray = limited.sum(axis=1) * np.float32(1 / limited.shape[1])
        mask: FloatArray = np.maximum(1 - explained / powers, _MASK_FLOOR)
        # Neighbouring frames share half their samples; every second one teaches as much.
        if learn and state.heard % 2 == 0:
            self._learn_gains(noise, speech, leads)
        return mask, evidence_db

    def _owned(self, leads: NDArray[np.bool_]) -> FloatArray:
        """(C,) 1 for channels that have a person of their own as far as one can tell, else 0.

        What a table microphone among headsets hears must explain nothing on the headsets. A person
        who has said nothing yet counts from the first frame in which the own channel leads.
        """
        learned = self._state.learned
        owned = learned >= max(_OWNED_FRAMES, _OWNED_SHARE * float(learned.max()))
        return ((owned | leads) if owned.any() else np.ones_like(owned)).astype(np.float32)

    def _follow_noise(self, powers: FloatArray) -> None:
        state = self._state
        state.smooth = (0.7 * state.smooth + 0.3 * powers).astype(np.float32)
        audible = powers > 2 * _TINY_POWER
        risen = np.where(np.isfinite(state.noise), np.minimum(state.smooth, state.noise * _NOISE_RISE), powers)
        # Muted frames teach no floor; everything would count as speech after them.
        state.noise = np.where(audible, risen, state.noise).astype(np.float32)

    def _learn_gains(self, noise: FloatArray, speech: FloatArray, leads: NDArray[np.bool_]) -> None:
        """Where exactly one person speaks, move the bleed gains toward what is heard."""
        state = self._state
        alone = leads & (state.level > 10 ** (_SOLO_OVER_NOISE_DB / 10) * noise[:, _SPEECH_BANDS].sum(axis=1))
        talkers = np.flatnonzero(alone).tolist()
        if not talkers:
            return
        if state.assumed_for is not self._detector.mid_db:
            self._assume_gains()
        heard = np.maximum(speech, 0.1 * noise) + _TINY_POWER  # (C, BANDS)
        for talker in talkers:
            loud = state.own_tail[talker] > 10 * noise[talker]  # (BANDS,)
            if not loud.any():
                continue
            state.learned[talker] += 1
            rate = np.float32(max(_LEARN_SLOWEST, min(_LEARN_FASTEST, 1 / state.learned[talker])))
            # Sums before ratios: loud frames decide, as they do when bleed is predicted.
            state.said[talker] += np.where(loud, rate * (state.own_tail[talker] - state.said[talker]), 0)
            state.arrived[talker] += np.where(loud, rate * (heard - state.arrived[talker]), 0)
            known = state.said[talker] > 0  # (BANDS,)
            ratio = state.arrived[talker] / np.where(known, state.said[talker], 1)  # (C, BANDS)
            ratio_db = 10 * np.log10(np.minimum(np.maximum(ratio, 1e-6), 100))
            state.gains_db[talker] = np.where(known, ratio_db, state.gains_db[talker])
            self._use_gains(talker)

    def _assume_gains(self) -> None:
        """Set the gains of people not heard alone yet from the channels' gain differences.

        Without this a sensitive table microphone, which nobody speaks into, would seem to explain
        what is said into a quiet headset.
        """
        state = self._state
        state.assumed_for = self._detector.mid_db
        for talker in np.flatnonzero(state.learned == 0).tolist():
            state.gains_db[talker] = (self._detector.mid_db[:, talker] + _PRIOR_GAIN_DB)[:, None]
            self._use_gains(talker)

    def _use_gains(self, talker: int) -> None:
        state = self._state
        state.gains[:, :, talker] = 10 ** (state.gains_db[talker].T / 10)
        state.gains[:, talker, talker] = 0

    def _gate(self, evidence_db: FloatArray) -> FloatArray:
        state = self._state
        state.evidence_db[state.frames % _GATE_SMOOTHING_FRAMES] = evidence_db
        smooth_db = state.evidence_db.sum(axis=0) * np.float32(1 / _GATE_SMOOTHING_FRAMES)
        opened = smooth_db > _OPEN_DB
        stays = (state.hold > 0) & (smooth_db > _STAY_DB)
        state.hold = np.where(opened | stays, _HANGOVER_FRAMES, np.maximum(state.hold - 1, 0))
        return (state.hold > 0).astype(np.float32)
