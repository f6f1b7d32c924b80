"""Linking voices to people: with made-up voices for the rules, with the shipped graphs and real speech for the line."""

from __future__ import annotations

import importlib.resources
import itertools
import json
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming_models import speakers as sp
from streaming_models.fbank import VoiceInputError

FloatArray = npt.NDArray[np.float32]
HOP_SAMPLES = sp.HOP_FRAMES * sp.FRAME_SAMPLES


def person(index: int) -> FloatArray:
    """(256,) a made-up voice, orthogonal to the others."""
    vector = np.zeros(256, np.float32)
    vector[index] = 1.0
    return vector


def heard(index: int, solo_s: float, seed: int) -> FloatArray:
    """A noisy look at a made-up voice, as clear as a real one of this length."""
    clear = math.sqrt(sp.SAME_VOICE_COS_AT_1S * solo_s**sp.SAME_VOICE_COS_POWER)
    noise = np.random.default_rng([seed, index]).normal(size=256)
    noise /= np.linalg.norm(noise)
    return np.asarray(clear * person(index) + math.sqrt(1 - clear**2) * noise, np.float32)


# ---- assignment ------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(0, 4), columns=st.integers(1, 5), seed=st.integers(0, 10_000))
def test_assignment_equals_brute_force(rows: int, columns: int, seed: int) -> None:
    scores = np.random.default_rng(seed).normal(size=(rows, columns))
    chosen = sp.best_assignment(scores)
    used = [column for column in chosen if column >= 0]
    assert len(set(used)) == len(used) == min(rows, columns)
    total = sum(scores[row, column] for row, column in enumerate(chosen) if column >= 0)
    if rows <= columns:
        every = itertools.permutations(range(columns), rows)
        best = max(sum(scores[row, column] for row, column in enumerate(option)) for option in every)
    else:
        turned = itertools.permutations(range(rows), columns)
        best = max(sum(scores[row, column] for column, row in enumerate(option)) for option in turned)
    assert total == pytest.approx(best)


# ---- registry --------------------------------------------------------------------------------------------------


def test_people_are_numbered_in_the_order_they_are_heard() -> None:
    registry = sp.SpeakerRegistry()
    assert registry.assign(np.stack([person(3)]), [2.0]) == ["S1"]
    assert registry.assign(np.stack([person(7), person(3)]), [2.0, 2.0]) == ["S2", "S1"]
    assert registry.labels == ["S1", "S2"]


def test_voices_of_one_group_never_share_a_label() -> None:
    registry = sp.SpeakerRegistry()
    twins = np.stack([person(0), person(0), person(0)])
    assert len(set(registry.assign(twins, [2.0, 2.0, 2.0], apart=[0, 0, 0]))) == 3
    assert registry.assign(twins[:2], [2.0, 2.0], apart=[-1, -1]) == ["S1", "S1"]


def test_a_label_of_its_own_is_never_given_to_a_voice() -> None:
    registry = sp.SpeakerRegistry()
    assert registry.assign(np.stack([person(0)]), [2.0]) == ["S1"]
    assert registry.new_label() == "S2"
    assert registry.new_label() == "S3"
    assert registry.assign(np.stack([person(1)]), [2.0]) == ["S4"]
    assert set(registry.people()) == {"S1", "S4"}
    again = sp.SpeakerRegistry.from_state(registry.to_state())
    assert again.new_label() == "S5"


def test_similarity_is_about_one_for_one_person_and_nothing_for_strangers() -> None:
    mine = sp.voice_of((heard(0, 2.0, seed), 2.0) for seed in range(6))
    same = sp.voice_of((heard(0, 2.0, seed), 2.0) for seed in range(6, 12))
    other = sp.voice_of((heard(1, 2.0, seed), 2.0) for seed in range(6))
    assert mine.similarity(same) > 0.6
    assert mine.similarity(other) < sp.SAME_PERSON_SCORE / 2
    assert mine.similarity(sp.voice_of([])) == 0.0


def test_cannot_link_survives_reclustering() -> None:
    registry = sp.SpeakerRegistry()
    keys = [registry.add_piece(person(0), 2.0, apart=5) for _ in range(2)]
    answers = registry.recluster()
    assert answers[keys[0]][0] != answers[keys[1]][0]


