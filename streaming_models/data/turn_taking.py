"""How people really take turns: stretches of real meetings, and speech laid out as they are.

Reads AMI's turns (JSON lines: meeting, speaker, start_s, end_s, text, word_starts_s; manual annotations 1.6.2, CC BY
4.0). Text and times only; whoever speaks the words, or others in their place, comes from elsewhere.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from streaming_models.data.corpus import SAMPLE_RATE_HZ, CorpusError
from streaming_models.data.simulate import PlannedTurn, SimulationError, SpeechClip, TimedWord, overlap_ratio

BREATH_SAMPLES = SAMPLE_RATE_HZ // 10
"""Between two clips of one talker."""
MOST_STRETCHED = 2.0
"""A clip may be so many times longer than the real turn, or what is left of it: backchannels need some clip."""


@dataclass(frozen=True)
class RealTurn:
    """One turn: times in seconds, words with their times (a word ends where the next begins)."""

    speaker: str
    start_s: float
    end_s: float
    words: tuple[TimedWord, ...]

    @property
    def text(self) -> str:
        """The words with case and punctuation."""
        return " ".join(word.text for word in self.words)


@dataclass(frozen=True)
class Stretch:
    """An excerpt of a meeting; times count from its beginning. start_s: where in the meeting it begins."""

    meeting: str
    start_s: float
    duration_s: float
    turns: tuple[RealTurn, ...]

    @property
    def speakers(self) -> tuple[str, ...]:
        """Who talks, the most talkative first."""
        talked_s: dict[str, float] = {}
        for turn in self.turns:
            talked_s[turn.speaker] = talked_s.get(turn.speaker, 0.0) + turn.end_s - turn.start_s
        return tuple(sorted(talked_s, key=lambda speaker: (-talked_s[speaker], speaker)))

    @property
    def overlap_ratio(self) -> float:
        """Time with two or more talking over time with anyone talking."""
        return overlap_ratio((turn.start_s, turn.end_s) for turn in self.turns)


def read_turns(path: Path) -> dict[str, tuple[RealTurn, ...]]:
    """All turns by meeting, in order of start.

    Args:
        path: JSON lines, plain or `.gz`.

    Raises:
        CorpusError: a line that is no turn; the message names file and line.
    """
    meetings: dict[str, list[RealTurn]] = {}
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                start_s, end_s = float(row["start_s"]), float(row["end_s"])
                words = _timed(row["text"].split(), [float(at_s) for at_s in row["word_starts_s"]], end_s)
                turn = RealTurn(str(row["speaker"]), start_s, end_s, words)
                meetings.setdefault(str(row["meeting"]), []).append(turn)
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise CorpusError(f"{path}, line {number}: not a turn: {error!r}") from error
    return {name: tuple(sorted(turns, key=lambda turn: turn.start_s)) for name, turns in sorted(meetings.items())}


def draw_stretch(
    meetings: Mapping[str, Sequence[RealTurn]], duration_s: float, rng: np.random.Generator, least_talkers: int = 1
) -> Stretch:
    """A random excerpt; every moment of every meeting is as likely to be in one.

    Turns that reach beyond the excerpt lose the words outside it.

    Raises:
        SimulationError: no excerpt with so many talkers was found.
    """
    names = list(meetings)
    ends_s = np.array([max((turn.end_s for turn in meetings[name]), default=0.0) for name in names])
    room_s = np.maximum(ends_s - duration_s, 0.0)
    if not room_s.any():
        raise SimulationError(f"no meeting is longer than {duration_s} s")
    for _ in range(200):
        name = names[int(rng.choice(len(names), p=room_s / room_s.sum()))]
        start_s = float(rng.uniform(0.0, room_s[names.index(name)]))
        stretch = cut_stretch(name, meetings[name], start_s, duration_s)
        if len(stretch.speakers) >= least_talkers:
            return stretch
    raise SimulationError(f"no {duration_s} s with {least_talkers} talkers in {len(names)} meetings")


def cut_stretch(meeting: str, turns: Sequence[RealTurn], start_s: float, duration_s: float) -> Stretch:
    """The excerpt from `start_s` on: words that lie in it whole, and the turns that they make."""
    kept = []
    for turn in turns:
        words = tuple(
            TimedWord(word.text, word.start_s - start_s, word.end_s - start_s)
            for word in turn.words
            if word.start_s >= start_s and word.end_s <= start_s + duration_s
        )
        if words:
            kept.append(RealTurn(turn.speaker, words[0].start_s, words[-1].end_s, words))
    return Stretch(meeting, start_s, duration_s, tuple(kept))


def plan_like(
    stretch: Stretch, speech: Mapping[str, Sequence[SpeechClip]], rng: np.random.Generator
) -> tuple[PlannedTurn, ...]:
    """Other people's clips at the times of a real stretch.

    Each real talker is played by one of `speech` (where there are fewer, those who say least stay silent). A turn is
    filled with the clips whose lengths suit it best, one after the other; clips are used once and never cut, so that
    ends differ from the real ones by some tenths of a second, and nobody overlaps themselves.

    Args:
        stretch: whose turns to take.
        speech: every talker's clips, in any order.
        rng: decides who plays whom.

    Returns:
        Turns in order of start, all within the stretch.
    """
    players = [sorted(speech)[at] for at in rng.permutation(len(speech))]
    turns: list[PlannedTurn] = []
    for real, player in zip(stretch.speakers, players, strict=False):
        own = [turn for turn in stretch.turns if turn.speaker == real]
        turns += _filled(own, list(speech[player]), round(stretch.duration_s * SAMPLE_RATE_HZ))
    return tuple(sorted(turns, key=lambda turn: turn.start_samples))


def _filled(real: Sequence[RealTurn], waiting: list[SpeechClip], limit_samples: int) -> list[PlannedTurn]:
    """One talker's clips at the times of one real talker's turns."""
    turns: list[PlannedTurn] = []
    free = 0
    for turn in real:
        at, end = max(round(turn.start_s * SAMPLE_RATE_HZ), free), round(turn.end_s * SAMPLE_RATE_HZ)
        while waiting and at < end:
            left = end - at
            clip = min(waiting, key=lambda each: abs(len(each.audio) - left))
            if len(clip.audio) > MOST_STRETCHED * left or at + len(clip.audio) > limit_samples:
                break
            waiting.remove(clip)
            turns.append(PlannedTurn(clip, at))
            at = free = at + len(clip.audio) + BREATH_SAMPLES
    return turns


def _timed(words: Sequence[str], starts_s: Sequence[float], end_s: float) -> tuple[TimedWord, ...]:
    """Each word until the next begins, the last until the turn ends."""
    if len(words) != len(starts_s):
        raise ValueError(f"{len(words)} words, {len(starts_s)} times")
    ends_s = chain(starts_s[1:], (end_s,))
    return tuple(map(TimedWord, words, starts_s, ends_s))
