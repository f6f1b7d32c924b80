"""What Prometheus is told."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """One process's counters, in a registry of their own so that several apps can live in one test process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.sessions = Gauge("crosstalk_sessions_live", "Sessions that take audio", registry=self.registry)
        self.viewers = Gauge("crosstalk_viewers", "Viewers connected", registry=self.registry)
        self.refused = Counter("crosstalk_refused_total", "Connections refused", ["code"], registry=self.registry)
        self.audio_s = Counter("crosstalk_audio_seconds_total", "Audio taken in", registry=self.registry)
        self.gap_s = Counter("crosstalk_gap_seconds_total", "Audio that never came", registry=self.registry)
        self.words = Counter("crosstalk_words_total", "Final words", registry=self.registry)
        self.slice_s = Histogram(
            "crosstalk_slice_compute_seconds",
            "Compute for one slice (at most 0.32 s) of one session's audio",
            registry=self.registry,
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2),
        )
        self.backlog_s = Histogram(
            "crosstalk_backlog_seconds",
            "Audio of a session that waits when one of its slices begins",
            registry=self.registry,
            buckets=(0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4),
        )

    def render(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
