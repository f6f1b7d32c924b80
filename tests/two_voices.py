"""The sample meeting's own words on two virtual channels, as a recogniser of two voices hears them, and a server of it.

The recogniser is a script because the tests that use it are about what the line makes of two voices, not about which
words a model hears. Front end, diarizer, captions, sockets and store are the real ones.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import uvicorn

import streaming_models
from server.app import create_app
from server.config import Settings
from server.inference import SYSTEMS
from server.pipeline import Models
from streaming_models.frontend import FrontEnd
from streaming_models.polish import FloatArray, Reader
from streaming_models.recogniser import Recognition, Word
from tests import real

RATE_HZ = 16_000
DECIDE_EVERY_SAMPLES = 10_368
HOLD_SAMPLES = 3_200
"""A word is final this long after its end."""
LENGTH_S = 31.0
SAMPLE = Path(streaming_models.__file__).parent / "data" / "sample" / "sample-meeting.seglst.json"


def meeting() -> FloatArray:
    """(4, S) the beginning of the sample meeting: three people, five times two of them at once."""
    return real.meeting(0, LENGTH_S)


@cache
def utterances() -> tuple[tuple[str, tuple[Word, ...]], ...]:
    """(speaker, words) in order of their starts. A word takes a share of its utterance by its length; texts are made
    different by a number, so that each can be found again."""
    rows = [row for row in json.loads(SAMPLE.read_text()) if row["end_time"] < LENGTH_S]
    said: list[tuple[str, tuple[Word, ...]]] = []
    for row in sorted(rows, key=lambda row: float(row["start_time"])):
        texts = str(row["words"]).split()
        shares = np.cumsum([0.0] + [len(text) + 2.0 for text in texts])
        begin, length = float(row["start_time"]), float(row["end_time"]) - float(row["start_time"])
        edges = ((begin + length * shares / shares[-1]) * RATE_HZ).astype(int).tolist()
        number = len(said)
        words = tuple(
            Word(f"{text}{number}.{k}", start, end - 320, 0.9)
            for k, (text, start, end) in enumerate(zip(texts, edges, edges[1:], strict=False))
        )
        said.append((str(row["speaker"]), words))
    return tuple(said)


@cache
def voices() -> tuple[tuple[tuple[Word, ...], ...], ...]:
    """The utterances by virtual channel: whoever begins takes the first channel that is free."""
    rows: tuple[list[tuple[Word, ...]], ...] = ([], [])
    for _, words in utterances():
        row = next(row for row in rows if not row or row[-1][-1].end_sample <= words[0].start_sample)
        row.append(words)
    return tuple(tuple(row) for row in rows)


@cache
def overlaps() -> tuple[tuple[str, str], ...]:
    """Texts of every two words, of the first and the second voice, that are said at the same time."""
    first, second = (tuple(word for words in row for word in words) for row in voices())
    return tuple(
        (one.text, other.text)
        for one in first
        for other in second
        if other.end_sample > one.start_sample and one.end_sample > other.start_sample
    )


def overlapped() -> set[str]:
    """Texts of the words that another voice overlaps."""
    return {text for pair in overlaps() for text in pair}


class Scripted:
    """A `Recogniser` that hears given utterances on given voices, at fixed points of the audio clock."""

    def __init__(self, rows: Sequence[Sequence[tuple[Word, ...]]]) -> None:
        self._rows = rows
        self.channels: list[FloatArray | None] = []
        self.reset()

    def reset(self) -> None:
        """See `Recogniser`."""
        self._clock = 0
        self._decided = 0
        self._said = [[0] * len(row) for row in self._rows]  # by voice and utterance: words committed

    def step(self, pcm: FloatArray, channels: FloatArray | None = None) -> list[Recognition]:
        """See `Recogniser`."""
        self.channels.append(channels)
        self._clock += len(pcm)
        results: list[Recognition] = []
        while self._decided + DECIDE_EVERY_SAMPLES <= self._clock:
            self._decided += DECIDE_EVERY_SAMPLES
            results += self._decide(self._decided, self._decided - HOLD_SAMPLES)
        return results

    def flush(self) -> list[Recognition]:
        """See `Recogniser`."""
        return self._decide(self._clock, self._clock)

    def _decide(self, now: int, settled: int) -> list[Recognition]:
        results: list[Recognition] = []
        for voice, row in enumerate(self._rows):
            for number, words in enumerate(row):
                before = self._said[voice][number]
                new = tuple(word for word in words[before:] if word.end_sample <= settled)
                tail = tuple(word for word in words[before + len(new) :] if word.end_sample <= now)
                self._said[voice][number] += len(new)
                if new or tail:
                    ended = before + len(new) == len(words)
                    results.append(Recognition(now, new, tail, ended, voice))
        return results


class Louder:
    """A `Reader` that reads the scripted words in capitals; it knows the audio again, so it finds its place."""

    def __init__(self) -> None:
        front = FrontEnd(4, "array")
        parts = [part.pcm for out in (front.step(meeting()), front.flush()) for part in out.lanes]
        self._mix = np.concatenate(parts)

    def __call__(self, samples: FloatArray) -> tuple[Word, ...]:
        """See `Reader`."""
        places = np.flatnonzero(self._mix[: -len(samples) + 1] == samples[0])
        begin = next(at for at in places.tolist() if np.array_equal(self._mix[at : at + len(samples)], samples))
        inside = [
            word
            for _, words in utterances()
            for word in words
            if word.start_sample >= begin and word.end_sample <= begin + len(samples)
        ]
        return tuple(Word(w.text.upper(), w.start_sample - begin, w.end_sample - begin, 0.9) for w in inside)


def models(polish: Reader | None = None) -> Models:
    """The real graphs behind the script."""
    heard = real.models()
    return Models(lambda: Scripted(voices()), heard.segment, heard.embed, polish)


@contextmanager
def serving(chosen: Models) -> Iterator[str]:
    """The server's own application on a free loopback port, in this process; its URL."""
    with pytest.MonkeyPatch.context() as patch, socket.create_server(("127.0.0.1", 0)) as listener:
        patch.setattr("server.app.load_systems", lambda _: dict.fromkeys(SYSTEMS, chosen))
        config = uvicorn.Config(
            create_app(Settings(worker_threads=1)), log_config=None, log_level="warning", ws="websockets-sansio"
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), name="server")
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
