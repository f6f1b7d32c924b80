"""Training windows: same seed, same window; what is said in them is what is heard in them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from streaming_models.data.speech_bank import BankUtterance, BankWord, SpeechBank
from streaming_models.data.windows import ROOM_MICROPHONES, RoomBank, Window, WindowSampler, build_rooms

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


def draw(seed: int, single_share: float = 0.5) -> Window:
    return WindowSampler(bank(), rooms(), single_share).draw(seed, LENGTH)


def test_a_seed_gives_the_same_window_whatever_was_drawn_before() -> None:
    sampler = WindowSampler(bank(), rooms())
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
