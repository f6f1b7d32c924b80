"""Frames in any order -> one unbroken line: nothing lost, nothing twice, and to the sample at every rate."""

from __future__ import annotations

import numpy as np
import pytest
import soxr
from hypothesis import given
from hypothesis import strategies as st

from server.errors import BadMessage, UnsupportedAudio
from server.ingest.align import MAX_HOLE_S, REORDER_FRAMES, FloatArray, FrameOrder, Hole, Resampler
from server.protocol import AudioFormat, AudioFrame

MONO = AudioFormat()
FLOAT = AudioFormat(encoding="f32le", channels=2)
RATES_HZ = (8_000, 11_025, 22_050, 44_100, 48_000)


def s16(first: int, count: int, channels: int = 1) -> bytes:
    """Samples that tell their own place: sample n of channel c is n + 1000 c, so what came out can be checked."""
    place = np.arange(first, first + count)[:, None] + 1_000 * np.arange(channels)
    return place.astype("<i2").tobytes()


def frame(seq: int, first: int, count: int = 10) -> AudioFrame:
    return AudioFrame(seq, first, s16(first, count))


def places(pcm: FloatArray) -> list[int]:
    return [round(v * 32_768) for v in pcm[0].tolist()]


def run(order: FrameOrder, frames: list[AudioFrame]) -> tuple[list[int], list[Hole]]:
    heard: list[int] = []
    holes: list[Hole] = []
    for aligned in [order.step(f) for f in frames] + [order.flush()]:
        heard += places(aligned.pcm)
        holes += aligned.holes
    return heard, holes


# --- order ---------------------------------------------------------------------------------------------------------


def test_frames_in_order_pass_at_once() -> None:
    order = FrameOrder(MONO)
    for k in range(5):
        assert places(order.step(frame(k, 10 * k)).pcm) == list(range(10 * k, 10 * k + 10))
    assert order.next_sample == 50
    assert order.flush().pcm.shape == (1, 0)


@given(st.permutations(range(REORDER_FRAMES)))
def test_any_order_within_the_window_comes_out_in_order(shuffled: list[int]) -> None:
    order = FrameOrder(MONO)
    heard, holes = run(order, [frame(k, 10 * k) for k in shuffled])
    assert heard == list(range(10 * REORDER_FRAMES))
    assert holes == []
    assert order.duplicates == 0


@given(st.lists(st.integers(0, 11), min_size=1, max_size=40))
def test_repeats_are_dropped_and_counted(sent: list[int]) -> None:
    order = FrameOrder(MONO)
    heard, holes = run(order, [frame(k, 10 * k) for k in sent])
    assert order.duplicates == len(sent) - len(set(sent))
    came = {10 * k + i for k in set(sent) for i in range(10)}
    missing = {n for hole in holes for n in range(hole.start_sample, hole.end_sample)}
    assert came | missing == set(range(order.next_sample))
    assert came.isdisjoint(missing)
    assert heard == [n if n in came else 0 for n in range(order.next_sample)]


def test_overtaken_frame_is_awaited_then_its_audio_comes_whole() -> None:
    order = FrameOrder(MONO)
    order.step(frame(0, 0))
    assert order.step(frame(2, 20)).pcm.shape[1] == 0
    aligned = order.step(frame(1, 10))
    assert places(aligned.pcm) == list(range(10, 30))
    assert aligned.holes == []


def test_lost_frame_becomes_a_hole_of_silence_after_the_window() -> None:
    order = FrameOrder(MONO)
    order.step(frame(0, 0))
    for k in range(2, 2 + REORDER_FRAMES):
        assert order.step(frame(k, 10 * k)).pcm.shape[1] == 0
    aligned = order.step(frame(2 + REORDER_FRAMES, 10 * (2 + REORDER_FRAMES)))
    assert aligned.holes == [Hole(10, 20)]
    assert places(aligned.pcm) == [0] * 10 + list(range(20, 10 * (3 + REORDER_FRAMES)))


