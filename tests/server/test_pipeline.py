"""The whole line on real speech with the real graphs: any chunking, causality, and nothing left at the end."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import soxr

from server.clock import samples_to_ms
from server.pipeline import BLOCK_SAMPLES, FloatArray, Pipeline
from server.protocol import SPEAKER_LABEL, AudioFormat, Final, Gap, Levels, Partial, ServerMessage, SpeakerName
from streaming_models.frontend import ARRAY_LOOKAHEAD_SAMPLES, CLOSE_TALK_LOOKAHEAD_SAMPLES
from tests import real

MONO = AudioFormat()
FOUR = AudioFormat(channels=4)


def run(audio: AudioFormat, pcm: FloatArray, sizes: list[int]) -> list[ServerMessage]:
    """Messages for audio cut into `sizes`, which repeat."""
    line = Pipeline(audio, real.models())
    messages: list[ServerMessage] = []
    at = turn = 0
    while at < pcm.shape[1]:
        size = sizes[turn % len(sizes)]
        messages += line.step(pcm[:, at : at + size])
        at += size
        turn += 1
    messages += line.flush()
    assert line.word_count == len(texts(messages))
    return messages


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
        words = [w for m in messages if isinstance(m, Final) for w in m.words]
        assert [w.word_id for w in words] == list(range(len(words)))
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
