"""The contract of the SOT graphs: what is accepted, what is refused and in which words."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from streaming_models.contract import (
    DECODER_KEY,
    ENCODER_INPUTS,
    ENCODER_OUTPUTS,
    HEAD_SIZE,
    HEADS,
    LAYERS,
    MEMORY_WIDTH,
    STATE,
    VERSION,
    VERSION_KEY,
    ContractError,
    TensorSpec,
    check_decoder,
    check_encoder,
    memory_inputs,
    no_tokens,
    start_state,
)

GOOD = {VERSION_KEY: VERSION}


@dataclass(frozen=True)
class Described:
    """As ONNX Runtime describes an input or output."""

    name: str
    shape: tuple[int | str | None, ...]
    type: str


def described(specs: tuple[TensorSpec, ...]) -> list[Described]:
    types = {"float32": "tensor(float)", "int64": "tensor(int64)"}
    return [Described(spec.name, spec.shape, types[spec.dtype]) for spec in specs]


def test_graph_with_the_contract_s_inputs_and_outputs_is_accepted() -> None:
    inputs = [replace(v, shape=tuple("streams" if n == "B" else n for n in v.shape)) for v in described(ENCODER_INPUTS)]
    check_encoder(GOOD, inputs, described(ENCODER_OUTPUTS))


@pytest.mark.parametrize("metadata", [{}, {VERSION_KEY: "0"}])
def test_graph_of_another_version_is_refused(metadata: dict[str, str]) -> None:
    found = metadata.get(VERSION_KEY, "none")
    with pytest.raises(ContractError, match=f"expected a graph of contract version {VERSION}, found {found}"):
        check_encoder(metadata, described(ENCODER_INPUTS), described(ENCODER_OUTPUTS))


def test_missing_and_unknown_outputs_are_named() -> None:
    with pytest.raises(ContractError, match=r"expected outputs \[.*'hidden'.*found \['activity'"):
        check_encoder(GOOD, described(ENCODER_INPUTS), described(ENCODER_OUTPUTS)[1:])


@pytest.mark.parametrize(
    "wrong",
    [
        {"shape": (1, 10_879)},
        {"shape": ("B", 10_368)},
        {"shape": ("B", None)},
        {"shape": ("B", 1, 10_879)},
        {"type": "tensor(double)"},
    ],
)
def test_input_of_another_shape_or_type_is_refused(wrong: dict[str, object]) -> None:
    mix, *others = described(ENCODER_INPUTS)
    with pytest.raises(ContractError, match=r"expected input mix float32 \(B, 10879\), found mix "):
        check_encoder(GOOD, [replace(mix, **wrong), *others], described(ENCODER_OUTPUTS))  # type: ignore[arg-type]


def test_tuned_tensors_of_another_decoder_file_are_refused() -> None:
    check_decoder(GOOD | {DECODER_KEY: "ab"}, "ab")
    with pytest.raises(ContractError, match="expected those for decoder file ab, found those for cd"):
        check_decoder(GOOD | {DECODER_KEY: "cd"}, "ab")


def test_a_stream_begins_with_zeros_and_its_state_stays_below_two_megabytes() -> None:
    state = start_state(3)
    assert set(state) == {spec.name for spec in STATE}
    assert all(not value.any() for value in state.values())
    assert state["cached_key"].shape == (6, 3, 128, 288)
    assert state["processed_frames"].dtype == np.int64
    assert sum(value.nbytes for value in start_state(1).values()) <= 2_000_000


def test_memory_of_a_frame_holds_each_layer_s_key_and_then_its_value() -> None:
    streams, frames = 2, 3
    memory = np.arange(streams * frames * MEMORY_WIDTH, dtype=np.float32).reshape(streams, frames, MEMORY_WIDTH)
    inputs = memory_inputs(memory)
    assert len(inputs) == 2 * LAYERS
    assert {value.shape for value in inputs.values()} == {(streams, HEADS, frames, HEAD_SIZE)}
    width = HEADS * HEAD_SIZE
    first = (2 * 4 + 1) * width + 5 * HEAD_SIZE
    np.testing.assert_array_equal(inputs["memory_value.4"][1, 5, 2], memory[1, 2, first : first + HEAD_SIZE])
    assert all(value.flags.c_contiguous for value in inputs.values())
    assert {value.shape for value in no_tokens(streams).values()} == {(streams, HEADS, 0, HEAD_SIZE)}
