"""Which utterance lies in which slot after a cut, and that a running one keeps its voice."""

from __future__ import annotations

from streaming_models.recogniser import Recognition
from streaming_models.slots import Slot, Slots
from streaming_models.stable_prefix import ReadWord, Word

PAUSE, ONGOING = 4_800, 8_000


def said(names: str, start: int, each: int = 4_000) -> tuple[ReadWord, ...]:
    """A word a letter, one after the other."""
    spans = [(start + k * each, start + (k + 1) * each) for k in range(len(names))]
    return tuple(ReadWord((ord(c),), c, Word(c, a, b, 0.9)) for c, (a, b) in zip(names, spans, strict=True))


def put(slots: Slots, slot: Slot, words: tuple[ReadWord, ...], pending: int = 0) -> None:
    slot.row.pending = words
    slots.say(slot, slot.row.commit(len(words) - pending))


def fresh() -> Slots:
    return Slots(0, PAUSE, 0.5)


def rows(slots: Slots) -> list[tuple[int, str, str]]:
    """(voice, committed, pending) of each slot."""
    return [(s.voice, "".join(w.key for w in s.row.words), "".join(w.key for w in s.row.pending)) for s in slots.all]


def told(recognitions: list[Recognition]) -> list[tuple[int, str, str, bool]]:
    return [
        (r.voice, "".join(w.text for w in r.committed), "".join(w.text for w in r.tail), r.ended) for r in recognitions
    ]


def test_who_is_left_alone_takes_the_first_slot_and_keeps_the_voice() -> None:
    slots = fresh()
    first, second = slots.all
    put(slots, first, said("abc", 0))
    put(slots, second, said("uvwxyz", 8_000), pending=1)
    slots.cut(14_000, 32_000, ONGOING)
    assert rows(slots) == [(1, "wxy", "z"), (0, "", "")]


def test_utterance_that_began_before_the_window_comes_first() -> None:
    slots = fresh()
    first, second = slots.all
    put(slots, first, said("abcdefgh", 0))
    put(slots, second, said("xyz", 14_000))
    slots.cut(12_000, 34_000, ONGOING)
    assert rows(slots) == [(0, "defgh", ""), (1, "xyz", "")]
    # Its voice now goes on after a pause: another utterance, which began after the second voice's.
    slots = fresh()
    first, second = slots.all
    put(slots, first, (*said("ab", 0), *said("cd", 20_000)))
    put(slots, second, said("uvwxyz", 6_000))
    slots.cut(9_000, 31_000, ONGOING)
    assert rows(slots) == [(1, "vwxyz", ""), (0, "cd", "")]


def test_start_before_the_window_is_remembered_over_several_cuts() -> None:
    slots = fresh()
    first, second = slots.all
    put(slots, first, said("abcdefghij", 0))
    put(slots, second, said("xyz", 22_000))
    slots.cut(12_000, 42_000, ONGOING)
    slots.cut(24_000, 42_000, ONGOING)
    assert rows(slots) == [(0, "ghij", ""), (1, "yz", "")]


def test_utterances_one_after_the_other_share_a_slot() -> None:
    slots = fresh()
    first, second = slots.all
    put(slots, first, (*said("abcd", 0), *said("klmn", 26_000)), pending=1)
    put(slots, second, said("wxyz", 9_000))
    slots.news(0)
    slots.cut(16_500, 43_000, ONGOING)
    assert rows(slots) == [(0, "yzklm", "n"), (1, "", "")]
    # New words of the slot are those of the voice that spoke last.
    assert told(slots.news(1)) == [(1, "", "", True)]


def test_utterance_that_may_go_on_does_not_give_its_slot_away() -> None:
    slots = fresh()
    first, second = slots.all
    put(slots, first, said("abcdefg", 0))
    put(slots, second, (*said("tu", 2_000), *said("z", 28_500)), pending=1)
    slots.cut(5_000, 33_000, ONGOING)
    assert rows(slots) == [(0, "bcdefg", ""), (1, "u", "z")]


def test_pending_word_of_an_utterance_that_is_over_is_committed() -> None:
    slots = fresh()
    first, second = slots.all
    put(slots, first, (*said("ab", 0), *said("k", 40_000)), pending=1)
    put(slots, second, said("xyz", 4_000), pending=1)
    assert told(slots.news(7)) == [(0, "ab", "k", False), (1, "xy", "z", False)]
    slots.cut(9_000, 50_000, ONGOING)
    assert rows(slots) == [(0, "yz", "k"), (1, "", "")]
    assert told(slots.news(8)) == [(1, "z", "", True)]


def test_empty_window_leaves_the_first_slot_to_the_running_utterance() -> None:
    slots = fresh()
    first, second = slots.all
    put(slots, first, said("ab", 0))
    put(slots, second, said("xyz", 4_000))
    slots.news(0)
    slots.finish(first)
    slots.news(0)
    slots.cut(30_000, 40_000, ONGOING)
    assert rows(slots) == [(1, "", ""), (0, "", "")]


def test_only_what_is_new_is_told_and_an_end_only_of_what_was_shown() -> None:
    slots = fresh()
    first, second = slots.all
    put(slots, first, said("ab", 0), pending=1)
    assert told(slots.news(1)) == [(0, "a", "b", False)]
    assert slots.news(2) == []
    assert slots.is_open(first)
    assert not slots.is_open(second)
    slots.finish(first)
    slots.finish(second)
    assert told(slots.news(3)) == [(0, "b", "", True)]
    slots.finish(first)
    assert slots.news(4) == []


def test_words_known_by_sound_alone_keep_their_order_and_none_is_lost() -> None:
    slots = fresh()
    first, second = slots.all
    put(slots, first, (*said("abc", 0), *said("ghi", 40_000)), pending=1)
    put(slots, second, (*said("uvw", 7_000), *said("xyz", 44_000)), pending=1)
    slots.cut(9_500, 64_000, ONGOING)
    assert rows(slots) == [(0, "cgh", "i"), (1, "vwxy", "z")]
