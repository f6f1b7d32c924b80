"""Overlapping speech as one row of words: virtual channels, and the changes between them.

Two virtual channels hold what was said (HEAT, arXiv 2011.13148: utterances in order of their start take the first free
one), so a channel never holds two voices at once. A row of both channels' words in the order in which the words end,
with a change wherever the next word is on the other channel (t-SOT, arXiv 2202.00842), is what a transducer learns to
write; and it goes back to the two channels.

Words are of any type that has times. All times are integer samples; an end is the sample after the last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import accumulate
from typing import Generic, Protocol, TypeAlias, TypeVar

VIRTUAL_CHANNELS = 2
TOLERANCE_SAMPLES = 1_600
"""100 ms at 16 kHz: annotated ends and starts are no more exact than that, and such an overlap holds no word."""


class Timed(Protocol):
    """Anything with a place in time."""

    @property
    def start_sample(self) -> int: ...

    @property
    def end_sample(self) -> int: ...


WordT = TypeVar("WordT", bound=Timed)
ItemT = TypeVar("ItemT")


@dataclass(frozen=True)
class TimedWord:
    """A word as written, and its samples."""

    text: str
    start_sample: int
    end_sample: int


@dataclass(frozen=True)
class TimedUtterance(Generic[WordT]):
    """What one person says in one go; `words` in the order spoken."""

    speaker: str
    start_sample: int
    end_sample: int
    words: tuple[WordT, ...]


class Change(Enum):
    """The mark between words of different virtual channels."""

    CC = "<cc>"


Row: TypeAlias = "list[WordT | Change]"


@dataclass(frozen=True)
class Assignment(Generic[WordT]):
    """Utterances by virtual channel, in order of start; `left_out` found no free channel (a third voice)."""

    channels: tuple[tuple[TimedUtterance[WordT], ...], tuple[TimedUtterance[WordT], ...]]
    left_out: tuple[TimedUtterance[WordT], ...]

    @property
    def words(self) -> tuple[tuple[WordT, ...], tuple[WordT, ...]]:
        """Every channel's words, utterance after utterance."""
        first, second = (tuple(w for u in channel for w in u.words) for channel in self.channels)
        return first, second


def assign(
    utterances: Iterable[TimedUtterance[WordT]], tolerance_samples: int = TOLERANCE_SAMPLES
) -> Assignment[WordT]:
    """Give every utterance a virtual channel.

    Args:
        utterances: in any order; equal starts keep the order given.
        tolerance_samples: overlaps up to this do not count.

    Raises:
        ValueError: a negative tolerance, or an utterance that ends before it starts.
    """
    if tolerance_samples < 0:
        raise ValueError(f"expected a tolerance of 0 samples or more, got {tolerance_samples}")
    channels: tuple[list[TimedUtterance[WordT]], ...] = tuple([] for _ in range(VIRTUAL_CHANNELS))
    left_out: list[TimedUtterance[WordT]] = []
    for utterance in sorted(utterances, key=lambda u: u.start_sample):
        if utterance.end_sample < utterance.start_sample:
            raise ValueError(f"utterance of {utterance.speaker} ends before it starts: {utterance}")
        free_before = utterance.start_sample + tolerance_samples
        # All of a channel counts, not its last utterance: within the tolerance an earlier one may end later.
        chosen = next((c for c in channels if all(u.end_sample <= free_before for u in c)), left_out)
        chosen.append(utterance)
    return Assignment((tuple(channels[0]), tuple(channels[1])), tuple(left_out))


def clip_to_window(
    utterances: Iterable[TimedUtterance[WordT]],
    start_sample: int,
    end_sample: int,
    tolerance_samples: int = TOLERANCE_SAMPLES,
) -> Assignment[WordT]:
    """The assignment that somebody makes who hears only this window, with the words that lie wholly inside.

    Utterances keep their own start and end, so one that was running before the window takes its channel first, and
    those whose words all begin before the window take none. A later `end_sample` adds words and moves none to
    another channel, so text that was committed from a growing window stays right.

    Returns:
        Utterances that have a word inside; times are not shifted.

    Raises:
        ValueError: as `assign`, or the window ends before it starts.
    """
    if end_sample < start_sample:
        raise ValueError(f"expected a window, got samples {start_sample} to {end_sample}")
    heard = [
        u for u in utterances if u.start_sample < end_sample and any(w.start_sample >= start_sample for w in u.words)
    ]
    whole = assign(heard, tolerance_samples)

    def clipped(row: tuple[TimedUtterance[WordT], ...]) -> tuple[TimedUtterance[WordT], ...]:
        inside = (
            replace(u, words=tuple(w for w in u.words if w.start_sample >= start_sample and w.end_sample <= end_sample))
            for u in row
        )
        return tuple(u for u in inside if u.words)

    return Assignment((clipped(whole.channels[0]), clipped(whole.channels[1])), clipped(whole.left_out))


def serialise(channels: Sequence[Sequence[WordT]]) -> Row[WordT]:
    """Both channels' words in the order in which they end, with changes; the row begins on channel 0.

    A channel's own order is kept even where its times disagree. Words that end together come in order of channel.

    Raises:
        ValueError: not two channels.
    """
    if len(channels) != VIRTUAL_CHANNELS:
        raise ValueError(f"expected {VIRTUAL_CHANNELS} virtual channels, got {len(channels)}")
    placed = [
        (end, channel, place)
        for channel, words in enumerate(channels)
        for place, end in enumerate(accumulate((w.end_sample for w in words), max))
    ]
    row: Row[WordT] = []
    current = 0
    for _, channel, place in sorted(placed):
        if channel != current:
            row.append(Change.CC)
            current = channel
        row.append(channels[channel][place])
    return row


def deserialise(row: Iterable[ItemT | Change]) -> tuple[list[ItemT], list[ItemT]]:
    """The two channels of a row. Needless changes (two in a row, at the end) do no harm."""
    first: list[ItemT] = []
    second: list[ItemT] = []
    current, other = first, second
    for item in row:
        if isinstance(item, Change):
            current, other = other, current
        else:
            current.append(item)
    return first, second


@dataclass(frozen=True)
class Labels:
    """What a transducer learns to write, token by token.

    channels: the virtual channel of each token; of a change, the one that it leads to.
    end_samples: when the token's word ends; of a change, when the next word does.
    """

    tokens: tuple[int, ...]
    channels: tuple[int, ...]
    end_samples: tuple[int, ...]


def labels(row: Row[WordT], encode: Callable[[WordT], Sequence[int]], change_id: int) -> Labels:
    """Tokens of a row made by `serialise`."""
    tokens: list[int] = []
    channels: list[int] = []
    ends: list[int] = []
    channel = 0
    for place, item in enumerate(row):
        if isinstance(item, Change):
            channel = 1 - channel
            spelt: Sequence[int] = (change_id,)
            following = row[place + 1]
            assert not isinstance(following, Change), f"two changes in a row at {place}"
            end = following.end_sample
        else:
            spelt, end = encode(item), item.end_sample
        tokens += spelt
        channels += [channel] * len(spelt)
        ends += [end] * len(spelt)
    return Labels(tuple(tokens), tuple(channels), tuple(ends))
