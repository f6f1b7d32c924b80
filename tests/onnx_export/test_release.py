"""A checkpoint becomes the files of a release. Needs torch (extra `train`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

from onnx_export import release  # noqa: E402
from onnx_export.graph import open_graph  # noqa: E402
from onnx_export.metadata import read_properties, sha256  # noqa: E402
from onnx_export.moonshine import read_ort_as_onnx  # noqa: E402
from onnx_export.sot_decoder import Tuned, sot_decoder  # noqa: E402
from server.inference import moonshine_assets  # noqa: E402
from streaming_models.contract import check_decoder  # noqa: E402
from tests import real  # noqa: E402
from tests.onnx_export import sot_parts  # noqa: E402


def saved(path: Path, **other: Any) -> Path:
    """A checkpoint as training writes it: halves, parts under their names."""
    weights = {n: torch.tensor(w).half() for n, w in sot_parts.encoder_weights().items()}
    inner = {n: w for n, w in weights.items() if not n.startswith(("spatial.", "activity."))}
    content: dict[str, Any] = {
        "encoder": inner,
        "spatial": {n.removeprefix("spatial."): w for n, w in weights.items() if n.startswith("spatial.")},
        "heads": {n.removeprefix("activity."): w for n, w in weights.items() if n.startswith("activity.")},
        "decoder_tuned": {n: torch.tensor(w).half() for n, w in sot_parts.tuned_weights().items()},
        "step": 40,
        "seed": 2,
        "config": {"windows": 6},
    }
    torch.save({name: part for name, part in (content | other).items() if part is not None}, path)
    return path


def load(path: Path) -> release.Checkpoint:
    decoder = {n: w for n, w in sot_parts.decoder_weights().items() if n != "second"}
    return release.Checkpoint.load(path, decoder, "abc")


def test_a_release_holds_graphs_that_load_and_a_card_that_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release, "BATCHES", (1,))
    checkpoint = load(saved(tmp_path / "model.pt"))
    card = {"licence": "MIT", "data": "meetings", "scores": {"cpWER": 0.2}}
    measured = release.release(checkpoint, moonshine_assets(), [real.meeting(4.0, 6.0)], tmp_path / "out", card)
    assert max(measured["parity"].values()) <= 1e-3
    assert measured["hidden_error"] < 0.12
    assert measured["token_agreement"] > 0.9
    model = onnx.load(str(tmp_path / "out" / release.ENCODER_FILE))
    open_graph(model)
    assert read_properties(model)["crosstalk.checkpoint_sha256"] == sha256(tmp_path / "model.pt")
    kept = onnx.load(str(tmp_path / "out" / release.DECODER_FILE))
    check_decoder(read_properties(kept), sha256(sot_parts.DECODER_FILE))
    open_graph(sot_decoder(read_ort_as_onnx(sot_parts.DECODER_FILE), Tuned.from_model(kept)).tokens)
    text = (tmp_path / "out" / release.CARD_FILE).read_text(encoding="utf-8")
    for part in (
        "Licence: MIT",
        "Training data: meetings",
        "step 40, seed 2, code abc",
        "cpWER: 0.2",
        "8 % relative"[2:],
    ):
        assert part in text


def test_a_checkpoint_without_a_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(release.CheckpointError, match="missing: spatial"):
        load(saved(tmp_path / "model.pt", spatial=None))


def test_a_checkpoint_with_other_tensors_is_refused(tmp_path: Path) -> None:
    fewer = {n: torch.tensor(w) for n, w in sot_parts.tuned_weights().items() if n != "second"}
    with pytest.raises(release.CheckpointError, match=r"missing or not among them: \['second'\]"):
        load(saved(tmp_path / "model.pt", decoder_tuned=fewer))
    heads = {"weight": torch.zeros(3, 288), "bias": torch.zeros(3)}
    with pytest.raises(release.CheckpointError, match="size mismatch for weight"):
        load(saved(tmp_path / "other.pt", heads=heads))


def test_relative_error_is_one_for_a_constant_guess() -> None:
    random = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    assert release.relative_error(random, random) == 0
    assert release.relative_error(random, np.broadcast_to(random.mean(0), random.shape)) == pytest.approx(1)
