"""Two voices before one microphone, with the real diarizer and network: each is heard without the other."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from streaming_models.overlap_hearing import (
    KEPT_HOPS,
    LEAST_OVERLAP_HOPS,
    MARGIN_HOPS,
    Extract,
    FloatArray,
    OverlapHearing,
    OverlappedPassage,
)
from streaming_models.short_time import HOP_SAMPLES
from streaming_models.speakers import Diarizer, SpeakerRegistry, label_number
from tests import real
from tests.overlap_scene import AFTER, ALONE, BOTH, RATE_HZ, images, mono

MARGIN_SAMPLES = MARGIN_HOPS * HOP_SAMPLES
Heard = list[tuple[int, int, int, bytes]]


def hearing(extract: Extract | None = None) -> tuple[OverlapHearing, Diarizer]:
    models = real.models()
    extract = extract or models.extract
    assert extract is not None
    diarizer = Diarizer(models.segment, models.embed, SpeakerRegistry())
    return OverlapHearing(extract, diarizer), diarizer


def everything(magnitudes: FloatArray, _own: FloatArray, _others: FloatArray) -> FloatArray:
    return np.ones_like(magnitudes)


def nothing(magnitudes: FloatArray, _own: FloatArray, _others: FloatArray) -> FloatArray:
    return np.zeros_like(magnitudes)


def hear(
    pcm: FloatArray, size: int, flush: bool = True, extract: Extract | None = None
) -> tuple[list[OverlappedPassage], Diarizer]:
    """Passages of audio cut into pieces of one size, asked for whenever the diarizer has decided more."""
    overlaps, diarizer = hearing(extract)
    found: list[OverlappedPassage] = []
    for at in range(0, len(pcm), size):
        piece = pcm[at : at + size]
        overlaps.step(piece)
        decided = diarizer.decided_until_sample
        diarizer.step(piece)
        if diarizer.decided_until_sample != decided:
            found += overlaps.review()
    if flush:
        diarizer.flush()
        found += overlaps.review(last=True)
    return found, diarizer


def content(passages: list[OverlappedPassage]) -> Heard:
    return [(p.seat, p.start_sample, p.end_sample, p.pcm.tobytes()) for p in passages]


@cache
def whole() -> tuple[list[OverlappedPassage], Diarizer]:
    return hear(mono(), 1_024)


def likeness(sound: FloatArray, other: FloatArray) -> float:
    return float(sound @ other / (np.linalg.norm(sound) * np.linalg.norm(other) + 1e-9))


def talker(span: tuple[int, int]) -> int:
    """The number of whoever speaks most in these seconds."""
    activity = whole()[1].activity_s(span[0] * RATE_HZ, span[1] * RATE_HZ)
    return label_number(max(activity, key=lambda label: activity[label]))


def test_only_what_is_said_at_once_is_heard_again_and_by_both() -> None:
    passages, _ = whole()
    assert {passage.seat for passage in passages} == {talker(span) for span in ALONE}
    assert len({passage.seat for passage in passages}) == 2
    for passage in passages:
        assert passage.start_sample >= (BOTH[0] - 1) * RATE_HZ
        assert passage.end_sample <= (AFTER[0] + 1) * RATE_HZ
        assert len(passage.pcm) == passage.end_sample - passage.start_sample


@pytest.mark.parametrize("voice", [0, 1])
def test_a_passage_is_more_like_its_talker_than_the_microphone_was(voice: int) -> None:
    own = [passage for passage in whole()[0] if passage.seat == talker(ALONE[voice])]
    heard, before = [], []
    for passage in own:
        at = slice(passage.start_sample, passage.end_sample)
        mine, other = images()[voice, at], images()[1 - voice, at]
        heard.append(likeness(passage.pcm, mine))
        before.append(likeness(mono()[at], mine))
        assert heard[-1] > 1.5 * likeness(passage.pcm, other)
    assert np.mean(heard) > np.mean(before)


def test_overlap_that_the_diarizer_is_sure_of_is_told_from_what_the_network_alone_hears() -> None:
    """A network that takes every sound for everybody's: both speak all the time."""
    imagined, diarizer = hear(mono(), 1_024, extract=everything)
    assert {passage.seat for passage in imagined} == {talker(span) for span in ALONE}
    sure = [passage for passage in imagined if passage.noticed]
    assert 0 < len(sure) < len(imagined)
    talks = diarizer.talking(0)
    for passage in sure:
        at = range(passage.start_sample, passage.end_sample, HOP_SAMPLES)
        speaking = [sum(any(a <= s < b for a, b in stretches) for stretches in talks.values()) for s in at]
        assert sum(count > 1 for count in speaking) >= LEAST_OVERLAP_HOPS - 1
    for span in ALONE[1:]:
        both = [p for p in imagined if p.start_sample < (span[1] - 1) * RATE_HZ and p.end_sample > span[0] * RATE_HZ]
        assert len({passage.seat for passage in both}) == 2


