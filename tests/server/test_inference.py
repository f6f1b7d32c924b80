"""The graphs as they are loaded: shapes, and that threads may share them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from server.inference import SYSTEMS, Silero, SileroGraph, load_models, moonshine_assets
from streaming_models.moonshine import FRAME_SAMPLES
from streaming_models.tokens import START_ID
from tests import real


def test_weights_come_with_the_installed_packages() -> None:
    assert (moonshine_assets() / "tokenizer.bin").is_file()


def test_system_that_is_not_there_is_named_with_those_that_are() -> None:
    assert SYSTEMS == ("moonshine",)
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
    for name, cache in short_caches.items():
        assert cut[name].shape == cache.shape, name
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
