"""Takes the late echo of a room out of the spectra of several microphones, as they come.

Every spectrum is predicted from older ones of all microphones (40 ms back and more), and the prediction is taken
away: speech cannot be foretold that far ahead, its echo can. Works on one bin at a time and knows nothing of talkers.

Source: Nakatani et al., "Speech dereverberation based on variance-normalized delayed linear prediction", IEEE TASLP
18(7), 2010; statistics that fade, as Yoshioka and Nakatani, "Generalization of multi-channel linear prediction methods
for blind MIMO impulse response shortening", IEEE TASLP 20(10), 2012.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ComplexArray = NDArray[np.complex64]
BoolArray = NDArray[np.bool_]

DELAY_FRAMES = 2
"""What lies closer than this (32 ms) is the talker's own sound and is left alone."""
MOST_INPUTS = 20
"""Channels times taps: the work grows with its square."""
MOST_TAPS = 8
MEMORY_FRAMES = 1_250
"""20 s: the room stays, talkers move."""
FIRST_FRAMES = 94
"""Nothing is taken away before 1.5 s of sound are known."""
SOLVE_EVERY_FRAMES = 32
_POWER_FLOOR = 1e-3
_LOADING = 1e-4
_TINY = np.float32(1e-9)


class Dereverberator:
    """Spectra of C microphones in, the same without their late echo out, frame for frame and without delay."""

    def __init__(self, channels: int, bins: int) -> None:
        """Args: channels: number of microphones C; bins: F of a spectrum."""
        self.taps = max(1, min(MOST_TAPS, MOST_INPUTS // channels))
        self._channels, self._bins = channels, bins
        self.reset()

    def reset(self) -> None:
        """Forget everything; equal to a new object."""
        inputs = self._channels * self.taps
        self._past = np.zeros((self._bins, self.taps + DELAY_FRAMES - 1, self._channels), np.complex64)
        self._covariance = np.zeros((self._bins, inputs, inputs), np.complex64)
        self._correlation = np.zeros((self._bins, inputs, self._channels), np.complex64)
        self._filters: ComplexArray | None = None
        self._usable = np.ones(self._channels, np.bool_)
        self._frames = 0

    def step(self, spectra: ComplexArray, usable: BoolArray | None = None) -> ComplexArray:
        """(C, T, F) complex64 -> the same shape. The result depends on T, so the caller keeps it constant.

        usable: (C,) microphones from which echo is foretold; None: all. What was learned of the others is kept.
        """
        if usable is not None and not np.array_equal(usable, self._usable):
            self._usable = usable.copy()
            if self._filters is not None:
                self._solve()
        heard = spectra.transpose(2, 1, 0)  # (F, T, C)
        frames = heard.shape[1]
        known = np.concatenate((self._past, heard), axis=1)
        ends = self._past.shape[1] - DELAY_FRAMES + 1 + np.arange(frames)
        older = np.stack([known[:, end - self.taps : end].reshape(self._bins, -1) for end in ends], axis=1)
        clean = heard if self._filters is None else heard - older @ self._filters
        self._learn(heard, older, clean)
        self._past = known[:, frames:]
        before, self._frames = self._frames, self._frames + frames
        if self._frames >= FIRST_FRAMES and self._frames // SOLVE_EVERY_FRAMES != before // SOLVE_EVERY_FRAMES:
            self._solve()
        return np.ascontiguousarray(clean.transpose(2, 1, 0))

    def _learn(self, heard: ComplexArray, older: ComplexArray, clean: ComplexArray) -> None:
        power = np.square(np.abs(clean)).mean(axis=2)
        power = np.maximum(power, _POWER_FLOOR * np.square(np.abs(heard)).mean(axis=2) + _TINY)
        weighted = (older.conj() / power[..., None]).swapaxes(1, 2)  # (F, inputs, T)
        kept = np.float32(np.exp(-heard.shape[1] / MEMORY_FRAMES))
        self._covariance = kept * self._covariance + weighted @ older
        self._correlation = kept * self._correlation + weighted @ heard

    def _solve(self) -> None:
        self._filters = np.zeros_like(self._correlation)
        used = np.flatnonzero(np.tile(self._usable, self.taps))
        if len(used):
            covariance = self._covariance[:, used[:, None], used[None]]
            mean = np.trace(covariance, axis1=1, axis2=2).real / len(used)
            loading = (_LOADING * mean + _TINY)[:, None, None] * np.eye(len(used), dtype=np.complex64)
            self._filters[:, used] = np.linalg.solve(covariance + loading, self._correlation[:, used])
