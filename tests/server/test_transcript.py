"""Folding server messages into a transcript."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.protocol import Final, Gap, Partial, Revision, Session, Speaker, SpeakerName, WordMessage
from server.transcript import Transcript, clock_text, pieces_of, transcript_of


def word(text: str, at_ms: int, speaker: str = "S1", word_id: int = -1) -> WordMessage:
    return WordMessage(text, at_ms, at_ms + 100, 0.9, -1, speaker, word_id)


def final(turn: int, *words: WordMessage, ended: bool = False) -> Final:
    return Final(session_id="s", turn=turn, words=list(words), turn_ended=ended)


def partial(turn: int, *words: WordMessage) -> Partial:
    return Partial(session_id="s", turn=turn, words=list(words))


def test_final_words_are_appended_and_rows_are_in_seconds() -> None:
    transcript = transcript_of(
        [final(0, word("one", 1000, word_id=0)), final(0, word("two", 1500, word_id=1), ended=True)]
    )
    assert transcript.rows("clip") == [
        {"session_id": "clip", "speaker": "S1", "start_time": 1.0, "end_time": 1.6, "words": "one two"}
    ]


def test_partial_replaces_the_tail_and_is_not_in_the_rows() -> None:
    transcript = Transcript()
    assert transcript.apply(partial(0, word("wan", 0))) == [0]
    transcript.apply(partial(0, word("one", 0), word("too", 200)))
    assert [w.text for w in transcript.turns[0].tail] == ["one", "too"]
    assert transcript.rows("s") == []


def test_tail_after_a_final_stays_until_the_next_partial_so_that_text_does_not_shrink() -> None:
    transcript = transcript_of([partial(0, word("one", 0), word("two", 200)), final(0, word("One", 0, word_id=0))])
    assert [w.text for w in transcript.turns[0].words] == ["One"]
    assert [w.text for w in transcript.turns[0].tail] == ["two"]


def test_ended_turn_takes_no_partial_any_more() -> None:
    transcript = transcript_of([final(0, word("one", 0, word_id=0), ended=True)])
    assert transcript.apply(partial(0, word("late", 0))) == []
    assert transcript.turns[0].tail == []


def test_row_ends_where_the_speaker_or_the_turn_changes() -> None:
    transcript = transcript_of(
        [
            final(0, word("a", 0, "S1", 0), word("b", 200, "S1", 1), word("c", 400, "S2", 2)),
            final(1, word("d", 600, "S2", 3)),
        ]
    )
    assert [(row["speaker"], row["words"]) for row in transcript.rows("s")] == [("S1", "a b"), ("S2", "c"), ("S2", "d")]


def test_rows_of_simultaneous_turns_are_in_order_of_time() -> None:
    transcript = transcript_of([final(1, word("late", 900, "S2", 0)), final(0, word("early", 100, "S1", 1))])
    assert [row["words"] for row in transcript.rows("s")] == ["early", "late"]


def test_correction_changes_labels_of_exactly_its_words() -> None:
    transcript = transcript_of([final(0, *(word(t, i * 200, "S1", i) for i, t in enumerate("abcd")), ended=True)])
    assert transcript.apply(Speaker(session_id="s", first_word_id=1, last_word_id=2, speaker="S3")) == [0]
    assert [w.speaker for w in transcript.turns[0].words] == ["S1", "S3", "S3", "S1"]
    assert [row["words"] for row in transcript.rows("s")] == ["a", "b c", "d"]


def test_correction_of_words_that_a_late_viewer_never_saw_is_ignored() -> None:
    transcript = transcript_of([final(5, word("a", 0, "S1", 100))])
    assert transcript.apply(Speaker(session_id="s", first_word_id=0, last_word_id=10**15, speaker="S2")) == [5]
    assert transcript.apply(Speaker(session_id="s", first_word_id=0, last_word_id=99, speaker="S1")) == []


def revision(turn: int, *words: WordMessage) -> Revision:
    return Revision(session_id="s", turn=turn, words=list(words))


def test_revision_takes_the_place_of_all_words_of_its_turn() -> None:
    said = [
        final(0, word("by", 0, word_id=0), word("gin", 200, word_id=1), word("now", 400, word_id=2), ended=True),
        final(1, word("yes", 900, "S2", 3), ended=True),
    ]
    transcript = transcript_of(said)
    change = revision(0, word("Begin", 0, word_id=1), word("right", 200, word_id=4), word("now.", 400, word_id=2))
    assert transcript.apply(change) == [0]
    assert [row["words"] for row in transcript.rows("s")] == ["Begin right now.", "yes"]
    assert transcript.apply(change) == [0]
    assert [row["words"] for row in transcript.rows("s")] == ["Begin right now.", "yes"]


def test_correction_after_a_revision_finds_kept_and_added_words_and_no_dropped_one() -> None:
    transcript = transcript_of(
        [
            final(0, word("by", 0, word_id=0), word("gin", 200, word_id=1), ended=True),
            final(1, word("yes", 900, "S2", 2), ended=True),
            revision(0, word("Begin", 0, word_id=1), word("now", 200, word_id=3)),
        ]
    )
    assert transcript.apply(Speaker(session_id="s", first_word_id=0, last_word_id=0, speaker="S9")) == []
    assert transcript.apply(Speaker(session_id="s", first_word_id=3, last_word_id=3, speaker="S3")) == [0]
    assert transcript.apply(Speaker(session_id="s", first_word_id=1, last_word_id=2, speaker="S4")) == [0, 1]
    assert [w.speaker for w in transcript.turns[0].words] == ["S4", "S3"]


def test_revision_of_a_turn_that_a_late_viewer_never_saw_is_shown() -> None:
    transcript = transcript_of([revision(7, word("Begin", 0, word_id=12))])
    assert [row["words"] for row in transcript.rows("s")] == ["Begin"]
    assert transcript.apply(partial(7, word("late", 0))) == []


def test_revision_without_words_takes_the_turn_away() -> None:
    transcript = transcript_of([final(0, word("mine", 0, word_id=0), ended=True), revision(0)])
    assert transcript.rows("s") == []
    assert transcript.apply(revision(0, word("mine", 0, word_id=0))) == [0]
    assert [row["words"] for row in transcript.rows("s")] == ["mine"]


def test_names_are_shown_and_can_be_taken_away() -> None:
    transcript = transcript_of([Session(session_id="s", names={"S1": "Ada"}), final(0, word("a", 0, "S1", 0))])
    assert transcript.rows("s", named=True)[0]["speaker"] == "Ada"
    assert transcript.rows("s")[0]["speaker"] == "S1"
    assert transcript.apply(SpeakerName(session_id="s", speaker="S1", name="Bo")) == [0]
    assert transcript.name_of("S1") == "Bo"
    transcript.apply(SpeakerName(session_id="s", speaker="S1", name=""))
    assert transcript.name_of("S1") == "S1"
    assert transcript.name_of("") == "unknown"


def test_gaps_are_kept() -> None:
    gap = Gap(session_id="s", start_ms=1, end_ms=2)
    assert transcript_of([gap]).gaps == [gap]


def test_tail_without_a_label_stays_with_the_speaker_before_it() -> None:
    transcript = transcript_of([final(0, word("a", 0, "S2", 0)), partial(0, word("b", 200, ""), word("c", 300, "S1"))])
    pieces = pieces_of(transcript.turns[0])
    assert [(p.speaker, p.text, p.tail_text) for p in pieces] == [("S2", "a", "b"), ("S1", "", "c")]
    assert (pieces[0].start_ms, pieces[0].end_ms) == (0, 300)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5000), st.sampled_from(["", "S1", "S2"])), max_size=30),
    st.lists(st.tuples(st.integers(-1, 31), st.integers(-1, 31), st.sampled_from(["S1", "S2", "S9"])), max_size=5),
)
def test_no_word_is_lost_or_doubled_whatever_is_corrected(
    words: list[tuple[int, int, str]], corrections: list[tuple[int, int, str]]
) -> None:
    transcript = Transcript()
    for word_id, (turn, at_ms, speaker) in enumerate(words):
        transcript.apply(final(turn, word(f"w{word_id}", at_ms, speaker, word_id)))
    expected = [speaker for _, _, speaker in words]
    for first, last, speaker in corrections:
        transcript.apply(Speaker(session_id="s", first_word_id=first, last_word_id=last, speaker=speaker))
        expected = [speaker if first <= i <= last else old for i, old in enumerate(expected)]
    got = {w.word_id: w.speaker for turn in transcript.turns.values() for w in turn.words}
    assert got == dict(enumerate(expected))
    said = [text for row in transcript.rows("s") for text in row["words"].split()]
    assert sorted(said) == sorted(f"w{i}" for i in range(len(words)))


def test_clock_is_readable() -> None:
    assert [clock_text(ms) for ms in (0, 9_960, 61_000, 3_600_000 + 62_345)] == [
        "0:00.0",
        "0:09.9",
        "1:01.0",
        "1:01:02.3",
    ]
