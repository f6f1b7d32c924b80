"""The whole line on real speech with the real graphs: any chunking, causality, and nothing left at the end."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import cast

import numpy as np
import pytest
import soxr

from server.clock import samples_to_ms
from server.pipeline import BLOCK_SAMPLES, FloatArray, Models, Pipeline
from server.protocol import (
    SPEAKER_LABEL,
    AnyServerMessage,
    AudioFormat,
    Final,
    Gap,
    Levels,
    Partial,
    Revision,
    ServerMessage,
    Speaker,
    SpeakerName,
)
from server.transcript import Transcript, transcript_of
from streaming_models.frontend import ARRAY_LOOKAHEAD_SAMPLES, CLOSE_TALK_LOOKAHEAD_SAMPLES
from streaming_models.polish import FullContext, aligned, changed_words
from streaming_models.recogniser import Word
from streaming_models.scoring import normalise
from tests import array_scene, overlap_scene, real, two_voices

MONO = AudioFormat()
FOUR = AudioFormat(channels=4)
ARRAY = AudioFormat(channels=4, layout="array")


def run(audio: AudioFormat, pcm: FloatArray, sizes: list[int], models: Models | None = None) -> list[ServerMessage]:
    """Messages for audio cut into `sizes`, which repeat."""
    line = Pipeline(audio, models or real.models())
    messages: list[ServerMessage] = []
    at = turn = 0
    while at < pcm.shape[1]:
        size = sizes[turn % len(sizes)]
        messages += line.step(pcm[:, at : at + size])
        at += size
        turn += 1
    messages += line.flush()
    assert line.word_count == sum(len(turn.words) for turn in folded(messages).turns.values())
    return messages


def folded(messages: list[ServerMessage]) -> Transcript:
    return transcript_of(cast("list[AnyServerMessage]", messages))


def texts(messages: list[ServerMessage]) -> list[str]:
    return [w.text for m in messages if isinstance(m, Final) for w in m.words]


@cache
def mono_at_once() -> list[ServerMessage]:
    return run(MONO, real.speech()[None], [12 * 16_000])


@cache
def four_at_once() -> list[ServerMessage]:
    return run(FOUR, real.meeting(0, 15), [15 * 16_000])


@pytest.mark.parametrize("sizes", [[320], [16_000, 1, 777], [5_120]], ids=["20ms", "uneven", "320ms"])
def test_any_chunking_of_one_microphone_gives_the_same_messages(sizes: list[int]) -> None:
    assert run(MONO, real.speech()[None], sizes) == mono_at_once()


def test_any_chunking_of_four_microphones_gives_the_same_messages() -> None:
    assert run(FOUR, real.meeting(0, 15), [1_600, 7, 4_097]) == four_at_once()


def test_single_samples_give_the_same_messages() -> None:
    pcm = real.short_speech()[None, :12_000]
    assert run(MONO, pcm, [1]) == run(MONO, pcm, [12_000])


@pytest.mark.parametrize("rate_hz", [8_000, 44_100])
def test_any_chunking_at_other_rates_gives_the_same_messages(rate_hz: int) -> None:
    pcm = np.asarray(soxr.resample(real.short_speech(), 16_000, rate_hz), np.float32)[None]
    audio = AudioFormat(rate_hz)
    whole = run(audio, pcm, [pcm.shape[1]])
    assert run(audio, pcm, [rate_hz // 50]) == whole
    assert texts(whole)


def test_what_was_said_is_read() -> None:
    said = " ".join(texts(mono_at_once())).lower()
    assert "do you hear me" in said
    assert "laugh less heartily" in said


def test_word_numbers_count_from_zero_and_speakers_are_labels() -> None:
    for messages in (mono_at_once(), four_at_once()):
        words = [w for m in messages if isinstance(m, Final | Revision) for w in m.words]
        numbers = list(dict.fromkeys(w.word_id for w in words))
        assert numbers[0] == 0
        assert sorted(numbers) == list(range(len(numbers)))
        assert all(w.speaker == "" or SPEAKER_LABEL.fullmatch(w.speaker) for w in words)
        assert any(w.speaker for w in words)


def test_words_lie_within_the_audio_that_was_decided_on() -> None:
    for messages in (mono_at_once(), four_at_once()):
        for message in messages:
            if isinstance(message, Final):
                assert message.decided_ms <= 15_100
                for word in message.words:
                    assert 0 <= word.start_ms < word.end_ms <= message.decided_ms + 24


def test_levels_come_once_a_second() -> None:
    levels = [m for m in four_at_once() if isinstance(m, Levels)]
    assert len(levels) == 15
    assert all(len(m.levels_db) == 4 and -120 <= min(m.levels_db) <= max(m.levels_db) <= 0 for m in levels)


def test_flush_captions_everything_that_was_said() -> None:
    pcm = real.short_speech()[None, : int(2.75 * 16_000)]  # cut right after the last word, with no pause
    line = Pipeline(MONO, real.models())
    messages = line.step(pcm)
    before = len(texts(messages))
    messages += line.flush()
    assert len(texts(messages)) > before
    assert "failed" in texts(messages)[-1].lower()
    open_turns = {m.turn for m in messages if isinstance(m, Final | Partial)}
    assert open_turns == {m.turn for m in messages if isinstance(m, Final) and m.turn_ended}


@pytest.mark.parametrize("channels", [1, 4])
def test_silence_says_nothing(channels: int) -> None:
    messages = run(AudioFormat(channels=channels), np.zeros((channels, 48_000), np.float32), [1_600])
    assert texts(messages) == []
    assert not any(isinstance(m, Partial | Gap) for m in messages)


def test_nothing_at_all_is_flushed_in_peace() -> None:
    assert Pipeline(FOUR, real.models()).flush() == []


@pytest.mark.parametrize("channels", [1, 4])
def test_what_comes_later_changes_no_final(channels: int) -> None:
    pcm = real.speech(seconds=7)[None] if channels == 1 else real.meeting(0, 9)
    cut = pcm.shape[1] - 2 * 16_000
    other = pcm.copy()
    other[:, cut:] = np.random.default_rng(1).standard_normal(other[:, cut:].shape).astype(np.float32) * 0.3
    lookahead = 0 if channels == 1 else max(ARRAY_LOOKAHEAD_SAMPLES, CLOSE_TALK_LOOKAHEAD_SAMPLES)
    until_ms = samples_to_ms(cut - lookahead - BLOCK_SAMPLES)
    audio = AudioFormat(channels=channels)

    def early(messages: list[ServerMessage]) -> list[ServerMessage]:
        return [m for m in messages if isinstance(m, Final | Partial) and m.decided_ms <= until_ms]

    kept = early(run(audio, pcm, [1_600]))
    assert kept == early(run(audio, other, [1_600]))
    assert texts(kept)


def test_name_of_a_microphone_becomes_the_name_of_its_speaker() -> None:
    pcm = np.stack((real.speech("two_cities", 5), np.zeros(5 * 16_000, np.float32)))
    audio = AudioFormat(channels=2, layout="close_talk", channel_names=("Ann", "Bo"))
    messages = run(audio, pcm, [1_600])
    words = [w for m in messages if isinstance(m, Final) for w in m.words]
    assert {w.channel for w in words} == {0}
    (named,) = [m for m in messages if isinstance(m, SpeakerName)]
    assert (named.speaker, named.name) == ("S1", "Ann")


def test_clock_counts_the_audio() -> None:
    line = Pipeline(AudioFormat(48_000), real.models())
    for _ in range(100):
        line.step(np.zeros((1, 4_800), np.float32))
    line.flush()
    assert line.audio_ms == 10_000


# --- two voices in one lane ------------------------------------------------------------------------------------------


@cache
def both() -> list[ServerMessage]:
    return run(ARRAY, two_voices.meeting(), [16_000], two_voices.models())


def said_by(messages: list[ServerMessage]) -> dict[str, str]:
    """Word -> label, all corrections applied; the scripted words are all different."""
    return {word.text: word.speaker for turn in folded(messages).turns.values() for word in turn.words}


def test_two_voices_at_once_are_two_turns_that_are_open_at_once() -> None:
    opened: dict[int, int] = {}
    ended: dict[int, int] = {}
    for at, message in enumerate(both()):
        if isinstance(message, Final | Partial):
            opened.setdefault(message.turn, at)
            if isinstance(message, Final) and message.turn_ended:
                ended[message.turn] = at
    turns = {w.text: m.turn for m in both() if isinstance(m, Final) for w in m.words}
    assert set(turns) == {word.text for _, words in two_voices.utterances() for word in words}
    first, second = (turns[text] for text in two_voices.overlaps()[0])
    assert opened[first] < opened[second] < ended[first] < ended[second]
    assert set(opened) == set(ended)


def test_overlapping_words_go_to_the_people_who_say_them() -> None:
    labels = said_by(both())
    overlapped = two_voices.overlapped()
    named: dict[str, str] = {}
    for speaker, words in two_voices.utterances():
        alone = [labels[word.text] for word in words if word.text not in overlapped]
        if len(alone) > 5:
            named.setdefault(speaker, max(set(alone), key=alone.count))
    assert len(set(named.values())) == 3
    right = {w.text: labels[w.text] == named[who] for who, words in two_voices.utterances() for w in words}
    assert len(overlapped) > 20
    assert sum(right[text] for text in overlapped) >= 0.8 * len(overlapped)
    assert sum(right.values()) >= 0.9 * len(right)


def test_two_who_overlap_are_never_one_person() -> None:
    labels = said_by(both())
    assert all(labels[one] != labels[other] for one, other in two_voices.overlaps())


def test_labels_of_overlapping_words_change_by_speaker_messages_alone() -> None:
    numbers = {w.word_id: w.text for m in both() if isinstance(m, Final) for w in m.words}
    shown = {w.text: w.speaker for m in both() if isinstance(m, Final) for w in m.words}
    for message in both():
        if isinstance(message, Speaker):
            for number in range(message.first_word_id, message.last_word_id + 1):
                shown[numbers[number]] = message.speaker
    assert shown == said_by(both())


@pytest.mark.parametrize("sizes", [[16_000, 1, 777], [5_120]], ids=["uneven", "320ms"])
def test_any_chunking_of_two_voices_gives_the_same_messages(sizes: list[int]) -> None:
    assert run(ARRAY, two_voices.meeting(), sizes, two_voices.models()) == both()


@pytest.mark.parametrize("layout", ["array", "close_talk"])
def test_recogniser_gets_the_channels_of_the_mix_and_none_of_a_persons_own_microphone(layout: str) -> None:
    pcm = real.meeting(0, 3)
    made: list[two_voices.Scripted] = []

    def scripted() -> two_voices.Scripted:
        made.append(two_voices.Scripted(two_voices.voices()))
        return made[-1]

    audio = AudioFormat(channels=4, layout=layout)  # type: ignore[arg-type]
    line = Pipeline(audio, replace(real.models(), recogniser=scripted, separate=False))
    line.step(pcm)
    line.flush()
    if layout == "close_talk":
        assert len(made) == 4
        assert all(channels is None for lane in made for channels in lane.channels)
    else:
        (lane,) = made
        got = np.concatenate([channels for channels in lane.channels if channels is not None], axis=1)
        assert np.array_equal(got, pcm)


# --- talkers around an array, separated ------------------------------------------------------------------------------


@cache
def around_a_table() -> list[ServerMessage]:
    return run(ARRAY, array_scene.scene(), [16_000])


def wrong_words(messages: list[ServerMessage]) -> int:
    """Of what the two say at once: words that are missing, wrong or too many, read off each voice alone."""
    start_s, end_s = array_scene.BOTH
    said = [f"{w.start_ms} {w.text}" for turn in folded(messages).turns.values() for w in turn.words]
    errors = 0
    heard = [w for turn in folded(messages).turns.values() for w in turn.words if w.start_ms > start_s * 1_000 - 300]
    assert said, "nothing was recognised"
    for voice in array_scene.images():
        alone = Pipeline(MONO, real.models())
        spoken = [*alone.step(voice[:1, start_s * 16_000 : end_s * 16_000]), *alone.flush()]
        truth = normalise(" ".join(texts(spoken))).split()
        lines: dict[str, list[str]] = {}
        for word in heard:
            lines.setdefault(word.speaker, []).append(word.text)
        errors += min(
            sum(one is None or other is None or truth[one] != line[other] for one, other in aligned_texts(truth, line))
            for line in (normalise(" ".join(words)).split() for words in lines.values())
        )
    return errors


def aligned_texts(truth: list[str], line: list[str]) -> list[tuple[int | None, int | None]]:
    return list(aligned([Word(t, 0, 0, 1.0) for t in truth], [Word(t, 0, 0, 1.0) for t in line]))


def test_two_who_talk_at_once_around_an_array_are_captioned_each_on_a_line() -> None:
    """Half of the errors of the mix at most: it hears one of the two, or neither."""
    alone = replace(real.models(), separate=False, extract=None)
    mixed = run(ARRAY, array_scene.scene(), [16_000], alone)
    assert wrong_words(around_a_table()) <= wrong_words(mixed) / 2


@cache
def around_a_table_as_heard_live() -> list[ServerMessage]:
    return run(ARRAY, array_scene.scene(), [16_000], replace(real.models(), polish=None))


def words_between(messages: list[ServerMessage], span_s: tuple[int, int]) -> list[tuple[str, str]]:
    """(speaker, word) of the final words in a span, in order of time."""
    shown = [w for turn in folded(messages).turns.values() for w in turn.words]
    inside = [w for w in shown if span_s[0] < (w.start_ms + w.end_ms) / 2_000 < span_s[1]]
    return [(w.speaker, w.text) for w in sorted(inside, key=lambda w: w.start_ms)]


@cache
def before_one_microphone() -> list[ServerMessage]:
    return run(MONO, overlap_scene.mono()[None], [16_000])


def test_what_two_say_at_once_before_one_microphone_is_read_for_each_of_them() -> None:
    live = run(MONO, overlap_scene.mono()[None], [16_000], replace(real.models(), extract=None))
    labels = [Counter(speaker for speaker, _ in words_between(live, span)) for span in overlap_scene.ALONE]
    first, second = (counted.most_common(1)[0][0] for counted in labels)
    assert first != second
    said = words_between(before_one_microphone(), overlap_scene.BOTH)
    assert {first, second} <= {speaker for speaker, _ in said}
    assert len(said) > len(words_between(live, overlap_scene.BOTH))
    heard_live = {normalise(text) for _, text in words_between(live, overlap_scene.BOTH)}
    for talker, stems in ((first, ("foolish", "belie")), (second, ("better", "failed"))):
        own = {normalise(text) for speaker, text in said if speaker == talker}
        for stem in stems:
            assert any(word.startswith(stem) for word in own)
            assert not any(word.startswith(stem) for word in heard_live)
    for span in overlap_scene.ALONE:
        assert words_between(before_one_microphone(), span) == words_between(live, span)


@pytest.mark.parametrize("confidence", [0.6, 0.8])
def test_overlap_that_nobody_noticed_is_believed_only_if_it_is_read_surely(confidence: float) -> None:
    """A network that takes every sound for everybody's, and a reader that reads the same everywhere."""

    def read(samples: FloatArray) -> tuple[Word, ...]:
        half = len(samples) // 2
        return Word("Not", 0, half, confidence), Word("so.", half, len(samples), confidence)

    pcm = overlap_scene.mono()[None]
    models = replace(real.models(), extract=lambda magnitudes, _own, _others: np.ones_like(magnitudes), polish=read)
    shown = run(MONO, pcm, [16_000], models)
    live = run(MONO, pcm, [16_000], replace(models, extract=None))
    both, alone = overlap_scene.BOTH, overlap_scene.AFTER
    assert words_between(shown, both) != words_between(live, both)
    assert (words_between(shown, alone) == words_between(live, alone)) == (confidence < 0.7)


