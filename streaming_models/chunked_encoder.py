"""Audio as it comes -> the streaming encoder's frames, chunk by chunk on a fixed grid of the lane's sample clock.

Each chunk is encoded once. The encoder sleeps where nobody speaks: it then forgets its state, and wakes from the zero
state at the start of the chunk in which it is needed again. When to sleep is its owner's decision.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from streaming_models.contract import CHUNK_INPUT_SAMPLES, CHUNK_SAMPLES, FRAME_SAMPLES, LOOKAHEAD_SAMPLES, start_state
from streaming_models.endpoint import VAD_FRAME_SAMPLES

FloatArray = NDArray[np.float32]
State: TypeAlias = Mapping[str, NDArray[Any]]
"""What a stream carries from chunk to chunk, as `streaming_models.contract.STATE` names it."""


class StreamingEncoder(Protocol):
    """The encoder's graph. Implementations may be called from several threads and leave given states as they are."""

    def encode_chunk(self, mix: FloatArray, channels: FloatArray, state: State) -> tuple[FloatArray, FloatArray, State]:
        """One chunk of one stream.

        Args:
            mix: (CHUNK_INPUT_SAMPLES,) float32 at 16 kHz.
            channels: (C, CHUNK_INPUT_SAMPLES), in time with the mix.
            state: after the chunk before, or `start_state(1)`.

        Returns:
            Frames (CHUNK_FRAMES, D) as the decoder takes them, activity (CHUNK_FRAMES, 2): probabilities that at least
            one and at least two people talk; and the state after the chunk.
        """


@dataclass(frozen=True, eq=False)
class Encoded:
    """Frames in a row: hidden (T, D), activity (T, 2), the first one's first sample."""

    start_sample: int
    hidden: FloatArray
    activity: FloatArray

    @property
    def end_sample(self) -> int:
        """The sample after the last frame's own."""
        return self.start_sample + len(self.hidden) * FRAME_SAMPLES

    def since(self, sample: int) -> Encoded:
        """Without the frames before the one that holds this sample."""
        first = max(0, sample // FRAME_SAMPLES - self.start_sample // FRAME_SAMPLES)
        start = self.start_sample + min(first, len(self.hidden)) * FRAME_SAMPLES
        return Encoded(start, self.hidden[first:], self.activity[first:])

    def then(self, later: Encoded) -> Encoded:
        """Both in a row; a gap between them is our own bug."""
        if not len(self.hidden):
            return later
        if not len(later.hidden):
            return self
        assert later.start_sample == self.end_sample, f"frames from {later.start_sample} after {self.end_sample}"
        hidden = np.concatenate((self.hidden, later.hidden))
        return Encoded(self.start_sample, hidden, np.concatenate((self.activity, later.activity)))


NOTHING = Encoded(0, np.zeros((0, 0), np.float32), np.zeros((0, 2), np.float32))
"""No frames: what `then` begins with."""


START: State = start_state(1)
"""Before the first sample."""


class ChunkedEncoder:
    """One stream's encoder: audio in by `feed`, frames out by `step`."""

    def __init__(self, graph: StreamingEncoder) -> None:
        self._graph = graph
        self.reset()

    def reset(self) -> None:
        """Asleep at sample 0."""
        self.clock = 0  # samples fed
        self.awake = False
        self._state: State = START
        self._next = 0  # number of the first chunk that is not encoded
        self._blocks: deque[FloatArray] = deque()  # (1 + C, VAD_FRAME_SAMPLES): the mix, then the channels
        self._first = 0  # sample at which they begin

    @property
    def due(self) -> bool:
        """Whether a whole chunk waits to be encoded."""
        return self.clock >= (self._next + 1) * CHUNK_SAMPLES + LOOKAHEAD_SAMPLES

    def feed(self, block: FloatArray) -> None:
        """(1 + C, VAD_FRAME_SAMPLES): the mix, then the channels."""
        self._blocks.append(block)
        self.clock += VAD_FRAME_SAMPLES

    def sleep(self, keep_from_sample: int) -> None:
        """Forget the state, and the audio of chunks that end before this sample."""
        self.awake, self._state = False, START
        self._next = max(self._next, keep_from_sample // CHUNK_SAMPLES)
        self._drop()

    def wake(self) -> None:
        """Begin a stream at the first chunk kept; encoding goes on by `step`. Nothing if awake."""
        self.awake = True

    def step(self) -> Encoded:
        """Encode the chunks that are due."""
        assert self.awake, "asleep: audio may be missing"
        frames = NOTHING
        while self.due:
            hidden, activity, self._state = self._encode()
            frames = frames.then(Encoded(self._next * CHUNK_SAMPLES, hidden, activity))
            self._next += 1
            self._drop()
        return frames

    def peek(self) -> Encoded:
        """The frames of the chunk that is still coming in, as if silence followed: not kept, and no state advances."""
        assert self.awake, "asleep: audio may be missing"
        hidden, activity, _ = self._encode()
        start = self._next * CHUNK_SAMPLES
        heard = -(-(self.clock - start) // FRAME_SAMPLES)
        return Encoded(start, hidden[:heard], activity[:heard])

    def _encode(self) -> tuple[FloatArray, FloatArray, State]:
        start = self._next * CHUNK_SAMPLES - self._first
        count = -(-(start + CHUNK_INPUT_SAMPLES) // VAD_FRAME_SAMPLES)
        audio = np.concatenate(list(islice(self._blocks, count)), axis=1)[:, start : start + CHUNK_INPUT_SAMPLES]
        if missing := CHUNK_INPUT_SAMPLES - audio.shape[1]:
            audio = np.pad(audio, ((0, 0), (0, missing)))
        return self._graph.encode_chunk(audio[0], audio[1:], self._state)

    def _drop(self) -> None:
        while self._blocks and self._first + VAD_FRAME_SAMPLES <= self._next * CHUNK_SAMPLES:
            self._blocks.popleft()
            self._first += VAD_FRAME_SAMPLES
