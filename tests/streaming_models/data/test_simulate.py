from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from streaming_models.data.corpus import SAMPLE_RATE_HZ
from streaming_models.data.movement import WalkResponses
from streaming_models.data.simulate import (
    PEAK,
    MeetingSpec,
    MicrophoneKind,
    PlannedTurn,
    Room,
    SimulatedMeeting,
    SimulationError,
    SpeechClip,
    TimedWord,
    draw_noise,
    headset_mix,
    hear,
    impulse_responses,
    mix,
    overlap_ratio,
    place_microphones,
    plan_turns,
    references_of,
    seat_talkers,
    set_levels,
    simulate_meeting,
    sounding_span,
    trimmed,
    without_edge_silence,
)
from tests.streaming_models.data.tiny_speech import clips, syllables

DRY_ROOM = Room((5.0, 4.0, 2.6), 0.2)
SHORT = MeetingSpec(room=DRY_ROOM, microphone_count=1, duration_s=12.0, overlap_ratio=0.2)
DURATIONS_S = [2.0, 0.6, 3.0, 1.5, 4.0, 0.5, 2.5, 1.0, 3.5, 2.0, 0.7, 3.0, 4.5, 2.2, 5.0, 3.1, 0.6, 2.8]


def _speech(talkers: int) -> dict[str, list[SpeechClip]]:
    return {f"talker-{index}": clips(f"talker-{index}", DURATIONS_S, 100 * index) for index in range(talkers)}


def _short_meeting(seed: int) -> SimulatedMeeting:
    return simulate_meeting(_speech(3), SHORT, seed)


def test_same_seed_gives_an_identical_meeting_and_another_seed_does_not() -> None:
    first, again, other = _short_meeting(5), _short_meeting(5), _short_meeting(6)
    assert np.array_equal(first.audio, again.audio)
    assert first.references == again.references
    assert first.microphones_m == again.microphones_m
    assert first.talkers_m != other.talkers_m


def test_references_lie_inside_the_audio_and_carry_normalised_words() -> None:
    meeting = _short_meeting(1)
    assert meeting.audio.dtype == np.float32
    assert meeting.audio.shape[0] == len(meeting.microphones_m) == 4
    assert 0 < np.max(np.abs(meeting.audio)) <= PEAK + 1e-6
    for reference in meeting.references:
        assert 0 <= reference.start_s < reference.end_s < meeting.duration_s <= SHORT.duration_s + 0.5
        assert reference.words.split()[0] == "word0"
    starts_s = [row["start_time"] for row in meeting.seglst("m")]
    assert starts_s == sorted(starts_s)


@pytest.mark.parametrize("talkers", [2, 3, 4])
@pytest.mark.parametrize("target", [0.0, 0.1, 0.25, 0.4])
def test_overlap_ratio_comes_close_to_its_target(talkers: int, target: float) -> None:
    for seed in range(3):
        turns = plan_turns(_speech(talkers), 60.0, target, np.random.default_rng(seed))
        found = overlap_ratio((turn.start_samples, turn.end_samples) for turn in turns)
        assert found == pytest.approx(target, abs=0.04)
        assert max(turn.end_samples for turn in turns) > 50 * SAMPLE_RATE_HZ


def test_nobody_overlaps_themselves_and_three_at_once_are_rare() -> None:
    three_samples = all_samples = 0
    for seed in range(6):
        turns = plan_turns(_speech(4), 60.0, 0.35, np.random.default_rng(seed))
        talking = np.zeros((4, 60 * SAMPLE_RATE_HZ), np.int8)
        for turn in turns:
            talking[int(turn.clip.speaker[-1]), turn.start_samples : turn.end_samples] += 1
        assert talking.max() == 1
        three_samples += int((talking.sum(0) >= 3).sum())
        all_samples += int((talking.sum(0) >= 1).sum())
    assert three_samples < 0.03 * all_samples