def test_any_chunking_before_one_microphone_gives_the_same_overlaps() -> None:
    assert run(MONO, overlap_scene.mono()[None], [5_120]) == before_one_microphone()


def test_what_was_said_before_a_seat_was_known_is_its_talkers_in_hindsight() -> None:
    first, second = array_scene.FIRST_ALONE, array_scene.SECOND_ALONE
    live, later = around_a_table_as_heard_live(), around_a_table()
    assert "S1" in {speaker for speaker, _ in words_between(live, second)}
    assert {speaker for speaker, _ in words_between(later, second)} == {"S2"}
    assert {speaker for speaker, _ in words_between(later, first)} == {"S1"}


def test_what_is_heard_again_does_not_stay_twice() -> None:
    """Each talker was captioned on the mix's line first, and then read again on a seat's."""
    live, later = around_a_table_as_heard_live(), around_a_table()
    assert any(isinstance(m, Revision) for m in later)
    assert not any(isinstance(m, Revision) for m in live)
    for span in (array_scene.FIRST_ALONE, array_scene.SECOND_ALONE, array_scene.BOTH):
        once, again = words_between(live, span), words_between(later, span)
        assert abs(len(once) - len(again)) <= 2
        said = [normalise(text) for _, text in again]
        assert sum(one == other for one, other in pairwise(said)) == 0


