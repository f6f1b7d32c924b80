"""int8 for matrix products, by the ranges that real speech gives.

Weights have one scale a column and 7 bits: on processors without VNNI the product of unsigned and signed bytes adds
pairs in 16 bits, which 8 bits overflow. Inputs have one fixed scale and zero point each, measured on speech, not those
of the batch at hand (as dynamic quantisation has them): so what a stream gets does not depend on the streams beside
it, and no pass over the values is needed to find their range.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnx_export.graph import open_graph

FloatArray = NDArray[np.float32]

LEVELS = 255
WEIGHT_LEVELS = 63
"""Largest value of a weight."""
SHARES = [float(share) for share in np.arange(1.0, 0.2, -0.05)]
"""Of an end of the range that was seen."""
KEPT_EVERY = 5
"""One row in so many is kept to choose among these."""
DAMPING = 0.01
"""Of an input's second moments, as a share of their mean: what speech did not show is not taken for certain."""


@dataclass(frozen=True)
class ByteMatrix:
    """A matrix as `values * scale`: (K, N) int8 and (N,) float32."""

    values: NDArray[np.int8]
    scale: FloatArray


@dataclass(frozen=True)
class Rounding:
    """How an input x (..., K) becomes bytes: `zero + x / divisor / scale`.

    `divisor` (K,), where there is one, evens out the columns, and the weights are multiplied with it. `moments`
    (K, K), if known, are the mean products of the columns of `x / divisor`: what rounding weights goes by.
    """

    scale: float
    zero: int
    divisor: FloatArray | None = None
    moments: FloatArray | None = None


def byte_matrix(weight: FloatArray, moments: FloatArray | None = None) -> ByteMatrix:
    """A matrix (K, N) in 7 bits; its scales are such that float16 holds them.

    With the moments of its input, what one row's rounding spoils is made good by the rows after it (GPTQ, 2210.17323):
    the encoder's whole error falls from 5.0 to 4.2 % against rounding each value by itself.
    """
    scale = np.maximum(np.abs(weight).max(0), 1e-5) / WEIGHT_LEVELS
    scale = np.nextafter(scale.astype(np.float16), np.float16(np.inf)).astype(np.float32)
    if moments is None:
        return ByteMatrix(np.round(weight / scale).astype(np.int8), scale)
    damped = moments.astype(np.float64)
    damped += np.eye(len(damped)) * DAMPING * np.diag(damped).mean()
    order = np.argsort(-np.diag(damped))  # the rows that matter most first, while all others can make good for them
    spread = np.linalg.cholesky(np.linalg.inv(damped[np.ix_(order, order)])).T
    rest = weight[order].astype(np.float64)
    values = np.zeros(weight.shape, np.int8)
    for row, place in enumerate(order):
        rounded = np.clip(np.round(rest[row] / scale), -WEIGHT_LEVELS, WEIGHT_LEVELS)
        values[place] = rounded
        rest[row + 1 :] -= np.outer(spread[row, row + 1 :], (rest[row] - rounded * scale) / spread[row, row])
    return ByteMatrix(values, scale)


def evening(largest: FloatArray, weights: FloatArray) -> FloatArray:
    """Divisors (K,) for an input of such largest values (K,) and the weights (K, M) it meets (SmoothQuant, 2211.10438).

    Columns that are large in the input and small in the weights lose by one scale for all; the square root shares the
    spread between both.
    """
    spread = np.sqrt(np.maximum(largest, 1e-6) / np.maximum(np.abs(weights).max(1), 1e-6))
    divisor: FloatArray = (spread / np.exp(np.log(spread).mean())).astype(np.float32)
    return divisor


class Seen:
    """What an activation was on speech: its columns' ends and mean products, and some of its rows."""

    def __init__(self) -> None:
        self._count = 0
        self._low, self._high = np.float32(np.inf), np.float32(-np.inf)
        self._products: FloatArray | float = 0.0
        self._rows: list[FloatArray] = []

    def add(self, values: FloatArray) -> None:
        """Take (N, K) into account."""
        self._low, self._high = np.minimum(self._low, values.min(0)), np.maximum(self._high, values.max(0))
        self._products = self._products + values.T @ values
        self._rows.append(values[::KEPT_EVERY].copy())
        self._count += len(values)

    def rounding(self, weights: FloatArray | None, cut: bool = False) -> Rounding:
        """Levels for what was seen.

        Args:
            weights: (K, M) that the activation meets, if it may be divided.
            cut: leave out the ends of the range where that lowers the mean square error; else all of it is covered.

        Raises:
            ValueError: nothing was seen.
        """
        if not self._count:
            raise ValueError("expected values of the activation: run the graph on speech first")
        divisor = None if weights is None else evening(np.maximum(-self._low, self._high), weights)
        even = np.ones_like(self._low) if divisor is None else divisor
        ends = [min(float((self._low / even).min()), 0.0), max(float((self._high / even).max()), 1e-6)]
        if cut:
            values = np.concatenate(self._rows) / even
            for side in (1, 0):
                choices = [[*ends[:side], ends[side] * share, *ends[side + 1 :]] for share in SHARES]
                ends = min(choices, key=lambda pair: _loss(values, *_levels(*pair)))
        moments = self._products / (self._count * np.outer(even, even))
        return Rounding(*_levels(*ends), divisor, moments.astype(np.float32))


def _levels(low: float, high: float) -> tuple[float, int]:
    """Step and zero point."""
    step = (high - low) / LEVELS
    return step, round(-low / step)


def _loss(values: FloatArray, step: float, zero: int) -> float:
    back = (np.clip(np.round(values / step) + zero, 0, LEVELS) - zero) * step
    return float(np.square(back - values).mean())


class Tapped:
    """A float32 graph that is run on speech while the values of some activations are looked at."""

    def __init__(self, model: onnx.ModelProto, activations: Sequence[str]) -> None:
        opened = onnx.ModelProto()
        opened.CopyFrom(model)
        known = {value.name for value in opened.graph.output}
        self._own = [value.name for value in model.graph.output]
        opened.graph.output.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in activations if name not in known
        )
        self._session = open_graph(opened)
        self._seen = {name: Seen() for name in activations}

    def run(self, feed: Mapping[str, NDArray[Any]], look: bool = True) -> dict[str, NDArray[Any]]:
        """The model's own outputs; `look`: the activations of this run count."""
        wanted = list(dict.fromkeys((*self._own, *(self._seen if look else ()))))
        outputs = dict(zip(wanted, self._session.run(wanted, dict(feed)), strict=True))
        if look:
            for name, seen in self._seen.items():
                seen.add(outputs[name].reshape(-1, outputs[name].shape[-1]))
        return {name: outputs[name] for name in self._own}

    def roundings(self, even: Callable[[str], FloatArray | None], cut: bool = False) -> dict[str, Rounding]:
        """How to round each activation.

        Args:
            even: the weights (K, M) that an activation meets if it may be divided; else None.
            cut: see `Seen.rounding`.

        Raises:
            ValueError: nothing was looked at.
        """
        return {name: seen.rounding(even(name), cut) for name, seen in self._seen.items()}
