"""Chunks on a fixed grid: each once, look-ahead included, looks at unfinished ones without consequences."""

from __future__ import annotations

import numpy as np
import pytest

from streaming_models.chunked_encoder import NOTHING, ChunkedEncoder, Encoded, State
from streaming_models.contract import CHUNK_FRAMES, CHUNK_INPUT_SAMPLES, CHUNK_SAMPLES, FRAME_SAMPLES
from streaming_models.endpoint import VAD_FRAME_SAMPLES, FloatArray


class Recording:
    """Frames of one number: the sum of what each covers; the state counts chunks."""

    def __init__(self) -> None:
        self.inputs: list[tuple[FloatArray, FloatArray, int]] = []

    def encode_chunk(self, mix: FloatArray, channels: FloatArray, state: State) -> tuple[FloatArray, FloatArray, State]:
        chunks = int(state["processed_frames"][0])
        self.inputs.append((mix, channels, chunks))
        hidden = mix[:CHUNK_SAMPLES].reshape(CHUNK_FRAMES, FRAME_SAMPLES).sum(1, keepdims=True)
        return hidden, np.zeros((CHUNK_FRAMES, 2), np.float32), {"processed_frames": np.array([chunks + 1])}


def blocks(count: int, channels: int = 2) -> FloatArray:
    """(count, 1 + channels, VAD_FRAME_SAMPLES) of counting samples; channel c is c million higher."""
    mix = np.arange(count * VAD_FRAME_SAMPLES, dtype=np.float32).reshape(count, 1, -1)
    return np.concatenate([mix + 1e6 * c for c in range(1 + channels)], axis=1)


def test_chunk_is_encoded_as_soon_as_its_look_ahead_is_there() -> None:
    graph = Recording()
    encoder = ChunkedEncoder(graph)
    encoder.wake()
    arrived = []
    for block in blocks(62):
        encoder.feed(block)
        if encoder.due:
            arrived.append((encoder.clock, encoder.step()))
    needed = [CHUNK_INPUT_SAMPLES + k * CHUNK_SAMPLES for k in range(3)]
    assert [clock for clock, _ in arrived] == [-(-n // VAD_FRAME_SAMPLES) * VAD_FRAME_SAMPLES for n in needed]
    assert [frames.start_sample for _, frames in arrived] == [k * CHUNK_SAMPLES for k in range(3)]
    for k, (mix, channels, state) in enumerate(graph.inputs):
        assert mix.tolist() == list(range(k * CHUNK_SAMPLES, k * CHUNK_SAMPLES + CHUNK_INPUT_SAMPLES))
        assert np.array_equal(channels, np.stack([mix + np.float32(1e6), mix + np.float32(2e6)]))
        assert state == k


def test_look_at_an_unfinished_chunk_changes_nothing() -> None:
    looked, plain = ChunkedEncoder(Recording()), ChunkedEncoder(Recording())
    frames = []
    for encoder in (looked, plain):
        encoder.wake()
        found = NOTHING
        for number, block in enumerate(blocks(50)):
            encoder.feed(block)
            found = found.then(encoder.step())
            if encoder is looked and number > 3:
                seen = encoder.peek()
                assert seen.start_sample == found.end_sample
                assert seen.end_sample - encoder.clock < FRAME_SAMPLES
                assert seen.end_sample >= min(encoder.clock, seen.start_sample + CHUNK_SAMPLES)
        frames.append(found)
    assert np.array_equal(frames[0].hidden, frames[1].hidden)
    assert len(frames[0].hidden) == 2 * CHUNK_FRAMES


def test_missing_audio_is_silence() -> None:
    graph = Recording()
    encoder = ChunkedEncoder(graph)
    encoder.wake()
    for block in blocks(3) + 1:
        encoder.feed(block)
    encoder.peek()
    ((mix, channels, _),) = graph.inputs
    assert mix.shape == channels[0].shape == (CHUNK_INPUT_SAMPLES,)
    assert mix[: 3 * VAD_FRAME_SAMPLES].all()
    assert not mix[3 * VAD_FRAME_SAMPLES :].any()


def test_after_sleep_it_starts_anew_where_audio_was_kept() -> None:
    graph = Recording()
    encoder = ChunkedEncoder(graph)
    encoder.wake()
    rows = blocks(110)
    for block in rows[:30]:
        encoder.feed(block)
    encoder.step()
    for block in rows[30:100]:
        encoder.feed(block)
        encoder.sleep(encoder.clock - 1_000)
    assert not encoder.awake
    encoder.wake()
    for block in rows[100:]:
        encoder.feed(block)
    assert encoder.due
    found = encoder.step()
    kept = (100 * VAD_FRAME_SAMPLES - 1_000) // CHUNK_SAMPLES * CHUNK_SAMPLES
    assert found.start_sample == kept
    assert [state for _, _, state in graph.inputs] == [0, 0]
    assert graph.inputs[1][0][0] == kept


def test_frames_before_a_sample_are_dropped_whole() -> None:
    frames = Encoded(768, np.arange(4, dtype=np.float32)[:, None], np.zeros((4, 2), np.float32))
    assert frames.end_sample == 768 + 4 * FRAME_SAMPLES
    assert frames.since(0).start_sample == 768
    assert frames.since(768 + 500).hidden[:, 0].tolist() == [1, 2, 3]
    assert frames.since(768 + 500).start_sample == 768 + FRAME_SAMPLES
    assert len(frames.since(10_000).hidden) == 0
    assert frames.since(10_000).end_sample == frames.end_sample


def test_gap_between_frames_is_a_bug() -> None:
    frames = Encoded(0, np.zeros((2, 1), np.float32), np.zeros((2, 2), np.float32))
    later = Encoded(3 * FRAME_SAMPLES, frames.hidden, frames.activity)
    with pytest.raises(AssertionError, match="frames from 1152 after 768"):
        frames.then(later)
    assert NOTHING.then(later) is later
    assert later.then(NOTHING) is later