def test_what_a_sender_without_revisions_sees_is_the_live_text() -> None:
    finals = [w for m in around_a_table() if isinstance(m, Final) for w in m.words]
    live = [w for m in around_a_table_as_heard_live() if isinstance(m, Final) for w in m.words]
    assert [(w.text, w.start_ms) for w in finals] == [(w.text, w.start_ms) for w in live]


def test_seats_have_the_labels_of_the_voices_that_were_heard_on_them() -> None:
    words = [w for turn in folded(around_a_table()).turns.values() for w in turn.words]
    start_s, _ = array_scene.BOTH
    together = {w.speaker for w in words if w.start_ms > start_s * 1_000}
    alone = {w.speaker for w in words if w.start_ms < start_s * 1_000}
    assert together == alone
    assert len(alone) == 2


def test_words_of_a_seat_come_from_all_microphones_together() -> None:
    assert {w.channel for m in around_a_table() if isinstance(m, Final | Partial) for w in m.words} == {-1}


@pytest.mark.parametrize("sizes", [[320], [16_000, 1, 777]], ids=["20ms", "uneven"])
def test_any_chunking_around_an_array_gives_the_same_messages(sizes: list[int]) -> None:
    pcm = array_scene.scene()[:, 4 * 16_000 : 20 * 16_000]
    assert run(ARRAY, pcm, sizes) == run(ARRAY, pcm, [16 * 16_000])


