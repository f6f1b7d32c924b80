"""Two real voices around four microphones: found, pulled apart, and nothing lost, whatever happens to the audio."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import pytest

from streaming_models.separation import (
    GROUP_SAMPLES,
    MOST_SEATS,
    FloatArray,
    SeatAudio,
    SeatSeparator,
    SeparationSettings,
)
from streaming_models.short_time import HOP_SAMPLES
from tests.array_scene import FIRST_ALONE, RATE_HZ, SECOND_ALONE, SECONDS, images, scene

GUIDE_SAMPLES = 2 * RATE_HZ
Alone = dict[str, list[tuple[int, int]]]


def hints(until_sample: int) -> Alone:
    """What a diarizer would say: labels, and a local voice that is the same person as one of them."""
    spans = {"S1": FIRST_ALONE, "S2": SECOND_ALONE, "voice 0": FIRST_ALONE}
    return {
        name: [(start * RATE_HZ, min(end * RATE_HZ, until_sample))]
        for name, (start, end) in spans.items()
        if start * RATE_HZ < until_sample
    }


def run(
    pcm: FloatArray,
    sizes: Sequence[int] = (GROUP_SAMPLES,),
    separator: SeatSeparator | None = None,
    told: Callable[[int], Alone] = hints,
    dead: tuple[int, ...] = (),
) -> list[SeatAudio]:
    """Everything that comes out; hints come every two seconds of audio, whatever the sizes."""
    separator = separator or SeatSeparator(pcm.shape[0])
    out: list[SeatAudio] = []
    at = turn = 0
    while at < pcm.shape[1]:
        size = min(sizes[turn % len(sizes)], GUIDE_SAMPLES - at % GUIDE_SAMPLES)
        block = pcm[:, at : at + size]
        out += separator.step(block, block.mean(axis=0), dead)
        at += block.shape[1]
        turn += 1
        if at % GUIDE_SAMPLES == 0:
            separator.guide(told(at), 2.0)
    return out + separator.flush()


def lines(parts: Sequence[SeatAudio]) -> dict[int | None, tuple[int, FloatArray]]:
    """Line -> (first sample, audio), checked to have no holes."""
    found: dict[int | None, tuple[int, list[FloatArray]]] = {}
    for part in parts:
        assert part.pcm.dtype == np.float32
        start, own = found.setdefault(part.seat, (part.start_sample, []))
        assert part.start_sample == start + sum(map(len, own))
        own.append(part.pcm)
    return {seat: (start, np.concatenate(own)) for seat, (start, own) in found.items()}


@cache
def separated() -> dict[int | None, tuple[int, FloatArray]]:
    return lines(run(scene()))


def stretch(line: tuple[int, FloatArray], start_s: float, end_s: float) -> FloatArray:
    first, pcm = line
    return pcm[round(start_s * RATE_HZ) - first : round(end_s * RATE_HZ) - first]


def gain_db(heard: FloatArray, wanted: FloatArray, unwanted: FloatArray) -> float:
    """How much louder the wanted voice is than the other in what is heard (both explained by short filters)."""

    def explained(voice: FloatArray) -> float:
        shifts = np.stack([np.roll(voice, shift) for shift in range(-8, 9)], axis=1)
        fit, *_ = np.linalg.lstsq(shifts, heard, rcond=None)
        return float(np.square(shifts @ fit).sum())

    return float(10 * np.log10(explained(wanted) / explained(unwanted)))


def test_both_talkers_get_a_seat_and_no_more() -> None:
    assert sorted(seat for seat in separated() if seat is not None) == [0, 1]


def test_two_whom_the_diarizer_takes_for_one_have_a_seat_each() -> None:
    def one_name(until_sample: int) -> Alone:
        spans = [(start * RATE_HZ, min(end * RATE_HZ, until_sample)) for start, end in (FIRST_ALONE, SECOND_ALONE)]
        return {"S1": [span for span in spans if span[0] < span[1]]}

    found = lines(run(scene(), told=one_name))
    voices = images()[:, 0, 18 * RATE_HZ : 28 * RATE_HZ]
    assert sorted(seat for seat in found if seat is not None) == [0, 1]
    for seat, own in ((0, 0), (1, 1)):
        assert gain_db(stretch(found[seat], 18, 28), voices[own], voices[1 - own]) > 8


def test_a_seat_that_was_learned_from_two_is_parted() -> None:
    """The hint that makes the seat runs on into the other's turn; later hints know better."""

    def late(until_sample: int) -> Alone:
        if until_sample < 12 * RATE_HZ:
            return {"S1": [(3 * RATE_HZ, 9 * RATE_HZ)]} if until_sample == 10 * RATE_HZ else {}
        return hints(until_sample)

    found = lines(run(scene(), told=late))
    voices = images()[:, 0, 18 * RATE_HZ : 28 * RATE_HZ]
    apart = [gain_db(stretch(line, 18, 28), voices[0], voices[1]) for seat, line in found.items() if seat is not None]
    assert max(apart) > 8
    assert min(apart) < -8


