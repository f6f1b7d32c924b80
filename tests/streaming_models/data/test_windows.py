"""Training windows: same seed, same window; what is said in them is what is heard in them."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from streaming_models.data import windows
from streaming_models.data.degrade import lose_channel
from streaming_models.data.simulate import TimedWord
from streaming_models.data.speech_bank import BankUtterance, BankWord, SpeechBank
from streaming_models.data.turn_taking import RealTurn
from streaming_models.data.windows import ROOM_MICROPHONES, RoomBank, Window, WindowSampler, build_rooms
from streaming_models.sot import assign

RATE_HZ = 16_000
LENGTH = 6 * RATE_HZ
FRAME = 384


@cache
def rooms() -> RoomBank:
    return build_rooms(2, seed=5)


@cache
def bank() -> SpeechBank:
    """Four talkers, each a tone of their own in bursts of 0.3 s: every burst is a word."""
    pieces, utterances, at = [], [], 0
    for talker in range(4):
        for number in range(5):
            count = 2 + 2 * number
            time = np.arange(count * 6_400) / RATE_HZ
            gate = (np.arange(len(time)) % 6_400) < 4_800
            tone = 0.3 * np.sin(2 * np.pi * (300 + 170 * talker) * time) * gate
            words = tuple(BankWord((400 + k,), k * 6_400, k * 6_400 + 4_800) for k in range(count))
            utterances.append(BankUtterance(f"{talker}-{number}", f"talker {talker}", at, len(tone), words))
            pieces.append((tone * 32767).astype(np.int16))
            at += len(tone)
    return SpeechBank(np.concatenate(pieces), tuple(utterances))


def draw(seed: int, single_share: float = 0.5, degraded: float = 0.0) -> Window:
    return WindowSampler(bank(), rooms(), single_share, degraded=degraded).draw(seed, LENGTH)


def real_turn(speaker: str, start_s: float, end_s: float) -> RealTurn:
    count = max(1, round((end_s - start_s) / 0.4))
    edges = np.linspace(start_s, end_s, count + 1)
    return RealTurn(speaker, start_s, end_s, tuple(TimedWord("w", float(a), float(b)) for a, b in pairwise(edges)))


@cache
def meeting() -> dict[str, tuple[RealTurn, ...]]:
    """Two minutes in which A talks in turns of 4 s and B says something short into each of them."""
    turns = [real_turn("A", at, at + 4.0) for at in np.arange(0.0, 120.0, 5.0)]
    turns += [real_turn("B", at + 2.0, at + 2.8) for at in np.arange(0.0, 120.0, 5.0)]
    return {"meeting": tuple(sorted(turns, key=lambda turn: turn.start_s))}


def drawn_as_real(seed: int) -> Window:
    return WindowSampler(bank(), rooms(), degraded=0.0, turns=meeting(), real_share=1.0).draw(seed, LENGTH)


def test_a_seed_gives_the_same_window_whatever_was_drawn_before() -> None:
    sampler = WindowSampler(bank(), rooms(), degraded=0.0)
    sampler.draw(1, LENGTH)
    again, fresh = sampler.draw(7, LENGTH), draw(7)
    assert np.array_equal(again.mix, fresh.mix)
    assert again.talks == fresh.talks
    assert not np.array_equal(fresh.mix, draw(8).mix)


def test_shapes_and_levels_are_those_of_a_signal() -> None:
    for seed in range(12):
        window = draw(seed)
        assert window.mix.shape == (LENGTH,)
        assert window.channels.shape == (ROOM_MICROPHONES, LENGTH)
        assert window.mix.dtype == window.channels.dtype == np.float32
        assert 0.02 < np.abs(window.channels).max() <= 0.91
        assert np.abs(window.mix).max() <= 0.91


def test_the_share_of_single_talker_windows_is_kept() -> None:
    def overlapped(window: Window) -> bool:
        return bool(window.activity(FRAME, LENGTH // FRAME)[:, 1].any())

    assert not any(overlapped(draw(seed, 1.0)) for seed in range(10))
    assert sum(overlapped(draw(seed, 0.0)) for seed in range(20)) > 12


def test_where_words_are_there_is_sound() -> None:
    loud, quiet = [], []
    for seed in range(10):
        window = draw(seed)
        activity = window.activity(FRAME, LENGTH // FRAME)[:, 0]
        power = np.square(window.mix[: len(activity) * FRAME]).reshape(-1, FRAME).mean(1)
        loud.append(power[activity > 0].mean())
        quiet += [float(power[activity == 0].mean())] if (activity == 0).sum() > 20 else []
    assert np.mean(loud) > 3 * np.mean(quiet)


def test_nobody_says_the_same_twice_in_one_talkers_line() -> None:
    for seed in range(20):
        talks = draw(seed, 1.0).talks
        assert len({(t.speaker, t.words[0].tokens, len(t.words)) for t in talks}) >= len(talks) - 1


def test_two_talkers_are_two_people() -> None:
    for seed in range(20):
        talks = draw(seed, 0.0).talks
        for a in talks:
            for b in talks:
                if a is not b and a.start_sample < b.end_sample and b.start_sample < a.end_sample:
                    assert a.speaker != b.speaker


def test_rooms_are_made_by_seed_and_kept_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "rooms.npz"
    rooms().save(path)
    assert np.array_equal(RoomBank.load(path).far, build_rooms(2, seed=5).far)
    with pytest.raises(ValueError, match="one room or more"):
        build_rooms(0, seed=1)


def test_a_bank_of_one_talker_is_refused() -> None:
    alone = SpeechBank(bank().audio, bank().utterances[:5])
    with pytest.raises(ValueError, match="two speakers or more"):
        WindowSampler(alone, rooms())


def test_nothing_happens_on_the_way_at_strength_zero_and_what_does_moves_no_word() -> None:
    changed = 0
    for seed in range(20):
        clean, worn = draw(seed), draw(seed, degraded=1.0)
        assert worn.talks == clean.talks
        assert worn.channels.shape == clean.channels.shape
        assert np.isfinite(worn.channels).all()
        assert np.abs(worn.channels).max() <= 0.91
        # A microphone that is not there stays away.
        assert not worn.channels[~clean.channels.any(axis=1)].any()
        changed += not np.array_equal(worn.mix, clean.mix)
    assert changed >= 10


def test_degraded_windows_depend_on_the_seed_alone() -> None:
    sampler = WindowSampler(bank(), rooms(), degraded=1.0)
    sampler.draw(3, LENGTH)
    for seed in (4, 11):
        assert np.array_equal(sampler.draw(seed, LENGTH).mix, draw(seed, degraded=1.0).mix)


def test_a_microphone_that_dies_is_never_the_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "degrade", lambda audio, rng, _strength: lose_channel(audio, rng))
    died = 0
    for seed in range(30):
        window = draw(seed, degraded=1.0)
        live = window.channels[window.channels.any(axis=1)]
        dead = ~live[:, -4_000:].any(axis=1)
        died += bool(dead.any())
        assert not any(np.abs(window.mix - one).max() < 1e-5 for one in live[dead])
    assert died > 5


def test_what_the_mix_is_made_of_is_what_the_microphones_sent() -> None:
    for seed in range(12):
        window = draw(seed, degraded=1.0)
        live = window.channels[window.channels.any(axis=1)]
        alike = [np.abs(window.mix - one).max() for one in (live.mean(axis=0), *live)]
        assert min(alike) < 1e-5


def test_windows_laid_out_as_a_meeting_overlap_as_it_does() -> None:
    both, any_of_them = 0.0, 0.0
    for seed in range(30):
        activity = drawn_as_real(seed).activity(FRAME, LENGTH // FRAME)
        both, any_of_them = both + activity[:, 1].sum(), any_of_them + activity[:, 0].sum()
    # B talks 0.8 s of every 4; the shortest utterances of the bank last 0.7 s, and some of A's turns are left unfilled.
    assert 0.08 < both / any_of_them < 0.35


def test_nobody_is_heard_without_a_virtual_channel_in_windows_laid_out_as_a_meeting() -> None:
    three = [real_turn(name, at, at + 3.0) for name in "ABC" for at in np.arange(0.0, 120.0, 3.5)]
    meetings = {"meeting": tuple(sorted(three, key=lambda turn: turn.start_s))}
    sampler = WindowSampler(bank(), rooms(), degraded=0.0, turns=meetings, real_share=1.0)
    drawn = [sampler.draw(seed, LENGTH) for seed in range(12)]
    assert not any(assign(window.talks).left_out for window in drawn)
    assert any(len({talk.speaker for talk in window.talks}) > 1 for window in drawn)


def test_windows_laid_out_as_a_meeting_depend_on_the_seed_alone() -> None:
    assert np.array_equal(drawn_as_real(5).mix, drawn_as_real(5).mix)
    assert drawn_as_real(5).talks != drawn_as_real(6).talks


def test_nobody_overlaps_or_repeats_themselves_in_a_window_laid_out_as_a_meeting() -> None:
    for seed in range(20):
        talks = drawn_as_real(seed).talks
        for speaker in {talk.speaker for talk in talks}:
            own = [talk for talk in talks if talk.speaker == speaker]
            assert all(one.end_sample <= two.start_sample for one, two in pairwise(own))
            assert len({len(talk.words) for talk in own}) == len(own)  # each length is one utterance of the bank


def test_without_turns_no_window_is_laid_out_as_a_meeting() -> None:
    given = WindowSampler(bank(), rooms(), degraded=0.0, real_share=1.0).draw(5, LENGTH)
    assert np.array_equal(given.mix, draw(5).mix)


@pytest.mark.parametrize("name", ["single_share", "degraded", "real_share"])
def test_a_share_out_of_range_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"expected {name} from 0 to 1, got 1.5"):
        WindowSampler(bank(), rooms(), **{name: 1.5})  # type: ignore[arg-type]
