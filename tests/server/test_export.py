"""Transcript formats: what other programs read, with late corrections and given names applied."""

from __future__ import annotations

import json
import re
from itertools import pairwise

import pytest

from server.export import FORMATS, MAX_CUE_CHARS, MAX_CUE_MS, export
from server.protocol import AnyServerMessage, Ended, Final, Gap, Revision, Speaker, SpeakerName, WordMessage


def final(text: str, start_ms: int, speaker: str, *, turn: int, first_id: int, each_ms: int = 300) -> Final:
    return Final(
        session_id="s",
        turn=turn,
        turn_ended=True,
        words=[
            WordMessage(w, start_ms + k * each_ms, start_ms + (k + 1) * each_ms, 0.9, -1, speaker, first_id + k)
            for k, w in enumerate(text.split())
        ],
    )


MEETING: list[AnyServerMessage] = [
    final("Good morning.", 1_000, "S1", turn=0, first_id=0),
    final("A < B & C > D", 3_661_234, "S2", turn=2, first_id=4),
    final("Hello there.", 1_800, "", turn=1, first_id=2),
    Speaker(session_id="s", first_word_id=2, last_word_id=3, speaker="S2"),
    SpeakerName(session_id="s", speaker="S1", name="Ann <3"),
    Gap(session_id="s", start_ms=0, end_ms=100),
    Ended(session_id="s"),
]


def test_srt_has_numbered_cues_in_order_of_time() -> None:
    assert export("s", MEETING, "srt") == (
        "1\n00:00:01,000 --> 00:00:01,600\nAnn <3: Good morning.\n\n"
        "2\n00:00:01,800 --> 00:00:02,400\nS2: Hello there.\n\n"
        "3\n01:01:01,234 --> 01:01:03,334\nS2: A < B & C > D\n"
    )


def test_webvtt_is_escaped() -> None:
    assert export("s", MEETING, "vtt") == (
        "WEBVTT\n\n"
        "00:00:01.000 --> 00:00:01.600\n<v Ann &lt;3>Good morning.\n\n"
        "00:00:01.800 --> 00:00:02.400\n<v S2>Hello there.\n\n"
        "01:01:01.234 --> 01:01:03.334\n<v S2>A &lt; B &amp; C &gt; D\n"
    )


def test_json_is_seglst_with_labels() -> None:
    assert json.loads(export("s", MEETING, "json")) == [
        {"session_id": "s", "speaker": "S1", "start_time": 1.0, "end_time": 1.6, "words": "Good morning."},
        {"session_id": "s", "speaker": "S2", "start_time": 1.8, "end_time": 2.4, "words": "Hello there."},
        {"session_id": "s", "speaker": "S2", "start_time": 3661.234, "end_time": 3663.334, "words": "A < B & C > D"},
    ]


def test_rttm_has_ten_fields_without_white_space() -> None:
    lines = export("meeting-1", MEETING, "rttm").splitlines()
    assert lines[0] == "SPEAKER meeting-1 1 1.000 0.600 <NA> <NA> S1 <NA> <NA>"
    assert [len(line.split(" ")) for line in lines] == [10, 10, 10]


def test_text_has_clock_and_name() -> None:
    assert export("s", MEETING, "txt") == (
        "[00:00:01] Ann <3: Good morning.\n[00:00:01] S2: Hello there.\n[01:01:01] S2: A < B & C > D\n"
    )


def test_speaker_change_within_a_turn_is_a_new_piece() -> None:
    messages = [MEETING[0], Speaker(session_id="s", first_word_id=1, last_word_id=1, speaker="S9")]
    assert export("s", messages, "txt") == "[00:00:01] S1: Good\n[00:00:01] S9: morning.\n"


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_holds_the_revised_text_and_no_other(form: str) -> None:
    better = [
        WordMessage("Good", 900, 1_200, 0.9, -1, "S1", 0),
        WordMessage("evening.", 1_200, 1_700, 0.9, -1, "S1", 1),
    ]
    body = export("s", [*MEETING, Revision(session_id="s", turn=0, words=better)], form)
    assert "morning" not in body
    if form == "rttm":
        assert body.startswith("SPEAKER s 1 0.900 0.800 ")
    else:
        assert "Good evening." in body
        assert "Hello there." in body


def test_words_without_a_speaker_are_called_unknown() -> None:
    said: list[AnyServerMessage] = [final("Who?", 0, "", turn=0, first_id=0)]
    assert export("s", said, "txt") == "[00:00:00] unknown: Who?\n"
    assert " unknown " in export("s", said, "rttm")


def test_name_that_was_taken_away_shows_the_label_again() -> None:
    messages = [*MEETING, SpeakerName(session_id="s", speaker="S1", name="")]
    assert "] S1: Good morning." in export("s", messages, "txt")


def test_long_speech_is_cut_into_cues_that_can_be_read() -> None:
    said: list[AnyServerMessage] = [final("some words that go on " * 20, 500, "S1", turn=0, first_id=0)]
    blocks = export("s", said, "srt").rstrip("\n").split("\n\n")
    times = []
    for block in blocks:
        _, line, text = block.split("\n")
        start_ms, end_ms = (
            sum(
                int(part) * scale
                for part, scale in zip(re.split("[:,]", stamp), (3_600_000, 60_000, 1_000, 1), strict=True)
            )
            for stamp in line.split(" --> ")
        )
        assert end_ms - start_ms <= MAX_CUE_MS
        assert len(text.removeprefix("S1: ")) <= MAX_CUE_CHARS
        times.append((start_ms, end_ms))
    assert all(before[1] <= after[0] for before, after in pairwise(times))
    assert " ".join(block.split(": ", 1)[1] for block in blocks) == ("some words that go on " * 20).strip()


@pytest.mark.parametrize(
    ("form", "text"), [("srt", ""), ("vtt", "WEBVTT\n"), ("json", "[]\n"), ("rttm", ""), ("txt", "")]
)
def test_session_in_which_nobody_spoke_is_a_valid_empty_file(form: str, text: str) -> None:
    silent: list[AnyServerMessage] = [Final(session_id="s", turn=0, turn_ended=True), Ended(session_id="s")]
    assert export("s", silent, form) == export("s", [], form) == text


def test_every_format_has_a_media_type_and_no_other_is_known() -> None:
    assert set(FORMATS) == {"srt", "vtt", "json", "rttm", "txt"}
    assert all("/" in media for media, _ in FORMATS.values())
    with pytest.raises(KeyError):
        export("s", [], "docx")