def test_less_than_a_second_of_a_strange_voice_takes_the_nearest_person() -> None:
    registry = sp.SpeakerRegistry()
    registry.assign(np.stack([person(0)]), [2.0])
    assert registry.assign(np.stack([person(1)]), [0.6]) == ["S1"]
    assert registry.assign(np.stack([person(1)]), [1.2]) == ["S2"]


@pytest.mark.parametrize("hint", ["S1", "S2"])
def test_a_hint_decides_between_equal_voices(hint: str) -> None:
    registry = sp.SpeakerRegistry()
    registry.assign(np.stack([person(0), person(1)]), [2.0, 2.0])
    between = (person(0) + person(1)) / np.float32(math.sqrt(2))
    assert registry.assign(between[None], [0.8], hints=[hint]) == [hint]


def test_reclustering_tells_made_up_voices_apart() -> None:
    registry = sp.SpeakerRegistry()
    truth = [0, 1, 0, 2, 1, 0, 2, 2, 1, 0, 1, 2]
    keys = [registry.add_piece(heard(who, 1.5, seed), 1.5) for seed, who in enumerate(truth)]
    answers = registry.recluster()
    labels = [answers[key][0] for key in keys]
    assert len(set(zip(truth, labels, strict=True))) == len(set(truth)) == len(set(labels))
    assert labels[0] == "S1"


def test_pieces_in_which_somebody_else_is_heard_count_less() -> None:
    mixed = (person(0) + person(1)) / np.float32(math.sqrt(2))

    def people(weight: float) -> int:
        registry = sp.SpeakerRegistry()
        for seed in range(3):
            for who in (0, 1):
                registry.add_piece(heard(who, 2.0, seed), 2.0)
        for _ in range(12):
            registry.add_piece(mixed, 2.0, weight=weight)
        registry.recluster()
        return len(registry.labels)

    assert people(weight=0.02) == 2
    voice = sp.Voice()
    voice.add(person(0), 2.0, weight=0.25)
    assert voice.solo_s == 0.5
    assert voice.similarity(sp.voice_of([(person(0), 2.0)])) == pytest.approx(
        sp.voice_of([(person(0), 2.0)]).similarity(sp.voice_of([(person(0), 2.0)])), rel=1e-4
    )


@pytest.mark.parametrize("weight", [0.0, -1.0, 1.5, math.nan])
def test_a_weight_out_of_range_is_refused(weight: float) -> None:
    with pytest.raises(VoiceInputError, match="expected a weight above 0 and up to 1"):
        sp.SpeakerRegistry().add_piece(person(0), 1.0, weight=weight)


def test_a_state_without_weights_is_one_in_which_all_pieces_count_alike() -> None:
    registry = sp.SpeakerRegistry()
    registry.add_piece(person(0), 2.0)
    state = registry.to_state()
    older = json.loads(json.dumps(state))
    del older["pieces"][0]["weight"]
    assert sp.SpeakerRegistry.from_state(older).to_state() == state


def test_somebody_new_needs_as_much_speech_as_is_asked_for() -> None:
    def people(new_person_s: float) -> int:
        registry = sp.SpeakerRegistry()
        registry.add_piece(person(0), 2.0)
        registry.add_piece(person(1), 1.2)
        registry.recluster(new_person_s)
        return len(registry.labels)

    assert people(1.0) == 2
    assert people(1.5) == 1


def test_a_wrong_start_is_repaired_by_later_evidence() -> None:
    registry = sp.SpeakerRegistry()
    unclear = (person(0) + person(1)) / np.float32(math.sqrt(2))
    early = [registry.add_piece(unclear, 1.0), registry.add_piece(person(0), 1.0)]
    registry.recluster()
    later = [registry.add_piece(heard(who, 2.0, seed), 2.0) for seed in range(4) for who in (0, 1)]
    answers = registry.recluster()
    assert answers[early[1]][0] == answers[later[0]][0] != answers[later[1]][0]


