"""The recogniser on real graphs and real speech: chunking, causality, reset, and finals that never change."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from streaming_models.endpoint import VAD_FRAME_SAMPLES
from streaming_models.recogniser import FloatArray, Recogniser, Recognition, Word
from tests import real


def fresh() -> Recogniser:
    return real.models().recogniser()


def run(recogniser: Recogniser, pcm: FloatArray, sizes: list[int]) -> list[Recognition]:
    results: list[Recognition] = []
    at = turn = 0
    while at < len(pcm):
        size = sizes[turn % len(sizes)]
        results += recogniser.step(pcm[at : at + size])
        at += size
        turn += 1
    return results + recogniser.flush()


@cache
def at_once() -> tuple[Recognition, ...]:
    return tuple(run(fresh(), real.speech(), [12 * 16_000]))


def committed(results: list[Recognition] | tuple[Recognition, ...]) -> list[Word]:
    return [word for result in results for word in result.committed]


@pytest.mark.parametrize("sizes", [[320], [1, 511, 5_000], [16_000]])
def test_any_chunking_equals_one_call(sizes: list[int]) -> None:
    assert tuple(run(fresh(), real.speech(), sizes)) == at_once()


def test_chunks_of_nothing_change_nothing() -> None:
    assert tuple(run(fresh(), real.speech(), [4_000, 0])) == at_once()


def test_recogniser_of_the_mix_does_not_mind_the_channels() -> None:
    pcm = real.short_speech()
    one, two = fresh(), fresh()
    assert one.step(pcm) + one.flush() == two.step(pcm, np.stack((pcm, -pcm))) + two.flush()
    assert {result.voice for result in at_once()} == {0}


def test_reset_equals_a_new_one() -> None:
    recogniser = fresh()
    recogniser.step(real.speech("two_cities", 3))
    recogniser.reset()
    pcm = real.speech(seconds=5)
    assert run(recogniser, pcm, [1_600]) == run(fresh(), pcm, [1_600])


@pytest.mark.parametrize("cut_s", [1.0, 3.3, 5.9])
def test_later_audio_changes_nothing_that_was_decided(cut_s: float) -> None:
    cut = int(cut_s * 16_000)
    pcm = real.speech(seconds=7)
    other = pcm.copy()
    other[cut:] = np.random.default_rng(0).standard_normal(len(pcm) - cut).astype(np.float32) * 0.2

    def early(results: list[Recognition]) -> list[Recognition]:
        return [r for r in results if r.decided_sample <= cut]

    recogniser, changed = fresh(), fresh()
    kept = early(recogniser.step(pcm))
    assert kept == early(changed.step(other))
    assert cut_s < 2 or kept


def test_decisions_are_made_at_whole_frames_in_order() -> None:
    clock = 0
    for result in at_once():
        assert result.decided_sample >= clock
        assert result.decided_sample % VAD_FRAME_SAMPLES == 0
        clock = result.decided_sample


def test_committed_words_are_in_order_of_time_and_have_length() -> None:
    words = committed(at_once())
    assert all(word.start_sample < word.end_sample for word in words)
    assert all(a.end_sample <= b.start_sample for a, b in pairwise(words))
    assert all(0 < word.confidence <= 1 for word in words)
    assert all(word.text and not word.text.isspace() for word in words)


def test_what_was_said_is_committed() -> None:
    said = " ".join(word.text for word in committed(at_once())).lower()
    for phrase in ("do you hear", "laugh less heartily", "resource"):
        assert phrase in said


def test_words_appear_while_people_talk() -> None:
    results = at_once()
    first_tail = next(r for r in results if r.tail)
    first_end = next(r for r in results if r.ended)
    assert first_tail.decided_sample < first_end.decided_sample
    assert first_tail.decided_sample <= 1.5 * 16_000


def test_end_of_an_utterance_commits_the_tail_and_leaves_none() -> None:
    for before, result in pairwise(at_once()):
        if result.ended:
            assert result.tail == ()
            assert before.ended or len(result.committed) >= 0
    assert at_once()[-1].tail == ()
    assert at_once()[-1].ended


def test_flush_in_the_middle_of_a_word_commits_what_was_heard() -> None:
    recogniser = fresh()
    pcm = real.speech("two_cities", 2.2)
    results = recogniser.step(pcm)
    assert not any(r.ended for r in results)
    (last,) = recogniser.flush()
    assert last.ended
    assert [w.text.lower() for w in committed([*results, last])][:5] == ["it", "was", "the", "best", "of"]
    assert recogniser.flush() == []


def test_silence_and_soft_noise_say_nothing() -> None:
    noise = (np.random.default_rng(1).standard_normal(3 * 16_000) * 1e-3).astype(np.float32)
    for pcm in (np.zeros(3 * 16_000, np.float32), noise):
        assert committed(run(fresh(), pcm, [1_600])) == []


def test_window_stays_short_however_long_somebody_talks() -> None:
    recogniser = fresh()
    pcm = real.speech("two_cities", 12)
    results = run(recogniser, pcm, [16_000])
    words = committed(results)
    assert len(words) > 20
    waits_s = [(r.decided_sample - w.end_sample) / 16_000 for r in results for w in r.committed]
    assert max(waits_s) < 5


def test_two_axes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected mono samples of shape \(S,\), got \(1, 10\)"):
        fresh().step(np.zeros((1, 10), np.float32))
