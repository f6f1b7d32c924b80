"""Windows for taking one voice out of several: same seed, same window; marks and wanted voices are those of the mix."""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
import pytest

from streaming_models.data.extraction_windows import (
    WINDOW_HOPS,
    WINDOW_SAMPLES,
    ExtractionSampler,
    ExtractionWindow,
    SpeechOf,
)
from streaming_models.short_time import HOP_SAMPLES
from tests.streaming_models.data.test_windows import bank, rooms


@cache
def speech() -> SpeechOf:
    """The four talkers of the made-up bank, each a tone of their own."""
    found: dict[str, list[np.ndarray[tuple[int], np.dtype[np.int16]]]] = {}
    for utterance in bank().utterances:
        pcm = bank().audio[utterance.offset : utterance.offset + utterance.samples]
        found.setdefault(utterance.speaker, []).append(pcm)
    return found


@cache
def windows() -> tuple[ExtractionWindow, ...]:
    sampler = ExtractionSampler(speech(), rooms())
    return tuple(sampler.draw(seed) for seed in range(40))


def test_a_seed_gives_the_same_window_whatever_was_drawn_before() -> None:
    again = ExtractionSampler(speech(), rooms()).draw(7)
    assert np.array_equal(again.mix, windows()[7].mix)
    assert np.array_equal(again.voices, windows()[7].voices)
    assert np.array_equal(again.alone, windows()[7].alone)
    assert not np.array_equal(again.mix, windows()[8].mix)


def test_one_to_three_talk_mostly_two() -> None:
    count = Counter(len(window.voices) for window in windows())
    assert set(count) == {1, 2, 3}
    assert count[2] > 25
    for window in windows():
        assert window.mix.shape == (WINDOW_SAMPLES,)
        assert window.mix.dtype == window.voices.dtype == np.float32
        assert window.voices.shape[1] == WINDOW_SAMPLES
        assert window.alone.shape == (len(window.voices), WINDOW_HOPS)


def test_nobody_is_marked_while_another_is() -> None:
    wrong = sum(int((window.alone.sum(axis=0) > 1).sum()) for window in windows())
    assert wrong < 0.03 * 40 * WINDOW_HOPS, "moved marks may touch, no more"


def test_a_voice_sounds_where_it_is_marked_alone_and_the_others_hardly_do() -> None:
    own = others = 0.0
    for window in windows():
        if len(window.voices) < 2:
            continue
        power = np.square(window.voices.reshape(len(window.voices), WINDOW_HOPS, HOP_SAMPLES)).mean(axis=2)
        for voice, marks in enumerate(window.alone & ~window.overlap):
            own += float(power[voice, marks].sum())
            others += float(np.delete(power, voice, axis=0)[:, marks].sum())
    assert own > 10 * others


def test_some_overlaps_are_held_to_be_one_talkers_mostly_the_louder_ones() -> None:
    unnoticed = all_of_it = louder = 0
    for window in windows():
        power = np.square(window.voices.reshape(len(window.voices), WINDOW_HOPS, HOP_SAMPLES)).mean(axis=2)
        marked = window.alone & window.overlap
        all_of_it += int(window.overlap.sum())
        unnoticed += int(marked.any(axis=0).sum())
        louder += int((marked & (power == power.max(axis=0))).sum())
    assert 0.2 < unnoticed / all_of_it < 0.7
    assert louder > 0.5 * unnoticed


def test_the_mix_is_the_voices_with_echo_and_noise() -> None:
    for window in windows():
        total = window.voices.sum(axis=0)
        alike = float(total @ window.mix) / float(np.linalg.norm(total) * np.linalg.norm(window.mix))
        assert alike > 0.5
        assert 0.02 < np.sqrt(np.square(window.mix).mean()) < 0.1


def test_too_few_speakers_are_refused() -> None:
    two = {name: speech()[name] for name in sorted(speech())[:2]}
    with pytest.raises(ValueError, match="expected 3 speakers or more, got 2"):
        ExtractionSampler(two, rooms())
