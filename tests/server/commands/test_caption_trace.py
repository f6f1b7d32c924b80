"""What a reader saw, and when."""

from __future__ import annotations

from server.commands.caption_trace import AudioClock, CaptionTrace
from server.protocol import AnyServerMessage, Ended, Final, Levels, Partial, Revision, Speaker, WordMessage
from streaming_models.evaluate import Stability


def word(text: str, end_ms: int, word_id: int = -1, speaker: str = "S1") -> WordMessage:
    return WordMessage(text, end_ms - 100, end_ms, 0.9, -1, speaker, word_id)


def partial(*words: WordMessage, turn: int = 0, at_ms: int = 0) -> Partial:
    return Partial(session_id="s", turn=turn, words=list(words), decided_ms=at_ms)


def final(*words: WordMessage, turn: int = 0, at_ms: int = 0, ended: bool = False) -> Final:
    return Final(session_id="s", turn=turn, words=list(words), decided_ms=at_ms, turn_ended=ended)


def speaker(first: int, last: int, label: str) -> Speaker:
    return Speaker(session_id="s", first_word_id=first, last_word_id=last, speaker=label)


def traced(*taken: tuple[AnyServerMessage, float]) -> CaptionTrace:
    trace = CaptionTrace()
    for message, now_ms in taken:
        trace.take(message, now_ms)
    return trace


def test_a_word_is_read_since_it_stood_as_it_finally_did_and_shown_since_its_place_showed_anything() -> None:
    trace = traced(
        (partial(word("wan", 1000)), 1300),
        (partial(word("one", 1000), word("two", 1400)), 1600),
        (final(word("One,", 1000, 0)), 2000),
        (final(word("two", 1400, 1)), 2500),
    )
    assert [(w.shown_ms, w.read_ms, w.final_ms) for w in trace.words] == [(1300, 1600, 2000), (1600, 1600, 2500)]
    assert [w.labelled_ms for w in trace.words] == [2000, 2500]


def test_a_word_never_shown_before_is_shown_when_final() -> None:
    (only,) = traced((final(word("a", 100, 0)), 700)).words
    assert (only.shown_ms, only.read_ms, only.final_ms) == (700, 700, 700)


def test_a_word_that_disappeared_counts_anew() -> None:
    trace = traced(
        (partial(word("a", 100), word("b", 200)), 300),
        (partial(word("a", 100)), 400),
        (final(word("a", 100, 0), word("b", 200, 1)), 900),
    )
    assert [w.shown_ms for w in trace.words] == [300, 900]
    assert trace.stability == Stability(shown=3, revised=1, turns=1)


def test_turns_are_kept_apart_and_a_partial_after_the_end_of_its_turn_is_not_shown() -> None:
    trace = traced(
        (partial(word("a", 100)), 200),
        (partial(word("x", 100), turn=1), 300),
        (final(word("a", 100, 0), ended=True), 400),
        (partial(word("zombie", 500)), 450),
        (final(word("x", 100, 1), turn=1), 700),
    )
    assert [(w.turn, w.shown_ms) for w in trace.words] == [(0, 200), (1, 300)]
    assert trace.stability == Stability(shown=2, revised=0, turns=2)


def test_an_inserted_word_revises_nothing_and_a_tail_dropped_at_the_end_of_a_turn_is_revised() -> None:
    trace = traced(
        (partial(word("a", 100), word("c", 300)), 300),
        (partial(word("a", 100), word("b", 200), word("c", 300)), 400),
        (final(word("A", 100, 0), word("b", 200, 1), ended=True), 900),
    )
    assert trace.stability == Stability(shown=3, revised=1, turns=1)


def test_a_correction_sets_the_label_and_its_moment_and_flips_a_turn_once() -> None:
    trace = traced(
        (final(word("a", 100, 0), word("b", 200, 1), ended=True), 500),
        (final(word("c", 300, 2, ""), turn=1), 600),
        (speaker(0, 2, "S2"), 2000),
        (speaker(0, 9, "S2"), 3000),
    )
    assert [(w.speaker, w.labelled_ms) for w in trace.words] == [("S2", 2000)] * 3
    assert trace.stability.label_flips == 1  # the word without a label was only named


def test_words_that_never_got_a_label_are_counted() -> None:
    trace = traced((final(word("a", 100, 0, ""), word("b", 200, 1)), 500))
    assert trace.stability.unlabelled == 1
    assert trace.words[0].labelled_ms is None


def test_a_revision_renews_the_words_that_it_changes_and_no_others() -> None:
    trace = traced(
        (final(word("a", 100, 0), word("sheep", 200, 1), word("x", 300, 2), ended=True), 500),
        (speaker(0, 0, "S2"), 1000),
        (Revision(session_id="s", turn=0, words=[word("A,", 100, 0), word("ship", 200, 1), word("o", 250, 3)]), 2000),
        (speaker(1, 3, "S3"), 3000),
    )
    assert [(w.text, w.shown_ms, w.read_ms, w.final_ms) for w in trace.words] == [
        ("A,", 500, 500, 500),
        ("ship", 500, 2000, 2000),
        ("o", 2000, 2000, 2000),
    ]
    assert [(w.speaker, w.labelled_ms) for w in trace.words] == [("S2", 1000), ("S3", 3000), ("S3", 3000)]
    assert trace.stability == Stability(shown=5, revised=2, turns=1, label_flips=2)


def test_a_word_that_moves_to_another_turn_keeps_its_times() -> None:
    trace = traced(
        (final(word("mine", 100, 0), word("yours", 200, 1), word("ship", 300, 2), ended=True), 500),
        (Revision(session_id="s", turn=0, words=[word("mine", 100, 0)]), 2000),
        (Revision(session_id="s", turn=1, words=[word("yours", 200, 1, "S2"), word("sheep", 300, 2, "S2")]), 2000),
    )
    assert [(w.text, w.turn, w.shown_ms, w.read_ms, w.final_ms) for w in trace.words] == [
        ("mine", 0, 500, 500, 500),
        ("yours", 1, 500, 500, 500),
        ("sheep", 1, 500, 2000, 2000),
    ]
    assert [(w.speaker, w.labelled_ms) for w in trace.words] == [("S1", 500), ("S2", 2000), ("S2", 2000)]


def test_without_revisions_words_stay_as_they_became_final() -> None:
    trace = CaptionTrace(revisions=False)
    trace.take(final(word("sheep", 200, 0), ended=True), 500)
    trace.take(Revision(session_id="s", turn=0, words=[word("ship", 200, 0)]), 2000)
    assert [w.text for w in trace.words] == ["sheep"]
    assert trace.stability == Stability(shown=1, revised=0, turns=1)


def test_on_the_audio_clock_a_correction_counts_from_the_next_moment_that_is_known() -> None:
    trace = CaptionTrace()
    clock = AudioClock(trace)
    for message in (
        final(word("a", 100, 0), at_ms=800),
        Levels(session_id="s", audio_ms=9000),
        speaker(0, 0, "S2"),
        Levels(session_id="s", audio_ms=9000),
        final(word("b", 2100, 1), at_ms=2500),
        speaker(1, 1, "S2"),
        partial(word("c", 2800), at_ms=3100),
        final(word("c", 2800, 2), at_ms=3300),
        speaker(2, 2, "S3"),
        Ended(session_id="s", audio_ms=4000),
    ):
        clock.take(message)
    assert [(w.final_ms, w.labelled_ms) for w in trace.words] == [(800, 2000), (2500, 3100), (3300, 4000)]