def test_two_who_talk_at_once_are_pulled_apart() -> None:
    voices = images()[:, 0, 18 * RATE_HZ : 28 * RATE_HZ]
    for seat, own in ((0, 0), (1, 1)):
        heard = stretch(separated()[seat], 18, 28)
        before = gain_db(scene()[0, 18 * RATE_HZ : 28 * RATE_HZ], voices[own], voices[1 - own])
        assert gain_db(heard, voices[own], voices[1 - own]) > before + 10


def test_with_two_microphones_what_the_other_says_is_taken_out_of_the_spectrum_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    voices = images(2)[:, 0, 18 * RATE_HZ : 28 * RATE_HZ]

    def gains_db() -> list[float]:
        found = lines(run(scene(2)))
        return [gain_db(stretch(found[seat], 18, 28), voices[seat], voices[1 - seat]) for seat in (0, 1)]

    masked = gains_db()
    monkeypatch.setattr("streaming_models.separation.MASKED_MICROPHONES", 1)
    for with_mask, without in zip(masked, gains_db(), strict=True):
        assert with_mask > without + 2


def test_a_seat_is_silent_while_its_talker_is() -> None:
    first, second = separated()[0], separated()[1]
    assert not stretch(first, 9.5, 11.5).any()
    assert stretch(second, 12.0, 13.0)[RATE_HZ // 2 :].max() == 0.0


def test_the_rest_is_silent_while_known_talkers_talk() -> None:
    rest = separated()[None]
    loud = np.square(stretch(rest, 0.2, 1.5)).mean()
    assert np.square(stretch(rest, 18, 28)).mean() < 0.01 * loud


def test_the_rest_has_exactly_the_samples_that_came_in() -> None:
    for extra in (0, 1, HOP_SAMPLES, 777):
        pcm = scene()[:, : 3 * RATE_HZ + extra]
        start, rest = lines(run(pcm))[None]
        assert (start, len(rest)) == (0, pcm.shape[1])


def test_before_any_seat_the_rest_is_the_mix() -> None:
    pcm = scene()[:, : RATE_HZ + 5]
    _, rest = lines(run(pcm))[None]
    assert np.allclose(rest, pcm.mean(axis=0), atol=1e-5)


def test_a_seat_ends_with_the_audio() -> None:
    for seat, (start, pcm) in separated().items():
        if seat is not None:
            assert start + len(pcm) == SECONDS * RATE_HZ


@pytest.mark.parametrize("extra", [0, 777])
def test_hindsight_after_the_end_is_on_the_clock_of_the_audio(extra: int) -> None:
    pcm = scene()[:, : 24 * RATE_HZ + extra]
    separator = SeatSeparator(4)
    run(pcm, separator=separator)
    hindsight = separator.guide(hints(pcm.shape[1]), 2.0)
    assert hindsight is not None
    first = (20 * RATE_HZ - hindsight.start_sample) // HOP_SAMPLES
    start = hindsight.start_sample + first * HOP_SAMPLES
    heard = hindsight.audio(separator.seats[0], first, first + 100)
    lags = range(-4 * HOP_SAMPLES, 4 * HOP_SAMPLES + 1, 16)
    voice = images()[0, 0]
    alike = [abs(float(heard @ voice[start + lag :][: len(heard)])) for lag in lags]
    assert abs(lags[int(np.argmax(alike))]) <= 32


@pytest.mark.parametrize("sizes", [(320,), (16_000, 1, 777), (5_120, 64)], ids=["20ms", "uneven", "320ms"])
def test_any_chunking_equals_one_call(sizes: tuple[int, ...]) -> None:
    pcm = scene()[:, : 14 * RATE_HZ]
    whole, cut = lines(run(pcm, (GUIDE_SAMPLES,))), lines(run(pcm, sizes))
    assert whole.keys() == cut.keys()
    for seat, (start, audio) in whole.items():
        assert cut[seat][0] == start
        assert np.array_equal(cut[seat][1], audio)


def test_what_comes_later_changes_nothing_earlier() -> None:
    pcm = scene()[:, : 14 * RATE_HZ]
    other = pcm.copy()
    other[:, 12 * RATE_HZ :] = 0.1
    ahead = (2 * SeparationSettings().lookahead_frames + 2) * HOP_SAMPLES + GROUP_SAMPLES
    one, two = lines(run(pcm)), lines(run(other))
    for seat, (start, audio) in one.items():
        until = 12 * RATE_HZ - ahead - start
        assert np.array_equal(audio[:until], two[seat][1][:until])


def test_reset_equals_a_new_one() -> None:
    pcm = scene()[:, : 9 * RATE_HZ]
    used = SeatSeparator(4)
    run(scene()[:, 3 * RATE_HZ : 12 * RATE_HZ], separator=used)
    used.reset()
    one, two = lines(run(pcm, separator=used)), lines(run(pcm))
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[seat][1], two[seat][1]) for seat in one)