# --- the second pass -------------------------------------------------------------------------------------------------


class Reading:
    """Moonshine over whole turns, which remembers what it was given and what it read."""

    def __init__(self) -> None:
        self._read = FullContext(real.moonshine())
        self.done: list[tuple[int, str]] = []

    def __call__(self, samples: FloatArray) -> tuple[Word, ...]:
        words = tuple(self._read(samples))
        self.done.append((len(samples), " ".join(w.text for w in words)))
        return words


@cache
def polished() -> tuple[list[ServerMessage], list[ServerMessage], Reading]:
    """Messages of the beginning of the sample meeting without and with a second pass, and what that read."""
    pcm, reading = real.meeting(0, 20), Reading()
    mono = replace(real.models(), separate=False, extract=None)  # an earlier revision would move word numbers on
    return run(FOUR, pcm, [16_000], mono), run(FOUR, pcm, [16_000], replace(mono, polish=reading)), reading


def test_second_pass_changes_nothing_that_is_said_live() -> None:
    live, twice, _ = polished()
    assert [m for m in twice if isinstance(m, Final | Partial | Levels)] == [
        m for m in live if isinstance(m, Final | Partial | Levels)
    ]


def test_every_ended_turn_is_read_once_and_revised_at_most_once() -> None:
    _, twice, reading = polished()
    ended = [m.turn for m in twice if isinstance(m, Final) and m.turn_ended]
    revised = [m.turn for m in twice if isinstance(m, Revision)]
    assert 1 <= len(revised) <= len(reading.done) <= len(ended)
    assert len(set(revised)) == len(revised)
    for message in twice:
        if isinstance(message, Revision):
            before = twice[: twice.index(message)]
            assert any(isinstance(m, Final) and m.turn == message.turn and m.turn_ended for m in before)


