"""Searches over small random transducers, against brute force."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming_models.search import (
    BeamSearch,
    BeamSettings,
    BeamState,
    Emission,
    FloatArray,
    GreedySearch,
    History,
    HotwordBias,
    IntArray,
    Symbols,
)

BLANK, CHANGE = 0, 1
WIDTH = 6


class RandomTransducer:
    """A transducer with random weights whose rows come out the same however many are asked for together."""

    def __init__(self, seed: int, vocabulary: int = 6, blank_bias: float = 1.0) -> None:
        rng = np.random.default_rng(seed)
        self.vocabulary = vocabulary
        self.embedding = rng.standard_normal((2, vocabulary, WIDTH))
        self.places = rng.standard_normal((4, WIDTH))
        self.out = 2 * rng.standard_normal((WIDTH, vocabulary))
        self.bias = np.zeros(vocabulary)
        self.bias[BLANK] = blank_bias

    def predict(self, context: IntArray, place: IntArray) -> FloatArray:
        assert context.shape == (len(place), 2)
        older, newer = self.embedding[0][context[:, 0]], self.embedding[1][context[:, 1]]
        return np.asarray(older + newer + self.places[place], np.float32)

    def joint(self, frames: FloatArray, predicted: FloatArray) -> FloatArray:
        assert frames.shape == predicted.shape
        hidden = np.tanh(frames.astype(np.float64) + predicted)
        return np.asarray(np.einsum("nd,dv->nv", hidden, self.out) + self.bias, np.float32)

    def log_probs(self, frame: FloatArray, row: tuple[int, ...], symbols: Symbols) -> FloatArray:
        """(V,) after a row of tokens, worked out from the whole row."""
        context, place = seen(row, symbols)
        predicted = self.predict(np.array([context]), np.array([place]))
        logits = self.joint(frame[None], predicted)[0].astype(np.float64)
        return np.asarray(logits - np.log(np.exp(logits).sum()))


def seen(row: tuple[int, ...], symbols: Symbols) -> tuple[tuple[int, int], int]:
    """Context and place after a row of tokens, by splitting the whole row."""
    if not symbols.own_history:
        older, newer = (BLANK, BLANK, *row)[-2:]
        return (older, newer), 0
    channels: tuple[list[int], list[int]] = ([BLANK, BLANK], [BLANK, BLANK])
    on = 0
    for token in row:
        if token == CHANGE:
            on = 1 - on
        else:
            channels[on].append(token)
    older, newer = channels[on][-2:]
    return (older, newer), 2 * on + (row[-1:] == (CHANGE,))


def frames_of(seed: int, count: int) -> FloatArray:
    return (1.5 * np.random.default_rng(seed + 1_000).standard_normal((count, WIDTH))).astype(np.float32)


def channels_of(row: tuple[int, ...]) -> list[tuple[int, int]]:
    """(token, channel) without changes."""
    found, on = [], 0
    for token in row:
        if token == CHANGE:
            on = 1 - on
        else:
            found.append((token, on))
    return found


def spoken(emissions: list[Emission]) -> list[tuple[int, int]]:
    return [(e.token, e.channel) for e in emissions]


OWN, MIXED = Symbols(), Symbols(own_history=False)
ROWS = st.lists(st.integers(1, 5), max_size=12)


@given(ROWS, st.booleans())
def test_a_history_is_what_the_whole_row_says(row: list[int], own: bool) -> None:
    symbols = Symbols(own_history=own)
    history = History.start(symbols)
    for token in row:
        history = history.after(token, symbols)
    assert (history.context, history.place(symbols)) == seen(tuple(row), symbols)
    assert history.channel == row.count(CHANGE) % 2


# Greedy.


def greedy_by_hand(
    model: RandomTransducer, frames: FloatArray, symbols: Symbols, max_symbols: int
) -> list[tuple[int, int, int]]:
    """(token, channel, frame), one stream, one token at a time."""
    row: tuple[int, ...] = ()
    found = []
    for t, frame in enumerate(frames):
        for turn in range(max_symbols):
            logits = model.log_probs(frame, row, symbols).copy()
            if turn and row[-1] == CHANGE:
                logits[CHANGE] = -np.inf
            token = int(logits.argmax())
            if token == BLANK:
                break
            row = (*row, token)
            if token != CHANGE:
                found.append((token, row.count(CHANGE) % 2, t))
    return found


def placed(emissions: list[Emission]) -> list[tuple[int, int, int]]:
    return [(e.token, e.channel, e.frame) for e in emissions]


@pytest.mark.parametrize("symbols", [OWN, MIXED])
@pytest.mark.parametrize("seed", range(8))
def test_greedy_takes_the_likeliest_token_at_every_step(seed: int, symbols: Symbols) -> None:
    model, frames = RandomTransducer(seed), frames_of(seed, 40)
    search = GreedySearch(model, symbols, max_symbols=3)
    [found] = search.step([search.start()], [frames])
    assert placed(found) == greedy_by_hand(model, frames, symbols, 3)
    assert found, "nothing was said"
    assert all(0 < e.probability <= 1 for e in found)


@given(st.integers(0, 50), st.lists(st.integers(0, 7), max_size=8))
@settings(max_examples=40)
def test_greedy_in_any_chunking_equals_one_call(seed: int, sizes: list[int]) -> None:
    model, frames = RandomTransducer(seed), frames_of(seed, 30)
    search = GreedySearch(model)
    [whole] = search.step([search.start()], [frames])
    state, found, at = search.start(), [], 0
    for size in [*sizes, 30]:
        found += search.step([state], [frames[at : at + size]])[0]
        at += size
    assert found == whole
    assert state.frames == 30


def test_greedy_streams_together_equal_each_alone() -> None:
    model = RandomTransducer(3)
    rows = [frames_of(seed, count) for seed, count in ((1, 20), (2, 0), (3, 7), (4, 33))]
    search = GreedySearch(model)
    states = [search.start() for _ in rows]
    together = search.step(states, rows)
    assert together == [search.step([search.start()], [row])[0] for row in rows]
    assert [state.frames for state in states] == [20, 0, 7, 33]
    assert search.step([], []) == []


def test_a_stream_that_was_used_does_not_change_a_new_one() -> None:
    model, frames = RandomTransducer(5), frames_of(5, 25)
    search = GreedySearch(model)
    first = search.step([search.start()], [frames])
    assert search.step([search.start()], [frames]) == first


def test_later_frames_change_nothing_that_was_said() -> None:
    model, frames = RandomTransducer(6), frames_of(6, 40)
    other = np.concatenate([frames[:20], frames_of(7, 20)])
    search = GreedySearch(model)
    [a], [b] = (search.step([search.start()], [row]) for row in (frames, other))
    assert [e for e in a if e.frame < 20] == [e for e in b if e.frame < 20]


def test_a_model_that_never_says_blank_is_cut_off_at_every_frame() -> None:
    model = RandomTransducer(0, blank_bias=-100)
    search = GreedySearch(model, max_symbols=4)
    state = search.start()
    [found] = search.step([state], [frames_of(0, 10)])
    assert state.frames == 10
    assert max(np.bincount([e.frame for e in found])) <= 4


def test_a_model_that_always_changes_says_nothing_and_ends() -> None:
    model = RandomTransducer(0)
    model.bias[CHANGE] = 100
    model.bias[BLANK] = 50
    search = GreedySearch(model)
    state = search.start()
    assert search.step([state], [frames_of(0, 3)]) == [[]]
    assert state.history.channel == 1, "one change a frame, not as many as there is room for"


@pytest.mark.parametrize("make", [GreedySearch, BeamSearch])
def test_frames_that_do_not_belong_to_the_streams_are_refused(make: type[GreedySearch] | type[BeamSearch]) -> None:
    search = make(RandomTransducer(0))
    state = search.start()
    with pytest.raises(ValueError, match="frames of 1 streams, got 2"):
        search.step([state], [frames_of(0, 1)] * 2)  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"frames \(T, D\)"):
        search.step([state], [frames_of(0, 1)[0]])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="every stream once"):
        search.step([state, state], [frames_of(0, 1)] * 2)  # type: ignore[list-item]


def test_settings_that_leave_no_room_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 symbol"):
        GreedySearch(RandomTransducer(0), max_symbols=0)
    with pytest.raises(ValueError, match="beam of at least 1, got 0"):
        BeamSettings(beam=0)


# Beam.


def all_rows(model: RandomTransducer, frames: FloatArray, symbols: Symbols, cap: int) -> dict[tuple[int, ...], float]:
    """Log-probability of every row of tokens, by going through all alignments with at most `cap` tokens a frame."""
    totals: dict[tuple[int, ...], float] = {(): 0.0}
    labels = [token for token in range(model.vocabulary) if token != BLANK]
    for frame in frames:
        after: dict[tuple[int, ...], list[float]] = defaultdict(list)
        for row, so_far in totals.items():
            for spelt in (s for size in range(cap + 1) for s in product(labels, repeat=size)):
                if (CHANGE, CHANGE) in pairwise(spelt):
                    continue
                total, grown = so_far, row
                for token in (*spelt, BLANK):
                    total += float(model.log_probs(frame, grown, symbols)[token])
                    grown = grown if token == BLANK else (*grown, token)
                after[grown].append(total)
        totals = {row: float(np.logaddexp.reduce(terms)) for row, terms in after.items()}
    return totals


def rows_of(state: BeamState) -> dict[tuple[int, ...], float]:
    return {path.tokens: path.log_prob for path in state.paths}


EVERYTHING = BeamSettings(beam=100_000, max_symbols=2, commit_after_frames=100)


@pytest.mark.parametrize("symbols", [OWN, MIXED])
@pytest.mark.parametrize("seed", range(3))
def test_an_endless_beam_sums_over_all_alignments(seed: int, symbols: Symbols) -> None:
    model, frames = RandomTransducer(seed, vocabulary=4), frames_of(seed, 3)
    search = BeamSearch(model, symbols, EVERYTHING)
    state = search.start()
    assert search.step([state], [frames]) == [[]], "nothing can be agreed on while everything is possible"
    expected = all_rows(model, frames, symbols, 2)
    found = rows_of(state)
    assert found.keys() == expected.keys()
    assert [found[row] for row in expected] == pytest.approx(list(expected.values()), abs=1e-4)
    best = max(expected, key=lambda row: expected[row])
    assert spoken(search.tail(state)) == spoken(search.flush(state)) == channels_of(best)


def occurrences(row: tuple[int, ...], phrases: list[tuple[int, ...]]) -> int:
    """Tokens in all places at which a phrase stands in the row."""
    return sum(
        len(phrase) * sum(row[at : at + len(phrase)] == phrase for at in range(len(row))) for phrase in set(phrases)
    )


PHRASES = [(2, 3), (3,), (2, 2, 3)]


@pytest.mark.parametrize("seed", range(6))
def test_hotwords_count_whole_phrases_on_one_channel(seed: int) -> None:
    model, frames = RandomTransducer(seed, vocabulary=4), frames_of(seed, 3)
    search = BeamSearch(model, OWN, EVERYTHING, HotwordBias(PHRASES, bonus=1.25))
    state = search.start()
    search.step([state], [frames])
    worth = {}
    for row, log_prob in all_rows(model, frames, OWN, 2).items():
        split = [tuple(token for token, on in channels_of(row) if on == channel) for channel in (0, 1)]
        worth[row] = log_prob + 1.25 * sum(occurrences(part, PHRASES) for part in split)
    biased = {
        path.tokens: path.score - sum(search._hotwords.refund(node) for node in path.nodes) for path in state.paths
    }
    assert [biased[row] for row in worth] == pytest.approx(list(worth.values()), abs=1e-4)
    assert spoken(search.flush(state)) == channels_of(max(worth, key=lambda row: worth[row]))


def test_a_narrow_beam_finds_nearly_always_what_brute_force_finds() -> None:
    right = 0
    for seed in range(10):
        model, frames = RandomTransducer(seed, vocabulary=4, blank_bias=3), frames_of(seed, 3)
        expected = all_rows(model, frames, OWN, 2)
        search = BeamSearch(model, OWN, BeamSettings(beam=6, max_symbols=2, commit_after_frames=100))
        found = _run(search, frames)
        right += spoken(found) == channels_of(max(expected, key=lambda row: expected[row]))
    assert right >= 8


@given(st.integers(0, 30), st.lists(st.integers(0, 7), max_size=6), st.booleans())
@settings(max_examples=25)
def test_a_beam_in_any_chunking_equals_one_call(seed: int, sizes: list[int], favour: bool) -> None:
    model, frames = RandomTransducer(seed), frames_of(seed, 20)
    search = BeamSearch(model, hotwords=HotwordBias([(2, 3), (4,)]) if favour else None)
    state = search.start()
    [whole] = search.step([state], [frames])
    whole += search.flush(state)
    state, found, at = search.start(), [], 0
    for size in [*sizes, 20]:
        found += search.step([state], [frames[at : at + size]])[0]
        at += size
    assert found + search.flush(state) == whole


def test_beams_together_equal_each_alone() -> None:
    model = RandomTransducer(3)
    rows = [frames_of(seed, count) for seed, count in ((1, 20), (2, 0), (3, 7), (4, 13))]
    search = BeamSearch(model)
    together = search.step([search.start() for _ in rows], rows)
    assert together == [search.step([search.start()], [row])[0] for row in rows]


@pytest.mark.parametrize("seed", range(6))
def test_a_beam_commits_what_its_rows_agree_on_and_never_waits_longer_than_it_may(seed: int) -> None:
    model, frames = RandomTransducer(seed), frames_of(seed, 60)
    search = BeamSearch(model, settings=BeamSettings(commit_after_frames=5))
    state = search.start()
    committed: list[Emission] = []
    for frame in frames:
        committed += search.step([state], [frame[None]])[0]
        assert all(e.frame >= state.frames - 5 for e in search.tail(state))
        assert len({path.tokens[:1] for path in state.paths}) > 1 or state.paths[0].tokens == ()
    assert committed
    assert [e.frame for e in committed] == sorted(e.frame for e in committed)
    with_one = BeamSearch(model, settings=BeamSettings(beam=1))
    state = with_one.start()
    assert with_one.step([state], [frames])[0], "one row agrees with itself"
    assert with_one.tail(state) == []


def test_a_hotword_is_found_that_is_missed_without() -> None:
    model, frames, phrase = RandomTransducer(11), frames_of(11, 12), (3, 2, 5)

    def count(search: BeamSearch) -> int:
        said = spoken(_run(search, frames))
        return sum(occurrences(tuple(t for t, on in said if on == channel), [phrase]) for channel in (0, 1))

    assert count(BeamSearch(model)) == 0
    assert count(BeamSearch(model, hotwords=HotwordBias([phrase], bonus=4.0))) > 0


def _run(search: BeamSearch, frames: FloatArray) -> list[Emission]:
    state = search.start()
    return search.step([state], [frames])[0] + search.flush(state)


# Hotwords.

TRIES = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple), max_size=6)


@given(TRIES, st.lists(st.integers(0, 4), max_size=14))
def test_gains_add_up_to_the_phrases_that_were_written(phrases: list[tuple[int, ...]], row: list[int]) -> None:
    bias = HotwordBias(phrases, bonus=2.0)
    node, total = 0, 0.0
    for token in row:
        gains = dict(zip(*(part.tolist() for part in bias.gains(node)), strict=True))
        total += gains.get(token, -bias.refund(node))
        node = bias.follow(node, token)
    assert total - bias.refund(node) == 2.0 * occurrences(tuple(row), phrases)


def test_a_greedy_decoder_is_drawn_along_a_phrase_and_less_into_one() -> None:
    bias = HotwordBias([(5, 6, 7), (6, 8)], bonus=2.0, start_bonus=0.5)

    def after(*tokens: int) -> dict[int, float]:
        return dict(zip(*(part.tolist() for part in bias.bonuses_after(tokens)), strict=True))

    assert after() == after(9) == {5: 0.5, 6: 0.5}
    assert after(5) == {5: 0.5, 6: 2.0}
    assert after(5, 6) == {5: 0.5, 6: 0.5, 7: 2.0, 8: 2.0}
    assert after(5, 6, 7) == after(5, 6, 8) == {5: 0.5, 6: 0.5}
    tokens, bonuses = bias.bonuses_after([5])
    assert tokens.dtype == np.int64
    assert bonuses.dtype == np.float32


def test_without_hotwords_nothing_is_favoured() -> None:
    tokens, bonuses = HotwordBias(()).bonuses(0)
    assert tokens.shape == bonuses.shape == (0,)


def test_hotwords_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="an empty one"):
        HotwordBias([(1, 2), ()])
    with pytest.raises(ValueError, match="bonuses of 0 or more"):
        HotwordBias([(1,)], bonus=-1)
