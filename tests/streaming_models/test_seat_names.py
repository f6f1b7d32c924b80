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


RATE_HZ = 16_000


def voice(person: int, seed: int, other: int | None = None) -> np.ndarray:
    """(256,) a noisy look at a made-up voice, or at two at once."""
    vector = 0.3 * np.random.default_rng(seed).normal(size=EMBEDDING_SIZE) / np.sqrt(EMBEDDING_SIZE)
    for index in (person,) if other is None else (person, other):
        vector[index] += 1.0
    return np.asarray(vector, np.float32)


def noted(*passages: tuple[int, int, float, np.ndarray], registry: SpeakerRegistry | None = None) -> SeatNames:
    """Passages (seat, second in which it begins, seconds, voice), all at once."""
    seats = names(registry=registry)
    seats.hear({seat: {} for seat, *_ in passages}, set())
    for seat, start_s, seconds, heard in passages:
        seats.note(seat, start_s * RATE_HZ, round((start_s + seconds) * RATE_HZ), heard, seconds)
    seats.listen()
    return seats


def label_at(seats: SeatNames, seat: int, second: float) -> str:
    return seats.speaker_of(seat, round(second * RATE_HZ), round(second * RATE_HZ) + 100)[0]


def test_voices_of_passages_count_more_than_what_the_mix_sounded_like() -> None:
    seats = noted((0, 0, 3.0, voice(0, 1)), (1, 4, 3.0, voice(1, 2)), (0, 8, 3.0, voice(0, 3)))
    seats.hear({0: {"S2": 5.0}, 1: {"S1": 5.0}}, {0, 1})
    assert [label_at(seats, 0, 1), label_at(seats, 1, 5), label_at(seats, 0, 9)] == ["S1", "S2", "S1"]
    assert label_at(seats, 0, 30) == "S1", "what is not over yet is whoever said most there"


def test_two_whom_the_mix_takes_for_one_have_labels_of_their_own_on_their_seats() -> None:
    seats = names()
    seats.hear({0: {"S1": 5.0}, 1: {"S1": 5.0}}, {0, 1})
    assert label_at(seats, 0, 1) == label_at(seats, 1, 5)
    seats.note(0, 0, 3 * RATE_HZ, voice(0, 1), 3.0)
    seats.note(1, 4 * RATE_HZ, 7 * RATE_HZ, voice(1, 2), 3.0)
    seats.listen()
    assert {label_at(seats, 0, 1), label_at(seats, 1, 5)} == {"S1", "S2"}


def test_two_people_at_one_place_are_told_apart_by_voice() -> None:
    seats = noted((0, 0, 3.0, voice(0, 1)), (0, 4, 3.0, voice(1, 2)), (0, 8, 3.0, voice(0, 3)))
    assert [label_at(seats, 0, second) for second in (1, 5, 9)] == ["S1", "S2", "S1"]


def test_a_short_passage_is_whoever_said_most_on_the_seat() -> None:
    seats = noted((0, 0, 3.0, voice(0, 1)), (1, 4, 3.0, voice(1, 2)), (0, 8, 1.2, voice(1, 3)))
    assert label_at(seats, 0, 8.5) == "S1"


def test_a_passage_that_is_heard_better_is_not_a_second_one() -> None:
    seats = noted((0, 0, 3.0, voice(1, 1)), (1, 4, 3.0, voice(2, 2)))
    seats.note(0, 0, 3 * RATE_HZ, voice(0, 3), 3.0)
    seats.note(0, 8 * RATE_HZ, 11 * RATE_HZ, voice(0, 4), 3.0)
    seats.listen()
    assert [label_at(seats, seat, second) for seat, second in ((0, 1), (1, 5), (0, 9))] == ["S1", "S2", "S1"]


def test_whoever_clearly_sounds_the_same_on_two_seats_has_moved() -> None:
    seats = noted((0, 0, 4.0, voice(0, 1)), (0, 5, 4.0, voice(0, 2)), (1, 20, 4.0, voice(0, 3)))
    assert label_at(seats, 0, 1) == label_at(seats, 1, 21) == "S1"


def test_two_who_sound_the_same_but_speak_at_once_are_two() -> None:
    seats = noted((0, 0, 4.0, voice(0, 1)), (1, 2, 4.0, voice(0, 2)))
    assert {label_at(seats, 0, 1), label_at(seats, 1, 5)} == {"S1", "S2"}


def test_two_voices_that_are_hard_to_tell_apart_are_two_on_two_seats() -> None:
    alike = np.asarray(voice(0, 1) + 1.6 * voice(1, 2), np.float32)
    seats = noted((0, 0, 3.0, voice(0, 3)), (1, 4, 3.0, alike), (0, 8, 3.0, voice(0, 5)), (1, 12, 3.0, alike))
    assert [label_at(seats, seat, second) for seat, second in ((0, 1), (1, 5), (0, 9), (1, 13))] == ["S1", "S2"] * 2


def test_a_place_that_is_found_anew_has_its_person() -> None:
    alike = np.asarray(voice(0, 1) + 1.6 * voice(1, 2), np.float32)
    seats = noted((0, 0, 3.0, voice(0, 3)), (0, 4, 3.0, voice(0, 4)))
    seats.hear({1: {}}, set())
    seats.note(1, 10 * RATE_HZ, 13 * RATE_HZ, alike, 3.0)
    seats.listen()
    assert label_at(seats, 1, 11) == label_at(seats, 0, 1)


def test_people_take_the_labels_under_which_the_diarizer_knows_their_voices() -> None:
    registry = SpeakerRegistry()
    for person in (5, 6):
        registry.add_piece(voice(person, person), 3.0)
        registry.recluster()
    seats = noted((0, 0, 3.0, voice(6, 1)), (1, 4, 3.0, voice(5, 2)), (2, 8, 3.0, voice(7, 3)), registry=registry)
    assert [label_at(seats, 0, 1), label_at(seats, 1, 5), label_at(seats, 2, 9)] == ["S2", "S1", "S3"]
    registry.add_piece(voice(8, 1), 3.0)
    assert registry.recluster().popitem()[1][0] == "S4", "a label of a seat is never given to another voice"


def test_a_person_keeps_the_label_whatever_becomes_of_the_voices_of_the_mix() -> None:
    registry = SpeakerRegistry()
    seats = noted((0, 0, 3.0, voice(0, 1)), (1, 4, 3.0, voice(1, 2)), registry=registry)
    seats.hear({0: {"S2": 30.0}, 1: {"S2": 20.0}}, {0, 1})
    registry.merged_into["S1"] = "S2"
    seats.listen()
    assert [label_at(seats, 0, 1), label_at(seats, 1, 5)] == ["S1", "S2"]


def test_a_seat_that_was_given_up_keeps_its_label_for_its_last_words_only() -> None:
    seats = names()
    seats.hear({0: {"S1": 5.0}, 1: {"S2": 5.0}}, {0, 1})
    seats.hear({0: {"S1": 6.0}}, {0})
    assert seats.speaker_of(1, 0, 1)[0] == "S2"
    seats.hear({0: {"S1": 7.0}}, {0})
    assert seats.speaker_of(1, 0, 1) == ("", "provisional")


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
