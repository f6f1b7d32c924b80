"""`crosstalk export-model` says what it lacks; the export itself: tests/onnx_export/test_release."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import pytest

from server.commands import export_model


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    export_model.add_parser(parser.add_subparsers())
    return parser.parse_args(["export-model", *arguments])


def test_without_torch_it_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    args = parsed("model.pt", "--out", str(tmp_path))
    assert args.run(args) == export_model.FAILED
    assert "pip install 'crosstalk-captions[train]'" in capsys.readouterr().err


def test_a_checkpoint_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    args = parsed(str(tmp_path / "none.pt"), "--out", str(tmp_path))
    assert args.run(args) == export_model.FAILED
    assert "none.pt: no such checkpoint" in capsys.readouterr().err
