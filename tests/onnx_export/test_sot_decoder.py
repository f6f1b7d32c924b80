"""The decoder of many rows: rows apart, tokens at once or one by one, two voices, and the tensors that ship."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from onnx_export.graph import open_graph
from onnx_export.moonshine import read_ort_as_onnx
from onnx_export.ranges import token_feed
from onnx_export.sot_decoder import SotDecoderGraphs, Tuned, float_decoder, sot_decoder
from streaming_models.contract import HEAD_SIZE, HEADS, LAYERS, MEMORY_WIDTH, memory_inputs
from streaming_models.tokens import START_ID
from tests import real
from tests.onnx_export import sot_parts
from tests.real import FloatArray

Feed = dict[str, NDArray[Any]]


@cache
def sessions(exact: bool) -> tuple[onnxruntime.InferenceSession, onnxruntime.InferenceSession]:
    """Memory and tokens."""
    graphs: SotDecoderGraphs = sot_parts.exact_decoder() if exact else sot_parts.byte_decoder()
    return open_graph(graphs.memory), open_graph(graphs.tokens)


def remember(frames: FloatArray, exact: bool = False) -> FloatArray:
    memory: FloatArray = sessions(exact)[0].run(None, {"hidden": frames[None]})[0]
    return memory


def read(feed: Feed, exact: bool = False) -> Feed:
    session = sessions(exact)[1]
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(None, feed), strict=True))


def window(number: int, frames: int = 216) -> tuple[FloatArray, list[int]]:
    """Frames and the tokens read from them."""
    hidden, row = sot_parts.measured()[2][number]
    return hidden[:frames], [START_ID, *row]


def grown(found: Feed, tokens: slice = slice(None)) -> Feed:
    """A row's caches as the next call takes them."""
    return {n.replace("present", "past"): v[:, :, tokens] for n, v in found.items() if n.startswith("present")}


@pytest.mark.parametrize("exact", [True, False])
def test_tokens_one_by_one_say_what_they_say_at_once(exact: bool) -> None:
    frames, row = window(0)
    memory = remember(frames, exact)
    whole = read(token_feed(memory, row, 0), exact)
    assert whole["logits"].shape == (len(row), 32_768)
    found = read(token_feed(memory, row[:2], 0), exact)
    for place, token in enumerate(row[2:], start=2):
        feed = token_feed(memory, [token], 0) | grown(found) | {"past_tokens": np.array([place])}
        found = read(feed, exact)
        assert int(found["logits"][0].argmax()) == int(whole["logits"][place].argmax())
        np.testing.assert_allclose(found["logits"][0], whole["logits"][place], atol=2e-3 if exact else 0.8)
    assert found["present_key.5"].shape == (1, HEADS, len(row), HEAD_SIZE)


def test_rows_of_different_lengths_give_what_each_gives_alone() -> None:
    rows = [(*window(0), 0), (*window(1, 90), 1), (*window(0, 30), 0)]
    memories = [remember(frames) for frames, _, _ in rows]
    cuts = [4, 2, 1]  # tokens that were read before
    before = [
        read(token_feed(m, row[:cut], voice)) for m, (_, row, voice), cut in zip(memories, rows, cuts, strict=True)
    ]
    new = [row[cut:] for (_, row, _), cut in zip(rows, cuts, strict=True)]
    alone = [
        read(token_feed(m, tokens, voice) | grown(past) | {"past_tokens": np.array([cut])})
        for m, tokens, (_, _, voice), past, cut in zip(memories, new, rows, before, cuts, strict=True)
    ]
    longest = max(map(len, new))

    def filled(parts: list[FloatArray]) -> FloatArray:
        size = max(part.shape[2] for part in parts)
        return np.concatenate([np.pad(p, ((0, 0), (0, 0), (0, size - p.shape[2]), (0, 0))) for p in parts])

    each = [memory_inputs(m) | grown(past) for m, past in zip(memories, before, strict=True)]
    feed: Feed = {
        "tokens": np.array([tokens + [7] * (longest - len(tokens)) for tokens in new]),
        "voice": np.array([voice for _, _, voice in rows], np.float32),
        "past_tokens": np.array(cuts),
        "frames": np.array([m.shape[1] for m in memories]),
        "wanted": np.array([[b, u] for b, tokens in enumerate(new) for u in range(len(tokens))]),
    }
    together = read(feed | {name: filled([values[name] for values in each]) for name in each[0]})
    at = 0
    for b, (tokens, single) in enumerate(zip(new, alone, strict=True)):
        np.testing.assert_allclose(together["logits"][at : at + len(tokens)], single["logits"], atol=0.8)
        own = together["logits"][at : at + len(tokens)].argmax(-1)
        np.testing.assert_array_equal(own, single["logits"].argmax(-1))
        attention = together["cross_attention"][:, b, :, : len(tokens)]
        frames = memories[b].shape[1]
        np.testing.assert_allclose(attention[..., :frames], single["cross_attention"][:, 0], atol=0.05)
        assert not attention[..., frames:].any()
        slots = max(cuts)
        keys = together["present_key.2"][b, :, slots : slots + len(tokens)]
        np.testing.assert_allclose(keys, single["present_key.2"][0, :, cuts[b] :], atol=0.2)
        at += len(tokens)


