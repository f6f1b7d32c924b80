"""Which passages of a seat are heard again, and which words of others they explain."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming_models.second_hearing import (
    LONGEST_HOPS,
    MARGIN_HOPS,
    PAUSE_HOPS,
    SETTLED_HOPS,
    SHORTEST_HOPS,
    SecondHearing,
    explains,
    passages,
)
from streaming_models.separation import FloatArray, Hindsight, SeatSeparator
from streaming_models.short_time import HOP_SAMPLES
from tests.array_scene import BOTH, FIRST_ALONE, RATE_HZ, images, scene
from tests.streaming_models.test_separation import gain_db, hints

Spans = Sequence[tuple[int, int]]


class Heard(Hindsight):
    """Hindsight of given spans: whoever speaks has the whole moment, or an equal part of it. Its sound is its place."""

    def __init__(self, hops: int, said: dict[int, Spans], first_hop: int = 0) -> None:
        speaks = {seat: np.zeros(hops, np.bool_) for seat in said}
        for seat, spans in said.items():
            for start, end in spans:
                speaks[seat][max(0, start - first_hop) : max(0, end - first_hop)] = True
        count = np.maximum(sum(s.astype(np.float32) for s in speaks.values()), 1)
        shares = {seat: (own / count).astype(np.float32) for seat, own in speaks.items()}
        for name, value in {"start_sample": first_hop * HOP_SAMPLES, "shares": shares, "open": speaks}.items():
            object.__setattr__(self, name, value)
        self.__dict__["_hops"] = hops

    @property
    def hops(self) -> int:
        return int(self.__dict__["_hops"])

    def audio(self, seat: int, first: int, last: int) -> FloatArray:
        return np.full((last - first) * HOP_SAMPLES, float(first), np.float32)


def spans_of(hearing: SecondHearing, hindsight: Hindsight, *, last: bool = False) -> list[tuple[int, int, int]]:
    """(seat, first hop, hop after the last) on the separator's clock, and the sound checked to be that of the span."""
    found = []
    for passage in hearing.review(hindsight, last=last):
        first, after = passage.start_sample // HOP_SAMPLES, passage.end_sample // HOP_SAMPLES
        assert len(passage.pcm) == passage.end_sample - passage.start_sample
        assert passage.pcm[0] == first - hindsight.start_sample // HOP_SAMPLES
        found.append((passage.seat, first, after))
    return found


def around(first: int, after: int) -> tuple[int, int]:
    return first - MARGIN_HOPS, after + MARGIN_HOPS


def test_a_passage_is_heard_again_once_when_it_is_over() -> None:
    hearing = SecondHearing()
    assert spans_of(hearing, Heard(200, {0: [(100, 190)]})) == []
    assert spans_of(hearing, Heard(190 + SETTLED_HOPS, {0: [(100, 190)]})) == [(0, *around(100, 190))]
    assert spans_of(hearing, Heard(400, {0: [(100, 190)]})) == []


def test_at_the_end_what_is_not_over_is() -> None:
    assert spans_of(SecondHearing(), Heard(200, {0: [(100, 195)]}), last=True) == [(0, 100 - MARGIN_HOPS, 200)]


def test_what_was_said_before_a_seat_was_found_is_heard_with_it() -> None:
    hearing = SecondHearing()
    spans_of(hearing, Heard(400, {0: [(20, 100)]}))
    found = spans_of(hearing, Heard(500, {0: [(20, 100)], 1: [(150, 200), (300, 390)]}))
    assert found == [(1, *around(150, 200)), (1, *around(300, 390))]


def test_a_new_seat_has_others_heard_again_where_it_spoke() -> None:
    hearing = SecondHearing()
    assert len(spans_of(hearing, Heard(500, {0: [(20, 100), (200, 300)]}))) == 2
    found = spans_of(hearing, Heard(500, {0: [(20, 100), (200, 300)], 1: [(260, 400)]}))
    assert found == [(0, *around(200, 300)), (1, *around(260, 400))]
    assert spans_of(hearing, Heard(500, {0: [(20, 100), (200, 300)], 1: [(260, 400)]})) == []


def test_a_seat_that_was_given_up_and_found_anew_is_new() -> None:
    hearing = SecondHearing()
    spans_of(hearing, Heard(500, {0: [(20, 100)], 1: [(200, 300)]}))
    spans_of(hearing, Heard(500, {0: [(20, 100)]}))
    assert spans_of(hearing, Heard(500, {0: [(20, 100)], 1: [(200, 300)]})) == [(1, *around(200, 300))]


