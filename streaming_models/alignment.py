"""Token times from a decoder's cross-attention, by dynamic time warping.

Every token attends to the frames it was heard in. The attention of a few heads that follow the speech monotonically
is normalised and smoothed, and the cheapest monotonic path through it gives each token its frames. Source: the method
of Whisper's word timestamps; which heads to use was measured on the AMI dev clips (see `ALIGNMENT_HEADS`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
MEDIAN_FRAMES = 5


def token_ends(attention: FloatArray) -> NDArray[np.int64]:
    """Where each token's speech begins and ends.

    Args:
        attention: (H, U, T) cross-attention weights of the chosen heads for U tokens over T frames.

    Returns:
        (U + 1,) frame bounds: token u covers frames bounds[u] to bounds[u + 1]; not decreasing, last entry T.

    Raises:
        ValueError: not three axes, or no frames.
    """
    if attention.ndim != 3 or attention.shape[2] == 0:
        raise ValueError(f"expected attention of shape (heads, tokens, frames > 0), got {attention.shape}")
    _, tokens, frames = attention.shape
    if tokens == 0:
        return np.array([frames], np.int64)
    deviation = attention.std(axis=1, keepdims=True)
    weight = (attention - attention.mean(axis=1, keepdims=True)) / np.maximum(deviation, 1e-6)
    pad = MEDIAN_FRAMES // 2
    padded = np.pad(weight, ((0, 0), (0, 0), (pad, pad)), mode="edge")
    weight = np.median(np.lib.stride_tricks.sliding_window_view(padded, MEDIAN_FRAMES, axis=2), axis=-1)
    return _cheapest_path(-weight.mean(axis=0))


def _cheapest_path(cost: FloatArray) -> NDArray[np.int64]:
    """Monotonic path through (U, T): each step goes to the next frame, the next token, or both.

    Runs along anti-diagonals, so that the inner loop is vectorised: U + T array operations instead of U * T steps.
    """
    tokens, frames = cost.shape
    total = np.full((tokens + 1, frames + 1), np.inf)
    total[0, 0] = 0.0
    move = np.zeros((tokens + 1, frames + 1), np.int8)  # 0: both, 1: next token, 2: next frame
    for diagonal in range(2, tokens + frames + 1):
        u = np.arange(max(1, diagonal - frames), min(tokens, diagonal - 1) + 1)
        t = diagonal - u
        options = np.stack((total[u - 1, t - 1], total[u - 1, t], total[u, t - 1]))
        best = options.argmin(axis=0)
        total[u, t] = cost[u - 1, t - 1] + np.take_along_axis(options, best[None], 0)[0]
        move[u, t] = best
    bounds = np.empty(tokens + 1, np.int64)
    bounds[tokens] = frames
    u, t = tokens, frames
    while u > 0 and t > 0:
        bounds[u - 1] = t - 1
        step = move[u, t]
        u -= step in (0, 1)
        t -= step in (0, 2)
    bounds[0] = min(bounds[0], bounds[1]) if tokens else frames
    return bounds
