"""Labels for training: the corpus says which words, the teacher's reading how they are written and when."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from streaming_models.data.corpus import SAMPLE_RATE_HZ, FloatArray, Utterance
from streaming_models.data.speech_bank import BankWord, SpeechBank, label, write_bank
from streaming_models.scoring import normalise
from streaming_models.stable_prefix import ReadWord, StablePrefix, Word
from tests.real import graphs, moonshine, short_speech

TABLE = graphs().table


def read(*words: str, confidence: float = 0.9) -> list[ReadWord]:
    """A reading: a word every 100 samples."""
    return [
        ReadWord(TABLE.encode_word(text), text.lower(), Word(text, 100 * k, 100 * k + 80, confidence))
        for k, text in enumerate(words)
    ]


def texts(words: tuple[BankWord, ...]) -> str:
    return TABLE.text([token for word in words for token in word.tokens])


def test_upper_case_text_takes_case_and_punctuation_from_the_reading() -> None:
    words = label("EVER TRIED EVER FAILED", read("Ever", "tried.", "Ever", "failed."), TABLE)
    assert texts(words) == "Ever tried. Ever failed."
    assert [(w.start_sample, w.end_sample) for w in words] == [(0, 80), (100, 180), (200, 280), (300, 380)]


def test_a_misread_word_is_spelt_as_the_corpus_says_at_the_time_of_the_reading() -> None:
    words = label("NO MATTER TRY AGAIN FAIL AGAIN", read("No", "matter.", "Cry", "again.", "Fail", "again."), TABLE)
    assert texts(words) == "No matter. Try again. Fail again."
    assert (words[2].start_sample, words[2].end_sample) == (200, 280)


def test_a_word_that_was_not_read_lies_between_its_neighbours() -> None:
    words = label("no matter um try again", read("No", "matter.", "Try", "again."), TABLE)
    assert texts(words) == "No matter. um Try again."
    assert (words[2].start_sample, words[2].end_sample) == (180, 200)


def test_a_word_that_nobody_said_is_left_out() -> None:
    assert texts(label("no matter", read("No", "no", "matter."), TABLE)) in ("No matter.", "no matter.")


def test_text_and_reading_of_different_speech_give_nothing() -> None:
    assert label("the quick brown fox jumps", read("Some", "other", "words", "entirely", "here"), TABLE) == ()
    assert label("", [], TABLE) == ()
    assert label("hello there", [], TABLE) == ()


def test_without_a_text_only_a_sure_reading_counts() -> None:
    assert texts(label("", read("Ever", "tried."), TABLE)) == "Ever tried."
    assert label("", read("Ever", "tried.", confidence=0.2), TABLE) == ()


@pytest.mark.parametrize("word", ["tried", "Wednesday's", "naïve", "zyzzyva", "ok"])
def test_any_word_can_be_spelt_in_tokens(word: str) -> None:
    assert TABLE.text(list(TABLE.encode_word(word))) == word
    assert TABLE.starts_word(TABLE.encode_word(word)[0])


def test_a_bank_gives_back_audio_and_words(tmp_path: Path) -> None:
    audio = short_speech()
    shard = tmp_path / "beckett.opus"
    soundfile.write(shard, audio, SAMPLE_RATE_HZ, format="OGG", subtype="OPUS")
    duration_s = len(audio) / SAMPLE_RATE_HZ
    utterances = [
        Utterance("one", "somebody", "EVER TRIED EVER FAILED", shard, 0.0, duration_s),
        Utterance("too-long", "somebody", "EVER TRIED EVER FAILED", shard, 0.0, 60.0),
    ]

    def teacher(samples: FloatArray) -> list[ReadWord]:
        return list(StablePrefix(0).words_of(moonshine().read(samples), TABLE, 0, len(samples)))

    assert write_bank(tmp_path / "bank", utterances, teacher, TABLE) == (1, 1)
    bank = SpeechBank.load([tmp_path / "bank", tmp_path / "bank"])
    assert len(bank.utterances) == 2
    first, second = bank.utterances
    assert first.words == second.words
    assert normalise(texts(first.words)) == "ever tried ever failed"
    assert np.abs(bank.samples_of(second)[: len(audio)] - audio[: second.samples]).mean() < 0.02  # Opus
    starts = [word.start_sample for word in first.words]
    assert starts == sorted(starts)
    assert first.words[-1].end_sample <= first.samples


def test_a_bank_without_its_audio_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one bank or more"):
        SpeechBank.load([])
    np.save(tmp_path / "short.npy", np.zeros(5, np.int16))
    (tmp_path / "short.jsonl").write_text('{"id": "a", "speaker": "b", "offset": 0, "samples": 9, "words": []}\n')
    with pytest.raises(ValueError, match="expected a within 5 samples"):
        SpeechBank.load([tmp_path / "short"])