def test_a_passage_whose_beginning_is_forgotten_is_heard_from_where_it_was_heard_before() -> None:
    """Who talks for longer than hindsight reaches is heard in parts that do not overlap."""
    hearing = SecondHearing()
    said: dict[int, Spans] = {0: [(100, 2_600)]}
    heard = []
    for now in range(200, 3_000, 125):
        first = max(0, now - 1_250)
        heard += spans_of(hearing, Heard(now - first, said, first))
    assert heard[0][1] == 100 - MARGIN_HOPS
    assert heard[-1][2] == 2_600 + MARGIN_HOPS
    assert all(0 <= one[2] - other[1] <= 3 * MARGIN_HOPS for one, other in pairwise(heard))


def test_passages_come_in_order_of_time() -> None:
    found = SecondHearing().review(Heard(600, {0: [(200, 300), (400, 500)], 1: [(100, 180), (350, 450)]}))
    assert [p.start_sample for p in found] == sorted(p.start_sample for p in found)
    assert len(found) == 4


def test_a_short_pause_is_inside_a_passage_and_a_longer_one_parts() -> None:
    speaks = np.zeros(400, np.bool_)
    speaks[50:100] = speaks[100 + PAUSE_HOPS - 1 : 200] = speaks[200 + PAUSE_HOPS : 300] = True
    assert passages(speaks, speaks.astype(np.float32)) == [(50, 200), (200 + PAUSE_HOPS, 300)]


def test_too_long_a_passage_is_cut_where_its_talker_is_least_heard() -> None:
    speaks = np.ones(LONGEST_HOPS + 100, np.bool_)
    share = np.ones(len(speaks), np.float32)
    share[LONGEST_HOPS - 50] = 0.3
    assert passages(speaks, share) == [(0, LONGEST_HOPS - 50), (LONGEST_HOPS - 50, len(speaks))]


@given(st.lists(st.integers(1, 300), max_size=30), st.integers(0, 2**32 - 1))
def test_passages_hold_everything_that_is_said_at_some_length(lengths: list[int], seed: int) -> None:
    speaks = np.repeat(np.arange(len(lengths)) % 2 == 0, lengths).astype(np.bool_)
    share = np.random.default_rng(seed).random(len(speaks)).astype(np.float32)
    found = passages(speaks, share)
    held = np.zeros(len(speaks), np.int64)
    for first, after in found:
        assert SHORTEST_HOPS <= after - first <= LONGEST_HOPS
        held[first:after] += 1
    assert held.max(initial=0) <= 1
    at = 0
    for index, length in enumerate(lengths):
        if index % 2 == 0 and length >= 2 * SHORTEST_HOPS:  # a cut may leave less than that of it
            assert held[at : at + length].mean() > 0.5
        at += length


@pytest.mark.parametrize(
    ("seat", "first", "after", "expected"),
    [
        (None, 110, 140, True),  # the mix's word in the middle of what a seat said
        (None, 220, 240, False),  # while nobody known spoke
        (0, 110, 140, False),  # its own
        (1, 110, 140, True),  # on a seat whose talker was silent then
        (0, 310, 340, False),  # both spoke
        (1, 310, 340, False),
        (7, 110, 140, False),  # a seat that was given up
        (None, 700, 740, False),  # beyond what is remembered
    ],
)
def test_a_word_is_explained_by_who_spoke_at_its_time(seat: int | None, first: int, after: int, expected: bool) -> None:
    hindsight = Heard(500, {0: [(100, 150), (300, 350)], 1: [(300, 350), (400, 450)]}, 20)
    assert explains(hindsight, seat, first * HOP_SAMPLES, after * HOP_SAMPLES) is expected


def test_in_hindsight_a_talker_is_heard_alone_before_the_seat_was_known() -> None:
    """Guided once only, at the end: everything before was said on seats that nobody knew."""
    separator = SeatSeparator(4)
    pcm = scene()[:, : 22 * RATE_HZ]
    separator.step(pcm, pcm.mean(axis=0))
    hindsight = separator.guide(hints(22 * RATE_HZ), 2.0)
    assert hindsight is not None
    found = SecondHearing().review(hindsight, last=True)
    first, second = found[0].seat, next(p.seat for p in found if p.seat != found[0].seat)
    assert abs(found[0].end_sample / RATE_HZ - FIRST_ALONE[1]) < 0.5
    together = [p for p in found if p.start_sample > (BOTH[0] + 0.5) * RATE_HZ]
    assert {p.seat for p in together} == {first, second}
    for passage in together:
        own, other = (0, 1) if passage.seat == first else (1, 0)
        voices = images()[:, 0, passage.start_sample : passage.end_sample]
        mixed = scene()[0, passage.start_sample : passage.end_sample]
        heard = passage.pcm[: voices.shape[1]]
        assert gain_db(heard, voices[own], voices[other]) > max(20, gain_db(mixed, voices[own], voices[other]) + 10)
