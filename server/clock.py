"""Meeting time: the only converter between samples and milliseconds. Integers throughout, so nothing drifts."""

from __future__ import annotations

MODEL_RATE_HZ = 16_000
"""Rate of all audio after `ingest/align.py`."""


def samples_to_ms(samples: int, rate_hz: int = MODEL_RATE_HZ) -> int:
    """Whole milliseconds, rounded down."""
    return samples * 1000 // rate_hz


def ms_to_samples(duration_ms: int, rate_hz: int = MODEL_RATE_HZ) -> int:
    """Samples, rounded down."""
    return duration_ms * rate_hz // 1000
