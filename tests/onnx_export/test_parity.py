"""ONNX graphs against the torch nets over 40 chunks of speech and more. Needs torch (extra `train`)."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from onnx_export.graph import open_graph  # noqa: E402
from onnx_export.parity import TOLERANCE, Nets, ParityError, decoder_parity, encoder_parity  # noqa: E402
from onnx_export.sot import EncoderGraph  # noqa: E402
from streaming_models.contract import CHUNK_SAMPLES  # noqa: E402
from streaming_models.nets.encoder import Encoder  # noqa: E402
from streaming_models.nets.sot_decoder import SotDecoder  # noqa: E402
from streaming_models.nets.spatial import SpatialEmbedding  # noqa: E402
from tests import real  # noqa: E402
from tests.onnx_export import sot_parts  # noqa: E402


@cache
def nets() -> Nets:
    weights = {name: torch.tensor(value) for name, value in sot_parts.encoder_weights().items()}

    def part(prefix: str) -> dict[str, Any]:
        return {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}

    made = Nets(SpatialEmbedding(), Encoder(), torch.nn.Linear(288, 2), SotDecoder())
    made.spatial.load_state_dict(part("spatial."))
    made.activity.load_state_dict(part("activity."))
    made.encoder.load_state_dict({n: w for n, w in weights.items() if not n.startswith(("spatial.", "activity."))})
    decoder = {n: v for n, v in sot_parts.decoder_weights().items() if n != "second"}
    made.decoder.load_pretrained(decoder)
    with torch.no_grad():
        made.decoder.second.copy_(torch.tensor(sot_parts.decoder_weights()["second"]))
    return made


def test_encoder_graph_and_net_agree_over_forty_chunks_and_four_channels() -> None:
    speech = real.meeting(0.0, 27.0)
    assert speech.shape[1] > 40 * CHUNK_SAMPLES
    worst = encoder_parity(nets(), open_graph(EncoderGraph(sot_parts.encoder_weights()).build()), speech)
    assert set(worst) >= {"hidden", "activity", "new_cached_key", "new_cached_norm", "new_processed_frames"}
    assert max(worst.values()) <= TOLERANCE
    assert worst["new_processed_frames"] == 0


def test_decoder_graph_and_net_agree_in_both_voices() -> None:
    _, _, windows = sot_parts.measured()
    assert len(windows) >= 1
    assert decoder_parity(nets(), sot_parts.exact_decoder(), windows)["logits"] <= TOLERANCE


def test_a_graph_of_other_weights_is_found_out() -> None:
    weights = sot_parts.encoder_weights()
    other = weights | {"layers.5.o": np.asarray(weights["layers.5.o"] * 1.01, np.float32)}
    with pytest.raises(ParityError, match=r"expected differences of at most 0\.001 .*'hidden'"):
        encoder_parity(nets(), open_graph(EncoderGraph(other).build()), real.meeting(4.0, 1.5))