def test_state_round_trip_goes_on_identically() -> None:
    one = sp.SpeakerRegistry()
    for seed in range(9):
        one.add_piece(heard(seed % 3, 1.5, seed), 1.5, lane=0, window=seed, slot=0, weight=1 - seed / 10)
    one.recluster()
    one.assign_turn(person(9), 2.0, channel=4)
    other = sp.SpeakerRegistry.from_state(json.loads(json.dumps(one.to_state())))
    assert other.to_state() == one.to_state()
    for registry in (one, other):
        registry.add_piece(heard(1, 1.0, 99), 1.0)
    assert one.recluster() == other.recluster()
    assert one.assign_turn(person(9), 1.0, channel=4) == other.assign_turn(person(9), 1.0, channel=4)


@pytest.mark.parametrize("state", [{}, {"version": 99}, {"version": 1}, {"version": 1, "people": [{"number": "x"}]}])
def test_a_broken_state_is_refused(state: dict[str, object]) -> None:
    with pytest.raises(sp.SpeakerStateError, match="expected"):
        sp.SpeakerRegistry.from_state(state)


def test_memory_stays_bounded_over_hours_and_many_voices() -> None:
    registry = sp.SpeakerRegistry()
    for index in range(60):
        for repeat in range(5):
            registry.add_piece(heard(index, 2.0, repeat), 2.0)
        registry.recluster()
    state = registry.to_state()
    assert len(registry.labels) <= sp.MAX_PEOPLE
    assert len(state["pieces"]) <= sp.MAX_PIECES  # type: ignore[arg-type]
    assert len(json.dumps(state)) < 400_000


def test_an_old_voice_is_known_after_its_pieces_were_summed() -> None:
    registry = sp.SpeakerRegistry()
    for seed in range(6):
        registry.add_piece(heard(0, 2.0, seed), 2.0)
    registry.recluster()
    for seed in range(sp.MAX_PIECES + 10):
        registry.add_piece(heard(1, 2.0, seed), 2.0)
        registry.recluster()
    key = registry.add_piece(heard(0, 2.0, 500), 2.0)
    assert registry.recluster()[key][0] == "S1"


@pytest.mark.parametrize(
    "embedding", [np.zeros(256, np.float32), np.ones(255, np.float32), np.full(256, np.nan, np.float32)]
)
def test_a_bad_embedding_is_refused(embedding: FloatArray) -> None:
    with pytest.raises(VoiceInputError, match="embedding"):
        sp.SpeakerRegistry().add_piece(embedding, 1.0)


def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(VoiceInputError, match="expected 1 of each"):
        sp.SpeakerRegistry().assign(person(0)[None], [1.0, 2.0])


# ---- turns on close-talk microphones ---------------------------------------------------------------------------


def test_each_microphone_keeps_its_person() -> None:
    registry = sp.SpeakerRegistry()
    for seed in range(6):
        assert registry.assign_turn(heard(0, 1.6, seed), 1.6, channel=0)[0] == "S1"
        assert registry.assign_turn(heard(1, 1.6, seed), 1.6, channel=1)[0] == "S2"


def test_a_short_unclear_turn_takes_the_microphones_person_provisionally() -> None:
    registry = sp.SpeakerRegistry()
    registry.assign_turn(person(0), 3.0, channel=0)
    registry.assign_turn(person(1), 3.0, channel=1)
    assert registry.assign_turn(person(50), 0.4, channel=1)[:2] == ("S2", "provisional")


def test_a_clear_voice_keeps_its_label_on_another_microphone() -> None:
    registry = sp.SpeakerRegistry()
    registry.assign_turn(person(0), 3.0, channel=0)
    registry.assign_turn(person(1), 3.0, channel=1)
    assert registry.assign_turn(person(0), 3.0, channel=1)[:2] == ("S1", "final")
    assert registry.assign_turn(person(0), 3.0, channel=7)[:2] == ("S1", "final")


def test_a_simultaneous_speaker_is_never_assigned() -> None:
    registry = sp.SpeakerRegistry()
    registry.assign_turn(person(0), 3.0, channel=0)
    label, _, _ = registry.assign_turn(person(0), 3.0, channel=1, simultaneous_labels={"S1"})
    assert label == "S2"
    assert registry.assign_turn(person(5), 0.3, channel=2, simultaneous_labels={"S1", "S2"})[0] == "S?"


# ---- the lane with the shipped graphs and real speech ----------------------------------------------------------


