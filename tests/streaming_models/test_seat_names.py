"""Whose a seat is: the voice heard most there, one voice a seat, and nobody is guessed."""

from __future__ import annotations

import numpy as np
import pytest

from streaming_models.seat_names import SETTLED_S, SeatNames
from streaming_models.speakers import (
    EMBEDDING_SIZE,
    LOCAL_NAMES,
    LOCAL_SPEAKERS,
    WINDOW_FRAMES,
    Diarizer,
    SpeakerRegistry,
)


def silent_segment(window: np.ndarray) -> np.ndarray:
    return np.zeros((WINDOW_FRAMES, LOCAL_SPEAKERS), np.float32)


def one_voice(features: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.ones(EMBEDDING_SIZE, np.float32)


class Decided(Diarizer):
    """A diarizer that has decided: everybody's label everywhere, final up to a sample."""

    def __init__(self, label: str = "S1", final_until: int = 0) -> None:
        super().__init__(silent_segment, one_voice, SpeakerRegistry())
        self._said, self._final = label, final_until

    @property
    def final_until_sample(self) -> int:
        return self._final

    def speaker_at(self, start_sample: int, end_sample: int):  # type: ignore[no-untyped-def]
        return self._said, "provisional", 1.0


def names(diarizer: Diarizer | None = None, registry: SpeakerRegistry | None = None) -> SeatNames:
    return SeatNames(diarizer or Decided(), registry or SpeakerRegistry())


def test_a_seat_has_the_label_heard_most_on_it() -> None:
    seats = names()
    seats.hear({0: {"S1": 5.0, "S2": 0.5}, 1: {"S2": 3.0, "S1": 0.4}}, {0, 1})
    assert seats.speaker_of(0, 100, 200)[0] == "S1"
    assert seats.speaker_of(1, 100, 200)[0] == "S2"


def test_two_seats_share_no_label_while_there_is_another() -> None:
    seats = names()
    seats.hear({0: {"S1": 5.0}, 1: {"S1": 3.0, "S2": 2.9}}, {0, 1})
    assert [seats.speaker_of(seat, 0, 1)[0] for seat in (0, 1)] == ["S1", "S2"]


def test_whoever_moves_keeps_the_label() -> None:
    seats = names()
    seats.hear({0: {"S1": 20.0}}, {0})
    seats.hear({0: {"S1": 15.0}, 1: {"S1": 2.0}}, {1})
    assert [seats.speaker_of(seat, 0, 1)[0] for seat in (0, 1)] == ["S1", "S1"]


def test_nobody_is_guessed() -> None:
    seats = names()
    assert seats.speaker_of(0, 0, 1) == ("", "provisional")
    seats.hear({0: {LOCAL_NAMES[0]: 4.0, "S?": 2.0}}, {0})
    assert seats.speaker_of(0, 0, 1) == ("", "provisional")


def test_two_people_at_one_place_are_told_apart_by_voice() -> None:
    seats = names(Decided("S2"))
    seats.hear({0: {"S1": 5.0, "S2": 4.0, "S3": 0.5}}, {0})
    assert seats.speaker_of(0, 0, 1)[0] == "S2"
    stray = names(Decided("S3"))
    stray.hear({0: {"S1": 5.0, "S2": 4.0, "S3": 0.5}}, {0})
    assert stray.speaker_of(0, 0, 1)[0] == "S1"


def test_a_seat_that_was_given_up_keeps_its_label_for_its_last_words_only() -> None:
    seats = names()
    seats.hear({0: {"S1": 5.0}, 1: {"S2": 5.0}}, {0, 1})
    seats.hear({0: {"S1": 6.0}}, {0})
    assert seats.speaker_of(1, 0, 1)[0] == "S2"
    seats.hear({0: {"S1": 7.0}}, {0})
    assert seats.speaker_of(1, 0, 1) == ("", "provisional")


def test_a_few_seconds_do_not_show_that_a_place_has_two_people() -> None:
    seats = names(Decided("S2"))
    seats.hear({0: {"S1": 2.0, "S2": 1.9}}, {0})
    assert seats.speaker_of(0, 0, 1)[0] == "S1"


def test_a_merged_label_is_the_one_it_was_merged_into() -> None:
    registry = SpeakerRegistry()
    seats = names(registry=registry)
    seats.hear({0: {"S3": 5.0}, 1: {"S2": 5.0}}, {0, 1})
    registry.merged_into["S3"] = "S1"
    assert seats.speaker_of(0, 0, 1)[0] == "S1"
    seats.hear({0: {"S3": 5.0, "S1": 1.0}}, {0})
    assert seats.speaker_of(0, 0, 1)[0] == "S1"


@pytest.mark.parametrize(("end", "state"), [(100, "final"), (101, "provisional")])
def test_a_label_is_final_when_the_diarizers_is(end: int, state: str) -> None:
    seats = names(Decided(final_until=100))
    seats.hear({0: {"S1": SETTLED_S}}, {0})
    assert seats.speaker_of(0, 50, end) == ("S1", state)


@pytest.mark.parametrize(("last", "state"), [(False, "provisional"), (True, "final")])
def test_a_label_of_little_speech_may_change_until_the_end(last: bool, state: str) -> None:
    seats = names(Decided(final_until=100))
    seats.hear({0: {"S1": SETTLED_S - 1}}, {0}, last=last)
    assert seats.speaker_of(0, 50, 100) == ("S1", state)