def test_revision_is_the_reading_with_the_labels_as_they_stood() -> None:
    _, twice, reading = polished()
    read = [text for _, text in reading.done]
    for message in twice:
        if isinstance(message, Revision):
            assert " ".join(w.text for w in message.words) in read
            before = folded(twice[: twice.index(message)]).turns[message.turn].words
            assert {w.speaker for w in message.words} <= {w.speaker for w in before}
            ids = [w.word_id for w in message.words]
            assert len(set(ids)) == len(ids)
            assert {w.word_id for w in before} & set(ids)
            changed = changed_words(
                [Word(w.text, 0, 0, 1.0) for w in before], [Word(w.text, 0, 0, 1.0) for w in message.words]
            )
            assert changed <= len(before) / 2
            assert before[0].start_ms - 400 <= message.words[0].start_ms
            assert message.words[-1].end_ms <= before[-1].end_ms + 400


def test_any_chunking_gives_the_same_revisions() -> None:
    models = replace(real.models(), polish=FullContext(real.moonshine()), separate=False, extract=None)
    assert run(FOUR, real.meeting(0, 20), [5_120], models) == polished()[1]


def test_turns_in_which_two_voices_speak_are_not_read_again() -> None:
    heard: list[int] = []

    def silent(samples: FloatArray) -> tuple[Word, ...]:
        heard.append(len(samples))
        return ()

    messages = run(ARRAY, two_voices.meeting(), [5_120], two_voices.models(silent))
    assert not any(isinstance(m, Revision) for m in messages)
    turns: dict[int, list[str]] = {}
    for message in messages:
        if isinstance(message, Final):
            turns.setdefault(message.turn, []).extend(word.text for word in message.words)
    solo = [turn for turn in turns.values() if not set(turn) & two_voices.overlapped()]
    assert 0 < len(solo) < len(turns)
    assert len(heard) == len(solo)


def test_revised_words_stand_in_the_transcript_with_the_labels_that_they_had() -> None:
    labels = said_by(run(ARRAY, two_voices.meeting(), [5_120], two_voices.models(two_voices.Louder())))
    assert any(text.isupper() for text in labels)
    assert {text.lower(): label for text, label in labels.items()} == said_by(both())