def test_overlaps_are_both_backchannels_within_a_turn_and_interruptions_of_its_end() -> None:
    inside = across = 0
    for seed in range(5):
        turns = plan_turns(_speech(3), 60.0, 0.25, np.random.default_rng(seed))
        for earlier, later in pairwise(turns):
            if later.start_samples < earlier.end_samples:
                inside += later.end_samples <= earlier.end_samples
                across += later.end_samples > earlier.end_samples
    assert inside > 5
    assert across > 5


def test_a_worn_microphone_hears_its_own_talker_best_and_the_others_faintly() -> None:
    rng = np.random.default_rng(0)
    talkers_m = seat_talkers(DRY_ROOM, ["a", "b", "c"], rng)
    microphones_m = place_microphones(SHORT, talkers_m, rng)
    for talker_m, microphone_m in zip(talkers_m.values(), microphones_m, strict=False):
        assert 0.15 <= np.linalg.norm(np.subtract(talker_m, microphone_m)) <= 0.40
    responses = impulse_responses(DRY_ROOM, talkers_m, microphones_m)
    heard_db = 10 * np.log10([np.sum(responses[name] ** 2, axis=1) for name in talkers_m])  # (K, C)
    for own in range(3):
        bleed_db = np.delete(heard_db[:, own], own) - heard_db[own, own]
        assert np.all((bleed_db > -40) & (bleed_db < -6))


def test_sound_arrives_after_its_way_through_the_air() -> None:
    talker_m, near_m, far_m = (1.0, 1.3, 1.2), (1.5, 1.3, 1.2), (3.0, 1.3, 1.2)
    response = impulse_responses(DRY_ROOM, {"a": talker_m}, [near_m, far_m])["a"]  # (C, L)
    direct = np.abs(response) > 0.5 * np.max(np.abs(response), axis=1, keepdims=True)
    arrival_samples = np.argmax(direct, axis=1)
    assert arrival_samples == pytest.approx([0.5 / 343 * 16_000, 2.0 / 343 * 16_000], abs=2)


@pytest.mark.parametrize(
    ("kind", "spacing_m"), [("linear", 0.05), ("circular", 0.1), ("planar", 0.04), ("ad_hoc", 0.05)]
)
def test_arrays_have_the_asked_number_of_microphones_inside_the_room(kind: MicrophoneKind, spacing_m: float) -> None:
    spec = replace(SHORT, microphones=kind, microphone_count=6, spacing_m=spacing_m)
    rng = np.random.default_rng(3)
    places_m = np.array(place_microphones(spec, seat_talkers(DRY_ROOM, ["a", "b"], rng), rng))
    assert places_m.shape == (6, 3)
    assert np.all((places_m > 0) & (places_m < DRY_ROOM.size_m))
    neighbours_m = np.linalg.norm(np.diff(places_m, axis=0), axis=1)
    if kind in ("linear", "circular"):  # six on a circle are one radius apart
        assert neighbours_m == pytest.approx([spacing_m] * 5)
    if kind == "planar":  # two rows of three
        assert neighbours_m == pytest.approx([spacing_m] * 2 + [spacing_m * 5**0.5] + [spacing_m] * 2)


def test_noise_has_the_asked_level_at_the_microphone_that_hears_least() -> None:
    turns = [PlannedTurn(clips("a", [2.0])[0], 0)]
    response = np.zeros((2, 1), np.float32)
    response[:, 0] = [1.0, 0.1]
    quiet = mix(turns, {"a": response}, length_samples=64_000, snr_db=np.inf, rng=np.random.default_rng(0))
    noisy = mix(turns, {"a": response}, length_samples=64_000, snr_db=10, rng=np.random.default_rng(0))
    noise_power = np.mean((noisy - quiet) ** 2, axis=1)
    speech_power = np.mean(quiet[:, :32_000] ** 2, axis=1)
    assert 10 * np.log10(speech_power[1] / noise_power[1]) == pytest.approx(10, abs=0.1)
    assert noise_power[0] == pytest.approx(noise_power[1], rel=0.01)


