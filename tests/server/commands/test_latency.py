"""The arithmetic of latencies."""

from __future__ import annotations

from server.commands.latency import LatencyMeter, percentiles
from server.protocol import Ended, Final, Partial, WordMessage


def word(text: str, end_ms: int) -> WordMessage:
    return WordMessage(text, end_ms - 100, end_ms, 0.9, -1, "S1")


def partial(turn: int, *words: WordMessage) -> Partial:
    return Partial(session_id="s", turn=turn, words=list(words))


def final(turn: int, *words: WordMessage, ended: bool = False) -> Final:
    return Final(session_id="s", turn=turn, words=list(words), turn_ended=ended)


def test_first_counts_from_the_first_message_that_shows_the_place() -> None:
    meter = LatencyMeter()
    meter.take(partial(0, word("wan", 1000)), 1300)
    meter.take(partial(0, word("one", 1000), word("two", 1400)), 1600)
    meter.take(final(0, word("One,", 1000)), 2000)
    meter.take(final(0, word("two", 1400)), 2500)
    assert meter.first_ms == [300, 200]
    assert meter.final_ms == [1000, 1100]


def test_word_never_shown_before_counts_as_first_shown_when_final() -> None:
    meter = LatencyMeter()
    meter.take(final(0, word("a", 100)), 700)
    assert (meter.first_ms, meter.final_ms) == ([600], [600])


def test_places_are_counted_per_turn_after_its_final_words() -> None:
    meter = LatencyMeter()
    meter.take(partial(0, word("a", 100)), 200)
    meter.take(partial(1, word("x", 100)), 300)
    meter.take(final(0, word("a", 100)), 400)
    meter.take(partial(0, word("b", 500)), 600)
    meter.take(final(1, word("x", 100), ended=True), 700)
    meter.take(final(0, word("b", 500), ended=True), 900)
    assert meter.first_ms == [100, 200, 100]


def test_word_that_disappeared_counts_anew() -> None:
    meter = LatencyMeter()
    meter.take(partial(0, word("a", 100), word("b", 200)), 300)
    meter.take(partial(0, word("a", 100)), 400)
    meter.take(final(0, word("a", 100), word("b", 200)), 900)
    assert meter.first_ms == [200, 700]


def test_guess_before_the_word_is_over_has_no_latency() -> None:
    meter = LatencyMeter()
    meter.take(partial(0, word("a", 500)), 300)
    meter.take(final(0, word("a", 500)), 800)
    meter.take(Ended(session_id="s"), 900)
    assert (meter.first_ms, meter.final_ms) == ([0], [300])


def test_percentiles_lie_between_neighbours_and_nothing_has_none() -> None:
    assert percentiles([float(i) for i in range(101)]) == {"p50": 50.0, "p95": 95.0, "p99": 99.0}
    assert percentiles([]) == {"p50": None, "p95": None, "p99": None}