@pytest.fixture(scope="module")
def networks() -> tuple[sp.Segment, sp.Embed]:
    folder = Path(str(importlib.resources.files("streaming_models"))) / "weights" / "voice"
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    segmentation = ort.InferenceSession(str(folder / "segmentation.onnx"), options)
    embedding = ort.InferenceSession(str(folder / "embedding.onnx"), options)

    def segment(window: FloatArray) -> FloatArray:
        return np.asarray(segmentation.run(None, {"waveforms": window[None, None]})[0][0], np.float32)

    def embed(features: FloatArray, weights: FloatArray) -> FloatArray:
        return np.asarray(embedding.run(None, {"fbank": features[None], "weights": weights[None]})[0][0], np.float32)

    return segment, embed


def asset(name: str, start_s: float, duration_s: float) -> FloatArray:
    path = Path(str(importlib.resources.files("moonshine_voice"))) / "assets" / name
    audio, sample_rate_hz = soundfile.read(str(path), dtype="float32", always_2d=True)
    positions = np.arange(int(duration_s * 16_000)) / 16_000 + start_s
    resampled = np.interp(positions, np.arange(len(audio)) / sample_rate_hz, audio[:, 0])
    return np.asarray(resampled, np.float32)


def new(networks: tuple[sp.Segment, sp.Embed]) -> sp.Diarizer:
    return sp.Diarizer(*networks, sp.SpeakerRegistry())


def everything(diarizer: sp.Diarizer, parts: list[FloatArray]) -> list[sp.SpeakerSpan]:
    """What a reader of the spans ends up with."""
    said: list[sp.SpeakerSpan] = []
    for part in [*parts, None]:
        spans = diarizer.flush() if part is None else diarizer.step(part)
        if spans or part is None:
            said = [span for span in said if span.end_sample <= diarizer.revised_from_sample] + spans
    return said


def seconds_by_label(spans: list[sp.SpeakerSpan], start_s: float, end_s: float) -> dict[str, float]:
    total: dict[str, float] = {}
    for span in spans:
        shared = min(span.end_sample / 16_000, end_s) - max(span.start_sample / 16_000, start_s)
        if shared > 0:
            total[span.speaker] = total.get(span.speaker, 0.0) + shared
    return total


def main_label(spans: list[sp.SpeakerSpan], start_s: float, end_s: float) -> str:
    total = seconds_by_label(spans, start_s, end_s)
    return max(total, key=lambda label: total[label])


def test_any_chunking_equals_one_call(networks: tuple[sp.Segment, sp.Embed]) -> None:
    audio = asset("endgame_nagg_nell.wav", 0.0, 9.0)
    whole = everything(new(networks), [audio])
    odd = everything(new(networks), np.split(audio, [1, 777, 40_000, 40_000, 100_003, 131_111]))
    small = everything(new(networks), np.array_split(audio, 450))
    assert whole == odd == small
    assert whole


def test_reset_starts_the_lane_afresh(networks: tuple[sp.Segment, sp.Embed]) -> None:
    audio = asset("endgame_nagg_nell.wav", 0.0, 6.0)
    diarizer = sp.Diarizer(*networks, registry := sp.SpeakerRegistry())
    first = everything(diarizer, [audio])
    known = registry.labels
    diarizer.reset()
    second = everything(diarizer, [audio])
    assert [(span.start_sample, span.end_sample) for span in first] == [
        (span.start_sample, span.end_sample) for span in second
    ]
    assert registry.labels == known


def test_two_real_speakers_get_two_labels_and_keep_them_after_silence(
    networks: tuple[sp.Segment, sp.Embed],
) -> None:
    silence = np.zeros(13 * 16_000, np.float32)
    reader, player = asset("two_cities.wav", 1.0, 8.0), asset("endgame_nagg_nell.wav", 0.0, 8.0)
    spans = everything(new(networks), [reader, player, silence, reader[: 5 * 16_000]])
    assert all(span.state == "final" for span in spans)
    assert (main_label(spans, 0.5, 7.5), main_label(spans, 8.5, 15.5)) == ("S1", "S2")
    assert main_label(spans, 29.5, 33.5) == "S1"
    assert seconds_by_label(spans, 18.0, 28.0) == {}