def test_levels_are_set_for_all_channels_together_or_for_each() -> None:
    audio = np.stack([syllables(0.5, 0), 0.01 * syllables(0.5, 1)])
    together, apart = set_levels(audio, separately=False), set_levels(audio, separately=True)
    assert np.max(np.abs(together)) == pytest.approx(PEAK)
    assert together[1] / together[0, 0] == pytest.approx(audio[1] / audio[0, 0], rel=1e-4)
    assert np.max(np.abs(apart), axis=1) == pytest.approx([PEAK, PEAK])
    assert not set_levels(np.zeros((2, 100), np.float32), separately=True).any()


def test_silence_at_the_edges_is_cut_and_speech_is_kept() -> None:
    speech = syllables(1.0, 0)
    padded = np.concatenate([np.zeros(8_000, np.float32), speech, np.zeros(4_000, np.float32)])
    kept = without_edge_silence(padded)
    assert len(speech) <= len(kept) <= len(speech) + 2 * 800 + 320
    assert not without_edge_silence(np.zeros(4_000, np.float32)).any()


def test_a_reference_says_what_its_clip_says() -> None:
    clip = SpeechClip("x", "a", "Yeah, we've\u2014done it.", syllables(1.0, 0))
    (reference,) = references_of([PlannedTurn(clip, 8_000)])
    assert (reference.start_s, reference.end_s) == (0.5, 1.5)
    assert (reference.words, reference.text) == ("yeah we've done it", clip.text)


def test_word_times_move_with_the_clip_into_the_reference() -> None:
    words = (TimedWord("Well,", 0.1, 0.4), TimedWord("yes.", 0.5, 1.0))
    clip = SpeechClip("x", "a", "Well, yes.", syllables(1.0, 0), words)
    (reference,) = references_of([PlannedTurn(clip, 32_000)])
    assert reference.timed_words == (("Well,", 2.1, 2.4), ("yes.", 2.5, 3.0))
    (without,) = references_of([PlannedTurn(clips("a", [1.0])[0], 32_000)])
    assert without.timed_words == ()


def test_cutting_silence_off_a_clip_keeps_its_words_on_their_sounds() -> None:
    silence = np.zeros(SAMPLE_RATE_HZ, np.float32)
    words = (TimedWord("Well,", 0.5, 1.4), TimedWord("yes.", 1.5, 2.8))  # times that reach into the silence
    clip = SpeechClip("x", "a", "Well, yes.", np.concatenate([silence, syllables(1.0, 0), silence]), words)
    cut = trimmed(clip)
    assert len(cut.audio) == pytest.approx(1.1 * SAMPLE_RATE_HZ, abs=320)
    begins_s = sounding_span(clip.audio).start / SAMPLE_RATE_HZ
    assert cut.timed_words[0].text == "Well,"
    assert cut.timed_words[0].start_s == 0.0
    assert cut.timed_words[0].end_s == pytest.approx(1.4 - begins_s)
    assert cut.timed_words[1].start_s == pytest.approx(1.5 - begins_s)
    assert cut.timed_words[1].end_s == pytest.approx(len(cut.audio) / SAMPLE_RATE_HZ)


def test_a_headset_mix_is_one_channel_of_all_worn_microphones() -> None:
    meeting = simulate_meeting(_speech(3), replace(SHORT, microphones="headset_mix", microphone_count=0), 2)
    assert meeting.audio.shape[0] == 1
    assert np.max(np.abs(meeting.audio)) == pytest.approx(PEAK)
    assert len(meeting.microphones_m) == 3
    audio = np.stack([syllables(0.1, 0), syllables(0.1, 1)])
    louder = headset_mix(audio, np.array([0.0, 20.0]))
    expected = (audio[0] + 10 * audio[1])[None]
    assert np.allclose(louder / np.std(louder), expected / np.std(expected), atol=1e-5)


