"""Recognised words -> messages: numbering, turns, partial tails, late corrections."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from server.captions import LONG_TURN_SAMPLES, REVISABLE_TURNS, CaptionBuilder
from server.protocol import Final, LabelState, Partial, Revision, ServerMessage, Speaker
from server.transcript import transcript_of
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


def test_words_of_a_revised_turn_may_still_turn_out_to_be_anothers() -> None:
    captions = CaptionBuilder()
    captions.step(-1, heard("one tree three", ended=True), labelled("S1"))
    revised(captions, 0, "one two three")
    (message,) = captions.take_back(-1, lambda word: word.text == "two")
    assert isinstance(message, Revision)
    assert [w.text for w in message.words] == ["one", "three"]
    assert captions.word_count == 2


def test_words_that_another_lane_had_move_with_their_numbers() -> None:
    captions = CaptionBuilder()
    captions.step(-1, heard("not mine one tree", ended=True), labelled("S2"))
    theirs = (-1, lambda word: word.text in ("one", "tree"))
    left, came = captions.replace(17, 150 * MS, 900 * MS, words("one three", 200), labelled("S1"), theirs)
    assert isinstance(left, Revision)
    assert isinstance(came, Revision)
    assert [(w.word_id, w.text, w.speaker) for w in left.words] == [(0, "not", "S2"), (1, "mine", "S2")]
    assert came.turn != left.turn
    assert [(w.word_id, w.text, w.speaker) for w in came.words] == [(2, "one", "S1"), (3, "three", "S1")]
    assert captions.word_count == 4


def test_words_that_another_lane_had_go_where_nothing_takes_their_place() -> None:
    captions = CaptionBuilder()
    captions.step(-1, heard("one two three", ended=True), labelled("S2"))
    captions.replace(17, 0, 900 * MS, words("four"), labelled("S1"), (-1, lambda _: True))
    assert captions.word_count == 1


def test_turns_of_long_ago_are_not_kept_for_revision() -> None:
    captions = CaptionBuilder()
    for turn in range(REVISABLE_TURNS + 1):
        captions.step(-1, heard(f"turn {turn}", at_ms=1_000 * turn, ended=True), nobody)
    assert captions.words_of(0) == ()
    assert [w.text for w in captions.words_of(1)] == ["turn", "1"]


def replaced(captions: CaptionBuilder, lane: int, start_ms: int, end_ms: int, text: str = "") -> list[ServerMessage]:
    return captions.replace(lane, start_ms * MS, end_ms * MS, words(text, start_ms), labelled("S1"))


def test_words_read_again_take_the_place_of_those_in_their_span() -> None:
    captions = CaptionBuilder()
    captions.step(16, heard("one two tree for five", ended=True), labelled("S2"))
    (message,) = replaced(captions, 16, 200, 400, "three four")
    assert isinstance(message, Revision)
    assert message.turn == 0
    assert [(w.word_id, w.text, w.speaker) for w in message.words] == [
        (0, "one", "S2"), (1, "two", "S2"), (2, "three", "S2"), (3, "four", "S2"), (4, "five", "S2"),
    ]  # fmt: skip


def test_words_of_a_time_in_which_a_lane_had_none_are_a_turn_of_their_own() -> None:
    captions = CaptionBuilder()
    captions.step(-1, heard("other lane", ended=True), nobody)
    (message,) = replaced(captions, 16, 0, 1_000, "never heard")
    assert isinstance(message, Revision)
    assert message.turn == 1
    assert [(w.word_id, w.text, w.speaker, w.channel) for w in message.words] == [
        (2, "never", "S1", -1), (3, "heard", "S1", -1),
    ]  # fmt: skip
    (later,) = captions.step(16, heard("next", at_ms=2_000), nobody)[:1]
    assert isinstance(later, Final)
    assert (later.turn, later.words[0].word_id) == (2, 4)


def test_an_open_turn_ends_before_its_words_are_read_again() -> None:
    captions = CaptionBuilder()
    captions.step(16, heard("wreck a nice", "beach"), labelled("S1"))
    end, revision = replaced(captions, 16, 0, 300, "recognise")
    assert isinstance(end, Final)
    assert (end.turn, end.turn_ended, end.words) == (0, True, [])
    assert isinstance(revision, Revision)
    assert [w.text for w in revision.words] == ["recognise"]
    (final, *_) = captions.step(16, heard("speech", at_ms=300), labelled("S1"))
    assert isinstance(final, Final)
    assert final.turn == 1


def test_words_that_read_the_same_again_are_no_message() -> None:
    captions = CaptionBuilder()
    captions.step(16, heard("as before", ended=True), nobody)
    assert replaced(captions, 16, 0, 200, "as before") == []
    assert replaced(captions, 16, 5_000, 6_000) == []


def test_words_of_two_turns_read_as_one_go_where_most_of_them_were() -> None:
    captions = CaptionBuilder()
    captions.step(16, heard("before a", ended=True), nobody)
    captions.step(16, heard("b c after", at_ms=200, ended=True), nobody)
    messages = replaced(captions, 16, 100, 400, "a b c")
    assert messages == []
    messages = replaced(captions, 16, 100, 400, "a big c")
    assert [(m.turn, [w.text for w in m.words]) for m in messages if isinstance(m, Revision)] == [
        (0, ["before"]), (1, ["a", "big", "c", "after"]),
    ]  # fmt: skip
    assert captions.word_count == 5


def test_words_taken_back_are_gone_and_the_others_stand() -> None:
    captions = CaptionBuilder()
    captions.step(-1, heard("mine his mine", "tail"), nobody)
    captions.step(0, heard("his"), nobody)
    end, revision = captions.take_back(-1, lambda word: word.text == "his")
    assert isinstance(end, Final)
    assert end.turn_ended
    assert isinstance(revision, Revision)
    assert [(w.word_id, w.text) for w in revision.words] == [(0, "mine"), (2, "mine")]
    assert captions.word_count == 3
    assert captions.take_back(-1, lambda word: word.text == "his") == []
    (everything,) = captions.take_back(-1, lambda word: True)
    assert isinstance(everything, Revision)
    assert everything.words == []


def lies_in(start_ms: int, end_ms: int, word: Word) -> bool:
    return start_ms <= (word.start_sample + word.end_sample) / 2 / MS < end_ms


readings = st.lists(
    st.tuples(
        st.sampled_from(["say", "read", "take"]),
        st.sampled_from([-1, 16, 17]),
        st.integers(0, 20),
        st.integers(1, 8),
        st.lists(st.sampled_from(["a", "b", "c."]), max_size=6),
        st.booleans(),
    ),
    max_size=25,
)


@given(readings)
def test_viewers_have_exactly_the_words_that_stand(done: list[tuple[str, int, int, int, list[str], bool]]) -> None:
    """Whatever is said, read again and taken back: folded messages are the lanes' words, each with one number."""
    captions = CaptionBuilder()
    messages: list[Any] = []
    lanes: dict[int, list[tuple[int, str]]] = {-1: [], 16: [], 17: []}
    for at, (what, lane, place, length, said, ended) in enumerate(done):
        start_ms, end_ms = 100 * place, 100 * (place + length)
        texts = said[:length]
        inside = [(t, w) for t, w in lanes[lane] if start_ms <= t < end_ms]
        if what == "say":
            messages += captions.step(lane, heard(" ".join(texts), at_ms=10_000 * at + 3_000, ended=ended), nobody)
            lanes[lane] += [(10_000 * at + 3_050 + 100 * k, w) for k, w in enumerate(texts)]
        elif what == "read":
            messages += captions.replace(
                lane, start_ms * MS, end_ms * MS, words(" ".join(texts), start_ms), labelled("S1")
            )
            new = [(start_ms + 50 + 100 * k, w) for k, w in enumerate(texts)]
            if [w for _, w in inside] != texts:
                lanes[lane] = [word for word in lanes[lane] if word not in inside] + new
        else:
            messages += captions.take_back(lane, partial(lies_in, start_ms, end_ms))
            lanes[lane] = [word for word in lanes[lane] if word not in inside]
    transcript = transcript_of(messages)
    shown = [word for turn in transcript.turns.values() for word in turn.words]
    expected = sorted(w for lane in lanes.values() for w in lane)
    assert sorted(((w.start_ms + w.end_ms) // 2, w.text) for w in shown) == expected
    assert len({w.word_id for w in shown}) == len(shown) == captions.word_count


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