def test_wanted_chooses_rows_of_logits() -> None:
    frames, row = window(1)
    memory = remember(frames)
    every = read(token_feed(memory, row, 0))["logits"]
    np.testing.assert_array_equal(read(token_feed(memory, row, 0, 3))["logits"], every[3:])


def test_the_second_voice_adds_its_vector_and_the_first_does_not() -> None:
    frames, row = window(0)
    plain = sot_parts.decoder_weights() | {"second": np.zeros(288, np.float32)}
    memory = remember(frames, exact=True)
    first, second = (read(token_feed(memory, row, voice), exact=True)["logits"] for voice in (0, 1))
    tokens = open_graph(float_decoder(plain).tokens)
    for voice in (0, 1):
        untouched = tokens.run(["logits"], token_feed(memory, row, voice))[0]
        np.testing.assert_allclose(untouched, first, atol=1e-3)
    assert np.abs(second - first).max() > 0.1


def test_float_graph_says_what_moonshine_s_own_decoder_says() -> None:
    pcm = real.speech("two_cities", 6.0)
    hidden = real.graphs().encode(pcm)
    row = [START_ID, *real.moonshine().read(pcm).tokens]
    expected, _, attention = real.graphs().read_prefix(row, hidden, len(pcm), 0)
    for exact in (True, False):
        found = read(token_feed(remember(hidden, exact), row, 0), exact)
        np.testing.assert_array_equal(found["logits"].argmax(-1), expected.argmax(-1))
        assert np.corrcoef(found["logits"].ravel(), expected.ravel())[0, 1] > 0.99
        assert np.corrcoef(found["cross_attention"][:, 0].ravel(), attention.ravel())[0, 1] > 0.97


def test_memory_of_a_frame_does_not_depend_on_the_others() -> None:
    frames, _ = window(0)
    whole = remember(frames)
    assert whole.shape == (1, len(frames), MEMORY_WIDTH)
    np.testing.assert_array_equal(remember(frames[27:54]), whole[:, 27:54])


def test_tuned_tensors_come_back_from_their_file_and_stay_small() -> None:
    tuned = sot_parts.tuned()
    model = tuned.to_model({"crosstalk.contract": "1"})
    data = model.SerializeToString()
    assert len(data) < 2_200_000
    again = Tuned.from_model(onnx.load_from_string(data))
    assert set(again.matrices) == set(tuned.matrices)
    assert len(again.matrices) == 4 * LAYERS
    for name, matrix in tuned.matrices.items():
        np.testing.assert_array_equal(again.matrices[name].values, matrix.values)
        np.testing.assert_array_equal(again.matrices[name].scale, matrix.scale)
    assert set(again.vectors) == set(tuned.vectors)
    assert set(again.roundings) == set(tuned.roundings)
    for name, rounding in tuned.roundings.items():
        assert again.roundings[name].scale == pytest.approx(rounding.scale)
        assert again.roundings[name].zero == rounding.zero
        assert (again.roundings[name].divisor is None) == (rounding.divisor is None)


def test_a_missing_tensor_is_named() -> None:
    tuned = sot_parts.tuned()
    vectors = {name: value for name, value in tuned.vectors.items() if name != "layers.3.norm2"}
    with pytest.raises(ValueError, match=r"found no 'layers\.3\.norm2'"):
        sot_decoder(read_ort_as_onnx(sot_parts.DECODER_FILE), Tuned(tuned.matrices, vectors, tuned.roundings))
