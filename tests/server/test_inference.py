"""The graphs as they are loaded: shapes, and that threads may share them."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest

import streaming_models
from server.inference import (
    SYSTEMS,
    Silero,
    SileroGraph,
    SotGraphs,
    load_models,
    load_systems,
    moonshine_assets,
    spellings,
)
from streaming_models.contract import CHUNK_FRAMES, CHUNK_INPUT_SAMPLES, ContractError, start_state
from streaming_models.moonshine import FRAME_SAMPLES, FloatArray
from streaming_models.tokens import START_ID
from tests import real


def test_weights_come_with_the_installed_packages() -> None:
    assert (moonshine_assets() / "tokenizer.bin").is_file()


def test_system_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(ValueError, match=r"expected a system among .*moonshine.*, got 'whisper'"):
        load_models("whisper")


def test_encoder_gives_a_frame_for_every_hop() -> None:
    hidden = real.graphs().encode(real.speech(seconds=3))
    assert hidden.ndim == 2
    assert abs(hidden.shape[0] - 48_000 // FRAME_SAMPLES) <= 2


def test_truncated_caches_are_as_if_the_rest_had_never_been_read() -> None:
    graphs = real.graphs()
    pcm = real.short_speech()
    hidden = graphs.encode(pcm)
    long_row, short_row = [START_ID, 500, 600, 700], [START_ID, 500]
    _, long_caches, _ = graphs.read_prefix(long_row, hidden, len(pcm), 0)
    _, short_caches, _ = graphs.read_prefix(short_row, hidden, len(pcm), 0)
    cut = graphs.truncate(long_caches, 2)
    assert set(cut) == set(short_caches)
    for name, short in short_caches.items():
        assert cut[name].shape == short.shape, name
    latest, _, _ = graphs.add_token(600, hidden, len(pcm), cut)
    expected, _, _ = graphs.add_token(600, hidden, len(pcm), short_caches)
    assert latest.argmax() == expected.argmax()
    assert np.corrcoef(latest, expected)[0, 1] > 0.995  # int8: the scale of a row depends on all of its tokens


def test_voices_give_activity_of_three_talkers_and_an_embedding() -> None:
    models = real.models()
    assert models.segment(real.speech("two_cities", 10)).shape == (589, 3)
    rows = np.random.default_rng(0).standard_normal((200, 80)).astype(np.float32)
    assert models.embed(rows, np.ones(200, np.float32)).shape == (256,)


def test_detector_hears_speech_and_forgets_it() -> None:
    detector = Silero(SileroGraph())
    frames = real.short_speech()[: 512 * 60].reshape(-1, 512)
    first = [detector(frame) for frame in frames]
    assert max(first) > 0.9
    detector.reset()
    assert [detector(frame) for frame in frames] == first
    detector.reset()
    assert max(detector(np.zeros(512, np.float32)) for _ in range(20)) < 0.3


def test_threads_share_the_graphs() -> None:
    moonshine = real.moonshine()
    clips = [real.speech("two_cities", 2 + k / 4) for k in range(4)]
    alone = [moonshine.read(clip) for clip in clips]
    with ThreadPoolExecutor(4) as workers:
        assert list(workers.map(moonshine.read, clips * 2)) == alone * 2


def test_sessions_have_detectors_of_their_own() -> None:
    models = real.models()
    one, other = models.recogniser(), models.recogniser()
    assert one is not other
    pcm = real.short_speech()
    expected = one.step(pcm) + one.flush()
    noise = np.random.default_rng(2).standard_normal(16_000).astype(np.float32)
    third = models.recogniser()
    mixed = []
    for at in range(0, len(pcm), 4_000):
        mixed += other.step(pcm[at : at + 4_000])
        third.step(noise)
    assert mixed + other.flush() == expected


WEIGHTS = Path(streaming_models.__file__).parent / "weights" / "sot"


@cache
def sot() -> SotGraphs:
    return SotGraphs(moonshine_assets(), WEIGHTS)


def chunk(at: int = 0, channels: int = 1) -> tuple[FloatArray, FloatArray]:
    pcm = real.speech(seconds=6.0)
    rows = np.stack([pcm[at + 5 * k : at + 5 * k + CHUNK_INPUT_SAMPLES] for k in range(channels)])
    return rows.mean(0, dtype=np.float32), rows


def test_every_system_is_loaded_and_they_share_their_voices() -> None:
    systems = load_systems()
    assert tuple(systems) == SYSTEMS
    assert all(models.polish is not None for models in systems.values())
    assert all(models.polish is None for models in load_systems("off").values())
    assert systems["sot"].segment == systems["moonshine"].segment


def test_the_sot_encoder_gives_frames_activity_and_a_state_to_go_on_from() -> None:
    mix, channels = chunk(channels=3)
    hidden, activity, state = sot().encode_chunk(mix, channels, start_state(1))
    assert hidden.shape == (CHUNK_FRAMES, 288)
    assert activity.shape == (CHUNK_FRAMES, 2)
    assert ((activity >= 0) & (activity <= 1)).all()
    assert state.keys() == start_state(1).keys()
    again, _, _ = sot().encode_chunk(mix, channels, state)
    assert not np.allclose(again, hidden)


def test_a_stream_of_one_session_weighs_less_than_two_megabytes() -> None:
    assert sum(array.nbytes for array in start_state(1).values()) < 2_000_000


def test_without_space_the_channels_say_nothing() -> None:
    mix, channels = chunk(channels=4)
    blind = sot().without_space()
    alone, _, _ = sot().encode_chunk(mix, mix[None], start_state(1))
    assert np.array_equal(blind.encode_chunk(mix, channels, start_state(1))[0], alone)
    assert not np.array_equal(sot().encode_chunk(mix, channels, start_state(1))[0], alone)


def test_the_order_of_an_arrays_channels_changes_nothing_that_is_heard() -> None:
    mix, channels = chunk(channels=4)
    one, _, _ = sot().encode_chunk(mix, channels, start_state(1))
    other, _, _ = sot().encode_chunk(mix, channels[[2, 0, 3, 1]], start_state(1))
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.999


def test_sot_tokens_one_by_one_give_what_the_row_gives() -> None:
    mix, channels = chunk()
    hidden, _, _ = sot().encode_chunk(mix, channels, start_state(1))
    row = [START_ID, 500, 600, 700]
    whole, caches, attention = sot().read_prefix(row, hidden, 1, 0)
    assert attention.shape[2:] == (4, CHUNK_FRAMES)
    assert attention.sum(axis=-1) == pytest.approx(1.0, abs=1e-3)
    cut = sot().truncate(caches, 2)
    for token, expected in zip(row[2:], whole[2:], strict=True):
        latest, cut, _ = sot().add_token(token, hidden, 1, cut)
        assert latest == pytest.approx(expected, abs=1e-3)


def test_both_voices_are_asked_of_one_window() -> None:
    mix, channels = chunk()
    hidden, _, _ = sot().encode_chunk(mix, channels, start_state(1))
    first, second = (sot().read_prefix([START_ID], hidden, voice, 0)[0] for voice in (0, 1))
    assert not np.allclose(first, second)


def test_weights_of_another_contract_are_refused(tmp_path: Path) -> None:
    shutil.copytree(WEIGHTS, tmp_path / "sot")
    model = onnx.load(tmp_path / "sot" / "decoder_tuned.onnx")
    for entry in model.metadata_props:
        if entry.key == "crosstalk.decoder_sha256":
            entry.value = "0" * 64
    onnx.save(model, tmp_path / "sot" / "decoder_tuned.onnx")
    with pytest.raises(ContractError, match="tuned tensors: expected those for decoder file"):
        SotGraphs(moonshine_assets(), tmp_path / "sot")


def test_a_phrase_is_spelt_as_written_and_with_a_capital() -> None:
    table = real.graphs().table
    found = [table.text(list(row)) for row in spellings(["olive oil", "Kettering", " "], table)]
    assert found == ["olive oil", "Olive oil", "Kettering"]
    assert all(table.starts_word(row[0]) for row in spellings(["olive oil"], table))


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_can_favour_a_vocabulary(system: str) -> None:
    models = load_models(system)
    assert models.favouring is not None
    favoured = models.favouring(("failed",)).recogniser()
    results = [*favoured.step(real.short_speech()), *favoured.flush()]
    assert [w.text.strip(".,").lower() for r in results for w in r.committed] == ["ever", "tried", "ever", "failed"]
