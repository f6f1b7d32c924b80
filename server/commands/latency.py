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


def _bare(text: str) -> str:
    return "".join(c for c in text.casefold() if c.isalnum())


@dataclass
class _Position:
    """What a place in a turn showed: since when it showed anything, and since when its present text."""

    text: str
    first_ms: float
    text_ms: float


@dataclass
class LatencyMeter:
    """Latencies of one session's words, from every message and the moment that counts for it.

    A word's place is its order in its turn: what is final in the turn, then the tail. `first_ms` counts from the
    word's end to the first message that showed a word at that place. With `same_text` a word that was shown
    differently counts from when it read as it finally did, case and punctuation aside. A partial may guess a word
    before it is over: that is latency 0.
    """

    same_text: bool = False
    first_ms: list[float] = field(default_factory=list)
    final_ms: list[float] = field(default_factory=list)
    _final_words: dict[int, int] = field(default_factory=dict)  # by turn
    _shown: dict[int, dict[int, _Position]] = field(default_factory=dict)  # by turn, by place

    def take(self, message: AnyServerMessage, now_ms: float) -> None:
        """Count one message. `now_ms`: on the session's clock, when it was decided or when it arrived."""
        if not isinstance(message, Partial | Final):
            return
        begin = self._final_words.get(message.turn, 0)
        shown = self._shown.setdefault(message.turn, {})
        for place, word in enumerate(message.words, start=begin):
            text = _bare(word.text)
            position = shown.setdefault(place, _Position(text, now_ms, now_ms))
            if position.text != text:
                position.text, position.text_ms = text, now_ms
            if isinstance(message, Final):
                first = position.text_ms if self.same_text else position.first_ms
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
