"""Kaldi-style log-mel features for the voice embedding graph.

Refuses to do anything else with audio: no resampling, no dither, no normalisation over time except `centred`.
The recogniser's own features live in `features.py`; these belong to the embedding (WeSpeaker) and match what it
was trained on.

Source: Kaldi `compute-fbank-feats` as in torchaudio.compliance.kaldi (dither 0, snip_edges, hamming window,
pre-emphasis 0.97, DC removed per frame, power spectrum of 512 points, 80 mel bins from 20 Hz to 8 kHz), fed with
samples scaled to 16-bit units, as WeSpeaker does.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

SAMPLE_RATE_HZ = 16_000
FRAME_SAMPLES = 400
"""25 ms window (Kaldi default)."""
SHIFT_SAMPLES = 160
"""10 ms between frames (Kaldi default)."""
FFT_SIZE = 512
"""Next power of two above the window (Kaldi round_to_power_of_two)."""
MEL_BINS = 80
LOW_HZ = 20.0
"""Lower edge of the lowest mel bin (Kaldi default)."""
PRE_EMPHASIS = 0.97
SCALE = 32_768.0
"""Samples in [-1, 1] to 16-bit units: WeSpeaker extracts features so."""
POWER_FLOOR = float(np.finfo(np.float32).eps)
"""Energies below this are raised to it before the logarithm (Kaldi)."""


class VoiceInputError(ValueError):
    """Audio or features of the wrong shape, type or content; says what was expected and received."""


def mel_matrix(high_hz: float = SAMPLE_RATE_HZ / 2) -> FloatArray:
    """(257, 80) triangular mel weights over the power spectrum, the highest bin ending at `high_hz`.

    Source: Kaldi MelBanks: mel = 1127 ln(1 + f / 700), triangles in the mel domain, the Nyquist bin unused.
    """

    def mel(frequency_hz: npt.ArrayLike) -> npt.NDArray[np.float64]:
        return np.asarray(1127.0 * np.log1p(np.asarray(frequency_hz) / 700.0), dtype=np.float64)

    edges = np.linspace(mel(LOW_HZ), mel(high_hz), MEL_BINS + 2)  # (82,)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    bins = mel(np.arange(FFT_SIZE // 2) * (SAMPLE_RATE_HZ / FFT_SIZE))[:, None]  # (256, 1)
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    weights = np.zeros((FFT_SIZE // 2 + 1, MEL_BINS), np.float32)
    weights[:-1] = np.maximum(0.0, np.minimum(rising, falling))
    return weights


_MEL = mel_matrix()
_WINDOW = (0.54 - 0.46 * np.cos(2 * np.pi * np.arange(FRAME_SAMPLES) / (FRAME_SAMPLES - 1))).astype(np.float32)


def frame_count(samples: int) -> int:
    """How many whole frames `samples` hold (Kaldi snip_edges): 0 below one window."""
    return 0 if samples < FRAME_SAMPLES else 1 + (samples - FRAME_SAMPLES) // SHIFT_SAMPLES


def fbank(pcm: FloatArray) -> FloatArray:
    """Log-mel energies of the whole frames in some audio.

    Args:
        pcm: (S,) float32 in [-1, 1] at 16 kHz; S may be 0.

    Returns:
        (T, 80) float32 natural-log energies, one row per 10 ms, T = `frame_count(S)`; row t covers samples
        [160 t, 160 t + 400). Not mean-normalised: see `centred`.

    Raises:
        VoiceInputError: wrong rank, type or a sample that is not finite.

    Source: see the module's docstring.
    """
    check_pcm(pcm)
    count = frame_count(len(pcm))
    if count == 0:
        return np.zeros((0, MEL_BINS), np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(pcm, FRAME_SAMPLES)[::SHIFT_SAMPLES] * np.float32(SCALE)
    frames = frames - frames.mean(1, keepdims=True, dtype=np.float32)  # (T, 400)
    previous = np.concatenate([frames[:, :1], frames[:, :-1]], 1)
    frames = (frames - np.float32(PRE_EMPHASIS) * previous) * _WINDOW
    spectrum = np.fft.rfft(frames, FFT_SIZE)  # (T, 257)
    power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
    energies: FloatArray = np.log(np.maximum(power @ _MEL, np.float32(POWER_FLOOR)))
    return energies


def centred(rows: FloatArray) -> FloatArray:
    """Features less their mean over time: removes the microphone's constant colour, as WeSpeaker does.

    Args:
        rows: (T, 80) float32, T >= 1.

    Returns:
        (T, 80) float32.

    Raises:
        VoiceInputError: not (T, 80) or empty.
    """
    if rows.ndim != 2 or rows.shape[1] != MEL_BINS or len(rows) == 0:
        raise VoiceInputError(f"expected features (T >= 1, {MEL_BINS}), received {rows.shape}")
    return np.asarray(rows - rows.mean(0, keepdims=True), dtype=np.float32)


def check_pcm(pcm: FloatArray) -> None:
    """Refuse audio that is not (S,) finite float32.

    Raises:
        VoiceInputError: wrong rank or type, or a sample that is not finite.
    """
    if not isinstance(pcm, np.ndarray) or pcm.ndim != 1 or pcm.dtype != np.float32:
        got = f"{pcm.dtype} {pcm.shape}" if isinstance(pcm, np.ndarray) else type(pcm).__name__
        raise VoiceInputError(f"expected float32 (S,) at {SAMPLE_RATE_HZ} Hz, received {got}")
    if not np.isfinite(pcm).all():
        raise VoiceInputError("expected finite samples, received NaN or infinity")


class FbankStream:
    """The rows of `fbank`, as audio arrives.

    Carries less than one window between calls. Rows are those of one call over all audio, up to float32 rounding
    of the matrix product.
    """

    def __init__(self) -> None:
        self._tail = np.zeros(0, np.float32)

    def step(self, pcm: FloatArray) -> FloatArray:
        """(T, 80) rows newly completed by `pcm` ((S,), S may be 0).

        Raises:
            VoiceInputError: wrong rank, type or a sample that is not finite.
        """
        check_pcm(pcm)
        audio = np.concatenate([self._tail, pcm])
        rows = fbank(audio)
        self._tail = audio[len(rows) * SHIFT_SAMPLES :]
        return rows

    def reset(self) -> None:
        """Forget the carried audio."""
        self._tail = np.zeros(0, np.float32)