def test_order_of_the_microphones_does_not_matter() -> None:
    turned = lines(run(scene()[[2, 0, 3, 1]]))
    assert turned.keys() == separated().keys()
    voices = images()[:, 0, 18 * RATE_HZ : 28 * RATE_HZ]
    for seat, own in ((0, 0), (1, 1)):
        heard = stretch(turned[seat], 18, 28)
        known = stretch(separated()[seat], 18, 28)
        assert gain_db(heard, voices[own], voices[1 - own]) == pytest.approx(
            gain_db(known, voices[own], voices[1 - own]), abs=1.5
        )


@pytest.mark.parametrize("told", [False, True], ids=["noticed", "told"])
def test_a_microphone_that_dies_leaves_the_seats_apart(told: bool) -> None:
    pcm = scene().copy()
    pcm[1, 14 * RATE_HZ :] = 0.0
    separator = SeatSeparator(4)
    out: list[SeatAudio] = []
    for at in range(0, pcm.shape[1], GROUP_SAMPLES):
        block = pcm[:, at : at + GROUP_SAMPLES]
        out += separator.step(block, block.mean(axis=0), (1,) if told and at >= 14 * RATE_HZ else ())
        if (at + GROUP_SAMPLES) % 32_768 == 0:
            separator.guide(hints(at + GROUP_SAMPLES), 2.048)
    found = lines(out + separator.flush())
    voices = images()[:, 0, 18 * RATE_HZ : 28 * RATE_HZ]
    for seat, own in ((0, 0), (1, 1)):
        assert gain_db(stretch(found[seat], 18, 28), voices[own], voices[1 - own]) > 8


def test_microphones_that_all_hear_the_same_have_no_seats() -> None:
    pcm = np.repeat(scene()[:1], 4, axis=0)
    assert list(lines(run(pcm))) == [None]


def test_one_microphone_that_works_is_the_mix() -> None:
    pcm = scene().copy()
    pcm[1:] = 0.0
    found = lines(run(pcm))
    assert list(found) == [None]
    assert np.allclose(found[None][1], pcm.mean(axis=0), atol=1e-5)


def test_two_hints_from_one_place_are_one_seat() -> None:
    def split(until: int) -> Alone:
        return {"S1": [(0, min(3 * RATE_HZ, until))], "S2": [(3 * RATE_HZ, min(6 * RATE_HZ, until))]}

    found = lines(run(scene()[:, : 8 * RATE_HZ], told=split))
    assert [seat for seat in found if seat is not None] == [0]


def test_it_counts_who_was_heard_on_a_seat() -> None:
    separator = SeatSeparator(4)
    run(scene()[:, : 12 * RATE_HZ], separator=separator)
    assert separator.seats == (0, 1)
    assert separator.recent == {0, 1}
    heard = separator.heard
    assert max(heard[0], key=heard[0].__getitem__) in ("S1", "voice 0")
    assert heard[1]["S2"] > 5 * heard[1].get("S1", 0.0)


@pytest.mark.parametrize("channels", [2, 3, 8])
def test_any_number_of_microphones_from_two_on(channels: int) -> None:
    found = lines(run(scene(channels)[:, : 13 * RATE_HZ]))
    assert {0, 1} <= found.keys()
    assert len(found) <= MOST_SEATS + 1


def test_one_microphone_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 2 microphones or more, received 1"):
        SeatSeparator(1)


def test_audio_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected channels of shape \(4, 320\), got \(3, 320\)"):
        SeatSeparator(4).step(np.zeros((3, 320), np.float32), np.zeros(320, np.float32))
