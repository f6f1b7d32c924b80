"""Where a graph comes from can be read from the graph."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from onnx_export.graph import Graph
from onnx_export.metadata import Provenance, read_properties, sha256, write_properties
from streaming_models.contract import CHUNK_FRAMES, DECODER_KEY, VERSION, VERSION_KEY, check_decoder, check_version

ORIGIN = Provenance(checkpoint="c0ffee", commit="abc", step=1200, seed=3, config={"windows": 6, "encoder_rate": 2e-4})


def test_a_graph_says_which_training_it_is_from() -> None:
    model = Graph().model("empty", [], [])
    write_properties(model, {"old": "gone"})
    write_properties(model, ORIGIN.properties())
    found = read_properties(model)
    assert "old" not in found
    assert found[VERSION_KEY] == VERSION
    assert found["crosstalk.chunk_frames"] == str(CHUNK_FRAMES)
    assert (found["crosstalk.checkpoint_sha256"], found["crosstalk.commit"]) == ("c0ffee", "abc")
    assert (found["crosstalk.step"], found["crosstalk.seed"]) == ("1200", "3")
    assert json.loads(found["crosstalk.config"]) == {"windows": 6, "encoder_rate": 2e-4}
    check_version(found)


def test_tuned_tensors_name_the_file_they_belong_to(tmp_path: Path) -> None:
    decoder = tmp_path / "decoder.ort"
    decoder.write_bytes(b"weights")
    expected = hashlib.sha256(b"weights").hexdigest()
    assert sha256(decoder) == expected
    assert ORIGIN.decoder_properties(decoder)[DECODER_KEY] == expected
    check_decoder(ORIGIN.decoder_properties(decoder), expected)
