"""The SOT graphs as the tests need them: Moonshine's own weights, a spatial embedding drawn at random."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from onnx_export.moonshine import read_ort_as_onnx
from onnx_export.pretrained import pretrained_decoder, pretrained_encoder
from onnx_export.quantize import Rounding
from onnx_export.ranges import measured_decoder, measured_encoder
from onnx_export.sot_decoder import SotDecoderGraphs, Tuned, float_decoder, sot_decoder
from server.inference import moonshine_assets
from tests import real

FloatArray = NDArray[np.float32]
DECODER_FILE = moonshine_assets() / "decoder_model_merged.ort"


@cache
def encoder_weights() -> dict[str, FloatArray]:
    random = np.random.default_rng(5)
    shapes = {
        "spatial.inner.weight": (96, 192),
        "spatial.inner.bias": (96,),
        "spatial.deeper.weight": (96, 96),
        "spatial.deeper.bias": (96,),
        "spatial.out.weight": (288, 192),
        "activity.weight": (2, 288),
        "activity.bias": (2,),
    }
    drawn = {name: random.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
    return pretrained_encoder(moonshine_assets()) | drawn


@cache
def decoder_weights() -> dict[str, FloatArray]:
    second = np.random.default_rng(6).normal(0, 0.05, 288).astype(np.float32)
    return pretrained_decoder(moonshine_assets()) | {"second": second}


def tuned_weights() -> dict[str, FloatArray]:
    return {n: w for n, w in decoder_weights().items() if n == "second" or ".cross." in n or "norm" in n}


@cache
def exact_decoder() -> SotDecoderGraphs:
    return float_decoder(decoder_weights())


@cache
def measured() -> tuple[dict[str, Rounding], dict[str, Rounding], list[tuple[FloatArray, list[int]]]]:
    """Roundings of encoder and decoder, and windows of frames with their tokens."""
    roundings, hidden = measured_encoder(encoder_weights(), [real.speech("two_cities", 9.0)[None]])
    decoder_roundings, windows = measured_decoder(exact_decoder(), tuned_weights(), hidden)
    return roundings, decoder_roundings, windows


@cache
def tuned() -> Tuned:
    return Tuned.of(tuned_weights(), measured()[1])


@cache
def byte_decoder() -> SotDecoderGraphs:
    return sot_decoder(read_ort_as_onnx(DECODER_FILE), tuned())
