"""Recognised words -> messages: numbering, turns, partial tails, late corrections."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from server.captions import LONG_TURN_SAMPLES, REVISABLE_TURNS, CaptionBuilder
from server.protocol import Final, LabelState, Partial, Revision, ServerMessage, Speaker
from streaming_models.recogniser import Recognition, Word

MS = 16
"""Samples of a millisecond."""
SpeakerOf = Callable[[int, int, int], tuple[str, LabelState]]


def nobody(start_sample: int, end_sample: int, voice: int) -> tuple[str, LabelState]:
    return "", "provisional"


def labelled(label: str, state: LabelState = "final") -> SpeakerOf:
    return lambda start, end, voice: (label, state)


def by_voice(start_sample: int, end_sample: int, voice: int) -> tuple[str, LabelState]:
    return f"S{voice + 1}", "final"


def words(text: str, start_ms: int = 0, each_ms: int = 100) -> tuple[Word, ...]:
    return tuple(
        Word(w, (start_ms + k * each_ms) * MS, (start_ms + (k + 1) * each_ms) * MS, 0.87654)
        for k, w in enumerate(text.split())
    )


def heard(committed: str = "", tail: str = "", *, at_ms: int = 0, ended: bool = False, voice: int = 0) -> Recognition:
    first = words(committed, at_ms)
    return Recognition((at_ms + 1_000) * MS, first, words(tail, at_ms + 100 * len(first)), ended, voice)


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

    def later(start: int, end: int, voice: int) -> tuple[str, LabelState]:
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


def test_voices_of_one_lane_are_turns_that_are_open_at_once() -> None:
    captions = CaptionBuilder()
    messages = captions.step(-1, heard("I was", "going", at_ms=0), by_voice)
    messages += captions.step(-1, heard("no", "wait", at_ms=100, voice=1), by_voice)
    messages += captions.step(-1, heard("going to say", at_ms=200, ended=True), by_voice)
    messages += captions.step(-1, heard("wait.", at_ms=200, ended=True, voice=1), by_voice)
    assert final_words(messages) == list(enumerate(["I", "was", "no", "going", "to", "say", "wait."]))
    turns = {m.turn: set() for m in messages if isinstance(m, Final | Partial)}  # type: dict[int, set[str]]
    for message in messages:
        if isinstance(message, Final | Partial):
            turns[message.turn] |= {word.speaker for word in message.words}
            assert all(word.channel == -1 for word in message.words)
    assert turns == {0: {"S1"}, 1: {"S2"}}


def test_correction_asks_for_the_voice_of_each_word() -> None:
    captions = CaptionBuilder()
    captions.step(-1, heard("a b"), nobody)
    captions.step(-1, heard("c", at_ms=50, voice=1), nobody)
    first, second = captions.relabel(-1, 0, 1_000 * MS, by_voice)
    assert isinstance(first, Speaker)
    assert isinstance(second, Speaker)
    assert (first.first_word_id, first.last_word_id, first.speaker) == (0, 1, "S1")
    assert (second.first_word_id, second.last_word_id, second.speaker) == (2, 2, "S2")


def revised(captions: CaptionBuilder, turn: int, text: str) -> list[tuple[int, str, str]]:
    """(word_id, text, speaker) of a turn after a second reading."""
    (message,) = captions.revise(turn, words(text))
    assert isinstance(message, Revision)
    assert message.turn == turn
    return [(word.word_id, word.text, word.speaker) for word in message.words]


def test_revision_keeps_numbers_and_labels_of_words_that_stand_where_one_stood() -> None:
    captions = CaptionBuilder()
    captions.step(-1, heard("we should by gin the meeting", ended=True), labelled("S1"))
    captions.step(-1, heard("next"), labelled("S2"))
    assert [w.text for w in captions.words_of(0)] == ["we", "should", "by", "gin", "the", "meeting"]
    got = revised(captions, 0, "We should begin the big meeting.")
    assert [text for _, text, _ in got] == ["We", "should", "begin", "the", "big", "meeting."]
    numbers = [number for number, _, _ in got]
    assert numbers[2] in (2, 3)
    assert numbers[:2] + numbers[3:] == [0, 1, 4, 7, 5]
    assert {speaker for _, _, speaker in got} == {"S1"}
    assert captions.word_count == 7


def test_added_word_takes_the_label_of_the_word_beside_it() -> None:
    captions = CaptionBuilder()
    captions.step(-1, heard("yes"), labelled("S1"))
    captions.step(-1, heard("and no", at_ms=100, ended=True), labelled("S2"))
    assert revised(captions, 0, "Oh yes and so no") == [
        (3, "Oh", "S1"), (0, "yes", "S1"), (1, "and", "S2"), (4, "so", "S2"), (2, "no", "S2"),
    ]  # fmt: skip


def test_revised_words_are_corrected_by_their_numbers() -> None:
    captions = CaptionBuilder()
    captions.step(-1, heard("one to three", ended=True), nobody)
    revised(captions, 0, "one two and three")
    messages = captions.relabel(-1, 0, 10_000 * MS, labelled("S1"))
    spans = [(m.first_word_id, m.last_word_id) for m in messages if isinstance(m, Speaker)]
    assert {number for first, last in spans for number in range(first, last + 1)} == {0, 1, 2, 3}


def test_dropped_word_is_corrected_no_more() -> None:
    captions = CaptionBuilder()
    captions.step(-1, heard("uh one two", ended=True), nobody)
    assert revised(captions, 0, "one two") == [(1, "one", ""), (2, "two", "")]
    (correction,) = captions.relabel(-1, 0, 10_000 * MS, labelled("S1"))
    assert isinstance(correction, Speaker)
    assert (correction.first_word_id, correction.last_word_id) == (1, 2)


def test_turn_is_revised_once_and_only_after_its_end() -> None:
    captions = CaptionBuilder()
    captions.step(-1, heard("still open"), nobody)
    assert captions.words_of(0) == ()
    assert captions.revise(0, words("Still open.")) == []
    captions.step(-1, heard(ended=True), nobody)
    assert captions.revise(0, ()) == []
    revised(captions, 0, "Still open.")
    assert captions.words_of(0) == ()
    assert captions.revise(0, words("Again.")) == []


def test_turns_of_long_ago_are_not_kept_for_revision() -> None:
    captions = CaptionBuilder()
    for turn in range(REVISABLE_TURNS + 1):
        captions.step(-1, heard(f"turn {turn}", at_ms=1_000 * turn, ended=True), nobody)
    assert captions.words_of(0) == ()
    assert [w.text for w in captions.words_of(1)] == ["turn", "1"]


utterances = st.lists(
    st.tuples(
        st.integers(-1, 2), st.integers(0, 1), st.lists(st.sampled_from(["a", "b.", "c?"]), max_size=3), st.booleans()
    ),
    max_size=20,
)


@given(utterances)
def test_every_committed_word_comes_out_once_and_in_order(said: list[tuple[int, int, list[str], bool]]) -> None:
    captions = CaptionBuilder()
    messages: list[ServerMessage] = []
    for at, (lane, voice, texts, ended) in enumerate(said):
        recognition = heard(" ".join(texts), at_ms=at * 400, ended=ended, voice=voice)
        messages += captions.step(lane, recognition, nobody)
    spoken = [text for _, _, texts, _ in said for text in texts]
    assert final_words(messages) == list(enumerate(spoken))
    over: set[int] = set()
    for message in messages:
        if isinstance(message, Final | Partial):
            assert message.turn not in over, "nothing is added to a turn that has ended"
        if isinstance(message, Final) and message.turn_ended:
            over.add(message.turn)
