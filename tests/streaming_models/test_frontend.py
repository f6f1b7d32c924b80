"""The front end as the pipeline sees it: exact sample counts, any chunking, causality, layouts, reference."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streaming_models.frontend import (
    ARRAY_LOOKAHEAD_SAMPLES,
    BLOCK_SAMPLES,
    CLOSE_TALK_LOOKAHEAD_SAMPLES,
    MIX_LANE,
    FloatArray,
    FrontEnd,
    FrontEndError,
    FrontEndEvent,
    FrontEndOutput,
    Layout,
)
from tests.streaming_models.test_close_talk import (
    SAMPLE_RATE_HZ,
    energy_db,
    lapel_levels_db,
    recorded,
    room_tails,
    taking_turns,
    voices,
)

SQUARE_M = np.array([[0.05, 0.05, 0], [-0.05, 0.05, 0], [-0.05, -0.05, 0], [0.05, -0.05, 0]], np.float32)


def joined(outputs: list[FrontEndOutput]) -> tuple[dict[int, tuple[int, FloatArray]], list[FrontEndEvent]]:
    """Lanes as (start, audio), checked to be contiguous, and all events."""
    lanes: dict[int, tuple[int, list[FloatArray]]] = {}
    events: list[FrontEndEvent] = []
    for output in outputs:
        events += output.events
        for part in output.lanes:
            start, parts = lanes.setdefault(part.lane, (part.start_sample, []))
            assert part.start_sample == start + sum(p.size for p in parts)
            assert part.pcm.dtype == np.float32
            assert (part.channels is None) == (part.lane != MIX_LANE)
            assert part.channels is None or part.channels.shape[1:] == part.pcm.shape
            parts.append(part.pcm)
    return {lane: (start, np.concatenate(parts)) for lane, (start, parts) in lanes.items()}, events


def whole(front_end: FrontEnd, pcm: FloatArray) -> tuple[dict[int, tuple[int, FloatArray]], list[FrontEndEvent]]:
    return joined([front_end.step(pcm), front_end.flush()])


def lapels(seconds: float = 9.0) -> FloatArray:
    turns = taking_turns(2, seconds, turn_s=1.4)
    return recorded(voices(turns, 2, seconds), room_tails(3, 2, lapel_levels_db(2, tables=1)), gains_db=[0, -6, 3])[0]


def array(seconds: float = 6.0, channels: int = 4, hiss: float = 1e-3) -> FloatArray:
    """One talker, every microphone some samples later than the one before, levels within 3 dB."""
    voice = voices([(0, 0.2, seconds)], 1, seconds)[0]
    voice[-64:] = 0  # what is shifted out at the end comes in again at the start
    noise = np.random.default_rng(4).standard_normal((channels, voice.size)) * hiss
    copies = [np.roll(voice, 3 * c) * (1 - 0.08 * c) for c in range(channels)]
    return (np.stack(copies) + noise).astype(np.float32)


RECORDINGS: dict[str, tuple[Layout, FloatArray]] = {
    "one channel": ("auto", array(2.0, 1)),
    "array": ("array", array(2.5)),
    "close talk": ("close_talk", lapels(2.5)),
    "auto that switches": ("auto", lapels(7.0)),
}
WHOLE = {name: whole(FrontEnd(pcm.shape[0], layout), pcm) for name, (layout, pcm) in RECORDINGS.items()}


@pytest.mark.parametrize("name", RECORDINGS)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_chunking_equals_one_call(name: str, data: st.DataObject) -> None:
    layout, pcm = RECORDINGS[name]
    cuts = sorted(data.draw(st.lists(st.integers(0, pcm.shape[1]), max_size=40)))
    front_end = FrontEnd(pcm.shape[0], layout)
    bounds = [0, *cuts, pcm.shape[1]]
    parts = [front_end.step(pcm[:, a:b]) for a, b in pairwise(bounds)]
    lanes, events = joined([*parts, front_end.flush()])
    expected_lanes, expected_events = WHOLE[name]
    assert events == expected_events
    assert lanes.keys() == expected_lanes.keys()
    for lane, (start, audio) in lanes.items():
        assert start == expected_lanes[lane][0]
        assert np.array_equal(audio, expected_lanes[lane][1])


@pytest.mark.parametrize("name", RECORDINGS)
def test_every_sample_is_covered_exactly_once(name: str) -> None:
    pcm = RECORDINGS[name][1]
    lanes, _ = WHOLE[name]
    mix_end = lanes[MIX_LANE][1].size if MIX_LANE in lanes else 0
    for lane, (start, audio) in lanes.items():
        assert start == (0 if lane == MIX_LANE else mix_end)
        assert start + audio.size == (mix_end if lane == MIX_LANE else pcm.shape[1])
    assert mix_end == pcm.shape[1] or sorted(lanes)[-1] == pcm.shape[0] - 1


@pytest.mark.parametrize("name", RECORDINGS)
def test_reset_equals_new(name: str) -> None:
    layout, pcm = RECORDINGS[name]
    front_end = FrontEnd(pcm.shape[0], layout)
    front_end.step(pcm[:, ::-1].copy())
    front_end.reset()
    lanes, events = whole(front_end, pcm)
    assert events == WHOLE[name][1]
    assert all(np.array_equal(audio, WHOLE[name][0][lane][1]) for lane, (_, audio) in lanes.items())


@pytest.mark.parametrize(
    ("layout", "lookahead"), [("array", ARRAY_LOOKAHEAD_SAMPLES), ("close_talk", CLOSE_TALK_LOOKAHEAD_SAMPLES)]
)
def test_no_sample_after_the_lookahead_changes_the_past(layout: Layout, lookahead: int) -> None:
    pcm = lapels(3.0)
    cut = 100 * BLOCK_SAMPLES + 77
    other = pcm.copy()
    other[:, cut:] = np.random.default_rng(1).standard_normal(other[:, cut:].shape).astype(np.float32)
    known = (cut // BLOCK_SAMPLES) * BLOCK_SAMPLES - lookahead
    one, two = (whole(FrontEnd(3, layout), audio)[0] for audio in (pcm, other))
    for lane in one:
        assert np.array_equal(one[lane][1][:known], two[lane][1][:known])
    early, _ = joined([FrontEnd(3, layout).step(pcm[:, :cut])])
    assert all(audio.size == known for _, audio in early.values())


@pytest.mark.parametrize("name", RECORDINGS)
@pytest.mark.parametrize("size", [97, 4_001, 10**9])
def test_the_mix_comes_with_the_same_samples_of_every_channel(name: str, size: int) -> None:
    layout, pcm = RECORDINGS[name]
    front_end = FrontEnd(pcm.shape[0], layout)
    outputs = [front_end.step(pcm[:, at : at + size]) for at in range(0, pcm.shape[1], size)]
    outputs.append(front_end.flush())
    mixed = [part for output in outputs for part in output.lanes if part.lane == MIX_LANE]
    for part in mixed:
        assert part.channels is not None
        assert np.array_equal(part.channels, pcm[:, part.start_sample : part.start_sample + part.pcm.size])
    assert mixed or layout == "close_talk"


def test_channels_are_on_the_time_of_the_mix() -> None:
    pcm = array(3.0)
    front_end = FrontEnd(4, "array")
    parts = [*front_end.step(pcm).lanes, *front_end.flush().lanes]
    mix = np.concatenate([part.pcm for part in parts])
    channels = np.concatenate([part.channels for part in parts if part.channels is not None], axis=1)
    span = slice(SAMPLE_RATE_HZ, 2 * SAMPLE_RATE_HZ)
    later = []  # by channel: how many samples after the mix
    for channel in channels:
        match = [float(np.dot(mix[span], np.roll(channel, -shift)[span])) for shift in range(-15, 16)]
        later.append(int(np.argmax(match)) - 15)
    assert 0 in later, "the reference"
    assert np.diff(later).tolist() == [3, 3, 3]


def test_one_channel_passes_at_once() -> None:
    pcm = array(0.5, 1)[:, 4_000:4_333]
    front_end = FrontEnd(1)
    lanes, _ = joined([front_end.step(pcm)])
    assert np.array_equal(lanes[MIX_LANE][1], pcm[0])
    assert front_end.flush().lanes == ()
    assert front_end.lookahead_samples == 0


def test_nothing_in_nothing_out() -> None:
    for channels in (1, 3):
        front_end = FrontEnd(channels)
        assert front_end.step(np.zeros((channels, 0), np.float32)) == FrontEndOutput((), ())
        assert front_end.flush() == FrontEndOutput((), ())


def test_sample_positions_go_on_after_a_flush() -> None:
    pcm = array(1.0)
    front_end = FrontEnd(4, "array")
    lanes, _ = joined(
        [front_end.step(pcm[:, :5_001]), front_end.flush(), front_end.step(pcm[:, 5_001:]), front_end.flush()]
    )
    assert lanes[MIX_LANE][1].size == pcm.shape[1]


def test_sixteen_channels_work() -> None:
    lanes, _ = whole(FrontEnd(16), array(1.5, 16))
    assert lanes[MIX_LANE][1].size == 24_000


def test_aligned_sum_is_clearer_than_any_microphone() -> None:
    seconds = 5.0
    clean, noisy = array(seconds, hiss=0.0), array(seconds, hiss=0.02)
    mix = whole(FrontEnd(4, "array"), noisy)[0][MIX_LANE][1]
    after = slice(2 * SAMPLE_RATE_HZ, None)

    def fit(signal: FloatArray, reference: FloatArray) -> float:
        return float(np.corrcoef(signal[after], reference[after])[0, 1])

    best_microphone = max(fit(noisy[c], clean[c]) for c in range(4))
    # 1 - r^2 is the share of noise; it must halve at least.
    best_mix = max(fit(mix, clean[c]) for c in range(4))
    assert 1 - best_mix**2 < 0.5 * (1 - best_microphone**2)


def test_permuted_channels_give_the_same_mix() -> None:
    pcm = array()
    mix = whole(FrontEnd(4), pcm)[0][MIX_LANE][1]
    permuted = whole(FrontEnd(4), pcm[[2, 0, 3, 1]])[0][MIX_LANE][1]
    assert np.allclose(mix, permuted, atol=1e-4)


def test_dead_reference_is_replaced() -> None:
    pcm = array(8.0)
    pcm[0] *= 1.5  # the loudest becomes the reference
    pcm[0, 3 * SAMPLE_RATE_HZ :] = 0
    lanes, events = whole(FrontEnd(4), pcm)
    assert [(e.kind, e.channel) for e in events if e.kind == "dead"] == [("dead", 0)]
    assert "reference" in [e.kind for e in events]
    assert abs(energy_db(lanes[MIX_LANE][1], 6, 8) - energy_db(pcm[1], 6, 8)) < 3


def test_the_only_living_microphone_passes() -> None:
    pcm = array(8.0)
    pcm[[0, 1, 3]] *= 0
    lanes, _ = whole(FrontEnd(4), pcm)
    assert np.allclose(lanes[MIX_LANE][1][2 * SAMPLE_RATE_HZ :], pcm[2, 2 * SAMPLE_RATE_HZ :], atol=1e-6)


def test_clipped_reference_is_replaced() -> None:
    pcm = array(6.0)
    pcm[0] = np.clip(pcm[0] * 30, -1, 1)
    lanes, events = whole(FrontEnd(4), pcm)
    assert any(e.kind == "clipping" and e.channel == 0 for e in events)
    assert any(e.kind == "reference" and e.channel != 0 and "clipping" in e.detail for e in events)
    assert abs(energy_db(lanes[MIX_LANE][1], 3, 6) - energy_db(pcm[1], 3, 6)) < 3


def test_microphone_per_person_is_recognised_and_bleed_silenced() -> None:
    pcm = lapels(14.0)
    front_end = FrontEnd(3)
    lanes, events = whole(front_end, pcm)
    switch = next(e for e in events if e.kind == "layout")
    assert front_end.layout_now == "close_talk"
    assert switch.sample == lanes[MIX_LANE][1].size
    assert switch.sample % BLOCK_SAMPLES == 0
    turns = [turn for turn in taking_turns(2, 14.0, turn_s=1.4) if turn[1] > 7]
    for talker, start_s, end_s in turns:
        shift_s = switch.sample / SAMPLE_RATE_HZ
        level_db = [energy_db(lanes[c][1], start_s + 0.4 - shift_s, end_s - shift_s) for c in range(3)]
        assert all(level_db[talker] - level_db[c] > 20 for c in range(3) if c != talker)


def test_array_is_not_taken_for_a_microphone_per_person() -> None:
    pcm = array(6.0) * np.array([[1.0], [0.25], [2.0], [0.5]], np.float32)
    front_end = FrontEnd(4)
    lanes, _ = whole(front_end, pcm)
    assert front_end.layout_now == "array"
    assert set(lanes) == {MIX_LANE}


def test_direction_follows_the_talker() -> None:
    voice = voices([(0, 0.2, 3.0)], 1, 3.0)[0]
    toward = np.array([np.cos(np.radians(70)), np.sin(np.radians(70)), 0])
    spectrum, turn = np.fft.rfft(voice), -2j * np.pi * np.arange(voice.size // 2 + 1) / voice.size
    copies = [
        np.fft.irfft(spectrum * np.exp(turn * -(place @ toward) / 343 * SAMPLE_RATE_HZ), voice.size)
        for place in SQUARE_M
    ]
    hiss = 1e-3 * np.random.default_rng(0).standard_normal((4, voice.size))
    front_end = FrontEnd(4, "array", SQUARE_M)
    front_end.step((np.stack(copies) + hiss).astype(np.float32))
    found = front_end.direction_deg(8_000, 40_000, MIX_LANE)
    assert found is not None
    assert abs(found - 70) < 5
    assert front_end.direction_deg(10**7, 10**7 + 1, MIX_LANE) is None
    assert FrontEnd(1).direction_deg(0, 16_000, MIX_LANE) is None


def test_direction_of_a_lane_is_that_of_its_microphone_while_its_owner_speaks() -> None:
    front_end = FrontEnd(2, "close_talk", np.array([[1, 0, 0], [-1, 0, 0]], np.float32))
    pcm = recorded(voices([(0, 1.0, 3.0)], 2, 4), room_tails(2, 2, lapel_levels_db(2)))[0]
    front_end.step(pcm)
    assert front_end.direction_deg(SAMPLE_RATE_HZ, 3 * SAMPLE_RATE_HZ, 0) == 0.0
    assert front_end.direction_deg(2 * SAMPLE_RATE_HZ, 3 * SAMPLE_RATE_HZ, 1) is None


def test_levels_are_per_channel() -> None:
    front_end = FrontEnd(2)
    front_end.step(np.stack([np.full(16_000, 0.1), np.full(16_000, 0.01)]).astype(np.float32))
    assert np.allclose(front_end.levels_db(), [-20, -40], atol=0.1)


def test_wrong_input_is_refused_with_expected_and_received() -> None:
    front_end = FrontEnd(4)
    with pytest.raises(FrontEndError, match=r"expected audio of shape \(4, S\), received \(3, 320\)"):
        front_end.step(np.zeros((3, 320), np.float32))
    with pytest.raises(FrontEndError, match=r"expected audio of shape \(4, S\), received \(320,\)"):
        front_end.step(np.zeros(320, np.float32))
    with pytest.raises(FrontEndError, match="expected float32 audio, received float64"):
        front_end.step(np.zeros((4, 320)))  # type: ignore[arg-type]
    with pytest.raises(FrontEndError, match="expected 1 to 16 channels, received 17"):
        FrontEnd(17)
    with pytest.raises(FrontEndError, match=r"expected geometry of shape \(4, 3\) metres, received \(2, 3\)"):
        FrontEnd(4, geometry_m=np.zeros((2, 3), np.float32))
