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

    Within a token's row the path only moves to later frames, so a row is a running minimum over where it was entered:
    U array operations instead of U * T steps.
    """
    tokens, frames = cost.shape
    entered = np.zeros((tokens, frames), np.int64)  # row u, frame t: the frame at which the path to (u, t) came in
    diagonal = np.zeros((tokens, frames), bool)  # whether it came from the frame before (else from the same frame)
    above = np.full(frames, np.inf)
    for u in range(tokens):
        before = np.concatenate(([0.0 if u == 0 else np.inf], above[:-1]))
        diagonal[u] = before <= above
        running = np.cumsum(cost[u], dtype=np.float64)
        # Entering at frame s and staying until t costs min(before, above)[s] + running[t] - running[s] + cost[s].
        entry = np.minimum(before, above) - running + cost[u]
        lowest = np.minimum.accumulate(entry)
        new = np.concatenate(([True], entry[1:] < lowest[:-1]))
        entered[u] = np.maximum.accumulate(np.where(new, np.arange(frames), 0))
        above = lowest + running
    bounds = np.empty(tokens + 1, np.int64)
    bounds[tokens] = frames
    frame = frames - 1
    for u in range(tokens - 1, -1, -1):
        bounds[u] = entered[u, frame]
        frame = bounds[u] - int(diagonal[u, bounds[u]])
    return bounds