def test_late_frame_is_dropped_after_its_gap_was_filled() -> None:
    order = FrameOrder(MONO)
    order.step(frame(0, 0))
    for k in range(2, 3 + REORDER_FRAMES):
        order.step(frame(k, 10 * k))
    assert order.step(frame(1, 10)).pcm.shape[1] == 0
    assert order.duplicates == 1


def test_hole_left_by_the_client_itself_is_told_at_once() -> None:
    order = FrameOrder(MONO)
    order.step(frame(0, 0))
    aligned = order.step(frame(1, 50))
    assert aligned.holes == [Hole(10, 50)]
    assert order.next_sample == 60


def test_stream_that_begins_late_has_a_hole_at_its_start() -> None:
    assert FrameOrder(MONO).step(frame(0, 16_000)).holes == [Hole(0, 16_000)]


def test_flush_gives_what_still_waits_with_its_hole() -> None:
    order = FrameOrder(MONO)
    order.step(frame(0, 0))
    order.step(frame(2, 20))
    aligned = order.flush()
    assert aligned.holes == [Hole(10, 20)]
    assert places(aligned.pcm) == [0] * 10 + list(range(20, 30))
    assert order.next_sample == 30


def test_frame_that_overlaps_gives_only_what_is_new() -> None:
    order = FrameOrder(MONO)
    order.step(frame(0, 0))
    assert places(order.step(frame(1, 5)).pcm) == list(range(10, 15))
    assert order.next_sample == 15


def test_sequence_number_wraps_without_a_hole() -> None:
    order = FrameOrder(MONO)
    order._next_seq = 2**32 - 1
    order.step(frame(2**32 - 1, 0))
    aligned = order.step(frame(0, 30))  # next in line after the wrap: the client left something out
    assert aligned.holes == [Hole(10, 30)]


def test_after_a_lost_connection_frames_begin_anew() -> None:
    order = FrameOrder(MONO)
    order.step(frame(0, 0))
    order.step(frame(2, 20))  # waits for a frame that will never come on this connection
    order.resume()
    heard, holes = run(order, [frame(0, 10), frame(1, 20)])
    assert heard == list(range(10, 30))
    assert holes == []


def test_jump_beyond_the_largest_hole_is_refused_and_changes_nothing() -> None:
    order = FrameOrder(MONO)
    order.step(frame(0, 0))
    for first in (11 + MAX_HOLE_S * 16_000, 2**64 - 1):
        with pytest.raises(BadMessage) as caught:
            order.step(AudioFrame(1, first, s16(0, 1)))
        assert caught.value.expected == "first_sample near 10"
        assert caught.value.received == f"first_sample {first}"
    assert places(order.step(frame(1, 10)).pcm) == list(range(10, 20))


def test_two_hours_of_frames_end_on_the_sample() -> None:
    order = FrameOrder(MONO)
    payload = bytes(2 * 160_000)
    for k in range(720):
        order.step(AudioFrame(k, k * 160_000, payload))
    assert order.next_sample == 2 * 3600 * 16_000


# --- values --------------------------------------------------------------------------------------------------------


def test_channels_are_taken_apart() -> None:
    aligned = FrameOrder(AudioFormat(channels=3)).step(AudioFrame(0, 0, s16(0, 4, channels=3)))
    assert aligned.pcm.shape == (3, 4)
    assert aligned.pcm.dtype == np.float32
    np.testing.assert_array_equal(np.rint(aligned.pcm * 32_768), [[c * 1_000 + n for n in range(4)] for c in range(3)])


