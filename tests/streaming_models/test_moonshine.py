"""Greedy reading on the real graphs: what a guess and a prefix may change, and loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming_models.moonshine import (
    FRAME_SAMPLES,
    MAX_TOKENS_PER_S,
    Caches,
    FloatArray,
    Moonshine,
    _loop_size,
    read_hidden,
)
from streaming_models.search import HotwordBias
from streaming_models.tokens import END_ID
from tests import real


class Counting:
    """The real graphs, with their calls counted."""

    def __init__(self) -> None:
        self._graphs = real.graphs()
        self.prefixes = self.tokens = 0

    def encode(self, samples: FloatArray) -> FloatArray:
        return self._graphs.encode(samples)

    def read_prefix(
        self, tokens: list[int], hidden: FloatArray, samples: int, logits_from: int
    ) -> tuple[FloatArray, Caches, FloatArray]:
        self.prefixes += 1
        return self._graphs.read_prefix(tokens, hidden, samples, logits_from)

    def add_token(
        self, token: int, hidden: FloatArray, samples: int, caches: Caches
    ) -> tuple[FloatArray, Caches, FloatArray]:
        self.tokens += 1
        return self._graphs.add_token(token, hidden, samples, caches)

    def truncate(self, caches: Caches, tokens: int) -> Caches:
        return self._graphs.truncate(caches, tokens)


def text_of(tokens: tuple[int, ...]) -> str:
    return real.graphs().table.text(list(tokens))


def test_speech_is_read() -> None:
    reading = real.moonshine().read(real.short_speech())
    assert text_of(reading.tokens).lower().replace(".", "").replace(",", "") == "ever tried ever failed"
    assert len(reading.confidence) == len(reading.tokens)
    assert len(reading.bounds) == len(reading.tokens) + 1
    assert all(0 < c <= 1 for c in reading.confidence)
    assert END_ID not in reading.tokens


def test_bounds_grow_and_lie_within_the_window() -> None:
    pcm = real.speech("two_cities", 6)
    reading = real.moonshine().read(pcm)
    assert (np.diff(reading.bounds) >= 0).all()
    assert 0 <= reading.bounds[0] <= reading.bounds[-1] <= len(pcm) // FRAME_SAMPLES + 1


@pytest.mark.parametrize("seconds", [2.0, 3.5, 5.0])
def test_guess_does_not_change_what_was_clearly_said(seconds: float) -> None:
    # Only what was clearly said: the graphs are int8, so logits depend a little on the row, and half a word may flip.
    pcm = real.speech("two_cities", seconds)
    moonshine = real.moonshine()
    plain = moonshine.read(pcm)
    for guess in (plain.tokens, plain.tokens[:-2], (*plain.tokens[:3], 900, 901, 902), (777,), (*plain.tokens, 500)):
        assert moonshine.read(pcm, guess=guess).tokens == plain.tokens


def test_right_guess_is_read_in_one_pass() -> None:
    graphs = Counting()
    moonshine = Moonshine(graphs, real.graphs().table)
    pcm = real.speech("two_cities", 5)
    tokens = moonshine.read(pcm).tokens
    assert graphs.tokens == len(tokens)
    graphs.prefixes = graphs.tokens = 0
    moonshine.read(pcm, guess=tokens)
    assert (graphs.prefixes, graphs.tokens) == (1, 0)


def test_guess_longer_than_the_window_allows_is_cut() -> None:
    pcm = real.short_speech()
    reading = real.moonshine().read(pcm, guess=tuple(range(300, 700)))
    assert reading.tokens == real.moonshine().read(pcm).tokens


def test_text_begins_with_the_prefix_whatever_was_said() -> None:
    pcm = real.speech("two_cities", 4)
    plain = real.moonshine().read(pcm)
    for prefix in (plain.tokens[:4], (700, 800), plain.tokens):
        reading = real.moonshine().read(pcm, prefix)
        assert reading.tokens[: len(prefix)] == prefix
        assert reading.confidence[: len(prefix)] == (1.0,) * len(prefix)
    assert real.moonshine().read(pcm, plain.tokens[:4]).tokens == plain.tokens


def test_words_after_the_prefix_are_not_looked_for_before_its_end() -> None:
    pcm = real.speech("two_cities", 5)
    plain = real.moonshine().read(pcm)
    end_frame = plain.bounds[4]
    reading = real.moonshine().read(pcm, plain.tokens[:4], prefix_end_frame=end_frame)
    assert reading.tokens == plain.tokens
    assert reading.bounds[:5] == (end_frame,) * 5
    assert np.abs(np.subtract(reading.bounds[5:], plain.bounds[5:])).max() <= 6


@pytest.mark.parametrize("samples", [0, 1, 400, 4_799])
def test_window_shorter_than_the_encoder_reaches_is_padded(samples: int) -> None:
    reading = real.moonshine().read(real.speech("two_cities", 3)[-samples or 48_000 :])
    assert len(reading.bounds) == len(reading.tokens) + 1


def test_number_of_tokens_is_bounded_by_the_time() -> None:
    noise = (np.random.default_rng(5).standard_normal(16_000) * 0.2).astype(np.float32)
    assert len(real.moonshine().read(noise).tokens) <= MAX_TOKENS_PER_S


# --- loops ---------------------------------------------------------------------------------------------------------


class Looping(Counting):
    """Logits that say the same phrase again and again, as a decoder that lost the thread does."""

    def __init__(self, opening: list[int], phrase: list[int]) -> None:
        super().__init__()
        self._row = opening + phrase * 50
        self._at = 0

    def _logits(self, position: int) -> FloatArray:
        logits = np.zeros(32_768, np.float32)
        logits[self._row[position]] = 9
        return logits

    def read_prefix(
        self, tokens: list[int], hidden: FloatArray, samples: int, logits_from: int
    ) -> tuple[FloatArray, Caches, FloatArray]:
        _, caches, attention = super().read_prefix(tokens, hidden, samples, logits_from)
        self._at = len(tokens)
        return (
            np.stack([self._logits(k) for k in range(logits_from, len(tokens))] or [self._logits(0)]),
            caches,
            attention,
        )

    def add_token(
        self, token: int, hidden: FloatArray, samples: int, caches: Caches
    ) -> tuple[FloatArray, Caches, FloatArray]:
        self._at += 1
        _, _, attention = real.graphs().add_token(token, hidden, samples, caches)
        return self._logits(self._at - 1), caches, attention


@pytest.mark.parametrize("phrase", [[600], [600, 601], [600, 601, 602]])
def test_endless_repeats_are_cut_to_their_first_round(phrase: list[int]) -> None:
    moonshine = Moonshine(Looping([500, 501], phrase), real.graphs().table)
    reading = moonshine.read(real.speech("two_cities", 6))
    assert reading.tokens == (500, 501, *phrase)
    assert len(reading.bounds) == len(reading.tokens) + 1


def test_loop_is_never_cut_into_what_is_committed() -> None:
    prefix = (500, 501, 600, 601, 600, 601, 600)
    moonshine = Moonshine(Looping([500, 501], [600, 601]), real.graphs().table)
    assert moonshine.read(real.speech("two_cities", 6), prefix).tokens == prefix


@given(st.lists(st.integers(3, 5), max_size=12), st.lists(st.integers(3, 5), min_size=1, max_size=8))
def test_fourth_round_of_a_phrase_is_a_loop(before: list[int], phrase: list[int]) -> None:
    size = _loop_size(before + phrase * 4)
    assert 0 < size <= len(phrase)


def test_what_people_do_say_is_no_loop() -> None:
    assert _loop_size([7, 7, 7]) == 0  # "no, no, no"
    assert _loop_size([]) == 0
    assert _loop_size([1, 2, 3] * 3) == 0


class Scripted:
    """A decoder of seven tokens that does not listen: row u of `logits` is what it says after u tokens."""

    def __init__(self, logits: list[list[float]]) -> None:
        self._logits = np.array(logits, np.float32)

    def read_prefix(self, tokens: list[int], logits_from: int) -> tuple[FloatArray, Caches, FloatArray]:
        caches: Caches = {"count": np.array([len(tokens)], np.float32)}
        return self._logits[logits_from : len(tokens)], caches, self._attention(len(tokens))

    def add_token(self, token: int, caches: Caches) -> tuple[FloatArray, Caches, FloatArray]:
        count = int(caches["count"][0])
        return self._logits[count], {"count": np.array([count + 1], np.float32)}, self._attention(1)

    def truncate(self, caches: Caches, tokens: int) -> Caches:
        return {"count": np.array([tokens], np.float32)}

    def _attention(self, rows: int) -> FloatArray:
        return np.full((6, 8, rows, 50), 1 / 50, np.float32)


# Tokens 3 and 4 are what it would write, 5 and 6 a name that it finds less likely; 2 is the end.
UNSURE = [[0, 0, 0, 3.0, 0, 2.5, 0], [0, 0, 0, 0, 3.0, 0, 1.5], [0, 0, 2.5, 2.4, 0, 2.4, 0]]


def read_unsure(bias: HotwordBias | None, guess: tuple[int, ...] = ()) -> tuple[int, ...]:
    return read_hidden(Scripted(UNSURE), 50, 50 * FRAME_SAMPLES, guess=guess, bias=bias).tokens


def test_a_favoured_name_is_written_where_it_is_nearly_as_likely() -> None:
    assert read_unsure(None) == (3, 4)
    assert read_unsure(HotwordBias([(5, 6)], bonus=2.0, start_bonus=1.0)) == (5, 6)
    assert read_unsure(HotwordBias([(5, 6)], bonus=2.0, start_bonus=0.4)) == (3, 4), "too unlikely to begin"


def test_a_favoured_name_never_takes_the_place_of_the_end() -> None:
    assert read_unsure(HotwordBias([(3,), (5,)], bonus=9.0, start_bonus=9.0))[2:] == ()


@pytest.mark.parametrize("guess", [(3, 4), (5,), (5, 6), (5, 6, 3)])
def test_a_guess_changes_nothing_for_a_favoured_name(guess: tuple[int, ...]) -> None:
    assert read_unsure(HotwordBias([(5, 6)], bonus=2.0, start_bonus=1.0), guess) == (5, 6)


def test_a_vocabulary_that_nobody_says_leaves_the_reading_alone() -> None:
    moonshine, speech = real.moonshine(), real.speech("two_cities", 8)
    bias = HotwordBias([moonshine.table.encode_word(word) for word in ("Kettering", "zither", "Crosstalk")])
    assert moonshine.read(speech, bias=bias).tokens == moonshine.read(speech).tokens