def test_a_dialogue_is_shared_between_two_labels(networks: tuple[sp.Segment, sp.Embed]) -> None:
    spans = everything(new(networks), [asset("endgame_nagg_nell.wav", 0.0, 24.0)])
    total = sorted(seconds_by_label(spans, 0.0, 24.0).values(), reverse=True)
    assert len(total) >= 2
    assert total[1] > 2.0


def test_silence_gives_no_spans_and_runs_no_network() -> None:
    def refuse(*_: FloatArray) -> FloatArray:
        raise AssertionError("a network ran on silence")

    diarizer = sp.Diarizer(refuse, refuse, sp.SpeakerRegistry())
    noise = np.random.default_rng(0).normal(0, 1e-4, 20 * 16_000).astype(np.float32)
    assert everything(diarizer, [noise]) == []
    assert diarizer.speaker_at(0, 16_000)[0] is None


# ---- the lane with made-up networks ----------------------------------------------------------------------------


def tone_segment(window: FloatArray) -> FloatArray:
    """Local speaker 0 where the audio is above zero on average, 1 where below."""
    active = np.zeros((589, 3), np.float32)
    for frame in range(589):
        mean = window[270 * frame : 270 * frame + 270].mean()
        active[frame, 0], active[frame, 1] = mean > 0.05, mean < -0.05
    return active


def tone_audio(pattern: str) -> FloatArray:
    """One second a letter: A above zero, B below, - silent."""
    value = {"A": 0.2, "B": -0.2, "-": 0.0}
    ripple = np.random.default_rng(0).normal(0, 0.01, 16_000)
    return np.concatenate([value[letter] + ripple * (letter != "-") for letter in pattern]).astype(np.float32)


def one_voice(features: FloatArray, weights: FloatArray) -> FloatArray:
    assert features.shape == (len(weights), 80)
    return person(0)


def test_spans_turn_final_within_the_horizon_and_never_change_then() -> None:
    diarizer = sp.Diarizer(tone_segment, one_voice, sp.SpeakerRegistry())
    audio = tone_audio("AAAA--AAAAAA---AAAAAAAAAA--AAAA")
    final: dict[tuple[int, int], str] = {}
    for start in range(0, len(audio), HOP_SAMPLES):
        spans = diarizer.step(audio[start : start + HOP_SAMPLES])
        for span in spans:
            assert span.start_sample >= diarizer.revised_from_sample
            if span.state == "final":
                assert (span.start_sample, span.end_sample) not in final
                final[span.start_sample, span.end_sample] = span.speaker
            else:
                assert span.end_sample >= diarizer.decided_until_sample - (sp.FINAL_AFTER_S + 2.1) * 16_000
    assert set(final.values()) == {"S1"}


def test_speech_has_a_label_at_the_next_window() -> None:
    diarizer = sp.Diarizer(tone_segment, one_voice, sp.SpeakerRegistry())
    spans = diarizer.step(tone_audio("AAA")[:HOP_SAMPLES])
    assert [span.speaker for span in spans] == ["S1"]
    assert spans[0].state == "provisional"
    label, state, confidence = diarizer.speaker_at(4_000, 20_000)
    assert (label, state) == ("S1", "provisional")
    assert 0.5 <= confidence <= 1.0


def test_beyond_the_decided_audio_the_last_speaker_is_guessed() -> None:
    diarizer = sp.Diarizer(tone_segment, one_voice, sp.SpeakerRegistry())
    diarizer.step(tone_audio("AAAA"))
    decided = diarizer.decided_until_sample
    assert diarizer.speaker_at(decided, decided + 8_000) == ("S1", "provisional", sp.GUESS_CONFIDENCE)
    assert diarizer.speaker_at(decided + 80_000, decided + 88_000)[0] is None


def test_activity_is_counted_as_far_as_it_was_decided() -> None:
    diarizer = sp.Diarizer(tone_segment, one_voice, sp.SpeakerRegistry())
    assert diarizer.activity_s(0, 16_000) == {}
    diarizer.step(tone_audio("-AAA--AA"))
    assert diarizer.final_until_sample == 0
    decided_s = diarizer.decided_until_sample / 16_000
    spoken_s = {"S1": 3.0 + decided_s - 6.0}
    assert diarizer.activity_s(0, 20 * 16_000) == pytest.approx(spoken_s, abs=0.1)
    assert diarizer.activity_s(24_000, 40_000) == pytest.approx({"S1": 1.0}, abs=0.03)
    assert diarizer.activity_s(40_000, 24_000) == {}
    diarizer.flush()
    assert diarizer.final_until_sample >= diarizer.decided_until_sample
    assert diarizer.activity_s(0, 20 * 16_000) == pytest.approx({"S1": 5.0}, abs=0.1)


