"""The two-voice recogniser over scripted graphs: a decoder that keeps the training's contract to the letter.

What matters here is what becomes of the windows, prefixes and slots; the real graphs are scored elsewhere.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from streaming_models.chunked_encoder import State
from streaming_models.contract import CHUNK_FRAMES, CHUNK_INPUT_SAMPLES, CHUNK_SAMPLES, FRAME_SAMPLES
from streaming_models.endpoint import VAD_FRAME_SAMPLES
from streaming_models.moonshine import Caches, FloatArray
from streaming_models.recogniser import Recognition, Word
from streaming_models.sot import TimedUtterance, TimedWord, clip_to_window
from streaming_models.sot_recogniser import SotRecogniser, SotSettings
from streaming_models.tokens import END_ID, LAST_BYTE_ID, TokenTable

RATE_HZ = 16_000
LONGEST_FRAMES = SotSettings().longest_samples // FRAME_SAMPLES + CHUNK_FRAMES

Talk = TimedUtterance[TimedWord]


def talk(speaker: str, start_s: float, words: int, pauses: dict[int, float] | None = None, word_s: float = 0.3) -> Talk:
    """Words `speaker0`, `speaker1` and so on, 40 ms apart but for the pauses after some of them."""
    at = start_s
    said = []
    for number in range(words):
        said.append(TimedWord(f"{speaker}{number}", round(at * RATE_HZ), round((at + word_s) * RATE_HZ)))
        at += word_s + (pauses or {}).get(number, 0.04)
    return Talk(speaker, said[0].start_sample, said[-1].end_sample, tuple(said))


def signal(seconds: float) -> FloatArray:
    """Every sample says when it is, from 1 on: the scripted graphs read the time from it. 0 is silence."""
    return np.arange(1, round(seconds * RATE_HZ) + 1, dtype=np.float32)


@dataclass
class Script:
    """Encoder, decoder and voice activity that know what is said and when."""

    talks: tuple[Talk, ...]
    encoded: list[tuple[int, bool, int]] = field(default_factory=list)
    """(first sample, from the zero state, channels) of every chunk."""
    read: list[tuple[int, int]] = field(default_factory=list)
    """(slot, frames) of every reading."""

    def __post_init__(self) -> None:
        words = [word.text for t in self.talks for word in t.words]
        assert len(set(words)) == len(words)
        # Two tokens a word, so that words are put together from more than one.
        pieces = [b""] * (LAST_BYTE_ID + 1)
        for word in words:
            pieces += ["\u2581".encode() + word[:1].encode(), word[1:].encode()]
        self.table = TokenTable(tuple(pieces))
        self._tokens = {w: (LAST_BYTE_ID + 1 + 2 * k, LAST_BYTE_ID + 2 + 2 * k) for k, w in enumerate(words)}
        self._word = {t: word for talk in self.talks for word in talk.words for t in self._tokens[word.text]}

    # Silero

    def __call__(self, frame: FloatArray) -> float:
        return float(any(t.start_sample <= frame[0] - 1 < t.end_sample for t in self.talks))

    def reset(self) -> None:
        pass

    # The encoder: a frame is its first sample's time, 0 where nothing was heard; the state knows where it goes on.

    def encode_chunk(self, mix: FloatArray, channels: FloatArray, state: State) -> tuple[FloatArray, FloatArray, State]:
        assert mix.shape == channels.shape[1:] == (CHUNK_INPUT_SAMPLES,)
        start, new = int(mix[0]) - 1, not state["processed_frames"][0]
        assert new or state["goes_on"][0] == start or not mix.any()
        self.encoded.append((start, new, len(channels)))
        hidden = mix[: CHUNK_FRAMES * FRAME_SAMPLES : FRAME_SAMPLES, None].copy()
        talking = [sum(t.start_sample <= x - 1 < t.end_sample for t in self.talks) for x in hidden[:, 0]]
        activity = np.stack([np.array(talking) >= 1, np.array(talking) >= 2], axis=1)
        after = {
            "processed_frames": state["processed_frames"] + CHUNK_FRAMES,
            "goes_on": np.array([start + CHUNK_SAMPLES]),
        }
        return hidden, activity.astype(np.float32) * 0.98 + 0.01, after

    # The decoder

    def _row(self, hidden: FloatArray, slot: int, begun: list[int]) -> tuple[list[TimedWord], int, int]:
        """Words of a slot that it would read after what it is given, and the window."""
        heard = hidden[hidden[:, 0] > 0, 0]
        start, end = (int(heard[0]) - 1, int(heard[-1]) - 1 + FRAME_SAMPLES) if len(heard) else (0, 0)
        words = list(clip_to_window(self.talks, start - FRAME_SAMPLES, end).words[slot])
        if begun:
            prefix = {self._word[t].text for t in begun}
            inside = {
                t
                for t in prefix
                if next(w for w in self._word.values() if w.text == t).start_sample >= start + FRAME_SAMPLES
            }
            assert inside <= {w.text for w in words}, f"slot {slot} was given {inside - {w.text for w in words}}"
            last = self._word[begun[-1]]
            words = [w for w in words if w.start_sample > last.start_sample]
        return words, start, len(hidden)

    def _predict(self, tokens: list[int], prefix: int, hidden: FloatArray, slot: int) -> tuple[FloatArray, FloatArray]:
        """Logits after every token from the start token on, and the attention with which they were made."""
        begun = tokens[1 : prefix + 1]
        words, start, frames = self._row(hidden, slot, begun)
        half = [begun[-1] + 1] if begun and begun[-1] == self._tokens[self._word[begun[-1]].text][0] else []
        truth = begun + half + [t for w in words for t in self._tokens[w.text]]
        logits = np.zeros((len(tokens), len(self.table.pieces)), np.float32)
        attention = np.full((6, 8, len(tokens), frames), 1e-3, np.float32)
        for place in range(len(tokens)):
            token = truth[place] if place < len(truth) else END_ID
            logits[place, token] = 9
            if token == END_ID:
                first = last = frames - 1
            else:
                word = self._word[token]
                middle = (word.start_sample + word.end_sample) // 2
                second = token == self._tokens[word.text][1]
                first, last = (middle, word.end_sample) if second else (word.start_sample, middle)
                first, last = ((x - start) // FRAME_SAMPLES for x in (first, last - 1))
            attention[:, :, place, max(0, first) : last + 1] = 1
        return logits, attention

    def read_prefix(
        self, tokens: list[int], hidden: FloatArray, voice: int, logits_from: int
    ) -> tuple[FloatArray, Caches, FloatArray]:
        self.read.append((voice, len(hidden)))
        logits, attention = self._predict(tokens, logits_from, hidden, voice)
        return logits[logits_from:], {"tokens": np.array(tokens, np.float32)}, attention

    def add_token(
        self, token: int, hidden: FloatArray, voice: int, caches: Caches
    ) -> tuple[FloatArray, Caches, FloatArray]:
        tokens = [*(int(t) for t in caches["tokens"]), token]
        logits, attention = self._predict(tokens, len(tokens) - 1, hidden, voice)
        return logits[-1], {"tokens": np.array(tokens, np.float32)}, attention[:, :, -1:]

    def truncate(self, caches: Caches, tokens: int) -> Caches:
        return {"tokens": caches["tokens"][:tokens]}


def fresh(script: Script, chosen: SotSettings | None = None) -> SotRecogniser:
    return SotRecogniser(script, script.table, script, chosen)


def run(recogniser: SotRecogniser, pcm: FloatArray, sizes: tuple[int, ...] = (3_200,)) -> list[Recognition]:
    results: list[Recognition] = []
    at = turn = 0
    while at < len(pcm):
        size = sizes[turn % len(sizes)]
        results += recogniser.step(pcm[at : at + size])
        at += size
        turn += 1
    return results + recogniser.flush()


def turns(results: list[Recognition], voice: int) -> list[str]:
    """What one voice committed, a text for every utterance."""
    rows: list[list[str]] = [[]]
    for result in results:
        if result.voice == voice:
            rows[-1] += [word.text for word in result.committed]
            if result.ended:
                rows.append([])
    assert not rows[-1], "an utterance was left open"
    return [" ".join(row) for row in rows[:-1]]


def text(*talks: Talk) -> str:
    return " ".join(word.text for t in talks for word in t.words)


def chunk_before(t: Talk) -> int:
    """First sample of the chunk that holds the pre-roll's beginning."""
    noticed = -(-t.start_sample // VAD_FRAME_SAMPLES) * VAD_FRAME_SAMPLES
    return max(0, noticed - SotSettings().pre_roll_samples) // CHUNK_SAMPLES * CHUNK_SAMPLES


ALONE = talk("a", 0.5, 60, {12: 0.2, 25: 0.45, 40: 0.3})
INSIDE = (talk("a", 0.5, 20), talk("b", 2.6, 5))
OVERTAKEN = (talk("a", 0.5, 9), talk("b", 2.6, 40))
SCRIPTS = {"alone": (ALONE,), "inside": INSIDE, "overtaken": OVERTAKEN}


@cache
def at_once(name: str) -> tuple[Recognition, ...]:
    return tuple(run(fresh(Script(SCRIPTS[name])), signal(24), (24 * RATE_HZ,)))


# --- one talker ----------------------------------------------------------------------------------------------------


def test_one_talker_is_read_to_the_last_word_on_voice_0() -> None:
    script = Script((ALONE,))
    results = run(fresh(script), signal(24))
    assert turns(results, 0) == [text(ALONE)]
    assert turns(results, 1) == []
    assert {slot for slot, _ in script.read} == {0}


def test_window_stays_short_however_long_somebody_talks() -> None:
    script = Script((talk("a", 0.5, 300),))
    results = run(fresh(script), signal(110))
    assert turns(results, 0) == [text(*script.talks)]
    lengths = [frames for _, frames in script.read]
    assert max(lengths) <= LONGEST_FRAMES
    assert np.mean(lengths) < 300


def test_every_chunk_is_encoded_once_but_for_looks_at_unfinished_ones() -> None:
    script = Script((ALONE,))
    run(fresh(script), signal(24))
    starts = Counter(start for start, _, _ in script.encoded)
    assert max(starts.values()) <= 2
    assert sum(starts.values()) - len(starts) <= 3  # the pauses
    assert all(start % CHUNK_SAMPLES == 0 for start in starts)


def test_utterances_between_silences_are_turns_of_their_own() -> None:
    talks = (talk("a", 0.5, 4), talk("b", 3.5, 4), talk("c", 12.0, 4))
    results = run(fresh(Script(talks)), signal(16))
    assert turns(results, 0) == [text(t) for t in talks]


def test_word_times_are_those_of_the_script() -> None:
    results = run(fresh(Script((ALONE,))), signal(24))
    words = [word for result in results for word in result.committed]
    off = [abs(got.end_sample - said.end_sample) for got, said in zip(words, ALONE.words, strict=True)]
    assert np.percentile(off, 80) <= 4 * FRAME_SAMPLES
    assert all(a.end_sample <= b.start_sample < b.end_sample for a, b in pairwise(words))


def test_words_appear_while_people_talk_and_are_committed_soon() -> None:
    results = at_once("alone")
    first_tail = next(r for r in results if r.tail)
    assert first_tail.decided_sample < 2 * RATE_HZ
    waits_s = [(r.decided_sample - w.end_sample) / RATE_HZ for r in results for w in r.committed]
    assert max(waits_s) < 2


def test_words_come_sooner_where_one_reading_is_enough() -> None:
    hasty = SotSettings(hold_samples=4_800, believe_after_samples=4_800)
    results = run(fresh(Script((ALONE,)), hasty), signal(24))
    assert turns(results, 0) == [text(ALONE)]

    def waits(found: tuple[Recognition, ...]) -> float:
        return float(np.median([r.decided_sample - w.end_sample for r in found for w in r.committed]))

    assert waits(tuple(results)) < waits(at_once("alone")) - CHUNK_SAMPLES / 8


def test_silence_is_not_decoded_and_long_silence_not_encoded() -> None:
    script = Script((talk("a", 20.0, 3),))
    results = run(fresh(script), signal(60))
    assert turns(results, 0) == [text(*script.talks)]
    assert len(script.read) <= 5
    # The word, its chunk's beginning, and as much silence as the encoder remembers.
    assert len(script.encoded) <= 10
    assert script.encoded[0] == (chunk_before(script.talks[0]), True, 1)


def test_encoder_starts_anew_after_a_long_silence_and_only_then() -> None:
    script = Script((talk("a", 0.5, 3), talk("b", 3.5, 3), talk("c", 20.0, 3)))
    run(fresh(script), signal(25))
    anew = [start for start, new, _ in script.encoded if new]
    assert sorted(set(anew)) == [chunk_before(script.talks[0]), chunk_before(script.talks[2])]


class Stuck(Script):
    """A decoder that says nothing more once it was given a certain word: what a wrong word may do to it."""

    def _predict(self, tokens: list[int], prefix: int, hidden: FloatArray, slot: int) -> tuple[FloatArray, FloatArray]:
        logits, attention = super()._predict(tokens, prefix, hidden, slot)
        given = [place for place, token in enumerate(tokens) if token == self.wall]
        if given:
            logits[given[0] :] = 0
            logits[given[0] :, END_ID] = 9
        return logits, attention

    wall = LAST_BYTE_ID + 1 + 2 * 9 + 1
    """The last token of the tenth word."""


@pytest.mark.parametrize("words", [40, 17])
def test_decoder_that_has_stopped_too_early_is_asked_anew(words: int) -> None:
    spoken = talk("a", 0.5, words)
    results = run(fresh(Stuck((spoken,))), signal(24))
    assert turns(results, 0) == [text(spoken)]


# --- two talkers ---------------------------------------------------------------------------------------------------


def test_who_talks_while_somebody_talks_is_voice_1() -> None:
    results = list(at_once("inside"))
    assert turns(results, 0) == [text(INSIDE[0])]
    assert turns(results, 1) == [text(INSIDE[1])]


def test_second_slot_is_read_only_around_the_overlap() -> None:
    script = Script((talk("a", 0.5, 60), talk("b", 9.0, 4)))
    run(fresh(script), signal(24))
    readings = Counter(slot for slot, _ in script.read)
    assert 2 <= readings[1] <= 8
    assert readings[0] > 25


def test_voice_1_ends_while_voice_0_talks_on() -> None:
    script = Script((talk("a", 0.5, 60), talk("b", 9.0, 4)))
    results = run(fresh(script), signal(24))
    ended = next(r for r in results if r.voice == 1 and r.ended)
    assert ended.decided_sample < 13 * RATE_HZ
    assert turns(results, 1) == [text(script.talks[1])]


def test_who_talks_on_alone_keeps_the_voice_and_takes_the_first_slot() -> None:
    script = Script(OVERTAKEN)
    results = run(fresh(script), signal(24))
    assert turns(results, 0) == [text(OVERTAKEN[0])]
    assert turns(results, 1) == [text(OVERTAKEN[1])]
    assert {slot for slot, _ in script.read[-6:]} == {0}


def test_interrupter_of_voice_1_is_voice_0() -> None:
    talks = (*OVERTAKEN, talk("c", 13.0, 4))
    results = run(fresh(Script(talks)), signal(24))
    assert turns(results, 0) == [text(talks[0]), text(talks[2])]
    assert turns(results, 1) == [text(talks[1])]


def test_after_a_silence_the_first_talker_is_voice_0_again() -> None:
    talks = (*OVERTAKEN, talk("c", 20.0, 5))
    results = run(fresh(Script(talks)), signal(24))
    assert turns(results, 0) == [text(talks[0]), text(talks[2])]


def test_two_who_talk_against_each_other_for_long_are_both_read() -> None:
    talks = (talk("a", 0.5, 60, word_s=0.32), talk("b", 2.0, 60, word_s=0.27))
    script = Script(talks)
    results = run(fresh(script), signal(30))
    assert turns(results, 0) == [text(talks[0])]
    assert turns(results, 1) == [text(talks[1])]
    assert max(frames for _, frames in script.read) <= LONGEST_FRAMES


@st.composite
def meetings(draw: st.DrawFn) -> tuple[Talk, ...]:
    """Up to two people at a time, with a clear pause before each goes on."""
    free = [0.5, 0.5]
    talks: list[Talk] = []
    for number in range(draw(st.integers(2, 7))):
        row = draw(st.integers(0, 1))
        start = max(free[row], min(free)) + draw(st.sampled_from([0.8, 0.93, 1.09, 1.5, 1.79]))
        spoken = talk(chr(97 + number), start, draw(st.integers(3, 25)), word_s=draw(st.sampled_from([0.3, 0.36])))
        edges = [edge for t in talks for edge in (t.start_sample, t.end_sample)]
        # Who comes first must be clear: words are read with some silence before them.
        own = (spoken.start_sample, spoken.end_sample)
        assume(all(abs(a - b) > RATE_HZ // 5 for a in own for b in edges))
        talks.append(spoken)
        free[row] = spoken.end_sample / RATE_HZ
    return tuple(talks)


@given(meetings())
@settings(max_examples=15, deadline=None, phases=[Phase.generate], derandomize=True)
def test_every_word_is_read_once_and_in_order(talks: tuple[Talk, ...]) -> None:
    results = run(fresh(Script(talks)), signal(max(t.end_sample for t in talks) / RATE_HZ + 1.5))
    words = " ".join(turn for voice in (0, 1) for turn in turns(results, voice)).split()
    assert Counter(words) == Counter(text(*talks).split())
    for t in talks:
        assert [word for word in words if word[0] == t.speaker] == text(t).split()


# --- the contract of every recogniser -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("sizes", [(320,), (1, 511, 5_000), (16_000, 0)])
def test_any_chunking_equals_one_call(name: str, sizes: tuple[int, ...]) -> None:
    assert tuple(run(fresh(Script(SCRIPTS[name])), signal(24), sizes)) == at_once(name)


def test_reset_equals_a_new_one() -> None:
    recogniser = fresh(Script(OVERTAKEN))
    recogniser.step(signal(6.3))
    recogniser.reset()
    assert tuple(run(recogniser, signal(24))) == at_once("overtaken")


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("cut_s", [1.0, 3.3, 5.9, 9.7])
def test_later_audio_changes_nothing_that_was_decided(name: str, cut_s: float) -> None:
    cut = round(cut_s * RATE_HZ)
    other = signal(24)
    other[cut:] = 0
    changed = run(fresh(Script(SCRIPTS[name])), other)
    kept = [r for r in at_once(name) if r.decided_sample <= cut]
    assert [r for r in changed if r.decided_sample <= cut] == kept
    assert kept or cut_s == 1.0


def test_decisions_are_made_at_whole_frames_in_order() -> None:
    for name in SCRIPTS:
        clocks = [r.decided_sample for r in at_once(name)]
        assert clocks == sorted(clocks)
        assert all(clock % VAD_FRAME_SAMPLES == 0 for clock in clocks)


@pytest.mark.parametrize("seconds", [1.3, 2.0, 3.7, 5.2, 6.6])
def test_flush_commits_what_was_heard_of_both(seconds: float) -> None:
    recogniser = fresh(Script(OVERTAKEN))
    results = run(recogniser, signal(seconds))
    assert recogniser.flush() == []
    for voice, t in enumerate(OVERTAKEN):
        heard = [w.text for w in t.words if w.end_sample <= seconds * RATE_HZ - 2 * FRAME_SAMPLES]
        got = " ".join(turns(results, voice)).split()
        assert got[: len(heard)] == heard
        assert len(got) <= len(heard) + 1


def test_committed_text_never_changes_and_tails_only_follow_it() -> None:
    for name, talks in SCRIPTS.items():
        shown: dict[int, list[Word]] = {0: [], 1: []}
        for result in at_once(name):
            row = shown[result.voice]
            row += result.committed
            told = text(*(t for t in talks if t.speaker == row[0].text[0])) if row else text(*talks)
            assert " ".join(w.text for w in (*row, *result.tail)) in told
            if result.ended:
                assert result.tail == ()


# --- microphones ----------------------------------------------------------------------------------------------------


def test_every_channel_reaches_the_encoder() -> None:
    script = Script((ALONE,))
    recogniser = fresh(script)
    pcm = signal(4)
    channels = np.stack([pcm, pcm, pcm])
    for at in range(0, len(pcm), 1_000):
        recogniser.step(pcm[at : at + 1_000], channels[:, at : at + 1_000])
    assert {count for _, _, count in script.encoded} == {3}


def test_wrong_shapes_are_refused() -> None:
    recogniser = fresh(Script((ALONE,)))
    with pytest.raises(ValueError, match=r"expected mono samples of shape \(S,\), got \(1, 10\)"):
        recogniser.step(np.zeros((1, 10), np.float32))
    with pytest.raises(ValueError, match=r"expected channels of shape \(C, 10\), got \(2, 9\)"):
        recogniser.step(np.zeros(10, np.float32), np.zeros((2, 9), np.float32))
    recogniser.step(np.zeros(10, np.float32), np.zeros((2, 10), np.float32))
    with pytest.raises(ValueError, match="expected 2 channels as before, got 1"):
        recogniser.step(np.zeros(10, np.float32))
