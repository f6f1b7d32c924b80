"""The extraction graph held to its net, in float32 and int8; and what is written beside it."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from onnx_export.extraction import ExtractionGraph, example, in_int8, main, net_mask
from onnx_export.graph import open_graph
from onnx_export.metadata import read_properties
from streaming_models.nets.extraction import ExtractionNet


@cache
def net() -> ExtractionNet:
    torch.manual_seed(2)
    return ExtractionNet(width=32).eval()


def graph() -> onnx.ModelProto:
    return ExtractionGraph({name: value.numpy() for name, value in net().state_dict().items()}).build()


@pytest.mark.parametrize("frames", [17, 300])
def test_graph_says_what_the_net_says_whatever_the_length(frames: int) -> None:
    feed = {name: value[:, :frames] for name, value in example(seed=frames).items()}
    assert np.abs(open_graph(graph()).run(None, feed)[0] - net_mask(net(), feed)).max() < 1e-4


def test_int8_graph_is_smaller_and_hardly_differs() -> None:
    exact, small = graph(), in_int8(graph())
    assert small.ByteSize() < 0.5 * exact.ByteSize()
    feed = example()
    difference = open_graph(small).run(None, feed)[0] - open_graph(exact).run(None, feed)[0]
    assert np.abs(difference).mean() < 0.01


def test_release_writes_graph_and_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(3)
    checkpoint, card = tmp_path / "model.pt", tmp_path / "card.json"
    torch.save({"net": ExtractionNet().state_dict(), "step": 7, "config": {"seed": 1}}, checkpoint)
    card.write_text(json.dumps({"licence": "Apache-2.0", "scores": {"somewhere": "0.5"}}))
    assert main([str(checkpoint), "--out", str(tmp_path / "out"), "--card", str(card)]) == 0
    properties = read_properties(onnx.load(str(tmp_path / "out" / "extraction.onnx")))
    assert properties["crosstalk.step"] == "7"
    text = (tmp_path / "out" / "CARD.md").read_text()
    assert "Licence: Apache-2.0" in text
    assert "- somewhere: 0.5" in text
    assert "Training data: not stated" in text
    assert properties["crosstalk.checkpoint_sha256"] in text
    assert "largest difference" in capsys.readouterr().out


def test_a_checkpoint_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.pt"), "--out", str(tmp_path)]) == 1
    assert "none.pt" in capsys.readouterr().err
    assert not (tmp_path / "extraction.onnx").exists()
