"""The encoder graph on real speech: streams apart, channels in any order, silence, bytes. Parity: test_parity."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from onnx_export.graph import open_graph
from onnx_export.metadata import Provenance, write_properties
from onnx_export.ranges import chunks_of, encode, mix_of, runner
from onnx_export.sot import EncoderGraph
from streaming_models.contract import CHUNK_INPUT_SAMPLES, check_encoder, start_state
from tests import real
from tests.onnx_export import sot_parts
from tests.real import FloatArray

Outputs = dict[str, NDArray[Any]]


@cache
def exact() -> onnxruntime.InferenceSession:
    return open_graph(EncoderGraph(sot_parts.encoder_weights()).build())


def step(mix: FloatArray, channels: FloatArray, state: Outputs) -> Outputs:
    return runner(exact())({"mix": mix, "channels": channels, **state})


def after(outputs: Outputs) -> Outputs:
    return {name.removeprefix("new_"): value for name, value in outputs.items() if name.startswith("new_")}


def meeting_chunks(count: int) -> list[FloatArray]:
    """(4, CHUNK_INPUT_SAMPLES) each."""
    return list(chunks_of(real.meeting(4.0, 20.0)))[:count]


def test_a_stream_gives_the_same_beside_another_one() -> None:
    first, second = meeting_chunks(3), [c[::-1] * 0.5 for c in meeting_chunks(6)[3:]]
    together, alone = start_state(2), start_state(1)
    for one, other in zip(first, second, strict=True):
        both = step(np.stack([mix_of(one), mix_of(other)]), np.stack([one, other]), together)
        lone = step(mix_of(other)[None], other[None], alone)
        np.testing.assert_allclose(both["hidden"][1], lone["hidden"][0], atol=2e-4)
        np.testing.assert_allclose(both["activity"][1], lone["activity"][0], atol=1e-5)
        together, alone = after(both), after(lone)
    assert together["processed_frames"].tolist() == [81, 81]


def test_streams_may_have_come_to_different_places() -> None:
    chunks = meeting_chunks(4)
    old = start_state(1)
    for chunk in chunks[:3]:
        old = after(step(mix_of(chunk)[None], chunk[None], old))
    new = start_state(1)
    axis = {"cached_key": 1, "cached_value": 1, "cached_norm": 0, "processed_frames": 0}
    both = {name: np.concatenate((old[name], new[name]), axis=axis[name]) for name in old}
    last = chunks[3]
    found = step(np.stack([mix_of(last)] * 2), np.stack([last] * 2), both)
    for row, state in enumerate((old, new)):
        np.testing.assert_allclose(
            found["hidden"][row], step(mix_of(last)[None], last[None], state)["hidden"][0], atol=2e-4
        )


def test_the_order_of_the_channels_changes_nothing() -> None:
    [chunk] = meeting_chunks(1)
    one = step(mix_of(chunk)[None], chunk[None], start_state(1))
    other = step(mix_of(chunk)[None], chunk[None, [2, 0, 3, 1]], start_state(1))
    np.testing.assert_allclose(one["hidden"], other["hidden"], atol=1e-4)


def test_channels_that_differ_from_the_mix_are_heard_and_the_mix_itself_is_not() -> None:
    [chunk] = meeting_chunks(1)
    mix = mix_of(chunk)[None]
    deaf = sot_parts.encoder_weights() | {"spatial.out.weight": np.zeros((288, 192), np.float32)}
    without = runner(open_graph(EncoderGraph(deaf).build()))({"mix": mix, "channels": mix[:, None], **start_state(1)})
    alone = step(mix, mix[:, None], start_state(1))
    np.testing.assert_allclose(alone["hidden"], without["hidden"], atol=1e-3)
    assert np.abs(step(mix, chunk[None], start_state(1))["hidden"] - without["hidden"]).max() > 0.01


@pytest.mark.parametrize("channels", [1, 4])
def test_silence_gives_numbers(channels: int) -> None:
    silence = np.zeros((1, channels, CHUNK_INPUT_SAMPLES), np.float32)
    state = start_state(1)
    for _ in range(2):
        outputs = step(silence[:, 0], silence, state)
        assert all(np.isfinite(value).all() for value in outputs.values())
        state = after(outputs)


def test_bytes_say_nearly_the_same_and_keep_to_the_contract() -> None:
    roundings, _, _ = sot_parts.measured()
    model = EncoderGraph(sot_parts.encoder_weights(), roundings).build()
    onnx.checker.check_model(model)
    write_properties(model, Provenance("", "", 0, 0, {}).properties())
    session = open_graph(model)
    check_encoder(session.get_modelmeta().custom_metadata_map, session.get_inputs(), session.get_outputs())
    assert len(model.SerializeToString()) <= 8_000_000
    speech = real.speech("two_cities", 20.0)[None, 9 * real.RATE_HZ :]
    expected, found = encode(runner(exact()), speech), encode(runner(session), speech)
    assert np.square(found - expected).sum() < 0.12**2 * np.square(expected - expected.mean(0)).sum()


def test_in_bytes_too_a_stream_gives_the_same_beside_a_loud_one() -> None:
    roundings, _, _ = sot_parts.measured()
    run = runner(open_graph(EncoderGraph(sot_parts.encoder_weights(), roundings).build()))
    one, other = meeting_chunks(2)
    mixes, channels = np.stack([mix_of(one), 8 * mix_of(other)]), np.stack([one, 8 * other])
    both = run({"mix": mixes, "channels": channels, **start_state(2)})
    lone = run({"mix": mixes[:1], "channels": channels[:1], **start_state(1)})
    # Rounding edges: sums of floats in another order move single values by a step.
    assert np.abs(both["hidden"][0] - lone["hidden"][0]).mean() < 1e-2
