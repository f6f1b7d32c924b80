"""Scoring two decoders on the same clips: the counting, the clips, and both readers with untrained nets."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from streaming_models.compare_decoders import (
    LONGEST_HALF_S,
    MOST_TOKENS,
    Clip,
    attention_reader,
    clip_errors,
    compare,
    errors,
    markdown,
    pair_clips,
    single_clips,
    transducer_reader,
)
from streaming_models.data.corpus import FloatArray, Utterance
from streaming_models.scoring import ErrorCount
from streaming_models.tokens import END_ID, START_ID
from streaming_models.train import SotModel, window_samples
from streaming_models.train_transducer import TransducerModel
from tests import real
from tests.streaming_models.data.test_windows import rooms

RATE_HZ = 16_000


class Noise(Utterance):
    """An utterance that is noise."""

    def audio(self) -> FloatArray:
        samples = int(self.duration_s * RATE_HZ)
        return np.random.default_rng(samples).standard_normal(samples).astype(np.float32)


def said(speaker: str, duration_s: float) -> Utterance:
    """What it says is how long it is."""
    return Noise(f"{speaker}-{duration_s}", speaker, str(duration_s), Path("none.opus"), 0.0, duration_s)


@cache
def utterances() -> tuple[Utterance, ...]:
    return tuple(said(f"talker {k}", 2.0 + k) for k in range(5))


@pytest.mark.parametrize(
    ("reference", "heard", "count"),
    [("a b c", "a b c", 0), ("a b c", "A, b! C.", 0), ("a b c", "a x c", 1), ("a b c", "", 3), ("", "a b", 2),
     ("a b c", "b c a", 2)],
)  # fmt: skip
def test_word_errors_are_the_fewest_edits(reference: str, heard: str, count: int) -> None:
    assert errors(reference, heard) == ErrorCount(count, len(reference.split()))


def test_of_two_talkers_the_better_assignment_counts_and_of_one_only_the_first_channel() -> None:
    silence = np.zeros(1, np.float32)
    two, one = Clip(silence, ("a b", "c d e")), Clip(silence, ("a b",))
    assert clip_errors(two, ("c d e", "a b")) == ErrorCount(0, 5)
    assert clip_errors(two, ("a b c d e", "")) == ErrorCount(4, 5)  # crossed: two words too many, two missing
    assert clip_errors(one, ("", "a b")) == ErrorCount(4, 2)
    assert clip_errors(one, ("a b", "")) == ErrorCount(0, 2)


def test_clips_fill_a_window_and_depend_on_the_seed_alone() -> None:
    clips = [single_clips(utterances(), 3, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert all(clip.samples.shape == (window_samples(),) for clip in clips[0])
    assert all(np.array_equal(a.samples, b.samples) for a, b in zip(clips[0], clips[1], strict=True))
    assert any(not np.array_equal(a.samples, b.samples) for a, b in zip(clips[0], clips[2], strict=True))


@pytest.mark.parametrize("far", [False, True])
def test_pairs_are_of_two_people_and_overlap_from_the_middle_of_the_first(far: bool) -> None:
    clips = pair_clips(utterances(), 4, np.random.default_rng(3), rooms() if far else None)
    assert all(len(clip.said) == 2 for clip in clips)
    for clip in clips:
        half = int(float(clip.said[0]) / 2 * RATE_HZ)
        before, after = clip.samples[half - RATE_HZ // 2 : half], clip.samples[half + 1_600 : half + RATE_HZ // 2]
        assert np.abs(clip.samples[:RATE_HZ]).max() > 0.0
        assert np.square(after).mean() > 1.05 * np.square(before).mean()


def test_clips_that_cannot_be_made_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected 9 utterances up to 9.5 s, got 5"):
        single_clips(utterances(), 9, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"of two people, got 1"):
        pair_clips([said("a", 3.0), said("b", LONGEST_HALF_S + 1)], 1, np.random.default_rng(0))


def test_both_readers_give_two_texts_and_an_endless_reading_is_cut() -> None:
    torch.manual_seed(0)
    table = real.graphs().table
    clip = single_clips(utterances(), 1, np.random.default_rng(0))[0]
    model = SotModel(np.array([START_ID, END_ID], np.int64)).eval()
    model.encoder.layers = model.encoder.layers[:1]
    model.decoder.layers = model.decoder.layers[:1]
    with torch.no_grad():
        model.decoder.embedding[END_ID] = 0.0  # the end is never the likeliest
    attention = attention_reader(model, table)(clip.samples)
    assert all(isinstance(text, str) and len(text) < 40 * MOST_TOKENS for text in attention)
    transducer = TransducerModel(40).eval()
    transducer.encoder.layers = transducer.encoder.layers[:1]
    first, second = transducer_reader(transducer, lambda tokens: " ".join(map(str, tokens)))(clip.samples)
    assert all(0 < int(token) < 40 for token in (first + " " + second).split())


def test_the_table_has_a_row_a_decoder_and_a_column_a_set() -> None:
    clips = {"quiet": [Clip(np.zeros(4, np.float32), ("a b",))]}
    found = compare({"right": lambda _: ("a b", ""), "silent": lambda _: ("", "")}, clips)
    assert markdown(found).splitlines() == [
        "| decoder | quiet |", "| --- | --- |", "| right | 0.000 |", "| silent | 1.000 |",
    ]  # fmt: skip