def test_overlap_is_heard_also_where_the_network_hears_nobody() -> None:
    passages, _ = hear(mono(), 1_024, extract=nothing)
    assert {p.seat for p in passages if p.noticed} == {p.seat for p in whole()[0] if p.noticed}
    assert not any(passage.pcm.any() for passage in passages)


def test_nothing_is_heard_twice() -> None:
    passages, _ = whole()
    for number in {passage.seat for passage in passages}:
        own = [passage for passage in passages if passage.seat == number]
        for one, other in pairwise(own):
            assert other.start_sample >= one.end_sample - 2 * MARGIN_SAMPLES


@pytest.mark.parametrize("size", [320, 5_000, 60_000])
def test_any_chunking_gives_the_same_passages(size: int) -> None:
    """`Pipeline` cuts audio into blocks of one length; longer pieces only delay what is asked for."""
    passages = hear(mono(), size)[0]
    if size < 16_000:
        assert content(passages) == content(whole()[0])
    else:
        assert {passage.seat for passage in passages} == {passage.seat for passage in whole()[0]}


def test_what_comes_later_changes_no_passage_that_was_heard() -> None:
    early, _ = hear(mono()[: 28 * RATE_HZ], 1_024, flush=False)
    other = mono().copy()
    other[28 * RATE_HZ :] = 0.0
    assert content(early) == content(hear(other, 1_024)[0][: len(early)])
    assert content(early) == content(whole()[0][: len(early)])


def test_one_talker_alone_is_never_heard_again() -> None:
    assert hear(real.speech("two_cities", 20), 1_024)[0] == []


def test_silence_and_nothing_at_all_are_heard_in_peace() -> None:
    overlaps, _ = hearing()
    assert overlaps.review(last=True) == []
    assert hear(np.zeros(12 * RATE_HZ, np.float32), 1_024)[0] == []


def test_memory_is_bounded() -> None:
    """A voice for a minute: no more is kept than what passages need and what is not settled yet."""
    overlaps, diarizer = hearing()
    longest = 0
    speech = np.tile(real.speech("two_cities", 20), 3)
    for at in range(0, len(speech), 1_024):
        overlaps.step(speech[at : at + 1_024])
        decided = diarizer.decided_until_sample
        diarizer.step(speech[at : at + 1_024])
        if diarizer.decided_until_sample != decided:
            overlaps.review()
        longest = max(longest, overlaps.kept_samples)
    assert longest < KEPT_HOPS * HOP_SAMPLES + 16 * RATE_HZ


def test_the_network_is_asked_with_marks_of_solo_speech_only() -> None:
    asked: list[tuple[FloatArray, FloatArray]] = []

    def noting(magnitudes: FloatArray, own: FloatArray, others: FloatArray) -> FloatArray:
        asked.append((own, others))
        assert own.shape == others.shape == (len(magnitudes),)
        return np.ones_like(magnitudes)

    overlaps, diarizer = hearing(noting)
    overlaps.step(mono())
    diarizer.step(mono())
    diarizer.flush()
    heard = overlaps.review(last=True)
    assert asked
    assert all(not (own * others).any() and own.sum() > 0 for own, others in asked)
    for passage in heard:  # a mask of ones gives the microphone itself
        kept = mono()[passage.start_sample : passage.end_sample]
        assert np.allclose(passage.pcm[HOP_SAMPLES:-HOP_SAMPLES], kept[HOP_SAMPLES:-HOP_SAMPLES], atol=1e-5)