def test_an_hour_of_audio_keeps_bounded_memory() -> None:
    diarizer = sp.Diarizer(tone_segment, one_voice, sp.SpeakerRegistry())
    for _ in range(10):
        diarizer.step(tone_audio("AAAABBBB--" * 2))
    held = [value for value in vars(diarizer).values() if isinstance(value, np.ndarray)]
    assert max(len(value) for value in held) <= max(sp.WINDOW_SAMPLES, HOP_SAMPLES)
    assert len(diarizer._windows) <= 12
    assert len(diarizer._places) <= 60
    assert diarizer.speaker_at(0, 16_000)[0] is None  # older than the history
    assert diarizer.speaker_at(160 * 16_000, 161 * 16_000)[0] == "S1"


def test_wrong_shapes_give_clear_errors() -> None:
    diarizer = sp.Diarizer(lambda _: np.zeros((10, 3), np.float32), one_voice, sp.SpeakerRegistry())
    with pytest.raises(VoiceInputError, match=r"float32 \(S,\)"):
        diarizer.step(np.zeros((2, 16), np.float32))
    with pytest.raises(VoiceInputError, match=r"\(589, 3\), received \(10, 3\)"):
        diarizer.step(tone_audio("AAA"))
    with pytest.raises(VoiceInputError, match="start <= end"):
        diarizer.speaker_at(10, 5)
    with pytest.raises(VoiceInputError, match="S1"):
        sp.label_number("Speaker 1")


@pytest.mark.parametrize(("hop_frames", "embed_rate"), [(0, 0.3), (590, 0.3), (118, 0.0)])
def test_settings_out_of_range_are_refused(hop_frames: int, embed_rate: float) -> None:
    registry = sp.SpeakerRegistry()
    with pytest.raises(VoiceInputError, match="expected hop_frames"):
        sp.Diarizer(tone_segment, one_voice, registry, hop_frames=hop_frames, embed_rate=embed_rate)


def test_who_speaks_alone_is_told_by_label_and_by_the_newest_window() -> None:
    diarizer = sp.Diarizer(tone_segment, one_voice, sp.SpeakerRegistry())
    assert diarizer.alone(0) == {}
    diarizer.step(tone_audio("-AAA--AA"))
    told = diarizer.alone(0)
    assert set(told) == {"S1", sp.LOCAL_NAMES[0]}
    for spans in told.values():
        (first, second) = spans
        assert first == pytest.approx((16_000, 64_000), abs=1_000)
        assert second == pytest.approx((96_000, diarizer.decided_until_sample), abs=1_000)
    assert diarizer.alone(40_000)["S1"][0] == pytest.approx((40_000, 64_000), abs=1_000)
    assert diarizer.alone(70_000).keys() == told.keys()
    assert diarizer.alone(diarizer.decided_until_sample + 1_000) == {}


def test_overlapped_speech_is_nobodys_alone() -> None:
    def both(window: FloatArray) -> FloatArray:
        active = tone_segment(window)
        active[:, 1] = active[:, 0]
        return active

    diarizer = sp.Diarizer(both, one_voice, sp.SpeakerRegistry())
    diarizer.step(tone_audio("AAAAA"))
    assert not set(diarizer.alone(0)) & set(sp.LOCAL_NAMES)


def test_who_talks_is_told_also_where_others_do() -> None:
    diarizer = sp.Diarizer(tone_segment, one_voice, sp.SpeakerRegistry())
    assert diarizer.talking(0) == {}
    diarizer.step(tone_audio("-AAA--AA"))
    told = diarizer.talking(0)
    assert told == {"S1": diarizer.alone(0)["S1"]}
    assert diarizer.talking(40_000)["S1"][0][0] == 40_000
    assert diarizer.talking(diarizer.decided_until_sample + 1_000) == {}