def test_full_scale_of_s16_is_minus_one_to_just_under_one() -> None:
    payload = np.array([-32_768, 32_767, 0], "<i2").tobytes()
    np.testing.assert_array_equal(
        FrameOrder(MONO).step(AudioFrame(0, 0, payload)).pcm[0], np.array([-1, 32_767 / 32_768, 0], np.float32)
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_a_number_is_refused_and_the_clock_stands(bad: float) -> None:
    order = FrameOrder(FLOAT)
    pcm = np.zeros((5, 2), "<f4")
    pcm[3, 1] = bad
    with pytest.raises(UnsupportedAudio) as caught:
        order.step(AudioFrame(0, 0, pcm.tobytes()))
    assert caught.value.expected == "finite float32 samples in [-1, 1]"
    assert caught.value.received == "1 NaN or infinite of 10"
    assert order.next_sample == 0


def test_floats_beyond_full_scale_are_clipped_and_counted() -> None:
    order = FrameOrder(FLOAT)
    pcm = np.array([[0.5, -0.5], [1.5, -7.0], [1.0, -1.0]], "<f4")
    aligned = order.step(AudioFrame(0, 0, pcm.tobytes()))
    np.testing.assert_array_equal(aligned.pcm, np.clip(pcm.T, -1, 1))
    assert order.clipped_samples == 2


# --- rate ----------------------------------------------------------------------------------------------------------


def chunked(resampler: Resampler, pcm: FloatArray, sizes: list[int]) -> FloatArray:
    pieces = []
    at = turn = 0
    while at < pcm.shape[1]:
        size = sizes[turn % len(sizes)]
        pieces.append(resampler.step(pcm[:, at : at + size]))
        at += size
        turn += 1
    return np.concatenate([*pieces, resampler.flush()], axis=1)


def noise(channels: int, samples: int) -> FloatArray:
    return (np.random.default_rng(3).standard_normal((channels, samples)) * 0.1).astype(np.float32)


@pytest.mark.parametrize("rate_hz", [*RATES_HZ, 16_000])
@pytest.mark.parametrize("sizes", [[1], [441, 1, 7], [960], [10_000]])
def test_any_chunking_gives_the_same_samples(rate_hz: int, sizes: list[int]) -> None:
    pcm = noise(2, 4_321 if sizes == [1] else 30_011)
    whole = chunked(Resampler(rate_hz, 2), pcm, [pcm.shape[1]])
    np.testing.assert_array_equal(chunked(Resampler(rate_hz, 2), pcm, sizes), whole)


@pytest.mark.parametrize("rate_hz", [*RATES_HZ, 16_000])
@given(st.integers(0, 3_000))
def test_length_is_exact_at_every_rate(rate_hz: int, samples: int) -> None:
    out = chunked(Resampler(rate_hz, 1), noise(1, samples), [977])
    assert out.shape == (1, -(-samples * 16_000 // rate_hz))
    assert out.dtype == np.float32


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_resampled_audio_is_the_audio(rate_hz: int) -> None:
    seconds = np.arange(2 * rate_hz) / rate_hz
    tone = (0.5 * np.sin(2 * np.pi * 997 * seconds)).astype(np.float32)[None]
    out = chunked(Resampler(rate_hz, 1), tone, [997])
    wanted = 0.5 * np.sin(2 * np.pi * 997 * np.arange(32_000) / 16_000)
    middle = slice(2_000, -2_000)
    assert np.abs(out[0, middle] - wanted[middle]).max() < 1e-3
    np.testing.assert_allclose(out[0], soxr.resample(tone[0], rate_hz, 16_000), atol=1e-6)


def test_channels_are_resampled_alike() -> None:
    pcm = noise(1, 20_000)
    out = chunked(Resampler(44_100, 4), np.repeat(pcm, 4, axis=0), [500])
    for channel in out[1:]:
        np.testing.assert_array_equal(channel, out[0])


def test_reset_starts_again_at_sample_zero() -> None:
    pcm = noise(1, 5_000)
    resampler = Resampler(48_000, 1)
    first = chunked(resampler, pcm, [999])
    resampler.reset()
    np.testing.assert_array_equal(chunked(resampler, pcm, [999]), first)


def test_empty_stream_gives_nothing() -> None:
    assert Resampler(44_100, 3).flush().shape == (3, 0)
