"""Moonshine Base's rebuilt decoder against its own export, on real speech."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnxruntime
import pytest

from onnx_export.moonshine import read_ort_as_onnx
from onnx_export.moonshine_decoder import BASE, TINY, Weights
from server.inference import MoonshineGraphs, moonshine_assets, moonshine_base_assets
from streaming_models.moonshine import FRAME_SAMPLES, Moonshine, Reading
from streaming_models.polish import FullContext
from streaming_models.scoring import normalise
from streaming_models.stable_prefix import StablePrefix, words_in
from streaming_models.tokens import START_ID
from tests import real
from tests.real import FloatArray

ASSETS = moonshine_base_assets()
pytestmark = pytest.mark.skipif(ASSETS is None, reason="the wheel of Moonshine Base is not built for this platform")


@cache
def graphs() -> MoonshineGraphs:
    assert ASSETS is not None
    return MoonshineGraphs(ASSETS)


@cache
def speech() -> FloatArray:
    return real.speech("two_cities", 12.0)


def read(reader: MoonshineGraphs) -> Reading:
    return Moonshine(reader, reader.table).read(speech(), speech_end_frame=len(speech()) // FRAME_SAMPLES)


def test_the_export_tells_its_size() -> None:
    assert ASSETS is not None
    assert Weights.of_merged(read_ort_as_onnx(ASSETS / "decoder_model_merged.ort")).size == BASE
    assert Weights.of_merged(read_ort_as_onnx(moonshine_assets() / "decoder_model_merged.ort")).size == TINY


def test_every_next_token_is_the_exports_own() -> None:
    """The export computes in float: int8 activations move its logits by a few tenths of their spread."""
    assert ASSETS is not None
    tokens = [START_ID, *read(graphs()).tokens]
    assert len(tokens) > 30
    hidden = graphs().encode(speech())
    logits, _, attention = graphs().read_prefix(tokens, hidden, len(speech()), 0)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    export = onnxruntime.InferenceSession(str(ASSETS / "decoder_model_merged.ort"), options)
    feed = {v.name: np.zeros((1, 8, 0, 52), np.float32) for v in export.get_inputs() if v.name.startswith("past")}
    feed |= {"input_ids": np.array([tokens]), "encoder_hidden_states": hidden[None]}
    (expected,) = export.run(["logits"], feed | {"use_cache_branch": np.array([False])})
    assert (logits.argmax(axis=1) == expected[0].argmax(axis=1)).mean() > 0.95
    assert np.abs(logits - expected[0]).mean() < 0.1 * expected.std()
    assert attention.shape == (BASE.layers, BASE.heads, len(tokens), len(hidden))
    assert np.allclose(attention.sum(axis=3), 1, atol=1e-4)


def test_a_prefix_read_at_once_equals_token_by_token() -> None:
    hidden = graphs().encode(speech())
    tokens = [START_ID, *read(graphs()).tokens[:6]]
    whole, _, _ = graphs().read_prefix(tokens, hidden, len(speech()), 0)
    logits, caches, _ = graphs().read_prefix(tokens[:1], hidden, len(speech()), 0)
    rows = [logits[0]]
    for token in tokens[1:]:
        row, caches, _ = graphs().add_token(token, hidden, len(speech()), caches)
        rows.append(row)
    assert np.abs(np.stack(rows) - whole).mean() < 0.1 * whole.std()
    assert (np.stack(rows).argmax(axis=1) == whole.argmax(axis=1)).all()


def test_it_reads_what_was_said_and_when() -> None:
    """Its word times are Tiny's, whose heads were chosen by words timed by hand, to within a fifth of a second."""
    ends = []
    for reader in (graphs(), MoonshineGraphs(moonshine_assets())):
        reading = read(reader)
        words = words_in(StablePrefix(0).words_of(reading, reader.table, 0, len(speech())))
        assert normalise(" ".join(w.text for w in words)).startswith(
            "it was the best of times it was the worst of times it was the age of wisdom"
        )
        ends.append([word.end_sample / real.RATE_HZ for word in words[:18]])
    assert np.abs(np.array(ends[0]) - np.array(ends[1])).mean() < 0.2


def test_speech_is_not_taken_for_nothing() -> None:
    """Cut where this recording begins, without silence before it, Base hears the end at once unless it is told."""
    reader = Moonshine(graphs(), graphs().table)
    assert reader.read(speech()).tokens == ()
    words = FullContext(reader, all_speech=True)(speech())
    assert normalise(" ".join(w.text for w in words)).startswith("it was the best of times it was the worst of times")
