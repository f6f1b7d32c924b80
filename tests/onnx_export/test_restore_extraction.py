"""A checkpoint out of an exported graph: the same net, in float32 to rounding and in int8 as int8 left it."""

from __future__ import annotations

import importlib.resources
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from onnx_export.extraction import ExtractionGraph, example, in_int8, net_mask
from onnx_export.graph import open_graph
from onnx_export.restore_extraction import main, weights_of
from streaming_models.nets.extraction import ExtractionNet


@cache
def net() -> ExtractionNet:
    torch.manual_seed(4)
    return ExtractionNet().eval()


@cache
def graph() -> onnx.ModelProto:
    return ExtractionGraph({name: value.numpy() for name, value in net().state_dict().items()}).build()


def test_every_weight_of_a_float_graph_comes_back_as_it_was() -> None:
    found = weights_of(graph())
    assert set(found) == set(net().state_dict())
    assert all(np.array_equal(found[name], value.numpy()) for name, value in net().state_dict().items())


def test_a_net_from_an_int8_graph_says_what_the_graph_says() -> None:
    small = in_int8(graph())
    restored = ExtractionNet()
    restored.load_state_dict({name: torch.from_numpy(value) for name, value in weights_of(small).items()})
    feed = example()
    assert np.abs(net_mask(restored.eval(), feed) - open_graph(small).run(None, feed)[0]).mean() < 0.005


def test_what_ships_becomes_a_checkpoint_to_start_from(tmp_path: Path) -> None:
    shipped = importlib.resources.files("streaming_models") / "weights" / "extraction" / "extraction.onnx"
    with importlib.resources.as_file(shipped) as path:
        assert main([str(path), "--out", str(tmp_path / "start.pt")]) == 0
    ExtractionNet().load_state_dict(torch.load(tmp_path / "start.pt", weights_only=True)["net"])


def test_another_graph_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = helper.make_model(helper.make_graph([], "nothing", [], []))
    onnx.save(other, str(tmp_path / "other.onnx"))
    assert main([str(tmp_path / "other.onnx"), "--out", str(tmp_path / "start.pt")]) == 1
    assert "expected a graph of the extraction net" in capsys.readouterr().err
    assert not (tmp_path / "start.pt").exists()