def test_who_walks_is_heard_from_the_seat_first_and_from_the_goal_in_the_end() -> None:
    near, far = np.zeros((2, 30), np.float32), np.zeros((2, 30), np.float32)
    near[0, 0], far[1, 20] = 1.0, 0.5
    turns = [PlannedTurn(clips("a", [1.0])[0], 0)]
    walked = WalkResponses(np.stack([near, far]), (0.0, 0.5))
    heard = hear(turns, {"a": walked}, 16_400)
    before, after = slice(0, 8_000), slice(9_000, 16_000)
    seated = hear(turns, {"a": near}, 16_400)
    assert np.allclose(heard[0, before], seated[0, before])
    assert np.allclose(heard[1, before], 0.0)
    assert np.allclose(heard[0, after], 0.0)
    assert np.allclose(heard[1, after], 0.5 * np.roll(seated[0], 20)[after])


def test_a_meeting_with_walkers_says_who_walked_where() -> None:
    spec = replace(SHORT, microphones="linear", microphone_count=2, walkers=1)
    meeting, again = simulate_meeting(_speech(2), spec, 4), simulate_meeting(_speech(2), spec, 4)
    ((walker, walk),) = meeting.walks.items()
    assert walk.positions_m[0] == meeting.talkers_m[walker]
    assert len(walk.positions_m) > 1
    assert np.array_equal(meeting.audio, again.audio)
    seated = simulate_meeting(_speech(2), replace(spec, walkers=0), 4)
    first_step = int(walk.starts_s[1] * SAMPLE_RATE_HZ)
    assert seated.references == meeting.references
    assert not np.array_equal(seated.audio[:, first_step:], meeting.audio[:, first_step:])


def test_a_room_noise_is_alike_at_neighbouring_microphones_and_hum_at_all() -> None:
    places_m = [(2.0, 2.0, 0.75), (2.02, 2.0, 0.75)]
    spec = replace(SHORT, microphones="linear", microphone_count=2, noise_slope=1.5)
    alike = {
        name: float(np.mean(np.prod(draw_noise(each, places_m, 64_000, np.random.default_rng(0)), axis=0)))
        for name, each in {
            "independent": spec,
            "diffuse": replace(spec, noise="diffuse"),
            "hum": replace(spec, hum_db=20.0),
        }.items()
    }
    assert abs(alike["independent"]) < 0.2
    assert alike["diffuse"] > 0.8
    assert alike["hum"] > 0.95


def test_impossible_meetings_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(SimulationError, match="two talkers"):
        plan_turns(_speech(1), 60.0, 0.2, rng)
    with pytest.raises(SimulationError, match="overlap_ratio"):
        plan_turns(_speech(2), 60.0, 0.7, rng)
    with pytest.raises(SimulationError, match="no clip fits"):
        plan_turns(_speech(2), 0.1, 0.2, rng)
    with pytest.raises(SimulationError, match="too small"):
        seat_talkers(Room((1.0, 4.0, 2.6), 0.2), ["a", "b"], rng)
    with pytest.raises(SimulationError, match="outside"):
        impulse_responses(DRY_ROOM, {"a": (9.0, 1.0, 1.0)}, [(1.0, 1.0, 1.0)])
    with pytest.raises(SimulationError, match="T60"):
        impulse_responses(Room((30.0, 30.0, 10.0), 0.1), {"a": (9.0, 1.0, 1.0)}, [(1.0, 1.0, 1.0)])
    with pytest.raises(SimulationError, match="needs microphones"):
        place_microphones(replace(SHORT, microphones="linear", microphone_count=0), {}, rng)
    with pytest.raises(SimulationError, match="no microphones on the table"):
        place_microphones(replace(SHORT, microphones="headset_mix", microphone_count=2), {}, rng)
    with pytest.raises(SimulationError, match="walkers among 3"):
        simulate_meeting(_speech(3), replace(SHORT, walkers=4), 0)
