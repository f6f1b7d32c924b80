"""Recognised words -> messages: numbering, turns, partial tails, late corrections."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from server.captions import LONG_TURN_SAMPLES, CaptionBuilder
from server.protocol import Final, LabelState, Partial, ServerMessage, Speaker
from streaming_models.recogniser import Recognition, Word

MS = 16
"""Samples of a millisecond."""
SpeakerOf = Callable[[int, int], tuple[str, LabelState]]


def nobody(start_sample: int, end_sample: int) -> tuple[str, LabelState]:
    return "", "provisional"


def labelled(label: str, state: LabelState = "final") -> SpeakerOf:
    return lambda start, end: (label, state)


def words(text: str, start_ms: int = 0, each_ms: int = 100) -> tuple[Word, ...]:
    return tuple(
        Word(w, (start_ms + k * each_ms) * MS, (start_ms + (k + 1) * each_ms) * MS, 0.87654)
        for k, w in enumerate(text.split())
    )


def heard(committed: str = "", tail: str = "", *, at_ms: int = 0, ended: bool = False) -> Recognition:
    first = words(committed, at_ms)
    return Recognition((at_ms + 1_000) * MS, first, words(tail, at_ms + 100 * len(first)), ended)


def final_words(messages: list[ServerMessage]) -> list[tuple[int, str]]:
    return [(w.word_id, w.text) for m in messages if isinstance(m, Final) for w in m.words]


def test_nothing_heard_is_no_message() -> None:
    assert CaptionBuilder().step(-1, heard(), nobody) == []
    assert CaptionBuilder().step(-1, heard(ended=True), nobody) == []


def test_word_carries_times_channel_label_and_confidence() -> None:
    (final, partial) = CaptionBuilder().step(3, heard("hello", "there", at_ms=40), labelled("S2"), 12.5)
    assert isinstance(final, Final)
    (word,) = final.words
    assert (word.text, word.start_ms, word.end_ms, word.confidence) == ("hello", 40, 140, 0.877)
    assert (word.channel, word.speaker, word.word_id) == (3, "S2", 0)
    assert (final.decided_ms, final.turn, final.turn_ended, final.direction_deg) == (1_040, 0, False, 12.5)
    assert isinstance(partial, Partial)
    assert [(w.text, w.word_id, w.speaker) for w in partial.words] == [("there", -1, "S2")]


def test_partial_that_was_shown_is_taken_back_once() -> None:
    captions = CaptionBuilder()
    captions.step(-1, heard(tail="maybe"), nobody)
    (empty,) = captions.step(-1, heard(), nobody)
    assert isinstance(empty, Partial)
    assert empty.words == []
    assert captions.step(-1, heard(), nobody) == []


def test_end_of_a_turn_is_told_even_without_words() -> None:
    captions = CaptionBuilder()
    captions.step(-1, heard(tail="maybe"), nobody)
    (final,) = captions.step(-1, heard(ended=True), nobody)
    assert isinstance(final, Final)
    assert final.turn_ended
    assert final.words == []
    (_, partial) = captions.step(-1, heard("next", "word"), nobody)
    assert isinstance(partial, Partial)
    assert partial.turn == 1


def test_lanes_have_turns_of_their_own_and_one_row_of_word_numbers() -> None:
    captions = CaptionBuilder()
    first = captions.step(0, heard("a b"), nobody) + captions.step(1, heard("c"), nobody)
    second = captions.step(0, heard("d", at_ms=300, ended=True), nobody) + captions.step(1, heard("e"), nobody)
    assert final_words(first + second) == [(0, "a"), (1, "b"), (2, "c"), (3, "d"), (4, "e")]
    assert [m.turn for m in first + second if isinstance(m, Final)] == [0, 1, 0, 1]
    assert captions.word_count == 5


def test_long_turn_ends_at_the_end_of_a_sentence_and_its_tail_opens_the_next() -> None:
    captions = CaptionBuilder()
    captions.step(-1, heard("long"), nobody)
    beyond_ms = LONG_TURN_SAMPLES // MS
    messages = captions.step(-1, heard("and on", at_ms=beyond_ms), nobody)
    assert not any(isinstance(m, Final) and m.turn_ended for m in messages)
    final, partial = captions.step(-1, heard("done.", "Now", at_ms=beyond_ms + 300), nobody)
    assert isinstance(final, Final)
    assert (final.turn, final.turn_ended) == (0, True)
    assert isinstance(partial, Partial)
    assert (partial.turn, [w.text for w in partial.words]) == (1, ["Now"])


def test_correction_names_the_run_of_words_with_a_new_label() -> None:
    captions = CaptionBuilder()
    captions.step(-1, heard("one two three four"), nobody)

    def later(start: int, end: int) -> tuple[str, LabelState]:
        return ("S1", "final") if start < 200 * MS else ("S2", "provisional")

    first, second = captions.relabel(-1, 0, 400 * MS, later)
    assert isinstance(first, Speaker)
    assert isinstance(second, Speaker)
    assert (first.first_word_id, first.last_word_id, first.speaker, first.state) == (0, 1, "S1", "final")
    assert (second.first_word_id, second.last_word_id, second.speaker, second.state) == (2, 3, "S2", "provisional")


def test_final_labels_stand_and_unknown_ones_take_nothing_away() -> None:
    captions = CaptionBuilder()
    captions.step(-1, heard("settled"), labelled("S1", "final"))
    captions.step(-1, heard("open", at_ms=500), labelled("S1", "provisional"))
    assert captions.relabel(-1, 0, 10_000 * MS, nobody) == []
    (correction,) = captions.relabel(-1, 0, 10_000 * MS, labelled("S2"))
    assert isinstance(correction, Speaker)
    assert (correction.first_word_id, correction.last_word_id) == (1, 1)


def test_correction_leaves_other_lanes_and_other_times_alone() -> None:
    captions = CaptionBuilder()
    captions.step(0, heard("here there"), nobody)
    captions.step(1, heard("elsewhere"), nobody)
    (correction,) = captions.relabel(0, 0, 100 * MS, labelled("S1"))
    assert isinstance(correction, Speaker)
    assert (correction.first_word_id, correction.last_word_id) == (0, 0)


def test_correction_is_cut_where_another_lane_speaks_between() -> None:
    captions = CaptionBuilder()
    captions.step(0, heard("a"), nobody)
    captions.step(1, heard("b"), nobody)
    captions.step(0, heard("c", at_ms=100), nobody)
    messages = captions.relabel(0, 0, 1_000 * MS, labelled("S1"))
    assert [(m.first_word_id, m.last_word_id) for m in messages if isinstance(m, Speaker)] == [(0, 0), (2, 2)]


utterances = st.lists(
    st.tuples(st.integers(-1, 2), st.lists(st.sampled_from(["a", "b.", "c?"]), max_size=3), st.booleans()), max_size=20
)


@given(utterances)
def test_every_committed_word_comes_out_once_and_in_order(said: list[tuple[int, list[str], bool]]) -> None:
    captions = CaptionBuilder()
    messages: list[ServerMessage] = []
    for at, (lane, texts, ended) in enumerate(said):
        messages += captions.step(lane, heard(" ".join(texts), at_ms=at * 400, ended=ended), nobody)
    spoken = [text for _, texts, _ in said for text in texts]
    assert final_words(messages) == list(enumerate(spoken))
    over: set[int] = set()
    for message in messages:
        if isinstance(message, Final | Partial):
            assert message.turn not in over, "nothing is added to a turn that has ended"
        if isinstance(message, Final) and message.turn_ended:
            over.add(message.turn)
