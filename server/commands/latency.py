"""How long after a word was spoken it was shown: first seen, and final. Pure arithmetic on messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypedDict

import numpy as np

from server.protocol import AnyServerMessage, Final, Partial


class Percentiles(TypedDict):
    """Latencies in ms; None where nothing was measured."""

    p50: float | None
    p95: float | None
    p99: float | None


def percentiles(values_ms: Sequence[float]) -> Percentiles:
    """The three percentiles, linear between neighbours, in tenths of a ms."""
    if not values_ms:
        return Percentiles(p50=None, p95=None, p99=None)
    p50, p95, p99 = (round(float(v), 1) for v in np.percentile(np.asarray(values_ms, dtype=float), (50, 95, 99)))
    return Percentiles(p50=p50, p95=p95, p99=p99)


@dataclass
class LatencyMeter:
    """Latencies of one session's words, from every message and the moment that counts for it.

    A word's place is its order in its turn: what is final in the turn, then the tail. `first_ms` counts from the
    word's end to the first message that showed a word at that place. A partial may guess a word before it is over:
    that is latency 0. `server.commands.caption_trace` keeps more, for scores.
    """

    first_ms: list[float] = field(default_factory=list)
    final_ms: list[float] = field(default_factory=list)
    _final_words: dict[int, int] = field(default_factory=dict)  # by turn
    _shown: dict[int, dict[int, float]] = field(default_factory=dict)  # by turn, by place: since when

    def take(self, message: AnyServerMessage, now_ms: float) -> None:
        """Count one message. `now_ms`: on the session's clock, when it was decided or when it arrived."""
        if not isinstance(message, Partial | Final):
            return
        begin = self._final_words.get(message.turn, 0)
        shown = self._shown.setdefault(message.turn, {})
        for place, word in enumerate(message.words, start=begin):
            first = shown.setdefault(place, now_ms)
            if isinstance(message, Final):
                self.first_ms.append(max(0.0, first - word.end_ms))
                self.final_ms.append(max(0.0, now_ms - word.end_ms))
                del shown[place]
        if isinstance(message, Final):
            self._final_words[message.turn] = begin + len(message.words)
            if message.turn_ended:
                del self._shown[message.turn]
        else:
            # A place that the new tail no longer has is not shown any more.
            for place in [p for p in shown if p >= begin + len(message.words)]:
                del shown[place]
