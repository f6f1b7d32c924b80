"""Which stretches of an array's talkers are to be read a second time, once more is known of where they sit.

The live lines of the seats know a talker's place only after a while, and nothing of who comes later. Looking back
(`separation.Hindsight`), everything that was said on a seat is heard again as soon as it is over: also what was said
before the seat was known, and what was garbled by somebody whose seat was found later. It refuses to read and to
caption: it says which passage of which seat sounds how, and which words of others it explains.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from streaming_models.frame_runs import runs
from streaming_models.separation import Hindsight
from streaming_models.short_time import HOP_SAMPLES, frames_in

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]


SETTLED_HOPS = frames_in(1.0)
"""A passage is over so long after its end: by then the live line has ended its utterance too."""
PAUSE_HOPS = frames_in(0.5)
"""A shorter pause is inside a passage."""
SHORTEST_HOPS = frames_in(0.3)
LONGEST_HOPS = frames_in(12.0)
"""A longer passage is cut where its talker is least heard."""
MARGIN_HOPS = 6
"""Heard before and after a passage: soft beginnings and ends."""
EDGE_HOPS = 10
"""A passage that begins so close to where hindsight does may have begun before."""
EXPLAINED_SHARE = 0.5
"""A word of the mix goes if the seats have this share of its time."""
OWN_SHARE = 0.2
"""A word of a seat goes if its own seat has less than this, while another seat's passage is heard again."""


@dataclass(frozen=True, eq=False)
class Passage:
    """What one seat said between two pauses, samples on the separator's clock; `pcm` begins with the first of them."""

    seat: int
    start_sample: int
    end_sample: int
    pcm: FloatArray = field(repr=False)

    @property
    def speech(self) -> FloatArray:
        """What is heard in it, without the pauses."""
        hops = self.pcm.reshape(-1, HOP_SAMPLES)
        return hops[hops.any(axis=1)].ravel()


class SecondHearing:
    """One separator's passages, each once; once more if a seat is found whose talker spoke meanwhile.

    It remembers one number a seat.
    """

    def __init__(self) -> None:
        self._heard_until: dict[int, int] = {}

    def review(self, hindsight: Hindsight, *, last: bool = False) -> list[Passage]:
        """The passages that are over and were not heard like this before, in order of time.

        Args:
            hindsight: of now.
            last: nothing follows, so what is not over is.
        """
        known = set(self._heard_until)
        self._heard_until = {seat: self._heard_until.get(seat, 0) for seat in hindsight.shares}
        new = [hindsight.open[seat] for seat in hindsight.shares if seat not in known]
        somebody_new = np.any(new, axis=0) if new else np.zeros(hindsight.hops, np.bool_)
        found: list[Passage] = []
        for seat, share in hindsight.shares.items():
            done = self._heard_until[seat]
            for first, after in passages(hindsight.open[seat], share):
                if not last and after > hindsight.hops - SETTLED_HOPS:
                    break
                first, after = max(0, first - MARGIN_HOPS), min(hindsight.hops, after + MARGIN_HOPS)
                start, end = (hindsight.start_sample + hop * HOP_SAMPLES for hop in (first, after))
                cut = seat in known and first < EDGE_HOPS and hindsight.start_sample > 0
                if end <= done + SHORTEST_HOPS * HOP_SAMPLES:  # heard already
                    if cut or seat not in known or not somebody_new[first:after].any():
                        continue
                elif cut or start < done - 2 * MARGIN_HOPS * HOP_SAMPLES:
                    first = max(first, (done - hindsight.start_sample) // HOP_SAMPLES)
                    start = hindsight.start_sample + first * HOP_SAMPLES
                self._heard_until[seat] = max(self._heard_until[seat], end)
                found.append(Passage(seat, start, end, hindsight.audio(seat, first, after)))
        return sorted(found, key=lambda passage: (passage.start_sample, passage.seat))


def explains(hindsight: Hindsight, seat: int | None, start_sample: int, end_sample: int) -> bool:
    """Whether a word is somebody else's, by what is known now.

    Args:
        hindsight: of now.
        seat: on whose line the word was read; None: on that of what no seat explained.
        start_sample, end_sample: of the word, on the separator's clock.
    """
    first = max(0, (start_sample - hindsight.start_sample) // HOP_SAMPLES)
    last = min(hindsight.hops, -(-(end_sample - hindsight.start_sample) // HOP_SAMPLES))
    if first >= last:
        return False
    if seat is None:
        return hindsight.unexplained(first, last) < 1 - EXPLAINED_SHARE
    return seat in hindsight.shares and float(hindsight.shares[seat][first:last].mean()) < OWN_SHARE


def passages(speaks: BoolArray, share: FloatArray) -> list[tuple[int, int]]:
    """What is said between pauses: (first hop, hop after the last).

    Args:
        speaks: (T,) whether the talker is heard.
        share: (T,) how much: where to cut what is too long.
    """
    joined: list[tuple[int, int]] = []
    for first, after in runs(speaks):
        if joined and first - joined[-1][1] < PAUSE_HOPS:
            joined[-1] = (joined[-1][0], after)
        else:
            joined.append((first, after))
    found: list[tuple[int, int]] = []
    for first, after in joined:
        while after - first > LONGEST_HOPS:
            middle = first + LONGEST_HOPS // 2
            cut = middle + int(np.argmin(share[middle : first + LONGEST_HOPS]))
            found.append((first, cut))
            first = cut
        found.append((first, after))
    return [(first, after) for first, after in found if after - first >= SHORTEST_HOPS]
