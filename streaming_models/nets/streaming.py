"""What a streaming encoder is to its callers: two ways to run it, and the numbers needed to cut audio for it.

A protocol only. `nets.encoder.Encoder` and `nets.zipformer.Zipformer` satisfy it; neither inherits from it.
"""

from __future__ import annotations

from typing import ClassVar, Protocol, TypeVar

from torch import Tensor

State = TypeVar("State")
"""What a stream carries from chunk to chunk; each encoder has its own dataclass."""


class StreamingEncoder(Protocol[State]):
    """Waveform to frames. `forward` is the masked whole (training), `step` one chunk with explicit state (live)."""

    FRAME_SAMPLES: ClassVar[int]
    """Samples at 16 kHz from one frame to the next."""
    LOOKAHEAD_SAMPLES: ClassVar[int]
    """Samples that a chunk needs after its own; they are fed again as the first of the next chunk."""
    width: int
    """Of the frames that come out (D)."""
    added_width: int
    """Of what may be added to the first layer's input (E)."""

    def start(self, streams: int, left_frames: int) -> State:
        """The state of B streams before their first sample: all zeros.

        Args:
            streams: B.
            left_frames: frames before a chunk that its frames see, in every layer.
        """
        ...

    def forward(self, samples: Tensor, chunk_frames: int, left_frames: int, added: Tensor | None = None) -> Tensor:
        """What `step` gives chunk by chunk, at once.

        Args:
            samples: (B, K * chunk_frames * FRAME_SAMPLES + LOOKAHEAD_SAMPLES) float32 in [-1, 1] at 16 kHz.
            chunk_frames: frames a chunk (M).
            left_frames: as in `start`.
            added: (B, K * chunk_frames, E) put on the input of the first layer (the spatial embedding).

        Returns:
            (B, K * chunk_frames, D).

        Raises:
            ValueError: not a whole number of chunks, or sizes that the encoder cannot run.
        """
        ...

    def step(self, samples: Tensor, state: State, added: Tensor | None = None) -> tuple[Tensor, State]:
        """One chunk: (B, M * FRAME_SAMPLES + LOOKAHEAD_SAMPLES) -> (B, M, D) and the state after it.

        Args:
            samples: as in `forward`, of one chunk.
            state: of `start` or of the step before.
            added: (B, M, E).
        """
        ...
